//! Causal attention: what comes later changes nothing, and what was left out of the sums is left out.

use crate::common::causal::{LONGEST, causal_config, encoder_config};
use crate::common::{bits, difference, scramble, sequence, tensors};
#[cfg(feature = "checkpoint")]
use linformer::Attention;
use linformer::ndarray::{Array1, Array2, Array3, Axis, Ix1, Ix2, s};
use linformer::{
    AttentionConfig, BlockWeights, BlockwiseCausalAttention, CausalConfig, Encoder, EncoderConfig, ExactAttention, LocalGlobalConfig,
    PaddingMask, Sharing, SummarySoftmax,
};
use proptest::prelude::*;
use proptest::sample::select;

fn layer(config: &CausalConfig, seed: u64) -> BlockwiseCausalAttention<f64> {
    let mut layer = BlockwiseCausalAttention::new(config, seed).unwrap();
    scramble(&mut layer, seed);
    layer
}

fn encoder(config: &EncoderConfig, seed: u64) -> Encoder<f64> {
    let mut encoder = Encoder::new(config, seed).unwrap();
    scramble(&mut encoder, seed);
    encoder
}

/// A mask with holes of a batch of two, from the bits of `pattern`.
pub fn mask(pattern: u64, length: usize) -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, position)| {
        pattern >> ((item * 31 + position) % 64) & 1 == 1
    }))
}

pub fn linear(layer: &linformer::Linear<f64>, x: &Array2<f64>) -> Array2<f64> {
    let bias = layer.bias().map_or_else(|| Array1::zeros(layer.out_dim()), |bias| bias.to_owned());
    x.dot(&layer.weight().t()) + bias
}

/// Σ exp(score)·value and Σ exp(score) over rows.
fn weigh(rows: &[(Array1<f64>, Array1<f64>)], query: &Array1<f64>) -> (Array1<f64>, f64) {
    let mut sum = (Array1::zeros(query.len()), 0.0);
    for (key, value) in rows {
        let weight = (query.dot(key) / (query.len() as f64).sqrt()).exp();
        sum.0.scaled_add(weight, value);
        sum.1 += weight;
    }
    sum
}

/// The parameters of a layer by name.
pub struct Named(pub Vec<(String, linformer::ndarray::ArrayD<f64>)>);

impl Named {
    pub fn linear(&self, name: &str) -> Option<linformer::Linear<f64>> {
        let find = |part: &str| {
            self.0
                .iter()
                .find(|(other, _)| *other == format!("{name}.{part}"))
                .map(|(_, tensor)| tensor.clone())
        };
        let weight = find("weight")?.into_dimensionality::<Ix2>().unwrap();
        let bias = find("bias").map(|bias| bias.into_dimensionality::<Ix1>().unwrap());
        Some(linformer::Linear::from_parts(weight, bias).unwrap())
    }

    /// The weight of `position` in summary row `row` of `head`.
    fn weight(&self, config: &CausalConfig, side: &str, head: usize, row: usize, position: usize) -> f64 {
        let column = match config.block_weights {
            BlockWeights::PerBlock => position,
            _ => position % config.effective_block(),
        };
        let name = format!("projections.{side}.weight");
        let own = self.0.iter().find(|(other, _)| *other == name);
        let (_, matrix) = own.unwrap_or_else(|| self.0.iter().find(|(other, _)| other == "projections.key.weight").unwrap());
        if config.sharing == Sharing::None {
            matrix[[head, row, column]]
        } else {
            matrix[[row, column]]
        }
    }
}

