//! The package's options, and the native configurations they describe.

use serde::{Deserialize, Serialize};

use super::super::foreign::{check_rate, check_same, number, parse};
use super::PEER;
use crate::config::{
    AttentionConfig, AttentionKind, EncoderConfig, FeedForwardConfig, LanguageModelConfig, LinformerConfig, PositionKind, Sharing,
};
use crate::error::{Error, Result};
use crate::initialization::Initialization;
use crate::layers::FeedForward;
use crate::ops::Activation;
use crate::scalar::Scalar;

/// The options of `LinformerSelfAttention`, `Linformer` (which adds `depth` and `reversible`) and `LinformerLM` (which adds `num_tokens`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Options {
    /// Model width.
    pub dim: usize,
    /// The longest sequence of keys and values, n.
    pub seq_len: usize,
    /// The number of blocks; a `LinformerSelfAttention` has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
    /// The number of token ids; only a `LinformerLM` has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub num_tokens: Option<usize>,
    /// The projected length; 256.
    #[serde(default = "number::<256>")]
    pub k: usize,
    /// Query heads; 8.
    #[serde(default = "number::<8>")]
    pub heads: usize,
    /// Width of a head; `dim` / `heads`, which must then divide. (The package demands that it divides in any case; we do not.)
    #[serde(default)]
    pub dim_head: Option<usize>,
    /// Whether all heads share one key and value head; no.
    #[serde(default)]
    pub one_kv_head: bool,
    /// Whether values are the keys: one weight and one projection make both; no.
    #[serde(default)]
    pub share_kv: bool,
    /// Whether the blocks run on two streams; no.
    #[serde(default)]
    pub reversible: bool,
    /// Dropout, in training, of attention weights and between the two products of a feed-forward; 0.
    #[serde(default)]
    pub dropout: f64,
}

/// The options of `FeedForward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FeedForwardOptions {
    /// Model width.
    pub dim: usize,
    /// How many times wider it is in between; 4.
    #[serde(default = "number::<4>")]
    pub mult: usize,
    /// Dropout, in training, in between; 0.
    #[serde(default)]
    pub dropout: f64,
    /// The class of the activation in `torch.nn`: `GELU` (also where there is none), `ReLU`, `SiLU`, `Tanh` or `Identity`.
    #[serde(default)]
    pub activation: Option<String>,
    /// Whether half of the first product gates the other; no.
    #[serde(default)]
    pub glu: bool,
}

/// The activations and their classes in `torch.nn`.
const ACTIVATIONS: [(&str, Activation); 5] = [
    ("GELU", Activation::Gelu),
    ("ReLU", Activation::Relu),
    ("SiLU", Activation::Silu),
    ("Tanh", Activation::Tanh),
    ("Identity", Activation::Identity),
];

