//! Attention pooling against its definition and against exact attention.

mod definition;
mod maps;
mod streams;
mod training;

use crate::common::{bits, difference, scramble};
use linformer::ndarray::{Array2, Dimension};
use linformer::{Compressed, LinformerAttention, LinformerConfig, PaddingMask, Parameters, ProjectionKind};

const POOLING: ProjectionKind = ProjectionKind::AttentionPooling;

fn config(heads: usize, kv_heads: usize, n: usize, k: usize) -> LinformerConfig {
    LinformerConfig::new(8, heads, n, k)
        .with_kind(POOLING)
        .with_kv_heads(kv_heads)
        .with_query_bias(true)
        .with_key_value_bias(true, true)
}

fn layer(config: &LinformerConfig, seed: u64) -> LinformerAttention<f64> {
    let mut layer = LinformerAttention::new(config, seed).unwrap();
    scramble(&mut layer, seed);
    layer
}

/// Sets the tensors of this name, (rows, columns) or (columns).
fn set(model: &mut impl Parameters<f64>, name: &str, value: impl Fn(&[usize]) -> f64) {
    model.visit_mut("", &mut |own, _, mut tensor| {
        if own.ends_with(name) {
            tensor.indexed_iter_mut().for_each(|(at, number)| {
                let at: Vec<usize> = (0..at.ndim()).map(|axis| at[axis]).collect();
                *number = value(&at);
            });
        }
    });
}

/// All bits of what was compressed.
fn all_bits(compressed: &Compressed<f64>) -> [Vec<u64>; 3] {
    let masses = compressed.log_mass().expect("attention pooling has log-masses");
    [
        bits(&compressed.keys().to_owned()),
        bits(&compressed.values().to_owned()),
        bits(&masses.to_owned()),
    ]
}

/// The largest difference of two of the same slots.
fn apart(a: &Compressed<f64>, b: &Compressed<f64>) -> f64 {
    assert_eq!(a.slots(), b.slots());
    let masses = |compressed: &Compressed<f64>| compressed.log_mass().unwrap().mapv(f64::exp);
    difference(a.keys(), b.keys())
        .max(difference(a.values(), b.values()))
        .max(difference(masses(a).view(), masses(b).view()))
}

/// A mask with holes and ends of their own.
fn holes(n: usize) -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_fn((2, n), |(item, t)| {
        (t * 7 + item) % 5 != 2 && t + 3 * item < n.saturating_sub(2)
    }))
}
