//! Compression as a sum over positions: in one call, chunk by chunk, or in parts that are added up.

use ndarray::{ArrayRef2, ArrayRef3, ArrayView1, ArrayView3, Axis};

use super::compressed::Compressed;
use super::mask::PaddingMask;
use super::projection::{Projection, Projections};
use super::weights::AttentionWeights;
use crate::config::{BiasPlace, LinformerConfig, ProjectionKind};
use crate::error::{Error, Result};
use crate::layers::{Linear, check_width};
use crate::scalar::Scalar;

mod accumulate;
mod backward;
mod dense;
mod features;
mod finish;
mod lengths;
mod order;
mod pending;
mod pooled;
mod range_set;
mod rows;
mod scratch;
mod shard;
mod sums;
mod totals;

pub use lengths::SequenceLengths;
pub use order::Order;

pub(crate) use backward::{CompressionCache, CompressionGradients};
pub(crate) use scratch::CompressionScratch;
pub(crate) use totals::Totals;

use pending::Pending;
use pooled::MOST_POSITIONS;
use rows::RealRows;
use scratch::OwnScratch;

/// Positions that are multiplied at once. PositionSums are added up segment by segment, so that pushes cut at multiples of it add in the same order as one.
pub(crate) const SEGMENT: usize = crate::ops::SEGMENT;

/// The running sums K̄ = Σₜ E[:, t]·xₜ and V̄ of a batch of sequences.
///
/// A sequence can be pushed chunk by chunk, or in parts that start elsewhere ([`starting_at`](Self::starting_at)) and are added up
/// ([`merge`](Self::merge)). Chunks cut at multiples of [`Compressor::CHUNK`] give bit for bit what one call gives; any others the same up to rounding,
/// and with attention pooling bit for bit, too.
///
/// Where rows are multiplied by matrices, those that are pushed a few at a time are kept until a multiple of `CHUNK` positions is complete, and then
/// added together.
///
/// ```
/// use linformer::{LinformerAttention, LinformerConfig};
/// use linformer::ndarray::{Array3, s};
///
/// let layer = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 100, 4), 0)?;
/// let document = Array3::from_shape_fn((1, 100, 8), |(_, t, i)| ((t * 8 + i) as f64).sin());
/// let mut compressor = layer.compressor(1)?;
/// compressor.push(&document.slice(s![.., ..30, ..]), None)?;
/// compressor.push(&document.slice(s![.., 30.., ..]), None)?;
/// let streamed = compressor.finish()?;
/// let whole = layer.compress(&document, None)?;
/// let difference = (&streamed.keys() - &whole.keys()).mapv(f64::abs);
/// assert!(difference.iter().all(|&difference| difference < 1e-12));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Compressor<'a, A = f32> {
    config: &'a LinformerConfig,
    weights: &'a AttentionWeights<A>,
    projections: &'a Projections<A>,
    order: Order,
    batch: usize,
    /// The length of all items, where one was set for all.
    limit: Option<usize>,
    /// The position of the next row pushed.
    next: usize,
    totals: Totals<A>,
    /// Rows that were pushed and are not in the sums yet.
    pending: Pending<A>,
    /// Scratch space of `push`.
    scratch: OwnScratch<A>,
}

impl<'a, A: Scalar> Compressor<'a, A> {
    /// Chunks cut at multiples of this many positions give bit for bit what one call gives.
    pub const CHUNK: usize = SEGMENT;

    pub(crate) fn new(
        config: &'a LinformerConfig,
        weights: &'a AttentionWeights<A>,
        projections: &'a Projections<A>,
        batch: usize,
        order: Order,
    ) -> Result<Self> {
        Self::in_memory_of(Totals::default(), config, weights, projections, (batch, 0), order)
    }

    /// Sets how long the sequences will be. Mean and max pooling need it. The other kinds take rows beyond an item's length as padding, and rows beyond a length
    /// that was set for all items as an error.
    ///
    /// # Errors
    /// Returns an error if something was pushed already, if the lengths are not one for each item of the batch, or if the projection has no columns
    /// for one of them.
    pub fn with_lengths(mut self, lengths: SequenceLengths) -> Result<Self> {
        self.check_untouched("Compressor::with_lengths")?;
        let lengths = match lengths {
            SequenceLengths::Equal(length) => {
                self.limit = Some(length);
                vec![length; self.batch]
            }
            SequenceLengths::PerItem(lengths) => lengths,
        };
        if lengths.len() != self.batch {
            return Err(Error::argument(
                "Compressor::with_lengths",
                format!("{} lengths came for a batch of {}", lengths.len(), self.batch),
            ));
        }
        self.check_reach("Compressor::with_lengths", lengths.iter().copied().max().unwrap_or(0))?;
        self.totals.lengths = Some(lengths);
        Ok(self)
    }

