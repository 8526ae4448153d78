//! Keys, values and slots of one item, packed for the tiles of rows that attend to them.

use std::ops::Range;

use ndarray::ArrayView2;

use super::super::heads::scale;
use super::super::partial::{HeadScratch, Partial};
use super::block::Slots;
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
    /// (rows, `head_dim`); of a causal window without the rows that are not finite, which only those who see them may touch.
    values: PackedMatrix<A>,
    /// Those rows, and their numbers.
    wild: Vec<(usize, Vec<A>)>,
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
            wild: Vec::new(),
        }
    }
}

impl<A: Scalar> PackedPair<A> {
    fn repack(&mut self, keys: &[A], values: &[A], head_dim: usize) {
        let view = |rows| ArrayView2::from_shape((keys.len() / head_dim, head_dim), rows).expect("whole rows");
        self.keys.repack(view(keys).t(), scale(head_dim));
        self.values.repack(view(values), A::one());
        self.wild.clear();
    }

    /// [`repack`](Self::repack) of a causal window.
    fn repack_causal(&mut self, keys: &[A], values: &[A], head_dim: usize) {
        let is_wild = |row: &&[A]| !row.iter().fold(A::zero(), |sum, &number| sum + number * A::zero()).is_finite();
        let rows = values.chunks_exact(head_dim).enumerate();
        let wild: Vec<_> = rows
            .filter(|(_, row)| is_wild(row))
            .map(|(index, row)| (index, row.to_vec()))
            .collect();
        if wild.is_empty() {
            return self.repack(keys, values, head_dim);
        }
        let mut finite = values.to_vec();
        for (row, _) in &wild {
            finite[row * head_dim..(row + 1) * head_dim].fill(A::zero());
        }
        self.repack(keys, &finite, head_dim);
        self.wild = wild;
    }
}

/// Scratch space for one block of rows of one head.
#[derive(Debug)]
pub(crate) struct BlockScratch<A> {
    queries: Tile<A>,
    slots: Slots<A>,
    /// The slots, where they are not all segments.
    packed: PackedPair<A>,
    /// How many keys of the window each row sees, where they are not all.
    visible: Vec<usize>,
    head: HeadScratch<A>,
}

