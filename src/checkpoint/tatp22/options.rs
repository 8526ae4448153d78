//! The peer's options, under its names and with its defaults.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::foreign::{number, parse, yes};
use super::{CheckpointLevel, Method, PEER, ParameterSharing};
use crate::error::{Error, Result};

/// The options of the peer's `Linformer`.
///
/// ```
/// use linformer::checkpoint::tatp22::LinformerOptions;
///
/// let options = LinformerOptions::from_json(r#"{"input_size": 512, "channels": 64, "dim_k": 32, "nhead": 8, "parameter_sharing": "kv"}"#)?;
/// assert_eq!((options.depth, options.dim_ff), (1, 256));
/// assert_eq!(options.encoder_config()?.dim(), 64);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools)] // they are the constructor's arguments
pub struct LinformerOptions {
    /// The length n of every sequence. Here, shorter ones are allowed as well.
    pub input_size: usize,
    /// The model's width.
    pub channels: usize,
    /// The projected length k.
    pub dim_k: usize,
    /// The feed-forward's inner width.
    #[serde(default = "number::<256>")]
    pub dim_ff: usize,
    /// The width of a head; `channels` / `nhead` where it is not given.
    #[serde(default)]
    pub dim_d: Option<usize>,
    /// Dropout in the feed-forward, for training.
    #[serde(default = "hundredths::<15>")]
    pub dropout_ff: f64,
    /// The number of heads.
    #[serde(default = "number::<4>")]
    pub nhead: usize,
    /// The number of layers.
    #[serde(default = "number::<1>")]
    pub depth: usize,
    /// Dropout in the attention, for training.
    #[serde(default = "hundredths::<10>")]
    pub dropout: f64,
    /// `gelu` or `relu`. Without feed-forwards it has no effect.
    #[serde(default = "gelu")]
    pub activation: String,
    /// It has no effect on numbers. (The peer takes no masks with C1 and C2.)
    #[serde(default)]
    pub checkpoint_level: CheckpointLevel,
    /// The sharing of E and F.
    #[serde(default)]
    pub parameter_sharing: ParameterSharing,
    /// Layer i has the k max(1, `dim_k` − i·`k_reduce_by_layer`). With layerwise sharing and with full attention it has no effect, as in
    /// the peer.
    #[serde(default)]
    pub k_reduce_by_layer: usize,
    /// Exact attention; E and F are saved all the same, and unused.
    #[serde(default)]
    pub full_attention: bool,
    /// Whether layers have a feed-forward.
    #[serde(default = "yes")]
    pub include_ff: bool,
    /// The width through which the output weight is factored, if it is.
    #[serde(default)]
    pub w_o_intermediate_dim: Option<usize>,
    /// Cross-attention in every layer: a decoder, which [`decoder`](super::decoder) loads.
    #[serde(default)]
    pub decoder_mode: bool,
    /// Only with `full_attention` and without `decoder_mode`: with compression it leaks the future, in a decoder it hides the source; both are refused.
    #[serde(default)]
    pub causal: bool,
    /// How the sequence is compressed.
    #[serde(default)]
    pub method: Method,
    /// The width between the layers where it is not `channels`. With fewer than two layers it has no effect, as in the peer.
    #[serde(default)]
    pub ff_intermediate: Option<usize>,
}

impl LinformerOptions {
    /// Creates the peer's default options.
    pub fn new(input_size: usize, channels: usize, dim_k: usize) -> Self {
        Self {
            input_size,
            channels,
            dim_k,
            dim_ff: 256,
            dim_d: None,
            dropout_ff: 0.15,
            nhead: 4,
            depth: 1,
            dropout: 0.1,
            activation: gelu(),
            checkpoint_level: CheckpointLevel::C0,
            parameter_sharing: ParameterSharing::Layerwise,
            k_reduce_by_layer: 0,
            full_attention: false,
            include_ff: true,
            w_o_intermediate_dim: None,
            decoder_mode: false,
            causal: false,
            method: Method::Learnable,
            ff_intermediate: None,
        }
    }
}

