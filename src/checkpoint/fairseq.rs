//! Checkpoints of fairseq's `examples/linformer`, the authors' own implementation: `MultiheadLinearAttention` and `linformer_roberta`.
//!
//! E and F compress the sequence before the key and value weights, so that their biases are added once, after it; blocks are post-norm
//! unless the options say otherwise, positions count from after the padding token, and the language model's head is RoBERTa's. k is
//! `max_positions / compressed`. Layers are described by [`AttentionOptions`] and [`RobertaOptions`], in fairseq's own names and with
//! its defaults; the state dict is what the checkpoint file holds under `model`.
//!
//! ```
//! use linformer::checkpoint::{Tensors, fairseq};
//! use linformer::LanguageModel;
//!
//! fn load(state_dict: &Tensors<f32>) -> linformer::Result<LanguageModel> {
//!     let options = fairseq::RobertaOptions::from_json(r#"{"vocab": 50265, "max_positions": 512, "encoder_layers": 6}"#)?;
//!     fairseq::linformer_roberta(state_dict, &options)
//! }
//! ```
//!
//! # Dropped tensors
//! For a model: the `version` buffers (after they have been read), the eight copies a layer that fairseq 0.12 keeps for PyTorch's fused
//! layer (`layers.{i}.{in_proj,out_proj,fc1,fc2}_{weight,bias}`), the bias of a shared compression layer, which fairseq never adds, and
//! the heads that a loader does not use (`classification_heads.*`, and in a classifier `encoder.lm_head.*`). Everything else
//! must be used.
//!
//! # Old checkpoints
//! These load as fairseq loads them: `decoder.` for `encoder.`, `emb_layer_norm` for `layernorm_embedding`, `layer_norms.0` and
//! `.1` for `self_attn_layer_norm` and `final_layer_norm`, `in_proj_weight` for the three weights; without a
//! `sentence_encoder.version` of 2 or more a pre-norm model has no final norm; without an `encoder.version` of 2 or more a head
//! whose weight is not the token embedding is untied; without a layer `version` of 2 or more, layers with a `shared_compress_layer`
//! share nothing with each other.
//!
//! # Padding
//! fairseq sets padded positions to 0 once, before the first layer, and hides them nowhere else; a loaded model does the same when it is
//! given no mask. With a [`PaddingMask`](crate::PaddingMask) padding contributes to no layer, which is another function.

mod names;
mod old;
mod options;
mod roberta;

pub use options::AttentionOptions;
pub use roberta::RobertaOptions;

use std::borrow::Cow;

use ndarray::{ArrayD, ArrayViewD, IxDyn};

use super::foreign::{load, write};
use super::prefix::explained;
use super::size::{StoredConfig, check_depth, check_extent};
use super::tensors::Tensors;
use crate::attention::LinformerAttention;
use crate::config::{ClassifierConfig, Pooling};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::models::{Classifier, LanguageModel};
use crate::scalar::Scalar;
use names::Layout;

const PEER: &str = "fairseq";

/// Loads a `MultiheadLinearAttention`. Its sequences are (batch, length, dim) here, not (length, batch, dim).
///
/// # Errors
/// Returns an error if the options describe no layer or are refused, or if a tensor is missing, left over, of another shape, or differs from its
/// copy.
pub fn attention<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &AttentionOptions) -> Result<LinformerAttention<A>> {
    let config = options.config()?;
    let tensors = tensors.into();
    check_extent(&config, &tensors, StoredConfig::check)?;
    let layer = LinformerAttention::init(&config, &mut Streams::zeros());
    let tensors = old::attention(tensors)?;
    load(
        layer,
        tensors,
        &names::attention("", "", options.bias, options.matrices()),
        &names::dropped_of_attention(options),
    )
}

/// Loads a `linformer_roberta` with its language model's head.
///
/// # Errors
/// Returns an error if the options describe no model or are refused, or if a tensor is missing, left over, of another shape, or differs from its
/// copy.
pub fn linformer_roberta<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &RobertaOptions) -> Result<LanguageModel<A>> {
    options.check()?;
    let tensors = tensors.into();
    check_depth(options.encoder_layers, &tensors)?;
    let tensors = old::model(tensors)?;
    let layout = Layout::of(options, &tensors)?;
    let config = options.config_in(layout)?;
    check_extent(&config, &tensors, StoredConfig::check)?;
    let model = LanguageModel::init(&config, &mut Streams::zeros());
    let mut dropped = names::dropped(options, layout);
    dropped.extend(names::classification_heads(&tensors));
    load(model, tensors, &names::language_model(options, layout), &dropped)
}

/// Loads a `linformer_roberta` with the classification head of this name, which reads the features of the first token.
///
/// # Errors
/// Returns an error as [`linformer_roberta`] does, or if there is no such head.
pub fn classifier<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &RobertaOptions, head: &str) -> Result<Classifier<A>> {
    options.check()?;
    let tensors = tensors.into();
    check_depth(options.encoder_layers, &tensors)?;
    let tensors = old::model(tensors)?;
    let layout = Layout::of(options, &tensors)?;
    let prefix = format!("classification_heads.{head}");
    let name = format!("{prefix}.out_proj.weight");
    let weight = tensors.get(&name);
    let Some(&[classes, hidden_dim]) = weight.as_ref().map(ArrayViewD::shape) else {
        let names: Vec<&str> = tensors.names().collect();
        let missing = format!("`{name}`, a matrix, is missing");
        let problems = explained(&[name], &names).into_iter().chain([missing]).collect();
        return Err(Error::Checkpoint { problems });
    };
    let config = ClassifierConfig::tokens(options.config_in(layout)?, classes)
        .with_pooling(Pooling::First)
        .with_hidden_dim(Some(hidden_dim))
        .with_activation(options.pooler_activation()?);
    check_extent(&config, &tensors, StoredConfig::check)?;
    let mut dropped = names::dropped(options, layout);
    dropped.extend(names::language_model_head());
    dropped.extend(
        names::classification_heads(&tensors)
            .into_iter()
            .filter(|name| !name.starts_with(&format!("{prefix}."))),
    );
    let model = Classifier::init(&config, &mut Streams::zeros());
    load(model, tensors, &names::classifier(options, layout, &prefix), &dropped)
}

/// Returns the state dict of a `MultiheadLinearAttention` that computes what `layer` does; its options are [`AttentionOptions::of`].
///
/// # Errors
/// Returns an error if this class cannot express the layer; the error names the option that it lacks.
pub fn attention_state_dict<A: Scalar>(layer: &LinformerAttention<A>) -> Result<Tensors<A>> {
    let options = AttentionOptions::of(layer.config())?;
    write(layer, &names::attention("", "", options.bias, options.matrices()))
}

/// Returns the state dict of a `linformer_roberta` that computes what `model` does; its options are [`RobertaOptions::of`].
///
/// The bias of a shared compression layer, which fairseq demands and does not add, is written as 0.
///
/// # Errors
/// Returns an error if this class cannot express the model; the error names the option that it lacks.
pub fn linformer_roberta_state_dict<A: Scalar>(model: &LanguageModel<A>) -> Result<Tensors<A>> {
    let options = RobertaOptions::of(model.config())?;
    let layout = Layout::new(&options, model.config().encoder.final_norm);
    let mut tensors = write(model, &names::language_model(&options, layout))?;
    for (name, shape, version) in names::versions(&options, layout) {
        tensors.insert(name, ArrayD::from_elem(IxDyn(shape), A::cast(version)))?;
    }
    for name in names::unused_biases(&options, layout) {
        tensors.insert(name, ArrayD::zeros(IxDyn(&[options.k()?])))?;
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests;
