//! Exact attention against its definition, and Linformer attention against exact.

mod common;

use common::{bits, difference, scramble, sequence, tensors};
use linformer::ndarray::{Array1, Array2, Array3, Array4, ArrayD, Axis, Ix1, Ix2, array, concatenate, s};
use linformer::{
    AttentionConfig, BiasPlace, Error, ExactAttention, LinformerAttention, LinformerConfig, Order, PaddingMask, Parameters, Sharing,
};

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

#[test]
fn blocks_give_what_stored_scores_give() {
    let layer = layer(&AttentionConfig::new(6, 2).with_query_bias(true).with_key_value_bias(true, true));
    for length in LENGTHS {
        let x = sequence((2, length, 6), 3);
        for mask in &masks(length) {
            let tiled = layer.forward(&x, mask.as_ref()).unwrap();
            let stored = layer.forward_materialised(&x, mask.as_ref()).unwrap();
            assert!(tiled.iter().all(|value| value.is_finite()));
            assert!(difference(tiled.view(), stored.view()) < CLOSE, "length {length}, {mask:?}");
        }
    }
}

#[test]
fn every_option_follows_the_definition() {
    for config in &options() {
        let layer = layer(config);
        for (rows, length) in [(1, 1), (5, 70), (195, 9), (3, 1025)] {
            let queries = sequence((2, rows, config.dim), 1);
            let context = sequence((2, length, config.dim), 2);
            for mask in &masks(length) {
                let mask = mask.as_ref();
                let (output, map) = by_definition(&layer, &queries, &context, mask);
                let tiled = layer.attend(&queries, &context, mask).unwrap();
                assert!(difference(tiled.view(), output.view()) < CLOSE, "{config:?}, {rows} on {length}");
                let ours = layer.attention_map(&queries, &context, mask).unwrap();
                assert!(difference(ours.view(), map.view()) < CLOSE, "{config:?}, {rows} on {length}");
            }
        }
    }
}

#[test]
fn stored_scores_follow_the_definition() {
    for config in &options() {
        let layer = layer(config);
        let x = sequence((2, 30, config.dim), 1);
        for mask in &masks(30) {
            let (output, _) = by_definition(&layer, &x, &x, mask.as_ref());
            let stored = layer.forward_materialised(&x, mask.as_ref()).unwrap();
            assert!(difference(stored.view(), output.view()) < CLOSE, "{config:?}");
        }
    }
}

/// Where padding keeps its place it has a key and a value of 0, whatever stands there and whatever the biases are.
#[test]
fn padding_that_stays_takes_its_share() {
    for config in &options() {
        let layer = layer(&config.clone().with_masked_keys_stay(true));
        for (rows, length) in [(2, 7), (3, 300), (2, 600)] {
            let queries = sequence((2, rows, config.dim), 1);
            let clean = sequence((2, length, config.dim), 2);
            for mask in &masks(length) {
                let mut context = clean.clone();
                for ((item, position, _), value) in context.indexed_iter_mut() {
                    if mask.as_ref().is_some_and(|mask| !mask.is_real(item, position)) {
                        *value = f64::NAN;
                    }
                }
                let (output, map) = by_definition(&layer, &queries, &clean, mask.as_ref());
                let ours = layer.attend(&queries, &context, mask.as_ref()).unwrap();
                assert!(difference(ours.view(), output.view()) < CLOSE, "{config:?}, {rows} on {length}");
                let ours = layer.attention_map(&queries, &context, mask.as_ref()).unwrap();
                assert!(difference(ours.view(), map.view()) < CLOSE, "{config:?}, {rows} on {length}");
            }
        }
    }
}

#[test]
fn rows_of_the_map_sum_to_one_over_the_real_keys() {
    let layer = layer(&AttentionConfig::new(6, 2));
    let queries = sequence((2, 4, 6), 1);
    for length in [1, 40, 600] {
        for mask in masks(length).into_iter().flatten() {
            let map = layer.attention_map(&queries, &sequence((2, length, 6), 2), Some(&mask)).unwrap();
            for ((item, head, row, position), &weight) in map.indexed_iter() {
                assert!(
                    mask.is_real(item, position) || weight == 0.0,
                    "head {head}, row {row}, padding {position} weighs {weight}"
                );
            }
            for ((item, _, _), &sum) in map.sum_axis(Axis(3)).indexed_iter() {
                let expected = if mask.lengths()[item] == 0 { 0.0 } else { 1.0 };
                assert!((sum - expected).abs() < CLOSE, "length {length}, item {item} sums to {sum}");
            }
        }
    }
}

