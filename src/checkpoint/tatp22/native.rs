//! The crate's configurations of the peer's options, and those options that are refused.

use super::super::foreign::check_rate;
use super::{FeedForwardOptions, LinformerLMOptions, LinformerOptions, MHAttentionOptions, Method, PEER, ParameterSharing};
use crate::config as native;
use crate::config::{
    AttentionConfig, AttentionKind, Convolution, ConvolutionKernel, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, HeadKind,
    LanguageModelConfig, NormPlacement, PositionKind, ProjectionConfig, ProjectionKind, Sharing, SinusoidLayout,
};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Initialization;
use crate::ops::Activation;

impl LinformerOptions {
    /// Returns the crate's configuration of the same model.
    ///
    /// # Errors
    /// Returns an error if an option is refused (see [the module](super)), or if the options describe no model, here or in the peer.
    pub fn encoder_config(&self) -> Result<EncoderConfig> {
        if self.decoder_mode {
            refuse_causal_decoder(self.causal, "causal")?;
            return Err(refused(
                "decoder_mode",
                "a decoder is no encoder: use tatp22::decoder or tatp22::decoder_language_model",
            ));
        }
        refuse_triangle(self.causal, self.full_attention, "causal")?;
        if let Some(width) = self.ff_intermediate
            && self.parameter_sharing == ParameterSharing::Layerwise
        {
            return Err(Error::config(
                "ff_intermediate",
                width,
                "the peer takes it only with a parameter_sharing other than layerwise",
            ));
        }
        let config = EncoderConfig::new(self.attention(), self.depth)
            .with_feed_forward(self.feed_forward()?)
            .with_norm(NormPlacement::Post)
            .with_final_norm(false)
            .with_k_by_layer(self.k_by_layer()?)
            .with_hidden_dim(self.ff_intermediate.filter(|&width| width != self.channels && self.depth > 1));
        config.check()?;
        Ok(config)
    }

    /// Returns the crate's configuration of the same decoder: with [`decoder_mode`](Self::decoder_mode).
    ///
    /// # Errors
    /// Returns an error if an option is refused (see [the module](super)), or if the options describe no decoder, here or in the peer.
    pub fn decoder_config(&self) -> Result<DecoderConfig> {
        if !self.decoder_mode {
            let reason = "these are an encoder's options; use tatp22::linformer or tatp22::language_model";
            return Err(Error::config("decoder_mode", false, reason));
        }
        refuse_causal_decoder(self.causal, "causal")?;
        if let Some(width) = self.ff_intermediate {
            return Err(Error::config(
                "ff_intermediate",
                width,
                "the peer takes it only without decoder_mode",
            ));
        }
        let feed_forward = self.feed_forward()?;
        let config = DecoderConfig::new(self.attention(), self.attention(), self.depth)
            .with_middle_feed_forward(feed_forward.clone())
            .with_feed_forward(feed_forward)
            .with_norm(NormPlacement::Post)
            .with_final_norm(false)
            .with_k_by_layer(self.k_by_layer()?);
        config.check()?;
        Ok(config)
    }

    /// The feed-forward of the layers, and the checks of what has no other place.
    fn feed_forward(&self) -> Result<Option<native::FeedForwardConfig>> {
        check_rate("dropout", self.dropout)?;
        check_rate("dropout_ff", self.dropout_ff)?;
        let activation = match self.activation.as_str() {
            "gelu" => Activation::Gelu,
            "relu" => Activation::Relu,
            other => return Err(Error::config("activation", other, "the peer's Linformer takes gelu and relu")),
        };
        let feed_forward = native::FeedForwardConfig::new(self.dim_ff).with_activation(activation);
        Ok(self.include_ff.then_some(feed_forward))
    }

    fn attention(&self) -> AttentionKind {
        let attention = AttentionConfig::new(self.channels, self.nhead)
            .with_head_dim(self.dim_d)
            .with_output_rank(self.w_o_intermediate_dim);
        let sharing = match self.parameter_sharing {
            ParameterSharing::None => Sharing::None,
            ParameterSharing::Headwise => Sharing::Headwise,
            ParameterSharing::Kv => Sharing::KeyValue,
            // Without a layer nothing is shared, and the peer saves nothing.
            ParameterSharing::Layerwise if self.depth == 0 => Sharing::KeyValue,
            ParameterSharing::Layerwise => Sharing::Layerwise,
        };
        let full = self.full_attention.then_some(self.causal);
        kind(attention, full, (self.input_size, self.dim_k), sharing, self.method)
    }

