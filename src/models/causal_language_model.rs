//! Tokens in, scores of the next token out.

use ndarray::{Array2, Array3, ArrayRef2};

use super::body::Body;
use super::language_model::LanguageModel;
use super::training::LanguageModelCache;
use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::config::{AttentionKind, HasNorms, HeadKind, LanguageModelConfig, PositionKind, TrainingPass};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// A language model whose every position is scored from what came before it, for training on next tokens and for [`generate`](Self::generate).
///
/// ```
/// use linformer::{CausalConfig, CausalLanguageModel, EncoderConfig, GenerationConfig, LanguageModelConfig};
///
/// let encoder = EncoderConfig::new(CausalConfig::new(32, 4, 128, 2), 2);
/// let model = CausalLanguageModel::<f32>::new(&LanguageModelConfig::new(256, encoder), 0)?;
///
/// // Two prompts of different lengths, token by token.
/// let config = GenerationConfig::new(5).with_temperature(0.8).with_top_k(Some(40)).with_seed(7);
/// for tokens in model.generate(&[&b"Once upon"[..], b"In"].map(|text| text.iter().map(|&byte| byte.into()).collect::<Vec<usize>>()), &config)? {
///     assert_eq!(tokens?.len(), 2);
/// }
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct CausalLanguageModel<A = f32> {
    model: LanguageModel<A>,
}

parameters!(CausalLanguageModel { } flat { model });

/// Checks that a model of this configuration sees no later token, and scores the next.
pub(crate) fn check_causal(config: &LanguageModelConfig) -> Result<()> {
    config.check()?;
    if !config.encoder.attention.is_causal() {
        return Err(Error::config(
            "attention",
            "not causal",
            "a causal language model needs CausalConfig, or AttentionConfig::with_causal(true)",
        ));
    }
    if config.head == HeadKind::None {
        return Err(Error::config("head", "None", "without a head there are no scores of next tokens"));
    }
    if let Some(token) = config.zeroed_token {
        return Err(Error::config(
            "zeroed_token",
            token,
            "texts of different lengths are masked here; leave it out",
        ));
    }
    if let PositionKind::LearnedAfterPadding { .. } = config.position {
        return Err(Error::config(
            "position",
            "LearnedAfterPadding",
            "texts begin at position 0 here; use Learned",
        ));
    }
    Ok(())
}

/// The longest sequence that causal blocks with these positions can go through, if there is one.
pub(super) fn max_context(position: PositionKind, attention: &AttentionKind) -> Option<usize> {
    let positions = match position {
        PositionKind::Learned { max_len } => Some(max_len),
        _ => None,
    };
    let blocks = match attention {
        AttentionKind::Causal(config) => config.longest(),
        _ => None,
    };
    positions.into_iter().chain(blocks).min()
}

impl<A: Scalar> CausalLanguageModel<A> {
    /// A model with drawn weights.
    ///
    /// # Errors
    /// A configuration that describes no model, whose attention is not causal, without a head, or that treats a token as padding.
    pub fn new(config: &LanguageModelConfig, seed: u64) -> Result<Self> {
        check_causal(config)?;
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::draw(config, streams))
    }

    pub(crate) fn draw(config: &LanguageModelConfig, streams: &mut Streams) -> Self {
        Self {
            model: LanguageModel::draw(config, streams),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &LanguageModelConfig {
        self.model.config()
    }

    /// The blocks.
    pub fn encoder(&self) -> &Encoder<A> {
        self.model.encoder()
    }

    pub(crate) fn from_model(model: LanguageModel<A>) -> Self {
        Self { model }
    }

    pub(crate) fn model(&self) -> &LanguageModel<A> {
        &self.model
    }

    pub(super) fn body(&self) -> &Body<A> {
        self.model.body()
    }

    /// The scores of features (batch, length, width).
    pub(super) fn scores(&self, features: Array3<A>) -> Result<Array3<A>> {
        match self.model.head() {
            Some(head) => head.forward(features, self.model.embedding().weight()),
            None => Ok(features),
        }
    }

    /// The longest text that the model can read: that of its learned positions, or of blocks with weights of their own; `None` where any is possible.
    pub fn max_context(&self) -> Option<usize> {
        max_context(self.config().position, &self.config().encoder.attention)
    }

    /// An error where a text of `length` tokens is too long.
    pub(super) fn check_length(&self, operation: &'static str, length: usize) -> Result<()> {
        match self.max_context() {
            Some(most) if length > most => Err(Error::argument(
                operation,
                format!("the text has {length} tokens, but the model reads at most {most}; shorten it, or generate with Overflow::Slide"),
            )),
            _ => Ok(()),
        }
    }

    /// (batch, n) token ids → (batch, n, `vocab_size`): the scores of the token after each.
    ///
    /// # Errors
    /// A token outside the vocabulary, a mask of another shape, a sequence longer than [`max_context`](Self::max_context).
    pub fn forward(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.model.forward(tokens, mask)
    }

    /// The scores at `positions`; see [`LanguageModel::logits_at`].
    ///
    /// # Errors
    /// As [`LanguageModel::logits_at`].
    pub fn logits_at(&self, tokens: &ArrayRef2<usize>, positions: &[Vec<usize>], mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        self.model.logits_at(tokens, positions, mask)
    }

    /// What each position of `tokens` is to foretell: the token after it; nothing at the end, and nothing where either is padding.
    pub fn next_tokens(tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Vec<Option<usize>> {
        let is_real = |item, position| mask.is_none_or(|mask| mask.is_real(item, position));
        tokens
            .indexed_iter()
            .map(|((item, position), _)| {
                let next = tokens.get((item, position + 1)).copied()?;
                (is_real(item, position) && is_real(item, position + 1)).then_some(next)
            })
            .collect()
    }

    /// [`forward`](Self::forward) with the pass's dropout, and what [`backward`](Self::backward) needs; see [`LanguageModel::forward_train`].
    ///
    /// # Errors
    /// As [`LanguageModel::forward_train`].
    pub fn forward_train(
        &self,
        tokens: &ArrayRef2<usize>,
        positions: Option<&[Vec<usize>]>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, LanguageModelCache<A>)> {
        self.model.forward_train(tokens, positions, mask, pass)
    }

    /// Adds the gradients of all parameters to `gradients`, given `dy` of the output of [`forward_train`](Self::forward_train).
    ///
    /// # Errors
    /// As [`LanguageModel::backward`].
    pub fn backward(&self, cache: LanguageModelCache<A>, dy: &ndarray::ArrayRef3<A>, gradients: &mut Self) -> Result<()> {
        self.model.backward(cache, dy, &mut gradients.model)
    }
}
