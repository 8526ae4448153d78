//! Decoders, and the models around them.

use super::model::{check_deviation, check_scores_tokens};
use super::{
    AttentionKind, EncoderConfig, FeedForwardConfig, HeadKind, LanguageModelConfig, NormPlacement, PositionKind, at_least_one,
    check_position, default_position, setters,
};
use crate::error::{Error, Result, checked_len};

/// A stack of blocks that attend to their own sequence, the target, and then to another, the source.
///
/// A block is self-attention, cross-attention and a feed-forward, with one more feed-forward between the two attentions where
/// [`middle_feed_forward`](Self::middle_feed_forward) is set.
///
/// ```
/// use linformer::{CausalConfig, DecoderConfig, LinformerConfig};
///
/// // Targets see their past through windows and summaries, and sources of up to 1,024 positions through 32 rows.
/// let config = DecoderConfig::new(CausalConfig::new(64, 4, 256, 2), LinformerConfig::new(64, 4, 1024, 32), 3);
/// assert!(config.is_causal() && config.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct DecoderConfig {
    /// How a target attends to itself; its `dim` is the decoder's.
    pub self_attention: AttentionKind,
    /// How a target attends to its source: compressed, or exactly.
    pub cross_attention: AttentionKind,
    /// The number of blocks.
    pub depth: usize,
    /// The feed-forward between the two attentions, if there is one, as in tatp22's decoders.
    pub middle_feed_forward: Option<FeedForwardConfig>,
    /// The feed-forward after cross-attention, if there is one.
    pub feed_forward: Option<FeedForwardConfig>,
    /// Where the blocks normalize.
    pub norm: NormPlacement,
    /// The number that LayerNorm adds to the variance.
    pub norm_eps: f64,
    /// Whether the last block is followed by a norm of its own.
    pub final_norm: bool,
    /// The projected length of each block where it differs, of both attentions where both compress.
    pub k_by_layer: Option<Vec<usize>>,
}

impl DecoderConfig {
    /// Creates a configuration of `depth` pre-norm blocks with a GELU feed-forward of four times the width after cross-attention, and a final norm.
    pub fn new(self_attention: impl Into<AttentionKind>, cross_attention: impl Into<AttentionKind>, depth: usize) -> Self {
        let self_attention = self_attention.into();
        let ff_dim = self_attention.attention().dim.saturating_mul(4);
        Self {
            self_attention,
            cross_attention: cross_attention.into(),
            depth,
            middle_feed_forward: None,
            feed_forward: Some(FeedForwardConfig::new(ff_dim)),
            norm: NormPlacement::Pre,
            norm_eps: 1e-5,
            final_norm: true,
            k_by_layer: None,
        }
    }

    setters! {
        /// Sets [`DecoderConfig::middle_feed_forward`].
        with_middle_feed_forward => middle_feed_forward: Option<FeedForwardConfig>,
        /// Sets [`DecoderConfig::feed_forward`].
        with_feed_forward => feed_forward: Option<FeedForwardConfig>,
        /// Sets [`DecoderConfig::norm`]; see also [`DecoderConfig::with_final_norm`].
        with_norm => norm: NormPlacement,
        /// Sets [`DecoderConfig::norm_eps`].
        with_norm_eps => norm_eps: f64,
        /// Sets [`DecoderConfig::final_norm`].
        with_final_norm => final_norm: bool,
        /// Sets [`DecoderConfig::k_by_layer`].
        with_k_by_layer => k_by_layer: Option<Vec<usize>>,
    }

    /// Returns the decoder's width d.
    pub fn dim(&self) -> usize {
        self.self_attention.attention().dim
    }

    /// Returns whether no position of a target sees a later one.
    pub fn is_causal(&self) -> bool {
        self.self_attention.is_causal()
    }

    /// The blocks' first halves, self-attention and the middle feed-forward, as a stack by themselves.
    pub(crate) fn target_half(&self) -> EncoderConfig {
        self.half(&self.self_attention, self.middle_feed_forward.as_ref())
    }

    /// The blocks' second halves, cross-attention and feed-forward, as a stack by themselves.
    pub(crate) fn source_half(&self) -> EncoderConfig {
        self.half(&self.cross_attention, self.feed_forward.as_ref())
    }

