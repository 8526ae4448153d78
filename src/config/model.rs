//! Language models.

use super::{AttentionKind, EncoderConfig, PositionKind, at_least_one, check_position, default_position, setters};
use crate::error::{Error, Result, checked_len};
use crate::initialization::is_standard_deviation;
use crate::ops::Activation;

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
    /// A weight and a bias for `count` labels in place of the tokens: the scores of every position are those of its labels, as in the recognition
    /// of names.
    Labels {
        /// The number of labels.
        count: usize,
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
    /// Whether a product leads out of the encoder's width where `embedding_dim` differs from it. Without, as in ELECTRA, features have the encoder's
    /// width.
    #[cfg_attr(feature = "serde", serde(default = "yes", skip_serializing_if = "is_yes"))]
    pub project_out: bool,
    /// The encoding of positions.
    pub position: PositionKind,
    /// How many types a token can have, such as 2 where a pair of texts is read as one sequence; each has a trained vector, which is added to those of
    /// token and position. `None` without.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub token_types: Option<usize>,
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
            project_out: true,
            token_types: None,
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
        /// Sets [`LanguageModelConfig::project_out`].
        with_project_out => project_out: bool,
        /// Sets [`LanguageModelConfig::token_types`].
        with_token_types => token_types: Option<usize>,
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

    /// Returns the width of features: what the head is given.
    pub fn feature_dim(&self) -> usize {
        if self.project_out {
            self.effective_embedding_dim()
        } else {
            self.encoder.dim()
        }
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
        if let Some(types) = self.token_types {
            at_least_one("token_types", types)?;
            checked_len("LanguageModelConfig", &[types, width], 8)?;
        }
        self.check_head(width)?;
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

    /// An error where the product out of the encoder, or the head, does not fit the widths.
    fn check_head(&self, width: usize) -> Result<()> {
        if !self.project_out && width == self.encoder.dim() {
            let reason = "it has no effect where embedding_dim is the encoder's width; leave it out";
            return Err(Error::config("project_out", false, reason));
        }
        match self.head {
            HeadKind::Labels { count } => {
                at_least_one("count", count)?;
                checked_len("HeadKind", &[count, self.feature_dim()], 8).map(|_| ())
            }
            HeadKind::Tied if width != self.feature_dim() => {
                let reason = format!(
                    "features have {} numbers, and token vectors {width}; use HeadKind::Plain or Roberta, or a product out",
                    self.feature_dim()
                );
                Err(Error::config("head", "Tied", reason))
            }
            HeadKind::Plain => checked_len("HeadKind", &[self.vocab_size, self.feature_dim()], 8).map(|_| ()),
            HeadKind::None | HeadKind::Tied | HeadKind::Roberta { .. } => Ok(()),
        }
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
        check_scores_tokens("head", self.head)
    }

    /// Checks that a model of this configuration can continue texts.
    pub(crate) fn check_generation(&self) -> Result<()> {
        self.check_next_tokens()?;
        if let Some(token) = self.zeroed_token {
            let reason = "a model that generates treats no token as padding, since texts of different lengths are masked; set it to None";
            return Err(Error::config("zeroed_token", token, reason));
        }
        if self.position.learned().is_some_and(|learned| learned.padding_token.is_some()) {
            let reason = "a model that generates counts positions from 0, without padding; use PositionKind::Learned";
            return Err(Error::config("position", format!("{:?}", self.position), reason));
        }
        Ok(())
    }
}

/// An error where a head scores labels.
pub(super) fn check_scores_tokens(option: &'static str, head: HeadKind) -> Result<()> {
    if let HeadKind::Labels { .. } = head {
        let reason = "it scores the labels of a position, not the token that follows it; use another, such as HeadKind::Plain";
        return Err(Error::config(option, "Labels", reason));
    }
    Ok(())
}

/// A default.
#[cfg(feature = "serde")]
fn yes() -> bool {
    true
}

#[cfg(feature = "serde")]
#[allow(clippy::trivially_copy_pass_by_ref)] // serde gives a reference
fn is_yes(value: &bool) -> bool {
    *value
}

pub(super) fn check_deviation(deviation: Option<f64>) -> Result<()> {
    match deviation {
        Some(value) if !is_standard_deviation(value) => {
            Err(Error::config("embedding_deviation", value, "it must be finite and not negative"))
        }
        _ => Ok(()),
    }
}
