//! Language models.

use super::{AttentionKind, EncoderConfig, at_least_one, setters};
use crate::error::{Error, Result, checked_len};
use crate::initialization::is_standard_deviation;
use crate::ops::Activation;

/// The layout of sinusoidal positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SinusoidLayout {
    /// All sines, then all cosines.
    Halves,
    /// Sines and cosines interleaved, as in the original Transformer.
    Interleaved,
}

/// The encoding of positions; [`Position`](crate::Position) shows one.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum PositionKind {
    /// Nothing.
    None,
    /// A trained vector for each of `max_len` positions.
    Learned {
        /// The longest sequence.
        max_len: usize,
    },
    /// As RoBERTa and fairseq count: only tokens that are not padding take a position, the first one `padding_token` + 1; padding itself
    /// has the vector of row `padding_token`. Padding is what the mask says, where there is one, and every `padding_token` where there is
    /// none.
    LearnedAfterPadding {
        /// The most tokens of a sequence that are not padding.
        max_len: usize,
        /// The token id of padding.
        padding_token: usize,
    },
    /// sin and cos of position · `base`^(−2i/d) (Vaswani et al., arXiv 1706.03762), of any length.
    Sinusoidal {
        /// 10,000 in most models.
        base: f64,
        /// The order of sines and cosines.
        layout: SinusoidLayout,
        /// Whether the frequencies are saved with the model, as rounded as they are there, rather than remade; PyTorch models
        /// that keep them as a buffer are reproduced only so.
        stored: bool,
    },
}

impl PositionKind {
    /// Returns sinusoidal positions as the original Transformer has them: base 10,000, sines and cosines interleaved, not stored.
    pub fn sinusoidal() -> Self {
        Self::Sinusoidal {
            base: 10_000.0,
            layout: SinusoidLayout::Interleaved,
            stored: false,
        }
    }
}

/// The head that computes token scores from a language model's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum HeadKind {
    /// Nothing: the model returns features.
    None,
    /// Its own weight, and a bias.
    Plain,
    /// The token embedding as weight, and a bias.
    Tied,
    /// RoBERTa's: dense layer, activation, norm, then a weight and a bias.
    Roberta {
        /// Whether that weight is the token embedding.
        tied: bool,
        /// The activation after the dense layer.
        activation: Activation,
    },
}

/// Tokens in, features or token scores out; [`LanguageModel`](crate::LanguageModel) has an example.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct LanguageModelConfig {
    /// The number of token ids.
    pub vocab_size: usize,
    /// The blocks.
    pub encoder: EncoderConfig,
    /// The width of token and position vectors where it is not the encoder's; products lead in and out.
    pub embedding_dim: Option<usize>,
    /// The encoding of positions.
    pub position: PositionKind,
    /// Whether the sum of token and position vectors is normalized.
    pub embedding_norm: bool,
    /// The standard deviation of the token vectors of a new model; 0.02 if `None`, as in BERT. That is far less than sinusoidal positions, whose
    /// root mean square is √½: with these and a head that is not tied, 0.7 trains much faster. The vectors of a tied head are weights of scores, too,
    /// and want a small one.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub embedding_deviation: Option<f64>,
    /// A token whose vectors are set to 0 before the first block where no mask is given, as fairseq does. It is not a mask: deeper
    /// blocks see whatever padding has become.
    pub zeroed_token: Option<usize>,
    /// The head that computes token scores.
    pub head: HeadKind,
}

impl LanguageModelConfig {
    /// Creates a configuration with learned positions up to the encoder's `seq_len` (sinusoidal ones for exact attention,
    /// which has none) and a plain head.
    pub fn new(vocab_size: usize, encoder: EncoderConfig) -> Self {
        Self {
            vocab_size,
            embedding_dim: None,
            position: default_position(&encoder.attention),
            encoder,
            embedding_norm: false,
            embedding_deviation: None,
            zeroed_token: None,
            head: HeadKind::Plain,
        }
    }

    setters! {
        /// Sets [`LanguageModelConfig::embedding_dim`].
        with_embedding_dim => embedding_dim: Option<usize>,
        /// Sets [`LanguageModelConfig::position`].
        with_position => position: PositionKind,
        /// Sets [`LanguageModelConfig::embedding_norm`].
        with_embedding_norm => embedding_norm: bool,
        /// Sets [`LanguageModelConfig::embedding_deviation`].
        with_embedding_deviation => embedding_deviation: Option<f64>,
        /// Sets [`LanguageModelConfig::zeroed_token`].
        with_zeroed_token => zeroed_token: Option<usize>,
        /// Sets [`LanguageModelConfig::head`].
        with_head => head: HeadKind,
    }

    /// Returns the width of token and position vectors.
    pub fn effective_embedding_dim(&self) -> usize {
        self.embedding_dim.unwrap_or(self.encoder.dim())
    }

