//! Blocks, encoders and models.

use super::{AttentionConfig, LinformerConfig, Sharing, at_least_one, setters};
use crate::error::{Error, Result, checked_len};
use crate::ops::Activation;

/// A feed-forward layer.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct FeedForwardConfig {
    /// The width in between.
    pub ff_dim: usize,
    /// The non-linearity in between.
    pub activation: Activation,
    /// Whether the activation of one half of a first product of twice the width multiplies the other half (Shazeer, arXiv 2002.05202).
    pub gated: bool,
    /// Whether both products have a bias.
    pub bias: bool,
}

impl FeedForwardConfig {
    /// GELU in between, with biases.
    pub fn new(ff_dim: usize) -> Self {
        Self {
            ff_dim,
            activation: Activation::Gelu,
            gated: false,
            bias: true,
        }
    }

    setters! {
        /// Sets [`FeedForwardConfig::activation`].
        with_activation => activation: Activation,
        /// Sets [`FeedForwardConfig::gated`].
        with_gated => gated: bool,
        /// Sets [`FeedForwardConfig::bias`].
        with_bias => bias: bool,
    }

    /// Checks that this describes a layer between `dim` and `out_dim` features.
    ///
    /// # Errors
    /// Sizes of 0, sizes that do not divide or that overflow, and options without effect, each by name.
    pub fn check(&self, dim: usize, out_dim: usize) -> Result<()> {
        for (option, value) in [("ff_dim", self.ff_dim), ("dim", dim), ("out_dim", out_dim)] {
            at_least_one(option, value)?;
        }
        checked_len("FeedForwardConfig", &[2, self.ff_dim, dim.max(out_dim)], 8).map(|_| ())
    }
}

/// Where a block normalises.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum NormPlacement {
    /// x + f(norm(x)). The default.
    #[default]
    Pre,
    /// norm(x + f(x)), as in the original Transformer.
    Post,
}

/// The attention of an encoder's blocks.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum AttentionKind {
    /// Linformer: O(n·k).
    Linformer(LinformerConfig),
    /// Exact: O(n²).
    Exact(AttentionConfig),
}

impl AttentionKind {
    /// Heads and weights.
    pub fn attention(&self) -> &AttentionConfig {
        match self {
            Self::Linformer(config) => &config.attention,
            Self::Exact(config) => config,
        }
    }
}

impl From<LinformerConfig> for AttentionKind {
    fn from(config: LinformerConfig) -> Self {
        Self::Linformer(config)
    }
}

impl From<AttentionConfig> for AttentionKind {
    fn from(config: AttentionConfig) -> Self {
        Self::Exact(config)
    }
}

/// A stack of blocks.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct EncoderConfig {
    /// The attention of the blocks; its `dim` is the encoder's.
    pub attention: AttentionKind,
    /// The number of blocks.
    pub depth: usize,
    /// The feed-forward of the blocks, if they have one.
    pub feed_forward: Option<FeedForwardConfig>,
    /// Where the blocks normalise.
    pub norm: NormPlacement,
    /// What LayerNorm adds to the variance.
    pub norm_eps: f64,
    /// Whether the last block is followed by a norm of its own.
    pub final_norm: bool,
    /// Whether two streams y₁ = x₁ + attention(x₂), y₂ = x₂ + feed-forward(y₁) run through the blocks (Gomez et al., arXiv 1707.04585);
    /// both start as the input, and the output is their sum.
    pub reversible: bool,
    /// The projected length of each block where it differs (paper, "nonuniform projected dimension").
    pub k_by_layer: Option<Vec<usize>>,
    /// The width between the blocks where it is not the encoder's own; the feed-forwards that change it have a learned residual.
    pub hidden_dim: Option<usize>,
}

impl EncoderConfig {
    /// `depth` pre-norm blocks with a GELU feed-forward of four times the width, and a final norm.
    pub fn new(attention: impl Into<AttentionKind>, depth: usize) -> Self {
        let attention = attention.into();
        let ff_dim = attention.attention().dim.saturating_mul(4);
        Self {
            attention,
            depth,
            feed_forward: Some(FeedForwardConfig::new(ff_dim)),
            norm: NormPlacement::Pre,
            norm_eps: 1e-5,
            final_norm: true,
            reversible: false,
            k_by_layer: None,
            hidden_dim: None,
        }
    }

