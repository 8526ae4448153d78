//! Keys, values and slots of one item, packed for the tiles of rows that attend to them.

use std::ops::Range;

use ndarray::ArrayView2;

use super::super::heads::scale;
use super::super::partial::{HeadScratch, Partial, Total};
use super::item::ItemContext;
use crate::ops::{Output, PANEL_COLS, PackedMatrix, RowsMut, Runs, SEGMENT, Tile, TileRows, exp_rows, scale_rows};
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;

/// Keys whose scores are held at once; the panels that they begin and end in reach a little farther.
const KEY_BLOCK: usize = SEGMENT - 2 * PANEL_COLS;

/// The packed keys and values of one item.
#[derive(Debug)]
pub(crate) struct PackedItem<A> {
    /// Of each key/value head, and of each query head's slots.
    window: Vec<PackedPair<A>>,
    slots: Vec<PackedPair<A>>,
}

#[derive(Debug)]
struct PackedPair<A> {
    /// (`head_dim`, rows), divided by √`head_dim`.
    keys: PackedMatrix<A>,
    /// (rows, `head_dim`).
    values: PackedMatrix<A>,
}

impl<A> Default for PackedItem<A> {
    fn default() -> Self {
        Self {
            window: Vec::new(),
            slots: Vec::new(),
        }
    }
}

impl<A: Scalar> Default for PackedPair<A> {
    fn default() -> Self {
        Self {
            keys: PackedMatrix::default(),
            values: PackedMatrix::default(),
        }
    }
}

impl<A: Scalar> PackedPair<A> {
    fn repack(&mut self, keys: &[A], values: &[A], head_dim: usize) {
        let view = |rows| ArrayView2::from_shape((keys.len() / head_dim, head_dim), rows).expect("whole rows");
        self.keys.repack(view(keys).t(), scale(head_dim));
        self.values.repack(view(values), A::one());
    }
}

/// Scratch space for one block of rows of one head.
#[derive(Debug)]
pub(crate) struct BlockScratch<A> {
    queries: Tile<A>,
    biases: Vec<A>,
    head: HeadScratch<A>,
}

impl<A: Scalar> Default for BlockScratch<A> {
    fn default() -> Self {
        Self {
            queries: Tile::default(),
            biases: Vec::new(),
            head: HeadScratch::default(),
        }
    }
}

/// What one head's rows of one block see.
struct BlockView<'p, A> {
    window: &'p PackedPair<A>,
    rows: Range<usize>,
    slots: &'p PackedPair<A>,
    biases: &'p [A],
}

impl<A: Scalar> PackedItem<A> {
    /// Replaces everything by one item, without allocating where the memory suffices.
    pub(super) fn repack(&mut self, item: &ItemContext<A>) {
        let ItemContext {
            kv_heads, head_dim, count, ..
        } = *item;
        self.window.resize_with(kv_heads, PackedPair::default);
        self.slots.resize_with(item.pooled.len(), PackedPair::default);
        let size = count * head_dim;
        let cost = parallel::cost(&[kv_heads, size, 32]);
        let parts = Chunks {
            slice: &mut self.window,
            size: 1,
        };
        for_each_part(parts, cost, |head, part| {
            let own = head * size..(head + 1) * size;
            part.slice[0].repack(&item.keys[own.clone()], &item.values[own], head_dim);
        });
        let cost = parallel::cost(&[item.pooled.len(), item.cut.segments, head_dim, 32]);
        let parts = Chunks {
            slice: &mut self.slots,
            size: 1,
        };
        for_each_part(parts, cost, |head, part| {
            let pooled = &item.pooled[head];
            part.slice[0].repack(&pooled.keys, &pooled.values, head_dim);
        });
    }

    /// Replaces every head's queries, those of the rows `first..` of the item, by what they attend to.
    pub(super) fn attend(&self, item: &ItemContext<A>, first: usize, heads: usize, queries: &mut Tile<A>, scratch: &mut BlockScratch<A>) {
        let (end, block) = (first + queries.nrows(), item.cut.block);
        let none = PackedPair::default();
        for head in 0..heads {
            let mut start = first;
            while start < end {
                let index = start / block;
                let next = end.min((index + 1) * block);
                if item.cut.segments > 0 {
                    item.write_biases(head, index, &mut scratch.biases);
                }
                let biases = std::mem::take(&mut scratch.biases);
                let view = BlockView {
                    window: &self.window[head * item.kv_heads / heads],
                    rows: item.rows_of(&item.cut.window(index)),
                    slots: self.slots.get(head).unwrap_or(&none),
                    biases: &biases[..item.cut.segments],
                };
                view.attend(queries, head, start - first..next - first, scratch);
                scratch.biases = biases;
                start = next;
            }
        }
    }
}

