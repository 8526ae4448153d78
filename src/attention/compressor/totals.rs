//! The sums of a compressor.

use std::mem;

use ndarray::{Array2, Ix2};

use super::super::projection::Projections;
use super::super::weights::AttentionWeights;
use super::pending::Pending;
use super::pooled::Pooled;
use super::range_set::RangeSet;
use super::scratch::OwnScratch;
use super::sums::{PositionSums, refill};
use super::{Compressor, Order};
use crate::config::{LinformerConfig, ProjectionKind};
use crate::error::{Result, checked_len};
use crate::scalar::Scalar;

/// The sums of a compressor. The next compressor can reuse their memory, and training keeps them for the backward pass.
#[derive(Clone, Debug, Default)]
pub(crate) struct Totals<A> {
    /// The sums for the keys, and for the values where these need their own.
    pub(super) sums: Vec<PositionSums<A>>,
    /// The real positions in each (item, slot), for pooling.
    pub(super) tokens: Array2<usize>,
    /// One past the last real position of each item.
    pub(super) ends: Vec<usize>,
    /// Each item's length, where it is known.
    pub(super) lengths: Option<Vec<usize>>,
    /// The summaries of attention pooling, which has no sums.
    pub(super) pooled: Pooled<A>,
    /// The positions that were pushed.
    pub(super) pushed: RangeSet,
}

impl<'a, A: Scalar> Compressor<'a, A> {
    /// A compressor of one sequence of `length` positions, in the memory of an earlier one.
    pub(crate) fn of_item(
        config: &'a LinformerConfig,
        weights: &'a AttentionWeights<A>,
        projections: &'a Projections<A>,
        length: usize,
        mut earlier: Totals<A>,
    ) -> Result<Self> {
        let mut lengths = mem::take(&mut earlier.lengths).unwrap_or_default();
        lengths.clear();
        lengths.push(length);
        let mut compressor = Self::in_memory_of(earlier, config, weights, projections, (1, length), Order::of(config))?;
        compressor.totals.lengths = Some(lengths);
        Ok(compressor)
    }

    /// A compressor in the memory of an earlier one, of sequences that are probably `length` long.
    pub(super) fn in_memory_of(
        mut totals: Totals<A>,
        config: &'a LinformerConfig,
        weights: &'a AttentionWeights<A>,
        projections: &'a Projections<A>,
        (batch, length): (usize, usize),
        order: Order,
    ) -> Result<Self> {
        let matrices = config.projection.matrices(config.attention.heads);
        let (heads, head_dim) = (config.compressed_heads(), config.attention.effective_head_dim());
        let (outer, width, tied) = match order {
            Order::CompressFirst => (matrices, config.attention.dim, true),
            Order::ProjectFirst => (heads, head_dim, config.attention.tie_key_value),
        };
        let count = if tied && config.projection.ties_key_value() { 1 } else { 2 };
        let slots = match config.projection.kind {
            // More windows are added as the sequence reaches them.
            ProjectionKind::Convolution(_) => config.stride().map_or(0, |stride| length.div_ceil(stride)),
            ProjectionKind::AttentionPooling => 0,
            _ => config.k,
        };
        checked_len("Compressor", &[batch, outer, slots.max(1), width], size_of::<A>())?;
        checked_len("Compressor", &[batch, heads, slots.max(1), head_dim], size_of::<A>())?;
        let start = match config.projection.kind {
            ProjectionKind::MaxPooling => A::neg_infinity(),
            _ => A::zero(),
        };
        let counted = Ix2(batch, if config.projection.pools() { slots } else { 0 });
        totals.sums.truncate(count);
        totals.sums.resize_with(count, PositionSums::default);
        for sums in &mut totals.sums {
            sums.reset((batch, outer, slots, width), matrices, start);
        }
        let summarized = if config.projection.pools_by_attention() { batch } else { 0 };
        totals.pooled.reset(summarized, heads, head_dim);
        refill(&mut totals.tokens, counted, 0);
        totals.ends.clear();
        totals.ends.resize(batch, 0);
        totals.lengths = None;
        totals.pushed.clear();
        Ok(Self {
            config,
            weights,
            projections,
            order,
            batch,
            limit: None,
            next: 0,
            totals,
            pending: Pending::default(),
            scratch: OwnScratch(None),
        })
    }

    /// Returns the sums, for the next compressor to reuse their memory.
    pub(crate) fn into_totals(self) -> Totals<A> {
        self.totals
    }
}
