//! Exact attention against its definition, and Linformer attention against exact.

mod definition;
mod extremes;
mod independence;
mod wide;

use crate::common::{bits, difference, scramble, sequence, tensors};
use linformer::ndarray::{Array1, Array2, Array3, Array4, ArrayD, Axis, Ix1, Ix2, array, concatenate, s};
use linformer::{AttentionConfig, BiasPlace, ExactAttention, LinformerAttention, LinformerConfig, Order, PaddingMask, Parameters, Sharing};

/// What rounding may change.
const CLOSE: f64 = 1e-12;

/// Lengths around those at which tiles of query rows are cut (96, 264) and the block of keys (512).
const LENGTHS: [usize; 12] = [1, 2, 95, 96, 191, 263, 264, 265, 511, 512, 513, 1025];

/// A layer in which no two weights are alike.
fn layer(config: &AttentionConfig) -> ExactAttention<f64> {
    let mut layer = ExactAttention::new(config, 1).unwrap();
    scramble(&mut layer, 7);
    layer
}

/// The options of a layer: heads that share keys, width, ties, factors, biases.
fn options() -> Vec<AttentionConfig> {
    let plain = AttentionConfig::new(6, 2);
    vec![
        plain.clone(),
        AttentionConfig::new(6, 1),
        plain.clone().with_output_bias(false),
        plain.clone().with_query_bias(true).with_key_value_bias(true, true),
        plain.clone().with_key_value_bias(false, true),
        AttentionConfig::new(6, 6).with_kv_heads(1).with_key_value_bias(true, true),
        AttentionConfig::new(6, 6).with_kv_heads(3),
        plain.clone().with_head_dim(Some(5)),
        AttentionConfig::new(5, 4).with_head_dim(Some(1)).with_kv_heads(2),
        plain.clone().with_tied_key_value(true).with_key_value_bias(true, true),
        plain.with_output_rank(Some(2)),
    ]
}

/// Every kind of mask over two items of `length`.
fn masks(length: usize) -> Vec<Option<PaddingMask>> {
    let from = |real: &dyn Fn(usize, usize) -> bool| {
        let real = Array2::from_shape_fn((2, length), |(item, position)| real(item, position));
        Some(PaddingMask::from_bools(&real))
    };
    vec![
        None,
        Some(PaddingMask::from_lengths(&[length, length / 2], length).unwrap()),
        Some(PaddingMask::from_lengths(&[0, length.div_ceil(3)], length).unwrap()),
        from(&|item, position| (position + item) % 3 != 1),
        from(&|item, position| position >= length / 3 * (item + 1)),
        from(&|item, position| item == 1 || (200..460).contains(&position)),
    ]
}

/// One linear layer, of whatever parameters there are under its name.
fn linear(parameters: &[(String, ArrayD<f64>)], name: &str, x: &Array2<f64>) -> Option<Array2<f64>> {
    let find = |part: &str| parameters.iter().find(|(other, _)| *other == format!("{name}.{part}"));
    let weight = find("weight")?.1.view().into_dimensionality::<Ix2>().unwrap();
    let bias = find("bias").map_or_else(
        || Array1::zeros(weight.nrows()),
        |(_, bias)| bias.clone().into_dimensionality::<Ix1>().unwrap(),
    );
    Some(x.dot(&weight.t()) + bias)
}

/// The definition, position by position: the output and the attention map.
fn by_definition(
    layer: &ExactAttention<f64>,
    queries: &Array3<f64>,
    context: &Array3<f64>,
    mask: Option<&PaddingMask>,
) -> (Array3<f64>, Array4<f64>) {
    let (config, parameters) = (layer.config(), tensors(layer));
    let ((batch, rows, dim), length) = (queries.dim(), context.dim().1);
    let (heads, head_dim) = (config.heads, config.effective_head_dim());
    let mut output = Array3::zeros((batch, rows, dim));
    let mut map = Array4::zeros((batch, heads, rows, length));
    for item in 0..batch {
        let context = context.index_axis(Axis(0), item).to_owned();
        let q = linear(&parameters, "query", &queries.index_axis(Axis(0), item).to_owned()).unwrap();
        let mut k = linear(&parameters, "key", &context).unwrap();
        let mut v = linear(&parameters, "value", &context).unwrap_or_else(|| k.clone());
        let is_real = |t: usize| mask.is_none_or(|mask| mask.is_real(item, t));
        for t in (0..length).filter(|&t| !is_real(t)) {
            k.row_mut(t).fill(0.0);
            v.row_mut(t).fill(0.0);
        }
        let real: Vec<usize> = (0..length).filter(|&t| config.masked_keys_stay || is_real(t)).collect();
        let mut results = Array2::zeros((rows, heads * head_dim));
        for head in 0..heads {
            let kv_head = head / (heads / config.kv_heads);
            let of_head =
                |matrix: &Array2<f64>, row: usize, head: usize| matrix.slice(s![row, head * head_dim..(head + 1) * head_dim]).to_owned();
            let keys: Vec<_> = real.iter().map(|&t| of_head(&k, t, kv_head)).collect();
            let values: Vec<_> = real.iter().map(|&t| of_head(&v, t, kv_head)).collect();
            for row in 0..rows {
                let q = of_head(&q, row, head) / (head_dim as f64).sqrt();
                let scores: Vec<f64> = keys.iter().map(|key| q.dot(key)).collect();
                let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = scores.iter().map(|score| (score - max).exp()).sum();
                for ((&t, value), score) in real.iter().zip(&values).zip(scores) {
                    let weight = (score - max).exp() / sum;
                    map[[item, head, row, t]] = weight;
                    results
                        .slice_mut(s![row, head * head_dim..(head + 1) * head_dim])
                        .scaled_add(weight, value);
                }
            }
        }
        let results = linear(&parameters, "output_factor", &results).unwrap_or(results);
        output
            .index_axis_mut(Axis(0), item)
            .assign(&linear(&parameters, "output", &results).unwrap());
    }
    (output, map)
}
