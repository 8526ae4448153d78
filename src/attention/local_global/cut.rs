//! How a sequence is cut into blocks and segments.

use std::ops::Range;

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
    has_window: bool,
}

impl Cut {
    pub(super) fn new(config: &LocalGlobalConfig, length: usize) -> Self {
        let segment = config.segment_len(length);
        Self {
            length,
            block: config.block,
            segment,
            segments: if config.slots == 0 { 0 } else { length.div_ceil(segment) },
            has_window: config.window,
        }
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
        self.block(block.saturating_sub(1)).start..self.block(block + 1).end
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
        segment * self.segment..((segment + 1) * self.segment).min(self.length)
    }

    /// The blocks outside `window` of a segment, where it has whole blocks.
    pub(super) fn blocks_outside(&self, segment: usize, window: &Range<usize>) -> impl Iterator<Item = usize> {
        let (block, window) = (self.block, window.clone());
        let positions = if self.segment > block { self.segment(segment) } else { 0..0 };
        (positions.start / block..positions.end.div_ceil(block)).filter(move |index| !window.contains(&(index * block)))
    }
}
