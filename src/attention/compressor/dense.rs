//! Adding a chunk of positions to sums in which every position has its own weight: E·X, E being learned or random.

use std::ops::Range;

use ndarray::{Array3, ArrayView3, ArrayViewMut4, s};

use super::super::projection::ProjectionWeights;
use super::rows::{RealRows, copied};
use super::scratch::CompressionScratch;
use super::sums::PositionSums;
use super::{Compressor, SEGMENT};
use crate::ops::{Output, Rows, RowsMut, Runs, Tile, multiply_panels, pack_panels, pack_segment, panels_len};
use crate::parallel::{self, Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Numbers of X that are packed before they are multiplied: a few segments, so that every thread has work.
const PACKED_NUMBERS: usize = 1 << 20;
/// Rows of E that one task multiplies, a few blocks of the kernels.
const TASK_ROWS: usize = 24;
/// Segments of a sequence whose sums are added in the element type, before they are moved to those in `f64`. A power of two, since rounds
/// do not straddle them.
const FOLDED: usize = 8;

/// Some segments of some items, whose rows are packed together.
#[derive(Clone, Debug)]
struct Round {
    items: Range<usize>,
    segments: Range<usize>,
    /// Numbers that a packed segment takes.
    size: usize,
}

/// The rows of a chunk that starts at position `start`.
#[derive(Clone, Copy)]
struct Chunk<'c, 'm, A> {
    x: ArrayView3<'c, A>,
    start: usize,
    rows: &'c [RealRows<'m>],
}

impl<A: Scalar> Chunk<'_, '_, A> {
    /// Segments that are complete before the chunk starts.
    fn before(&self) -> usize {
        self.start / SEGMENT
    }

    fn segments(&self) -> usize {
        (self.start % SEGMENT + self.x.dim().1).div_ceil(SEGMENT)
    }

    /// The rows of an item that fall into a segment, up to its last real one.
    fn segment(&self, item: usize, segment: usize) -> Range<usize> {
        let before = self.start % SEGMENT;
        let from = (segment * SEGMENT).saturating_sub(before);
        let to = ((segment + 1) * SEGMENT - before).min(self.rows[item].end);
        from..to.max(from)
    }

    /// The rounds that the chunk is packed in.
    fn rounds(&self) -> impl Iterator<Item = Round> + use<A> {
        let (batch, length, dim) = self.x.dim();
        let size = panels_len::<A>(length.min(SEGMENT), dim).max(1);
        let (before, segments) = (self.before(), self.segments());
        let together = 1 << (PACKED_NUMBERS / size).clamp(1, FOLDED).ilog2();
        let items = (PACKED_NUMBERS / size / segments.clamp(1, together)).max(1);
        (0..batch).step_by(items).flat_map(move |item| {
            let groups = before / together..(before + segments).div_ceil(together);
            groups.map(move |group| Round {
                items: item..batch.min(item + items),
                segments: (group * together).max(before) - before..((group + 1) * together).min(before + segments) - before,
                size,
            })
        })
    }

    /// Whether the sums are moved to those in `f64` after a segment.
    fn folds_after(&self, segment: usize) -> bool {
        (self.before() + segment + 1).is_multiple_of(FOLDED)
    }

    /// Packs the segments of a round, one after the other, padding as zeros.
    fn pack(&self, round: &Round, panels: &mut [A], copies: &Pool<Vec<A>>) {
        let (_, length, dim) = self.x.dim();
        let cost = parallel::cost(&[panels.len(), 8]);
        let parts = Chunks {
            slice: panels,
            size: round.size,
        };
        for_each_part(parts, cost, |pair, part| {
            let item = round.items.start + pair / round.segments.len();
            let range = self.segment(item, round.segments.start + pair % round.segments.len());
            if range.is_empty() {
                return;
            }
            let in_place = self.x.as_slice().filter(|_| self.rows[item].holes.is_none());
            if let Some(data) = in_place {
                let x = Rows {
                    data: &data[(item * length + range.start) * dim..],
                    stride: dim,
                    count: range.len(),
                };
                return pack_segment(x, dim, part.slice, cost);
            }
            copies.with(|copy| {
                let x = self.x.slice(s![item, range.clone(), ..]);
                pack_panels(copied(x, range.start, &self.rows[item], copy), dim, part.slice);
            });
        });
    }
}

