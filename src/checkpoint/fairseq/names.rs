//! Names of tensors, and which tensors are dropped.

use super::super::foreign::Entry;
use super::super::tensors::Tensors;
use super::{AttentionOptions, RobertaOptions};
use crate::error::{Error, Result};
use crate::parameters::join;
use crate::scalar::Scalar;

const ENCODER: &str = "encoder.sentence_encoder";

/// The place of a layer's E and F.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Matrices {
    /// E is `compress_k`, F `compress_v`.
    Two,
    /// Both are `compress_k`.
    One,
    /// Both are `compress_k`, and `compress_v` is a copy of it.
    OneTwice,
    /// Both are the encoder's `compress_layer`, of which the layer has copies.
    Encoders,
}

/// Facts about the model that a state dict shows and the options do not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) matrices: Matrices,
    pub(super) tied_head: bool,
    pub(super) final_norm: bool,
    /// Whether an old file has layers that were meant to share, and did not.
    unshared: bool,
}

impl Layout {
    /// That of a new state dict.
    pub(super) fn new(options: &RobertaOptions, final_norm: bool) -> Self {
        Self {
            matrices: match (options.shared_layer_kv_compressed, options.shared_kv_compressed) {
                (1, _) => Matrices::Encoders,
                (_, 1) => Matrices::One,
                _ => Matrices::Two,
            },
            tied_head: !options.untie_weights_roberta,
            final_norm,
            unshared: false,
        }
    }

    /// That of `tensors`, which have today's names.
    pub(super) fn of<A: Scalar>(options: &RobertaOptions, tensors: &Tensors<A>) -> Result<Self> {
        let is_new = |module: &str| version(tensors, module) >= 2.0;
        let mut layout = Self::new(options, options.encoder_normalize_before && is_new(ENCODER));
        if layout.matrices == Matrices::Encoders {
            let own = |layer: usize| {
                let layer = format!("{ENCODER}.layers.{layer}");
                !is_new(&layer) && tensors.get(&format!("{layer}.shared_compress_layer.weight")).is_some()
            };
            let own = (0..options.encoder_layers).filter(|&layer| own(layer)).count();
            if own == options.encoder_layers {
                layout.unshared = true;
                layout.matrices = match options.shared_kv_compressed {
                    1 => Matrices::One,
                    _ => Matrices::OneTwice,
                };
            } else if own > 0 {
                let problems = vec![format!(
                    "{own} of {} layers are from a version that did not share `compress_layer`, the others share it",
                    options.encoder_layers
                )];
                return Err(Error::Checkpoint { problems });
            }
        }
        layout.tied_head &= is_new("encoder") || {
            let weight = |name: &str| tensors.get(name);
            weight(&format!("{ENCODER}.embed_tokens.weight")) == weight("encoder.lm_head.weight")
        };
        Ok(layout)
    }
}

/// The version that a module of the state dict has; modules had none before version 2.
fn version<A: Scalar>(tensors: &Tensors<A>, module: &str) -> f64 {
    let version = tensors.get(&format!("{module}.version"));
    version
        .and_then(|version| version.first().map(|version| version.widen()))
        .unwrap_or(1.0)
}

