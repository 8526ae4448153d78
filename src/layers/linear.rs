//! y = x·Wᵀ + b.

use ndarray::{Array1, Array2, Array3, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut2};

use super::{check_width, map_tiles};
use crate::config::at_least_one;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::ops::{add_bias, gemm};
use crate::parameters::parameters;
use crate::scalar::Scalar;

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

    /// Fills `out` from the rows of `x`.
    pub(crate) fn apply(&self, x: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>) {
        gemm(A::one(), x, self.weight.t(), A::zero(), out);
        if let Some(bias) = &self.bias {
            add_bias(out, bias.view());
        }
    }
}
