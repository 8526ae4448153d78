//! The models that are compared with their peers.

use std::path::Path;

use linformer::checkpoint::{Tensors, lucidrains};
use linformer::ndarray::Array3;
use linformer::{
    AttentionConfig, Encoder, EncoderConfig, ExactAttention, FeedForwardConfig, LinformerAttention, LocalGlobalAttention, LocalGlobalConfig,
    NormPlacement, Parameters, Result, Workspace,
};
use serde::Deserialize;
use serde_json::Value;

use crate::AnyError;

/// What a file of weights holds.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// lucidrains' `LinformerSelfAttention`.
    Attention,
    /// The same weights without E and F, in exact attention.
    Exact,
    /// The same weights without E and F, with blocks of 32 and 64 slots.
    LocalGlobal,
    /// lucidrains' `Linformer`.
    Encoder,
    /// PyTorch's `nn.TransformerEncoder`, by this crate's names.
    ExactEncoder,
}

#[allow(clippy::large_enum_variant)] // a handful exist at a time
pub enum Model {
    Attention(LinformerAttention<f32>),
    Exact(ExactAttention<f32>),
    LocalGlobal(LocalGlobalAttention<f32>),
    Encoder(Encoder<f32>),
}

/// The options of `nn.TransformerEncoder` that a comparison sets.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TransformerOptions {
    dim: usize,
    heads: usize,
    depth: usize,
    ff_dim: usize,
    post_norm: bool,
}

impl Model {
    pub fn read(kind: Kind, options: &Value, weights: &Path) -> std::result::Result<Self, AnyError> {
        let tensors = Tensors::<f32>::read(weights)?;
        if let Kind::ExactEncoder = kind {
            return Ok(Self::Encoder(exact_encoder(&TransformerOptions::deserialize(options)?, &tensors)?));
        }
        let options = lucidrains::Options::deserialize(options)?;
        Ok(match kind {
            Kind::Attention => Self::Attention(lucidrains::attention(&tensors, &options)?),
            Kind::Exact => Self::Exact(ExactAttention::from_linformer(&lucidrains::attention(&tensors, &options)?)),
            Kind::LocalGlobal => Self::LocalGlobal(local_global(&lucidrains::attention(&tensors, &options)?)?),
            Kind::Encoder | Kind::ExactEncoder => Self::Encoder(lucidrains::linformer(&tensors, &options)?),
        })
    }

    pub fn into_encoder(self) -> std::result::Result<Encoder<f32>, AnyError> {
        match self {
            Self::Encoder(encoder) => Ok(encoder),
            _ => Err("only encoders are trained here".into()),
        }
    }

    /// Fills `out`, in memory that is kept from call to call where the model can.
    pub fn call(&self, x: &Array3<f32>, out: &mut Array3<f32>, workspace: &mut Workspace<f32>) -> Result<()> {
        match self {
            Self::Attention(layer) => layer.forward_into(x, None, out, workspace),
            Self::Exact(layer) => {
                *out = layer.forward(x, None)?;
                Ok(())
            }
            Self::LocalGlobal(layer) => layer.forward_into(x, None, out, workspace),
            Self::Encoder(encoder) => {
                out.assign(x);
                encoder.forward_in_place(out, None, workspace)
            }
        }
    }
}

/// A layer with the weights of a Linformer layer, apart from E and F.
fn local_global(layer: &LinformerAttention<f32>) -> Result<LocalGlobalAttention<f32>> {
    let config = LocalGlobalConfig::new(layer.config().attention.dim, layer.config().attention.heads);
    let mut own = LocalGlobalAttention::new(&config.with_attention(layer.config().attention.clone()), 0)?;
    let weights = layer.named();
    own.visit_mut("", &mut |name, _, mut tensor| {
        if let Some((_, weight)) = weights.iter().find(|(own, _)| own == name) {
            tensor.assign(weight);
        }
    });
    Ok(own)
}

/// A Transformer encoder with all its biases and no final norm, its tensors taken by name.
fn exact_encoder(options: &TransformerOptions, tensors: &Tensors<f32>) -> std::result::Result<Encoder<f32>, AnyError> {
    let attention = AttentionConfig::new(options.dim, options.heads)
        .with_query_bias(true)
        .with_key_value_bias(true, true);
    let config = EncoderConfig::new(attention, options.depth)
        .with_feed_forward(Some(FeedForwardConfig::new(options.ff_dim)))
        .with_norm(if options.post_norm { NormPlacement::Post } else { NormPlacement::Pre })
        .with_final_norm(false);
    let mut encoder = Encoder::new(&config, 0)?;
    let mut wrong = Vec::new();
    let mut taken = 0;
    encoder.visit_mut("", &mut |name, _, mut tensor| match tensors.get(name) {
        Some(values) if values.shape() == tensor.shape() => {
            tensor.assign(&values);
            taken += 1;
        }
        _ => wrong.push(name.to_owned()),
    });
    if !wrong.is_empty() || taken != tensors.len() {
        return Err(format!(
            "the weights do not fit: {taken} of {} tensors taken, not found: {wrong:?}",
            tensors.len()
        )
        .into());
    }
    Ok(encoder)
}
