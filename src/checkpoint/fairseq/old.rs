//! Names of old checkpoints, made today's.

use std::borrow::Cow;

use ndarray::{Axis, Slice};

use super::super::assign::not_floating;
use super::super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// A model's tensors under today's names.
pub(super) fn model<A: Scalar>(tensors: &Tensors<A>) -> Result<Cow<'_, Tensors<A>>> {
    upgrade(tensors, ".self_attn.", |name| {
        let mut name = match name.strip_prefix("decoder") {
            Some(rest) => format!("encoder{rest}"),
            None => name.to_owned(),
        };
        for (old, new) in [
            (".emb_layer_norm.", ".layernorm_embedding."),
            (".layer_norms.0.", ".self_attn_layer_norm."),
            (".layer_norms.1.", ".final_layer_norm."),
        ] {
            name = name.replace(old, new);
        }
        name
    })
}

/// An attention layer's tensors under today's names.
pub(super) fn attention<A: Scalar>(tensors: &Tensors<A>) -> Result<Cow<'_, Tensors<A>>> {
    upgrade(tensors, "", str::to_owned)
}

/// Renames all tensors, and cuts those in thirds that held the weights or biases of queries, keys and values in one.
fn upgrade<'t, A: Scalar>(tensors: &'t Tensors<A>, attention: &str, rename: impl Fn(&str) -> String) -> Result<Cow<'t, Tensors<A>>> {
    let is_new = |name: &str| rename(name) == name && thirds(attention, name).is_none();
    if tensors.names().all(is_new) {
        return Ok(Cow::Borrowed(tensors));
    }
    // The copies do not remember how the tensors were stored, and only versions may be integers.
    let weights = tensors.names().filter(|name| !name.ends_with("version"));
    let problems: Vec<String> = weights.filter_map(|name| not_floating(tensors, name)).collect();
    if !problems.is_empty() {
        return Err(Error::Checkpoint { problems });
    }
    let mut upgraded = Tensors::new();
    for name in tensors.names() {
        let Some(tensor) = tensors.get(name) else { continue };
        let renamed = rename(name);
        let length = tensor.shape().first().copied().unwrap_or(0);
        match thirds(attention, &renamed) {
            Some((prefix, field)) if length % 3 == 0 => {
                for (index, part) in ["q_proj", "k_proj", "v_proj"].into_iter().enumerate() {
                    let rows = Slice::from(index * length / 3..(index + 1) * length / 3);
                    let third = tensor.slice_axis(Axis(0), rows).to_owned();
                    upgraded.insert(format!("{prefix}{part}.{field}"), third)?;
                }
            }
            _ => upgraded.insert(renamed, tensor.to_owned())?,
        }
    }
    Ok(Cow::Owned(upgraded))
}

/// Whether `name` is the `in_proj_weight` or `in_proj_bias` of an attention layer: what stands before that, and `weight` or `bias`.
fn thirds<'n>(attention: &str, name: &'n str) -> Option<(&'n str, &'static str)> {
    let field = |end: &str, field: &'static str| {
        let prefix = name.strip_suffix(end)?;
        let is_attention = if attention.is_empty() {
            prefix.is_empty()
        } else {
            prefix.ends_with(attention)
        };
        is_attention.then_some((prefix, field))
    };
    field("in_proj_weight", "weight").or_else(|| field("in_proj_bias", "bias"))
}