/// The options of the peer's `LinformerLM`; where both have one, it means what it means in [`LinformerOptions`], but its default may differ.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools)] // they are the constructor's arguments
pub struct LinformerLMOptions {
    /// The number of token ids.
    pub num_tokens: usize,
    /// See [`LinformerOptions::input_size`].
    pub input_size: usize,
    /// See [`LinformerOptions::channels`].
    pub channels: usize,
    /// See [`LinformerOptions::dim_k`]; 64 by default.
    #[serde(default = "number::<64>")]
    pub dim_k: usize,
    /// See [`LinformerOptions::dim_ff`]; 1024 by default.
    #[serde(default = "number::<1024>")]
    pub dim_ff: usize,
    /// See [`LinformerOptions::dim_d`].
    #[serde(default)]
    pub dim_d: Option<usize>,
    /// See [`LinformerOptions::dropout_ff`]; 0.1 by default.
    #[serde(default = "hundredths::<10>")]
    pub dropout_ff: f64,
    /// Dropout of the token vectors, for training.
    #[serde(default = "hundredths::<10>")]
    pub dropout_tokens: f64,
    /// See [`LinformerOptions::nhead`].
    #[serde(default = "number::<4>")]
    pub nhead: usize,
    /// See [`LinformerOptions::depth`]; 2 by default.
    #[serde(default = "number::<2>")]
    pub depth: usize,
    /// See [`LinformerOptions::ff_intermediate`].
    #[serde(default)]
    pub ff_intermediate: Option<usize>,
    /// See [`LinformerOptions::dropout`]; 0.05 by default.
    #[serde(default = "hundredths::<5>")]
    pub dropout: f64,
    /// See [`LinformerOptions::activation`].
    #[serde(default = "gelu")]
    pub activation: String,
    /// See [`LinformerOptions::checkpoint_level`].
    #[serde(default)]
    pub checkpoint_level: CheckpointLevel,
    /// See [`LinformerOptions::parameter_sharing`].
    #[serde(default)]
    pub parameter_sharing: ParameterSharing,
    /// See [`LinformerOptions::k_reduce_by_layer`].
    #[serde(default)]
    pub k_reduce_by_layer: usize,
    /// See [`LinformerOptions::full_attention`].
    #[serde(default)]
    pub full_attention: bool,
    /// See [`LinformerOptions::include_ff`].
    #[serde(default = "yes")]
    pub include_ff: bool,
    /// See [`LinformerOptions::w_o_intermediate_dim`].
    #[serde(default)]
    pub w_o_intermediate_dim: Option<usize>,
    /// The width of the token vectors where it is not `channels`; products lead in and out.
    #[serde(default)]
    pub emb_dim: Option<usize>,
    /// Whether the model returns features and has no `to_logits`.
    #[serde(default)]
    pub return_emb: bool,
    /// See [`LinformerOptions::decoder_mode`].
    #[serde(default)]
    pub decoder_mode: bool,
    /// See [`LinformerOptions::causal`].
    #[serde(default)]
    pub causal: bool,
    /// See [`LinformerOptions::method`].
    #[serde(default)]
    pub method: Method,
}

impl LinformerLMOptions {
    /// Creates the peer's default options.
    pub fn new(num_tokens: usize, input_size: usize, channels: usize) -> Self {
        Self {
            num_tokens,
            input_size,
            channels,
            dim_k: 64,
            dim_ff: 1024,
            dim_d: None,
            dropout_ff: 0.1,
            dropout_tokens: 0.1,
            nhead: 4,
            depth: 2,
            ff_intermediate: None,
            dropout: 0.05,
            activation: gelu(),
            checkpoint_level: CheckpointLevel::C0,
            parameter_sharing: ParameterSharing::Layerwise,
            k_reduce_by_layer: 0,
            full_attention: false,
            include_ff: true,
            w_o_intermediate_dim: None,
            emb_dim: None,
            return_emb: false,
            decoder_mode: false,
            causal: false,
            method: Method::Learnable,
        }
    }

    /// Returns the options of the `Linformer` inside.
    pub fn linformer(&self) -> LinformerOptions {
        LinformerOptions {
            input_size: self.input_size,
            channels: self.channels,
            dim_k: self.dim_k,
            dim_ff: self.dim_ff,
            dim_d: self.dim_d,
            dropout_ff: self.dropout_ff,
            nhead: self.nhead,
            depth: self.depth,
            dropout: self.dropout,
            activation: self.activation.clone(),
            checkpoint_level: self.checkpoint_level,
            parameter_sharing: self.parameter_sharing,
            k_reduce_by_layer: self.k_reduce_by_layer,
            full_attention: self.full_attention,
            include_ff: self.include_ff,
            w_o_intermediate_dim: self.w_o_intermediate_dim,
            decoder_mode: self.decoder_mode,
            causal: self.causal,
            method: self.method,
            ff_intermediate: self.ff_intermediate,
        }
    }
}

