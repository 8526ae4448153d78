//! Assignment of positions to ranks.

use std::ops::Range;

use super::team::digest;
use crate::error::{Error, Result};

/// How the positions of a sequence, and with them the columns of E and F, are spread over ranks: a range for each, one after the other.
///
/// A sequence shorter than all of them fills the first ranges; later ranks then have fewer positions, or none.
///
/// ```
/// use linformer::distributed::Shards;
///
/// let shards = Shards::even(10, 3)?;
/// assert_eq!([shards.range(0), shards.range(1), shards.range(2)], [0..3, 3..6, 6..10]);
/// assert_eq!(shards.part(1, 5), 3..5);
/// assert_eq!(shards.part(2, 5), 5..5);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// Where each rank's range begins, and where the last ends.
    bounds: Vec<usize>,
}

impl Shards {
    /// Ranges over `length` positions that differ in size by one at most.
    ///
    /// # Errors
    /// Returns an error if there are no ranks, or more than memory has room for.
    pub fn even(length: usize, ranks: usize) -> Result<Self> {
        let bound = |rank: usize| (rank as u128 * length as u128 / ranks.max(1) as u128) as usize;
        let mut bounds = Vec::new();
        bounds.try_reserve(ranks.saturating_add(1)).map_err(|_| Error::Overflow {
            operation: "Shards::even",
            sizes: vec![ranks, size_of::<usize>()],
        })?;
        bounds.extend((0..=ranks).map(bound));
        Self::of(bounds)
    }

    /// Ranges of these lengths, rank by rank.
    ///
    /// # Errors
    /// Returns an error if there are no ranks, or if the sum of the lengths overflows.
    pub fn from_lengths(lengths: &[usize]) -> Result<Self> {
        let mut bounds = vec![0_usize];
        for &length in lengths {
            let end = bounds.last().and_then(|&start| start.checked_add(length));
            bounds.push(end.ok_or_else(|| Error::Overflow {
                operation: "Shards::from_lengths",
                sizes: lengths.to_vec(),
            })?);
        }
        Self::of(bounds)
    }

    fn of(bounds: Vec<usize>) -> Result<Self> {
        if bounds.len() < 2 {
            return Err(Error::argument("Shards", "there must be at least one rank"));
        }
        Ok(Self { bounds })
    }

    /// Returns the number of ranks.
    pub fn ranks(&self) -> usize {
        self.bounds.len() - 1
    }

    /// Returns the number of positions of all ranks.
    pub fn total(&self) -> usize {
        self.bounds.last().copied().unwrap_or(0)
    }

    /// Returns the positions of `rank`; none if there is no such rank.
    pub fn range(&self, rank: usize) -> Range<usize> {
        let bound = |rank: usize| self.bounds.get(rank).copied().unwrap_or_else(|| self.total());
        bound(rank)..bound(rank.saturating_add(1))
    }

    /// Returns the positions that `rank` has of a sequence of `length`.
    pub fn part(&self, rank: usize, length: usize) -> Range<usize> {
        let range = self.range(rank);
        range.start.min(length)..range.end.min(length)
    }

    pub(super) fn digest(&self) -> u64 {
        digest(self.bounds.iter().flat_map(|bound| bound.to_le_bytes()))
    }
}
