//! From models to the peer's tensors.

use std::collections::BTreeMap;

use ndarray::{ArrayD, ArrayViewD, Axis, IxDyn, Slice};

use super::super::foreign::check_same;
use super::super::tensors::Tensors;
use super::names::{self, Direction, Layout};
use super::native::{normalized, normalized_attention, normalized_decoder};
use super::{FeedForwardOptions, LinformerLMOptions, LinformerOptions, MHAttentionOptions, PEER};
use crate::blocks::{Attention, Decoder, Encoder};
use crate::config::AttentionKind;
use crate::error::{Error, Result, checked_len};
use crate::layers::FeedForward;
use crate::models::{DecoderLanguageModel, LanguageModel};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// Returns the state dict of the `Linformer` of these options that computes what `encoder` does.
///
/// Shared tensors are repeated as the peer repeats them. The E and F that full attention has and does not use are zeros. The matrices of
/// [`Method::NoParams`](super::Method::NoParams) are named as [`linformer`](super::linformer) takes them; they are not part of the peer's
/// state dict and must be set by hand.
///
/// # Errors
/// Returns an error as [`LinformerOptions::encoder_config`] does, or if the encoder has other options; the error names the first that differs.
pub fn linformer_state_dict<A: Scalar>(encoder: &Encoder<A>, options: &LinformerOptions) -> Result<Tensors<A>> {
    check_same(PEER, &normalized(encoder.config()), &normalized(&options.encoder_config()?))?;
    write(encoder, |names| names::encoder(options, "", "", names))
}

/// Returns the state dict of the `LinformerLM` of these options that computes what `model` does; see [`linformer_state_dict`].
///
/// # Errors
/// Returns an error as [`LinformerLMOptions::language_model_config`] does, or if the model has other options; the error names the first that differs.
pub fn language_model_state_dict<A: Scalar>(model: &LanguageModel<A>, options: &LinformerLMOptions) -> Result<Tensors<A>> {
    let mut ours = model.config().clone();
    let mut theirs = options.language_model_config()?;
    for config in [&mut ours, &mut theirs] {
        config.encoder = normalized(&config.encoder);
        config.embedding_dim = Some(config.effective_embedding_dim());
    }
    check_same(PEER, &ours, &theirs)?;
    write(model, |names| names::language_model(options, names))
}

/// Returns the state dict of the `Linformer` with `decoder_mode` of these options that computes what `decoder` does; see [`linformer_state_dict`].
///
/// # Errors
/// Returns an error as [`LinformerOptions::decoder_config`] does, or if the decoder has other options; the error names the first that differs.
pub fn decoder_state_dict<A: Scalar>(decoder: &Decoder<A>, options: &LinformerOptions) -> Result<Tensors<A>> {
    check_same(
        PEER,
        &normalized_decoder(decoder.config()),
        &normalized_decoder(&options.decoder_config()?),
    )?;
    write(decoder, |names| names::decoder(options, "", "", names))
}

/// Returns the state dict of the `LinformerLM` with `decoder_mode` of these options that computes what `model` does; see [`linformer_state_dict`].
///
/// # Errors
/// Returns an error as [`LinformerLMOptions::decoder_language_model_config`] does, or if the model has other options; the error names the first that
/// differs.
pub fn decoder_language_model_state_dict<A: Scalar>(model: &DecoderLanguageModel<A>, options: &LinformerLMOptions) -> Result<Tensors<A>> {
    let mut ours = model.config().clone();
    let mut theirs = options.decoder_language_model_config()?;
    for config in [&mut ours, &mut theirs] {
        config.decoder = normalized_decoder(&config.decoder);
        config.embedding_dim = Some(config.effective_embedding_dim());
    }
    check_same(PEER, &ours, &theirs)?;
    write(model, |names| names::language_model(options, names))
}

/// Returns the state dict of the `MHAttention` of these options that computes what `layer` does; see [`linformer_state_dict`].
///
/// # Errors
/// Returns an error as [`MHAttentionOptions::attention_config`] does, or if the layer has other options; the error names the first that differs.
pub fn attention_state_dict<A: Scalar>(layer: &Attention<A>, options: &MHAttentionOptions) -> Result<Tensors<A>> {
    let ours = match layer {
        Attention::Linformer(layer) => AttentionKind::Linformer(layer.config().clone()),
        Attention::Exact(layer) => AttentionKind::Exact(layer.config().clone()),
        Attention::Causal(layer) => AttentionKind::Causal(layer.config().clone()),
        Attention::LocalGlobal(layer) => AttentionKind::LocalGlobal(layer.config().clone()),
    };
    let theirs = options.attention_config()?;
    check_same(PEER, &normalized_attention(&ours), &normalized_attention(&theirs))?;
    write(layer, |names| names::attention(options, names))
}

