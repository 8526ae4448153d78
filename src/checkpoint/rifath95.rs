//! Checkpoints of rifath95's `Causal-Linformer`.
//!
//! A pre-norm decoder with learned positions, feed-forwards of four times the width with ReLU and a norm before its head. Each layer adds exact
//! attention over a window to attention to one summary row of each complete block, each with its own softmax; every block index has its own E and F.
//! The implementation has no package: [`Options`] are its module's globals, in lower case.
//!
//! ```
//! use linformer::checkpoint::{Tensors, rifath95};
//! use linformer::LanguageModel;
//!
//! fn load(state_dict: &Tensors<f32>) -> linformer::Result<LanguageModel> {
//!     let options = rifath95::Options::from_json(
//!         r#"{"vocab": 256, "d_hidden": 64, "n_heads": 4, "n_layers": 2, "block_size": 512, "num_global_blocks": 16}"#,
//!     )?;
//!     rifath95::language_model(state_dict, &options)
//! }
//! ```
//!
//! No tensor may be left over. Its mode without E and F (`attn.tril` in their place) is not read.

use std::borrow::Cow;

use ndarray::{ArrayViewD, Axis, concatenate};
use serde::{Deserialize, Serialize};

use super::foreign::{Entry, Translation, check_same, fill, parse, write};
use super::size::{StoredConfig, check_extent};
use super::source::{SharedArray, reshaped, rows_of};
use super::tensors::Tensors;
use crate::config::{
    AttentionConfig, BlockWeights, CausalConfig, EncoderConfig, FeedForwardConfig, LanguageModelConfig, PositionKind, Sharing,
    SummarySoftmax,
};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::models::LanguageModel;
use crate::ops::Activation;
use crate::parameters::Parameters;
use crate::scalar::Scalar;

const PEER: &str = "rifath95";

/// The globals of the peer's module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Options {
    /// The number of token ids.
    pub vocab: usize,
    /// Model width.
    pub d_hidden: usize,
    /// Heads.
    pub n_heads: usize,
    /// Blocks of the model.
    pub n_layers: usize,
    /// The longest text.
    pub block_size: usize,
    /// The number of blocks of a text; it must divide `block_size`.
    pub num_global_blocks: usize,
    /// The positions of such a block; `block_size` / `num_global_blocks` where it is not given.
    #[serde(default)]
    pub causal_block_size: Option<usize>,
    /// The positions that a row sees exactly, its own included; one less than a block where it is not given.
    #[serde(default)]
    pub local_window: Option<usize>,
    /// Whether the heads share E and F; no.
    #[serde(default, rename = "share_E_F_across_heads")]
    pub share_e_f_across_heads: bool,
}

