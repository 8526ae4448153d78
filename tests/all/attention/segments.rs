//! Causal attention to a window and to segments, against its definition.

use super::causal::{Named, linear, mask};
use crate::common::causal::segments_config;
use crate::common::{bits, difference, scramble, sequence, tensors};
use linformer::ndarray::{Array1, Array2, Array3, ArrayView1, Axis, s};
use linformer::{
    EncoderConfig, Error, ExactAttention, LanguageModel, LanguageModelConfig, LocalGlobalAttention, LocalGlobalConfig, PaddingMask,
    Parameters, PoolingQuery,
};
use proptest::prelude::*;

fn layer(config: &LocalGlobalConfig, seed: u64) -> LocalGlobalAttention<f64> {
    let mut layer = LocalGlobalAttention::new(config, seed).unwrap();
    scramble(&mut layer, seed);
    layer
}

fn config(dim: usize, block: usize, slots: usize) -> LocalGlobalConfig {
    LocalGlobalConfig::new(dim, 2).with_causal(true).with_block(block).with_slots(slots)
}

/// The first block and the length of each segment of the first `blocks` blocks, which enter one by one.
fn segments(blocks: usize, slots: usize) -> Vec<(usize, usize)> {
    let mut segments: Vec<(usize, usize)> = Vec::new();
    for block in (0..blocks).filter(|_| slots > 0) {
        segments.push((block, 1));
        let mut length = 1;
        while segments.iter().filter(|segment| segment.1 == length).count() > slots {
            let oldest = segments.iter().position(|segment| segment.1 == length).unwrap();
            segments.remove(oldest + 1);
            segments[oldest].1 *= 2;
            length *= 2;
        }
    }
    segments
}

/// The keys and values of one head, and their u.
struct Head {
    keys: Array2<f64>,
    values: Array2<f64>,
    pooling: Option<Array1<f64>>,
}

fn score(a: ArrayView1<'_, f64>, b: ArrayView1<'_, f64>) -> f64 {
    a.dot(&b) / (a.len() as f64).sqrt()
}

impl Head {
    /// What is added to a segment's logits, its K̄ and its V̄.
    fn slot(&self, positions: &[usize]) -> (f64, Array1<f64>, Array1<f64>) {
        let pooling = self.pooling.as_ref().unwrap();
        let weight = |j: usize| score(pooling.view(), self.keys.row(j)).exp();
        let mass: f64 = positions.iter().map(|&j| weight(j)).sum();
        let mean = |rows: &Array2<f64>| {
            let terms = positions.iter().map(|&j| rows.row(j).to_owned() * (weight(j) / mass));
            terms.fold(Array1::zeros(rows.ncols()), |sum, term| sum + term)
        };
        let key = mean(&self.keys);
        (mass.ln() - score(pooling.view(), key.view()), key, mean(&self.values))
    }

    /// The attention of row `t`.
    fn attend(&self, config: &LocalGlobalConfig, query: ArrayView1<'_, f64>, t: usize, is_real: impl Fn(usize) -> bool) -> Array1<f64> {
        let before = (t / config.block).saturating_sub(1);
        let window = (before * config.block..=t).filter(|&j| is_real(j));
        let mut seen: Vec<(f64, Array1<f64>)> = window
            .map(|j| (score(query, self.keys.row(j)), self.values.row(j).to_owned()))
            .collect();
        for (first, length) in segments(before, config.slots) {
            let positions = first * config.block..(first + length) * config.block;
            let positions: Vec<usize> = positions.filter(|&j| is_real(j)).collect();
            if !positions.is_empty() {
                let (bias, key, value) = self.slot(&positions);
                seen.push((score(query, key.view()) + bias + config.mass_shift, value));
            }
        }
        let sum: f64 = seen.iter().map(|(score, _)| score.exp()).sum();
        seen.iter()
            .fold(Array1::zeros(query.len()), |all, (score, value)| all + value * (score.exp() / sum))
    }
}

