//! The gradients of a compression: from those of K̄ and V̄ to those of the sequence, the weights and the projections.

use ndarray::{Array3, Array4, ArrayView1, ArrayView3, Axis, s};

use super::super::PaddingMask;
use super::super::compressed::Compressed;
use super::super::gradients::KeyValueGradients;
use super::super::projection::{Projection, ProjectionWeights, Projections};
use super::super::sequence_shard::SequenceShard;
use super::super::weights::AttentionWeights;
use super::accumulate::Windows;
use super::rows::RealRows;
use super::sums::PositionSums;
use super::totals::Totals;
use super::{BiasPlace, CompressionScratch, Compressor, Order, ProjectionKind};
use crate::config::LinformerConfig;
use crate::error::Result;
use crate::layers::Linear;
use crate::ops::{LongSum, StagedSum, gemm, long_sum};
use crate::parallel::{self, Parts, for_each_part};
use crate::parameters::Role;
use crate::scalar::Scalar;

mod dense;
mod features;
mod pooled;

use pooled::SlotGradients;

/// The values that training keeps of a compression, (batch, slots, dim) or less: the sums, and the ends of the sequences.
#[derive(Clone, Debug)]
pub(crate) struct CompressionCache<A> {
    totals: Totals<A>,
    /// Which maxima are this shard's, for each of the sums; `None` where the sequences are whole.
    owners: Option<Vec<Array4<bool>>>,
}

/// Where the gradients of a compression are added.
#[derive(Debug)]
pub(crate) struct CompressionGradients<'g, A> {
    pub(crate) weights: &'g mut AttentionWeights<A>,
    pub(crate) projections: &'g mut Projections<A>,
    /// The gradient of the sequence, (batch, n, dim).
    pub(crate) x: &'g mut Array3<A>,
}

/// The gradients of [`PositionSums`].
struct SumGradients<A> {
    values: Array4<A>,
    row_sums: Array3<A>,
}

