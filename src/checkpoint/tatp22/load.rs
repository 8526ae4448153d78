//! From the peer's tensors to models.

use std::borrow::Cow;

use super::super::foreign::{Translation, fill};
use super::super::size::{FeedForwardFile, StoredConfig, check_extent};
use super::super::source::Sources;
use super::super::tensors::Tensors;
use super::names::{self, Direction, Layout};
use super::{FeedForwardOptions, LinformerLMOptions, LinformerOptions, MHAttentionOptions};
use crate::blocks::{Attention, Decoder, Encoder};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::FeedForward;
use crate::models::{DecoderLanguageModel, LanguageModel};
use crate::scalar::Scalar;

/// Loads a `Linformer`.
///
/// # Errors
/// Returns an error as [`LinformerOptions::encoder_config`] does, or if tensors are missing, left over, of another shape, or differ where they are
/// one tensor.
pub fn linformer<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &LinformerOptions) -> Result<Encoder<A>> {
    let tensors = tensors.into();
    check_count(&tensors, options.depth, options.nhead)?;
    let config = options.encoder_config()?;
    check_extent(&config, &tensors, StoredConfig::check)?;
    let translated = translate(tensors, |names| names::encoder(options, "", "", names))?;
    fill(Encoder::init(&config, &mut Streams::zeros()), translated)
}

/// Loads a `LinformerLM`.
///
/// # Errors
/// Returns an error as [`LinformerLMOptions::language_model_config`] and [`linformer`] do.
pub fn language_model<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &LinformerLMOptions) -> Result<LanguageModel<A>> {
    let tensors = tensors.into();
    check_count(&tensors, options.depth, options.nhead)?;
    let config = options.language_model_config()?;
    check_extent(&config, &tensors, StoredConfig::check)?;
    let translated = translate(tensors, |names| names::language_model(options, names))?;
    fill(LanguageModel::init(&config, &mut Streams::zeros()), translated)
}

/// Loads a `Linformer` with `decoder_mode`.
///
/// # Errors
/// Returns an error as [`LinformerOptions::decoder_config`] and [`linformer`] do.
pub fn decoder<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &LinformerOptions) -> Result<Decoder<A>> {
    let tensors = tensors.into();
    check_count(&tensors, options.depth, options.nhead)?;
    let config = options.decoder_config()?;
    check_extent(&config, &tensors, StoredConfig::check)?;
    let translated = translate(tensors, |names| names::decoder(options, "", "", names))?;
    fill(Decoder::init(&config, &mut Streams::zeros()), translated)
}

/// Loads a `LinformerLM` with `decoder_mode`.
///
/// # Errors
/// Returns an error as [`LinformerLMOptions::decoder_language_model_config`] and [`linformer`] do.
pub fn decoder_language_model<'t, A: Scalar>(
    tensors: impl Into<Cow<'t, Tensors<A>>>,
    options: &LinformerLMOptions,
) -> Result<DecoderLanguageModel<A>> {
    let tensors = tensors.into();
    check_count(&tensors, options.depth, options.nhead)?;
    let config = options.decoder_language_model_config()?;
    check_extent(&config, &tensors, StoredConfig::check)?;
    let translated = translate(tensors, |names| names::language_model(options, names))?;
    fill(DecoderLanguageModel::init(&config, &mut Streams::zeros()), translated)
}

/// Loads an `MHAttention`.
///
/// # Errors
/// Returns an error as [`MHAttentionOptions::attention_config`] and [`linformer`] do.
pub fn attention<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &MHAttentionOptions) -> Result<Attention<A>> {
    let tensors = tensors.into();
    check_count(&tensors, 1, options.nhead)?;
    let kind = options.attention_config()?;
    check_extent(&kind, &tensors, StoredConfig::check)?;
    let translated = translate(tensors, |names| names::attention(options, names))?;
    fill(Attention::init(&kind, &mut Streams::zeros()), translated)
}

/// Loads a `FeedForward`.
///
/// # Errors
/// Returns an error as [`FeedForwardOptions::config`] does, or if a tensor is missing, left over or of another shape.
pub fn feed_forward<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &FeedForwardOptions) -> Result<FeedForward<A>> {
    let config = FeedForwardFile {
        dim: options.input_channels,
        out_dim: options.output_channels,
        layer: options.config()?,
    };
    let tensors = tensors.into();
    check_extent(&config, &tensors, StoredConfig::check)?;
    let translated = translate(tensors, |names| names::feed_forward("", "", names))?;
    let layer = FeedForward::init(config.dim, config.out_dim, &config.layer, &mut Streams::zeros());
    fill(layer, translated)
}