/// The definition, position by position.
fn by_definition(layer: &LocalGlobalAttention<f64>, x: &Array3<f64>, mask: Option<&PaddingMask>) -> Array3<f64> {
    let (config, named) = (layer.config(), Named(tensors(layer)));
    let (heads, kv_heads, head_dim) = (
        config.attention.heads,
        config.attention.kv_heads,
        config.attention.effective_head_dim(),
    );
    let (query, key) = (named.linear("query").unwrap(), named.linear("key").unwrap());
    let value = named.linear("value").unwrap_or_else(|| key.clone());
    let mut output = Array3::zeros(x.dim());
    for (item, x) in x.outer_iter().enumerate() {
        let x = x.to_owned();
        let (q, k, v) = (linear(&query, &x), linear(&key, &x), linear(&value, &x));
        let mut results = Array2::zeros((x.nrows(), heads * head_dim));
        for head in 0..heads {
            let of = |head: usize| s![.., head * head_dim..(head + 1) * head_dim];
            let kv = head * kv_heads / heads;
            let queries = q.slice(of(head));
            let own = Head {
                keys: k.slice(of(kv)).to_owned(),
                values: v.slice(of(kv)).to_owned(),
                pooling: layer.pooling_query().map(|query| query.row(head).to_owned()),
            };
            for (t, mut row) in results.slice_mut(of(head)).outer_iter_mut().enumerate() {
                row.assign(&own.attend(config, queries.row(t), t, |j| mask.is_none_or(|mask| mask.is_real(item, j))));
            }
        }
        let results = named
            .linear("output_factor")
            .map_or(results.clone(), |factor| linear(&factor, &results));
        output
            .index_axis_mut(Axis(0), item)
            .assign(&linear(&named.linear("output").unwrap(), &results));
    }
    output
}

/// The largest difference at real positions.
fn worst(a: &Array3<f64>, b: &Array3<f64>, mask: Option<&PaddingMask>) -> f64 {
    let (mut a, mut b) = (a.clone(), b.clone());
    for numbers in [&mut a, &mut b] {
        for ((item, t, _), number) in numbers.indexed_iter_mut() {
            if mask.is_some_and(|mask| !mask.is_real(item, t)) {
                *number = 0.0;
            }
        }
    }
    difference(a.view(), b.view())
}

