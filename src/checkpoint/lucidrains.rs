//! Checkpoints of lucidrains' `linformer` (PyPI, 0.2.x).
//!
//! Blocks are pre-norm without a norm after the last; feed-forwards are four times as wide with an exact GELU; only the output has a
//! bias. A model is described by [`Options`], in that package's own names and with its defaults.
//!
//! ```
//! use linformer::checkpoint::{Tensors, lucidrains};
//! use linformer::LanguageModel;
//!
//! // The trained weights of `LinformerLM(num_tokens=256, dim=64, seq_len=512, depth=2)`, read from a safetensors file.
//! fn load(state_dict: &Tensors<f32>) -> linformer::Result<LanguageModel> {
//!     let options = lucidrains::Options::from_json(r#"{"num_tokens": 256, "dim": 64, "seq_len": 512, "depth": 2}"#)?;
//!     lucidrains::language_model(state_dict, &options)
//! }
//! ```
//!
//! Every tensor must be used. The package has no masks; a loaded model accepts them nevertheless.

mod names;
mod options;

pub use options::{FeedForwardOptions, Options};

use std::borrow::Cow;

use super::foreign::{load, write};
use super::size::{FeedForwardFile, StoredConfig, check_extent};
use super::tensors::Tensors;
use crate::attention::LinformerAttention;
use crate::blocks::Encoder;
use crate::error::Result;
use crate::initialization::Streams;
use crate::layers::FeedForward;
use crate::models::LanguageModel;
use crate::scalar::Scalar;

const PEER: &str = "lucidrains";

/// Loads a `LinformerSelfAttention`.
///
/// # Errors
/// Returns an error if the options describe no layer or do not belong to one, or if a tensor is missing, left over or of another shape.
pub fn attention<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<LinformerAttention<A>> {
    let config = options.attention_config()?;
    let tensors = tensors.into();
    check_extent(&config, &tensors, StoredConfig::check)?;
    let layer = LinformerAttention::init(&config, &mut Streams::zeros());
    load(layer, tensors, &names::attention("", "", options.share_kv), &[])
}

/// Loads a `FeedForward`.
///
/// # Errors
/// Returns an error if the options describe no layer, or if a tensor is missing, left over or of another shape.
pub fn feed_forward<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &FeedForwardOptions) -> Result<FeedForward<A>> {
    let config = FeedForwardFile {
        dim: options.dim,
        out_dim: options.dim,
        layer: options.config()?,
    };
    let tensors = tensors.into();
    check_extent(&config, &tensors, StoredConfig::check)?;
    let layer = FeedForward::init(config.dim, config.out_dim, &config.layer, &mut Streams::zeros());
    load(layer, tensors, &names::feed_forward("", ""), &[])
}

/// Loads a `Linformer`, sequential or reversible.
///
/// # Errors
/// Returns an error if the options describe no model or do not belong to one, or if a tensor is missing, left over or of another shape.
pub fn linformer<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<Encoder<A>> {
    let config = options.encoder_config()?;
    let tensors = tensors.into();
    check_extent(&config, &tensors, StoredConfig::check)?;
    let encoder = Encoder::init(&config, &mut Streams::zeros());
    load(encoder, tensors, &names::encoder("", "", options), &[])
}

/// Loads a `LinformerLM`.
///
/// # Errors
/// Returns an error if the options describe no model, or if a tensor is missing, left over or of another shape.
pub fn language_model<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<LanguageModel<A>> {
    let config = options.language_model_config()?;
    let tensors = tensors.into();
    check_extent(&config, &tensors, StoredConfig::check)?;
    let model = LanguageModel::init(&config, &mut Streams::zeros());
    load(model, tensors, &names::language_model(options), &[])
}

/// Returns the state dict of a `LinformerSelfAttention` that computes what `layer` does; its options are [`Options::of_attention`].
///
/// # Errors
/// Returns an error if this class cannot express the layer; the error names the option that it lacks.
pub fn attention_state_dict<A: Scalar>(layer: &LinformerAttention<A>) -> Result<Tensors<A>> {
    let options = Options::of_attention(layer.config())?;
    write(layer, &names::attention("", "", options.share_kv))
}

/// Returns the state dict of a `FeedForward` that computes what `layer` does; its options are [`FeedForwardOptions::of`].
///
/// # Errors
/// Returns an error if this class cannot express the layer; the error names the option that it lacks.
pub fn feed_forward_state_dict<A: Scalar>(layer: &FeedForward<A>) -> Result<Tensors<A>> {
    FeedForwardOptions::of(layer)?;
    write(layer, &names::feed_forward("", ""))
}

/// Returns the state dict of a `Linformer` that computes what `encoder` does; its options are [`Options::of_encoder`].
///
/// # Errors
/// Returns an error if this class cannot express the encoder; the error names the option that it lacks.
pub fn linformer_state_dict<A: Scalar>(encoder: &Encoder<A>) -> Result<Tensors<A>> {
    let options = Options::of_encoder(encoder.config())?;
    write(encoder, &names::encoder("", "", &options))
}

/// Returns the state dict of a `LinformerLM` that computes what `model` does; its options are [`Options::of_language_model`].
///
/// # Errors
/// Returns an error if this class cannot express the model; the error names the option that it lacks.
pub fn language_model_state_dict<A: Scalar>(model: &LanguageModel<A>) -> Result<Tensors<A>> {
    let options = Options::of_language_model(model.config())?;
    write(model, &names::language_model(&options))
}

#[cfg(test)]
mod tests;
