//! The scores of one block of rows of one head, stored: for training, dropout and maps.

use std::ops::Range;

use ndarray::{ArrayView2, ArrayViewMut2, Axis, s};

use super::super::causal::{KeyPart, multiply_values};
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
    /// Query rows of a whole item.
    length: usize,
    heads: usize,
    /// The most keys that a window has, and all slots.
    window: usize,
    slots: usize,
}

impl<'d, A: Scalar> Dropping<'d, A> {
    pub(super) fn new(dropout: &'d Dropout<A>, item: usize, heads: usize, context: &ItemContext<A>) -> Self {
        Self {
            dropout,
            item,
            length: context.cut.positions,
            heads,
            window: 3 * context.cut.block,
            slots: context.cut.most_seen(),
        }
    }

    /// Drops out of the weights of the rows from position `row` on, of which the first `keys` columns are the window's.
    pub(super) fn apply(&self, head: usize, row: usize, keys: usize, weights: &mut ArrayViewMut2<'_, A>) {
        let stride = (self.window + self.slots) as u64;
        let rows = (self.item * self.heads + head) as u64 * self.length as u64 + row as u64;
        let (mut window, mut slots) = weights.view_mut().split_at(Axis(1), keys);
        for (part, first) in [(&mut window, 0), (&mut slots, self.window as u64)] {
            let dropped = Dropped {
                dropout: self.dropout,
                first: rows.wrapping_mul(stride).wrapping_add(first),
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
    /// What is added to the slots' scores.
    pub(super) biases: &'i [A],
    /// The segments of the slots, where they are not all of them.
    pub(super) segments: Option<&'i [usize]>,
}

/// The slots that the rows of one block of one head see.
#[derive(Debug, Default)]
pub(crate) struct Slots<A> {
    /// Where they are not all: their segments, and copies of their K̄ and V̄, (slots, `head_dim`).
    pub(super) segments: Vec<usize>,
    pub(super) keys: Vec<A>,
    pub(super) values: Vec<A>,
    pub(super) biases: Vec<A>,
}

impl<A: Scalar> Slots<A> {
    /// Takes the slots that the rows of block `block` see in `head`.
    pub(super) fn take(&mut self, item: &ItemContext<A>, head: usize, block: usize) {
        for numbers in [&mut self.biases, &mut self.keys, &mut self.values] {
            numbers.clear();
        }
        self.segments.clear();
        let Some(own) = item.pooled.get(head) else { return };
        if !item.cut.is_causal() {
            return item.write_biases(head, block, &mut self.biases);
        }
        item.cut.write_seen(block, &mut self.segments);
        for &segment in &self.segments {
            let numbers = segment * item.head_dim..(segment + 1) * item.head_dim;
            self.keys.extend_from_slice(&own.keys[numbers.clone()]);
            self.values.extend_from_slice(&own.values[numbers]);
            self.biases.push(own.biases[segment]);
        }
    }
}

impl<A: Scalar> ItemContext<A> {
    /// Returns what the rows of block `block` see in `head`, of `heads`; `slots` takes the slots.
    pub(super) fn seen<'s>(&'s self, head: usize, heads: usize, block: usize, slots: &'s mut Slots<A>) -> Seen<'s, A> {
        let width = self.head_dim;
        let rows = self.rows_of(&self.cut.window(block));
        let first = head * self.kv_heads / heads * self.count;
        let window = (first + rows.start) * width..(first + rows.end) * width;
        slots.take(self, head, block);
        let (slot_keys, slot_values) = match self.pooled.get(head) {
            Some(pooled) if !self.cut.is_causal() => (&pooled.keys[..], &pooled.values[..]),
            _ => (&slots.keys[..], &slots.values[..]),
        };
        let view = |count, numbers| ArrayView2::from_shape((count, width), numbers).expect("whole rows");
        Seen {
            keys: view(rows.len(), &self.keys[window.clone()]),
            values: view(rows.len(), &self.values[window]),
            slot_keys: view(slots.biases.len(), slot_keys),
            slot_values: view(slots.biases.len(), slot_values),
            biases: &slots.biases,
            segments: self.cut.is_causal().then_some(&slots.segments),
            rows,
        }
    }

    /// How many of the keys of a window the row at `position` sees, from its first on.
    pub(super) fn visible(&self, position: usize, window: &Range<usize>) -> usize {
        if self.cut.is_causal() {
            self.rows_of(&(0..position + 1)).end.clamp(window.start, window.end) - window.start
        } else {
            window.len()
        }
    }

    /// Fills `weights` (rows, keys of the window and slots) with the softmax of one head's queries of one block, the rows from `first` on.
    pub(super) fn block_weights(&self, queries: ArrayView2<'_, A>, first: usize, seen: &Seen<'_, A>, weights: &mut ArrayViewMut2<'_, A>) {
        let keys = seen.rows.len();
        let width = weights.ncols();
        let (mut window, mut slots) = weights.view_mut().split_at(Axis(1), keys);
        gemm(scale(self.head_dim), queries, seen.keys.t(), A::zero(), &mut window);
        for (row, mut scores) in window.rows_mut().into_iter().enumerate() {
            let visible = self.visible(first + row, &seen.rows);
            scores.slice_mut(s![visible..]).fill(A::neg_infinity());
        }
        gemm(scale(self.head_dim), queries, seen.slot_keys.t(), A::zero(), &mut slots);
        for mut row in slots.rows_mut() {
            row.iter_mut().zip(seen.biases).for_each(|(score, &bias)| *score += bias);
        }
        if let Some(weights) = weights.as_slice_mut() {
            softmax_rows(weights, width);
        }
    }

    /// out ← the weights of the keys of a window, times their values. One that a row does not see does not touch it: 0·NaN would be NaN.
    fn multiply_window(
        &self,
        weights: ArrayView2<'_, A>,
        first: usize,
        seen: &Seen<'_, A>,
        out: &mut ArrayViewMut2<'_, A>,
        space: &mut Vec<A>,
    ) {
        if !self.cut.is_causal() {
            return gemm(A::one(), weights, seen.values, A::zero(), out);
        }
        let visible: Vec<_> = (first..first + weights.nrows())
            .map(|row| 0..self.visible(row, &seen.rows))
            .collect();
        let part = KeyPart {
            keys: seen.keys,
            values: seen.values,
            visible: &visible,
        };
        multiply_values(weights, &part, out, space);
    }

    /// Fills `out` with what the rows that attend, from row `first` on, attend to with dropout, head by head.
    pub(super) fn attend_dropped(
        &self,
        queries: ArrayView2<'_, A>,
        first: usize,
        heads: usize,
        dropping: &Dropping<'_, A>,
        out: &mut ArrayViewMut2<'_, A>,
    ) {
        let (mut space, mut finite, mut slots) = (Vec::new(), Vec::new(), Slots::default());
        let first = self.first() + first;
        for (block, rows) in self.blocks_of(first..first + queries.nrows()) {
            let own = rows.start - first..rows.end - first;
            for head in 0..heads {
                let columns = head * self.head_dim..(head + 1) * self.head_dim;
                let seen = self.seen(head, heads, block, &mut slots);
                let keys = seen.rows.len();
                let mut weights = tile(&mut space, rows.len(), keys + seen.biases.len());
                let queries = queries.slice(s![own.clone(), columns.clone()]);
                self.block_weights(queries, rows.start, &seen, &mut weights);
                dropping.apply(head, rows.start, keys, &mut weights);
                let mut out = out.slice_mut(s![own.clone(), columns]);
                self.multiply_window(weights.slice(s![.., ..keys]), rows.start, &seen, &mut out, &mut finite);
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
