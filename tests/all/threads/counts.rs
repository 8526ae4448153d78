//! The number of threads changes no bit.

use crate::common::{bits, model_bits, scramble, sequence};
use linformer::ndarray::Array2;
use linformer::training::Step;
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, Decoder, DecoderConfig, Encoder, EncoderConfig, ExactAttention, FeedForwardConfig,
    LanguageModel, LanguageModelConfig, Linear, LinformerConfig, LocalGlobalConfig, PaddingMask, Parameters, Sharing, TrainingPass,
};

fn in_pool<R: Send>(threads: usize, work: impl FnOnce() -> R + Send) -> R {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(work)
}

#[test]
fn causal_encoders() {
    let kinds: [AttentionKind; 2] = [
        CausalConfig::new(24, 4, 700, 4).with_sharing(Sharing::None).into(),
        LocalGlobalConfig::new(24, 4).with_causal(true).with_block(16).with_slots(4).into(),
    ];
    for kind in kinds {
        let mut encoder = Encoder::<f64>::new(&EncoderConfig::new(kind, 2), 0).unwrap();
        scramble(&mut encoder, 1);
        let x = sequence((2, 650, 24), 3);
        let mask = PaddingMask::from_lengths(&[650, 400], 650).unwrap();
        let run = |threads| {
            in_pool(threads, || {
                let (y, cache) = encoder.forward_train(&x, Some(&mask), &TrainingPass::new(Step::new(1, 0))).unwrap();
                let mut gradients = encoder.zeros_like();
                let dx = encoder.backward(cache, y.clone(), &mut gradients).unwrap();
                let forward = encoder.forward(&x, Some(&mask)).unwrap();
                ([forward, y, dx].map(|array| bits(&array)), model_bits(&gradients))
            })
        };
        let results: Vec<_> = [1, 2, 5].into_iter().map(run).collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn local_global_encoders() {
    for (block, slots) in [(32, 16), (16, 200), (256, 20)] {
        let attention = LocalGlobalConfig::new(24, 4).with_block(block).with_slots(slots);
        let mut encoder = Encoder::<f64>::new(&EncoderConfig::new(attention, 2), 0).unwrap();
        scramble(&mut encoder, 1);
        let x = sequence((2, 850, 24), 3);
        let mask = PaddingMask::from_lengths(&[850, 400], 850).unwrap();
        let run = |threads| {
            in_pool(threads, || {
                let (y, cache) = encoder.forward_train(&x, Some(&mask), &TrainingPass::new(Step::new(1, 0))).unwrap();
                let mut gradients = encoder.zeros_like();
                let dx = encoder.backward(cache, y.clone(), &mut gradients).unwrap();
                let forward = encoder.forward(&x, Some(&mask)).unwrap();
                ([forward, y, dx].map(|array| bits(&array)), model_bits(&gradients))
            })
        };
        let one = run(1);
        assert!([2, 5].into_iter().all(|threads| run(threads) == one), "block {block}");
    }
}

/// The number of threads changes no bit, and neither does the caller's pool.
#[test]
fn encoders() {
    use linformer::{EncoderConfig, Sharing};
    for sharing in [Sharing::None, Sharing::Headwise, Sharing::KeyValue, Sharing::Layerwise] {
        let attention = LinformerConfig::new(48, 4, 1200, 24).with_sharing(sharing);
        let encoder = Encoder::<f64>::new(&EncoderConfig::new(attention, 2), 0).unwrap();
        let x = sequence((2, 1100, 48), 3);
        let mask = PaddingMask::from_lengths(&[1100, 700], 1100).unwrap();
        let results: Vec<_> = [1, 2, 5]
            .into_iter()
            .map(|threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                bits(&pool.install(|| encoder.forward(&x, Some(&mask)).unwrap()))
            })
            .collect();
        assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{sharing:?}");
    }
}

#[test]
fn decoders() {
    let config = DecoderConfig::new(CausalConfig::new(32, 4, 512, 2), LinformerConfig::new(32, 4, 400, 16), 2);
    let decoder = Decoder::<f64>::new(&config, 1).unwrap();
    let (x, source) = (sequence((3, 300, 32), 1), sequence((3, 400, 32), 2));
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let pass = linformer::TrainingPass::new(linformer::training::Step::new(1, 0)).with_residual_dropout(0.1);
            let (y, cache) = decoder.forward_train(&x, None, &source, None, &pass).unwrap();
            let mut gradients = decoder.zeros_like();
            let (dx, dsource) = decoder.backward(cache, y.clone(), &mut gradients).unwrap();
            let forward = decoder.forward(&x, None, &source, None).unwrap();
            (
                [forward, y, dx, dsource].map(|array| bits(&array)),
                crate::common::model_bits(&gradients),
            )
        })
    };
    let one = run(1);
    assert!(one == run(2) && one == run(3));
}