impl<A: Scalar> Default for BlockScratch<A> {
    fn default() -> Self {
        Self {
            queries: Tile::default(),
            slots: Slots::default(),
            packed: PackedPair::default(),
            visible: Vec::new(),
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
    /// How many keys of the window each row sees, from its first on; nothing where all see all.
    visible: &'p [usize],
}

impl<A: Scalar> PackedItem<A> {
    /// Replaces everything by one item, without allocating where the memory suffices.
    pub(super) fn repack(&mut self, item: &ItemContext<A>) {
        let ItemContext {
            kv_heads, head_dim, count, ..
        } = *item;
        self.window.resize_with(kv_heads, PackedPair::default);
        // The slots of causal rows are packed block by block.
        let pooled = if item.cut.is_causal() { &[] } else { &item.pooled[..] };
        self.slots.resize_with(pooled.len(), PackedPair::default);
        let size = count * head_dim;
        let cost = parallel::cost(&[kv_heads, size, 32]);
        let parts = Chunks {
            slice: &mut self.window,
            size: 1,
        };
        for_each_part(parts, cost, |head, part| {
            let own = head * size..(head + 1) * size;
            let (keys, values) = (&item.keys[own.clone()], &item.values[own]);
            if item.cut.is_causal() {
                part.slice[0].repack_causal(keys, values, head_dim);
            } else {
                part.slice[0].repack(keys, values, head_dim);
            }
        });
        let cost = parallel::cost(&[pooled.len(), item.cut.segments, head_dim, 32]);
        let parts = Chunks {
            slice: &mut self.slots,
            size: 1,
        };
        for_each_part(parts, cost, |head, part| {
            let pooled = &pooled[head];
            part.slice[0].repack(&pooled.keys, &pooled.values, head_dim);
        });
    }

    /// Replaces every head's queries, those of the rows that attend from row `first` on, by what they attend to.
    pub(super) fn attend(&self, item: &ItemContext<A>, first: usize, heads: usize, queries: &mut Tile<A>, scratch: &mut BlockScratch<A>) {
        let first = item.first() + first;
        let none = PackedPair::default();
        let BlockScratch {
            queries: own,
            slots,
            packed,
            visible,
            head: scratch,
        } = scratch;
        for head in 0..heads {
            for (index, rows) in item.blocks_of(first..first + queries.nrows()) {
                slots.take(item, head, index);
                if item.cut.is_causal() {
                    packed.repack(&slots.keys, &slots.values, item.head_dim);
                }
                let window = item.rows_of(&item.cut.window(index));
                visible.clear();
                if item.cut.is_causal() {
                    visible.extend(rows.clone().map(|row| item.visible(row, &window)));
                }
                let view = BlockView {
                    window: &self.window[head * item.kv_heads / heads],
                    rows: window,
                    slots: if item.cut.is_causal() {
                        packed
                    } else {
                        self.slots.get(head).unwrap_or(&none)
                    },
                    biases: &slots.biases,
                    visible,
                };
                view.attend(queries, head, rows.start - first..rows.end - first, (own, scratch));
            }
        }
    }
}

impl<A: Scalar> BlockView<'_, A> {
    fn attend(&self, queries: &mut Tile<A>, head: usize, rows: Range<usize>, (own, scratch): (&mut Tile<A>, &mut HeadScratch<A>)) {
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
            self.multiply_window(scores.rows().columns(window.clone()), &self.rows, columns.clone(), to.reborrow());
            if !slots.is_empty() {
                let weights = scores.rows().columns(slots.clone());
                self.slots
                    .values
                    .multiply_long_rows(weights, 0, columns, Output::Add, to.reborrow());
            }
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
        let before = rows.start - first;
        let RowsMut { data, stride } = columns_from(scores, before);
        for (scores, &visible) in data.chunks_mut(stride).zip(self.visible) {
            let seen = (self.rows.start + visible).clamp(rows.start, rows.end) - rows.start;
            scores[seen..rows.len()].fill(A::neg_infinity());
        }
        before
    }

    /// c ← the weights of the keys `rows`, which are all or some of the window's, times their values.
    fn multiply_window(&self, weights: TileRows<'_, A>, rows: &Range<usize>, columns: Range<usize>, mut c: RowsMut<'_, A>) {
        self.window
            .values
            .multiply_long_rows(weights, rows.start, columns.clone(), Output::Set, c.reborrow());
        for (wild, numbers) in self.window.wild.iter().filter(|(wild, _)| rows.contains(wild)) {
            for (row, &visible) in self.visible.iter().enumerate() {
                if wild - self.rows.start < visible {
                    let weight = weights.row(row)[wild - rows.start];
                    let to = &mut c.data[row * c.stride..][..columns.len()];
                    to.iter_mut()
                        .zip(&numbers[columns.clone()])
                        .for_each(|(to, &number)| *to += weight * number);
                }
            }
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
            latest.reset(rows, head_dim);
            exponentials(scores, columns.clone(), latest);
            for_each_run(head_dim, latest, |of_head, to| {
                self.multiply_window(scores.rows().columns(columns.clone()), &part, of_head, to);
            });
            total.add(latest, head_dim);
        }
        for start in (0..self.biases.len()).step_by(KEY_BLOCK) {
            let part = start..self.biases.len().min(start + KEY_BLOCK);
            scores.reshape(rows, Runs::of(part.len()));
            let bias = Output::SetWithBias(&self.biases[part.clone()]);
            self.slots
                .keys
                .multiply_tile(queries.rows(), 0, part.clone(), bias, columns_from(scores, 0));
            latest.reset(rows, head_dim);
            exponentials(scores, 0..part.len(), latest);
            for_each_run(head_dim, latest, |of_head, to| {
                let weights = scores.rows().columns(0..part.len());
                self.slots.values.multiply_long_rows(weights, start, of_head, Output::Set, to);
            });
            total.add(latest, head_dim);
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

/// Calls `put` with the columns of a head, run by run, and the place of their products.
fn for_each_run<A: Scalar>(head_dim: usize, latest: &mut Partial<A>, mut put: impl FnMut(Range<usize>, RowsMut<'_, A>)) {
    for index in 0..Runs::of(head_dim).count() {
        let of_head = Runs::of(head_dim).range(index);
        let to = RowsMut {
            data: &mut latest.products[of_head.start..],
            stride: head_dim,
        };
        put(of_head, to);
    }
}
