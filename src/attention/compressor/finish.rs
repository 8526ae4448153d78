//! From sums to compressed keys and values.

use ndarray::{Array4, ArrayViewMut2, Axis, s};

use super::super::compressed::Compressed;
use super::super::projection::Map;
use super::{BiasPlace, Compressor, Order, ProjectionKind};
use crate::error::{Result, checked_len};
use crate::ops::{add_bias, gemm};
use crate::parallel;
use crate::scalar::Scalar;
use crate::views::outer;

impl<A: Scalar> Compressor<'_, A> {
    pub(super) fn finished(&mut self) -> Result<Compressed<A>> {
        let slots: Vec<usize> = (0..self.batch).map(|item| self.item_slots(item)).collect();
        let most = slots.iter().copied().max().unwrap_or(self.config.effective_k());
        self.grow(most)?;
        for item in 0..self.batch {
            self.settle(item);
        }
        let keys = self.finish_side(0, false, most)?;
        let values = self.finish_side(self.sides.len() - 1, true, most)?;
        Ok(Compressed { keys, values, slots })
    }

    /// How many slots an item has.
    fn item_slots(&self, item: usize) -> usize {
        let told = self.extent.as_ref().map(|lengths| lengths[item]);
        let pools = self.tokens.ncols() > 0;
        self.config.slots_of(if pools { told.unwrap_or(0) } else { self.reached[item] })
    }

    /// Turns sums into means, empty maxima into 0, and drops windows that stayed incomplete.
    fn settle(&mut self, item: usize) {
        let kind = self.config.projection.kind;
        let complete = self.complete_windows(item).min(self.allocated());
        for side in &mut self.sides {
            let mut sums = side.sums.index_axis_mut(Axis(0), item);
            let mut row_sums = side.row_sums.index_axis_mut(Axis(0), item);
            match kind {
                ProjectionKind::Learned | ProjectionKind::Random => {}
                ProjectionKind::Convolution(_) => {
                    sums.slice_mut(s![.., complete.., ..]).fill(A::zero());
                    row_sums.slice_mut(s![.., complete..]).fill(A::zero());
                }
                ProjectionKind::MeanPooling => {
                    for (slot, &tokens) in self.tokens.row(item).iter().enumerate() {
                        let factor = A::one() / A::cast(tokens.max(1) as f64);
                        sums.index_axis_mut(Axis(1), slot).mapv_inplace(|sum| sum * factor);
                        row_sums.index_axis_mut(Axis(1), slot).mapv_inplace(|sum| sum * factor);
                    }
                }
                ProjectionKind::MaxPooling => {
                    for (slot, &tokens) in self.tokens.row(item).iter().enumerate() {
                        if tokens == 0 {
                            sums.index_axis_mut(Axis(1), slot).fill(A::zero());
                        }
                    }
                }
            }
        }
    }

    /// K̄ or V̄ of the first `slots` slots, from side `index` of the sums.
    fn finish_side(&self, index: usize, is_value: bool, slots: usize) -> Result<Array4<A>> {
        let (heads, head_dim) = (self.config.compressed_heads(), self.config.attention.effective_head_dim());
        checked_len("Compressor::finish", &[self.batch, heads, slots, head_dim], size_of::<A>())?;
        let mut finished = Array4::zeros((self.batch, heads, slots, head_dim));
        let mut tasks = Vec::new();
        for (item, heads) in outer(finished.view_mut()).into_iter().enumerate() {
            for (head, rows) in outer(heads).into_iter().enumerate() {
                tasks.push((item, head, rows));
            }
        }
        let cost = match self.order {
            Order::CompressFirst => parallel::cost(&[self.batch, heads, slots, head_dim, self.config.attention.dim]),
            Order::ProjectFirst => 0,
        };
        parallel::for_each(tasks, cost, |(item, head, mut rows)| {
            self.finish_head(index, is_value, item, head, &mut rows);
        });
        Ok(finished)
    }

    fn finish_head(&self, index: usize, is_value: bool, item: usize, head: usize, rows: &mut ArrayViewMut2<'_, A>) {
        let slots = rows.nrows();
        let head_dim = rows.ncols();
        let side = &self.sides[index];
        let (projection, linear) = self.side_sources(usize::from(is_value));
        let matrix = head.min(side.row_sums.dim().1 - 1);
        let kv_head = head * self.config.attention.kv_heads / self.config.compressed_heads();
        let features = kv_head * head_dim..(kv_head + 1) * head_dim;
        match self.order {
            Order::CompressFirst => {
                let sums = side.sums.slice(s![item, matrix, ..slots, ..]);
                gemm(A::one(), sums, linear.weight().slice(s![features.clone(), ..]).t(), A::zero(), rows);
            }
            Order::ProjectFirst => rows.assign(&side.sums.slice(s![item, head, ..slots, ..])),
        }
        if let Some(bias) = linear.bias() {
            let bias = bias.slice_move(s![features]);
            match self.config.bias_place {
                BiasPlace::AfterCompression => add_bias(rows, bias),
                // Otherwise it was part of what was compressed.
                BiasPlace::BeforeCompression if self.config.projection.commutes() => {
                    for (mut row, &sum) in rows.outer_iter_mut().zip(side.row_sums.slice(s![item, matrix, ..slots])) {
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
        match (&projection.map, bias.len()) {
            (Map::Convolution { .. }, 1) => rows.mapv_inplace(|value| value + bias[0]),
            (Map::Convolution { .. }, _) => add_bias(rows, bias),
            _ => {
                for (mut row, &bias) in rows.outer_iter_mut().zip(bias) {
                    row.mapv_inplace(|value| value + bias);
                }
            }
        }
    }
}
