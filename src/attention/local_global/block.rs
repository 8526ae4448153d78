//! The scores of one block of rows of one head, stored: for training, dropout and maps.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use super::super::gradients::Dropped;
use super::super::heads::scale;
use super::super::weights::tile;
use super::item::ItemContext;
use crate::ops::{Dropout, gemm, softmax_rows};
use crate::scalar::Scalar;

/// The dropout of the weights of one item.
pub(super) struct Dropping<'d, A> {
    dropout: &'d Dropout<A>,
    item: usize,
    /// Query rows of an item.
    length: usize,
    heads: usize,
    /// The most keys that a window has, and all slots.
    window: usize,
    slots: usize,
}

impl<'d, A: Scalar> Dropping<'d, A> {
    pub(super) fn new(dropout: &'d Dropout<A>, (item, length): (usize, usize), heads: usize, context: &ItemContext<A>) -> Self {
        Self {
            dropout,
            item,
            length,
            heads,
            window: 3 * context.cut.block,
            slots: context.cut.segments,
        }
    }

    /// Drops out of the weights of the rows from `row` on, of which the first `keys` columns are the window's.
    pub(super) fn apply(&self, head: usize, row: usize, keys: usize, weights: &mut ArrayViewMut2<'_, A>) {
        let stride = (self.window + self.slots) as u64;
        let rows = (self.item * self.heads + head) as u64 * self.length as u64 + row as u64;
        let (mut window, mut slots) = weights.view_mut().split_at(Axis(1), keys);
        for (part, first) in [(&mut window, 0), (&mut slots, self.window as u64)] {
            let dropped = Dropped {
                dropout: self.dropout,
                first: rows * stride + first,
                stride,
            };
            dropped.apply(part);
        }
    }
}

/// The keys and values that one head's rows of one block see.
pub(super) struct Seen<'i, A> {
    /// The rows of the keys that are the window's.
    pub(super) rows: Range<usize>,
    pub(super) keys: ArrayView2<'i, A>,
    pub(super) values: ArrayView2<'i, A>,
    pub(super) slot_keys: ArrayView2<'i, A>,
    pub(super) slot_values: ArrayView2<'i, A>,
}

impl<A: Scalar> ItemContext<A> {
    /// Returns what the rows of block `block` see in `head`, of `heads`.
    pub(super) fn seen(&self, head: usize, heads: usize, block: usize) -> Seen<'_, A> {
        let (width, segments) = (self.head_dim, self.cut.segments);
        let rows = self.rows_of(&self.cut.window(block));
        let first = head * self.kv_heads / heads * self.count;
        let window = (first + rows.start) * width..(first + rows.end) * width;
        let view = |count, numbers| ArrayView2::from_shape((count, width), numbers).expect("whole rows");
        let (slot_keys, slot_values) = self
            .pooled
            .get(head)
            .map_or((&[][..], &[][..]), |pooled| (&pooled.keys[..], &pooled.values[..]));
        Seen {
            keys: view(rows.len(), &self.keys[window.clone()]),
            values: view(rows.len(), &self.values[window]),
            slot_keys: view(segments, slot_keys),
            slot_values: view(segments, slot_values),
            rows,
        }
    }

    /// Fills `weights` (rows, keys of the window and slots) with the softmax of one head's queries of one block.
    pub(super) fn block_weights(
        &self,
        queries: ArrayView2<'_, A>,
        (head, block): (usize, usize),
        seen: &Seen<'_, A>,
        biases: &mut Vec<A>,
        weights: &mut ArrayViewMut2<'_, A>,
    ) {
        let keys = seen.rows.len();
        let width = weights.ncols();
        if self.cut.segments > 0 {
            self.write_biases(head, block, biases);
        }
        let (mut window, mut slots) = weights.view_mut().split_at(Axis(1), keys);
        gemm(scale(self.head_dim), queries, seen.keys.t(), A::zero(), &mut window);
        gemm(scale(self.head_dim), queries, seen.slot_keys.t(), A::zero(), &mut slots);
        for mut row in slots.rows_mut() {
            row.iter_mut().zip(biases.iter()).for_each(|(score, &bias)| *score += bias);
        }
        if let Some(weights) = weights.as_slice_mut() {
            softmax_rows(weights, width);
        }
    }

    /// Fills `out` with what the rows `first..` of the item attend to with dropout, head by head.
    pub(super) fn attend_dropped(
        &self,
        queries: ArrayView2<'_, A>,
        first: usize,
        heads: usize,
        dropping: &Dropping<'_, A>,
        out: &mut ArrayViewMut2<'_, A>,
    ) {
        let (mut space, mut biases) = (Vec::new(), Vec::new());
        for (block, rows) in self.blocks_of(first..first + queries.nrows()) {
            let own = rows.start - first..rows.end - first;
            for head in 0..heads {
                let columns = head * self.head_dim..(head + 1) * self.head_dim;
                let seen = self.seen(head, heads, block);
                let keys = seen.rows.len();
                let mut weights = tile(&mut space, rows.len(), keys + self.cut.segments);
                self.block_weights(
                    queries.slice(s![own.clone(), columns.clone()]),
                    (head, block),
                    &seen,
                    &mut biases,
                    &mut weights,
                );
                dropping.apply(head, rows.start, keys, &mut weights);
                let mut out = out.slice_mut(s![own.clone(), columns]);
                gemm(A::one(), weights.slice(s![.., ..keys]), seen.values, A::zero(), &mut out);
                gemm(A::one(), weights.slice(s![.., keys..]), seen.slot_values, A::one(), &mut out);
            }
        }
    }

    /// The blocks that some rows lie in, and which of the rows do.
    pub(super) fn blocks_of(&self, rows: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let block = self.cut.block;
        (rows.start / block..rows.end.div_ceil(block))
            .map(move |index| (index, rows.start.max(index * block)..rows.end.min((index + 1) * block)))
    }
}