/// With k = n and E = F = I nothing is compressed, and Linformer attention is exact attention.
#[test]
fn linformer_with_the_identity_is_exact() {
    let biased = |config: LinformerConfig| {
        config
            .with_query_bias(true)
            .with_key_value_bias(true, true)
            .with_bias_place(BiasPlace::BeforeCompression)
    };
    let plain = LinformerConfig::new(6, 2, 60, 60);
    for config in [
        plain.clone(),
        biased(plain.clone()),
        biased(plain.clone().with_sharing(Sharing::KeyValue)),
        biased(plain.clone().with_sharing(Sharing::None)),
        biased(LinformerConfig::new(6, 6, 60, 60).with_kv_heads(1)),
        biased(LinformerConfig::new(6, 6, 60, 60).with_kv_heads(3)).with_sharing(Sharing::KeyValue),
        plain.with_head_dim(Some(5)).with_tied_key_value(true).with_output_rank(Some(2)),
        biased(LinformerConfig::new(6, 2, 600, 600)),
    ] {
        let length = config.seq_len;
        let mut linformer = LinformerAttention::<f64>::new(&config, 0).unwrap();
        scramble(&mut linformer, 7);
        let mut identities = 0;
        linformer.visit_mut("", &mut |name, _, mut tensor| {
            if ["projections.key.weight", "projections.value.weight"].contains(&name) {
                identities += 1;
                tensor.assign(&Array2::eye(length));
            }
        });
        assert_eq!(
            identities,
            if config.projection.sharing == Some(Sharing::KeyValue) {
                1
            } else {
                2
            }
        );
        let exact = ExactAttention::from_linformer(&linformer);
        let x = sequence((2, length, 6), 5);
        let ours = linformer.forward(&x, None).unwrap();
        assert!(
            difference(ours.view(), exact.forward(&x, None).unwrap().view()) < CLOSE,
            "{config:?}"
        );
        let ours = linformer.attention_map(&x, &linformer.compress(&x, None).unwrap()).unwrap();
        assert!(
            difference(ours.view(), exact.attention_map(&x, &x, None).unwrap().view()) < CLOSE,
            "{config:?}"
        );
    }
}

