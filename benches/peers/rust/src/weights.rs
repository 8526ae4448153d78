//! The layer's weights as plain numbers, row-major, for the peers to copy.

use linformer::LinformerAttention;
use linformer::ndarray::{ArrayView, Dimension};

use crate::AnyError;

pub struct Weights {
    pub dim: usize,
    pub heads: usize,
    pub k: usize,
    pub seq_len: usize,
    /// (dim, dim), as (out, in).
    pub query: Vec<f32>,
    pub key: Vec<f32>,
    pub value: Vec<f32>,
    pub output: Vec<f32>,
    pub bias: Vec<f32>,
    /// E and F, (k, `seq_len`).
    pub e: Vec<f32>,
    pub f: Vec<f32>,
}

impl Weights {
    pub fn of(layer: &LinformerAttention<f32>) -> Result<Self, AnyError> {
        let config = layer.config();
        let projections = layer.projections().ok_or("the layer has no projections of its own")?;
        Ok(Self {
            dim: config.attention.dim,
            heads: config.attention.heads,
            k: config.k,
            seq_len: config.seq_len,
            query: numbers(&layer.query().weight()),
            key: numbers(&layer.key().weight()),
            value: numbers(&layer.value().weight()),
            output: numbers(&layer.output().weight()),
            bias: numbers(&layer.output().bias().ok_or("the output has no bias")?),
            e: numbers(&projections.key().matrix().ok_or("E is no matrix")?),
            f: numbers(&projections.value().matrix().ok_or("F is no matrix")?),
        })
    }
}

fn numbers<D: Dimension>(array: &ArrayView<'_, f32, D>) -> Vec<f32> {
    array.iter().copied().collect()
}
