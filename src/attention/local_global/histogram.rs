//! Which segments a causal row sees: an exponential histogram of the blocks before its window.
//!
//! Blocks enter one by one, as segments of one block. A length has at most `slots` segments: when one more comes, its two oldest merge into one of
//! twice the length. So there are `slots` or one less of each length but the longest; segments never get shorter with their distance; and one of
//! 2^l blocks starts at a multiple of 2^l, so that it is a node of the tree whose leaves are the blocks.

use std::ops::Range;

/// The segments of one length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Level {
    /// How many of them there have been.
    pub(super) made: usize,
    /// How many of these have merged into longer ones.
    merged: usize,
}

impl Level {
    /// Which of the segments of its length are left, in the order of their positions.
    pub(super) fn seen(self) -> Range<usize> {
        self.merged..self.made
    }
}

/// The segments of the first `blocks` blocks, length by length, from one block on.
pub(super) fn levels(blocks: usize, slots: usize) -> impl Iterator<Item = Level> {
    let mut made = if slots == 0 { 0 } else { blocks };
    std::iter::from_fn(move || {
        let longer = (made + 1).saturating_sub(slots) / 2;
        let level = Level { made, merged: 2 * longer };
        made = longer;
        (level.made > 0).then_some(level)
    })
}

/// How many segments there have been of all lengths together.
pub(super) fn nodes(blocks: usize, slots: usize) -> usize {
    levels(blocks, slots).map(|level| level.made).sum()
}

/// The number of segments of each length, from one block on, as blocks enter.
#[derive(Clone, Debug, Default)]
pub(super) struct Counts(Vec<usize>);

impl Counts {
    /// Lets the next block enter as the youngest of the segments, which are in order, the oldest first; calls `merge` with the index of each that
    /// the one after it merges into.
    pub(super) fn enter(&mut self, slots: usize, mut merge: impl FnMut(usize)) {
        let mut level = 0;
        loop {
            if level == self.0.len() {
                self.0.push(0);
            }
            self.0[level] += 1;
            if self.0[level] <= slots {
                return;
            }
            merge(self.0[level + 1..].iter().sum());
            self.0[level] -= 2;
            level += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths, in blocks, of what is seen after `blocks` blocks, the oldest first.
    fn seen(blocks: usize, slots: usize) -> Vec<(usize, usize)> {
        let mut segments: Vec<(usize, usize)> = levels(blocks, slots)
            .enumerate()
            .flat_map(|(level, own)| own.seen().rev().map(move |index| (index << level, 1 << level)))
            .collect();
        segments.reverse();
        segments
    }

    #[test]
    fn segments_cover_all_blocks_as_they_do_one_by_one() {
        for slots in 1..=5 {
            let (mut counts, mut entered) = (Counts::default(), Vec::new());
            for blocks in 0..200 {
                assert_eq!(seen(blocks, slots), entered, "{blocks} blocks, {slots} slots");
                entered.push((blocks, 1));
                counts.enter(slots, |index| {
                    let (_, length) = entered.remove(index + 1);
                    assert_eq!(entered[index].1, length);
                    entered[index].1 += length;
                });
            }
        }
        assert_eq!(nodes(100, 0), 0);
    }

    #[test]
    fn a_row_sees_as_many_segments_as_documented() {
        for slots in [1, 2, 8, 64] {
            for blocks in 1..3000_usize {
                let seen = seen(blocks, slots);
                let lengths = blocks.div_ceil(slots).ilog2() as usize + 1;
                assert!(seen.len() <= slots * lengths, "{blocks} blocks, {slots} slots: {}", seen.len());
                assert!(
                    seen.windows(2)
                        .all(|pair| pair[0].1 >= pair[1].1 && pair[0].0 + pair[0].1 == pair[1].0)
                );
                assert!(seen.iter().all(|(first, length)| first % length == 0));
            }
        }
        // The table of LocalGlobalConfig.
        for (positions, documented) in [(1 << 10, [81, 87, 94]), (1 << 16, [123, 173, 385]), (1 << 20, [151, 233, 637])] {
            for (slots, documented) in [8, 16, 64].into_iter().zip(documented) {
                assert_eq!(2 * 32 + seen(positions / 32 - 2, slots).len(), documented);
            }
        }
    }
}
