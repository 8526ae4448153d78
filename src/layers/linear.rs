//! y = x·Wᵀ + b.

use ndarray::{Array1, Array2, Array3, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::{TILE, check_width, map_tiles};
use crate::config::at_least_one;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::ops::{add_bias, gemm};
use crate::parallel;
use crate::parameters::parameters;
use crate::scalar::Scalar;
use crate::views::split;

/// Rows of W whose gradient one task sums up.
const GRADIENT_ROWS: usize = 128;

/// y = x·Wᵀ + b, with W stored as PyTorch stores it: (out, in).
///
/// ```
/// use linformer::Linear;
/// use linformer::ndarray::array;
///
/// let layer = Linear::from_parts(array![[1.0, 2.0], [0.0, -1.0]], Some(array![0.5, 0.0]))?;
/// assert_eq!(layer.forward(&array![[[1.0, 1.0]]])?, array![[[3.5, -1.0]]]);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Linear<A = f32> {
    weight: Array2<A>,
    bias: Option<Array1<A>>,
}

parameters!(Linear { weight, bias });

impl<A: Scalar> Linear<A> {
    /// A layer from `in_dim` to `out_dim` features whose numbers are uniform in ±1/√`in_dim`, as PyTorch draws them.
    ///
    /// # Errors
    /// A width of 0, or sizes that overflow.
    pub fn new(in_dim: usize, out_dim: usize, bias: bool, seed: u64) -> Result<Self> {
        at_least_one("in_dim", in_dim)?;
        at_least_one("out_dim", out_dim)?;
        checked_len("Linear", &[in_dim, out_dim], size_of::<A>())?;
        Ok(Self::draw(in_dim, out_dim, bias, &mut Streams::new(seed)))
    }

    pub(crate) fn draw(in_dim: usize, out_dim: usize, bias: bool, streams: &mut Streams) -> Self {
        let limit = 1.0 / (in_dim as f64).sqrt();
        Self {
            weight: streams.uniform((out_dim, in_dim), limit),
            bias: bias.then(|| streams.uniform(out_dim, limit)),
        }
    }

    /// A layer of a given weight (out, in) and bias (out).
    ///
    /// # Errors
    /// A bias of another length than the weight has rows.
    pub fn from_parts(weight: Array2<A>, bias: Option<Array1<A>>) -> Result<Self> {
        if let Some(bias) = &bias
            && bias.len() != weight.nrows()
        {
            return Err(Error::shape(
                "Linear::from_parts",
                "bias",
                format!("({})", weight.nrows()),
                bias.shape(),
            ));
        }
        Ok(Self { weight, bias })
    }

    /// W, of shape (out, in).
    pub fn weight(&self) -> ArrayView2<'_, A> {
        self.weight.view()
    }

    /// b, of shape (out), if there is one.
    pub fn bias(&self) -> Option<ArrayView1<'_, A>> {
        self.bias.as_ref().map(|bias| bias.view())
    }

    pub(crate) fn weight_mut(&mut self) -> ArrayViewMut2<'_, A> {
        self.weight.view_mut()
    }

    pub(crate) fn bias_mut(&mut self) -> Option<&mut Array1<A>> {
        self.bias.as_mut()
    }

    /// Input features.
    pub fn in_dim(&self) -> usize {
        self.weight.ncols()
    }

    /// Output features.
    pub fn out_dim(&self) -> usize {
        self.weight.nrows()
    }

    /// (batch, length, in) → (batch, length, out).
    ///
    /// # Errors
    /// Another width than `in_dim`.
    pub fn forward(&self, x: &ArrayRef3<A>) -> Result<Array3<A>> {
        check_width("Linear::forward", "x", x, self.in_dim())?;
        map_tiles(
            "Linear::forward",
            x,
            self.out_dim(),
            self.weight.len(),
            || (),
            |(), _, x, mut out| self.apply(x, &mut out),
        )
    }

    /// y of the rows of `x`, spread over threads.
    pub(crate) fn forward_rows(&self, x: ArrayView2<'_, A>) -> Array2<A> {
        let mut y = Array2::zeros((x.nrows(), self.out_dim()));
        let cost = parallel::cost(&[x.nrows(), self.weight.len()]);
        let tasks = split(y.view_mut(), Axis(0), TILE).into_iter().enumerate().collect();
        parallel::for_each(tasks, cost, |(tile, mut y)| {
            let first = tile * TILE;
            self.apply(x.slice(s![first..first + y.nrows(), ..]), &mut y);
        });
        y
    }

    /// The gradient of x, given that of y: dx = dy·W. Those of W and b are added to `gradients`: W += dyᵀ·x, b += Σ dy.
    ///
    /// `x` is (rows, in), `dy` (rows, out).
    pub(crate) fn backward(&self, x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>, gradients: &mut Self) -> Array2<A> {
        weight_gradient(x, dy, gradients.weight.view_mut());
        if let Some(bias) = &mut gradients.bias {
            for dy in dy.rows() {
                *bias += &dy;
            }
        }
        let mut dx = Array2::zeros((dy.nrows(), self.in_dim()));
        input_gradient(dy, self.weight.view(), A::zero(), &mut dx.view_mut());
        dx
    }

    /// Fills `out` from the rows of `x`.
    pub(crate) fn apply(&self, x: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>) {
        gemm(A::one(), x, self.weight.t(), A::zero(), out);
        if let Some(bias) = &self.bias {
            add_bias(out, bias.view());
        }
    }
}

/// W += dyᵀ·x. A task has some rows of W and sums over all rows of x, so that no two have to be added up.
pub(crate) fn weight_gradient<A: Scalar>(x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>, weight: ArrayViewMut2<'_, A>) {
    let cost = parallel::cost(&[x.nrows(), weight.len()]);
    let tasks = split(weight, Axis(0), GRADIENT_ROWS).into_iter().enumerate().collect();
    parallel::for_each(tasks, cost, |(block, mut weight)| {
        let first = block * GRADIENT_ROWS;
        let dy = dy.slice(s![.., first..first + weight.nrows()]);
        gemm(A::one(), dy.t(), x, A::one(), &mut weight);
    });
}

/// dx ← dy·W + `beta`·dx.
pub(crate) fn input_gradient<A: Scalar>(dy: ArrayView2<'_, A>, weight: ArrayView2<'_, A>, beta: A, dx: &mut ArrayViewMut2<'_, A>) {
    let cost = parallel::cost(&[dy.nrows(), weight.len()]);
    let tasks = split(dx.view_mut(), Axis(0), TILE).into_iter().enumerate().collect();
    parallel::for_each(tasks, cost, |(tile, mut dx)| {
        let first = tile * TILE;
        gemm(A::one(), dy.slice(s![first..first + dx.nrows(), ..]), weight, beta, &mut dx);
    });
}