impl Options {
    /// Creates the package's default options for a layer of this width and length.
    ///
    /// # Panics
    /// Never: every other option has a default.
    pub fn new(dim: usize, seq_len: usize) -> Self {
        Self::from_json(&format!(r#"{{"dim": {dim}, "seq_len": {seq_len}}}"#)).expect("every other option has a default")
    }

    /// Reads options from a JSON object of the constructor's arguments.
    ///
    /// # Errors
    /// Returns an error if an option is unknown to the package or has the wrong type. `mask` and `causal`, which the package takes and ignores, are
    /// errors too.
    pub fn from_json(json: &str) -> Result<Self> {
        parse("lucidrains::Options", json)
    }

    /// Returns the configuration of the layer that these options of a `LinformerSelfAttention` describe.
    ///
    /// # Errors
    /// Returns an error if the options describe no layer, or if they belong to `Linformer` and `LinformerLM`.
    pub fn attention_config(&self) -> Result<LinformerConfig> {
        if self.depth.is_some() {
            return Err(refused(
                "depth",
                "a LinformerSelfAttention has none; load a Linformer with `linformer`",
            ));
        }
        if self.reversible {
            return Err(refused(
                "reversible",
                "a LinformerSelfAttention has no blocks; load a Linformer with `linformer`",
            ));
        }
        self.no_tokens("a LinformerSelfAttention")?;
        self.layer_config()
    }

    /// Returns the configuration of the encoder that these options of a `Linformer` describe.
    ///
    /// # Errors
    /// Returns an error if the options describe no encoder, or if they belong to `LinformerLM`.
    pub fn encoder_config(&self) -> Result<EncoderConfig> {
        self.no_tokens("a Linformer")?;
        self.stack_config()
    }

    /// Returns the configuration of the model that these options of a `LinformerLM` describe.
    ///
    /// # Errors
    /// Returns an error if the options describe no model.
    pub fn language_model_config(&self) -> Result<LanguageModelConfig> {
        let Some(num_tokens) = self.num_tokens else {
            return Err(Error::argument("lucidrains", "`num_tokens` is missing: a LinformerLM needs it"));
        };
        let position = PositionKind::Learned { max_len: self.seq_len };
        let config = LanguageModelConfig::new(num_tokens, self.stack_config()?).with_position(position);
        config.check()?;
        Ok(config)
    }

    /// Returns the options of the `LinformerSelfAttention` that computes what a layer of `config` does.
    ///
    /// # Errors
    /// Returns an error if this class cannot express the layer; the error names the option that it lacks.
    pub fn of_attention(config: &LinformerConfig) -> Result<Self> {
        let options = Self::of_layer(config);
        check_same(PEER, &explicit(config), &options.attention_config()?)?;
        Ok(options)
    }

    /// Returns the options of the `Linformer` that computes what an encoder of `config` does.
    ///
    /// # Errors
    /// Returns an error if this class cannot express the encoder; the error names the option that it lacks.
    pub fn of_encoder(config: &EncoderConfig) -> Result<Self> {
        let (options, config) = Self::of_stack(config)?;
        check_same(PEER, &config, &options.encoder_config()?)?;
        Ok(options)
    }

    /// Returns the options of the `LinformerLM` that computes what a model of `config` does.
    ///
    /// # Errors
    /// Returns an error if this class cannot express the model; the error names the option that it lacks.
    pub fn of_language_model(config: &LanguageModelConfig) -> Result<Self> {
        let (stack, encoder) = Self::of_stack(&config.encoder)?;
        let options = Self {
            num_tokens: Some(config.vocab_size),
            ..stack
        };
        let config = LanguageModelConfig { encoder, ..config.clone() };
        check_same(PEER, &config, &options.language_model_config()?)?;
        Ok(options)
    }

    fn of_layer(config: &LinformerConfig) -> Self {
        let AttentionConfig { dim, heads, kv_heads, .. } = config.attention;
        Self {
            k: config.k,
            heads,
            dim_head: config.attention.head_dim,
            one_kv_head: kv_heads == 1 && heads > 1,
            share_kv: config.attention.tie_key_value,
            ..Self::new(dim, config.seq_len)
        }
    }

    /// The nearest options, and `config` with its defaults spelled out.
    fn of_stack(config: &EncoderConfig) -> Result<(Self, EncoderConfig)> {
        let AttentionKind::Linformer(attention) = &config.attention else {
            return Err(refused(
                "attention",
                "the model's is exact or causal, which this implementation does not have",
            ));
        };
        let options = Self {
            depth: Some(config.depth),
            reversible: config.reversible,
            ..Self::of_layer(attention)
        };
        let mut config = config.clone();
        config.attention = explicit(attention).into();
        // A list that repeats the encoder's own k says nothing.
        if config
            .k_by_layer
            .as_ref()
            .is_some_and(|by_layer| by_layer.iter().all(|&k| k == options.k))
        {
            config.k_by_layer = None;
        }
        Ok((options, config))
    }

    fn layer_config(&self) -> Result<LinformerConfig> {
        check_rate("dropout", self.dropout)?;
        let sharing = if self.share_kv { Sharing::KeyValue } else { Sharing::Headwise };
        let config = LinformerConfig::new(self.dim, self.heads, self.seq_len, self.k)
            .with_head_dim(self.dim_head)
            .with_kv_heads(if self.one_kv_head { 1 } else { self.heads })
            .with_tied_key_value(self.share_kv)
            .with_sharing(sharing)
            .with_initialization(Initialization::UniformInverseSqrtK);
        config.check()?;
        Ok(config)
    }

    fn stack_config(&self) -> Result<EncoderConfig> {
        let Some(depth) = self.depth else {
            return Err(Error::argument("lucidrains", "`depth` is missing: a Linformer needs it"));
        };
        let config = EncoderConfig::new(self.layer_config()?, depth)
            .with_final_norm(false)
            .with_reversible(self.reversible);
        config.check()?;
        Ok(config)
    }

    fn no_tokens(&self, class: &str) -> Result<()> {
        match self.num_tokens {
            None => Ok(()),
            Some(_) => Err(refused(
                "num_tokens",
                &format!("{class} reads no tokens; load a LinformerLM with `language_model`"),
            )),
        }
    }
}

impl FeedForwardOptions {
    /// Creates the package's default options for a layer of this width.
    ///
    /// # Panics
    /// Never: every other option has a default.
    pub fn new(dim: usize) -> Self {
        Self::from_json(&format!(r#"{{"dim": {dim}}}"#)).expect("every other option has a default")
    }

    /// Reads options from a JSON object of the constructor's arguments.
    ///
    /// # Errors
    /// Returns an error if an option is unknown to the package or has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        parse("lucidrains::FeedForwardOptions", json)
    }

    /// Returns the configuration of the layer that these options describe.
    ///
    /// # Errors
    /// Returns an error if the options describe no layer, or if the activation is not supported.
    pub fn config(&self) -> Result<FeedForwardConfig> {
        check_rate("dropout", self.dropout)?;
        let name = self.activation.as_deref().unwrap_or("GELU");
        let Some((_, activation)) = ACTIVATIONS.iter().find(|(class, _)| *class == name) else {
            let known: Vec<&str> = ACTIVATIONS.iter().map(|(class, _)| *class).collect();
            return Err(refused(
                "activation",
                &format!("`{name}` is none of the activations of this crate ({})", known.join(", ")),
            ));
        };
        let config = FeedForwardConfig::new(self.dim.saturating_mul(self.mult))
            .with_activation(*activation)
            .with_gated(self.glu);
        config.check(self.dim, self.dim)?;
        Ok(config)
    }

    /// Returns the options of the `FeedForward` that computes what `layer` does.
    ///
    /// # Errors
    /// Returns an error if this class cannot express the layer; the error names the option that it lacks.
    pub fn of<A: Scalar>(layer: &FeedForward<A>) -> Result<Self> {
        let (dim, ff_dim, out_dim) = (layer.input().in_dim(), layer.output().in_dim(), layer.output().out_dim());
        if out_dim != dim {
            return Err(refused(
                "out_dim",
                &format!("the layer has {out_dim}, which must be its dim, {dim}"),
            ));
        }
        if !ff_dim.is_multiple_of(dim) {
            return Err(refused(
                "mult",
                &format!("the layer is {ff_dim} wide in between, no multiple of dim, {dim}"),
            ));
        }
        if layer.input().bias().is_none() {
            return Err(refused("bias", "the layer has none, and this implementation always has"));
        }
        let Some((class, _)) = ACTIVATIONS.iter().find(|(_, activation)| *activation == layer.activation()) else {
            return Err(refused(
                "activation",
                &format!("the layer has {:?}, which is no class of torch.nn", layer.activation()),
            ));
        };
        Ok(Self {
            mult: ff_dim / dim,
            activation: (layer.activation() != Activation::Gelu).then(|| (*class).to_owned()),
            glu: layer.is_gated(),
            ..Self::new(dim)
        })
    }
}

/// `config` with its sharing spelled out.
fn explicit(config: &LinformerConfig) -> LinformerConfig {
    let sharing = config.projection.effective_sharing();
    config.clone().with_sharing(sharing)
}

fn refused(option: &str, reason: &str) -> Error {
    Error::Refused {
        peer: PEER,
        option: option.to_owned(),
        reason: reason.to_owned(),
    }
}
