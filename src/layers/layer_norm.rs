//! Layer normalisation.

use ndarray::{Array1, Array2, Array3, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut2, Axis, s};

use super::{check_width, map_tiles, tile_rows};
use crate::config::{at_least_one, check_eps};
use crate::error::{Result, checked_len};
use crate::ops::{LongSum, add_widened, layer_norm_backward_rows, layer_norm_rows};
use crate::parallel::{self, Parts, for_each_part};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Rows whose gradients of weight and bias one task sums up.
const GRADIENT_ROWS: usize = 512;
/// Rows of these that are summed in the element type.
const CHAIN_ROWS: usize = 32;

/// (x − mean) / √(variance + eps) · weight + bias over the last axis (Ba et al., arXiv 1607.06450); the variance is the biased one.
///
/// Rows of any magnitude are normalized, those too whose squares leave the range of `A`. A constant row gives the bias, even with an `eps` of 0,
/// where its gradient is 0.
///
/// ```
/// use linformer::LayerNorm;
/// use linformer::ndarray::array;
///
/// let norm = LayerNorm::<f64>::new(2, 0.0)?;
/// assert_eq!(norm.forward(&array![[[1.0, 3.0]]])?, array![[[-1.0, 1.0]]]);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LayerNorm<A = f32> {
    weight: Array1<A>,
    bias: Array1<A>,
    eps: f64,
}

parameters!(LayerNorm { weight, bias });

impl<A: Scalar> LayerNorm<A> {
    /// Weight 1 and bias 0.
    ///
    /// # Errors
    /// Returns an error for a width of 0 or of more than memory can address, and for an `eps` that is negative, not finite, or neither 0 nor at
    /// least the smallest normal number of `A`.
    pub fn new(dim: usize, eps: f64) -> Result<Self> {
        at_least_one("dim", dim)?;
        checked_len("LayerNorm", &[dim], size_of::<A>())?;
        check_eps::<A>(eps)?;
        Ok(Self::start(dim, eps))
    }

    pub(crate) fn start(dim: usize, eps: f64) -> Self {
        Self {
            weight: Array1::ones(dim),
            bias: Array1::zeros(dim),
            eps,
        }
    }

    /// The weight, of shape (dim).
    pub fn weight(&self) -> ArrayView1<'_, A> {
        self.weight.view()
    }

    /// The bias, of shape (dim).
    pub fn bias(&self) -> ArrayView1<'_, A> {
        self.bias.view()
    }

    /// What is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// (batch, length, dim) → the same shape.
    ///
    /// # Errors
    /// Another width.
    pub fn forward(&self, x: &ArrayRef3<A>) -> Result<Array3<A>> {
        check_width("LayerNorm::forward", "x", x, self.weight.len())?;
        map_tiles(
            "LayerNorm::forward",
            x,
            self.weight.len(),
            4 * self.weight.len(),
            |(): &mut (), _, x, mut out| self.apply(x, &mut out),
        )
    }

    /// Replaces `dy`, the gradient of the normalised rows, by that of `x`; adds those of weight and bias to `gradients`.
    ///
    /// Both are (rows, dim) and contiguous. Weights' gradients are summed chain by chain, and block by block, then the blocks in order.
    pub(crate) fn backward(&self, x: ArrayView2<'_, A>, dy: &mut ArrayViewMut2<'_, A>, gradients: &mut Self) {
        let dim = self.weight.len();
        let blocks = x.nrows().div_ceil(GRADIENT_ROWS);
        let mut sums = Array2::<f64>::zeros((blocks, 2 * dim));
        let tasks = dy
            .axis_chunks_iter_mut(Axis(0), GRADIENT_ROWS)
            .zip(sums.outer_iter_mut())
            .enumerate()
            .collect();
        let cost = parallel::cost(&[x.len(), 8]);
        parallel::for_each_with(tasks, cost, |chain: &mut Vec<A>, (block, (mut dy, mut sums))| {
            let first = block * GRADIENT_ROWS;
            let x = x.slice(s![first..first + dy.nrows(), ..]);
            let parts = (x.as_slice(), self.weight.as_slice(), dy.as_slice_mut(), sums.as_slice_mut());
            let (Some(x), Some(weight), Some(dy), Some(sums)) = parts else {
                unreachable!("training keeps its rows contiguous");
            };
            for (x, dy) in x.chunks(CHAIN_ROWS * dim).zip(dy.chunks_mut(CHAIN_ROWS * dim)) {
                chain.clear();
                chain.resize(2 * dim, A::zero());
                let (for_weight, for_bias) = chain.split_at_mut(dim);
                layer_norm_backward_rows(x, weight, A::cast(self.eps), dy, for_weight, for_bias);
                add_widened(sums, chain);
            }
        });
        let (mut for_weight, mut for_bias) = (LongSum::zeros(dim), LongSum::zeros(dim));
        for_weight.add_rows(sums.slice(s![.., ..dim]));
        for_bias.add_rows(sums.slice(s![.., dim..]));
        for_weight.add_to(gradients.weight.view_mut());
        for_bias.add_to(gradients.bias.view_mut());
    }

    /// Fills `out`, whose rows must be contiguous, from the rows of `x`.
    pub(crate) fn apply(&self, x: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>) {
        out.assign(&x);
        self.apply_in_place(out);
    }

    /// Normalises the rows of a whole sequence in place, spread over threads.
    pub(crate) fn apply_spread(&self, rows: ArrayViewMut2<'_, A>) {
        let cost = parallel::cost(&[rows.len(), 4]);
        let parts = Parts {
            size: tile_rows(rows.nrows()),
            view: rows,
            axis: 0,
        };
        for_each_part(parts, cost, |_, mut part| self.apply_in_place(&mut part.view));
    }

    /// Normalises contiguous rows in place.
    pub(crate) fn apply_in_place(&self, rows: &mut ArrayViewMut2<'_, A>) {
        let (Some(weight), Some(bias)) = (self.weight.as_slice(), self.bias.as_slice()) else {
            unreachable!("weight and bias are made contiguous by every constructor");
        };
        if let Some(rows) = rows.as_slice_mut() {
            return layer_norm_rows(rows, weight, bias, A::cast(self.eps));
        }
        for mut row in rows.rows_mut() {
            if let Some(row) = row.as_slice_mut() {
                layer_norm_rows(row, weight, bias, A::cast(self.eps));
            } else {
                let mut copy = row.to_vec();
                layer_norm_rows(&mut copy, weight, bias, A::cast(self.eps));
                row.assign(&ArrayView1::from(&copy));
            }
        }
    }
}
