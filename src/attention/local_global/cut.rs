//! How a sequence is cut into blocks and segments.

use std::ops::Range;

use super::histogram;
use crate::config::LocalGlobalConfig;

/// The blocks and the segments of one item.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// One past the last real position.
    pub(super) length: usize,
    /// The positions of a block, and of a segment; both are powers of two.
    pub(super) block: usize,
    pub(super) segment: usize,
    pub(super) segments: usize,
    pub(super) has_window: bool,
    /// The most segments of each length of a causal sequence, whose segments are those that any row sees, in the order of [`histogram::nodes`].
    causal: Option<usize>,
    /// All positions, padding at the end too: what a row of a causal sequence sees depends on its position alone.
    pub(super) positions: usize,
}

impl Cut {
    /// The cut of a sequence of `positions`, of which the real ones end at `length`.
    pub(super) fn new(config: &LocalGlobalConfig, length: usize, positions: usize) -> Self {
        if config.attention.causal {
            return Self::causal(config, length, positions);
        }
        let segment = config.segment_len(length);
        Self {
            length,
            block: config.block,
            segment,
            segments: if config.slots == 0 { 0 } else { length.div_ceil(segment) },
            has_window: config.window,
            causal: None,
            positions,
        }
    }

    fn causal(config: &LocalGlobalConfig, length: usize, positions: usize) -> Self {
        let mut cut = Self {
            length,
            block: config.block,
            segment: config.block,
            segments: 0,
            has_window: true,
            causal: Some(config.slots),
            positions,
        };
        cut.segments = histogram::nodes(cut.pooled_blocks(), config.slots);
        cut
    }

    pub(super) fn is_causal(&self) -> bool {
        self.causal.is_some()
    }

    /// How many blocks, from the first on, have a part in segments.
    pub(super) fn pooled_blocks(&self) -> usize {
        if self.is_causal() {
            self.positions.div_ceil(self.block).saturating_sub(2)
        } else {
            self.blocks()
        }
    }

    /// Writes which segments the rows of block `block` of a causal sequence see, the oldest first.
    pub(super) fn write_seen(&self, block: usize, segments: &mut Vec<usize>) {
        segments.clear();
        let Some(slots) = self.causal else { return };
        let all = histogram::levels(self.pooled_blocks(), slots);
        let own = histogram::levels(block.saturating_sub(1), slots);
        let mut first = 0;
        for (all, own) in all.zip(own) {
            segments.extend(own.seen().rev().map(|index| first + index));
            first += all.made;
        }
        segments.reverse();
    }

    /// The most segments that a row sees.
    pub(super) fn most_seen(&self) -> usize {
        let Some(slots) = self.causal else { return self.segments };
        let levels = histogram::levels(self.pooled_blocks(), slots).count();
        self.segments.min(slots.saturating_mul(levels))
    }

    /// How many segments of each length there are in a causal sequence, from one block on.
    pub(super) fn levels(&self) -> impl Iterator<Item = usize> {
        let slots = self.causal.unwrap_or(0);
        histogram::levels(self.pooled_blocks(), slots).map(|level| level.made)
    }

    pub(super) fn blocks(&self) -> usize {
        self.length.div_ceil(self.block)
    }

    /// The positions of block `block`.
    pub(super) fn block(&self, block: usize) -> Range<usize> {
        let at = |block: usize| block.saturating_mul(self.block).min(self.length);
        at(block)..at(block + 1)
    }

    /// The positions that the rows of block `block` see exactly.
    pub(super) fn window(&self, block: usize) -> Range<usize> {
        if !self.has_window {
            return 0..0;
        }
        let last = if self.is_causal() { block } else { block + 1 };
        self.block(block.saturating_sub(1)).start..self.block(last).end
    }

    /// The segments that have positions in `window`.
    pub(super) fn touched(&self, window: &Range<usize>) -> Range<usize> {
        if window.is_empty() || self.segments == 0 {
            return 0..0;
        }
        window.start / self.segment..window.end.div_ceil(self.segment)
    }

    /// The positions of a segment.
    pub(super) fn segment(&self, segment: usize) -> Range<usize> {
        if self.is_causal() {
            return self.causal_segment(segment);
        }
        segment * self.segment..((segment + 1) * self.segment).min(self.length)
    }

    fn causal_segment(&self, segment: usize) -> Range<usize> {
        let mut index = segment;
        for (level, made) in self.levels().enumerate() {
            if index < made {
                let length = self.block << level;
                return (index * length).min(self.length)..((index + 1) * length).min(self.length);
            }
            index -= made;
        }
        self.length..self.length
    }

    /// The blocks outside `window` of a segment, where it has whole blocks.
    pub(super) fn blocks_outside(&self, segment: usize, window: &Range<usize>) -> impl Iterator<Item = usize> + Clone {
        let (block, window) = (self.block, window.clone());
        let positions = if self.segment > block { self.segment(segment) } else { 0..0 };
        (positions.start / block..positions.end.div_ceil(block)).filter(move |index| !window.contains(&(index * block)))
    }
}
