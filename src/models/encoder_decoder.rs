//! One sequence of tokens in, scores of another out.

mod decoder;
mod decoding;
mod training;
mod translation;

use ndarray::{Array3, ArrayRef2};

use super::language_model::LanguageModel;
use crate::attention::PaddingMask;
use crate::blocks::CompressedSource;
use crate::config::{EncoderDecoderConfig, HasNorms, longest};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::parameters::parameters;
use crate::scalar::Scalar;

pub use decoder::{DecoderLanguageModel, DecoderLanguageModelCache};
pub use decoding::EncoderDecoderState;
pub use training::EncoderDecoderCache;
pub use translation::Translation;

/// A model that reads one sequence of tokens, the source, and writes another, the target.
///
/// An encoder makes features of the source, which every block of the decoder compresses once; the target then reads them row by row, however
/// long it becomes.
///
/// ```
/// use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, PairBatch, Step, Trainable};
/// use linformer::{
///     CausalConfig, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoder, EncoderDecoderConfig, LanguageModelConfig,
///     LinformerConfig, TrainingPass, TranslationConfig,
/// };
///
/// let attention = LinformerConfig::new(16, 2, 8, 4);
/// let source = LanguageModelConfig::new(6, EncoderConfig::new(attention.clone(), 1));
/// let target = DecoderLanguageModelConfig::new(6, DecoderConfig::new(CausalConfig::new(16, 2, 8, 1), attention, 1));
/// let mut model = EncoderDecoder::<f32>::new(&EncoderDecoderConfig::new(source, target), 0)?;
///
/// // Two pairs of unequal lengths; the token 0 begins every target, and 1 ends it.
/// let batch = PairBatch::from_sequences(&[(vec![2, 3, 4], vec![4, 3]), (vec![5], vec![5, 5, 2])], 0, 1)?;
/// let mut optimizer = AdamW::new(&model, AdamWConfig::new())?;
/// for index in 0..60 {
///     let pass = TrainingPass::new(Step::new(7, index));
///     let (_, gradients) = model.loss_and_gradients(&batch, &CrossEntropy::new(), &pass)?;
///     optimizer.step(&mut model, &gradients, 1e-2)?;
/// }
/// let found = model.translate(&[vec![2, 3, 4], vec![5]], &TranslationConfig::new(0, 1, 8).with_beams(2))?;
/// assert_eq!(found[0][0].tokens, [4, 3]);
/// assert_eq!(found[1][0].tokens, [5, 5, 2]);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct EncoderDecoder<A = f32> {
    config: EncoderDecoderConfig,
    source: LanguageModel<A>,
    target: DecoderLanguageModel<A>,
}

parameters!(EncoderDecoder { source, target });

/// Sources and the targets that belong to them, (batch, n) and (batch, m) token ids, each with its own mask.
#[derive(Clone, Copy, Debug)]
pub struct TokenPairs<'a> {
    pub(crate) source: &'a ArrayRef2<usize>,
    pub(crate) source_mask: Option<&'a PaddingMask>,
    pub(crate) target: &'a ArrayRef2<usize>,
    pub(crate) target_mask: Option<&'a PaddingMask>,
}

impl<'a> TokenPairs<'a> {
    /// Pairs without padding.
    pub fn new(source: &'a ArrayRef2<usize>, target: &'a ArrayRef2<usize>) -> Self {
        Self {
            source,
            source_mask: None,
            target,
            target_mask: None,
        }
    }

    /// Sets which positions of the sources are real.
    #[must_use]
    pub fn with_source_mask(mut self, mask: Option<&'a PaddingMask>) -> Self {
        self.source_mask = mask;
        self
    }

    /// Sets which positions of the targets are real.
    #[must_use]
    pub fn with_target_mask(mut self, mask: Option<&'a PaddingMask>) -> Self {
        self.target_mask = mask;
        self
    }
}

impl<A: Scalar> EncoderDecoder<A> {
    /// Creates a model with random weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no model; see [`EncoderDecoderConfig::check`].
    pub fn new(config: &EncoderDecoderConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    pub(crate) fn init(config: &EncoderDecoderConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            source: LanguageModel::init(&config.source, streams),
            target: DecoderLanguageModel::init(&config.target, streams),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &EncoderDecoderConfig {
        &self.config
    }

    /// Returns the encoder, with its embeddings.
    pub fn source(&self) -> &LanguageModel<A> {
        &self.source
    }

    /// Returns the decoder, with its embeddings and head.
    pub fn target(&self) -> &DecoderLanguageModel<A> {
        &self.target
    }

    pub(super) fn parts_mut(&mut self) -> (&mut LanguageModel<A>, &mut DecoderLanguageModel<A>) {
        (&mut self.source, &mut self.target)
    }

    /// Returns the longest target that the model can write, its start token included: that of its learned positions, or of blocks with weights of
    /// their own; `None` where any is possible.
    pub fn max_target(&self) -> Option<usize> {
        let EncoderDecoderConfig { target, .. } = &self.config;
        longest(target.position, &target.decoder.self_attention, target.decoder.depth)
    }

    /// An error where a target of `length` tokens is too long.
    pub(super) fn check_length(&self, operation: &'static str, length: usize) -> Result<()> {
        match self.max_target() {
            Some(most) if length > most => {
                let reason = format!("the target has {length} tokens with its start, but the model writes at most {most}; ask for fewer");
                Err(Error::argument(operation, reason))
            }
            _ => Ok(()),
        }
    }

    /// Reads sources, (batch, n) token ids, which are compressed once for each block of the decoder.
    ///
    /// # Errors
    /// Returns an error if a token is outside the vocabulary, if the mask has another shape, or if a sequence is longer than the positions or
    /// projections allow.
    pub fn encode(&self, source: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<CompressedSource<A>> {
        self.target.compress(&self.source.features(source, mask)?, mask)
    }

    /// Computes scores (batch, m, `vocab_size` of the targets) of the token after each of the targets', which begin with their start token.
    ///
    /// # Errors
    /// Returns an error as [`encode`](Self::encode) does, for sources or targets, or if there are more or fewer targets than sources.
    pub fn forward(&self, pairs: &TokenPairs<'_>) -> Result<Array3<A>> {
        let source = self.encode(pairs.source, pairs.source_mask)?;
        self.target.attend(pairs.target, pairs.target_mask, &source)
    }
}
