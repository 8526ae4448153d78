//! Scratch space of compressions.

use crate::ops::{Aligned, ProductScratch, Tile};
use crate::parallel::Pool;
use crate::scalar::Scalar;

/// Scratch space of a compression, kept from chunk to chunk.
#[derive(Debug)]
pub(crate) struct CompressionScratch<A> {
    pub(super) panels: Aligned<A>,
    pub(super) copies: Pool<Vec<A>>,
    /// Some rows of E in one segment. All of E is not kept packed, since that would be as much again as the model has.
    pub(super) left: Pool<Tile<A>>,
    pub(super) finished: Pool<FinishScratch<A>>,
    pub(super) segments: Pool<SegmentScratch<A>>,
}

/// Scratch space of one compressor; a copy makes its own.
#[derive(Debug)]
pub(super) struct OwnScratch<A>(pub(super) Option<CompressionScratch<A>>);

impl<A> Clone for OwnScratch<A> {
    fn clone(&self) -> Self {
        Self(None)
    }
}

impl<A: Scalar> Default for CompressionScratch<A> {
    fn default() -> Self {
        Self {
            panels: Aligned::default(),
            copies: Pool::default(),
            left: Pool::default(),
            finished: Pool::default(),
            segments: Pool::default(),
        }
    }
}

/// Scratch space for one segment.
#[derive(Debug)]
pub(super) struct SegmentScratch<A> {
    /// The rows, where they cannot be read in place.
    pub(super) copy: Vec<A>,
    pub(super) features: Vec<A>,
    pub(super) products: ProductScratch<A>,
}

impl<A: Scalar> Default for SegmentScratch<A> {
    fn default() -> Self {
        Self {
            copy: Vec::new(),
            features: Vec::new(),
            products: ProductScratch::default(),
        }
    }
}

/// Scratch space for the slots of one task.
#[derive(Debug)]
pub(super) struct FinishScratch<A> {
    /// PositionSums of all heads, and what the weights make of them.
    pub(super) input: Tile<A>,
    pub(super) features: Tile<A>,
    /// For sums of one head.
    pub(super) products: ProductScratch<A>,
}

impl<A: Scalar> Default for FinishScratch<A> {
    fn default() -> Self {
        Self {
            input: Tile::default(),
            features: Tile::default(),
            products: ProductScratch::default(),
        }
    }
}