impl<A: Scalar> BlockView<'_, A> {
    fn attend(&self, queries: &mut Tile<A>, head: usize, rows: Range<usize>, scratch: &mut BlockScratch<A>) {
        let BlockScratch {
            queries: own,
            head: scratch,
            ..
        } = scratch;
        own.fill_from_unit(queries, head, rows.clone());
        let head_dim = self.window.values.dim().1;
        let side_by_side = if self.rows.len() + self.biases.len() <= KEY_BLOCK {
            Some(self.all_scores(own, scratch))
        } else {
            self.add_parts(own, head_dim, scratch);
            None
        };
        let HeadScratch { scores, latest, total } = scratch;
        queries.unit_runs_mut(head, |columns, RowsMut { data, stride }| {
            let mut to = RowsMut {
                data: &mut data[rows.start * stride..],
                stride,
            };
            let Some((window, slots)) = &side_by_side else {
                return total.write_quotients(head_dim, columns, to);
            };
            let width = columns.len();
            self.multiply_values(scores.rows(), (window, slots), columns, to.reborrow());
            scale_rows(to.data, width, stride, &latest.sums);
        });
    }

    /// Makes the exponentials of all scores side by side, and what they are to be multiplied by. Returns the columns of the window's and of the slots'.
    fn all_scores(&self, queries: &Tile<A>, scratch: &mut HeadScratch<A>) -> (Range<usize>, Range<usize>) {
        let HeadScratch { scores, latest, .. } = scratch;
        let (rows, width) = (queries.nrows(), self.rows.len() + self.biases.len());
        scores.reshape(rows, Runs::of(width + 2 * PANEL_COLS));
        let before = self.window_scores(queries, &self.rows, scores);
        let (window, slots) = (before..before + self.rows.len(), before + self.rows.len()..before + width);
        if !slots.is_empty() {
            let to = columns_from(scores, slots.start);
            let bias = Output::SetWithBias(self.biases);
            self.slots.keys.multiply_tile(queries.rows(), 0, 0..slots.len(), bias, to);
        }
        latest.reset(rows, 0);
        exponentials(scores, before..slots.end, latest);
        latest.invert_sums();
        (window, slots)
    }

    /// Writes the scores of the keys `rows`, whose columns begin where this says.
    fn window_scores(&self, queries: &Tile<A>, rows: &Range<usize>, scores: &mut Tile<A>) -> usize {
        if rows.is_empty() {
            return 0;
        }
        // Whole panels.
        let first = rows.start - rows.start % PANEL_COLS;
        let end = rows.end.next_multiple_of(PANEL_COLS).min(self.window.keys.dim().1);
        self.window
            .keys
            .multiply_tile(queries.rows(), 0, first..end, Output::Set, columns_from(scores, 0));
        rows.start - first
    }

    fn multiply_values(
        &self,
        scores: TileRows<'_, A>,
        (window, slots): (&Range<usize>, &Range<usize>),
        columns: Range<usize>,
        mut to: RowsMut<'_, A>,
    ) {
        let weights = scores.columns(window.clone());
        self.window
            .values
            .multiply_long_rows(weights, self.rows.start, columns.clone(), Output::Set, to.reborrow());
        if !slots.is_empty() {
            self.slots
                .values
                .multiply_long_rows(scores.columns(slots.clone()), 0, columns, Output::Add, to);
        }
    }

    /// Adds up window and slots part by part, where there are too many for all scores to be held at once.
    fn add_parts(&self, queries: &Tile<A>, head_dim: usize, scratch: &mut HeadScratch<A>) {
        let HeadScratch { scores, latest, total } = scratch;
        let rows = queries.nrows();
        total.reset(rows, head_dim);
        for start in self.rows.clone().step_by(KEY_BLOCK) {
            let part = start..self.rows.end.min(start + KEY_BLOCK);
            scores.reshape(rows, Runs::of(part.len() + 2 * PANEL_COLS));
            let before = self.window_scores(queries, &part, scores);
            let columns = before..before + part.len();
            add_part(scores, columns, (&self.window.values, start), head_dim, latest, total);
        }
        for start in (0..self.biases.len()).step_by(KEY_BLOCK) {
            let part = start..self.biases.len().min(start + KEY_BLOCK);
            scores.reshape(rows, Runs::of(part.len()));
            let bias = Output::SetWithBias(&self.biases[part.clone()]);
            self.slots
                .keys
                .multiply_tile(queries.rows(), 0, part.clone(), bias, columns_from(scores, 0));
            add_part(scores, 0..part.len(), (&self.slots.values, start), head_dim, latest, total);
        }
    }
}

/// The rows of a tile of one run, from column `first` on.
fn columns_from<A: Scalar>(scores: &mut Tile<A>, first: usize) -> RowsMut<'_, A> {
    let RowsMut { data, stride } = scores.run_mut(0);
    RowsMut {
        data: &mut data[first..],
        stride,
    }
}

fn exponentials<A: Scalar>(scores: &mut Tile<A>, columns: Range<usize>, partial: &mut Partial<A>) {
    let rows = scores.nrows();
    let RowsMut { data, stride } = scores.run_mut(0);
    let data = &mut data[columns.start..][..rows * stride];
    exp_rows(data, columns.len(), stride, &mut partial.maxima, &mut partial.sums);
}

/// Adds what some columns of the scores give with as many rows of `values`.
fn add_part<A: Scalar>(
    scores: &mut Tile<A>,
    columns: Range<usize>,
    (values, first): (&PackedMatrix<A>, usize),
    head_dim: usize,
    latest: &mut Partial<A>,
    total: &mut Total<A>,
) {
    latest.reset(scores.nrows(), head_dim);
    exponentials(scores, columns.clone(), latest);
    for index in 0..Runs::of(head_dim).count() {
        let of_head = Runs::of(head_dim).range(index);
        let to = RowsMut {
            data: &mut latest.products[of_head.start..],
            stride: head_dim,
        };
        let weights = scores.rows().columns(columns.clone());
        values.multiply_long_rows(weights, first, of_head, Output::Set, to);
    }
    total.add(latest, head_dim);
}
