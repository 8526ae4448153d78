//! A stack of blocks with cross-attention.

mod block;
mod decoding;
mod training;

pub use block::DecoderBlock;
pub use training::DecoderCache;

use ndarray::{Array3, ArrayRef3};

use super::encoder::shared_projections;
use crate::attention::{Compressed, PaddingMask, Projections, Workspace};
use crate::buffer_pool::BufferPool;
use crate::config::{DecoderConfig, HasNorms};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, check_width, contiguous};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// A stack of blocks whose rows, the target, attend to each other and to another sequence, the source.
///
/// The source is compressed once for each block; targets of any length and number then read it row by row.
///
/// ```
/// use linformer::{CausalConfig, Decoder, DecoderConfig, LinformerConfig, PaddingMask};
/// use linformer::ndarray::Array3;
///
/// let config = DecoderConfig::new(CausalConfig::new(32, 4, 64, 2), LinformerConfig::new(32, 4, 500, 16), 2);
/// let decoder = Decoder::<f32>::new(&config, 0)?;
/// let (source, target) = (Array3::ones((2, 300, 32)), Array3::ones((2, 9, 32)));
/// let mask = PaddingMask::from_lengths(&[300, 120], 300)?;
///
/// let source = decoder.compress(&source, Some(&mask))?;
/// assert_eq!(decoder.attend(&target, None, &source)?.dim(), (2, 9, 32));
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// Buffers of a training step are reused by the next. Clones start without them.
#[derive(Clone, Debug)]
pub struct Decoder<A = f32> {
    config: DecoderConfig,
    /// The one projection of all self-attentions where they share it, and of the cross-attentions where those compress by the same.
    projections: Option<Projections<A>>,
    /// The one projection of all cross-attentions, where they share one of their own.
    cross_projections: Option<Projections<A>>,
    blocks: Vec<DecoderBlock<A>>,
    final_norm: Option<LayerNorm<A>>,
    /// Buffers of the training passes.
    buffer_pool: BufferPool<A>,
}

parameters!(Decoder {
    projections,
    cross_projections,
    blocks,
    final_norm
});

/// A source as the blocks of a [`Decoder`] read it: the compressed keys and values of each.
#[derive(Clone, Debug)]
pub struct CompressedSource<A = f32> {
    batch: usize,
    layers: Vec<Compressed<A>>,
}

impl<A> CompressedSource<A> {
    /// Returns the number of sequences.
    pub fn batch(&self) -> usize {
        self.batch
    }

    /// Returns the keys and values that each block reads.
    pub fn layers(&self) -> &[Compressed<A>] {
        &self.layers
    }
}