#[test]
fn exact_attention() {
    let mut layer = ExactAttention::<f64>::new(&AttentionConfig::new(6, 2).with_key_value_bias(true, true), 1).unwrap();
    scramble(&mut layer, 7);
    let x = sequence((2, 600, 6), 1);
    let holes = PaddingMask::from_bools(&Array2::from_shape_fn((2, 600), |(item, t)| t % 9 != item));
    for mask in [None, Some(&holes)] {
        let run = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let forward = layer.forward(&x, mask).unwrap();
                let stored = layer.forward_materialized(&x, mask).unwrap();
                let map = layer.attention_map(&x, &x, mask).unwrap();
                [bits(&forward), bits(&stored), bits(&map)]
            })
        };
        let one = run(1);
        assert!(one == run(2) && one == run(5));
    }
}

/// Lengths whose last tile is of a few rows for one number of threads and of many for another.
#[test]
fn linear_layers_and_token_scores() {
    let layer = Linear::<f64>::new(64, 64, true, 1).unwrap();
    let attention = LinformerConfig::new(512, 4, 301, 16);
    let encoder = EncoderConfig::new(attention, 1).with_feed_forward(Some(FeedForwardConfig::new(64)));
    let model = LanguageModel::<f64>::new(&LanguageModelConfig::new(50, encoder), 1).unwrap();
    for length in [100, 241, 301] {
        let x = sequence((1, length, 64), 3);
        let tokens = Array2::from_shape_fn((1, length), |(_, t)| t * 7 % 50);
        let all = || (layer.forward(&x).unwrap(), model.forward(&tokens, None).unwrap());
        let expected = in_pool(1, all);
        for threads in [2, 3, 5, 6] {
            assert_eq!(in_pool(threads, all), expected, "{threads} threads, length {length}");
        }
    }
}

/// Every kind of attention whose gradients are computed side by side, with masks, holes in them, and dropout.
#[test]
fn gradients() {
    let compressed = |k| LinformerConfig::new(64, 4, 700, k);
    for config in [
        EncoderConfig::new(compressed(16), 2),
        EncoderConfig::new(compressed(16).with_sharing(Sharing::None).with_key_value_bias(true, true), 1),
        EncoderConfig::new(compressed(16).with_sharing(Sharing::Layerwise).with_kv_heads(2), 2),
        EncoderConfig::new(AttentionConfig::new(64, 4).with_kv_heads(2), 1),
    ] {
        let encoder = Encoder::<f64>::new(&config, 1).unwrap();
        for length in [100, 700] {
            let x = sequence((2, length, 64), 3);
            let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, t)| item == 0 || t % 5 > 0));
            for (mask, pass) in [
                (None, TrainingPass::new(Step::new(0, 0))),
                (Some(&mask), TrainingPass::new(Step::new(0, 0)).with_attention_dropout(0.1)),
            ] {
                let all = || {
                    let (y, cache) = encoder.forward_train(&x, mask, &pass).unwrap();
                    let mut gradients = encoder.zeros_like();
                    let dx = encoder.backward(cache, y, &mut gradients).unwrap();
                    (bits(&dx), model_bits(&gradients))
                };
                let expected = in_pool(1, all);
                for threads in [2, 3, 5] {
                    assert!(in_pool(threads, all) == expected, "{threads} threads, length {length}, {config:?}");
                }
            }
        }
    }
}
