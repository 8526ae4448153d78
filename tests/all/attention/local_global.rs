//! Attention to a window and to summaries against exact attention, and against what its definition promises.

use crate::common::gradients::{check, mask, weights};
use crate::common::{bits, difference, scramble, sequence};
use linformer::ndarray::{Array2, Array3, Axis, concatenate, s};
use linformer::{
    AttentionConfig, ExactAttention, LinformerAttention, LinformerConfig, LocalGlobalAttention, LocalGlobalConfig, PaddingMask, Parameters,
    PoolingQuery, ProjectionKind, Workspace,
};
use proptest::prelude::*;
use proptest::sample::select;

/// Layers of every shape.
fn configs() -> impl Strategy<Value = LocalGlobalConfig> {
    let heads = select(vec![(1, 1), (2, 1), (2, 2), (4, 2), (3, 3), (3, 1)]);
    let biases = (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>());
    (
        heads,
        1..=5_usize,
        biases,
        select(vec![None, Some(3)]),
        any::<bool>(),
        (select(vec![1_usize, 2, 4, 8]), 0..=6_usize),
        (any::<bool>(), any::<bool>(), any::<bool>()),
    )
        .prop_map(
            |((heads, kv_heads), head_dim, (query, key, value, output), rank, tied, (block, slots), (window, mean, longer))| {
                let attention = AttentionConfig::new(5, heads)
                    .with_head_dim(head_dim)
                    .with_kv_heads(kv_heads)
                    .with_tied_key_value(tied)
                    .with_query_bias(query)
                    .with_key_value_bias(key, if tied { key } else { value })
                    .with_output_bias(output)
                    .with_output_rank(rank);
                let config = LocalGlobalConfig::new(5, heads)
                    .with_attention(attention)
                    .with_block(block)
                    .with_slots(slots);
                if slots == 0 {
                    return config;
                }
                let query = if mean { PoolingQuery::MeanOfItem } else { PoolingQuery::Fixed };
                config
                    .with_window(window)
                    .with_pooling_query(query)
                    .with_mass_shift(if mean { 0.3 } else { 0.0 })
                    .with_trained_len(longer.then_some(9))
            },
        )
}

fn layer(config: &LocalGlobalConfig, seed: u64) -> LocalGlobalAttention<f64> {
    let mut layer = LocalGlobalAttention::new(config, seed).unwrap();
    scramble(&mut layer, seed);
    layer
}

/// The exact layer of the same weights.
fn exact_of(layer: &LocalGlobalAttention<f64>) -> ExactAttention<f64> {
    let mut exact = ExactAttention::new(&layer.config().attention, 0).unwrap();
    let weights: Vec<_> = layer.named().into_iter().map(|(name, tensor)| (name, tensor.to_owned())).collect();
    exact.visit_mut("", &mut |name, _, mut tensor| {
        let (_, own) = weights.iter().find(|(own, _)| own == name).expect("a weight of both");
        tensor.assign(own);
    });
    exact
}