/// Returns the state dict of the `FeedForward` of these options that computes what `layer` does.
///
/// # Errors
/// Returns an error as [`FeedForwardOptions::config`] does, or if the layer has other options.
pub fn feed_forward_state_dict<A: Scalar>(layer: &FeedForward<A>, options: &FeedForwardOptions) -> Result<Tensors<A>> {
    let ours = FeedForwardOptions {
        input_channels: layer.input().in_dim(),
        ff_dim: layer.input().out_dim(),
        output_channels: layer.output().out_dim(),
        ..options.clone()
    };
    check_same(PEER, &ours, options)?;
    check_same(PEER, &layer.activation(), &options.config()?.activation)?;
    write(layer, |names| names::feed_forward("", "", names))
}

fn write<'m, A: Scalar>(model: &'m impl Parameters<A>, walk: impl FnOnce(&mut Writer<'m, A>)) -> Result<Tensors<A>> {
    let mut writer = Writer {
        native: model.named().into_iter().collect(),
        peer: Tensors::new(),
        problems: Vec::new(),
    };
    walk(&mut writer);
    let left: Vec<String> = writer
        .native
        .keys()
        .map(|name| format!("`{name}` has no name in the peer"))
        .collect();
    writer.problems.extend(left);
    if writer.problems.is_empty() {
        return Ok(writer.peer);
    }
    Err(Error::Checkpoint { problems: writer.problems })
}

/// Gives native tensors their names in the peer.
struct Writer<'m, A> {
    /// Those that have none yet.
    native: BTreeMap<String, ArrayViewD<'m, A>>,
    peer: Tensors<A>,
    problems: Vec<String>,
}

impl<'m, A: Scalar> Writer<'m, A> {
    fn take(&mut self, native: &str) -> Option<ArrayViewD<'m, A>> {
        let tensor = self.native.remove(native);
        if tensor.is_none() {
            self.problems.push(format!("the model has no `{native}`"));
        }
        tensor
    }

    fn recycle(&mut self, peer: &str, tensor: ArrayD<A>) {
        if let Err(error) = self.peer.insert(peer, tensor) {
            self.problems.push(error.to_string());
        }
    }
}

impl<A: Scalar> Direction for Writer<'_, A> {
    fn copy(&mut self, peer: &str, native: &str) {
        if let Some(tensor) = self.take(native) {
            self.recycle(peer, tensor.to_owned());
        }
    }

    fn rows(&mut self, peer: &[String], native: &str) {
        let Some(tensor) = self.take(native) else {
            return;
        };
        let rows = tensor.len_of(Axis(0)) / peer.len().max(1);
        for (index, name) in peer.iter().enumerate() {
            let part = tensor.slice_axis(Axis(0), Slice::from(index * rows..(index + 1) * rows));
            self.recycle(name, part.to_owned());
        }
    }

    fn shared(&mut self, peer: &[String], native: &str, layout: Layout) {
        if let Some(tensor) = self.take(native) {
            for name in peer {
                self.recycle(name, laid(tensor.view(), layout));
            }
        }
    }

    fn stacked(&mut self, peer: &[String], native: &str, layout: Layout) {
        if let Some(tensor) = self.take(native) {
            for (name, part) in peer.iter().zip(tensor.outer_iter()) {
                self.recycle(name, laid(part, layout));
            }
        }
    }

    fn unused(&mut self, peer: &str, shape: Option<&[usize]>) {
        let Some(shape) = shape else { return };
        match checked_len("tatp22", shape, size_of::<A>()) {
            Ok(_) => self.recycle(peer, ArrayD::zeros(IxDyn(shape))),
            Err(error) => self.problems.push(format!("`{peer}`: {error}")),
        }
    }
}

/// The tensor as in the peer.
fn laid<A: Scalar>(tensor: ArrayViewD<'_, A>, layout: Layout) -> ArrayD<A> {
    match layout {
        Layout::Saved => tensor.to_owned(),
        Layout::Handed => tensor.reversed_axes().as_standard_layout().into_owned(),
    }
}
