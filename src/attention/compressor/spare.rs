//! Compressors in memory that is kept.

use ndarray::{Array2, Ix2};

use super::super::projection::Projections;
use super::super::weights::AttentionWeights;
use super::dense::OwnScratch;
use super::pending::Pending;
use super::range_set::Covered;
use super::sums::{Side, refill};
use super::{Compressor, Order};
use crate::config::{LinformerConfig, ProjectionKind};
use crate::error::{Result, checked_len};
use crate::scalar::Scalar;

/// The memory of a compressor.
#[derive(Debug)]
pub(crate) struct Spare<A> {
    sides: Vec<Side<A>>,
    tokens: Array2<usize>,
    reached: Vec<usize>,
    extent: Vec<usize>,
    covered: Covered,
}

impl<A> Default for Spare<A> {
    fn default() -> Self {
        Self {
            sides: Vec::new(),
            tokens: Array2::zeros((0, 0)),
            reached: Vec::new(),
            extent: Vec::new(),
            covered: Covered::default(),
        }
    }
}

impl<'a, A: Scalar> Compressor<'a, A> {
    /// A compressor of one sequence of `length` positions, in the memory of an earlier one, with its length where its windows depend on it.
    pub(crate) fn of_item(
        config: &'a LinformerConfig,
        weights: &'a AttentionWeights<A>,
        projections: &'a Projections<A>,
        length: usize,
        mut spare: Spare<A>,
    ) -> Result<Self> {
        let mut extent = std::mem::take(&mut spare.extent);
        let mut compressor = Self::from_spare(config, weights, projections, (1, length), Order::of(config), spare)?;
        if config.projection.pools() {
            extent.clear();
            extent.push(length);
            compressor.extent = Some(extent);
        }
        Ok(compressor)
    }

    /// A compressor in the memory of an earlier one, of sequences that are probably `length` long.
    pub(crate) fn from_spare(
        config: &'a LinformerConfig,
        weights: &'a AttentionWeights<A>,
        projections: &'a Projections<A>,
        (batch, length): (usize, usize),
        order: Order,
        mut spare: Spare<A>,
    ) -> Result<Self> {
        let matrices = config.projection.matrices(config.attention.heads);
        let (heads, head_dim) = (config.compressed_heads(), config.attention.effective_head_dim());
        let (outer, width, tied) = match order {
            Order::CompressFirst => (matrices, config.attention.dim, true),
            Order::ProjectFirst => (heads, head_dim, config.attention.tie_key_value),
        };
        let sides = if tied && config.projection.ties_key_value() { 1 } else { 2 };
        let slots = match config.projection.kind {
            // More windows are added as the sequence reaches them.
            ProjectionKind::Convolution(_) => config.stride().map_or(0, |stride| length.div_ceil(stride)),
            _ => config.k,
        };
        checked_len("Compressor", &[batch, outer, slots.max(1), width], size_of::<A>())?;
        checked_len("Compressor", &[batch, heads, slots.max(1), head_dim], size_of::<A>())?;
        let start = match config.projection.kind {
            ProjectionKind::MaxPooling => A::neg_infinity(),
            _ => A::zero(),
        };
        let counted = Ix2(batch, if config.projection.pools() { slots } else { 0 });
        spare.sides.truncate(sides);
        spare.sides.resize_with(sides, Side::default);
        for side in &mut spare.sides {
            side.reset((batch, outer, slots, width), matrices, start);
        }
        refill(&mut spare.tokens, counted, 0);
        spare.reached.clear();
        spare.reached.resize(batch, 0);
        spare.covered.clear();
        Ok(Self {
            config,
            weights,
            projections,
            order,
            batch,
            extent: None,
            limit: None,
            next: 0,
            covered: spare.covered,
            reached: spare.reached,
            sides: spare.sides,
            tokens: spare.tokens,
            pending: Pending::default(),
            scratch: OwnScratch(None),
        })
    }

    /// What the next compressor can use again.
    pub(crate) fn into_spare(self) -> Spare<A> {
        Spare {
            sides: self.sides,
            tokens: self.tokens,
            reached: self.reached,
            extent: self.extent.unwrap_or_default(),
            covered: self.covered,
        }
    }
}