pub(super) fn attention(native: &str, foreign: &str, bias: bool, matrices: Matrices) -> Vec<Entry> {
    let mut entries = Vec::new();
    for (ours, theirs) in [("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("output", "out_proj")] {
        entries.extend(Entry::layer(&join(native, ours), &join(foreign, theirs), bias));
    }
    let key = join(native, "projections.key.weight");
    let (compress_k, compress_v) = (join(foreign, "compress_k.weight"), join(foreign, "compress_v.weight"));
    match matrices {
        Matrices::Two => {
            entries.push(Entry::new(key, compress_k));
            entries.push(Entry::new(join(native, "projections.value.weight"), compress_v));
        }
        Matrices::One => entries.push(Entry::new(key, compress_k)),
        Matrices::OneTwice => entries.push(Entry::tied(key, vec![compress_k, compress_v])),
        Matrices::Encoders => {}
    }
    entries
}

/// `compress_layer` and the layers' copies of it: their `field`.
fn copies(options: &RobertaOptions, field: &str) -> Vec<String> {
    let mut copies = vec![format!("{ENCODER}.compress_layer.{field}")];
    for layer in 0..options.encoder_layers {
        copies.push(format!("{ENCODER}.layers.{layer}.self_attn.compress_k.{field}"));
        if options.shared_kv_compressed == 0 {
            copies.push(format!("{ENCODER}.layers.{layer}.self_attn.compress_v.{field}"));
        }
    }
    copies
}

/// Embedding, positions and blocks.
fn body(options: &RobertaOptions, layout: Layout) -> Vec<Entry> {
    let mut entries = Vec::new();
    if !options.no_token_positional_embeddings {
        entries.push(Entry::new("position.weight", format!("{ENCODER}.embed_positions.weight")));
    }
    if options.layernorm_embedding {
        entries.extend(Entry::layer("embedding_norm", &format!("{ENCODER}.layernorm_embedding"), true));
    }
    if layout.matrices == Matrices::Encoders {
        entries.push(Entry::tied("encoder.projections.key.weight", copies(options, "weight")));
    }
    for index in 0..options.encoder_layers {
        let (native, foreign) = (format!("encoder.blocks.{index}"), format!("{ENCODER}.layers.{index}"));
        let (ours, theirs) = (join(&native, "attention"), join(&foreign, "self_attn"));
        entries.extend(attention(&ours, &theirs, true, layout.matrices));
        for (ours, theirs) in [
            ("attention_norm", "self_attn_layer_norm"),
            ("feed_forward.norm", "final_layer_norm"),
            ("feed_forward.input", "fc1"),
            ("feed_forward.output", "fc2"),
        ] {
            entries.extend(Entry::layer(&join(&native, ours), &join(&foreign, theirs), true));
        }
    }
    if layout.final_norm {
        entries.extend(Entry::layer("encoder.final_norm", &format!("{ENCODER}.layer_norm"), true));
    }
    entries
}

pub(super) fn language_model(options: &RobertaOptions, layout: Layout) -> Vec<Entry> {
    let embedding = format!("{ENCODER}.embed_tokens.weight");
    let weight = "encoder.lm_head.weight".to_owned();
    let mut entries = body(options, layout);
    if layout.tied_head {
        entries.push(Entry::tied("embedding.weight", vec![embedding, weight]));
    } else {
        entries.push(Entry::new("embedding.weight", embedding));
        entries.push(Entry::new("head.weight", weight));
    }
    entries.push(Entry::new("head.bias", "encoder.lm_head.bias"));
    entries.extend(Entry::layer("head.dense", "encoder.lm_head.dense", true));
    entries.extend(Entry::layer("head.norm", "encoder.lm_head.layer_norm", true));
    entries
}

pub(super) fn classifier(options: &RobertaOptions, layout: Layout, head: &str) -> Vec<Entry> {
    let mut entries = body(options, layout);
    entries.push(Entry::new("embedding.weight", format!("{ENCODER}.embed_tokens.weight")));
    entries.extend(Entry::layer("hidden", &join(head, "dense"), true));
    entries.extend(Entry::layer("output", &join(head, "out_proj"), true));
    entries
}

/// The head that a classifier has no use for.
pub(super) fn language_model_head() -> Vec<String> {
    [
        "weight",
        "bias",
        "dense.weight",
        "dense.bias",
        "layer_norm.weight",
        "layer_norm.bias",
    ]
    .map(|field| format!("encoder.lm_head.{field}"))
    .to_vec()
}

/// The tensors of all classification heads in the file.
pub(super) fn classification_heads<A: Scalar>(tensors: &Tensors<A>) -> Vec<String> {
    const FIELDS: [&str; 4] = [".dense.weight", ".dense.bias", ".out_proj.weight", ".out_proj.bias"];
    tensors
        .names()
        .filter(|name| name.starts_with("classification_heads.") && FIELDS.iter().any(|field| name.ends_with(field)))
        .map(str::to_owned)
        .collect()
}

/// The version buffers of a new state dict: name, shape, value.
pub(super) fn versions(options: &RobertaOptions, layout: Layout) -> Vec<(String, &'static [usize], f64)> {
    // A pre-norm model without a final norm is one of before version 2.
    let is_old = options.encoder_normalize_before && !layout.final_norm;
    let mut versions: Vec<(String, &'static [usize], f64)> = vec![
        ("encoder.version".to_owned(), &[], 2.0),
        (format!("{ENCODER}.version"), &[1], if is_old { 1.0 } else { 3.0 }),
    ];
    versions.extend((0..options.encoder_layers).map(|layer| (format!("{ENCODER}.layers.{layer}.version"), &[][..], 2.0)));
    versions
}

/// The bias of a compression layer that layers share or once were meant to.
pub(super) fn unused_biases(options: &RobertaOptions, layout: Layout) -> Vec<String> {
    if layout.matrices == Matrices::Encoders || layout.unshared {
        copies(options, "bias")
    } else {
        Vec::new()
    }
}

/// The tensors that a model leaves unused.
pub(super) fn dropped(options: &RobertaOptions, layout: Layout) -> Vec<String> {
    let mut dropped: Vec<String> = versions(options, layout).into_iter().map(|(name, ..)| name).collect();
    dropped.extend(unused_biases(options, layout));
    for layer in 0..options.encoder_layers {
        for field in ["in_proj", "out_proj", "fc1", "fc2"] {
            dropped.extend(["weight", "bias"].map(|end| format!("{ENCODER}.layers.{layer}.{field}_{end}")));
        }
        if layout.unshared {
            dropped.extend(["weight", "bias"].map(|end| format!("{ENCODER}.layers.{layer}.shared_compress_layer.{end}")));
        }
    }
    if layout.unshared {
        dropped.push(format!("{ENCODER}.compress_layer.weight"));
    }
    dropped
}

/// The tensors that an attention layer by itself leaves unused.
pub(super) fn dropped_of_attention(options: &AttentionOptions) -> Vec<String> {
    if options.shared_compress_layer == Some(true) {
        vec!["compress_k.bias".to_owned(), "compress_v.bias".to_owned()]
    } else {
        Vec::new()
    }
}
