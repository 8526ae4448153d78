//! Names of old checkpoints, made today's.

use std::borrow::Cow;

use super::super::source::rows_of;
use super::super::tensors::Tensors;
use crate::error::Result;
use crate::scalar::Scalar;

const PARTS: [&str; 3] = ["q_proj", "k_proj", "v_proj"];

/// A model's tensors under today's names.
pub(super) fn model<A: Scalar>(tensors: Cow<'_, Tensors<A>>) -> Result<Cow<'_, Tensors<A>>> {
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
pub(super) fn attention<A: Scalar>(tensors: Cow<'_, Tensors<A>>) -> Result<Cow<'_, Tensors<A>>> {
    upgrade(tensors, "", str::to_owned)
}

/// Renames all tensors, and cuts those in thirds that held the weights or biases of queries, keys and values in one.
fn upgrade<'t, A: Scalar>(tensors: Cow<'t, Tensors<A>>, attention: &str, rename: impl Fn(&str) -> String) -> Result<Cow<'t, Tensors<A>>> {
    let is_new = |name: &str| rename(name) == name && thirds(attention, name).is_none();
    if tensors.names().chain(tensors.aliases().map(|(alias, _)| alias)).all(is_new) {
        return Ok(tensors);
    }
    let mut upgraded = Tensors::new();
    for (alias, stored) in tensors.aliases() {
        match (thirds(attention, &rename(alias)), thirds(attention, &rename(stored))) {
            (Some((prefix, field)), Some((other, _))) => {
                for part in PARTS {
                    upgraded.set_metadata(format!("{prefix}{part}.{field}"), format!("{other}{part}.{field}"));
                }
            }
            _ => upgraded.set_metadata(rename(alias), rename(stored)),
        }
    }
    for (name, dtype, tensor) in Tensors::into_shared(tensors) {
        let renamed = rename(&name);
        let length = tensor.shape().first().copied().unwrap_or(0);
        match thirds(attention, &renamed) {
            Some((prefix, field)) if length % 3 == 0 => {
                for (index, part) in PARTS.into_iter().enumerate() {
                    let third = rows_of(&tensor, index * length / 3..(index + 1) * length / 3);
                    upgraded.insert_as(format!("{prefix}{part}.{field}"), dtype, third)?;
                }
            }
            _ => upgraded.insert_as(renamed, dtype, tensor)?,
        }
    }
    Ok(Cow::Owned(upgraded))
}

/// Whether `name` is the `in_proj_weight` or `in_proj_bias` of an attention layer: the prefix, and `weight` or `bias`.
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