    setters! {
        /// Sets [`EncoderConfig::feed_forward`].
        with_feed_forward => feed_forward: Option<FeedForwardConfig>,
        /// Sets [`EncoderConfig::norm`]; see also [`EncoderConfig::with_final_norm`].
        with_norm => norm: NormPlacement,
        /// Sets [`EncoderConfig::norm_eps`].
        with_norm_eps => norm_eps: f64,
        /// Sets [`EncoderConfig::final_norm`].
        with_final_norm => final_norm: bool,
        /// Sets [`EncoderConfig::reversible`].
        with_reversible => reversible: bool,
        /// Sets [`EncoderConfig::k_by_layer`].
        with_k_by_layer => k_by_layer: Option<Vec<usize>>,
        /// Sets [`EncoderConfig::hidden_dim`].
        with_hidden_dim => hidden_dim: Option<usize>,
    }

    /// The encoder's width d.
    pub fn dim(&self) -> usize {
        self.attention.attention().dim
    }

    /// The widths before and after block `layer`.
    pub(crate) fn widths(&self, layer: usize) -> (usize, usize) {
        let between = self.hidden_dim.unwrap_or(self.dim());
        let before = if layer == 0 { self.dim() } else { between };
        let after = if layer + 1 == self.depth { self.dim() } else { between };
        (before, after)
    }

    /// The attention of block `layer`: its width and its k where they differ from the encoder's.
    pub(crate) fn layer_attention(&self, layer: usize) -> AttentionKind {
        let head_dim = self.attention.attention().effective_head_dim();
        let mut attention = self.attention.clone();
        let (AttentionKind::Exact(config) | AttentionKind::Linformer(LinformerConfig { attention: config, .. })) = &mut attention;
        config.head_dim = Some(head_dim);
        config.dim = self.widths(layer).0;
        if let (AttentionKind::Linformer(config), Some(by_layer)) = (&mut attention, &self.k_by_layer)
            && let Some(&k) = by_layer.get(layer)
        {
            config.k = k;
        }
        attention
    }

    /// Whether the encoder owns the one projection of all its layers.
    pub(crate) fn shares_projection(&self) -> bool {
        matches!(&self.attention, AttentionKind::Linformer(config) if config.projection.sharing == Some(Sharing::Layerwise))
    }

    /// Checks that this describes an encoder.
    ///
    /// # Errors
    /// Sizes of 0, sizes that do not divide or that overflow, and options without effect, each by name.
    pub fn check(&self) -> Result<()> {
        match &self.attention {
            AttentionKind::Linformer(config) => config.check()?,
            AttentionKind::Exact(config) => config.check()?,
        }
        if !(self.norm_eps >= 0.0 && self.norm_eps.is_finite()) {
            return Err(Error::config("norm_eps", self.norm_eps, "it must be finite and not negative"));
        }
        self.check_k_by_layer()?;
        self.check_widths()?;
        if self.reversible && (self.norm == NormPlacement::Post || self.feed_forward.is_none() || self.hidden_dim.is_some()) {
            return Err(Error::config(
                "reversible",
                true,
                "reversible blocks are pre-norm, have a feed-forward and keep their width",
            ));
        }
        for layer in 0..self.depth {
            match self.layer_attention(layer) {
                AttentionKind::Linformer(config) => config.check()?,
                AttentionKind::Exact(config) => config.check()?,
            }
        }
        Ok(())
    }

    fn check_k_by_layer(&self) -> Result<()> {
        let Some(by_layer) = &self.k_by_layer else {
            return Ok(());
        };
        let refused = |reason: String| Err(Error::config("k_by_layer", format!("{by_layer:?}"), reason));
        if by_layer.len() != self.depth {
            return refused(format!("it must have one entry for each of the {} layers", self.depth));
        }
        match &self.attention {
            AttentionKind::Exact(_) => refused("exact attention compresses nothing".into()),
            AttentionKind::Linformer(_) if self.shares_projection() && by_layer.windows(2).any(|pair| pair[0] != pair[1]) => {
                refused("layerwise sharing has one projection, so all layers have its k".into())
            }
            AttentionKind::Linformer(config) if self.shares_projection() && by_layer.first().is_some_and(|&k| k != config.k) => {
                refused(format!("layerwise sharing has one projection of k = {}", config.k))
            }
            AttentionKind::Linformer(_) => Ok(()),
        }
    }

