//! Tokens in, token scores out.

mod decoding;
mod generation;
mod ragged;
mod sampling;
mod training;
mod types;

use ndarray::{Array2, Array3, ArrayRef2, Axis};

use super::backbone::{Backbone, select};
use super::head::{HeadSizes, LanguageModelHead};
use super::typed_tokens::TypedTokens;
use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::config::{HasNorms, LanguageModelConfig, LocalGlobalConfig, ProjectionConfig, longest};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::Embedding;
use crate::parameters::{Parameters, parameters};
use crate::scalar::Scalar;

pub use decoding::LanguageModelState;
pub use generation::Generation;
pub(super) use sampling::{NOT_FINITE, first_of};
pub use training::LanguageModelCache;

/// Tokens in; features, or a score for each token of the vocabulary, out.
///
/// With [`LinformerConfig`](crate::LinformerConfig), or exact attention, every position sees the whole sequence: for masked language models and
/// encoders of text.
///
/// ```
/// use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig};
/// use linformer::ndarray::array;
///
/// let encoder = EncoderConfig::new(LinformerConfig::new(32, 4, 64, 8), 2);
/// let model = LanguageModel::<f32>::new(&LanguageModelConfig::new(256, encoder), 0)?;
/// let tokens = array![[104, 101, 108, 108, 111]];
/// assert_eq!(model.forward(&tokens, None)?.dim(), (1, 5, 256));
/// assert_eq!(model.logits_at(&tokens, &[vec![1, 3]], None)?.dim(), (2, 256));
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// With [`CausalConfig`](crate::CausalConfig), or with [`AttentionConfig::causal`](crate::AttentionConfig::causal) in exact attention or in a
/// [`LocalGlobalConfig`](crate::LocalGlobalConfig), a position sees only what came before it: the model trains on [`next_tokens`](Self::next_tokens) and continues texts with [`generate`](Self::generate).
///
/// ```
/// use linformer::{CausalConfig, EncoderConfig, GenerationConfig, LanguageModel, LanguageModelConfig};
///
/// let encoder = EncoderConfig::new(CausalConfig::new(32, 4, 128, 2), 2);
/// let model = LanguageModel::<f32>::new(&LanguageModelConfig::new(256, encoder), 0)?;
///
/// // Two prompts of different lengths, token by token.
/// let config = GenerationConfig::new(5).with_temperature(0.8).with_top_k(Some(40)).with_seed(7);
/// for tokens in model.generate(&[&b"Once upon"[..], b"In"].map(|text| text.iter().map(|&byte| byte.into()).collect::<Vec<usize>>()), &config)? {
///     assert_eq!(tokens?.len(), 2);
/// }
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LanguageModel<A = f32> {
    config: LanguageModelConfig,
    backbone: Backbone<A>,
    head: Option<LanguageModelHead<A>>,
}

parameters!(LanguageModel { head } flat { backbone });

