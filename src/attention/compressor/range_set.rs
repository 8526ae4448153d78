//! Sets of positions.

use crate::error::{Error, Result};

/// Ranges of positions, in order and apart.
#[derive(Clone, Debug, Default)]
pub(super) struct RangeSet {
    ranges: Vec<(usize, usize)>,
}

impl RangeSet {
    pub(super) fn clear(&mut self) {
        self.ranges.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn contains(&self, position: usize) -> bool {
        self.ranges.iter().any(|&(start, end)| (start..end).contains(&position))
    }

    /// Whether all of start..end is covered.
    pub(super) fn covers(&self, start: usize, end: usize) -> bool {
        self.ranges.iter().any(|range| range.0 <= start && end <= range.1)
    }

    /// An error where `range` overlaps what is covered.
    pub(super) fn check_apart(&self, range: (usize, usize), operation: &'static str) -> Result<()> {
        match self.ranges.iter().find(|&&(start, end)| range.0 < end && start < range.1) {
            Some((start, end)) => Err(Error::argument(
                operation,
                format!(
                    "positions {} to {} overlap {start} to {end}, which were pushed already; give parts positions of their own with starting_at",
                    range.0, range.1
                ),
            )),
            None => Ok(()),
        }
    }

    /// An error where any range of `other` overlaps what is covered.
    pub(super) fn check_all_apart(&self, other: &Self, operation: &'static str) -> Result<()> {
        other.ranges.iter().try_for_each(|&range| self.check_apart(range, operation))
    }

    /// Adds a range, joining neighbors.
    pub(super) fn insert(&mut self, range: (usize, usize)) {
        if range.0 == range.1 {
            return;
        }
        self.ranges.push(range);
        self.ranges.sort_unstable();
        self.ranges.dedup_by(|next, last| {
            let touches = last.1 == next.0;
            if touches {
                last.1 = next.1;
            }
            touches
        });
    }

    /// Adds all ranges of `other`.
    pub(super) fn insert_all(&mut self, other: Self) {
        for range in other.ranges {
            self.insert(range);
        }
    }
}
