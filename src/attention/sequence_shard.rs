//! Sequences whose positions are spread over several holders, each of which has a part, and the exchanges that complete their sums.

use super::projection::Projections;
use crate::buffer_pool::Buffers;
use crate::error::Result;

/// One holder's part of a batch of sequences. All holders call the same methods in the same order.
pub(crate) trait Part<A> {
    /// Whether it is the first of all parts.
    fn is_first(&self) -> bool;

    /// The position of the part's first row.
    fn offset(&self) -> usize;

    /// One past the last real position of each item, over all parts.
    fn lengths(&self) -> &[usize];

    /// How many tokens that are no padding each item has before this part; read by positions that count them.
    fn tokens_before(&self) -> &[usize];

    /// Replaces every number by its sum over all parts.
    ///
    /// # Errors
    /// Returns an error if a number of any part is not finite, or if another part failed.
    fn sum(&self, numbers: &mut [&mut [A]]) -> Result<()>;

    /// Replaces every number by the largest of all parts.
    ///
    /// # Errors
    /// Returns an error as [`sum`](Self::sum) does, except that −∞ is allowed.
    fn maximum(&self, numbers: &mut [&mut [A]]) -> Result<()>;

    /// Replaces every count by its sum over all parts.
    ///
    /// # Errors
    /// Returns an error if another part failed.
    fn count(&self, counts: &mut [usize]) -> Result<()>;

    /// Leaves those places true of which this is the first part that has them.
    ///
    /// # Errors
    /// Returns an error if another part failed.
    fn first_of(&self, has: &mut [bool]) -> Result<()>;
}

/// The context that an encoder passes to its layers: the projections that they share, the part where the sequences are spread, and memory.
pub(crate) struct Lent<'l, A> {
    pub(crate) projections: Option<&'l Projections<A>>,
    pub(crate) part: Option<&'l dyn Part<A>>,
    pub(crate) buffers: Buffers<'l, A>,
}

impl<A> Clone for Lent<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Lent<'_, A> {}

impl<'l, A> Lent<'l, A> {
    /// The context of layers that have whole sequences.
    pub(crate) fn whole(projections: Option<&'l Projections<A>>) -> Self {
        Self {
            projections,
            part: None,
            buffers: Buffers::new(),
        }
    }
}