/// Nothing changes what every position has in the softmax.
fn plain(config: LocalGlobalConfig) -> LocalGlobalConfig {
    config.with_mass_shift(0.0).with_trained_len(None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn one_position_a_segment_is_exact_attention(config in configs(), n in 0..=40_usize, pattern: u64, seed in 0..1000_u64) {
        let slots = n.next_multiple_of(config.block).max(1);
        let layer = layer(&plain(config).with_slots(slots), seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let expected = exact_of(&layer).forward(&x, Some(&mask)).unwrap();
        prop_assert!(difference(layer.forward(&x, Some(&mask)).unwrap().view(), expected.view()) < 1e-10);
    }

    #[test]
    fn two_blocks_are_exact_attention(config in configs(), n in 0..=16_usize, pattern: u64, seed in 0..1000_u64) {
        let window = plain(config).with_slots(2).with_window(true);
        let n = n.min(2 * window.block);
        let layer = layer(&window, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let expected = exact_of(&layer).forward(&x, Some(&mask)).unwrap();
        prop_assert!(difference(layer.forward(&x, Some(&mask)).unwrap().view(), expected.view()) < 1e-10);
    }

    /// The tangent touches where the query is u. Segments that the window cuts keep the K̄ and V̄ of the whole, so none may be longer than a block.
    #[test]
    fn queries_that_are_all_u_see_exactly(config in configs(), n in 1..=50_usize, pattern: u64, seed in 0..1000_u64) {
        prop_assume!(config.slots > 0);
        let blocks = n.div_ceil(config.block);
        let slots = if config.window { config.slots.max(blocks) } else { config.slots };
        let mut layer = layer(&plain(config).with_query_bias(true).with_slots(slots), seed);
        let is_mean = layer.config().pooling_query == PoolingQuery::MeanOfItem;
        let mut bias = Vec::new();
        layer.visit("", &mut |name, _, tensor| if name == "query.bias" { bias.extend(tensor.iter().copied()) });
        layer.visit_mut("", &mut |name, _, mut tensor| match name {
            "query.weight" => tensor.fill(0.0),
            "pooling_query" if is_mean => tensor.fill(0.0),
            "pooling_query" => tensor.iter_mut().zip(&bias).for_each(|(to, &from)| *to = from),
            _ => {}
        });
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let expected = exact_of(&layer).forward(&x, Some(&mask)).unwrap();
        prop_assert!(difference(layer.forward(&x, Some(&mask)).unwrap().view(), expected.view()) < 1e-10);
    }

    #[test]
    fn a_padded_item_is_the_item_alone(config in configs(), lengths in [0..=40_usize, 0..=40], fill in select(vec![f64::NAN, 1e300]), seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let n = 43;
        let mut x = sequence((2, n, 5), seed);
        let mask = PaddingMask::from_lengths(&lengths, n).unwrap();
        for (item, &length) in lengths.iter().enumerate() {
            x.slice_mut(s![item, length.., ..]).fill(fill);
        }
        let all = layer.forward(&x, Some(&mask)).unwrap();
        let (_, cache) = layer.forward_train(&x, Some(&mask)).unwrap();
        let mut dy = weights(x.dim());
        for (item, &length) in lengths.iter().enumerate() {
            dy.slice_mut(s![item, length.., ..]).fill(0.0);
        }
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, dy.clone(), &mut gradients).unwrap();
        let mut apart = layer.zeros_like();
        for (item, &length) in lengths.iter().enumerate() {
            let own = s![item..=item, ..length, ..];
            let alone = layer.forward(&x.slice(own), None).unwrap();
            prop_assert_eq!(bits(&all.slice(own).to_owned()), bits(&alone));
            let (_, cache) = layer.forward_train(&x.slice(own), None).unwrap();
            let own_dx = layer.backward(cache, dy.slice(own).to_owned(), &mut apart).unwrap();
            prop_assert!(difference(dx.slice(own), own_dx.view()) < 1e-10);
            prop_assert!(dx.slice(s![item, length.., ..]).iter().all(|&dx| dx == 0.0));
        }
        for ((name, all), (_, apart)) in gradients.named().into_iter().zip(apart.named()) {
            prop_assert!(difference(all, apart) < 1e-9, "{}", name);
        }
    }

    #[test]
    fn training_runs_what_inference_runs(config in configs(), n in 0..=40_usize, pattern: u64, seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let expected = layer.forward(&x, Some(&mask)).unwrap();
        let (y, _) = layer.forward_train(&x, Some(&mask)).unwrap();
        prop_assert!(difference(y.view(), expected.view()) < 1e-11);
        let mut out = Array3::zeros(x.dim());
        layer.forward_into(&x, Some(&mask), &mut out, &mut Workspace::new()).unwrap();
        prop_assert_eq!(bits(&out), bits(&expected));
    }

    #[test]
    fn gradients_are_those_of_central_differences(config in configs(), n in 1..=24_usize, pattern: u64, seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let (y, cache) = layer.forward_train(&x, Some(&mask)).unwrap();
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, Some(&mask)).unwrap());
    }

    /// Its rows sum to 1, and weigh the values as the layer does.
    #[test]
    fn the_effective_map_is_what_the_layer_does(config in configs(), n in 1..=40_usize, pattern: u64, seed in 0..1000_u64) {
        let config = config.with_kv_heads(1).with_output_rank(None).with_output_bias(false);
        let layer = layer(&config, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let map = layer.effective_map(&x, Some(&mask)).unwrap();
        let exact = exact_of(&layer);
        let y = layer.forward(&x, Some(&mask)).unwrap();
        // The output of exact attention with the map in place of its own.
        let (value, output) = weights_of(&exact, &config);
        for item in 0..2 {
            for row in 0..n {
                let sum: f64 = map.slice(s![item, 0, row, ..]).sum();
                prop_assert!(sum.abs() < 1e-10 || (sum - 1.0).abs() < 1e-10, "{}", sum);
            }
            let values = x.index_axis(Axis(0), item).dot(&value.0.t()) + &value.1;
            let heads: Vec<_> = (0..config.attention.heads).map(|head| map.slice(s![item, head, .., ..]).dot(&values)).collect();
            let views: Vec<_> = heads.iter().map(|head| head.view()).collect();
            let expected = concatenate(Axis(1), &views).unwrap().dot(&output.t());
            prop_assert!(difference(y.index_axis(Axis(0), item), expected.view()) < 1e-10);
        }
    }
}

/// W_V with its bias, or zeros, and W_O.
fn weights_of(exact: &ExactAttention<f64>, config: &LocalGlobalConfig) -> ((Array2<f64>, Array2<f64>), Array2<f64>) {
    let named = exact.named();
    let of = |name: &str| {
        named
            .iter()
            .find(|(own, _)| own == name)
            .map(|(_, tensor)| tensor.to_owned().into_dimensionality().unwrap())
    };
    let side = if config.attention.tie_key_value { "key" } else { "value" };
    let bias = named.iter().find(|(own, _)| *own == format!("{side}.bias"));
    let width = config.attention.effective_head_dim();
    let bias = bias.map_or_else(
        || Array2::zeros((1, width)),
        |(_, bias)| bias.to_owned().into_shape_with_order((1, width)).unwrap(),
    );
    ((of(&format!("{side}.weight")).unwrap(), bias), of("output.weight").unwrap())
}

/// Where all segments are alike long and u is 0, their masses are alike, too.
#[test]
fn without_window_and_mass_it_is_mean_pooled_linformer() {
    let config = LocalGlobalConfig::new(8, 2).with_block(4).with_slots(4).with_window(false);
    let mut own = layer(&config, 3);
    own.visit_mut("", &mut |name, _, mut tensor| {
        if name == "pooling_query" {
            tensor.fill(0.0);
        }
    });
    let pooled = LinformerConfig::new(8, 2, 32, 4).with_kind(ProjectionKind::MeanPooling);
    let mut linformer = LinformerAttention::<f64>::new(&pooled, 0).unwrap();
    let weights: Vec<_> = own.named().into_iter().map(|(name, tensor)| (name, tensor.to_owned())).collect();
    linformer.visit_mut("", &mut |name, _, mut tensor| {
        tensor.assign(&weights.iter().find(|(own, _)| own == name).expect("a weight of both").1);
    });
    let x = sequence((2, 32, 8), 5);
    let expected = linformer.forward(&x, None).unwrap();
    assert!(difference(own.forward(&x, None).unwrap().view(), expected.view()) < 1e-12);
}

#[test]
fn order_within_a_far_segment_does_not_matter() {
    let config = LocalGlobalConfig::new(8, 2).with_block(4).with_slots(4);
    let layer = layer(&config, 1);
    let x = sequence((1, 64, 8), 2);
    let mut turned = x.clone();
    // One segment of 16 positions, which are the blocks 8 to 11.
    turned.slice_mut(s![.., 32..48, ..]).assign(&x.slice(s![.., 32..48;-1, ..]));
    let (y, other) = (layer.forward(&x, None).unwrap(), layer.forward(&turned, None).unwrap());
    for rows in [0..28, 52..64] {
        let own = s![.., rows, ..];
        assert!(difference(y.slice(own), other.slice(own)) < 1e-12);
    }
    let near = s![.., 28..52, ..];
    assert!(difference(y.slice(near), other.slice(near)) > 1e-6);
}

/// Windows and slots too wide for all scores to be held at once, of blocks that no tile of rows fits.
#[test]
fn wide_windows_and_many_slots() {
    for (block, slots, n) in [(256, 64, 1500), (64, 500, 1500), (512, 600, 1200), (32, 64, 700)] {
        let layer = layer(&LocalGlobalConfig::new(8, 2).with_block(block).with_slots(slots), 1);
        let x = sequence((2, n, 8), 2);
        let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, n), |(item, t)| item == 0 || (t % 7 > 0 && t < n - 30)));
        let map = layer.effective_map(&x, Some(&mask)).unwrap();
        assert!(map.iter().all(|weight| *weight >= 0.0));
        let y = layer.forward(&x, Some(&mask)).unwrap();
        let (trained, _) = layer.forward_train(&x, Some(&mask)).unwrap();
        assert!(difference(y.view(), trained.view()) < 1e-12);
        // Training with dropout holds all scores of a block at once.
        let single = LocalGlobalAttention::<f32>::new(layer.config(), 1).unwrap();
        let x = x.mapv(<f32 as linformer::Scalar>::cast);
        assert!(single.forward(&x, Some(&mask)).unwrap().iter().all(|y| y.is_finite()));
    }
}

