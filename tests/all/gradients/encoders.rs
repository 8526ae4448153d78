//! Every backward pass against central differences, in f64.

use crate::common::gradients::{check, mask, pass, weights};
use crate::common::{encoder_config, linformer_config, scramble, sequence};
use linformer::ndarray::{Array2, Array3, Axis};
use linformer::{
    Activation, AttentionKind, BlockwiseCausalAttention, Classifier, ClassifierConfig, ClassifierInput, Encoder, EncoderConfig,
    ExactAttention, HeadKind, LanguageModel, LanguageModelConfig, LinformerAttention, LocalGlobalAttention, PaddingMask, Parameters,
    Pooling, PositionKind, SinusoidLayout,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn linformer_attention(config in linformer_config(1..=9), pattern: u64, masked: bool, seed in 0..1000_u64) {
        let mut layer = LinformerAttention::<f64>::new(&config, seed).unwrap();
        scramble(&mut layer, seed);
        let x = sequence((2, config.seq_len, 5), seed);
        let mask = mask(pattern, config.seq_len);
        let mask = masked.then_some(&mask);
        let (y, cache) = layer.forward_train(&x, mask).unwrap();
        prop_assert!((&y - &layer.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-11));
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, mask).unwrap());
    }

    #[test]
    fn exact_attention(config in linformer_config(1..=9), pattern: u64, masked: bool, seed in 0..1000_u64) {
        let mut layer = ExactAttention::<f64>::new(&config.attention, seed).unwrap();
        scramble(&mut layer, seed);
        let x = sequence((2, config.seq_len, 5), seed);
        let mask = mask(pattern, config.seq_len);
        let mask = masked.then_some(&mask);
        let (y, cache) = layer.forward_train(&x, mask).unwrap();
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, mask).unwrap());
    }

    #[test]
    fn causal_attention(
        config in crate::common::causal::causal_config(), n in 1..=9_usize, pattern: u64, masked: bool, seed in 0..1000_u64,
    ) {
        let mut layer = BlockwiseCausalAttention::<f64>::new(&config, seed).unwrap();
        scramble(&mut layer, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let (y, cache) = layer.forward_train(&x, mask).unwrap();
        prop_assert!((&y - &layer.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-11));
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, mask).unwrap());
    }

    #[test]
    fn attention_to_segments(
        config in crate::common::causal::segments_config(), n in 1..=14_usize, pattern: u64, masked: bool, seed in 0..1000_u64,
    ) {
        let mut layer = LocalGlobalAttention::<f64>::new(&config, seed).unwrap();
        scramble(&mut layer, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let (y, cache) = layer.forward_train(&x, mask).unwrap();
        prop_assert!((&y - &layer.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-11));
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, mask).unwrap());
    }

    #[test]
    fn causal_encoder(
        config in crate::common::causal::encoder_config(), n in 1..=6_usize, pattern: u64, masked: bool, checkpointing: bool, dropout: bool,
        seed in 0..1000_u64,
    ) {
        let mut encoder = Encoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut encoder, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let pass = pass(seed, dropout).with_gradient_checkpointing(checkpointing);
        let (y, cache) = encoder.forward_train(&x, mask, &pass).unwrap();
        if !dropout {
            prop_assert!((&y - &encoder.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-10));
        }
        let mut gradients = encoder.zeros_like();
        let dx = encoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&encoder, &x, &dx, &gradients, |encoder, x| encoder.forward_train(x, mask, &pass).unwrap().0);
    }

    #[test]
    fn encoder(config in encoder_config(2..=6), pattern: u64, masked: bool, checkpointing: bool, dropout: bool, seed in 0..1000_u64) {
        let config = shallow(config, 2);
        let mut encoder = Encoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut encoder, seed);
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let x = sequence((2, attention.seq_len, 5), seed);
        let mask = mask(pattern, attention.seq_len);
        let mask = masked.then_some(&mask);
        let pass = pass(seed, dropout).with_gradient_checkpointing(checkpointing);
        let (y, cache) = encoder.forward_train(&x, mask, &pass).unwrap();
        if !dropout {
            prop_assert!((&y - &encoder.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-10));
        }
        let mut gradients = encoder.zeros_like();
        let dx = encoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&encoder, &x, &dx, &gradients, |encoder, x| encoder.forward_train(x, mask, &pass).unwrap().0);
    }

    #[test]
    fn language_model(
        config in encoder_config(3..=5), head in select(vec![
            HeadKind::None, HeadKind::Plain, HeadKind::Tied,
            HeadKind::Roberta { tied: true, activation: Activation::Gelu }, HeadKind::Roberta { tied: false, activation: Activation::Tanh },
            HeadKind::Labels { count: 3 },
        ]),
        position in select(vec![
            PositionKind::None, PositionKind::Learned { max_len: 5 }, PositionKind::LearnedAfterPadding { max_len: 5, padding_token: 1 },
            PositionKind::LearnedRepeating { max_len: 2, padding_token: None },
            PositionKind::LearnedRepeating { max_len: 2, padding_token: Some(1) },
            PositionKind::Sinusoidal { base: 100.0, layout: SinusoidLayout::Halves, stored: true },
        ]),
        types in select(vec![None, Some(1), Some(3)]), typed: bool, project_out: bool, width in select(vec![None, Some(4)]), norm: bool, zeroed: bool, chosen: bool, masked: bool, dropout: bool, seed in 0..1000_u64,
    ) {
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let n = attention.seq_len.min(5);
        let config = LanguageModelConfig::new(6, shallow(config.clone(), 1))
            .with_head(head).with_position(position).with_embedding_dim(width).with_embedding_norm(norm).with_zeroed_token(zeroed.then_some(1));
        let is_wide = width.is_some_and(|width| width != config.encoder.dim());
        let config = config.with_token_types(types).with_project_out(project_out || !is_wide || head == HeadKind::Tied);
        let mut model = LanguageModel::<f64>::new(&config, seed).unwrap();
        scramble(&mut model, seed);
        let start = usize::try_from(seed).unwrap();
        let tokens = Array2::from_shape_fn((2, n), |(item, position)| (start + item * 7 + position * 5) % 6);
        let mask = PaddingMask::from_lengths(&[n, n - 1], n).unwrap();
        let mask = masked.then_some(&mask);
        let positions = chosen.then(|| vec![vec![0, n - 1], vec![1, 1]]);
        let pass = pass(seed, dropout);
        let own_types = types.filter(|_| typed).map(|count| tokens.mapv(|token| (token + 1) % count));
        let forward = |model: &LanguageModel<f64>| match &own_types {
            Some(types) => model.forward_train_with_types(&tokens, types, positions.as_deref(), mask, &pass).unwrap(),
            None => model.forward_train(&tokens, positions.as_deref(), mask, &pass).unwrap(),
        };
        let (y, cache) = forward(&model);
        let mut gradients = model.zeros_like();
        model.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        let nothing = Array3::zeros((0, 0, 0));
        check(&model, &nothing, &nothing, &gradients, |model, _| forward(model).0);
    }

    #[test]
    fn classifier(
        config in encoder_config(2..=5), pooling in select(vec![Pooling::Mean, Pooling::Max, Pooling::First]), hidden in select(vec![None, Some(4)]),
        pattern: u64, masked: bool, learned: bool, seed in 0..1000_u64,
    ) {
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let n = attention.seq_len;
        let position = if learned { PositionKind::Learned { max_len: n } } else { PositionKind::None };
        let encoder = shallow(config.clone(), 1);
        let input = ClassifierInput::Features { features: 3, encoder, position };
        let config = ClassifierConfig::new(input, 4).with_pooling(pooling).with_hidden_dim(hidden);
        let mut model = Classifier::<f64>::new(&config, seed).unwrap();
        scramble(&mut model, seed);
        let x = sequence((2, n, 3), seed);
        let mask = mask(pattern, n);
        let mask = masked.then_some(&mask);
        let pass = pass(seed, false);
        let forward = |model: &Classifier<f64>, x: &Array3<f64>| model.forward_train(x, mask, &pass).unwrap();
        let (y, cache) = forward(&model, &x);
        prop_assert!((&y - &model.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-10));
        let dy = weights((1, 2, 4)).index_axis_move(Axis(0), 0);
        let mut gradients = model.zeros_like();
        let dx = model.backward(cache, dy, &mut gradients).unwrap().unwrap();
        check(&model, &x, &dx, &gradients, |model, x| forward(model, x).0.insert_axis(Axis(0)));
    }
}

