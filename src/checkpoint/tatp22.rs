//! Checkpoints of tatp22's `linformer-pytorch` (PyPI, 0.19).
//!
//! Blocks are post-norm without a norm after the last; E and F have a bias, and otherwise only the output and the feed-forward have
//! one. A model is described by the options of its class, in that package's own names and with its defaults.
//!
//! | its class | options | loaded by | written by | model |
//! |---|---|---|---|---|
//! | `Linformer` | [`LinformerOptions`] | [`linformer`] | [`linformer_state_dict`] | [`Encoder`](crate::Encoder) |
//! | `LinformerLM` | [`LinformerLMOptions`] | [`language_model`] | [`language_model_state_dict`] | [`LanguageModel`](crate::LanguageModel) |
//! | `Linformer` with `decoder_mode` | [`LinformerOptions`] | [`decoder`] | [`decoder_state_dict`] | [`Decoder`](crate::Decoder) |
//! | `LinformerLM` with `decoder_mode` | [`LinformerLMOptions`] | [`decoder_language_model`] | [`decoder_language_model_state_dict`] | [`DecoderLanguageModel`](crate::DecoderLanguageModel) |
//! | `MHAttention` | [`MHAttentionOptions`] | [`attention`] | [`attention_state_dict`] | [`Attention`](crate::Attention) |
//! | `FeedForward` | [`FeedForwardOptions`] | [`feed_forward`] | [`feed_forward_state_dict`] | [`FeedForward`](crate::FeedForward) |
//!
//! ```
//! use linformer::checkpoint::{Tensors, tatp22};
//! use linformer::Encoder;
//!
//! // The trained weights of `Linformer(input_size=512, channels=64, dim_k=32, depth=2)`, read from a safetensors file.
//! fn load(state_dict: &Tensors<f32>) -> linformer::Result<Encoder> {
//!     let options = tatp22::LinformerOptions::from_json(r#"{"input_size": 512, "channels": 64, "dim_k": 32, "depth": 2}"#)?;
//!     tatp22::linformer(state_dict, &options)
//! }
//! ```
//!
//! A decoder's `embeddings`, which the package wants as long as the target, is the source here and may have any length up to `input_size`. Its
//! masks, which the package swaps between the two sides, are not supported; here each side has its own.
//!
//! No tensor may be left over; only the E and F that full attention has and does not use are dropped. Tensors that layers or heads share
//! are in its files under every name: all copies must agree, and the model has one. Its `input_mask` is a
//! [`PaddingMask`](crate::PaddingMask); its `embeddings_mask`, which would make the masked rows of an encoder attend evenly, has no
//! counterpart.
//!
//! The matrices of [`Method::NoParams`] are in no state dict. They are handed over with the other tensors, (n, k) as in the
//! package: `E.{j}` and `F.{j}` for the attention at `seq[j]`, `E.{j}.{h}` and `F.{j}.{h}` for its head h with sharing `none`, whatever
//! encloses the `seq`; without the `.{j}` for an `MHAttention` by itself. Where the heads' matrices are equal, as those of a single head are,
//! `E.{j}` and `F.{j}` represent all of them.
//!
//! Options that have no effect in the package are accepted and have none: a checkpoint made with them is right. Refused are
//!
//! - `causal` with compression: its (n, k) triangle lets the future leak into the past (with `full_attention` it is right, and loaded);
//! - `causal` with `decoder_mode`, and `LinformerEncDec`, which is that: the self-attention has no mask, and the triangle hides the source.

mod choices;
mod load;
mod names;
mod native;
mod options;
mod write;

pub use choices::{CheckpointLevel, Method, ParameterSharing};
pub use load::{attention, decoder, decoder_language_model, feed_forward, language_model, linformer};
pub use options::{FeedForwardOptions, LinformerLMOptions, LinformerOptions, MHAttentionOptions};
pub use write::{
    attention_state_dict, decoder_language_model_state_dict, decoder_state_dict, feed_forward_state_dict, language_model_state_dict,
    linformer_state_dict,
};

const PEER: &str = "tatp22";

#[cfg(test)]
mod tests;