    /// Gives the first pushed row the position `offset`, for a part of a sequence that is merged with others later.
    ///
    /// # Errors
    /// Returns an error if something was pushed already, or if the projection has no columns for that position.
    pub fn starting_at(mut self, offset: usize) -> Result<Self> {
        self.check_untouched("Compressor::starting_at")?;
        self.check_reach("Compressor::starting_at", offset)?;
        self.next = offset;
        Ok(self)
    }

    /// Adds the next rows of every item; the mask, if there is one, is the chunk's.
    ///
    /// `chunk` is (batch, any length, dim).
    ///
    /// # Errors
    /// Returns an error if the chunk has another batch or width, if the mask has another shape than the chunk, if the chunk ends beyond the columns
    /// of the projection or the length that [`with_lengths`](Self::with_lengths) set, or if mean or max pooling was not given the lengths. The sums are then unchanged.
    pub fn push(&mut self, chunk: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<()> {
        self.push_chunk(chunk, mask, true)
    }

    /// [`push`](Self::push) for all rows that are left: none of them waits for more.
    pub(crate) fn push_last(&mut self, chunk: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<()> {
        self.push_chunk(chunk, mask, false)
    }

    fn push_chunk(&mut self, chunk: &ArrayRef3<A>, mask: Option<&PaddingMask>, waits: bool) -> Result<()> {
        const OPERATION: &str = "Compressor::push";
        let (batch, length, _) = chunk.dim();
        check_width(OPERATION, "chunk", chunk, self.config.attention.dim)?;
        if batch != self.batch {
            let expected = format!("({}, any length, {})", self.batch, self.config.attention.dim);
            return Err(Error::shape(OPERATION, "chunk", expected, chunk.shape()));
        }
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let rows = self.real_rows(length, mask)?;
        let mut scratch = self.scratch.0.take().unwrap_or_default();
        let pushed = self.push_rows(chunk.view(), &rows, &mut scratch, waits);
        self.scratch.0 = Some(scratch);
        pushed
    }

    /// [`push`](Self::push) for the one item of a batch, with scratch space that is kept; `real` says which of its rows are.
    pub(crate) fn push_item(
        &mut self,
        chunk: ArrayView3<'_, A>,
        real: Option<ArrayView1<'_, bool>>,
        scratch: &mut CompressionScratch<A>,
    ) -> Result<()> {
        let rows = [self.real_rows_of(0, chunk.dim().1, real)?];
        self.push_rows(chunk, &rows, scratch, false)
    }

    fn push_rows(
        &mut self,
        chunk: ArrayView3<'_, A>,
        rows: &[RealRows<'_>],
        scratch: &mut CompressionScratch<A>,
        waits: bool,
    ) -> Result<()> {
        const OPERATION: &str = "Compressor::push";
        let length = chunk.dim().1;
        let end = self.next.checked_add(length).ok_or_else(|| Error::Overflow {
            operation: OPERATION,
            sizes: vec![self.next, length],
        })?;
        self.check_reach(OPERATION, end)?;
        if let Some(limit) = self.limit
            && end > limit
        {
            return Err(Error::argument(
                OPERATION,
                format!(
                    "the chunk ends at position {end}, but with_lengths set the length to {limit}; push fewer rows, or set a larger length"
                ),
            ));
        }
        if self.totals.lengths.is_none() && self.totals.tokens.ncols() > 0 {
            return Err(Error::argument(
                OPERATION,
                "pooling needs the lengths first, since its windows depend on them: call with_lengths before the first push",
            ));
        }
        self.totals.pushed.check_apart((self.next, end), OPERATION)?;
        self.count(self.next, rows)?;
        if waits {
            self.add_or_keep(chunk, rows, scratch);
        } else {
            self.add(chunk, self.next, rows, true, scratch);
        }
        for (reached, rows) in self.totals.ends.iter_mut().zip(rows) {
            if rows.end > 0 {
                *reached = (*reached).max(self.next + rows.end);
            }
        }
        self.totals.pushed.insert((self.next, end));
        self.next = end;
        Ok(())
    }

    /// Adds the sums of another part of the same sequences, which must cover other positions.
    ///
    /// # Errors
    /// Returns an error if the part comes from another layer, if it differs in batch, order or lengths, or if it covers positions that are covered
    /// already. The sums are then unchanged.
    pub fn merge(&mut self, mut other: Self) -> Result<()> {
        const OPERATION: &str = "Compressor::merge";
        let same_layer = std::ptr::eq(self.weights, other.weights) && std::ptr::eq(self.projections, other.projections);
        if !same_layer || self.batch != other.batch || self.order != other.order || self.totals.lengths != other.totals.lengths {
            return Err(Error::argument(
                OPERATION,
                "both parts must come from one layer and agree in batch, order and lengths",
            ));
        }
        self.totals.pushed.check_all_apart(&other.totals.pushed, OPERATION)?;
        let slots = self.allocated().max(other.allocated());
        self.grow(slots)?;
        self.flush_pending();
        other.flush_pending();
        let takes_maximum = self.config.projection.kind == ProjectionKind::MaxPooling;
        for (own, other) in self.totals.sums.iter_mut().zip(&other.totals.sums) {
            own.merge(other, takes_maximum);
        }
        self.totals.tokens += &other.totals.tokens;
        for (reached, &other) in self.totals.ends.iter_mut().zip(&other.totals.ends) {
            *reached = (*reached).max(other);
        }
        let (config, ends) = (self.config, &self.totals.ends);
        self.totals
            .pooled
            .merge(other.totals.pooled, |item| config.segment_level(ends[item]));
        self.totals.pushed.insert_all(other.totals.pushed);
        self.next = self.next.max(other.next);
        Ok(())
    }

    /// Takes back what `old` added at a real `position` and adds `new` in its place, up to rounding: for one edited token.
    ///
    /// Both are (batch, dim).
    ///
    /// # Errors
    /// Returns an error for max and attention pooling, which are not sums, if the position was not pushed, or if a row has another shape.
    pub fn replace(&mut self, position: usize, old: &ArrayRef2<A>, new: &ArrayRef2<A>) -> Result<()> {
        const OPERATION: &str = "Compressor::replace";
        let expected = (self.batch, self.config.attention.dim);
        for (argument, rows) in [("old", old), ("new", new)] {
            if rows.dim() != expected {
                return Err(Error::shape(OPERATION, argument, format!("{expected:?}"), rows.shape()));
            }
        }
        let reason = match self.config.projection.kind {
            ProjectionKind::MaxPooling => Some("a maximum cannot be taken back; compress the sequence anew"),
            ProjectionKind::AttentionPooling => Some("a position cannot be taken out of a softmax; compress the sequence anew"),
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(Error::argument(OPERATION, reason));
        }
        if !self.totals.pushed.contains(position) {
            return Err(Error::argument(
                OPERATION,
                format!("position {position} was not pushed, so there is nothing to replace; push it"),
            ));
        }
        let rows: Vec<_> = (0..self.batch)
            .map(|item| RealRows {
                end: usize::from(position < self.totals.lengths.as_ref().map_or(usize::MAX, |lengths| lengths[item])),
                holes: None,
            })
            .collect();
        let difference = (new - old).insert_axis(Axis(1));
        self.make_room(position, &rows)?;
        self.add(difference.view(), position, &rows, false, &mut CompressionScratch::default());
        self.totals.sums.iter_mut().for_each(|sums| {
            sums.lengthen();
            sums.fold(0..self.batch);
        });
        Ok(())
    }

    /// Returns the order of multiplication in use.
    #[doc(hidden)]
    pub fn order(&self) -> Order {
        self.order
    }

    /// Returns the compressed keys and values of everything that was pushed. Without any rows they are the empty sum: 0, and the constant biases.
    ///
    /// # Errors
    /// Returns an error if the result is larger than memory can address.
    pub fn finish(mut self) -> Result<Compressed<A>> {
        let mut compressed = Compressed::empty();
        self.finish_into(&mut compressed, &mut CompressionScratch::default())?;
        Ok(compressed)
    }

    fn check_untouched(&self, operation: &'static str) -> Result<()> {
        if self.totals.pushed.is_empty() {
            return Ok(());
        }
        Err(Error::argument(
            operation,
            "something was pushed already; call this on a new compressor",
        ))
    }

    /// An error where the projection has no column for the position before `end`.
    fn check_reach(&self, operation: &'static str, end: usize) -> Result<()> {
        match self.projections.key().columns() {
            Some(columns) if end > columns => Err(self.config.too_long(operation, end, columns)),
            None if end > MOST_POSITIONS && self.config.projection.pools_by_attention() => Err(Error::argument(
                operation,
                format!("position {end} came, but segments of a power of two end at {MOST_POSITIONS}; give positions below"),
            )),
            _ => Ok(()),
        }
    }

    fn allocated(&self) -> usize {
        self.totals.sums[0].slots()
    }

    /// Enlarges the sums to `slots` slots.
    fn grow(&mut self, slots: usize) -> Result<()> {
        if slots <= self.allocated() {
            return Ok(());
        }
        self.totals.sums.iter_mut().try_for_each(|sums| sums.grow(slots))
    }

    /// The projection and the weights of sums `index`.
    fn sources(&self, index: usize) -> (&'a Projection<A>, &'a Linear<A>) {
        if index == 0 {
            (&self.projections.key, &self.weights.key)
        } else {
            (self.projections.value(), self.weights.value())
        }
    }

    /// Whether sums `index` need E·1.
    fn needs_row_sums(&self, index: usize) -> bool {
        let attention = &self.config.attention;
        let has_bias = if self.totals.sums.len() == 1 {
            attention.key_bias || attention.value_bias
        } else if index == 0 {
            attention.key_bias
        } else {
            attention.value_bias
        };
        has_bias && self.config.bias_place == BiasPlace::BeforeCompression && self.config.projection.commutes()
    }
}
