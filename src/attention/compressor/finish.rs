//! From sums to compressed keys and values.

use ndarray::{ArrayViewMut2, ArrayViewMut3, ArrayViewMut4, Axis, Ix4, s};

use super::super::compressed::Compressed;
use super::super::projection::ProjectionWeights;
use super::scratch::{CompressionScratch, FinishScratch};
use super::sums::{PositionSums, refill};
use super::{BiasPlace, Compressor, Order, ProjectionKind};
use crate::error::{Result, checked_len};
use crate::ops::{Runs, add_bias};
use crate::parallel::{self, Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Slots that one task finishes: a few blocks of the kernels.
const TASK_SLOTS: usize = 36;

impl<A: Scalar> Compressor<'_, A> {
    /// [`finish`](Self::finish) in the memory of an earlier result.
    pub(crate) fn finish_into(&mut self, compressed: &mut Compressed<A>, scratch: &mut CompressionScratch<A>) -> Result<()> {
        compressed.forget_packed();
        compressed.slots.clear();
        compressed.slots.extend((0..self.batch).map(|item| self.item_slots(item)));
        if self.config.projection.pools_by_attention() {
            return self.finish_pooled(compressed, scratch);
        }
        compressed.log_mass = None;
        let most = compressed.slots.iter().copied().max().unwrap_or(self.config.effective_k());
        self.grow(most)?;
        self.add_pending(self.next, scratch);
        self.totals.sums.iter_mut().for_each(PositionSums::round);
        for item in 0..self.batch {
            self.normalize(item);
        }
        let (heads, head_dim) = (self.config.compressed_heads(), self.config.attention.effective_head_dim());
        let shape = (self.batch, heads, most, head_dim);
        checked_len("Compressor::finish", &[shape.0, shape.1, shape.2, shape.3], size_of::<A>())?;
        for array in [&mut compressed.keys, &mut compressed.values] {
            refill(array, Ix4(shape.0, shape.1, shape.2, shape.3), A::zero());
        }
        scratch.finished.prepare();
        let mut finished = [compressed.keys.view_mut(), compressed.values.view_mut()];
        self.finish_all(&mut finished, &scratch.finished);
        Ok(())
    }

    /// How many slots an item has.
    fn item_slots(&self, item: usize) -> usize {
        let length = self.totals.lengths.as_ref().map(|lengths| lengths[item]);
        let pools = self.totals.tokens.ncols() > 0;
        self.config
            .slots_of(if pools { length.unwrap_or(0) } else { self.totals.ends[item] })
    }

    /// Turns sums into means, empty maxima into 0, and drops windows that stayed incomplete.
    fn normalize(&mut self, item: usize) {
        let kind = self.config.projection.kind;
        let complete = self.complete_windows(item).min(self.allocated());
        for sums in &mut self.totals.sums {
            let mut values = sums.values.index_axis_mut(Axis(0), item);
            let mut row_sums = sums.row_sums.index_axis_mut(Axis(0), item);
            match kind {
                ProjectionKind::Learned | ProjectionKind::Random | ProjectionKind::AttentionPooling => {}
                ProjectionKind::Convolution(_) => {
                    values.slice_mut(s![.., complete.., ..]).fill(A::zero());
                    row_sums.slice_mut(s![.., complete..]).fill(A::zero());
                }
                ProjectionKind::MeanPooling => {
                    for (slot, &tokens) in self.totals.tokens.row(item).iter().enumerate() {
                        let factor = A::one() / A::cast(tokens.max(1) as f64);
                        values.index_axis_mut(Axis(1), slot).mapv_inplace(|sum| sum * factor);
                        row_sums.index_axis_mut(Axis(1), slot).mapv_inplace(|sum| sum * factor);
                    }
                }
                ProjectionKind::MaxPooling => {
                    for (slot, &tokens) in self.totals.tokens.row(item).iter().enumerate() {
                        if tokens == 0 {
                            values.index_axis_mut(Axis(1), slot).fill(A::zero());
                        }
                    }
                }
            }
        }
    }

    /// K̄ and V̄ (batch, heads, slots, `head_dim`) of the sums.
    fn finish_all(&self, finished: &mut [ArrayViewMut4<'_, A>; 2], pool: &Pool<FinishScratch<A>>) {
        let (_, heads, slots, head_dim) = finished[0].dim();
        let cost = match self.order {
            Order::CompressFirst => parallel::cost(&[2, self.batch, heads, slots, head_dim, self.config.attention.dim]),
            Order::ProjectFirst => 0,
        };
        for_each_part(Chunks { slice: finished, size: 1 }, cost, |is_value, part| {
            for_each_part(along(part.slice[0].view_mut(), 0, 1), cost, |item, part| {
                for_each_part(along(part.view, 2, TASK_SLOTS), cost, |block, mut part| {
                    let rows = part.view.index_axis_mut(Axis(0), 0);
                    pool.with(|scratch| self.finish_rows(is_value == 1, item, block * TASK_SLOTS, rows, scratch));
                });
            });
        });
    }

    /// All heads' rows (heads, rows, `head_dim`) from slot `first` on.
    fn finish_rows(&self, is_value: bool, item: usize, first: usize, mut rows: ArrayViewMut3<'_, A>, scratch: &mut FinishScratch<A>) {
        let FinishScratch { input, features, products } = scratch;
        let (heads, count, head_dim) = rows.dim();
        let sums = &self.totals.sums[if is_value { self.totals.sums.len() - 1 } else { 0 }];
        let (_, linear) = self.sources(usize::from(is_value));
        let kv_heads = self.config.attention.kv_heads;
        let slots = first..first + count;
        // All heads at once, where they are made of the same sums.
        let together = self.order == Order::CompressFirst && sums.values.dim().1 == 1;
        if together {
            let values = sums.values.slice(s![item, 0, slots.clone(), ..]);
            input.fill(values, Runs::of(values.ncols()));
            linear.multiply_runs(input.rows(), Runs::of_units(kv_heads, head_dim), features);
        }
        for (head, mut rows) in rows.outer_iter_mut().enumerate() {
            let kv_head = head * kv_heads / heads;
            match self.order {
                Order::CompressFirst if together => features.copy_unit_to(kv_head, &mut rows),
                Order::CompressFirst => {
                    let values = sums.values.slice(s![item, head, slots.clone(), ..]);
                    let weight = linear.weight();
                    let weight = weight.slice(s![kv_head * head_dim..(kv_head + 1) * head_dim, ..]);
                    products.multiply(A::one(), values, weight.t(), false, &mut rows);
                }
                Order::ProjectFirst => rows.assign(&sums.values.slice(s![item, head, slots.clone(), ..])),
            }
            self.add_biases(is_value, item, head, first, &mut rows);
        }
    }

    /// The biases of one head's rows from slot `first` on.
    fn add_biases(&self, is_value: bool, item: usize, head: usize, first: usize, rows: &mut ArrayViewMut2<'_, A>) {
        let head_dim = rows.ncols();
        let slots = first..first + rows.nrows();
        let sums = &self.totals.sums[if is_value { self.totals.sums.len() - 1 } else { 0 }];
        let (projection, linear) = self.sources(usize::from(is_value));
        let matrix = head.min(sums.row_sums.dim().1 - 1);
        let kv_head = head * self.config.attention.kv_heads / self.config.compressed_heads();
        if let Some(bias) = linear.bias() {
            let bias = bias.slice_move(s![kv_head * head_dim..(kv_head + 1) * head_dim]);
            match self.config.bias_place {
                BiasPlace::AfterCompression => add_bias(rows, bias),
                // Otherwise it was part of what was compressed.
                BiasPlace::BeforeCompression if self.config.projection.commutes() => {
                    for (mut row, &sum) in rows.outer_iter_mut().zip(sums.row_sums.slice(s![item, matrix, slots.clone()])) {
                        row.scaled_add(sum, &bias);
                    }
                }
                BiasPlace::BeforeCompression => {}
            }
        }
        let Some(bias) = &projection.bias else {
            return;
        };
        let bias = bias.row(matrix);
        match (&projection.weights, bias.len()) {
            (ProjectionWeights::Convolution { .. }, 1) => rows.mapv_inplace(|value| value + bias[0]),
            (ProjectionWeights::Convolution { .. }, _) => add_bias(rows, bias),
            _ => {
                for (mut row, &bias) in rows.outer_iter_mut().zip(bias.slice_move(s![slots])) {
                    row.mapv_inplace(|value| value + bias);
                }
            }
        }
    }
}