fn shallow(mut config: EncoderConfig, depth: usize) -> EncoderConfig {
    config.depth = depth;
    if depth < 2 {
        config.hidden_dim = None;
    }
    config
}

/// The derivative along one direction, of sequences that take several tiles of rows and blocks of keys.
#[test]
fn long_sequences() {
    use linformer::{AttentionConfig, CausalConfig, LinformerConfig, LocalGlobalConfig, ProjectionKind, Sharing, SummarySoftmax};
    let compressed = |k| LinformerConfig::new(8, 4, 600, k);
    let blockwise = |block, window| CausalConfig::new(8, 4, 600, 2).with_block(Some(block)).with_window(Some(window));
    let kv_heads = AttentionConfig::new(8, 4).with_kv_heads(2);
    for config in [
        EncoderConfig::new(blockwise(64, 64), 1),
        EncoderConfig::new(blockwise(40, 540).with_sharing(Sharing::None), 1),
        EncoderConfig::new(
            blockwise(7, 3)
                .with_softmax(SummarySoftmax::Summed)
                .with_attention(kv_heads.clone()),
            1,
        ),
        EncoderConfig::new(kv_heads.clone().with_causal(true), 1),
        EncoderConfig::new(
            LocalGlobalConfig::new(8, 4)
                .with_attention(kv_heads.clone().with_causal(true))
                .with_block(8)
                .with_slots(3),
            1,
        ),
        EncoderConfig::new(LocalGlobalConfig::new(8, 4).with_causal(true).with_block(256), 1),
        EncoderConfig::new(kv_heads, 1),
        EncoderConfig::new(compressed(530).with_kv_heads(2), 1),
        EncoderConfig::new(compressed(20).with_sharing(Sharing::None), 1),
        EncoderConfig::new(compressed(16).with_kind(ProjectionKind::MeanPooling), 1),
        EncoderConfig::new(LocalGlobalConfig::new(8, 4).with_block(16).with_slots(5), 1),
        EncoderConfig::new(LocalGlobalConfig::new(8, 4).with_block(64).with_slots(40).with_kv_heads(2), 2).with_reversible(true),
    ] {
        let mut encoder = Encoder::<f64>::new(&config, 1).unwrap();
        scramble(&mut encoder, 1);
        let x = sequence((2, 600, 8), 1);
        let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, 600), |(item, t)| item == 0 || (t % 5 > 0 && t < 577)));
        let pass = pass(1, true).with_layer_drop(0.0);
        let forward = |encoder: &Encoder<f64>, x: &Array3<f64>| encoder.forward_train(x, Some(&mask), &pass).unwrap();
        let (y, cache) = forward(&encoder, &x);
        let mut gradients = encoder.zeros_like();
        let dx = encoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        let along = |place: usize| ((place * 37 % 101) as f64 - 50.0) / 50.0;
        let mut expected = dx.iter().enumerate().map(|(place, value)| value * along(place)).sum::<f64>();
        for (_, gradient) in gradients.named() {
            expected += gradient.iter().enumerate().map(|(place, value)| value * along(place)).sum::<f64>();
        }
        let moved = |by: f64| {
            let (mut encoder, mut x) = (encoder.clone(), x.clone());
            encoder.visit_mut("", &mut |_, _, mut tensor| {
                tensor.iter_mut().enumerate().for_each(|(place, value)| *value += by * along(place));
            });
            x.iter_mut().enumerate().for_each(|(place, value)| *value += by * along(place));
            let y = forward(&encoder, &x).0;
            (&y * &weights(y.dim())).sum()
        };
        let step = 1e-6;
        let found = (moved(step) - moved(-step)) / (2.0 * step);
        assert!(
            (found - expected).abs() < 1e-6 * expected.abs().max(1.0),
            "{found} {expected} {config:?}"
        );
    }
}
