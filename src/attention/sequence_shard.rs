//! Sequences whose positions are spread over several holders, which each have a shard, and the exchanges that complete their sums.

use super::projection::Projections;
use crate::buffer_pool::Buffers;
use crate::error::Result;

/// One holder's shard of a batch of sequences. All holders call the same methods in the same order.
pub(crate) trait SequenceShard<A> {
    /// Whether it is the first of all shards.
    fn is_first(&self) -> bool;

    /// The position of the shard's first row.
    fn offset(&self) -> usize;

    /// Which of the shards it is.
    fn index(&self) -> usize;

    /// The positions of the first rows of all shards, and one past the last row of the last.
    fn bounds(&self) -> &[usize];

    /// One past the last real position of each item, over all shards.
    fn lengths(&self) -> &[usize];

    /// How many tokens that are not padding each item has before this shard; read by positions that count them.
    fn tokens_before(&self) -> &[usize];

    /// Replaces every number by its sum over all shards.
    ///
    /// # Errors
    /// Returns an error if a number of any shard is not finite, or if another shard failed.
    fn sum(&self, numbers: &mut [&mut [A]]) -> Result<()>;

    /// Replaces every number by the largest of all shards.
    ///
    /// # Errors
    /// Returns an error as [`sum`](Self::sum) does, except that −∞ is allowed.
    fn maximum(&self, numbers: &mut [&mut [A]]) -> Result<()>;

    /// Replaces every count by its sum over all shards.
    ///
    /// # Errors
    /// Returns an error if another shard failed.
    fn count(&self, counts: &mut [usize]) -> Result<()>;

    /// Leaves those places true of which this is the first shard that has them.
    ///
    /// # Errors
    /// Returns an error if another shard failed.
    fn first_of(&self, has: &mut [bool]) -> Result<()>;
}

/// The context that an encoder passes to its layers: the projections that they share, the shard where the sequences are spread, and memory.
pub(crate) struct LayerContext<'l, A> {
    pub(crate) projections: Option<&'l Projections<A>>,
    pub(crate) shard: Option<&'l dyn SequenceShard<A>>,
    pub(crate) buffers: Buffers<'l, A>,
}

impl<A> Clone for LayerContext<'_, A> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A> Copy for LayerContext<'_, A> {}

impl<'l, A> LayerContext<'l, A> {
    /// The context of layers that have whole sequences.
    pub(crate) fn whole(projections: Option<&'l Projections<A>>) -> Self {
        Self {
            projections,
            shard: None,
            buffers: Buffers::new(),
        }
    }
}