impl<A: Scalar> Compressor<'_, A> {
    /// sums += E·X. X is packed once for all rows of E and F; tasks have some of these rows each.
    pub(super) fn compress_dense(
        &mut self,
        x: ArrayView3<'_, A>,
        start: usize,
        rows: &[RealRows<'_>],
        scratch: &mut CompressionScratch<A>,
    ) {
        let chunk = Chunk { x, start, rows };
        let CompressionScratch { panels, copies, left, .. } = scratch;
        copies.prepare();
        left.prepare();
        if (0..chunk.segments()).any(|segment| chunk.folds_after(segment)) {
            self.totals.sums.iter_mut().for_each(PositionSums::lengthen);
        }
        let weights = [&self.projections.key().weights, &self.projections.value().weights];
        let cost = parallel::cost(&[self.batch, x.dim().1, x.dim().2, self.config.k, self.totals.sums.len()]);
        for round in chunk.rounds() {
            let needed = round.items.len() * round.segments.len() * round.size;
            let panels = panels.resize(needed);
            chunk.pack(&round, panels, copies);
            let panels = &*panels;
            let parts = Chunks {
                slice: &mut self.totals.sums,
                size: 1,
            };
            for_each_part(parts, cost, |index, part| {
                let ProjectionWeights::Dense { matrix, .. } = weights[index] else {
                    return;
                };
                let round = RoundProduct {
                    chunk,
                    round: &round,
                    matrix,
                    panels,
                };
                let items = s![round.round.items.clone(), .., .., ..];
                for_each_row_block(part.slice[0].values.slice_mut(items), cost, |place, mut sums| {
                    let sums = sums.as_slice_mut().expect("sums are contiguous, row by row");
                    left.with(|left| round.add(place, sums, left));
                });
            });
            if round.segments.clone().last().is_some_and(|segment| chunk.folds_after(segment)) {
                self.totals.sums.iter_mut().for_each(|sums| sums.fold(round.items.clone()));
            }
        }
    }
}

/// A block of rows of the sums.
#[derive(Clone, Copy)]
struct RowBlock {
    /// Counted from the round's first.
    item: usize,
    matrix: usize,
    first: usize,
}

/// E·X of the rows of a round.
#[derive(Clone, Copy)]
struct RoundProduct<'r, 'c, 'm, A> {
    chunk: Chunk<'c, 'm, A>,
    round: &'r Round,
    matrix: &'r Array3<A>,
    panels: &'r [A],
}

impl<A: Scalar> RoundProduct<'_, '_, '_, A> {
    /// Adds the product to a block of rows of the sums, segment by segment.
    fn add(&self, RowBlock { item, matrix, first }: RowBlock, sums: &mut [A], left: &mut Tile<A>) {
        let Self { chunk, round, panels, .. } = *self;
        let stride = chunk.x.dim().2;
        let weights = self.matrix.slice(s![matrix, first..first + sums.len() / stride.max(1), ..]);
        for (within, segment) in round.segments.clone().enumerate() {
            let range = chunk.segment(round.items.start + item, segment);
            if range.is_empty() {
                continue;
            }
            let weights = weights.slice(s![.., chunk.start + range.start..chunk.start + range.end]);
            left.fill(weights, Runs::of(range.len()));
            let panels = &panels[(item * round.segments.len() + within) * round.size..];
            multiply_panels(left.rows(), panels, stride, Output::Add, RowsMut { data: sums, stride });
        }
    }
}

/// Calls `work` for blocks of rows of (items, matrices, rows, columns) sums.
fn for_each_row_block<T: Send + Sync>(sums: ArrayViewMut4<'_, T>, cost: usize, work: impl Fn(RowBlock, ArrayViewMut4<'_, T>) + Sync) {
    for_each_part(along(sums, 0, 1), cost, |item, part| {
        for_each_part(along(part.view, 1, 1), cost, |matrix, part| {
            for_each_part(along(part.view, 2, TASK_ROWS), cost, |block, part| {
                let first = block * TASK_ROWS;
                work(RowBlock { item, matrix, first }, part.view);
            });
        });
    });
}