impl<A: Scalar> LanguageModel<A> {
    /// Creates a model with random weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no model.
    pub fn new(config: &LanguageModelConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    /// Creates a model with the weights of one whose encoder has exact attention, and with new projections; see [`Encoder::from_exact`]. Positions
    /// stay as they are.
    ///
    /// # Errors
    /// Returns an error as [`Encoder::from_exact`] does.
    pub fn from_exact(model: &Self, seq_len: usize, k: usize, projection: ProjectionConfig, seed: u64) -> Result<Self> {
        let mut config = model.config.clone();
        config.encoder = config.encoder.compressing(seq_len, k, projection)?;
        let mut own = Self::new(&config, seed)?;
        own.copy_matching(model);
        Ok(own)
    }

    /// Returns the model with its exact attention in local-global form, given (batch, n) token ids to measure it on; see
    /// [`Encoder::to_local_global`].
    ///
    /// # Errors
    /// Returns an error as [`Encoder::to_local_global`] and [`encoder_input`](Self::encoder_input) do.
    pub fn to_local_global(&self, form: &LocalGlobalConfig, calibration: &[(Array2<usize>, Option<PaddingMask>)]) -> Result<Self> {
        let inputs = calibration
            .iter()
            .map(|(tokens, mask)| Ok((self.encoder_input(tokens, mask.as_ref())?, mask.as_ref())));
        let encoder = self.encoder().calibrated(form, inputs)?;
        self.clone().with_encoder(encoder)
    }

    /// Returns the model with another encoder of the same width, such as one that was trained by itself; embeddings and head stay.
    ///
    /// # Errors
    /// Returns an error if the encoder has another width, or if there is no model with these embeddings and it.
    pub fn with_encoder(mut self, encoder: Encoder<A>) -> Result<Self> {
        let (expected, found) = (self.config.encoder.dim(), encoder.config().dim());
        if found != expected {
            let reason = format!("the model's embeddings and head have width {expected}, but the encoder has {found}");
            return Err(Error::argument("LanguageModel::with_encoder", reason));
        }
        let mut config = self.config;
        config.encoder = encoder.config().clone();
        config.check_for::<A>()?;
        self.config = config;
        self.backbone.encoder = encoder;
        Ok(self)
    }

    pub(crate) fn init(config: &LanguageModelConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            backbone: Backbone::init(config, streams),
            head: LanguageModelHead::init(
                config.head,
                HeadSizes {
                    features: config.feature_dim(),
                    embedding: config.effective_embedding_dim(),
                    vocab_size: config.vocab_size,
                },
                config.encoder.norm_eps,
                streams,
            ),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &LanguageModelConfig {
        &self.config
    }

    /// Returns what the encoder reads: (batch, n) token ids → (batch, n, dim).
    ///
    /// # Errors
    /// Returns an error if a token is outside the vocabulary, if the mask has another shape, or if a sequence is longer than the positions allow.
    pub fn encoder_input(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.backbone.embed(tokens.into(), mask, None)
    }

    /// Returns the model with learned positions that begin anew behind the last, so that it reads sequences of any length: position p has the vector
    /// of p mod the number of positions. Shorter sequences are read as before. See [`PositionKind::LearnedRepeating`](crate::PositionKind).
    ///
    /// ```
    /// use linformer::ndarray::Array2;
    /// use linformer::{AttentionConfig, EncoderConfig, LanguageModel, LanguageModelConfig, PositionKind};
    ///
    /// let config = LanguageModelConfig::new(10, EncoderConfig::new(AttentionConfig::new(8, 2), 1));
    /// let model = LanguageModel::<f32>::new(&config.with_position(PositionKind::Learned { max_len: 4 }), 0)?;
    /// let longer = Array2::ones((1, 7));
    /// assert!(model.features(&longer, None).is_err());
    /// assert_eq!(model.with_repeating_positions()?.features(&longer, None)?.dim(), (1, 7, 8));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the model's positions are not learned: those read any length already.
    pub fn with_repeating_positions(mut self) -> Result<Self> {
        self.backbone.embeddings.position.repeat()?;
        self.config.position = self.config.position.repeating()?;
        Ok(self)
    }

    pub(crate) fn backbone(&self) -> &Backbone<A> {
        &self.backbone
    }

    /// Returns the head, which makes token scores, if the model has one.
    pub fn head(&self) -> Option<&LanguageModelHead<A>> {
        self.head.as_ref()
    }

    pub(super) fn parts_mut(&mut self) -> (&mut Backbone<A>, Option<&mut LanguageModelHead<A>>) {
        (&mut self.backbone, self.head.as_mut())
    }

    /// Returns the blocks.
    pub fn encoder(&self) -> &Encoder<A> {
        &self.backbone.encoder
    }

    /// Returns the token vectors.
    pub fn embedding(&self) -> &Embedding<A> {
        &self.backbone.embeddings.embedding
    }

    /// Returns the longest sequence without padding that the model can read: that of its learned positions, of learned or random projections,
    /// or of blocks with weights of their own; `None` where any length is possible.
    pub fn max_context(&self) -> Option<usize> {
        longest(self.config.position, &self.config.encoder.attention, self.config.encoder.depth)
    }

    /// Returns the target of each position of `tokens`, for training on next tokens: the token after it, and `None` at the end of a sequence and
    /// where either of the two is padding.
    ///
    /// # Errors
    /// Returns an error if the model's attention sees later tokens, which would make them known before they are predicted, if it has no head,
    /// or if the mask has another shape than `tokens`.
    pub fn next_tokens(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Vec<Option<usize>>> {
        const OPERATION: &str = "LanguageModel::next_tokens";
        self.config.check_next_tokens()?;
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, OPERATION, batch, length)?;
        checked_len(OPERATION, &[batch, length], size_of::<Option<usize>>())?;
        let is_real = |item, position| mask.is_none_or(|mask| mask.is_real(item, position));
        let target = |((item, position), _)| {
            let next = tokens.get((item, position + 1)).copied()?;
            (is_real(item, position) && is_real(item, position + 1)).then_some(next)
        };
        Ok(tokens.indexed_iter().map(target).collect())
    }

    /// Computes token scores: (batch, n) token ids → (batch, n, `vocab_size`), those of labels where the head has labels, or
    /// (batch, n, [`feature_dim`](LanguageModelConfig::feature_dim)) features where the model has no head. All tokens are of type 0.
    ///
    /// # Errors
    /// Returns an error if a token is outside the vocabulary, if the mask has another shape, or if a sequence is longer than the positions or
    /// projections allow.
    pub fn forward(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.forward_of(tokens.into(), mask)
    }

    pub(crate) fn forward_of(&self, tokens: TypedTokens<'_>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.scores(self.backbone.forward(tokens, mask)?)
    }

    /// Returns the scores of features, or these where the model has no head.
    pub(super) fn scores(&self, features: Array3<A>) -> Result<Array3<A>> {
        match &self.head {
            Some(head) => head.forward(features, self.backbone.embeddings.embedding.weight()),
            None => Ok(features),
        }
    }

    /// Computes the head's input: (batch, n) token ids → (batch, n, [`feature_dim`](LanguageModelConfig::feature_dim)). All tokens are of type 0.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn features(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.backbone.forward(tokens.into(), mask)
    }

    /// Computes the scores at `positions`, one list for each batch item, without making those of the others: (number of positions, `vocab_size`),
    /// item after item.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, if the model has no head, if there are more or fewer lists than items, or if a position
    /// is outside the sequence.
    pub fn logits_at(&self, tokens: &ArrayRef2<usize>, positions: &[Vec<usize>], mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        self.logits_of(tokens.into(), positions, mask)
    }

    pub(crate) fn logits_of(&self, tokens: TypedTokens<'_>, positions: &[Vec<usize>], mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        if self.head.is_none() {
            return Err(Error::argument(
                "LanguageModel::logits_at",
                "the model has no head (HeadKind::None); use features",
            ));
        }
        let selected = select(&self.backbone.forward(tokens, mask)?, positions)?;
        Ok(self.scores(selected)?.index_axis_move(Axis(0), 0))
    }
}
