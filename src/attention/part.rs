//! Sequences whose positions are spread over several holders, each of which has a part: what completes their sums.

use super::projection::Projections;
use crate::error::Result;
use crate::room::Room;

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
    /// A number that is not finite in any of the parts; what failed in another part.
    fn sum(&self, numbers: &mut [&mut [A]]) -> Result<()>;

    /// Replaces every number by the largest of all parts.
    ///
    /// # Errors
    /// As [`sum`](Self::sum), but −∞ is a number.
    fn maximum(&self, numbers: &mut [&mut [A]]) -> Result<()>;

    /// Replaces every count by its sum over all parts.
    ///
    /// # Errors
    /// What failed in another part.
    fn count(&self, counts: &mut [usize]) -> Result<()>;

    /// Leaves those places true of which this is the first part that has them.
    ///
    /// # Errors
    /// What failed in another part.
    fn first_of(&self, has: &mut [bool]) -> Result<()>;
}

/// What an encoder lends to its layers: the projections that they share, what completes their sums where the sequences are parts, and memory.
pub(crate) struct Lent<'l, A> {
    pub(crate) projections: Option<&'l Projections<A>>,
    pub(crate) part: Option<&'l dyn Part<A>>,
    pub(crate) room: Room<'l, A>,
}

impl<A> Clone for Lent<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for Lent<'_, A> {}

impl<'l, A> Lent<'l, A> {
    /// To layers that have whole sequences at hand.
    pub(crate) fn whole(projections: Option<&'l Projections<A>>) -> Self {
        Self {
            projections,
            part: None,
            room: Room::new(),
        }
    }
}