impl Options {
    /// Reads options from a JSON object.
    ///
    /// # Errors
    /// Returns an error if an option is missing, unknown, or has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        parse("rifath95::Options", json)
    }

    /// Returns the crate's configuration of the same model.
    ///
    /// # Errors
    /// Returns an error if the options describe no model, here or in the peer.
    pub fn config(&self) -> Result<LanguageModelConfig> {
        let blocks = self.num_global_blocks;
        if blocks == 0 || !self.block_size.is_multiple_of(blocks) {
            let reason = format!("it must divide block_size = {}", self.block_size);
            return Err(Error::config("num_global_blocks", blocks, reason));
        }
        let block = self.block_size / blocks;
        if self.causal_block_size.is_some_and(|size| size != block) {
            let reason = format!("it is block_size / num_global_blocks = {block} in the peer");
            return Err(Error::config("causal_block_size", format!("{:?}", self.causal_block_size), reason));
        }
        let sharing = if self.share_e_f_across_heads {
            Sharing::Headwise
        } else {
            Sharing::None
        };
        let attention = CausalConfig::new(self.d_hidden, self.n_heads, self.block_size, 1)
            .with_attention(AttentionConfig::new(self.d_hidden, self.n_heads))
            .with_block(Some(block))
            .with_window(Some(self.local_window.unwrap_or(block.saturating_sub(1))))
            .with_sharing(sharing)
            .with_block_weights(BlockWeights::PerBlock)
            .with_softmax(SummarySoftmax::Summed);
        let feed_forward = FeedForwardConfig::new(self.d_hidden.saturating_mul(4)).with_activation(Activation::Relu);
        let encoder = EncoderConfig::new(attention, self.n_layers).with_feed_forward(Some(feed_forward));
        let position = PositionKind::Learned { max_len: self.block_size };
        let config = LanguageModelConfig::new(self.vocab, encoder).with_position(position);
        config.check()?;
        Ok(config)
    }

    /// The shape of E and F of a layer.
    fn projection_shape(&self) -> Vec<usize> {
        let shape = [
            self.n_heads,
            self.num_global_blocks,
            self.block_size / self.num_global_blocks.max(1),
        ];
        shape[usize::from(self.share_e_f_across_heads)..].to_vec()
    }

    /// The tensors with the same shape on both sides.
    fn entries(&self) -> Vec<Entry> {
        let mut entries = vec![
            Entry::new("embedding.weight", "token_embedding_table.weight"),
            Entry::new("position.weight", "position_embedding_table.weight"),
        ];
        for layer in 0..self.n_layers {
            let (ours, theirs) = (format!("encoder.blocks.{layer}"), format!("layers.{layer}"));
            for (native, foreign) in [
                ("attention_norm", "pre_attn_ln"),
                ("attention.output", "attn.mix"),
                ("feed_forward.norm", "pre_ffwd_ln"),
                ("feed_forward.input", "ffwd.up_proj"),
                ("feed_forward.output", "ffwd.down_proj"),
            ] {
                entries.extend(Entry::layer(&format!("{ours}.{native}"), &format!("{theirs}.{foreign}"), true));
            }
        }
        entries.extend(Entry::layer("encoder.final_norm", "final_ln", true));
        entries.extend(Entry::layer("head", "lm_head", true));
        entries
    }
}

/// The names of a layer's queries, keys and values, which the peer has in one.
fn parts(layer: usize) -> [String; 3] {
    ["query", "key", "value"].map(|part| format!("encoder.blocks.{layer}.attention.{part}.weight"))
}

/// The names of a layer's E and F, ours and the peer's.
fn projections(layer: usize) -> [(String, String); 2] {
    [("key", "E"), ("value", "F")].map(|(ours, theirs)| {
        (
            format!("encoder.blocks.{layer}.attention.projections.{ours}.weight"),
            format!("layers.{layer}.attn.{theirs}"),
        )
    })
}

/// Loads the model of a state dict.
///
/// # Errors
/// Returns an error as [`Options::config`] does, or if a tensor is missing, left over or of another shape.
pub fn language_model<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<LanguageModel<A>> {
    let config = options.config()?;
    let tensors = tensors.into();
    check_extent(&config, &tensors, StoredConfig::check)?;
    let mut translation = Translation::new(tensors);
    translation.place(&options.entries());
    for layer in 0..options.n_layers {
        take_attention(&mut translation, layer, options);
    }
    fill(LanguageModel::init(&config, &mut Streams::zeros()), translation.finish()?)
}

/// The tensors of a layer with another shape than ours.
fn take_attention<A: Scalar>(translation: &mut Translation<'_, A>, layer: usize, options: &Options) {
    let name = format!("layers.{layer}.attn.qkv.weight");
    if let Some(joined) = translation.take(&name) {
        if let Some(thirds) = thirds(&joined) {
            for (ours, third) in parts(layer).iter().zip(thirds) {
                translation.recycle(ours, third);
            }
        } else {
            let shape = joined.shape();
            translation.problem(format!(
                "`{name}` has shape {shape:?}, expected three times as many rows as columns"
            ));
        }
    }
    for (ours, theirs) in projections(layer) {
        let Some(matrix) = translation.take(&theirs) else { continue };
        if let Some(flat) = flattened(&matrix, options) {
            translation.recycle(&ours, flat);
        } else {
            let (shape, expected) = (matrix.shape(), options.projection_shape());
            translation.problem(format!("`{theirs}` has shape {shape:?}, expected {expected:?}"));
        }
    }
}