#[test]
fn what_stands_at_padding_changes_nothing() {
    let layer = layer(&AttentionConfig::new(6, 2).with_key_value_bias(true, true));
    for length in [7, 300, 600] {
        for mask in masks(length).into_iter().flatten() {
            let clean = sequence((2, length, 6), 3);
            let mut dirty = clean.clone();
            for ((item, position, _), value) in dirty.indexed_iter_mut() {
                if !mask.is_real(item, position) {
                    *value = if position % 2 == 0 { f64::NAN } else { f64::INFINITY };
                }
            }
            let queries = sequence((2, 5, 6), 4);
            let [ours, other] = [&clean, &dirty].map(|context| layer.attend(&queries, context, Some(&mask)).unwrap());
            assert_eq!(bits(&ours), bits(&other));
            let [ours, other] = [&clean, &dirty].map(|context| layer.attention_map(&queries, context, Some(&mask)).unwrap());
            assert_eq!(bits(&ours), bits(&other));
            for forward in [ExactAttention::forward, ExactAttention::forward_materialised] {
                let [ours, other] = [&clean, &dirty].map(|x| forward(&layer, x, Some(&mask)).unwrap());
                for ((item, position, feature), value) in ours.indexed_iter() {
                    if mask.is_real(item, position) {
                        assert_eq!(value.to_bits(), other[[item, position, feature]].to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn padded_sequences_give_what_they_give_alone() {
    let layer = layer(&AttentionConfig::new(6, 2).with_key_value_bias(true, true));
    let lengths = [700, 1, 512, 193];
    let x = sequence((4, 700, 6), 9);
    let mask = PaddingMask::from_lengths(&lengths, 700).unwrap();
    let together = layer.forward(&x, Some(&mask)).unwrap();
    for (item, length) in lengths.into_iter().enumerate() {
        let range = s![item..=item, ..length, ..];
        let alone = layer.forward(&x.slice(range), None).unwrap();
        assert!(difference(together.slice(range), alone.view()) < CLOSE, "length {length}");
    }
}

#[test]
fn items_of_a_batch_do_not_meet() {
    let layer = layer(&AttentionConfig::new(6, 3).with_kv_heads(1));
    let (queries, context) = (sequence((3, 201, 6), 1), sequence((3, 600, 6), 2));
    let mask = PaddingMask::from_lengths(&[600, 599, 20], 600).unwrap();
    let together = layer.attend(&queries, &context, Some(&mask)).unwrap();
    for item in 0..3 {
        let range = s![item..=item, .., ..];
        let own = PaddingMask::from_lengths(&[mask.lengths()[item]], 600).unwrap();
        let alone = layer.attend(&queries.slice(range), &context.slice(range), Some(&own)).unwrap();
        assert_eq!(bits(&together.slice(range).to_owned()), bits(&alone));
    }
}

/// A set of keys and values has no order.
#[test]
fn the_order_of_the_context_does_not_matter() {
    let layer = layer(&AttentionConfig::new(6, 2));
    let queries = sequence((1, 9, 6), 1);
    let context = sequence((1, 1025, 6), 2);
    let order: Vec<usize> = (0..1025).map(|index| index * 387 % 1025).collect();
    let shuffled = context.select(Axis(1), &order);
    let real = Array2::from_shape_fn((1, 1025), |(_, t)| t % 5 != 2);
    let masks = [
        (None, None),
        (
            Some(PaddingMask::from_bools(&real)),
            Some(PaddingMask::from_bools(&real.select(Axis(1), &order))),
        ),
    ];
    for (mask, shuffled_mask) in &masks {
        let ours = layer.attend(&queries, &context, mask.as_ref()).unwrap();
        let other = layer.attend(&queries, &shuffled, shuffled_mask.as_ref()).unwrap();
        assert!(difference(ours.view(), other.view()) < CLOSE);
    }
}

/// Every query row stands by itself: rows may come in any number of calls, which tile them differently.
#[test]
fn queries_do_not_meet() {
    let layer = layer(&AttentionConfig::new(6, 2));
    for (rows, length) in [(500, 600), (6200, 20)] {
        let (queries, context) = (sequence((2, rows, 6), 1), sequence((2, length, 6), 2));
        let whole = layer.attend(&queries, &context, None).unwrap();
        let parts: Vec<_> = [0..1, 1..250, 250..rows]
            .map(|rows| layer.attend(&queries.slice(s![.., rows, ..]), &context, None).unwrap())
            .into();
        let parts = concatenate(Axis(1), &parts.iter().map(|part| part.view()).collect::<Vec<_>>()).unwrap();
        assert!(difference(whole.view(), parts.view()) < CLOSE, "{rows} on {length}");
    }
}

#[test]
fn strides_do_not_matter() {
    let layer = layer(&AttentionConfig::new(6, 2));
    let x = sequence((2, 600, 6), 1);
    let mut wide = Array3::from_elem((6, 600, 4), f64::NAN);
    wide.slice_mut(s![.., .., ..;2]).assign(&x.view().permuted_axes([2, 1, 0]));
    let strided = wide.slice(s![.., .., ..;2]).permuted_axes([2, 1, 0]);
    let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, 600), |(_, t)| t % 7 != 0));
    for mask in [None, Some(&mask)] {
        let expected = layer.forward(&x, mask).unwrap();
        assert!(difference(layer.forward(&strided, mask).unwrap().view(), expected.view()) < CLOSE);
        assert!(difference(layer.forward_materialised(&strided, mask).unwrap().view(), expected.view()) < CLOSE);
    }
}

#[cfg(feature = "rayon")]
#[test]
fn any_number_of_threads_gives_the_same_bits() {
    let layer = layer(&AttentionConfig::new(6, 2).with_key_value_bias(true, true));
    let x = sequence((2, 600, 6), 1);
    let holes = PaddingMask::from_bools(&Array2::from_shape_fn((2, 600), |(item, t)| t % 9 != item));
    for mask in [None, Some(&holes)] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let forward = layer.forward(&x, mask).unwrap();
                let stored = layer.forward_materialised(&x, mask).unwrap();
                let map = layer.attention_map(&x, &x, mask).unwrap();
                [bits(&forward), bits(&stored), bits(&map)]
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(5));
    }
}

/// A layer of one head whose keys are the first feature times `key`, whose values the second, and whose queries the first.
fn plain_layer(key: f64) -> ExactAttention<f64> {
    let config = AttentionConfig::new(2, 1).with_head_dim(Some(1)).with_output_bias(false);
    let mut layer = ExactAttention::new(&config, 0).unwrap();
    layer.visit_mut("", &mut |name, _, mut tensor| {
        let weight = match name {
            "query.weight" => array![[1.0, 0.0]],
            "key.weight" => array![[key, 0.0]],
            "value.weight" => array![[0.0, 1.0]],
            _ => array![[1.0], [0.0]],
        };
        tensor.assign(&weight.into_dyn());
    });
    layer
}

#[test]
fn large_scores_stay_finite() {
    let layer = plain_layer(1.0);
    let queries = array![[[1.0, 0.0], [-1.0, 0.0], [0.1, 0.0]]];
    for length in [3, 512, 1100] {
        let mut context = sequence((1, length, 2), 1);
        context.slice_mut(s![.., .., 0]).mapv_inplace(|score| score * 1e4 / 1.3);
        // The largest score in the last block, and the smallest.
        context[[0, length - 1, 0]] = 1e4;
        context[[0, length - 2, 0]] = -1e4;
        let ours = layer.attend(&queries, &context, None).unwrap();
        let (expected, _) = by_definition(&layer, &queries, &context, None);
        assert!(ours.iter().all(|value| value.is_finite()));
        assert!(difference(ours.view(), expected.view()) < CLOSE);
    }
}

/// The sign of an infinite score at a position, or NaN; `None` for an ordinary score.
type Special = &'static dyn Fn(usize) -> Option<f64>;

/// Scores of −∞, +∞ and NaN, wherever they stand, give with blocks of keys what they give without.
#[test]
fn infinite_scores_propagate_as_without_blocks() {
    let layer = plain_layer(-1e200);
    let length = 1100;
    let x = |special: Special| {
        let mut x = sequence((1, length, 2), 1);
        for (t, mut row) in x.index_axis_mut(Axis(0), 0).outer_iter_mut().enumerate() {
            // The key overflows to the infinity of this sign, or is the score itself.
            row[0] = special(t).map_or(row[0] * -1e-200, |sign| sign * -1e200);
        }
        x
    };
    let queries = array![[[1.0, 0.0], [2.0, 0.0]]];
    let cases: [(Special, bool); 8] = [
        (&|_| None, true),
        (&|t| (t < 400).then_some(-1.0), true),
        (&|t| (t >= 700).then_some(-1.0), true),
        (&|t| (300..800).contains(&t).then_some(-1.0), true),
        (&|_| Some(-1.0), true),
        (&|t| (t == 3).then_some(1.0), false),
        (&|t| (t == 1099).then_some(1.0), false),
        (&|t| (t == 600).then_some(f64::NAN), false),
    ];
    for (index, (special, finite)) in cases.into_iter().enumerate() {
        let context = x(special);
        let ours = layer.attend(&queries, &context, None).unwrap();
        let stored = layer.attention_map(&queries, &context, None).unwrap();
        for row in 0..2_usize {
            let expected: f64 = (0..length).map(|t| stored[[0, 0, row, t]] * context[[0, t, 1]]).sum();
            let ours = ours[[0, row, 0]];
            assert_eq!((ours.is_finite(), expected.is_finite()), (finite, finite), "case {index}");
            assert!(!finite || (ours - expected).abs() < CLOSE, "case {index}: {ours} and {expected}");
        }
    }
}

/// Without anything to attend to only the output bias is left, or nothing.
#[test]
fn nothing_to_attend_to_gives_the_output_bias() {
    for config in &options() {
        let layer = layer(config);
        let queries = sequence((2, 3, config.dim), 1);
        let nothing = Array3::zeros((2, 0, config.dim));
        let (expected, _) = by_definition(&layer, &queries, &nothing, None);
        let is_bias = |output: Array3<f64>| difference(output.view(), expected.view()) < CLOSE;
        assert!(is_bias(layer.attend(&queries, &nothing, None).unwrap()));
        let mask = PaddingMask::from_lengths(&[0, 0], 600).unwrap();
        let padding = Array3::from_elem((2, 600, config.dim), f64::NAN);
        assert!(is_bias(layer.attend(&queries, &padding, Some(&mask)).unwrap()));
        let mask = PaddingMask::from_lengths(&[0, 0], 3).unwrap();
        assert!(is_bias(layer.forward(&queries, Some(&mask)).unwrap()));
        assert!(is_bias(layer.forward_materialised(&queries, Some(&mask)).unwrap()));
        let map = layer.attention_map(&queries, &queries, Some(&mask)).unwrap();
        assert!(map.iter().all(|&weight| weight == 0.0));
    }
}

#[test]
fn empty_batches_and_sequences_are_defined() {
    let layer = layer(&AttentionConfig::new(6, 2));
    for shape in [(0, 5, 6), (2, 0, 6), (0, 0, 6)] {
        let x = Array3::zeros(shape);
        let mask = PaddingMask::all_real(shape.0, shape.1).unwrap();
        for mask in [None, Some(&mask)] {
            assert_eq!(layer.forward(&x, mask).unwrap().dim(), shape);
            assert_eq!(layer.forward_materialised(&x, mask).unwrap().dim(), shape);
            assert_eq!(layer.attention_map(&x, &x, mask).unwrap().dim(), (shape.0, 2, shape.1, shape.1));
        }
    }
    let queries = Array3::zeros((2, 0, 6));
    assert_eq!(layer.attend(&queries, &sequence((2, 9, 6), 1), None).unwrap().dim(), (2, 0, 6));
}

#[test]
fn bad_shapes_are_errors() {
    let layer = layer(&AttentionConfig::new(6, 2));
    let x = sequence((2, 5, 6), 1);
    let narrow = Array3::zeros((2, 5, 4));
    let other_batch = Array3::zeros((3, 5, 6));
    let mask = PaddingMask::all_real(2, 4).unwrap();
    let argument = |error: Error| match error {
        Error::Shape { argument, .. } => argument,
        other => panic!("{other}"),
    };
    for (queries, context, mask, expected) in [
        (&narrow, &x, None, "queries"),
        (&x, &narrow, None, "context"),
        (&other_batch, &x, None, "queries"),
        (&x, &other_batch, None, "queries"),
        (&x, &x, Some(&mask), "mask"),
    ] {
        assert_eq!(argument(layer.attend(queries, context, mask).unwrap_err()), expected);
        assert_eq!(argument(layer.attention_map(queries, context, mask).unwrap_err()), expected);
    }
    assert_eq!(argument(layer.forward_materialised(&narrow, None).unwrap_err()), "queries");
    assert_eq!(argument(layer.forward_materialised(&x, Some(&mask)).unwrap_err()), "mask");
}

/// Scores that memory cannot address are refused before anything is computed.
#[test]
fn stored_scores_that_cannot_be_addressed_are_errors() {
    let layer = layer(&AttentionConfig::new(1, 1));
    let one = Array3::<f64>::zeros((1, 1, 1));
    let long = one.broadcast((1, 1 << 31, 1)).unwrap();
    for error in [
        layer.forward_materialised(&long, None).unwrap_err(),
        layer.attention_map(&long, &long, None).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Overflow { .. }), "{error}");
    }
}

