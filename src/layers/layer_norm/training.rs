//! Training of a layer norm.

use ndarray::{Array2, Array3, ArrayRef3, ArrayView2, ArrayViewMut2, Axis, s};

use super::LayerNorm;
use crate::buffer_pool::Buffers;
use crate::config::check_alike;
use crate::error::Result;
use crate::layers::{TILE, check_gradient, contiguous, for_each_tile, rows};
use crate::ops::{LongSum, add_widened, layer_norm_backward_rows};
use crate::parallel;
use crate::scalar::Scalar;

/// Rows whose gradients of weight and bias one task sums up.
const GRADIENT_ROWS: usize = 512;
/// Rows of these that are summed in the element type.
const CHAIN_ROWS: usize = 32;

/// The state that the backward pass of a [`LayerNorm`] needs: its input.
#[derive(Clone, Debug)]
pub struct LayerNormCache<A = f32> {
    x: Array3<A>,
}

impl<A: Scalar> LayerNorm<A> {
    /// Runs [`forward`](Self::forward); returns the output and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error if `x` has another width than the layer.
    pub fn forward_train(&self, x: &ArrayRef3<A>) -> Result<(Array3<A>, LayerNormCache<A>)> {
        let y = self.forward(x)?;
        let x = x.as_standard_layout().into_owned();
        Ok((y, LayerNormCache { x }))
    }

    /// Returns the gradient of x, given `dy` of y, both (batch, length, dim). Those of weight and bias are added to `gradients`, a value like the
    /// layer's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// ```
    /// use linformer::ndarray::array;
    /// use linformer::{LayerNorm, Parameters};
    ///
    /// let norm = LayerNorm::<f64>::new(2, 0.0)?;
    /// let mut gradients = norm.zeros_like();
    /// let (y, cache) = norm.forward_train(&array![[[1.0, 3.0]]])?;
    /// assert_eq!(y, array![[[-1.0, 1.0]]]);
    ///
    /// // Two numbers are normalized to -1 and 1 wherever they are: the gradient of x is 0.
    /// let dx = norm.backward(cache, array![[[5.0, 7.0]]], &mut gradients)?;
    /// assert_eq!(dx, array![[[0.0, 0.0]]]);
    /// assert_eq!(gradients.weight(), array![-5.0, 7.0]);
    /// assert_eq!(gradients.bias(), array![5.0, 7.0]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of y, or the cache or the gradients are of a layer of another width. The gradients are then as
    /// they were.
    pub fn backward(&self, cache: LayerNormCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "LayerNorm::backward";
        let (width, cached, own) = (self.weight.len(), cache.x.dim().2, gradients.weight.len());
        check_alike(OPERATION, &width, &cached, &own)?;
        check_gradient(OPERATION, &dy, cache.x.dim())?;
        let mut dy = contiguous(dy);
        self.backward_in_place(&cache.x, &mut dy, gradients);
        Ok(dy)
    }

    /// [`forward`](Self::forward) in memory of `buffers`.
    pub(crate) fn forward_in(&self, buffers: Buffers<'_, A>, x: &Array3<A>) -> Array3<A> {
        let mut normed = buffers.array3(x.dim());
        let cost = parallel::cost(&[x.len(), 4]);
        for_each_tile(normed.view_mut(), TILE, cost, |item, range, mut rows| {
            self.apply(x.slice(s![item, range, ..]), &mut rows);
        });
        normed
    }

    /// Replaces `dy`, the gradient of the output, by that of `x`; adds those of weight and bias to `gradients`. Both are contiguous.
    pub(crate) fn backward_in_place(&self, x: &Array3<A>, dy: &mut Array3<A>, gradients: &mut Self) {
        let (batch, length, dim) = x.dim();
        let mut dy = dy
            .view_mut()
            .into_shape_with_order((batch * length, dim))
            .expect("training keeps its sequences contiguous");
        self.backward_rows(rows(x), &mut dy, gradients);
    }

    /// Replaces `dy`, the gradient of the normalized rows, by that of `x`; adds those of weight and bias to `gradients`.
    ///
    /// Both are (rows, dim) and contiguous. Weights' gradients are summed chain by chain, and block by block, then the blocks in order.
    pub(crate) fn backward_rows(&self, x: ArrayView2<'_, A>, dy: &mut ArrayViewMut2<'_, A>, gradients: &mut Self) {
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
}
