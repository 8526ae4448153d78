//! Attention layers.

use super::projection::{segment_level, segments};
use super::{Convolution, ProjectionConfig, ProjectionKind, Sharing, at_least_one, setters};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Initialization;

/// The heads and weights that all kinds of attention have in common; [`ExactAttention`](crate::ExactAttention) has an example.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct AttentionConfig {
    /// Model width d.
    pub dim: usize,
    /// Query heads H.
    pub heads: usize,
    /// Width of a head; `None` means `dim` / `heads`, which must then divide.
    pub head_dim: Option<usize>,
    /// Key and value heads; each serves `heads` / `kv_heads` query heads. 1 is multi-query attention (Shazeer, arXiv 1911.02150).
    pub kv_heads: usize,
    /// Whether one weight makes both keys and values (lucidrains' `share_kv` has this in addition to a shared projection).
    pub tie_key_value: bool,
    /// Whether queries have a bias.
    pub query_bias: bool,
    /// Whether keys have a bias.
    pub key_bias: bool,
    /// Whether values have a bias.
    pub value_bias: bool,
    /// Whether the output has a bias.
    pub output_bias: bool,
    /// The width through which the output weight is factored, if it is.
    pub output_rank: Option<usize>,
    /// Whether padding keeps its place in the softmax of exact attention, with the score 0 and the value 0, so that it takes weight from
    /// the real positions, as in tatp22's implementation. Otherwise padding is left out. Linformer attention takes no such option.
    pub masked_keys_stay: bool,
    /// Whether exact attention, or that of a [`LocalGlobalConfig`](super::LocalGlobalConfig), is causal: a position attends to itself and to those
    /// before it. Linformer attention takes no such option, since its compressed rows mix all positions; [`CausalConfig`](super::CausalConfig)
    /// describes its causal form.
    #[cfg_attr(feature = "serde", serde(default))]
    pub causal: bool,
}

impl AttentionConfig {
    /// Creates a configuration of `heads` heads of width `dim` / `heads`, without biases except the output's.
    pub fn new(dim: usize, heads: usize) -> Self {
        Self {
            dim,
            heads,
            head_dim: None,
            kv_heads: heads,
            tie_key_value: false,
            query_bias: false,
            key_bias: false,
            value_bias: false,
            output_bias: true,
            output_rank: None,
            masked_keys_stay: false,
            causal: false,
        }
    }

    setters! {
        /// Sets [`AttentionConfig::head_dim`].
        with_head_dim => head_dim: Option<usize>,
        /// Sets [`AttentionConfig::kv_heads`].
        with_kv_heads => kv_heads: usize,
        /// Sets [`AttentionConfig::tie_key_value`].
        with_tied_key_value => tie_key_value: bool,
        /// Sets [`AttentionConfig::query_bias`].
        with_query_bias => query_bias: bool,
        /// Sets [`AttentionConfig::output_bias`].
        with_output_bias => output_bias: bool,
        /// Sets [`AttentionConfig::output_rank`].
        with_output_rank => output_rank: Option<usize>,
        /// Sets [`AttentionConfig::masked_keys_stay`].
        with_masked_keys_stay => masked_keys_stay: bool,
        /// Sets [`AttentionConfig::causal`].
        with_causal => causal: bool,
    }

    /// Sets [`AttentionConfig::key_bias`] and [`AttentionConfig::value_bias`].
    #[must_use]
    pub fn with_key_value_bias(mut self, key: bool, value: bool) -> Self {
        (self.key_bias, self.value_bias) = (key, value);
        self
    }

    /// Returns the width of a head.
    pub fn effective_head_dim(&self) -> usize {
        self.head_dim.unwrap_or(self.dim / self.heads.max(1))
    }

    /// Returns the width of all query heads side by side.
    pub fn query_dim(&self) -> usize {
        self.heads.saturating_mul(self.effective_head_dim())
    }

    /// Returns the width of all key heads, or of all value heads, side by side.
    pub fn key_value_dim(&self) -> usize {
        self.kv_heads.saturating_mul(self.effective_head_dim())
    }