/// An error where the options count more layers or heads than there are tensors: wild numbers end here, not in a long loop.
fn check_count<A: Scalar>(tensors: &Tensors<A>, depth: usize, heads: usize) -> Result<()> {
    let have = tensors.len();
    let counts = [("depth", depth), ("nhead", if depth == 0 { 0 } else { heads })];
    let problems: Vec<String> = counts
        .iter()
        .filter(|&&(_, count)| count > have)
        .map(|(option, count)| format!("`{option}` = {count}, but there are only {have} tensors"))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Checkpoint { problems })
}

fn translate<'t, A: Scalar>(tensors: Cow<'t, Tensors<A>>, walk: impl FnOnce(&mut Translation<'t, A>)) -> Result<Sources<A>> {
    let mut translation = Translation::new(tensors);
    walk(&mut translation);
    translation.finish()
}

impl<A: Scalar> Direction for Translation<'_, A> {
    fn copy(&mut self, peer: &str, native: &str) {
        Translation::copy(self, peer, native);
    }

    fn rows(&mut self, peer: &[String], native: &str) {
        if alike(self, peer) {
            self.concatenate(peer, native);
        }
    }

    fn shared(&mut self, peer: &[String], native: &str, layout: Layout) {
        if layout == Layout::Saved {
            self.tied(peer, native);
            return;
        }
        let peer: Vec<String> = peer.iter().map(|name| of_one_head(self, name)).collect();
        if handed(self, &peer)
            && let Some(matrix) = self.agreeing(&peer)
        {
            self.recycle(native, matrix.reversed_axes());
        }
    }

    fn stacked(&mut self, peer: &[String], native: &str, layout: Layout) {
        if layout == Layout::Saved {
            self.stack(peer, native);
            return;
        }
        let peer: Vec<String> = peer.iter().map(|name| of_all_heads(self, name)).collect();
        if handed(self, &peer) && alike(self, &peer) {
            self.stack_transposed(&peer, native);
        }
    }

    fn unused(&mut self, peer: &str, _: Option<&[usize]>) {
        self.ignore(peer);
    }
}

/// The matrix of a head, or of all heads where the file has only that: heads with equal matrices are exported as if they shared one, and
/// so is a single head.
fn of_all_heads<A: Scalar>(translation: &Translation<'_, A>, name: &str) -> String {
    let all = name.rsplit_once('.').map(|(all, _)| all);
    all.filter(|all| !translation.has(name) && translation.has(all))
        .unwrap_or(name)
        .to_owned()
}

/// The matrix of all heads, or of the only one where the file has only that.
fn of_one_head<A: Scalar>(translation: &Translation<'_, A>, name: &str) -> String {
    let (one, another) = (format!("{name}.0"), format!("{name}.1"));
    let is_alone = !translation.has(name) && translation.has(&one) && !translation.has(&another);
    if is_alone { one } else { name.to_owned() }
}

/// Whether those of the tensors that are there have one shape; noted where not.
fn alike<A: Scalar>(translation: &mut Translation<'_, A>, names: &[String]) -> bool {
    let mut first: Option<(&String, &[usize])> = None;
    let mut tensors = Vec::new();
    for name in names {
        if translation.has(name) {
            tensors.extend(translation.take(name).map(|tensor| (name, tensor)));
        }
    }
    for (name, tensor) in &tensors {
        let (first_name, expected) = *first.get_or_insert((name, tensor.shape()));
        if tensor.shape() != expected {
            translation.problem(format!(
                "`{name}` has shape {:?}, but `{first_name}` has {expected:?}",
                tensor.shape()
            ));
            return false;
        }
    }
    true
}

/// Whether all matrices are there that the peer does not save; noted, with what to do, where not.
fn handed<A: Scalar>(translation: &mut Translation<'_, A>, names: &[String]) -> bool {
    let missing: Vec<&String> = names.iter().filter(|name| !translation.has(name)).collect();
    for name in &missing {
        translation.problem(format!(
            "`{name}` is missing: the peer saves no matrix with method no_params; take it from the model in PyTorch \
             (`seq[j].fn.heads[h].E` or `.F`), and add it, (n, k) as it is there, as `E.j` or `F.j` (`E.j.h` where heads do not share; \
             `E` or `E.h` for an MHAttention by itself)"
        ));
    }
    missing.is_empty()
}