    /// k of each layer, where layers differ.
    fn k_by_layer(&self) -> Result<Option<Vec<usize>>> {
        if self.k_reduce_by_layer == 0 || self.full_attention || self.parameter_sharing == ParameterSharing::Layerwise {
            return Ok(None);
        }
        checked_len("tatp22::LinformerOptions::encoder_config", &[self.depth], size_of::<usize>())?;
        Ok(Some((0..self.depth).map(|layer| self.layer_k(layer)).collect()))
    }

    /// k of layer `layer`.
    pub(super) fn layer_k(&self, layer: usize) -> usize {
        let reduces = self.parameter_sharing != ParameterSharing::Layerwise;
        let less = if reduces { layer.saturating_mul(self.k_reduce_by_layer) } else { 0 };
        // The peer raises a reduced k to 1, not a given 0.
        if less == 0 {
            self.dim_k
        } else {
            self.dim_k.saturating_sub(less).max(1)
        }
    }
}

impl LinformerLMOptions {
    /// Returns the crate's configuration of the same model.
    ///
    /// # Errors
    /// Returns an error as [`LinformerOptions::encoder_config`] does, or if the width of the token vectors is odd, which the peer's positions do not
    /// allow.
    pub fn language_model_config(&self) -> Result<LanguageModelConfig> {
        let (position, head) = self.ends()?;
        let config = LanguageModelConfig::new(self.num_tokens, self.linformer().encoder_config()?)
            .with_embedding_dim(self.projected_width())
            .with_position(position)
            .with_head(head);
        config.check()?;
        Ok(config)
    }

    /// Returns the crate's configuration of the same decoder of tokens: with [`decoder_mode`](Self::decoder_mode).
    ///
    /// # Errors
    /// Returns an error as [`LinformerOptions::decoder_config`] does, or if the width of the token vectors is odd, which the peer's positions do not
    /// allow.
    pub fn decoder_language_model_config(&self) -> Result<DecoderLanguageModelConfig> {
        let (position, head) = self.ends()?;
        let config = DecoderLanguageModelConfig::new(self.num_tokens, self.linformer().decoder_config()?)
            .with_embedding_dim(self.projected_width())
            .with_position(position)
            .with_head(head);
        config.check()?;
        Ok(config)
    }

    /// Positions and head.
    fn ends(&self) -> Result<(PositionKind, HeadKind)> {
        check_rate("dropout_tokens", self.dropout_tokens)?;
        let (option, width) = self.emb_dim.map_or(("channels", self.channels), |width| ("emb_dim", width));
        if !width.is_multiple_of(2) {
            return Err(Error::config(option, width, "the peer's positions have an even width"));
        }
        let position = PositionKind::Sinusoidal {
            base: 100_000.0,
            layout: SinusoidLayout::Halves,
            stored: true,
        };
        Ok((position, if self.return_emb { HeadKind::None } else { HeadKind::Plain }))
    }

    /// The width of the token vectors where it is not the encoder's.
    pub(super) fn projected_width(&self) -> Option<usize> {
        self.emb_dim.filter(|&width| width != self.channels)
    }
}

impl MHAttentionOptions {
    /// Returns the crate's configuration of the same layer. With [`decoder_mode`](Self::decoder_mode) its keys and values are another sequence's.
    ///
    /// # Errors
    /// Returns an error as [`LinformerOptions::encoder_config`] does.
    pub fn attention_config(&self) -> Result<AttentionKind> {
        if self.decoder_mode {
            refuse_causal_decoder(self.causal_mask, "causal_mask")?;
        }
        refuse_triangle(self.causal_mask, self.full_attention, "causal_mask")?;
        check_rate("dropout", self.dropout)?;
        let attention = AttentionConfig::new(self.channels, self.nhead)
            .with_head_dim(Some(self.dim))
            .with_output_rank(self.w_o_intermediate_dim);
        let sharing = match self.parameter_sharing {
            ParameterSharing::None => Sharing::None,
            ParameterSharing::Headwise | ParameterSharing::Layerwise => Sharing::Headwise,
            ParameterSharing::Kv => Sharing::KeyValue,
        };
        let full = self.full_attention.then_some(self.causal_mask);
        let kind = kind(attention, full, (self.input_size, self.dim_k), sharing, self.method);
        kind.check()?;
        Ok(kind)
    }
}