impl<A: Scalar> Decoder<A> {
    /// Makes a decoder with random weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no decoder.
    pub fn new(config: &DecoderConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    pub(crate) fn init(config: &DecoderConfig, streams: &mut Streams) -> Self {
        let (target, source) = (config.target_half(), config.source_half());
        let projections = shared_projections(&target, streams);
        let own = !config.shares_one_projection();
        Self {
            config: config.clone(),
            projections,
            cross_projections: own.then(|| shared_projections(&source, streams)).flatten(),
            blocks: (0..config.depth)
                .map(|layer| DecoderBlock::init(&target, &source, layer, streams))
                .collect(),
            final_norm: config.final_norm.then(|| LayerNorm::init(config.dim(), config.norm_eps)),
            buffer_pool: BufferPool::default(),
        }
    }

    pub(super) fn buffer_pool(&self) -> &BufferPool<A> {
        &self.buffer_pool
    }

    /// Returns the configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Returns the blocks.
    pub fn blocks(&self) -> &[DecoderBlock<A>] {
        &self.blocks
    }

    /// Returns the projection of all self-attentions, if they share one.
    pub fn projections(&self) -> Option<&Projections<A>> {
        self.projections.as_ref()
    }

    /// Returns the projection of all cross-attentions, if they share one: that of the self-attentions where both compress.
    pub fn cross_projections(&self) -> Option<&Projections<A>> {
        self.cross_projections
            .as_ref()
            .or(self.projections.as_ref().filter(|_| self.config.shares_one_projection()))
    }

    pub(super) fn final_norm(&self) -> Option<&LayerNorm<A>> {
        self.final_norm.as_ref()
    }

    #[allow(clippy::type_complexity)] // its fields
    pub(super) fn parts_mut(&mut self) -> ([Option<&mut Projections<A>>; 2], &mut [DecoderBlock<A>], Option<&mut LayerNorm<A>>) {
        let projections = [self.projections.as_mut(), self.cross_projections.as_mut()];
        (projections, &mut self.blocks, self.final_norm.as_mut())
    }

    /// Compresses `source`, (batch, n, dim), once for each block; `mask` says which of its positions are real.
    ///
    /// # Errors
    /// Returns an error if `source` has the wrong width, `mask` the wrong shape, or the sequences are longer than `seq_len` where the projections
    /// have no more columns.
    pub fn compress(&self, source: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<CompressedSource<A>> {
        const OPERATION: &str = "Decoder::compress";
        let (batch, length, _) = source.dim();
        check_width(OPERATION, "source", source, self.config.dim())?;
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let shared = self.cross_projections();
        let layers = self
            .blocks
            .iter()
            .map(|block| block.cross_attention().compress(shared, source, mask));
        Ok(CompressedSource {
            batch,
            layers: layers.collect::<Result<_>>()?,
        })
    }

    /// Applies the blocks: (batch, m, dim) → (batch, m, dim), given the sources of the targets, (batch, n, dim), each with its own mask.
    ///
    /// # Errors
    /// Returns an error if a width is wrong, the two batches differ in size, a mask has another shape than its sequence, or a sequence is longer
    /// than the projections allow.
    pub fn forward(
        &self,
        target: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        source: &ArrayRef3<A>,
        source_mask: Option<&PaddingMask>,
    ) -> Result<Array3<A>> {
        self.attend(target, mask, &self.compress(source, source_mask)?)
    }

    /// Runs [`forward`](Self::forward) with a source that was compressed before.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if another decoder compressed the source.
    pub fn attend(&self, target: &ArrayRef3<A>, mask: Option<&PaddingMask>, source: &CompressedSource<A>) -> Result<Array3<A>> {
        check_width("Decoder::attend", "target", target, self.config.dim())?;
        let mut stream = self.checked("Decoder::attend", target.to_owned(), mask, source.batch)?;
        self.check_source("Decoder::attend", source)?;
        let workspace = &mut Workspace::new();
        for (block, context) in self.blocks.iter().zip(&source.layers) {
            stream = block.apply(stream, (self.projections(), context), mask, workspace)?;
        }
        self.finished(stream)
    }

    pub(super) fn finished(&self, stream: Array3<A>) -> Result<Array3<A>> {
        match &self.final_norm {
            Some(norm) => norm.forward(&stream),
            None => Ok(stream),
        }
    }

    /// A target, contiguous; an error where it, its mask or the number of its sources does not fit.
    pub(super) fn checked(
        &self,
        operation: &'static str,
        target: Array3<A>,
        mask: Option<&PaddingMask>,
        sources: usize,
    ) -> Result<Array3<A>> {
        let dim = self.config.dim();
        check_width(operation, "target", &target, dim)?;
        PaddingMask::check(mask, operation, target.dim().0, target.dim().1)?;
        if target.dim().0 != sources {
            let expected = format!("({sources}, any length, {dim}), one item for each source");
            return Err(Error::shape(operation, "target", expected, target.shape()));
        }
        Ok(contiguous(target))
    }

    /// An error unless `source` was compressed for blocks like these.
    pub(super) fn check_source(&self, operation: &'static str, source: &CompressedSource<A>) -> Result<()> {
        if source.layers.len() != self.blocks.len() {
            let reason = format!(
                "the source was compressed for {} blocks, but this decoder has {}; compress it with this decoder",
                source.layers.len(),
                self.blocks.len()
            );
            return Err(Error::argument(operation, reason));
        }
        let mut layers = self.blocks.iter().zip(&source.layers);
        layers.try_for_each(|(block, context)| block.cross_attention().check_context(operation, context))
    }
}
