//! The options of an attention layer, and the native configuration they describe.

use serde::{Deserialize, Serialize};

use super::super::foreign::{check_rate, check_same, number, parse, yes};
use super::PEER;
use super::names::Matrices;
use crate::config::{BiasPlace, LinformerConfig, ProjectionKind, Sharing};
use crate::error::{Error, Result};
use crate::initialization::Initialization;
use crate::ops::Activation;

/// The options of `MultiheadLinearAttention`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools)] // they are fairseq's
pub struct AttentionOptions {
    /// Model width.
    pub embed_dim: usize,
    /// Heads; they must divide `embed_dim`.
    pub num_heads: usize,
    /// Width of keys; `embed_dim`, and nothing else in self-attention.
    #[serde(default)]
    pub kdim: Option<usize>,
    /// Width of values; `embed_dim`, and nothing else in self-attention.
    #[serde(default)]
    pub vdim: Option<usize>,
    /// Dropout of attention weights in training; 0.
    #[serde(default)]
    pub dropout: f64,
    /// Whether queries, keys, values and the output have biases; yes.
    #[serde(default = "yes")]
    pub bias: bool,
    /// Whether a trained key and value follow the compressed ones; no. Refused otherwise.
    #[serde(default)]
    pub add_bias_kv: bool,
    /// Whether a key and a value of 0 follow the compressed ones; no. Refused otherwise.
    #[serde(default)]
    pub add_zero_attn: bool,
    /// Whether it is self-attention; no. Refused so, since fairseq compresses in self-attention alone.
    #[serde(default)]
    pub self_attention: bool,
    /// Whether keys and values come from an encoder; no. Refused otherwise, since fairseq does not compress those.
    #[serde(default)]
    pub encoder_decoder_attention: bool,
    /// Quantization noise in training; 0.
    #[serde(default)]
    pub q_noise: f64,
    /// The size of that noise's blocks; 8.
    #[serde(default = "number::<8>")]
    pub qn_block_size: usize,
    /// n / k; 1.
    #[serde(default = "number::<1>")]
    pub compressed: usize,
    /// The longest sequence, n; 256.
    #[serde(default = "number::<256>")]
    pub max_seq_len: usize,
    /// 1 where values are compressed as the keys are; 0.
    #[serde(default)]
    pub shared_kv_compressed: usize,
    /// Whether the layer was given a compression layer, which then serves keys and values; no (`null`).
    #[serde(default)]
    pub shared_compress_layer: Option<bool>,
    /// 1 where E and F are never trained; 0.
    #[serde(default)]
    pub freeze_compress: usize,
}

impl AttentionOptions {
    /// Creates fairseq's default options for a layer of this width.
    ///
    /// # Panics
    /// Never: every other option has a default.
    pub fn new(embed_dim: usize, num_heads: usize) -> Self {
        Self::from_json(&format!(r#"{{"embed_dim": {embed_dim}, "num_heads": {num_heads}}}"#)).expect("every other option has a default")
    }

    /// Reads options from a JSON object of the constructor's arguments.
    ///
    /// # Errors
    /// Returns an error if an option is unknown to fairseq or has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        parse("fairseq::AttentionOptions", json)
    }

    /// Returns the configuration of the layer that these options describe.
    ///
    /// # Errors
    /// Returns an error if the options describe no layer or are refused.
    pub fn config(&self) -> Result<LinformerConfig> {
        self.check_branch()?;
        check_rate("dropout", self.dropout)?;
        let compression = Compression {
            dim: self.embed_dim,
            heads: self.num_heads,
            seq_len: self.max_seq_len,
            compressed: self.compressed,
            bias: self.bias,
            frozen: flag("freeze_compress", self.freeze_compress)?,
        };
        flag("shared_kv_compressed", self.shared_kv_compressed)?;
        compression.config(match self.matrices() {
            Matrices::Two => Sharing::Headwise,
            _ => Sharing::KeyValue,
        })
    }

    /// Returns the options of the layer that computes what one of `config` does.
    ///
    /// # Errors
    /// Returns an error if this class cannot express the layer; the error names the option that it lacks.
    pub fn of(config: &LinformerConfig) -> Result<Self> {
        let options = Self {
            bias: config.attention.query_bias,
            self_attention: true,
            compressed: config.seq_len / config.k.max(1),
            max_seq_len: config.seq_len,
            shared_kv_compressed: usize::from(config.projection.effective_sharing() == Sharing::KeyValue),
            freeze_compress: usize::from(config.projection.kind == ProjectionKind::Random),
            ..Self::new(config.attention.dim, config.attention.heads)
        };
        check_same(PEER, &explicit(config), &options.config()?)?;
        Ok(options)
    }

    pub(super) fn matrices(&self) -> Matrices {
        match (self.shared_kv_compressed, self.shared_compress_layer) {
            (1, _) => Matrices::One,
            (_, Some(true)) => Matrices::OneTwice,
            _ => Matrices::Two,
        }
    }

    /// An error unless fairseq compresses, and adds nothing to what it compressed.
    fn check_branch(&self) -> Result<()> {
        if self.encoder_decoder_attention {
            return Err(refused(
                "encoder_decoder_attention",
                "fairseq does not compress in this branch: it is exact attention, whose values are made from the keys' sequence",
            ));
        }
        if !self.self_attention {
            return Err(refused(
                "self_attention",
                "it is false, and fairseq then does not compress: it is exact attention, and E and F are not used; set it to true \
                 for the layer that linformer_roberta has",
            ));
        }
        for (option, width) in [("kdim", self.kdim), ("vdim", self.vdim)] {
            if let Some(width) = width
                && width != self.embed_dim
            {
                return Err(refused(
                    option,
                    &format!("it is {width}, and in self-attention it is embed_dim, {}", self.embed_dim),
                ));
            }
        }
        for (option, is_set) in [("add_bias_kv", self.add_bias_kv), ("add_zero_attn", self.add_zero_attn)] {
            if is_set {
                return Err(refused(
                    option,
                    "no model of fairseq's sets it, and a compressed sequence has no slot for it here",
                ));
            }
        }
        Ok(())
    }
}

/// The options that attention layers and models share.
pub(super) struct Compression {
    pub(super) dim: usize,
    pub(super) heads: usize,
    pub(super) seq_len: usize,
    pub(super) compressed: usize,
    pub(super) bias: bool,
    pub(super) frozen: bool,
}

impl Compression {
    /// k, the whole part of n / `compressed`.
    pub(super) fn k(&self) -> Result<usize> {
        match self.seq_len.checked_div(self.compressed) {
            None => Err(Error::config("compressed", 0, "it is the ratio of n to k: at least 1")),
            Some(0) => Err(Error::config(
                "compressed",
                self.compressed,
                format!("n = {} would be compressed to k = 0", self.seq_len),
            )),
            Some(k) => Ok(k),
        }
    }