    /// Checks that this describes a layer.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self) -> Result<()> {
        for (option, value) in [("dim", self.dim), ("heads", self.heads), ("kv_heads", self.kv_heads)] {
            at_least_one(option, value)?;
        }
        match self.head_dim {
            Some(head_dim) => at_least_one("head_dim", head_dim)?,
            None if !self.dim.is_multiple_of(self.heads) => {
                return Err(Error::config(
                    "heads",
                    self.heads,
                    format!("it does not divide dim = {}; choose another or set head_dim", self.dim),
                ));
            }
            None => {}
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(Error::config(
                "kv_heads",
                self.kv_heads,
                format!("it does not divide heads = {}", self.heads),
            ));
        }
        if self.tie_key_value && self.key_bias != self.value_bias {
            return Err(Error::config(
                "value_bias",
                self.value_bias,
                "tied keys and values have one bias: set key_bias and value_bias to the same",
            ));
        }
        if let Some(rank) = self.output_rank {
            at_least_one("output_rank", rank)?;
            checked_len("AttentionConfig", &[rank, self.dim], 8)?;
        }
        let wide = checked_len("AttentionConfig", &[self.heads, self.effective_head_dim()], 1)?;
        checked_len("AttentionConfig", &[wide, self.dim.max(self.output_rank.unwrap_or(0))], 8).map(|_| ())
    }
}

/// The place of the key and value biases.
///
/// They enter every real position before the sequence is compressed, so that row j of K̄ gets the bias times the sum of row j of E, or once afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum BiasPlace {
    /// K̄ = E(X·Wᵀ + 1·bᵀ), as in the paper. The default.
    #[default]
    BeforeCompression,
    /// K̄ = (E·X)Wᵀ + 1·bᵀ, as in fairseq.
    AfterCompression,
}

/// A Linformer attention layer (paper, equation 7); [`LinformerAttention`](crate::LinformerAttention) has an example.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct LinformerConfig {
    /// The head and weight options.
    pub attention: AttentionConfig,
    /// The longest sequence of keys and values, n.
    pub seq_len: usize,
    /// The number of rows that n keys and values are compressed to.
    ///
    /// A learned or random projection may have more rows than `seq_len`: the layer is defined, and checkpoints have such layers, but it costs more
    /// than exact attention. Pooling makes no more rows than there are positions; attention pooling makes more than half of `k` where there are as many
    /// positions. A convolution takes no k above `seq_len`.
    pub k: usize,
    /// How they are compressed.
    pub projection: ProjectionConfig,
    /// The place of the key and value biases.
    pub bias_place: BiasPlace,
}

impl LinformerConfig {
    /// Creates a configuration of `heads` heads over `dim` features, with at most `seq_len` keys and values and learned
    /// projections to `k` rows that the heads share.
    pub fn new(dim: usize, heads: usize, seq_len: usize, k: usize) -> Self {
        Self {
            attention: AttentionConfig::new(dim, heads),
            seq_len,
            k,
            projection: ProjectionConfig::default(),
            bias_place: BiasPlace::default(),
        }
    }

    setters! {
        /// Sets [`LinformerConfig::attention`].
        with_attention => attention: AttentionConfig,
        /// Sets [`AttentionConfig::head_dim`].
        with_head_dim => attention.head_dim: Option<usize>,
        /// Sets [`AttentionConfig::kv_heads`].
        with_kv_heads => attention.kv_heads: usize,
        /// Sets [`AttentionConfig::tie_key_value`].
        with_tied_key_value => attention.tie_key_value: bool,
        /// Sets [`AttentionConfig::query_bias`].
        with_query_bias => attention.query_bias: bool,
        /// Sets [`AttentionConfig::output_bias`].
        with_output_bias => attention.output_bias: bool,
        /// Sets [`AttentionConfig::output_rank`].
        with_output_rank => attention.output_rank: Option<usize>,
        /// Sets [`LinformerConfig::projection`].
        with_projection => projection: ProjectionConfig,
        /// Sets [`ProjectionConfig::kind`].
        with_kind => projection.kind: ProjectionKind,
        /// Sets [`ProjectionConfig::sharing`].
        with_sharing => projection.sharing: Option<Sharing>,
        /// Sets [`ProjectionConfig::initialization`].
        with_initialization => projection.initialization: Option<Initialization>,
        /// Sets [`ProjectionConfig::bias`].
        with_projection_bias => projection.bias: bool,
        /// Sets [`LinformerConfig::bias_place`].
        with_bias_place => bias_place: BiasPlace,
    }

    /// Sets [`AttentionConfig::key_bias`] and [`AttentionConfig::value_bias`].
    #[must_use]
    pub fn with_key_value_bias(mut self, key: bool, value: bool) -> Self {
        self.attention = self.attention.with_key_value_bias(key, value);
        self
    }

    /// Returns the configuration of exact attention's weights with a `projection`. Padding then has an empty slot, as exact attention has with
    /// [`AttentionConfig::masked_keys_stay`].
    pub(crate) fn compressing(exact: &AttentionConfig, seq_len: usize, k: usize, projection: ProjectionConfig) -> Self {
        Self {
            attention: exact.clone().with_masked_keys_stay(false),
            seq_len,
            k,
            projection,
            bias_place: BiasPlace::BeforeCompression,
        }
    }