impl<A: Scalar> Compressor<'_, A> {
    /// The order that training uses: the sums of the first are small and serve the backward pass.
    pub(crate) fn training_order(config: &LinformerConfig) -> Order {
        if config.projection.commutes() {
            Order::CompressFirst
        } else {
            Order::ProjectFirst
        }
    }

    /// [`finish`](Self::finish), and what the backward pass needs. Where this is a shard, the others complete it first.
    pub(crate) fn finish_train(mut self, shard: Option<&dyn SequenceShard<A>>) -> Result<(Compressed<A>, CompressionCache<A>)> {
        let owners = match shard {
            Some(shard) => self.complete(shard)?,
            None => None,
        };
        let mut compressed = Compressed::empty();
        self.finish_into(&mut compressed, &mut CompressionScratch::default())?;
        self.totals.sums.iter_mut().for_each(PositionSums::shrink);
        let cache = CompressionCache {
            totals: self.totals,
            owners,
        };
        Ok((compressed, cache))
    }

    /// A new compressor in the state that it had when it was finished.
    pub(crate) fn resumed(mut self, cache: CompressionCache<A>) -> Self {
        self.totals = cache.totals;
        self
    }

    /// Adds the gradients, given those of K̄ and V̄ (batch, heads, slots, `head_dim`) and of log-masses, 0 for slots that were not there.
    ///
    /// `x` is the whole sequence that was pushed, `mask` its mask. Where it is a shard, `own` are the gradients that come from the shard's
    /// queries, and `whole` those from all queries: what a shard adds for the weights of all positions is then added up over the shards, while
    /// the shard's rows and columns get their gradients from all queries. Otherwise both are the same.
    pub(crate) fn backward(
        &self,
        x: ArrayView3<'_, A>,
        mask: Option<&PaddingMask>,
        own: &KeyValueGradients<A>,
        whole: &KeyValueGradients<A>,
        gradients: &mut CompressionGradients<'_, A>,
    ) -> Result<()> {
        let rows = self.real_rows(x.dim().1, mask)?;
        if self.config.projection.pools_by_attention() {
            self.pooled_backward(x, &rows, SlotGradients { own, whole }, gradients);
            return Ok(());
        }
        let windows: Vec<Windows> = (0..self.batch).map(|item| self.windows(item)).collect();
        for (is_value, grad) in [(false, &own.keys), (true, &own.values)] {
            projection_bias_backward(grad, gradients.projections.source_mut(is_value));
            if self.config.bias_place == BiasPlace::AfterCompression {
                let linear = gradients.weights.source_mut(is_value);
                self.constant_bias_backward(grad, linear);
            }
        }
        if self.order == Order::ProjectFirst {
            self.features_backward(x, &rows, &windows, [&whole.keys, &whole.values], gradients);
            return Ok(());
        }
        let mut dsums: Vec<SumGradients<A>> = self.totals.sums.iter().map(SumGradients::zeros).collect();
        for (is_value, own, whole) in [(false, &own.keys, &whole.keys), (true, &own.values, &whole.values)] {
            let index = if is_value { self.totals.sums.len() - 1 } else { 0 };
            let linear = gradients.weights.source_mut(is_value);
            parallel::both(
                parallel::cost(&[own.len(), self.config.attention.dim]),
                || self.weights_backward(index, own, linear),
                || self.sums_backward(is_value, whole, &mut dsums[index]),
            );
        }
        for (index, dsums) in dsums.into_iter().enumerate() {
            self.inputs_backward(index, x, &rows, &windows, &dsums, gradients);
        }
        Ok(())
    }

    fn key_value_features(&self, head: usize) -> std::ops::Range<usize> {
        let head_dim = self.config.attention.effective_head_dim();
        let kv_head = head * self.config.attention.kv_heads / self.config.compressed_heads();
        kv_head * head_dim..(kv_head + 1) * head_dim
    }

    /// b += Σ dK̄ where the bias was added once, after the compression.
    fn constant_bias_backward(&self, grad: &Array4<A>, linear: &mut Linear<A>) {
        let Some(mut bias) = linear.bias_mut() else {
            return;
        };
        let mut sum = LongSum::default();
        for (head, grad) in grad.axis_iter(Axis(1)).enumerate() {
            sum.reset(grad.dim().2);
            grad.outer_iter().for_each(|rows| sum.add_rows(rows));
            sum.add_to(bias.slice_mut(s![self.key_value_features(head)]));
        }
    }

    /// W += dK̄ᵀ·(E·X), b += dK̄ᵀ·(E·1); a task has one head's rows of W, and adds up item after item.
    fn weights_backward(&self, index: usize, grad: &Array4<A>, linear: &mut Linear<A>) {
        let sums = &self.totals.sums[index];
        let last = sums.row_sums.dim().1 - 1;
        let (batch, heads, slots, head_dim) = grad.dim();
        let with_kv_head = |kv_head: usize| (0..heads).filter(move |&head| self.key_value_features(head).start == kv_head * head_dim);
        let parts = Parts {
            view: linear.weight_mut(),
            axis: 0,
            size: head_dim,
        };
        let cost = parallel::cost(&[batch, heads, slots, head_dim, self.config.attention.dim]);
        for_each_part(parts, cost, |kv_head, mut part| {
            let mut staged = StagedSum::default();
            for head in with_kv_head(kv_head) {
                for (item, grad) in grad.outer_iter().enumerate() {
                    let inputs = sums.values.slice(s![item, head.min(last), ..slots, ..]);
                    gemm(A::one(), grad.index_axis(Axis(0), head).t(), inputs, A::one(), &mut part.view);
                    staged.added(part.view.as_slice_mut().expect("rows of a weight are contiguous"));
                }
            }
            staged.finish(part.view.as_slice_mut().expect("rows of a weight are contiguous"));
        });
        let before = self.config.bias_place == BiasPlace::BeforeCompression;
        let Some(mut bias) = linear.bias_mut().filter(|_| before) else {
            return;
        };
        let mut sum = LongSum::default();
        for head in 0..heads {
            sum.reset(head_dim);
            for (item, grad) in grad.outer_iter().enumerate() {
                let row_sums = sums.row_sums.slice(s![item, head.min(last), ..slots]);
                let rows = grad.index_axis_move(Axis(0), head);
                rows.outer_iter()
                    .zip(row_sums)
                    .for_each(|(row, &factor)| sum.add_scaled(factor, row));
            }
            sum.add_to(bias.slice_mut(s![self.key_value_features(head)]));
        }
    }

    /// d(E·X) += dK̄·W, d(E·1) += dK̄·b.
    fn sums_backward(&self, is_value: bool, grad: &Array4<A>, dsums: &mut SumGradients<A>) {
        let (_, linear) = self.sources(usize::from(is_value));
        let matrices = dsums.row_sums.dim().1;
        let before = self.config.bias_place == BiasPlace::BeforeCompression;
        let (batch, heads, slots, head_dim) = grad.dim();
        let cost = parallel::cost(&[batch, heads, slots, head_dim, self.config.attention.dim]);
        let tasks: Vec<_> = dsums
            .values
            .outer_iter_mut()
            .zip(dsums.row_sums.outer_iter_mut())
            .enumerate()
            .collect();
        parallel::for_each(tasks, cost, |(item, (mut sums, mut row_sums))| {
            for head in 0..heads {
                let features = self.key_value_features(head);
                let matrix = head.min(matrices - 1);
                let grad = grad.slice(s![item, head, .., ..]);
                let mut sums = sums.slice_mut(s![matrix, ..slots, ..]);
                gemm(A::one(), grad, linear.weight().slice(s![features.clone(), ..]), A::one(), &mut sums);
                if let Some(bias) = linear.bias().filter(|_| before) {
                    let mut own = row_sums.slice_mut(s![matrix, ..slots]);
                    own += &grad.dot(&bias.slice(s![features]));
                }
            }
        });
    }

    /// From the gradients of E·X and E·1 to those of X and E.
    fn inputs_backward(
        &self,
        index: usize,
        x: ArrayView3<'_, A>,
        rows: &[RealRows<'_>],
        windows: &[Windows],
        dsums: &SumGradients<A>,
        gradients: &mut CompressionGradients<'_, A>,
    ) {
        let (projection, _) = self.sources(index);
        let own = gradients.projections.source_mut(index > 0);
        if let (ProjectionWeights::Dense { matrix, .. }, ProjectionWeights::Dense { matrix: grad, role }) =
            (&projection.weights, &mut own.weights)
        {
            let cost = parallel::cost(&[x.len(), matrix.dim().0, matrix.dim().1]);
            let collect = || {
                if *role == Role::Trainable {
                    dense::collect(grad, dsums, x, rows, cost);
                }
            };
            return parallel::both(cost, || dense::spread(matrix, dsums, rows, gradients.x, cost), collect);
        }
        let complete = |item: usize| self.complete_windows(item);
        let mut dkernel = own.kernel_sums();
        for (item, mut dx) in gradients.x.outer_iter_mut().enumerate() {
            for matrix in 0..dsums.row_sums.dim().1 {
                for row in (0..rows[item].end).filter(|&row| rows[item].is_real(row)) {
                    let slot = windows[item].slot(self.next + row);
                    if slot >= complete(item) {
                        continue;
                    }
                    let sums = dsums.values.slice(s![item, matrix, slot, ..]);
                    let weight = match &projection.weights {
                        ProjectionWeights::Convolution { kernel, .. } => kernel[[matrix, 0, 0, windows[item].offset(self.next + row)]],
                        _ => A::one() / A::cast(self.totals.tokens[[item, slot]].max(1) as f64),
                    };
                    dx.row_mut(row).scaled_add(weight, &sums);
                    if let Some(dkernel) = &mut dkernel {
                        let term = sums.dot(&x.slice(s![item, row, ..])) + dsums.row_sums[[item, matrix, slot]];
                        dkernel[[matrix, 0, 0, windows[item].offset(self.next + row)]] += term.widen();
                    }
                }
            }
        }
        own.add_kernel_sums(dkernel);
    }

    /// How many of an item's windows are complete; all slots for the kinds without windows of a fixed stride.
    pub(super) fn complete_windows(&self, item: usize) -> usize {
        match self.config.projection.kind {
            ProjectionKind::Convolution(convolution) => {
                let reach = convolution.reach(self.totals.ends[item], self.config.seq_len);
                convolution.windows(reach, self.config.stride().unwrap_or(1))
            }
            _ => usize::MAX,
        }
    }
}

