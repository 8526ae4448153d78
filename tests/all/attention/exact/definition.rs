//! The layer against its definition, and against Linformer attention that compresses nothing.

use super::*;

#[test]
fn blocks_give_what_stored_scores_give() {
    let layer = layer(&AttentionConfig::new(6, 2).with_query_bias(true).with_key_value_bias(true, true));
    for length in LENGTHS {
        let x = sequence((2, length, 6), 3);
        for mask in &masks(length) {
            let tiled = layer.forward(&x, mask.as_ref()).unwrap();
            let stored = layer.forward_materialized(&x, mask.as_ref()).unwrap();
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
            let stored = layer.forward_materialized(&x, mask.as_ref()).unwrap();
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