impl FeedForwardOptions {
    /// Returns the crate's configuration of the same layer, between [`input_channels`](Self::input_channels) and
    /// [`output_channels`](Self::output_channels).
    ///
    /// # Errors
    /// Returns an error if the options describe no layer.
    pub fn config(&self) -> Result<native::FeedForwardConfig> {
        check_rate("dropout", self.dropout)?;
        let activation = match self.activation.as_deref() {
            Some("gelu") => Activation::Gelu,
            Some("relu") => Activation::Relu,
            _ => Activation::Identity,
        };
        let config = native::FeedForwardConfig::new(self.ff_dim).with_activation(activation);
        config.check(self.input_channels, self.output_channels)?;
        Ok(config)
    }
}

/// Attention to (n, k), exact (and causal or not) or compressed.
fn kind(attention: AttentionConfig, full: Option<bool>, (n, k): (usize, usize), sharing: Sharing, method: Method) -> AttentionKind {
    if let Some(causal) = full {
        return attention.with_masked_keys_stay(true).with_causal(causal).into();
    }
    let kind = match method {
        Method::Learnable => ProjectionKind::Learned,
        // The peer's sequences have one length, so that windows of padding are attended to as well.
        Method::Convolution => ProjectionKind::Convolution(Convolution::new(ConvolutionKernel::ChannelMixing).with_all_windows(true)),
        Method::NoParams => ProjectionKind::Random,
    };
    let initialization = match method {
        Method::Learnable => Some(Initialization::XavierNormal),
        Method::Convolution => None,
        Method::NoParams => Some(Initialization::Normal {
            standard_deviation: 1.0 / k.max(1) as f64,
        }),
    };
    let projection = ProjectionConfig::new(kind)
        .with_sharing(Some(sharing))
        .with_initialization(initialization)
        .with_bias(method != Method::NoParams);
    native::LinformerConfig::new(attention.dim, attention.heads, n, k)
        .with_attention(attention)
        .with_projection(projection)
        .into()
}

fn refused(option: &str, reason: &str) -> Error {
    Error::Refused {
        peer: PEER,
        option: option.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Causal attention with compression.
fn refuse_triangle(causal: bool, full: bool, option: &str) -> Result<()> {
    if !causal || full {
        return Ok(());
    }
    Err(refused(
        option,
        "the peer's (n, k) triangle hides slots, not positions: each slot already mixes all positions, so that the future leaks into the past",
    ))
}

/// Causal decoders.
fn refuse_causal_decoder(causal: bool, option: &str) -> Result<()> {
    if !causal {
        return Ok(());
    }
    Err(refused(
        option,
        "in a decoder the peer puts the triangle on the cross-attention, where it hides the encoder's positions, and leaves the self-attention \
         open to the future",
    ))
}

/// A configuration with every default filled in, so that two that mean the same are equal.
pub(super) fn normalized(config: &EncoderConfig) -> EncoderConfig {
    let mut config = config.clone();
    config.attention = normalized_attention(&config.attention);
    config.hidden_dim = config.hidden_dim.filter(|&width| width != config.dim() && config.depth > 1);
    if let AttentionKind::Linformer(attention) = &config.attention {
        let k = attention.k;
        config.k_by_layer = config.k_by_layer.filter(|by_layer| by_layer.iter().any(|&other| other != k));
        if config.depth == 0
            && let AttentionKind::Linformer(attention) = &mut config.attention
        {
            attention.projection.sharing = Some(Sharing::KeyValue);
        }
    }
    config
}

/// As [`normalized`], of a decoder.
pub(super) fn normalized_decoder(config: &DecoderConfig) -> DecoderConfig {
    let mut config = config.clone();
    let halves = [config.target_half(), config.source_half()].map(|half| normalized(&half));
    config.k_by_layer = halves.iter().find_map(|half| half.k_by_layer.clone());
    let [target, source] = halves;
    (config.self_attention, config.cross_attention) = (target.attention, source.attention);
    config
}

/// As [`normalized`], of one attention.
pub(super) fn normalized_attention(kind: &AttentionKind) -> AttentionKind {
    let mut kind = kind.clone();
    if let AttentionKind::Linformer(config) = &mut kind {
        config.projection.sharing = Some(config.projection.effective_sharing());
    }
    let config = kind.attention_mut();
    config.head_dim = Some(config.effective_head_dim());
    kind
}
