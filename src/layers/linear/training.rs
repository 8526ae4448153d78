//! The gradients of a weight and its bias: sums over all rows.

use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2};

use super::Linear;
use crate::ops::{LongSum, add_long_product, add_product_to_long, add_rounded};
use crate::scalar::Scalar;

/// Gradients of a layer whose rows come group by group, in `f64`.
#[derive(Debug)]
pub(crate) struct LongGradients {
    weight: Array2<f64>,
    bias: LongSum,
}

impl LongGradients {
    pub(crate) fn zeros<A: Scalar>(layer: &Linear<A>) -> Self {
        Self {
            weight: Array2::zeros(layer.weight.dim()),
            bias: LongSum::zeros(layer.bias.as_ref().map_or(0, Array1::len)),
        }
    }
}

impl<A: Scalar> Linear<A> {
    /// Of gradients: W += dyᵀ·x, b += Σ dy.
    pub(crate) fn add_gradients(&mut self, x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>) {
        weight_gradient(x, dy, self.weight_mut());
        if let Some(bias) = &mut self.bias {
            bias_gradient(dy, bias);
        }
    }

    /// [`add_gradients`](Self::add_gradients) where more rows follow.
    pub(crate) fn add_long_gradients(x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>, gradients: &mut LongGradients) {
        add_product_to_long(dy, x, gradients.weight.view_mut());
        gradients.bias.add_rows_spread(dy);
    }

    /// Of gradients: adds what was summed.
    pub(crate) fn add_rounded(&mut self, sums: &LongGradients) {
        add_rounded(&sums.weight, self.weight_mut());
        if let Some(bias) = &mut self.bias {
            sums.bias.add_to(bias.view_mut());
        }
    }
}

/// b += Σ dy, some columns a task.
pub(crate) fn bias_gradient<A: Scalar>(dy: ArrayView2<'_, A>, bias: &mut Array1<A>) {
    let mut sums = LongSum::zeros(bias.len());
    sums.add_rows_spread(dy);
    sums.add_to(bias.view_mut());
}

/// W += dyᵀ·x, given contiguous rows of both.
pub(crate) fn weight_gradient<A: Scalar>(x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>, weight: ArrayViewMut2<'_, A>) {
    add_long_product(dy, x, weight);
}
