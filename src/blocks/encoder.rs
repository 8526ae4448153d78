//! A stack of blocks.

mod block;
mod block_training;
mod conversion;
mod decoding;
mod ragged;
mod training;

pub use block::EncoderBlock;
pub use block_training::EncoderBlockCache;
pub use training::EncoderCache;

pub(crate) use decoding::EncoderState;

pub(super) use block_training::BlockCache;

use std::iter;

use ndarray::{Array3, ArrayRef3, ArrayViewMut2, ArrayViewMut3};

use crate::attention::{PaddingMask, Projections, Workspace, draw_projections};
use crate::buffer_pool::BufferPool;
use crate::config::{AttentionKind, EncoderConfig, HasNorms, ProjectionConfig};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, TILE, check_width, contiguous};
use crate::parallel;
use crate::parameters::{Parameters, parameters};
use crate::scalar::Scalar;

/// A stack of blocks on a residual stream, in place and tile by tile.
///
/// ```
/// use linformer::{Encoder, EncoderConfig, LinformerConfig, Sharing};
/// use linformer::ndarray::Array3;
///
/// let attention = LinformerConfig::new(32, 4, 128, 16).with_sharing(Sharing::Layerwise);
/// let encoder = Encoder::<f32>::new(&EncoderConfig::new(attention, 2), 0)?;
/// assert_eq!(encoder.forward(&Array3::ones((1, 100, 32)), None)?.dim(), (1, 100, 32));
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// Buffers of a training step are reused by the next. Clones start without them.
#[derive(Clone, Debug)]
pub struct Encoder<A = f32> {
    config: EncoderConfig,
    /// The one projection of all layers, where they share it.
    projections: Option<Projections<A>>,
    blocks: Vec<EncoderBlock<A>>,
    final_norm: Option<LayerNorm<A>>,
    /// Buffers of the training passes.
    buffer_pool: BufferPool<A>,
}

parameters!(Encoder {
    projections,
    blocks,
    final_norm
});

/// Groups of short sequences that a thread has at least, so that none waits long for another.
const TASKS_A_THREAD: usize = 4;

/// Numbers of a sequence that stay in the nearest caches from the attention to the feed-forward.
const SHORT: usize = 1 << 13;

/// The projection that all layers of a stack share, if they do.
pub(super) fn shared_projections<A: Scalar>(config: &EncoderConfig, streams: &mut Streams) -> Option<Projections<A>> {
    match &config.attention {
        AttentionKind::Linformer(attention) if config.shares_projection() => Some(Projections::init(attention, streams)),
        AttentionKind::Causal(attention) if config.shares_projection() => Some(draw_projections(attention, streams)),
        _ => None,
    }
}