    /// Checks that this describes a model.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self) -> Result<()> {
        self.encoder.check()?;
        at_least_one("vocab_size", self.vocab_size)?;
        let width = self.effective_embedding_dim();
        at_least_one("embedding_dim", width)?;
        checked_len("LanguageModelConfig", &[self.vocab_size, width], 8)?;
        checked_len("LanguageModelConfig", &[width, width.max(self.encoder.dim())], 8)?;
        check_position(self.position, width, self.vocab_size)?;
        check_deviation(self.embedding_deviation)?;
        if let Some(token) = self.zeroed_token
            && token >= self.vocab_size
        {
            return Err(Error::config(
                "zeroed_token",
                token,
                format!("token ids end at {}", self.vocab_size - 1),
            ));
        }
        Ok(())
    }

    /// Checks that every position is scored by what came before it: what training on next tokens needs.
    pub(crate) fn check_next_tokens(&self) -> Result<()> {
        let kind = match &self.encoder.attention {
            AttentionKind::Linformer(_) => "Linformer",
            AttentionKind::Exact(_) => "Exact, not causal",
            AttentionKind::Causal(_) => "Causal",
            AttentionKind::LocalGlobal(_) => "LocalGlobal, not causal",
        };
        if !self.encoder.attention.is_causal() {
            let reason = "a next token is to be predicted from the tokens before it, but every position of this attention sees the later ones, too; \
                          build the model with CausalConfig, or with AttentionConfig or LocalGlobalConfig and with_causal(true)";
            return Err(Error::config("attention", kind, reason));
        }
        if self.head == HeadKind::None {
            let reason = "without a head there are no scores of next tokens; build the model with another, such as HeadKind::Plain";
            return Err(Error::config("head", "None", reason));
        }
        Ok(())
    }

    /// Checks that a model of this configuration can continue texts.
    pub(crate) fn check_generation(&self) -> Result<()> {
        self.check_next_tokens()?;
        if let Some(token) = self.zeroed_token {
            let reason = "a model that generates treats no token as padding, since texts of different lengths are masked; set it to None";
            return Err(Error::config("zeroed_token", token, reason));
        }
        if let PositionKind::LearnedAfterPadding { .. } = self.position {
            let reason = "a model that generates counts positions from 0, without padding; use PositionKind::Learned";
            return Err(Error::config("position", "LearnedAfterPadding", reason));
        }
        Ok(())
    }
}

/// Returns the longest sequence without padding that `depth` blocks with this attention and these positions take, if there is one.
pub(crate) fn longest(position: PositionKind, attention: &AttentionKind, depth: usize) -> Option<usize> {
    let positions = match position {
        PositionKind::Learned { max_len } | PositionKind::LearnedAfterPadding { max_len, .. } => Some(max_len),
        PositionKind::None | PositionKind::Sinusoidal { .. } => None,
    };
    let blocks = attention.longest().filter(|_| depth > 0);
    positions.into_iter().chain(blocks).min()
}

/// Learned positions up to the `seq_len` of the attention, or sinusoidal ones where it has none.
pub(crate) fn default_position(attention: &AttentionKind) -> PositionKind {
    match attention {
        AttentionKind::Linformer(config) => PositionKind::Learned { max_len: config.seq_len },
        AttentionKind::Causal(config) => PositionKind::Learned { max_len: config.seq_len },
        AttentionKind::Exact(_) | AttentionKind::LocalGlobal(_) => PositionKind::sinusoidal(),
    }
}

pub(crate) fn check_position(position: PositionKind, width: usize, vocab_size: usize) -> Result<()> {
    match position {
        PositionKind::None => Ok(()),
        PositionKind::Learned { max_len } => {
            at_least_one("max_len", max_len)?;
            checked_len("PositionKind", &[max_len, width], 8).map(|_| ())
        }
        PositionKind::LearnedAfterPadding { max_len, padding_token } => {
            at_least_one("max_len", max_len)?;
            if padding_token >= vocab_size {
                return Err(Error::config(
                    "padding_token",
                    padding_token,
                    format!("token ids end at {}", vocab_size - 1),
                ));
            }
            let rows = max_len.saturating_add(padding_token).saturating_add(1);
            checked_len("PositionKind", &[rows, width], 8).map(|_| ())
        }
        PositionKind::Sinusoidal { base, .. } if base.is_normal() && base > 0.0 => check_frequencies(base, width),
        PositionKind::Sinusoidal { base, .. } => {
            let reason = format!("it must be finite and at least {:e}", f64::MIN_POSITIVE);
            Err(Error::config("base", format!("{base:e}"), reason))
        }
    }
}

pub(super) fn check_deviation(deviation: Option<f64>) -> Result<()> {
    match deviation {
        Some(value) if !is_standard_deviation(value) => {
            Err(Error::config("embedding_deviation", value, "it must be finite and not negative"))
        }
        _ => Ok(()),
    }
}

/// An error where the product of a frequency and a position is not finite.
fn check_frequencies(base: f64, width: usize) -> Result<()> {
    let last = width.div_ceil(2).saturating_sub(1);
    let largest = libm::pow(base, -2.0 * last as f64 / width as f64).max(1.0);
    if (largest * usize::MAX as f64).is_finite() {
        return Ok(());
    }
    let reason = format!("its frequencies reach {largest:e}, which not every position can be multiplied by; use a base nearer to 1");
    Err(Error::config("base", format!("{base:e}"), reason))
}