    pub(super) fn config(&self, sharing: Sharing) -> Result<LinformerConfig> {
        let kind = if self.frozen {
            ProjectionKind::Random
        } else {
            ProjectionKind::Learned
        };
        // Without biases there is nothing to place.
        let place = if self.bias {
            BiasPlace::AfterCompression
        } else {
            BiasPlace::BeforeCompression
        };
        let config = LinformerConfig::new(self.dim, self.heads, self.seq_len, self.k()?)
            .with_query_bias(self.bias)
            .with_key_value_bias(self.bias, self.bias)
            .with_output_bias(self.bias)
            .with_bias_place(place)
            .with_kind(kind)
            .with_sharing(sharing)
            .with_initialization(Initialization::Normal { standard_deviation: 0.02 });
        config.check()?;
        Ok(config)
    }
}

/// `config` with its defaults spelled out.
pub(super) fn explicit(config: &LinformerConfig) -> LinformerConfig {
    let mut config = config.clone().with_sharing(config.projection.effective_sharing());
    if config.attention.head_dim == Some(config.attention.dim / config.attention.heads.max(1)) {
        config.attention.head_dim = None;
    }
    if !config.attention.key_bias && !config.attention.value_bias {
        config.bias_place = BiasPlace::BeforeCompression;
    }
    config
}

/// Whether an option that is 0 or 1 is 1.
pub(super) fn flag(option: &'static str, value: usize) -> Result<bool> {
    match value {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(refused(option, &format!("it is {value}, and fairseq knows 0 and 1"))),
    }
}

/// The activations and their names; the first name of each is the one that is written.
const ACTIVATIONS: [(&str, Activation); 6] = [
    ("gelu", Activation::Gelu),
    ("gelu_accurate", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("relu", Activation::Relu),
    ("tanh", Activation::Tanh),
    ("linear", Activation::Identity),
];

pub(super) fn activation(option: &'static str, name: &str) -> Result<Activation> {
    match ACTIVATIONS.iter().find(|(known, _)| *known == name) {
        Some((_, activation)) => Ok(*activation),
        None if name == "swish" => Err(refused(option, "fairseq accepts the name `swish` and fails when the model runs")),
        None if name == "relu_squared" => Err(refused(option, "`relu_squared` is none of the activations of this crate")),
        None => Err(refused(option, &format!("`{name}` is no activation of fairseq's"))),
    }
}

pub(super) fn activation_name(activation: Activation) -> Result<&'static str> {
    match ACTIVATIONS.iter().find(|(_, known)| *known == activation) {
        Some((name, _)) => Ok(name),
        None => Err(refused(
            "activation_fn",
            &format!("the model has {activation:?}, for which fairseq has no name"),
        )),
    }
}

pub(super) fn refused(option: &str, reason: &str) -> Error {
    Error::Refused {
        peer: PEER,
        option: option.to_owned(),
        reason: reason.to_owned(),
    }
}