impl<A: Scalar> CompressionCache<A> {
    /// Sets the gradients of maxima that are in other shards to 0.
    pub(crate) fn keep_owned(&self, grads: &mut KeyValueGradients<A>) {
        let Some(owners) = &self.owners else {
            return;
        };
        for (index, grad) in [&mut grads.keys, &mut grads.values].into_iter().enumerate() {
            let owners = owners[index.min(owners.len() - 1)].slice(s![.., .., ..grad.dim().2, ..]);
            grad.zip_mut_with(&owners, |grad, &owned| {
                if !owned {
                    *grad = A::zero();
                }
            });
        }
    }
}

impl<A: Scalar> SumGradients<A> {
    fn zeros(sums: &PositionSums<A>) -> Self {
        Self {
            values: Array4::zeros(sums.values.dim()),
            row_sums: Array3::zeros(sums.row_sums.dim()),
        }
    }
}

/// The bias of E (or F) is added to every channel of its slot, that of a convolution to its channel in every slot.
fn projection_bias_backward<A: Scalar>(grad: &Array4<A>, projection: &mut Projection<A>) {
    let Some(bias) = &mut projection.bias else {
        return;
    };
    let (matrices, len) = bias.dim();
    let mut sums: Vec<LongSum> = (0..matrices).map(|_| LongSum::zeros(len)).collect();
    for item in grad.outer_iter() {
        for (head, rows) in item.outer_iter().enumerate() {
            let sum = &mut sums[head.min(matrices - 1)];
            let of_slots = || rows.rows().into_iter().map(long_sum);
            match (&projection.weights, len) {
                (ProjectionWeights::Convolution { .. }, 1) => sum.add(ArrayView1::from(&[of_slots().sum::<f64>()])),
                (ProjectionWeights::Convolution { .. }, _) => sum.add_rows(rows),
                _ => sum.add(ArrayView1::from(&of_slots().collect::<Vec<f64>>())),
            }
        }
    }
    for (own, sum) in bias.rows_mut().into_iter().zip(sums) {
        sum.add_to(own);
    }
}

impl<A: Scalar> Projection<A> {
    /// Where the gradient of a convolution's kernel is summed: all positions have a share in it.
    fn kernel_sums(&self) -> Option<Array4<f64>> {
        match &self.weights {
            ProjectionWeights::Convolution { kernel, .. } => Some(Array4::zeros(kernel.dim())),
            _ => None,
        }
    }

    /// Adds these sums to gradients, rounded once.
    fn add_kernel_sums(&mut self, sums: Option<Array4<f64>>) {
        if let (ProjectionWeights::Convolution { kernel, .. }, Some(sums)) = (&mut self.weights, sums) {
            kernel.zip_mut_with(&sums, |kernel, sum| *kernel = A::cast(kernel.widen() + sum));
        }
    }
}

impl<A: Scalar> Projections<A> {
    /// The projection that compresses the keys, or the values.
    fn source_mut(&mut self, is_value: bool) -> &mut Projection<A> {
        match (&mut self.value, is_value) {
            (Some(value), true) => value,
            _ => &mut self.key,
        }
    }
}