/// Widths, heads and head widths that do not fit into one run of a tile (512 columns): whole heads to a run, of a number that panels do not
/// divide or do, and heads that take several runs.
const WIDE: [(usize, usize, usize); 5] = [(600, 30, 20), (1024, 16, 64), (640, 1, 640), (70, 2, 550), (1100, 11, 100)];

#[test]
fn wide_layers_are_their_definition_and_follow_their_weights() {
    for (dim, heads, head_dim) in WIDE {
        for biased in [false, true] {
            let config = AttentionConfig::new(dim, heads)
                .with_head_dim(Some(head_dim))
                .with_query_bias(biased)
                .with_output_rank(biased.then_some(530));
            let mut layer = ExactAttention::<f64>::new(&config, 1).unwrap();
            let x = sequence((1, 70, dim), 2);
            for _ in 0..2 {
                let stored = layer.forward_materialised(&x, None).unwrap();
                assert!(
                    difference(layer.forward(&x, None).unwrap().view(), stored.view()) < CLOSE,
                    "{config:?}"
                );
                let (trained, _) = layer.forward_train(&x, None).unwrap();
                assert!(difference(trained.view(), stored.view()) < CLOSE, "{config:?}");
                // Whatever was packed must be made anew.
                layer.visit_mut("", &mut |_, _, mut tensor| tensor.mapv_inplace(|value| 1.25 * value));
            }
        }
    }
}

#[test]
fn wide_layers_compress_the_same_in_both_orders() {
    for (dim, heads, head_dim) in WIDE {
        let config = LinformerConfig::new(dim, heads, 80, 40)
            .with_head_dim(Some(head_dim))
            .with_key_value_bias(true, true);
        let layer = LinformerAttention::<f64>::new(&config, 1).unwrap();
        let x = sequence((2, 80, dim), 3);
        let [first, second] = [Order::CompressFirst, Order::ProjectFirst].map(|order| {
            let mut compressor = layer.compressor_in_order(2, order).unwrap();
            compressor.push(&x, None).unwrap();
            layer.attend(&x, &compressor.finish().unwrap()).unwrap()
        });
        assert!(difference(first.view(), second.view()) < CLOSE, "{config:?}");
    }
}