/// The options of the peer's `MHAttention`, but for the two modules that it shares with other layers (`E_proj`, `F_proj`).
///
/// The peer has defaults for the last three only; here whatever has no effect on numbers may be left out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct MHAttentionOptions {
    /// The length n of every sequence. Here, shorter ones are allowed as well.
    pub input_size: usize,
    /// The width of a head.
    pub dim: usize,
    /// The model's width.
    pub channels: usize,
    /// The projected length k.
    pub dim_k: usize,
    /// The number of heads.
    pub nhead: usize,
    /// Dropout, for training.
    #[serde(default)]
    pub dropout: f64,
    /// It has no effect on numbers.
    #[serde(default)]
    pub checkpoint_level: CheckpointLevel,
    /// The sharing of E and F. `Layerwise` means the two modules that the layer was given, which may differ.
    pub parameter_sharing: ParameterSharing,
    /// Exact attention; E and F are saved all the same, and unused.
    #[serde(default)]
    pub full_attention: bool,
    /// Whether the layer was given a causal mask; see [`LinformerOptions::causal`].
    #[serde(default)]
    pub causal_mask: bool,
    /// The width through which the output weight is factored, if it is.
    #[serde(default)]
    pub w_o_intermediate_dim: Option<usize>,
    /// Whether keys and values are those of another sequence, which is what one does with the layer rather than what it is.
    #[serde(default)]
    pub decoder_mode: bool,
    /// How the sequence is compressed.
    #[serde(default)]
    pub method: Method,
}

impl MHAttentionOptions {
    /// Creates the peer's default options; options without a default are unset.
    pub fn new(input_size: usize, dim: usize, channels: usize, dim_k: usize, nhead: usize, parameter_sharing: ParameterSharing) -> Self {
        Self {
            input_size,
            dim,
            channels,
            dim_k,
            nhead,
            dropout: 0.0,
            checkpoint_level: CheckpointLevel::C0,
            parameter_sharing,
            full_attention: false,
            causal_mask: false,
            w_o_intermediate_dim: None,
            decoder_mode: false,
            method: Method::Learnable,
        }
    }
}

/// The options of the peer's `FeedForward`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct FeedForwardOptions {
    /// Input features.
    pub input_channels: usize,
    /// Output features.
    pub output_channels: usize,
    /// The width in between.
    pub ff_dim: usize,
    /// Dropout, for training.
    #[serde(default)]
    pub dropout: f64,
    /// `gelu` or `relu`; anything else means none, as in the peer.
    #[serde(default = "some_gelu")]
    pub activation: Option<String>,
}

impl FeedForwardOptions {
    /// Creates the peer's default options.
    pub fn new(input_channels: usize, output_channels: usize, ff_dim: usize) -> Self {
        Self {
            input_channels,
            output_channels,
            ff_dim,
            dropout: 0.0,
            activation: some_gelu(),
        }
    }
}

fn hundredths<const N: u8>() -> f64 {
    f64::from(N) / 100.0
}

fn gelu() -> String {
    "gelu".to_owned()
}

#[allow(clippy::unnecessary_wraps)] // the field's default
fn some_gelu() -> Option<String> {
    Some(gelu())
}

macro_rules! from_json {
    ($($options:ident),*) => {
        $(impl $options {
            /// Reads options from a JSON object of the constructor's arguments.
            ///
            /// # Errors
            /// Returns an error if an option is unknown to the package, missing, or of the wrong type, or if it belongs to `LinformerEncDec`, which
            /// is refused.
            pub fn from_json(json: &str) -> Result<Self> {
                let operation = concat!("tatp22::", stringify!($options));
                refuse_encoder_decoder(&parse(operation, json)?)?;
                parse(operation, json)
            }
        })*
    };
}
from_json!(LinformerOptions, LinformerLMOptions, MHAttentionOptions, FeedForwardOptions);

/// An error by name where these are options of a `LinformerEncDec`.
fn refuse_encoder_decoder(options: &Map<String, Value>) -> Result<()> {
    let Some(option) = options
        .keys()
        .find(|option| option.starts_with("enc_") || option.starts_with("dec_"))
    else {
        return Ok(());
    };
    Err(Error::Refused {
        peer: PEER,
        option: option.clone(),
        reason: "the decoder of a LinformerEncDec sees the future, since its self-attention has no mask and the triangle is on the \
                 cross-attention; masks reach the wrong side"
            .to_owned(),
    })
}
