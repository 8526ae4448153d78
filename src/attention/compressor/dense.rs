//! Adding a chunk of positions to sums that every position has a weight of its own in: E·X, E being learned or random.

use std::ops::Range;

use ndarray::{ArrayView3, ArrayViewMut4, s};

use super::super::projection::Form;
use super::accumulate::{SegmentScratch, copied};
use super::finish::FinishScratch;
use super::{Compressor, RealRows, SEGMENT};
use crate::ops::{Aligned, Rows, RowsMut, Runs, Tile, accumulate_panels, pack_panels, pack_segment, panels_len};
use crate::parallel::{self, Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Numbers of X that are packed before they are multiplied: a few segments, so that every thread has work.
const PACKED_NUMBERS: usize = 1 << 20;
/// Rows of E that one task multiplies, a few blocks of the kernels.
const TASK_ROWS: usize = 24;

/// Scratch space of a compression, kept from chunk to chunk.
#[derive(Debug)]
pub(crate) struct CompressionScratch<A> {
    panels: Aligned<A>,
    copies: Pool<Vec<A>>,
    /// Some rows of E in one segment. All of E is not kept packed, since that would be as much again as the model has.
    left: Pool<Tile<A>>,
    pub(super) finished: Pool<FinishScratch<A>>,
    pub(super) segments: Pool<SegmentScratch<A>>,
}

impl<A: Scalar> Default for CompressionScratch<A> {
    fn default() -> Self {
        Self {
            panels: Aligned::default(),
            copies: Pool::default(),
            left: Pool::default(),
            finished: Pool::default(),
            segments: Pool::default(),
        }
    }
}

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
        let segments = self.segments();
        let together = (PACKED_NUMBERS / size).max(1);
        let items = (together / segments.max(1)).max(1);
        (0..batch).step_by(items).flat_map(move |item| {
            (0..segments).step_by(together).map(move |segment| Round {
                items: item..batch.min(item + items),
                segments: segment..segments.min(segment + together),
                size,
            })
        })
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
        let forms = [&self.projections.key().form, &self.projections.value().form];
        let cost = parallel::cost(&[self.batch, x.dim().1, x.dim().2, self.config.k, self.sides.len()]);
        for round in chunk.rounds() {
            let needed = round.items.len() * round.segments.len() * round.size;
            let panels = panels.resize(needed);
            chunk.pack(&round, panels, copies);
            let sides = Chunks {
                slice: &mut self.sides,
                size: 1,
            };
            for_each_part(sides, cost, |side, part| {
                let sums = part.slice[0].sums.slice_mut(s![round.items.clone(), .., .., ..]);
                for_each_row_block(sums, cost, |item, matrix, first, mut sums| {
                    let Form::Dense { matrix: weights, .. } = forms[side] else { return };
                    let count = sums.dim().2;
                    let weights = weights.slice(s![matrix, first..first + count, ..]);
                    left.with(|left| {
                        for (within, segment) in round.segments.clone().enumerate() {
                            let range = chunk.segment(round.items.start + item, segment);
                            if range.is_empty() {
                                continue;
                            }
                            let weights = weights.slice(s![.., start + range.start..start + range.end]);
                            left.fill(weights, Runs::of(range.len()));
                            let pair = item * round.segments.len() + within;
                            let panels = &panels[pair * round.size..];
                            let stride = x.dim().2;
                            let data = sums.as_slice_mut().expect("sums are contiguous, row by row");
                            accumulate_panels(left.rows(), panels, stride, RowsMut { data, stride });
                        }
                    });
                });
            });
        }
    }
}

/// Calls `work` for blocks of rows of (items, matrices, rows, columns) sums, told the item, the matrix and the first row.
fn for_each_row_block<A: Scalar>(sums: ArrayViewMut4<'_, A>, cost: usize, work: impl Fn(usize, usize, usize, ArrayViewMut4<'_, A>) + Sync) {
    for_each_part(along(sums, 0, 1), cost, |item, part| {
        for_each_part(along(part.view, 1, 1), cost, |matrix, part| {
            for_each_part(along(part.view, 2, TASK_ROWS), cost, |block, part| {
                work(item, matrix, block * TASK_ROWS, part.view);
            });
        });
    });
}