/// The definition, position by position.
fn by_definition(layer: &BlockwiseCausalAttention<f64>, x: &Array3<f64>, mask: Option<&PaddingMask>) -> Array3<f64> {
    let (config, named) = (layer.config(), Named(tensors(layer)));
    let (heads, kv_heads, head_dim) = (
        config.attention.heads,
        config.attention.kv_heads,
        config.attention.effective_head_dim(),
    );
    let (block, window) = (config.effective_block(), config.effective_window());
    let (query, key) = (named.linear("query").unwrap(), named.linear("key").unwrap());
    let value = named.linear("value").unwrap_or_else(|| key.clone());
    let mut output = Array3::zeros(x.dim());
    for (item, x) in x.outer_iter().enumerate() {
        let x = x.to_owned();
        let (q, k, v) = (linear(&query, &x), linear(&key, &x), linear(&value, &x));
        let is_real = |t: usize| mask.is_none_or(|mask| mask.is_real(item, t));
        let mut results = Array2::zeros((x.nrows(), heads * head_dim));
        for (t, head) in (0..x.nrows()).flat_map(|t| (0..heads).map(move |head| (t, head))) {
            let kv = head * kv_heads / heads;
            let own = s![kv * head_dim..(kv + 1) * head_dim];
            let local: Vec<_> = ((t + 1).saturating_sub(window)..=t)
                .filter(|&j| is_real(j))
                .map(|j| (k.row(j).slice(own).to_owned(), v.row(j).slice(own).to_owned()))
                .collect();
            let mut summaries = Vec::new();
            for start in (0..x.nrows()).step_by(block).filter(|start| start + block - 1 <= t) {
                let real: Vec<usize> = (start..start + block).filter(|&j| is_real(j)).collect();
                for row in (0..config.rows).filter(|_| !real.is_empty()) {
                    let (mut sum_k, mut sum_v) = (Array1::zeros(head_dim), Array1::zeros(head_dim));
                    for &j in &real {
                        sum_k.scaled_add(named.weight(config, "key", head, row, j), &k.row(j).slice(own));
                        sum_v.scaled_add(named.weight(config, "value", head, row, j), &v.row(j).slice(own));
                    }
                    summaries.push((sum_k, sum_v));
                }
            }
            let q = q.slice(s![t, head * head_dim..(head + 1) * head_dim]).to_owned();
            let quotient = |(sum, weight): (Array1<f64>, f64)| if weight == 0.0 { sum } else { sum / weight };
            let result = match config.softmax {
                SummarySoftmax::Summed => quotient(weigh(&local, &q)) + quotient(weigh(&summaries, &q)),
                _ => quotient(weigh(&[local, summaries].concat(), &q)),
            };
            results.slice_mut(s![t, head * head_dim..(head + 1) * head_dim]).assign(&result);
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn the_layer_is_its_definition(config in causal_config(), n in 0..=LONGEST, pattern: u64, masked: bool, seed in 0..1000_u64) {
        let (layer, x, mask) = (layer(&config, seed), sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let found = layer.forward(&x, mask).unwrap();
        prop_assert!(difference(found.view(), by_definition(&layer, &x, mask).view()) < 1e-12);
    }

    #[test]
    fn what_comes_later_changes_no_bit(
        config in encoder_config(), n in 1..=LONGEST, changed in 0..LONGEST, pattern: u64, masked: bool, seed in 0..1000_u64,
        what in select(vec![0.7, 1e300, f64::NAN, f64::INFINITY]),
    ) {
        let encoder = encoder(&config, seed);
        let (x, mask, changed) = (sequence((2, n, 5), seed), mask(pattern, n), changed.min(n - 1));
        let mask = masked.then_some(&mask);
        let mut other = x.clone();
        other.slice_mut(s![.., changed.., ..]).fill(what);
        let before = |x: &Array3<f64>| bits(&encoder.forward(x, mask).unwrap().slice(s![.., ..changed, ..]).to_owned());
        prop_assert_eq!(before(&x), before(&other));
    }

    #[test]
    fn a_prefix_gives_what_the_whole_gives(config in encoder_config(), n in 1..=LONGEST, part in 0..=LONGEST, pattern: u64, masked: bool, seed in 0..1000_u64) {
        let encoder = encoder(&config, seed);
        let (x, whole_mask, part) = (sequence((2, n, 5), seed), mask(pattern, n), part.min(n));
        let short_mask = mask(pattern, part);
        let whole = encoder.forward(&x, masked.then_some(&whole_mask)).unwrap();
        let prefix = encoder.forward(&x.slice(s![.., ..part, ..]), masked.then_some(&short_mask)).unwrap();
        prop_assert!(difference(whole.slice(s![.., ..part, ..]), prefix.view()) < 1e-10);
    }

    #[test]
    fn an_all_true_mask_is_none(config in encoder_config(), n in 0..=LONGEST, seed in 0..1000_u64) {
        let (encoder, x) = (encoder(&config, seed), sequence((2, n, 5), seed));
        let masked = encoder.forward(&x, Some(&PaddingMask::all_real(2, n).unwrap())).unwrap();
        prop_assert_eq!(bits(&encoder.forward(&x, None).unwrap()), bits(&masked));
    }

    #[test]
    fn padding_of_any_content_changes_nothing(
        config in encoder_config(), lengths in (0..=LONGEST, 0..=LONGEST), garbage in select(vec![0.0, 1e6, f64::NAN]), pattern: u64, seed in 0..1000_u64,
    ) {
        let encoder = encoder(&config, seed);
        let (lengths, x) = ([lengths.0, lengths.1], sequence((2, LONGEST, 5), seed));
        let right = PaddingMask::from_lengths(&lengths, LONGEST).unwrap();
        let stays = config.attention.attention().masked_keys_stay;
        for mask in [right, mask(pattern, LONGEST)] {
            let mut spoilt = x.clone();
            for ((item, t, _), value) in spoilt.indexed_iter_mut() {
                if !mask.is_real(item, t) {
                    *value = garbage;
                }
            }
            let (clean, dirty) = (encoder.forward(&x, Some(&mask)).unwrap(), encoder.forward(&spoilt, Some(&mask)).unwrap());
            for (item, t) in (0..2).flat_map(|item| (0..LONGEST).map(move |t| (item, t))).filter(|&(item, t)| mask.is_real(item, t)) {
                prop_assert!(difference(clean.slice(s![item, t, ..]), dirty.slice(s![item, t, ..])) == 0.0);
            }
        }
        let together = encoder.forward(&x, Some(&PaddingMask::from_lengths(&lengths, LONGEST).unwrap())).unwrap();
        for (item, &length) in lengths.iter().enumerate().filter(|_| !stays) {
            let alone = encoder.forward(&x.slice(s![item..=item, ..length, ..]), None).unwrap();
            prop_assert!(difference(alone.view(), together.slice(s![item..=item, ..length, ..])) < 1e-10);
        }
    }

    #[test]
    fn a_window_over_everything_is_exact_attention(config in causal_config(), n in 0..=LONGEST, pattern: u64, masked: bool, seed in 0..1000_u64) {
        // Blocks that are never complete leave only the window.
        let config = config.with_block_weights(BlockWeights::Shared).with_block(Some(LONGEST + 1)).with_window(Some(LONGEST));
        let blockwise = layer(&config, seed);
        let mut exact = ExactAttention::<f64>::new(&config.attention.clone().with_causal(true), seed).unwrap();
        scramble(&mut exact, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        // `scramble` numbers the parameters in order, and those of the summaries come last.
        let (a, b) = (blockwise.forward(&x, mask).unwrap(), exact.forward(&x, mask).unwrap());
        prop_assert!(difference(a.view(), b.view()) < 1e-12);
        let stored = exact.forward_materialized(&x, mask).unwrap();
        prop_assert!(difference(stored.view(), b.view()) < 1e-12);
    }

    #[test]
    fn the_last_queries_see_what_they_see_in_the_whole(kv in select(vec![1, 2]), n in 1..=LONGEST, rows in 1..=LONGEST, pattern: u64, seed in 0..1000_u64) {
        let config = AttentionConfig::new(6, 2).with_kv_heads(kv).with_causal(true);
        let layer = ExactAttention::<f64>::new(&config, seed).unwrap();
        let (x, mask, rows) = (sequence((2, n, 6), seed), mask(pattern, n), rows.min(n));
        let last = x.slice(s![.., n - rows.., ..]);
        let whole = layer.forward(&x, Some(&mask)).unwrap();
        let alone = layer.attend(&last, &x, Some(&mask)).unwrap();
        prop_assert!(difference(alone.view(), whole.slice(s![.., n - rows.., ..])) < 1e-12);
        let map = layer.attention_map(&last, &x, Some(&mask)).unwrap();
        for ((item, _, row, t), &weight) in map.indexed_iter() {
            prop_assert!((weight == 0.0) == (t > n - rows + row || !mask.is_real(item, t)));
        }
    }
}

/// Lengths around the tile of query rows and the block of keys, against one window that needs neither.
#[test]
fn tiles_and_blocks_of_keys_change_nothing() {
    for (n, block, window) in [(193, 64, 64), (560, 40, 540), (560, 1, 1)] {
        let config = CausalConfig::new(4, 2, n, 1).with_block(Some(block)).with_window(Some(window));
        let (layer, x) = (layer(&config, 3), sequence((1, n, 4), 5));
        let found = layer.forward(&x, None).unwrap();
        assert!(
            difference(found.view(), by_definition(&layer, &x, None).view()) < 1e-12,
            "{n} {block} {window}"
        );
    }
}

/// The same over several tiles of rows and blocks of keys, in encoders.
#[test]
fn what_comes_later_changes_no_bit_of_long_sequences() {
    let attention = |block, window| CausalConfig::new(4, 2, 600, 2).with_block(Some(block)).with_window(Some(window));
    let configs = [
        EncoderConfig::new(attention(64, 64), 2),
        EncoderConfig::new(attention(7, 40).with_softmax(SummarySoftmax::Summed), 1),
        EncoderConfig::new(attention(1, 1).with_sharing(Sharing::None), 1),
        EncoderConfig::new(attention(50, 580), 1),
        EncoderConfig::new(AttentionConfig::new(4, 2).with_causal(true), 2),
        EncoderConfig::new(LocalGlobalConfig::new(4, 2).with_causal(true).with_slots(2), 2),
        EncoderConfig::new(LocalGlobalConfig::new(4, 2).with_causal(true).with_block(256), 1),
        EncoderConfig::new(LocalGlobalConfig::new(4, 2).with_causal(true).with_block(1).with_slots(500), 1),
    ];
    for config in configs {
        let (encoder, x) = (encoder(&config, 3), sequence((1, 600, 4), 5));
        for (changed, what) in [(31, f64::NAN), (64, 0.7), (290, 1e300), (513, f64::NAN), (599, f64::INFINITY)] {
            let mut other = x.clone();
            other.slice_mut(s![.., changed.., ..]).fill(what);
            let before = |x: &Array3<f64>| bits(&encoder.forward(x, None).unwrap().slice(s![.., ..changed, ..]).to_owned());
            assert_eq!(before(&x), before(&other), "{changed} {what} {config:?}");
        }
    }
}

#[test]
fn nothing_and_no_items_are_defined() {
    let layer = BlockwiseCausalAttention::<f64>::new(&CausalConfig::new(6, 2, 12, 2), 0).unwrap();
    for dim in [(0, 5, 6), (2, 0, 6), (0, 0, 6)] {
        let (y, cache) = layer.forward_train(&Array3::zeros(dim), None).unwrap();
        assert_eq!((y.dim(), layer.forward(&Array3::zeros(dim), None).unwrap().dim()), (dim, dim));
        let mut gradients = linformer::Parameters::zeros_like(&layer);
        assert_eq!(layer.backward(cache, y, &mut gradients).unwrap().dim(), dim);
    }
}

#[cfg(feature = "checkpoint")]
#[test]
fn layers_and_encoders_come_back_from_their_bytes() {
    use linformer::checkpoint::Checkpoint;
    for sharing in [Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise] {
        for weights in [BlockWeights::Shared, BlockWeights::PerBlock] {
            let config = CausalConfig::new(6, 2, 12, 2).with_sharing(sharing).with_block_weights(weights);
            let encoder = encoder(&EncoderConfig::new(config.clone(), 2), 3);
            let again = Encoder::<f64>::from_bytes(&encoder.to_bytes().unwrap()).unwrap();
            assert_eq!(again.config(), encoder.config());
            assert_eq!(crate::common::model_bits(&again), crate::common::model_bits(&encoder));
            assert!(matches!(again.blocks()[0].attention(), Attention::Causal(_)));
            if sharing != Sharing::Layerwise {
                let layer = layer(&config, 3);
                let again = BlockwiseCausalAttention::<f64>::from_bytes(&layer.to_bytes().unwrap()).unwrap();
                assert_eq!(crate::common::model_bits(&again), crate::common::model_bits(&layer));
            }
        }
    }
}