/// Returns the state dict of the model of these options that computes what `model` does.
///
/// # Errors
/// Returns an error as [`Options::config`] does, or if the model has other options; the error names the first that differs.
pub fn language_model_state_dict<A: Scalar>(model: &LanguageModel<A>, options: &Options) -> Result<Tensors<A>> {
    let config = options.config()?;
    check_same(PEER, model.config(), &config)?;
    let mut foreign = write(model, &options.entries())?;
    let native: std::collections::BTreeMap<String, ArrayViewD<'_, A>> = model.named().into_iter().collect();
    for layer in 0..options.n_layers {
        let thirds: Vec<_> = parts(layer)
            .iter()
            .filter_map(|name| native.get(name).map(|part| part.view()))
            .collect();
        if let Ok(joined) = concatenate(Axis(0), &thirds) {
            foreign.insert(format!("layers.{layer}.attn.qkv.weight"), joined)?;
        }
        for (ours, theirs) in projections(layer) {
            if let Some(matrix) = native.get(&ours)
                && let Ok(matrix) = matrix.to_owned().into_shape_with_order(options.projection_shape())
            {
                foreign.insert(&theirs, matrix)?;
            }
        }
    }
    Ok(foreign)
}

/// Queries, keys and values.
fn thirds<A: Scalar>(joined: &SharedArray<A>) -> Option<[SharedArray<A>; 3]> {
    let &[rows, columns] = joined.shape() else { return None };
    let third = |index: usize| rows_of(joined, index * columns..(index + 1) * columns);
    (columns.checked_mul(3) == Some(rows)).then(|| [0, 1, 2].map(third))
}

/// E or F with one column for each position, as ours lies: one row of a head.
fn flattened<A: Scalar>(matrix: &SharedArray<A>, options: &Options) -> Option<SharedArray<A>> {
    let expected = options.projection_shape();
    let columns = expected.iter().rev().take(2).product();
    let shape: Vec<usize> = expected[..expected.len() - 2].iter().copied().chain([1, columns]).collect();
    (matrix.shape() == expected).then(|| reshaped(matrix, &shape))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::ArrayD;

    fn options(more: &str) -> Result<Options> {
        Options::from_json(&format!(
            r#"{{"vocab": 11, "d_hidden": 8, "n_heads": 2, "n_layers": 2, "block_size": 8, "num_global_blocks": 2{more}}}"#
        ))
    }

    #[test]
    fn what_is_written_loads_as_the_same_model() {
        for more in ["", r#", "share_E_F_across_heads": true"#, r#", "local_window": 5"#] {
            let options = options(more).expect("known options");
            let model = LanguageModel::<f64>::new(&options.config().expect("a model"), 3).expect("a model");
            let written = language_model_state_dict(&model, &options).expect("the same configuration");
            let again = language_model(&written, &options).expect("all tensors");
            assert_eq!(again.named(), model.named());
        }
    }

    #[test]
    fn bad_options_and_tensors_are_errors() {
        assert!(options(r#", "dropout": 0.1"#).is_err());
        for more in [r#", "causal_block_size": 3"#, r#", "local_window": 0"#] {
            assert!(
                matches!(options(more).expect("known options").config(), Err(Error::Config { .. })),
                "{more}"
            );
        }
        let mut odd = options("").expect("known options");
        let model = LanguageModel::<f64>::new(&odd.config().expect("a model"), 3).expect("a model");
        let written = language_model_state_dict(&model, &odd).expect("the same configuration");
        let mut less = Tensors::new();
        for name in written.names().filter(|name| !name.contains("qkv") && !name.contains("attn.F")) {
            less.insert(name, written.get(name).expect("its own name").to_owned())
                .expect("a new name");
        }
        let wrong = ArrayD::zeros(vec![3, 3]);
        less.insert("layers.0.attn.F", wrong).expect("a new name");
        let Err(Error::Checkpoint { problems }) = language_model(&less, &odd) else {
            panic!("tensors are missing");
        };
        assert_eq!(problems.len(), 4, "{problems:?}");
        let blocks = std::mem::replace(&mut odd.num_global_blocks, 3);
        assert!(odd.config().is_err());
        (odd.num_global_blocks, odd.n_layers) = (blocks, usize::MAX);
        assert!(language_model(&written, &odd).is_err());
        odd.n_layers = 1 << 20;
        assert!(matches!(language_model(&written, &odd), Err(Error::Checkpoint { .. })));
    }
}
