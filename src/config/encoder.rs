//! Feed-forwards, blocks and encoders.

use super::{
    AttentionConfig, AttentionKind, LinformerConfig, LocalGlobalConfig, ProjectionConfig, Sharing, at_least_one, check_eps, setters,
};
use crate::error::{Error, Result, checked_len};
use crate::ops::Activation;

/// A feed-forward layer.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
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
    /// Creates a configuration with GELU in between and with biases.
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
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self, dim: usize, out_dim: usize) -> Result<()> {
        for (option, value) in [("ff_dim", self.ff_dim), ("dim", dim), ("out_dim", out_dim)] {
            at_least_one(option, value)?;
        }
        checked_len("FeedForwardConfig", &[2, self.ff_dim, dim.max(out_dim)], 8).map(|_| ())
    }
}

/// Where a block normalizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum NormPlacement {
    /// x + f(norm(x)). The default.
    #[default]
    Pre,
    /// norm(x + f(x)), as in the original Transformer.
    Post,
}

/// A stack of blocks.
///
/// ```
/// use linformer::{EncoderConfig, FeedForwardConfig, LinformerConfig, NormPlacement};
///
/// // Three post-norm blocks, the last of which compresses to half as many rows.
/// let config = EncoderConfig::new(LinformerConfig::new(64, 4, 512, 32), 3)
///     .with_feed_forward(FeedForwardConfig::new(256))
///     .with_norm(NormPlacement::Post)
///     .with_k_by_layer(vec![32, 32, 16]);
/// config.check()?;
///
/// // Options that fit no model are errors that say why.
/// let error = config.with_k_by_layer(vec![32, 16]).check().unwrap_err();
/// assert!(error.to_string().contains("one entry for each of the 3 layers"));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct EncoderConfig {
    /// The attention of the blocks; its `dim` is the encoder's.
    pub attention: AttentionKind,
    /// The number of blocks.
    pub depth: usize,
    /// The feed-forward of the blocks, if they have one.
    pub feed_forward: Option<FeedForwardConfig>,
    /// Where the blocks normalize.
    pub norm: NormPlacement,
    /// The number that LayerNorm adds to the variance.
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
    /// Creates a configuration of `depth` pre-norm blocks with a GELU feed-forward of four times the width, and a final norm.
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
        /// Sets [`AttentionConfig::head_dim`].
        with_head_dim => (attention.attention_mut().head_dim): Option<usize>,
        /// Sets [`AttentionConfig::kv_heads`].
        with_kv_heads => (attention.attention_mut().kv_heads): usize,
        /// Sets [`AttentionConfig::tie_key_value`].
        with_tied_key_value => (attention.attention_mut().tie_key_value): bool,
        /// Sets [`AttentionConfig::query_bias`].
        with_query_bias => (attention.attention_mut().query_bias): bool,
        /// Sets [`AttentionConfig::output_bias`].
        with_output_bias => (attention.attention_mut().output_bias): bool,
        /// Sets [`AttentionConfig::output_rank`].
        with_output_rank => (attention.attention_mut().output_rank): Option<usize>,
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

    /// Sets [`AttentionConfig::key_bias`] and [`AttentionConfig::value_bias`].
    #[must_use]
    pub fn with_key_value_bias(mut self, key: bool, value: bool) -> Self {
        let attention = self.attention.attention_mut();
        (attention.key_bias, attention.value_bias) = (key, value);
        self
    }

    /// Sets [`EncoderConfig::attention`].
    #[must_use]
    pub fn with_attention(mut self, attention: impl Into<AttentionKind>) -> Self {
        self.attention = attention.into();
        self
    }

    /// Returns the encoder's width d.
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
        let config = attention.attention_mut();
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
        self.attention.sharing() == Some(Sharing::Layerwise)
    }

    /// Returns the configuration of an encoder with exact attention with a `projection`.
    ///
    /// # Errors
    /// Returns an error if the attention is not exact, or cannot be compressed.
    pub(crate) fn compressing(&self, seq_len: usize, k: usize, projection: ProjectionConfig) -> Result<Self> {
        let attention = LinformerConfig::compressing(self.exact()?, seq_len, k, projection);
        let config = self.clone().with_attention(attention);
        config.check().map(|()| config)
    }

    /// Returns the configuration of an encoder with exact attention in local-global form.
    ///
    /// # Errors
    /// Returns an error if the attention is not exact, has other options than the form, or cannot have it.
    pub(crate) fn in_form(&self, form: &LocalGlobalConfig) -> Result<Self> {
        form.check_weights_of(self.exact()?)?;
        let config = self.clone().with_attention(form.clone());
        config.check().map(|()| config)
    }

    /// The options of the attention; an error where it is not exact.
    fn exact(&self) -> Result<&AttentionConfig> {
        let found = match &self.attention {
            AttentionKind::Exact(exact) => return Ok(exact),
            AttentionKind::Linformer(_) => "Linformer",
            AttentionKind::Causal(_) => "Causal",
            AttentionKind::LocalGlobal(_) => "LocalGlobal",
        };
        let reason = "only exact attention is converted; take an encoder whose attention is AttentionKind::Exact";
        Err(Error::config("attention", found, reason))
    }

    /// Checks that this describes an encoder.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self) -> Result<()> {
        self.attention.check()?;
        // The widest type: a model of f32 numbers takes fewer.
        check_eps::<f64>(self.norm_eps)?;
        self.check_k_by_layer()?;
        self.check_widths()?;
        if self.reversible && (self.norm == NormPlacement::Post || self.feed_forward.is_none() || self.hidden_dim.is_some()) {
            return Err(Error::config(
                "reversible",
                true,
                "reversible blocks are pre-norm, have a feed-forward and keep their width",
            ));
        }
        // A block takes some kilobytes, whatever its widths.
        checked_len("EncoderConfig", &[self.depth, 4096], 1)?;
        for layer in self.distinct_layers() {
            self.layer_attention(layer).check()?;
        }
        Ok(())
    }

    /// Layers that represent all others: the first, one in between and the last, or all where each may have its own k.
    fn distinct_layers(&self) -> impl Iterator<Item = usize> {
        let (depth, each) = (self.depth, self.k_by_layer.is_some());
        (0..if each { depth } else { depth.min(2) }).chain((!each && depth > 2).then(|| depth - 1))
    }

    fn check_k_by_layer(&self) -> Result<()> {
        let Some(by_layer) = &self.k_by_layer else {
            return Ok(());
        };
        let refused = |reason: String| Err(Error::config("k_by_layer", format!("{by_layer:?}"), reason));
        if by_layer.len() != self.depth {
            return refused(format!(
                "it must have one entry for each of the {} layers, but has {}",
                self.depth,
                by_layer.len()
            ));
        }
        match &self.attention {
            AttentionKind::Exact(_) => refused(
                "exact attention compresses nothing, so that no layer has a k; leave the option out, or take a LinformerConfig".into(),
            ),
            AttentionKind::Causal(_) => {
                refused("the summaries of all layers have as many rows; leave the option out, and set CausalConfig::rows".into())
            }
            AttentionKind::LocalGlobal(_) => {
                refused("the sequences of all layers are cut alike; leave the option out, and set LocalGlobalConfig::slots".into())
            }
            AttentionKind::Linformer(_) if self.shares_projection() && by_layer.windows(2).any(|pair| pair[0] != pair[1]) => refused(
                "layerwise sharing has one projection, so that all layers have its k; choose another sharing, or leave the option out"
                    .into(),
            ),
            AttentionKind::Linformer(config) if self.shares_projection() && by_layer.first().is_some_and(|&k| k != config.k) => {
                refused(format!(
                    "layerwise sharing has one projection of k = {}; choose another sharing, or set LinformerConfig::k and leave the option out",
                    config.k
                ))
            }
            AttentionKind::Linformer(_) => Ok(()),
        }
    }

    fn check_widths(&self) -> Result<()> {
        if let Some(hidden_dim) = self.hidden_dim {
            at_least_one("hidden_dim", hidden_dim)?;
            if self.feed_forward.is_none() {
                return Err(Error::config(
                    "hidden_dim",
                    hidden_dim,
                    "only a feed-forward can change the width; give the blocks one, or leave it out",
                ));
            }
            if self.depth < 2 {
                return Err(Error::config(
                    "hidden_dim",
                    hidden_dim,
                    "there is nothing between fewer than two blocks; raise depth, or leave it out",
                ));
            }
        }
        if let Some(feed_forward) = &self.feed_forward {
            for layer in self.distinct_layers() {
                let (before, after) = self.widths(layer);
                feed_forward.check(before, after)?;
                checked_len("EncoderConfig", &[before, after], 8)?;
            }
        }
        Ok(())
    }
}