    fn half(&self, attention: &AttentionKind, feed_forward: Option<&FeedForwardConfig>) -> EncoderConfig {
        let compresses = matches!(attention, AttentionKind::Linformer(_));
        EncoderConfig::new(attention.clone(), self.depth)
            .with_feed_forward(feed_forward.cloned())
            .with_norm(self.norm)
            .with_norm_eps(self.norm_eps)
            .with_final_norm(false)
            .with_k_by_layer(self.k_by_layer.clone().filter(|_| compresses))
    }

    /// Whether one projection serves both attentions of all blocks: layerwise sharing is one matrix for the model.
    pub(crate) fn shares_one_projection(&self) -> bool {
        let compresses = |kind: &AttentionKind| matches!(kind, AttentionKind::Linformer(_));
        let shares = self.target_half().shares_projection() && self.source_half().shares_projection();
        shares && compresses(&self.self_attention) && compresses(&self.cross_attention)
    }

    /// Checks that this describes a decoder.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, an attention that does not fit the other, or the first
    /// option without effect.
    pub fn check(&self) -> Result<()> {
        let (own, cross) = (&self.self_attention, &self.cross_attention);
        let compresses = [own, cross].iter().any(|kind| matches!(kind, AttentionKind::Linformer(_)));
        if let Some(by_layer) = self.k_by_layer.as_ref().filter(|_| !compresses) {
            return Err(Error::config("k_by_layer", format!("{by_layer:?}"), "neither attention compresses"));
        }
        if cross.is_causal() {
            return Err(Error::config(
                "cross_attention",
                "causal",
                "a source has no order in common with the target; use LinformerConfig, or AttentionConfig without causal",
            ));
        }
        self.target_half().check()?;
        self.source_half().check()?;
        let (dim, found) = (own.attention().dim, cross.attention().dim);
        if dim != found {
            return Err(Error::config(
                "cross_attention",
                found,
                format!("it has another width than self-attention, which has dim = {dim}"),
            ));
        }
        self.check_one_projection()
    }

    fn check_one_projection(&self) -> Result<()> {
        let (AttentionKind::Linformer(own), AttentionKind::Linformer(cross)) = (&self.self_attention, &self.cross_attention) else {
            return Ok(());
        };
        let head_dim = |config: &super::LinformerConfig| config.attention.effective_head_dim();
        let alike = (own.seq_len, own.k, own.projection, head_dim(own)) == (cross.seq_len, cross.k, cross.projection, head_dim(cross));
        if self.shares_one_projection() && !alike {
            return Err(Error::config(
                "sharing",
                "Layerwise",
                "it is one projection for both attentions, which must then have the same seq_len, k, projection and width of a head",
            ));
        }
        Ok(())
    }
}

/// Tokens in, token scores out, given a source: the half of an encoder–decoder that writes.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct DecoderLanguageModelConfig {
    /// The number of token ids.
    pub vocab_size: usize,
    /// The blocks.
    pub decoder: DecoderConfig,
    /// The width of token and position vectors where it is not the decoder's; products lead in and out.
    pub embedding_dim: Option<usize>,
    /// The encoding of positions.
    pub position: PositionKind,
    /// Whether the sum of token and position vectors is normalized.
    pub embedding_norm: bool,
    /// The standard deviation of the token vectors of a new model; see [`LanguageModelConfig::embedding_deviation`].
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub embedding_deviation: Option<f64>,
    /// The head that computes token scores.
    pub head: HeadKind,
}

impl DecoderLanguageModelConfig {
    /// Creates a configuration with learned positions up to the `seq_len` of self-attention (sinusoidal ones where that is exact), and a plain head.
    pub fn new(vocab_size: usize, decoder: DecoderConfig) -> Self {
        Self {
            vocab_size,
            embedding_dim: None,
            position: default_position(&decoder.self_attention),
            decoder,
            embedding_norm: false,
            embedding_deviation: None,
            head: HeadKind::Plain,
        }
    }

