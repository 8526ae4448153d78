//! Layer normalization.

mod training;

pub use training::LayerNormCache;

use ndarray::{Array1, Array3, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2};

use super::{check_width, map_tiles, tile_rows};
use crate::config::{at_least_one, check_eps};
use crate::error::{Result, checked_len};
use crate::ops::layer_norm_rows;
use crate::parallel::{self, Parts, for_each_part};
use crate::parameters::parameters;
use crate::scalar::Scalar;

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
    /// Makes a layer of weight 1 and bias 0.
    ///
    /// # Errors
    /// Returns an error if `dim` is 0 or more than memory can address, or `eps` is negative, not finite, or neither 0 nor at
    /// least the smallest normal number of `A`.
    pub fn new(dim: usize, eps: f64) -> Result<Self> {
        at_least_one("dim", dim)?;
        checked_len("LayerNorm", &[dim], size_of::<A>())?;
        check_eps::<A>(eps)?;
        Ok(Self::init(dim, eps))
    }

    pub(crate) fn init(dim: usize, eps: f64) -> Self {
        Self {
            weight: Array1::ones(dim),
            bias: Array1::zeros(dim),
            eps,
        }
    }

    /// Returns the weight, of shape (dim).
    pub fn weight(&self) -> ArrayView1<'_, A> {
        self.weight.view()
    }

    /// Returns the bias, of shape (dim).
    pub fn bias(&self) -> ArrayView1<'_, A> {
        self.bias.view()
    }

    /// Returns the weight, of shape (dim), to be written.
    pub fn weight_mut(&mut self) -> ArrayViewMut1<'_, A> {
        self.weight.view_mut()
    }

    /// Returns the bias, of shape (dim), to be written.
    pub fn bias_mut(&mut self) -> ArrayViewMut1<'_, A> {
        self.bias.view_mut()
    }

    /// Returns the number that is added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// Normalizes each row: (batch, length, dim) → the same shape.
    ///
    /// # Errors
    /// Returns an error if `x` has another width than the layer.
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

    /// Fills `out`, whose rows must be contiguous, from the rows of `x`.
    pub(crate) fn apply(&self, x: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>) {
        out.assign(&x);
        self.apply_in_place(out);
    }

    /// Normalizes the rows of a whole sequence in place, spread over threads.
    pub(crate) fn apply_spread(&self, rows: ArrayViewMut2<'_, A>) {
        let cost = parallel::cost(&[rows.len(), 4]);
        let parts = Parts {
            size: tile_rows(rows.nrows()),
            view: rows,
            axis: 0,
        };
        for_each_part(parts, cost, |_, mut part| self.apply_in_place(&mut part.view));
    }

    /// Normalizes contiguous rows in place.
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