    fn check_widths(&self) -> Result<()> {
        if let Some(hidden_dim) = self.hidden_dim {
            at_least_one("hidden_dim", hidden_dim)?;
            if self.feed_forward.is_none() {
                return Err(Error::config("hidden_dim", hidden_dim, "only a feed-forward can change the width"));
            }
            if self.depth < 2 {
                return Err(Error::config(
                    "hidden_dim",
                    hidden_dim,
                    "there is nothing between fewer than two blocks",
                ));
            }
        }
        if let Some(feed_forward) = &self.feed_forward {
            for layer in 0..self.depth {
                let (before, after) = self.widths(layer);
                feed_forward.check(before, after)?;
            }
        }
        Ok(())
    }
}

/// The layout of sinusoidal positions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum SinusoidLayout {
    /// All sines, then all cosines.
    Halves,
    /// Sine and cosine by turns, as in the original Transformer.
    Interleaved,
}

/// What tells a model where a token stands.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum PositionKind {
    /// Nothing.
    None,
    /// A trained vector for each of `max_len` positions.
    Learned {
        /// The longest sequence.
        max_len: usize,
    },
    /// As RoBERTa and fairseq count: only tokens other than `padding_token` take a position, the first one `padding_token` + 1;
    /// padding itself has the vector of row `padding_token`.
    LearnedAfterPadding {
        /// The most tokens of a sequence that are no padding.
        max_len: usize,
        /// The token id of padding.
        padding_token: usize,
    },
    /// sin and cos of position · `base`^(−2i/d) (Vaswani et al., arXiv 1706.03762), of any length.
    Sinusoidal {
        /// 10,000 in most models.
        base: f64,
        /// Which columns are sines.
        layout: SinusoidLayout,
        /// Whether the frequencies are saved with the model, as rounded as they are there, rather than made anew; PyTorch models
        /// that keep them as a buffer are reproduced only so.
        stored: bool,
    },
}

/// What makes token scores of a language model's features.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum HeadKind {
    /// Nothing: the model returns features.
    None,
    /// A weight of its own and a bias.
    Plain,
    /// The token embedding as weight, and a bias.
    Tied,
    /// RoBERTa's: dense layer, GELU, norm, then a weight and a bias.
    Roberta {
        /// Whether that weight is the token embedding.
        tied: bool,
        /// The activation after the dense layer.
        activation: Activation,
    },
}

/// Tokens in, features or token scores out.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct LanguageModelConfig {
    /// The number of token ids.
    pub vocab_size: usize,
    /// The blocks.
    pub encoder: EncoderConfig,
    /// The width of token and position vectors where it is not the encoder's; products lead in and out.
    pub embedding_dim: Option<usize>,
    /// What tells the model where a token stands.
    pub position: PositionKind,
    /// Whether the sum of token and position vectors is normalised.
    pub embedding_norm: bool,
    /// A token whose vectors are set to 0 before the first block where no mask is given, as fairseq does. It is no mask: deeper
    /// blocks see whatever padding has become.
    pub zeroed_token: Option<usize>,
    /// What makes token scores.
    pub head: HeadKind,
}

impl LanguageModelConfig {
    /// Learned positions up to the encoder's `seq_len` (sinusoidal ones for exact attention, which has none), a plain head.
    pub fn new(vocab_size: usize, encoder: EncoderConfig) -> Self {
        let position = match &encoder.attention {
            AttentionKind::Linformer(config) => PositionKind::Learned { max_len: config.seq_len },
            AttentionKind::Exact(_) => PositionKind::Sinusoidal {
                base: 10_000.0,
                layout: SinusoidLayout::Interleaved,
                stored: false,
            },
        };
        Self {
            vocab_size,
            encoder,
            embedding_dim: None,
            position,
            embedding_norm: false,
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
        /// Sets [`LanguageModelConfig::zeroed_token`].
        with_zeroed_token => zeroed_token: Option<usize>,
        /// Sets [`LanguageModelConfig::head`].
        with_head => head: HeadKind,
    }

    /// The width of token and position vectors.
    pub fn effective_embedding_dim(&self) -> usize {
        self.embedding_dim.unwrap_or(self.encoder.dim())
    }

    /// Checks that this describes a model.
    ///
    /// # Errors
    /// Sizes of 0, sizes that do not divide or that overflow, and options without effect, each by name.
    pub fn check(&self) -> Result<()> {
        self.encoder.check()?;
        at_least_one("vocab_size", self.vocab_size)?;
        let width = self.effective_embedding_dim();
        at_least_one("embedding_dim", width)?;
        checked_len("LanguageModelConfig", &[self.vocab_size, width], 8)?;
        checked_len("LanguageModelConfig", &[width, self.encoder.dim()], 8)?;
        check_position(self.position, width, self.vocab_size)?;
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
}

fn check_position(position: PositionKind, width: usize, vocab_size: usize) -> Result<()> {
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
        PositionKind::Sinusoidal { base, .. } if base > 0.0 && base.is_finite() => Ok(()),
        PositionKind::Sinusoidal { base, .. } => Err(Error::config("base", base, "it must be finite and above 0")),
    }
}

/// How a classifier makes one vector of a sequence. Padding takes no part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Pooling {
    /// The mean over the real positions; 0 where there is none. The default.
    #[default]
    Mean,
    /// The maximum over the real positions, feature by feature; 0 where there is none.
    Max,
    /// The first real position; 0 where there is none.
    First,
}