/// Exact attention with the weights of `layer`.
fn as_exact(layer: &LocalGlobalAttention<f64>) -> ExactAttention<f64> {
    let mut exact = ExactAttention::<f64>::new(&layer.config().attention, 0).unwrap();
    let own = tensors(layer);
    exact.visit_mut("", &mut |name, _, mut tensor| {
        let (_, from) = own.iter().find(|(other, _)| other == name).unwrap();
        tensor.assign(from);
    });
    exact
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn the_layer_is_its_definition(config in segments_config(), n in 0..=40_usize, pattern: u64, masked: bool, seed in 0..1000_u64) {
        let (layer, x, mask) = (layer(&config, seed), sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let expected = by_definition(&layer, &x, mask);
        prop_assert!(worst(&layer.forward(&x, mask).unwrap(), &expected, mask) < 1e-11);
        prop_assert!(worst(&layer.forward_train(&x, mask).unwrap().0, &expected, mask) < 1e-11);
    }

    #[test]
    fn two_blocks_are_exact_attention(config in segments_config(), n in 0..=8_usize, pattern: u64, masked: bool, seed in 0..1000_u64) {
        let n = n.min(2 * config.block);
        let (layer, x, mask) = (layer(&config, seed), sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let expected = as_exact(&layer).forward(&x, mask).unwrap();
        prop_assert!(worst(&layer.forward(&x, mask).unwrap(), &expected, mask) < 1e-12);
    }

    /// The tangent at u of what positions have together is, at u, what they have.
    #[test]
    fn queries_equal_to_the_pooling_query_get_exact_attention(
        config in segments_config(), n in 0..=40_usize, pattern: u64, masked: bool, seed in 0..1000_u64,
    ) {
        let config = config.with_query_bias(true).with_mass_shift(0.0);
        prop_assume!(config.slots > 0);
        let mut layer = layer(&config, seed);
        let pooling = layer.pooling_query().unwrap().to_owned();
        layer.visit_mut("", &mut |name, _, mut tensor| match name {
            "query.weight" => tensor.fill(0.0),
            "query.bias" => tensor.iter_mut().zip(&pooling).for_each(|(to, &from)| *to = from),
            _ => (),
        });
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let expected = as_exact(&layer).forward(&x, mask).unwrap();
        prop_assert!(worst(&layer.forward(&x, mask).unwrap(), &expected, mask) < 1e-11);
    }
}

/// Blocks, slots and heads of several panels, and more of them than the scores of which are held at once.
#[test]
fn large_blocks_and_many_slots_are_as_defined() {
    for (block, slots, n) in [(256, 2, 1100), (1, 500, 600), (32, 8, 700), (16, 1, 517)] {
        let (layer, x) = (layer(&config(40, block, slots), 3), sequence((1, n, 40), 5));
        let expected = by_definition(&layer, &x, None);
        assert!(
            worst(&layer.forward(&x, None).unwrap(), &expected, None) < 1e-10,
            "{block} {slots} {n}"
        );
        let mut other = x.clone();
        other.slice_mut(s![.., n - 5.., ..]).fill(f64::NAN);
        let before = |x: &Array3<f64>| bits(&layer.forward(x, None).unwrap().slice(s![.., ..n - 5, ..]).to_owned());
        assert_eq!(before(&x), before(&other), "{block} {slots} {n}");
    }
}

/// The number of rows matches the table in the documentation of `LocalGlobalConfig`.
#[test]
fn segments_are_as_many_as_documented_and_grow_with_their_distance() {
    for slots in [1, 2, 3, 8] {
        for blocks in 1..600_usize {
            let segments = segments(blocks, slots);
            assert!(segments.len() <= slots * (blocks.div_ceil(slots).ilog2() as usize + 1));
            let follow = |pair: &[(usize, usize)]| pair[0].1 >= pair[1].1 && pair[0].0 + pair[0].1 == pair[1].0;
            assert!(segments.windows(2).all(follow));
        }
    }
}

/// Across several merges, of texts of several lengths, from a state and from its copy.
#[test]
fn every_step_gives_what_the_whole_gives() {
    let config = LanguageModelConfig::new(7, EncoderConfig::new(config(6, 2, 2), 2));
    let mut model = LanguageModel::<f64>::new(&config, 1).unwrap();
    scramble(&mut model, 1);
    let mut texts = [vec![1, 2, 3, 4, 5, 6, 0, 1, 2], vec![3]];
    let (_, mut state) = model.prefill(&texts).unwrap();
    let mut copy = state.clone();
    for token in 0..40 {
        let tokens = [Some(token % 7), Some(token % 5)];
        let together = model.step(&mut state, &tokens).unwrap();
        assert_eq!(bits(&together), bits(&model.step(&mut copy, &tokens).unwrap()));
        for (item, text) in texts.iter_mut().enumerate() {
            text.extend(tokens[item]);
            let whole = Array2::from_shape_vec((1, text.len()), text.clone()).unwrap();
            let whole = model.forward(&whole, None).unwrap();
            assert!(difference(whole.slice(s![0, text.len() - 1, ..]), together.row(item)) < 1e-10);
        }
    }
}

#[test]
fn the_effective_map_has_no_weight_after_a_row_and_all_of_it_before() {
    let (layer, x) = (layer(&config(6, 2, 1), 1), sequence((2, 23, 6), 2));
    let mask = mask(0xF7DF_7DF7_DF7D_F7DF, 23);
    let map = layer.effective_map(&x, Some(&mask)).unwrap();
    for ((item, _, row, t), &weight) in map.indexed_iter() {
        assert!((weight == 0.0) == (t > row || !mask.is_real(item, t)), "{row} {t} {weight}");
    }
    for ((item, _, row), sum) in map.sum_axis(Axis(3)).indexed_iter() {
        assert!(!mask.is_real(item, row) || (sum - 1.0).abs() < 1e-12);
    }
}

#[test]
fn options_that_need_the_whole_sequence_are_errors() {
    let config = || config(8, 32, 64);
    for (config, option) in [
        (config().with_pooling_query(PoolingQuery::MeanOfItem), "pooling_query"),
        (config().with_window(false), "window"),
        (config().with_trained_len(Some(512)), "trained_len"),
        (config().with_slots(0).with_mass_shift(0.5), "mass_shift"),
    ] {
        assert!(
            matches!(config.check(), Err(Error::Config { option: found, .. }) if found == option),
            "{option}"
        );
        assert!(LocalGlobalAttention::<f32>::new(&config, 0).is_err());
    }
    // Without causal, nothing continues token by token.
    let open = LanguageModelConfig::new(7, EncoderConfig::new(LocalGlobalConfig::new(8, 2), 1));
    let model = LanguageModel::<f64>::new(&open, 0).unwrap();
    assert!(model.prefill(&[[1, 2]]).unwrap_err().to_string().contains("LocalGlobalConfig"));
}

#[test]
fn nothing_and_no_items_are_defined() {
    let layer = layer(&config(6, 2, 1), 0);
    for dim in [(0, 5, 6), (2, 0, 6), (0, 0, 6)] {
        let (y, cache) = layer.forward_train(&Array3::zeros(dim), None).unwrap();
        assert_eq!((y.dim(), layer.forward(&Array3::zeros(dim), None).unwrap().dim()), (dim, dim));
        assert_eq!(layer.backward(cache, y, &mut layer.zeros_like()).unwrap().dim(), dim);
    }
}

#[cfg(feature = "checkpoint")]
#[test]
fn encoders_come_back_from_their_bytes() {
    use linformer::checkpoint::Checkpoint;
    let config = config(6, 4, 3).with_kv_heads(1).with_mass_shift(0.25);
    let mut encoder = linformer::Encoder::<f64>::new(&EncoderConfig::new(config, 2), 3).unwrap();
    scramble(&mut encoder, 3);
    let again = linformer::Encoder::<f64>::from_bytes(&encoder.to_bytes().unwrap()).unwrap();
    assert_eq!(again.config(), encoder.config());
    assert_eq!(crate::common::model_bits(&again), crate::common::model_bits(&encoder));
}