    /// Returns the number of slots that a full sequence is really compressed to; for convolutions and pooling it can differ from `k`.
    ///
    /// ```
    /// use linformer::{Convolution, ConvolutionKernel, LinformerConfig, ProjectionKind};
    ///
    /// let convolution = Convolution::new(ConvolutionKernel::Scalar);
    /// let config = LinformerConfig::new(8, 2, 510, 61).with_kind(ProjectionKind::Convolution(convolution));
    /// assert_eq!(config.stride(), Some(8));
    /// assert_eq!(config.effective_k(), 63);
    /// ```
    pub fn effective_k(&self) -> usize {
        self.projection.slots(self.seq_len, self.k)
    }

    /// How many slots a sequence is compressed to whose real positions end at `length`; at least one, which may be empty, but for attention pooling,
    /// which has none for nothing.
    pub(crate) fn slots_of(&self, length: usize) -> usize {
        match (self.projection.kind, self.stride()) {
            (ProjectionKind::Convolution(convolution), Some(stride)) => {
                convolution.windows(convolution.reach(length, self.seq_len), stride).max(1)
            }
            (ProjectionKind::MeanPooling | ProjectionKind::MaxPooling, _) => self.k.min(length).max(1),
            (ProjectionKind::AttentionPooling, _) => segments(length, self.k),
            _ => self.k,
        }
    }

    /// log₂ of the positions in a segment of attention pooling, for a sequence whose real positions end at `length`.
    pub(crate) fn segment_level(&self, length: usize) -> u32 {
        segment_level(length, self.k)
    }

    /// Returns the stride and kernel length of a convolution, ⌊`seq_len` / `k`⌋; `None` for the other kinds.
    pub fn stride(&self) -> Option<usize> {
        match self.projection.kind {
            ProjectionKind::Convolution(Convolution { .. }) => Some((self.seq_len / self.k.max(1)).max(1)),
            _ => None,
        }
    }

    /// Returns the key and value heads of the compressed sequence: `heads` where every head has its own projection or pooling query, `kv_heads`
    /// otherwise.
    pub fn compressed_heads(&self) -> usize {
        self.projection.matrices(self.attention.heads).max(self.attention.kv_heads)
    }

    /// An error where the projections have no columns for `length` positions.
    pub(crate) fn check_length(&self, operation: &'static str, length: usize) -> Result<()> {
        if length <= self.seq_len || self.projection.any_length() {
            return Ok(());
        }
        Err(self.too_long(operation, length, self.seq_len))
    }

    /// The error of a sequence that reaches `length` where the projections have `columns`.
    pub(crate) fn too_long(&self, operation: &'static str, length: usize, columns: usize) -> Error {
        Error::TooLong {
            operation,
            length,
            seq_len: columns,
            advice: match self.projection.kind {
                ProjectionKind::Learned => {
                    "shorten it, build the model with a larger `seq_len`, stretch the E and F of a single layer with \
                     `LinformerAttention::extended`, or use a pooling or convolution projection"
                }
                _ => "shorten it, build the model with a larger `seq_len`, or use a pooling or convolution projection",
            },
        }
    }

    /// Checks that this describes a layer.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self) -> Result<()> {
        self.attention.check()?;
        self.projection.check(self.seq_len, self.k)?;
        if self.attention.masked_keys_stay {
            return Err(Error::config(
                "masked_keys_stay",
                true,
                "it has no effect here, since padding has no slot of its own among the compressed ones; only exact attention takes it",
            ));
        }
        if self.attention.causal {
            return Err(Error::config(
                "causal",
                true,
                "a compressed row mixes all positions, so that hiding some of them leaks the future all the same; use CausalConfig, or exact attention",
            ));
        }
        if self.bias_place == BiasPlace::AfterCompression && !self.attention.key_bias && !self.attention.value_bias {
            return Err(Error::config(
                "bias_place",
                "AfterCompression",
                "there is neither a key nor a value bias to place; set one with with_key_value_bias",
            ));
        }
        if self.bias_place == BiasPlace::AfterCompression && self.projection.pools_by_attention() {
            return Err(Error::config(
                "bias_place",
                "AfterCompression",
                "the weights of a segment add up to 1 in attention pooling, so that the place of a bias has no effect; leave it out",
            ));
        }
        let matrices = self.projection.matrices(self.attention.heads);
        if let Some(stride) = self.stride() {
            let head_dim = self.attention.effective_head_dim();
            checked_len("LinformerConfig", &[matrices, head_dim, head_dim, stride], 8)?;
        }
        checked_len("LinformerConfig", &[matrices, self.k, self.seq_len], 8).map(|_| ())
    }
}