    setters! {
        /// Sets [`DecoderLanguageModelConfig::embedding_dim`].
        with_embedding_dim => embedding_dim: Option<usize>,
        /// Sets [`DecoderLanguageModelConfig::position`].
        with_position => position: PositionKind,
        /// Sets [`DecoderLanguageModelConfig::embedding_norm`].
        with_embedding_norm => embedding_norm: bool,
        /// Sets [`DecoderLanguageModelConfig::embedding_deviation`].
        with_embedding_deviation => embedding_deviation: Option<f64>,
        /// Sets [`DecoderLanguageModelConfig::head`].
        with_head => head: HeadKind,
    }

    /// Returns the width of token and position vectors.
    pub fn effective_embedding_dim(&self) -> usize {
        self.embedding_dim.unwrap_or(self.decoder.dim())
    }

    /// Checks that this describes a model.
    ///
    /// # Errors
    /// Returns an error as [`DecoderConfig::check`] does, or if a size is 0 or overflows.
    pub fn check(&self) -> Result<()> {
        self.decoder.check()?;
        at_least_one("vocab_size", self.vocab_size)?;
        let width = self.effective_embedding_dim();
        at_least_one("embedding_dim", width)?;
        checked_len("DecoderLanguageModelConfig", &[self.vocab_size, width], 8)?;
        checked_len("DecoderLanguageModelConfig", &[width, width.max(self.decoder.dim())], 8)?;
        check_deviation(self.embedding_deviation)?;
        check_scores_tokens("head", self.head)?;
        check_position(self.position, width, self.vocab_size)
    }
}

/// A model that reads one sequence of tokens and writes another.
///
/// ```
/// use linformer::{
///     CausalConfig, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, LanguageModelConfig, LinformerConfig,
/// };
///
/// // 100 tokens on one side and 30 on the other; sources of up to 64 tokens, which targets see through 16 rows.
/// let attention = LinformerConfig::new(32, 4, 64, 16);
/// let source = LanguageModelConfig::new(100, EncoderConfig::new(attention.clone(), 2));
/// let target = DecoderLanguageModelConfig::new(30, DecoderConfig::new(CausalConfig::new(32, 4, 64, 2), attention, 2));
/// assert!(EncoderDecoderConfig::new(source, target).check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct EncoderDecoderConfig {
    /// The model that reads the source: it has no head, and its features are as wide as the decoder.
    pub source: LanguageModelConfig,
    /// The model that writes the target: its self-attention is causal.
    pub target: DecoderLanguageModelConfig,
}

impl EncoderDecoderConfig {
    /// Creates a configuration of `source` without its head, and `target`.
    pub fn new(source: LanguageModelConfig, target: DecoderLanguageModelConfig) -> Self {
        Self {
            source: source.with_head(HeadKind::None),
            target,
        }
    }

    /// Checks that this describes a model.
    ///
    /// # Errors
    /// Returns an error as [`LanguageModelConfig::check`] and [`DecoderLanguageModelConfig::check`] do; if the source has a head, another width or a
    /// token that counts as padding; or if the target sees later positions, has no head or counts positions after padding.
    pub fn check(&self) -> Result<()> {
        self.source.check()?;
        self.target.check()?;
        if self.source.head != HeadKind::None {
            let reason = "only the features of a source are used; give it HeadKind::None";
            return Err(Error::config("source.head", format!("{:?}", self.source.head), reason));
        }
        if let Some(token) = self.source.zeroed_token {
            let reason = "sources of different lengths are masked here; leave it out";
            return Err(Error::config("source.zeroed_token", token, reason));
        }
        if self.target.head == HeadKind::None {
            return Err(Error::config("target.head", "None", "without a head there are no scores of tokens"));
        }
        let (width, dim) = (self.source.feature_dim(), self.target.decoder.dim());
        if width != dim {
            let reason = format!("the features of a source must be as wide as the decoder, which has dim = {dim}; set its embedding_dim");
            return Err(Error::config("source", width, reason));
        }
        if !self.target.decoder.is_causal() {
            let reason = "the target must not see the tokens it is to predict: use CausalConfig, or AttentionConfig or LocalGlobalConfig and with_causal(true)";
            return Err(Error::config("self_attention", "not causal", reason));
        }
        let position = self.target.position;
        if position.learned().is_some_and(|learned| learned.padding_token.is_some()) {
            let reason = "targets begin at position 0 here; use Learned";
            return Err(Error::config("target.position", format!("{position:?}"), reason));
        }
        Ok(())
    }
}