impl<A: Scalar> Encoder<A> {
    /// Makes an encoder with random weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no encoder.
    pub fn new(config: &EncoderConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    /// Makes an encoder with the weights of one with exact attention and with new projections, which compress up to `seq_len` positions to
    /// `k` rows: one for each layer, or one for all with [`Sharing::Layerwise`](crate::Sharing::Layerwise). See [`LinformerAttention::from_exact`](crate::LinformerAttention::from_exact).
    ///
    /// ```
    /// use linformer::{AttentionConfig, Encoder, EncoderConfig, ProjectionConfig, Sharing};
    /// use linformer::ndarray::Array3;
    ///
    /// let exact = Encoder::<f32>::new(&EncoderConfig::new(AttentionConfig::new(16, 2), 3), 0)?;
    /// let projection = ProjectionConfig::default().with_sharing(Some(Sharing::Layerwise));
    /// let encoder = Encoder::from_exact(&exact, 100, 10, projection, 1)?;
    /// assert!(encoder.projections().is_some());
    /// assert_eq!(encoder.forward(&Array3::ones((1, 100, 16)), None)?.dim(), (1, 100, 16));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the encoder's attention is not exact, or is causal; if there is no encoder with such a projection.
    pub fn from_exact(encoder: &Self, seq_len: usize, k: usize, projection: ProjectionConfig, seed: u64) -> Result<Self> {
        let mut own = Self::new(&encoder.config.compressing(seq_len, k, projection)?, seed)?;
        own.copy_matching(encoder);
        Ok(own)
    }

    pub(crate) fn init(config: &EncoderConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            projections: shared_projections(config, streams),
            blocks: (0..config.depth).map(|layer| EncoderBlock::init(config, layer, streams)).collect(),
            final_norm: config.final_norm.then(|| LayerNorm::init(config.dim(), config.norm_eps)),
            buffer_pool: BufferPool::default(),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &EncoderConfig {
        &self.config
    }

    /// Returns the blocks.
    pub fn blocks(&self) -> &[EncoderBlock<A>] {
        &self.blocks
    }

    /// Returns the projection of all layers, if they share one.
    pub fn projections(&self) -> Option<&Projections<A>> {
        self.projections.as_ref()
    }

    /// Applies the blocks: (batch, n, dim) → (batch, n, dim).
    ///
    /// # Errors
    /// Returns an error if `x` has the wrong width, `mask` the wrong shape, or the sequences are longer than `seq_len` where the projections have
    /// no more columns.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        check_width("Encoder::forward", "x", x, self.config.dim())?;
        self.forward_owned(x.to_owned(), mask)
    }

    /// Returns the residual stream after each block, (batch, n, dim), in order: the last with the final norm, where there is one, so that it is what
    /// [`forward`](Self::forward) returns. An encoder without blocks has none.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if the encoder is reversible, whose two streams are no single one.
    pub fn hidden_states(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Vec<Array3<A>>> {
        self.check_single_stream("Encoder::hidden_states")?;
        let mut stream = self.checked(x.as_standard_layout().into_owned(), mask)?;
        let workspace = &mut Workspace::new();
        let mut states = Vec::with_capacity(self.blocks.len());
        for block in &self.blocks {
            stream = block.apply(stream, self.projections.as_ref(), mask, workspace)?;
            states.push(stream.clone());
        }
        if let Some(last) = states.last_mut() {
            last.outer_iter_mut().for_each(|rows| self.finish_item(rows));
        }
        Ok(states)
    }

    fn check_single_stream(&self, operation: &'static str) -> Result<()> {
        if self.config.reversible {
            let reason =
                "the encoder is reversible and has two streams instead of one; take one whose configuration has reversible = false";
            return Err(Error::argument(operation, reason));
        }
        Ok(())
    }

    pub(crate) fn final_norm(&self) -> Option<&LayerNorm<A>> {
        self.final_norm.as_ref()
    }

    pub(super) fn buffer_pool(&self) -> &BufferPool<A> {
        &self.buffer_pool
    }

    #[allow(clippy::type_complexity)] // its three fields
    pub(crate) fn parts_mut(&mut self) -> (Option<&mut Projections<A>>, &mut [EncoderBlock<A>], Option<&mut LayerNorm<A>>) {
        (self.projections.as_mut(), &mut self.blocks, self.final_norm.as_mut())
    }

    /// The input, contiguous; an error where it or its mask does not fit.
    pub(crate) fn checked(&self, x: Array3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        check_width("Encoder::forward", "x", &x, self.config.dim())?;
        PaddingMask::check(mask, "Encoder::forward", x.dim().0, x.dim().1)?;
        Ok(contiguous(x))
    }

    /// Runs [`forward`](Self::forward) in the memory of its input.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn forward_owned(&self, x: Array3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        let mut stream = self.checked(x, mask)?;
        let workspace = &mut Workspace::new();
        if self.is_causal() && self.config.reversible {
            return self.reversible_around(stream, mask);
        }
        if self.keeps_width() && !self.is_causal() {
            self.run(&mut stream, mask, workspace)?;
            return Ok(stream);
        }
        for block in &self.blocks {
            stream = block.apply(stream, self.projections.as_ref(), mask, workspace)?;
        }
        let cost = parallel::cost(&[stream.len(), 4]);
        workspace.for_each_item(stream.view_mut(), cost, |_, _, rows| {
            self.finish_item(rows);
            Ok(())
        })?;
        Ok(stream)
    }

    /// Runs [`forward`](Self::forward) in place, with buffers that are reused from call to call. After an error `x` is as it was.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, if `x` is not in standard layout, or if the encoder changes its width, is causal, or is
    /// reversible, which needs a second stream: use [`forward_owned`](Self::forward_owned) for these.
    pub fn forward_in_place(&self, x: &mut Array3<A>, mask: Option<&PaddingMask>, workspace: &mut Workspace<A>) -> Result<()> {
        const OPERATION: &str = "Encoder::forward_in_place";
        let (batch, length, dim) = x.dim();
        if dim != self.config.dim() || !x.is_standard_layout() {
            let expected = format!("(any batch, any length, {}), in standard layout", self.config.dim());
            return Err(Error::shape(OPERATION, "x", expected, x.shape()));
        }
        PaddingMask::check(mask, OPERATION, batch, length)?;
        if !self.keeps_width() || self.config.reversible || self.is_causal() {
            return Err(Error::argument(
                OPERATION,
                "the residual stream changes its width or has a second one, or attention is causal; use forward_owned",
            ));
        }
        self.check_length(OPERATION, length)?;
        self.run(x, mask, workspace)
    }

    /// An error where the projections have no columns for `length` positions.
    pub(crate) fn check_length(&self, operation: &'static str, length: usize) -> Result<()> {
        match &self.config.attention {
            AttentionKind::Linformer(attention) => attention.check_length(operation, length),
            _ => Ok(()),
        }
    }

    fn is_causal(&self) -> bool {
        self.blocks.iter().any(|block| block.attention().is_causal())
    }

    /// The reversible form with causal attention, sequence by sequence.
    fn reversible_around(&self, mut first: Array3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        let shared = self.projections.as_ref();
        let mut second = first.clone();
        for block in &self.blocks {
            block.apply_reversible_around(&mut first, &mut second, |x| block.attention().forward(shared, x, mask))?;
        }
        first += &second;
        for rows in first.outer_iter_mut() {
            self.finish_item(rows);
        }
        Ok(first)
    }

    pub(crate) fn keeps_width(&self) -> bool {
        self.blocks.iter().all(|block| block.in_dim() == block.out_dim())
    }

    /// All blocks, item by item, on a thread of the pool: several times in each block work is shared out.
    fn run(&self, stream: &mut Array3<A>, mask: Option<&PaddingMask>, workspace: &mut Workspace<A>) -> Result<()> {
        let (batch, length, _) = stream.dim();
        let cost = parallel::cost(&[batch, self.cost(iter::once(length))]);
        parallel::within(cost, || self.run_items(stream, mask, cost, workspace))
    }

    /// Multiplications of all blocks on sequences of these lengths.
    fn cost(&self, lengths: impl Iterator<Item = usize> + Clone) -> usize {
        let of_block = |block: &EncoderBlock<A>| lengths.clone().map(|length| block.cost(length)).fold(0, usize::saturating_add);
        self.blocks.iter().map(of_block).fold(0, usize::saturating_add)
    }

    fn run_items(&self, stream: &mut Array3<A>, mask: Option<&PaddingMask>, cost: usize, workspace: &mut Workspace<A>) -> Result<()> {
        let (batch, length, _) = stream.dim();
        let shared = self.projections.as_ref();
        let group = items_together(batch, length);
        let short = group > 1 || length * self.config.dim() <= SHORT;
        if short && !self.config.reversible && !workspace.is_watched() {
            return workspace.for_each_group(stream.view_mut(), group, cost, |workspace, first, items| {
                let real = |item| mask.map(|mask| mask.item(first + item));
                let lengths = iter::repeat_n(length, items.dim().0);
                let mut rows = rows_of_items(items);
                for block in &self.blocks {
                    block.apply_items(rows.view_mut(), lengths.clone(), shared, real, workspace)?;
                }
                self.finish_item(rows);
                Ok(())
            });
        }
        workspace.for_each_item(stream.view_mut(), cost, |workspace, item, mut rows| {
            let real = mask.map(|mask| mask.item(item));
            if self.config.reversible {
                let mut second = rows.to_owned();
                for block in &self.blocks {
                    block.apply_reversible(rows.view_mut(), second.view_mut(), shared, real, workspace)?;
                }
                rows += &second;
            } else {
                for block in &self.blocks {
                    block.apply_item(rows.view_mut(), shared, real, workspace)?;
                }
            }
            self.finish_item(rows);
            Ok(())
        })
    }

    pub(crate) fn finish_item(&self, rows: ArrayViewMut2<'_, A>) {
        if let Some(norm) = &self.final_norm {
            norm.apply_spread(rows);
        }
    }
}

/// The rows of several items, one below the other.
fn rows_of_items<A>(items: ArrayViewMut3<'_, A>) -> ArrayViewMut2<'_, A> {
    let (count, length, width) = items.dim();
    items
        .into_shape_with_order((count * length, width))
        .expect("a stream lies in order")
}

/// Short sequences whose rows go through what is not attention together: as many as make a tile, as long as every thread has some.
fn items_together(batch: usize, length: usize) -> usize {
    let for_every_thread = batch / (TASKS_A_THREAD * parallel::threads());
    (TILE / length.max(1)).clamp(1, for_every_thread.max(1))
}