/// What a classifier reads.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum ClassifierInput {
    /// Token ids; see [`LanguageModelConfig`] (its head must be [`HeadKind::None`]).
    Tokens(LanguageModelConfig),
    /// Vectors of numbers (points, detector hits, samples), led into the encoder by one product.
    Features {
        /// How many numbers a position has.
        features: usize,
        /// The blocks.
        encoder: EncoderConfig,
        /// What tells the model where a position stands; [`PositionKind::None`] for sets.
        position: PositionKind,
    },
}

/// A sequence in, class scores out.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct ClassifierConfig {
    /// What is read.
    pub input: ClassifierInput,
    /// The number of classes.
    pub classes: usize,
    /// How one vector is made of the sequence.
    pub pooling: Pooling,
    /// The width of a hidden layer before the scores, if there is one.
    pub hidden_dim: Option<usize>,
    /// Its non-linearity.
    pub activation: Activation,
}

impl ClassifierConfig {
    /// Tokens in, mean pooling, no hidden layer.
    pub fn tokens(model: LanguageModelConfig, classes: usize) -> Self {
        Self::new(ClassifierInput::Tokens(model.with_head(HeadKind::None)), classes)
    }

    /// Vectors of `features` numbers in, no positions, mean pooling, no hidden layer.
    pub fn features(features: usize, encoder: EncoderConfig, classes: usize) -> Self {
        let input = ClassifierInput::Features {
            features,
            encoder,
            position: PositionKind::None,
        };
        Self::new(input, classes)
    }

    /// Mean pooling, no hidden layer.
    pub fn new(input: ClassifierInput, classes: usize) -> Self {
        Self {
            input,
            classes,
            pooling: Pooling::Mean,
            hidden_dim: None,
            activation: Activation::Gelu,
        }
    }

    setters! {
        /// Sets [`ClassifierConfig::pooling`].
        with_pooling => pooling: Pooling,
        /// Sets [`ClassifierConfig::hidden_dim`].
        with_hidden_dim => hidden_dim: Option<usize>,
        /// Sets [`ClassifierConfig::activation`].
        with_activation => activation: Activation,
    }

    /// Checks that this describes a model.
    ///
    /// # Errors
    /// Sizes of 0, sizes that do not divide or that overflow, and options without effect, each by name.
    pub fn check(&self) -> Result<()> {
        at_least_one("classes", self.classes)?;
        let width = match &self.input {
            ClassifierInput::Tokens(model) => {
                model.check()?;
                if model.head != HeadKind::None {
                    return Err(Error::config(
                        "head",
                        format!("{:?}", model.head),
                        "a classifier makes no token scores: use HeadKind::None",
                    ));
                }
                model.effective_embedding_dim()
            }
            ClassifierInput::Features {
                features,
                encoder,
                position,
            } => {
                at_least_one("features", *features)?;
                encoder.check()?;
                if matches!(position, PositionKind::LearnedAfterPadding { .. }) {
                    return Err(Error::config(
                        "position",
                        "LearnedAfterPadding",
                        "it counts token ids, and features have none",
                    ));
                }
                check_position(*position, encoder.dim(), 1)?;
                checked_len("ClassifierConfig", &[*features, encoder.dim()], 8)?;
                encoder.dim()
            }
        };
        if let Some(hidden_dim) = self.hidden_dim {
            at_least_one("hidden_dim", hidden_dim)?;
        } else if self.activation != Activation::Gelu {
            return Err(Error::config(
                "activation",
                format!("{:?}", self.activation),
                "it has no effect without hidden_dim",
            ));
        }
        let widest = width.max(self.hidden_dim.unwrap_or(0));
        checked_len("ClassifierConfig", &[widest, self.classes.max(self.hidden_dim.unwrap_or(0))], 8).map(|_| ())
    }
}
