//! The kinds that act on keys and values themselves: max pooling and convolutions over channels.

use ndarray::{Array2, Array4, ArrayView2, ArrayView3, s};

use super::super::super::projection::ProjectionWeights;
use super::super::accumulate::Windows;
use super::super::rows::{RealRows, copied, matrix_of};
use super::super::{BiasPlace, Compressor};
use super::CompressionGradients;
use crate::config::ConvolutionKernel;
use crate::ops::{LongSum, StagedSum, gemm};
use crate::scalar::Scalar;

impl<A: Scalar> Compressor<'_, A> {
    /// Head by head: the features X·Wᵀ + b are recomputed, their gradients collected from the slots, and led back through W.
    ///
    /// These kinds are rare and small, so it runs on one thread.
    pub(super) fn features_backward(
        &self,
        x: ArrayView3<'_, A>,
        rows: &[RealRows<'_>],
        windows: &[Windows],
        grads: [&Array4<A>; 2],
        gradients: &mut CompressionGradients<'_, A>,
    ) {
        let before = self.config.bias_place == BiasPlace::BeforeCompression;
        let mut copy = Vec::new();
        for (is_value, grad) in [false, true].into_iter().zip(grads) {
            let (projection, linear) = self.sources(usize::from(is_value));
            let mut dkernel = projection.kernel_sums();
            for head in 0..grad.dim().1 {
                let (mut dbias, mut staged) = (LongSum::zeros(grad.dim().3), StagedSum::default());
                let features_of = self.key_value_features(head);
                let weight = linear.weight().slice_move(s![features_of.clone(), ..]);
                let bias = linear
                    .bias()
                    .filter(|_| before)
                    .map(|bias| bias.slice_move(s![features_of.clone()]));
                for item in 0..self.batch {
                    let real = rows[item].end;
                    // Rows that are not real are zeros from here on.
                    let x = matrix_of(copied(x.slice(s![item, ..real, ..]), 0, &rows[item], &mut copy));
                    let mut features = Array2::zeros((x.nrows(), weight.nrows()));
                    gemm(A::one(), x, weight.t(), A::zero(), &mut features.view_mut());
                    if let Some(bias) = &bias {
                        for (_, mut row) in features.outer_iter_mut().enumerate().filter(|&(row, _)| rows[item].is_real(row)) {
                            row += bias;
                        }
                    }
                    let grad = grad.slice(s![item, head, .., ..]);
                    let dfeatures = self.slots_backward(
                        is_value,
                        head,
                        item,
                        features.view(),
                        grad,
                        &rows[item],
                        windows[item],
                        &mut dkernel,
                    );
                    dbias.add_rows(dfeatures.view());
                    let mut dweight = gradients.weights.source_mut(is_value).weight_mut();
                    let mut dweight = dweight.slice_mut(s![features_of.clone(), ..]);
                    gemm(A::one(), dfeatures.t(), x, A::one(), &mut dweight);
                    staged.added(dweight.as_slice_mut().expect("rows of a weight are contiguous"));
                    let mut dx = gradients.x.slice_mut(s![item, ..real, ..]);
                    gemm(A::one(), dfeatures.view(), weight, A::one(), &mut dx);
                }
                let own = gradients.weights.source_mut(is_value);
                let mut dweight = own.weight_mut();
                let mut dweight = dweight.slice_mut(s![features_of.clone(), ..]);
                staged.finish(dweight.as_slice_mut().expect("rows of a weight are contiguous"));
                if let (Some(mut own), Some(_)) = (own.bias_mut(), &bias) {
                    dbias.add_to(own.slice_mut(s![features_of]));
                }
            }
            gradients.projections.source_mut(is_value).add_kernel_sums(dkernel);
        }
    }

    /// The gradients of one item's features (rows, `head_dim`) in one head; the kernel's are added to `dkernel`.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    fn slots_backward(
        &self,
        is_value: bool,
        head: usize,
        item: usize,
        features: ArrayView2<'_, A>,
        grad: ArrayView2<'_, A>,
        rows: &RealRows<'_>,
        windows: Windows,
        dkernel: &mut Option<Array4<f64>>,
    ) -> Array2<A> {
        let mut dfeatures = Array2::zeros(features.dim());
        let (projection, _) = self.sources(usize::from(is_value));
        let real = || (0..features.nrows()).filter(|&row| rows.is_real(row));
        let (ProjectionWeights::Convolution { kernel, shape }, Some(dkernel)) = (&projection.weights, dkernel) else {
            first_maxima(
                features,
                grad,
                real().map(|row| (row, windows.slot(self.next + row))),
                &mut dfeatures,
            );
            return dfeatures;
        };
        let matrix = head.min(kernel.dim().0 - 1);
        let complete = self.complete_windows(item);
        for (row, slot) in real()
            .map(|row| (row, windows.slot(self.next + row)))
            .filter(|&(_, slot)| slot < complete)
        {
            let offset = windows.offset(self.next + row);
            let (f, g) = (features.row(row), grad.row(slot));
            let mut df = dfeatures.row_mut(row);
            if *shape == ConvolutionKernel::ChannelMixing {
                df += &g.dot(&kernel.slice(s![matrix, .., .., offset]));
                for (out, &g) in g.iter().enumerate() {
                    let mut dkernel = dkernel.slice_mut(s![matrix, out, .., offset]);
                    dkernel.zip_mut_with(&f, |sum, f| *sum += g.widen() * f.widen());
                }
            } else {
                for (channel, &g) in g.iter().enumerate() {
                    df[channel] += g * kernel[[matrix, channel, 0, offset]];
                    dkernel[[matrix, channel, 0, offset]] += g.widen() * f[channel].widen();
                }
            }
        }
        dfeatures
    }
}

/// The first maximum of each slot and feature takes the gradient.
fn first_maxima<A: Scalar>(
    features: ArrayView2<'_, A>,
    grad: ArrayView2<'_, A>,
    places: impl Iterator<Item = (usize, usize)>,
    dfeatures: &mut Array2<A>,
) {
    let mut best = Array2::from_elem(grad.dim(), None::<usize>);
    for (row, slot) in places {
        for (feature, best) in best.row_mut(slot).iter_mut().enumerate() {
            let value = features[[row, feature]];
            if best.is_none_or(|best| value > features[[best, feature]]) {
                *best = Some(row);
            }
        }
    }
    for ((slot, feature), best) in best.indexed_iter() {
        if let Some(row) = best {
            dfeatures[[*row, feature]] += grad[[slot, feature]];
        }
    }
}