/// Where the window cuts a segment, a slot counts the mass outside, of which next to nothing may be left.
#[test]
fn gradients_are_finite_whatever_the_share_outside_the_window() {
    for size in [1.0, 1e2, 1e3, 1e4, 1e5] {
        let mut layer = layer(&LocalGlobalConfig::new(8, 2).with_block(2).with_slots(1), 4);
        layer.visit_mut("", &mut |name, _, mut tensor| {
            if name == "pooling_query" {
                tensor *= size;
            }
        });
        let x = sequence((1, 24, 8), 3);
        let (y, cache) = layer.forward_train(&x, None).unwrap();
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        assert!(y.iter().chain(&dx).all(|number| number.is_finite()), "{size}");
        assert!(
            gradients
                .named()
                .iter()
                .all(|(_, gradient)| gradient.iter().all(|number| number.is_finite())),
            "{size}"
        );
    }
}

#[test]
fn options_that_no_layer_can_have_are_refused() {
    let base = || LocalGlobalConfig::new(8, 2);
    for (config, option) in [
        (base().with_block(0), "block"),
        (base().with_block(24), "block"),
        (base().with_mass_shift(f64::NAN), "mass_shift"),
        (base().with_mass_shift(1e39), "mass_shift"),
        (base().with_trained_len(0), "trained_len"),
        (base().with_slots(0).with_mass_shift(1.0), "mass_shift"),
        (base().with_slots(0).with_trained_len(9), "trained_len"),
        (base().with_slots(0).with_window(false), "window"),
        (base().with_slots(0).with_pooling_query(PoolingQuery::MeanOfItem), "pooling_query"),
        (base().with_causal(true).with_window(false), "window"),
        (base().with_causal(true).with_trained_len(9), "trained_len"),
        (
            base().with_causal(true).with_pooling_query(PoolingQuery::MeanOfItem),
            "pooling_query",
        ),
        (
            base().with_attention(AttentionConfig::new(8, 2).with_masked_keys_stay(true)),
            "masked_keys_stay",
        ),
    ] {
        match LocalGlobalAttention::<f32>::new(&config, 0) {
            Err(linformer::Error::Config { option: found, .. }) => assert_eq!(found, option),
            other => panic!("{option}: {other:?}"),
        }
    }
    // A number of slots that no sequence reaches is no number too large.
    let layer = LocalGlobalAttention::<f32>::new(&base().with_slots(usize::MAX), 0).unwrap();
    assert!(layer.forward(&Array3::ones((1, 99, 8)), None).is_ok());
}
