//! Where the shards of a sequence meet: which positions each of them sees, and what it needs of the others.

use std::ops::Range;

use super::cut::Cut;
use super::item::ItemContext;
use crate::scalar::Scalar;

/// The seams between the shards of one item, which all shards know alike.
///
/// The rows of a shard see exactly the blocks that they lie in, and one more on either side. These blocks are near the shard. The positions of others
/// among them lie in zones around the seams, which all shards exchange, however they are cut. A segment of several blocks may also have some that are
/// not near: the shard learns of these only what they weigh together.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seams {
    /// Which of the shards this is.
    pub(super) index: usize,
    /// Its positions, up to the last real one of the item.
    pub(super) own: Range<usize>,
    /// The position of its first row.
    pub(super) first: usize,
    /// The positions near each shard; none where its rows see nothing exactly.
    near: Vec<Range<usize>>,
    /// The zones in order, of whole blocks up to the last real position, and how many positions are in those before.
    zones: Vec<(Range<usize>, usize)>,
}

impl Seams {
    /// The seams of an item whose shards begin at `bounds`, of which the last is the end of them all.
    pub(super) fn new(cut: &Cut, bounds: &[usize], index: usize) -> Self {
        let at = |bound: usize| bounds.get(bound).copied().unwrap_or(0);
        let (first, end) = (at(index), at(index + 1));
        let mut seams = Self {
            index,
            own: first.min(cut.length)..end.min(cut.length),
            first,
            near: vec![0..0; bounds.len().saturating_sub(1)],
            zones: Vec::new(),
        };
        if !cut.has_window {
            return seams;
        }
        for (near, bounds) in seams.near.iter_mut().zip(bounds.windows(2)) {
            if bounds[0] < bounds[1] {
                *near = blocks_around(cut, bounds[0], bounds[1]);
            }
        }
        let all = bounds.last().copied().unwrap_or(0);
        for &bound in bounds.iter().filter(|&&bound| 0 < bound && bound < all) {
            seams.add_zone(blocks_around(cut, bound, bound));
        }
        seams
    }

    fn add_zone(&mut self, zone: Range<usize>) {
        match self.zones.last_mut() {
            Some((last, _)) if zone.start <= last.end => last.end = last.end.max(zone.end),
            last => {
                let before = last.map_or(0, |(last, before)| *before + last.len());
                self.zones.push((zone, before));
            }
        }
    }

    /// The number of shards.
    pub(super) fn shards(&self) -> usize {
        self.near.len()
    }

    /// The positions whose keys and values this shard holds.
    pub(super) fn held(&self) -> Range<usize> {
        let near = &self.near[self.index];
        if near.is_empty() { self.own.clone() } else { near.clone() }
    }

    /// How many positions are in zones.
    pub(super) fn zone_len(&self) -> usize {
        self.zones.last().map_or(0, |(last, before)| before + last.len())
    }

    /// The positions in zones, in order.
    pub(super) fn zone_positions(&self) -> impl Iterator<Item = usize> {
        self.zones.iter().flat_map(|(zone, _)| zone.clone())
    }

    /// The blocks in zones, in order.
    pub(super) fn zone_blocks(&self, block: usize) -> impl Iterator<Item = usize> {
        self.zones
            .iter()
            .flat_map(move |(zone, _)| zone.start / block..zone.end.div_ceil(block))
    }

    /// Which of the positions in zones this is.
    pub(super) fn place_of(&self, position: usize) -> Option<usize> {
        let zone = self.zones.partition_point(|(zone, _)| zone.end <= position);
        let (zone, before) = self.zones.get(zone)?;
        zone.contains(&position).then(|| before + position - zone.start)
    }

    /// The positions that are not near a shard of the segments in which what is near it begins and ends: whole blocks before and after it.
    pub(super) fn far(&self, cut: &Cut, shard: usize) -> [Range<usize>; 2] {
        let near = &self.near[shard];
        if near.is_empty() || cut.segment <= cut.block || cut.segments == 0 {
            return [0..0, 0..0];
        }
        let whole = |segment: usize| cut.segment(segment);
        let (first, last) = (near.start / cut.segment, (near.end - 1) / cut.segment);
        [whole(first).start..near.start, near.end..whole(last).end]
    }
}

/// The blocks of the positions `start..end`, or of the two around one, and one more on either side, up to the last real position.
fn blocks_around(cut: &Cut, start: usize, end: usize) -> Range<usize> {
    let at = |block: usize| block.saturating_mul(cut.block).min(cut.length);
    at((start / cut.block).saturating_sub(1))..at(end.div_ceil(cut.block).saturating_add(1))
}

impl<A: Scalar> ItemContext<A> {
    /// The position of the first row that attends.
    pub(super) fn first(&self) -> usize {
        self.seams.as_ref().map_or(0, |seams| seams.first)
    }

    /// The positions of the rows that attend.
    pub(super) fn own(&self) -> &Range<usize> {
        self.seams.as_ref().map_or(&self.held, |seams| &seams.own)
    }

    /// The blocks that are held.
    pub(super) fn held_blocks(&self) -> Range<usize> {
        self.held.start / self.cut.block..self.held.end.div_ceil(self.cut.block)
    }

    /// The place, among the blocks held, of the one in which a row of the keys lies.
    pub(super) fn place_of_block(&self, row: usize) -> usize {
        self.position_of(row) / self.cut.block - self.held_blocks().start
    }

    /// The places, among the blocks held, of those of a segment of several blocks that are outside the window.
    pub(super) fn blocks_outside(&self, segment: usize, window: &Range<usize>) -> impl Iterator<Item = usize> + Clone {
        let held = self.held_blocks();
        let first = held.start;
        self.cut
            .blocks_outside(segment, window)
            .filter(move |block| held.contains(block))
            .map(move |block| block - first)
    }

    /// The places, among those of all shards, of what this one learns of the rest of a segment of several blocks, before and after what it holds.
    pub(super) fn far_of(&self, segment: usize) -> impl Iterator<Item = usize> + Clone {
        let places = match &self.seams {
            Some(seams) if self.cut.segment > self.cut.block => {
                let (whole, first) = (self.cut.segment(segment), 2 * seams.index);
                let (before, after) = (whole.start < self.held.start, whole.end > self.held.end);
                first + usize::from(!before)..first + 1 + usize::from(after)
            }
            _ => 0..0,
        };
        places.into_iter()
    }
}
