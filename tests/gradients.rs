//! Every backward pass against central differences, in f64.

mod common;

use common::{encoder_config, linformer_config, scramble, sequence};
use linformer::ndarray::{Array2, Array3, ArrayD, Axis};
use linformer::training::Step;
use linformer::{
    Activation, AttentionKind, BlockwiseCausalAttention, Classifier, ClassifierConfig, ClassifierInput, Encoder, EncoderConfig,
    ExactAttention, HeadKind, LanguageModel, LanguageModelConfig, LinformerAttention, PaddingMask, Parameters, Pooling, PositionKind,
    SinusoidLayout, TrainingPass,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

/// The second is for elements that stand so near a tie of max pooling, or a kink, that the first goes over it.
const STEPS: [f64; 2] = [1e-5, 1e-7];

/// Weighs an output by fixed numbers: a loss whose gradient is these numbers.
fn weights(dim: (usize, usize, usize)) -> Array3<f64> {
    sequence(dim, 77)
}

fn loss(y: &Array3<f64>) -> f64 {
    (y * &weights(y.dim())).sum()
}

/// The largest error of `gradient` relative to the scale of the gradient, against central differences of `loss` in every element.
fn error(gradient: &ArrayD<f64>, mut loss: impl FnMut(usize, f64) -> f64) -> f64 {
    let scale = gradient.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
    let errors = gradient.iter().enumerate().map(|(index, value)| {
        let wrong = STEPS.map(|step| {
            let numeric = (loss(index, step) - loss(index, -step)) / (2.0 * step);
            (numeric - value).abs() / scale
        });
        wrong[0].min(wrong[1])
    });
    errors.fold(0.0, f64::max)
}

/// Checks the gradients of all parameters of `model` and of `x`.
fn check<M: Parameters<f64> + Clone>(
    model: &M,
    x: &Array3<f64>,
    dx: &Array3<f64>,
    gradients: &M,
    forward: impl Fn(&M, &Array3<f64>) -> Array3<f64>,
) {
    let moved = |index: usize, by: f64| {
        let mut x = x.clone();
        x.as_slice_mut().unwrap()[index] += by;
        loss(&forward(model, &x))
    };
    let wrong = error(&dx.clone().into_dyn(), moved);
    assert!(wrong < 1e-6, "input: {wrong:e}");
    for (name, gradient) in gradients.named() {
        let moved = |index: usize, by: f64| {
            let mut model = model.clone();
            model.visit_mut("", &mut |own, _, mut tensor| {
                if own == name {
                    *tensor.iter_mut().nth(index).unwrap() += by;
                }
            });
            loss(&forward(&model, x))
        };
        let mut buffer = false;
        model.visit("", &mut |own, role, _| buffer |= own == name && role == linformer::Role::Buffer);
        if buffer {
            assert!(gradient.iter().all(|&value| value == 0.0), "{name} is a buffer");
            continue;
        }
        let wrong = error(&gradient.to_owned(), moved);
        assert!(wrong < 1e-6, "{name}: {wrong:e}");
    }
}

fn mask(pattern: u64, length: usize) -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, position)| {
        pattern >> ((item * 31 + position) % 64) & 1 == 1
    }))
}

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
        let dx = layer.backward(&cache, &weights(y.dim()), &mut gradients).unwrap();
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
        let dx = layer.backward(&cache, &weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, mask).unwrap());
    }

    #[test]
    fn causal_attention(
        config in common::causal::causal_config(), n in 1..=9_usize, pattern: u64, masked: bool, seed in 0..1000_u64,
    ) {
        let mut layer = BlockwiseCausalAttention::<f64>::new(&config, seed).unwrap();
        scramble(&mut layer, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let (y, cache) = layer.forward_train(&x, mask).unwrap();
        prop_assert!((&y - &layer.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-11));
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(&cache, &weights(y.dim()), &mut gradients).unwrap();
        check(&layer, &x, &dx, &gradients, |layer, x| layer.forward(x, mask).unwrap());
    }

    #[test]
    fn causal_encoder(
        config in common::causal::encoder_config(), n in 1..=6_usize, pattern: u64, masked: bool, checkpointing: bool, dropout: bool,
        seed in 0..1000_u64,
    ) {
        let mut encoder = Encoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut encoder, seed);
        let (x, mask) = (sequence((2, n, 5), seed), mask(pattern, n));
        let mask = masked.then_some(&mask);
        let pass = pass(seed, dropout).with_gradient_checkpointing(checkpointing);
        let (y, cache) = encoder.forward_train(x.clone(), mask, &pass).unwrap();
        if !dropout {
            prop_assert!((&y - &encoder.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-10));
        }
        let mut gradients = encoder.zeros_like();
        let dx = encoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&encoder, &x, &dx, &gradients, |encoder, x| encoder.forward_train(x.clone(), mask, &pass).unwrap().0);
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
        let (y, cache) = encoder.forward_train(x.clone(), mask, &pass).unwrap();
        if !dropout {
            prop_assert!((&y - &encoder.forward(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-10));
        }
        let mut gradients = encoder.zeros_like();
        let dx = encoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&encoder, &x, &dx, &gradients, |encoder, x| encoder.forward_train(x.clone(), mask, &pass).unwrap().0);
    }

    #[test]
    fn language_model(
        config in encoder_config(3..=5), head in select(vec![
            HeadKind::None, HeadKind::Plain, HeadKind::Tied,
            HeadKind::Roberta { tied: true, activation: Activation::Gelu }, HeadKind::Roberta { tied: false, activation: Activation::Tanh },
        ]),
        position in select(vec![
            PositionKind::None, PositionKind::Learned { max_len: 5 }, PositionKind::LearnedAfterPadding { max_len: 5, padding_token: 1 },
            PositionKind::Sinusoidal { base: 100.0, layout: SinusoidLayout::Halves, stored: true },
        ]),
        width in select(vec![None, Some(4)]), norm: bool, zeroed: bool, chosen: bool, masked: bool, dropout: bool, seed in 0..1000_u64,
    ) {
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let n = attention.seq_len.min(5);
        let config = LanguageModelConfig::new(6, shallow(config.clone(), 1))
            .with_head(head).with_position(position).with_embedding_dim(width).with_embedding_norm(norm).with_zeroed_token(zeroed.then_some(1));
        let mut model = LanguageModel::<f64>::new(&config, seed).unwrap();
        scramble(&mut model, seed);
        let start = usize::try_from(seed).unwrap();
        let tokens = Array2::from_shape_fn((2, n), |(item, position)| (start + item * 7 + position * 5) % 6);
        let mask = PaddingMask::from_lengths(&[n, n - 1], n).unwrap();
        let mask = masked.then_some(&mask);
        let positions = chosen.then(|| vec![vec![0, n - 1], vec![1, 1]]);
        let pass = pass(seed, dropout);
        let forward = |model: &LanguageModel<f64>| model.forward_train(&tokens, positions.as_deref(), mask, &pass).unwrap();
        let (y, cache) = forward(&model);
        let mut gradients = model.zeros_like();
        model.backward(cache, &weights(y.dim()), &mut gradients).unwrap();
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
        let forward = |model: &Classifier<f64>, x: &Array3<f64>| model.forward_train_features(x, mask, &pass).unwrap();
        let (y, cache) = forward(&model, &x);
        prop_assert!((&y - &model.forward_features(&x, mask).unwrap()).iter().all(|difference| difference.abs() < 1e-10));
        let dy = weights((1, 2, 4)).index_axis_move(Axis(0), 0);
        let mut gradients = model.zeros_like();
        let dx = model.backward(cache, &dy, &mut gradients).unwrap().unwrap();
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

/// A pass that drops some of everything, or nothing.
fn pass(seed: u64, dropout: bool) -> TrainingPass {
    let pass = TrainingPass::new(Step::new(seed, 3));
    if !dropout {
        return pass;
    }
    pass.with_attention_dropout(0.3)
        .with_residual_dropout(0.2)
        .with_activation_dropout(0.25)
        .with_embedding_dropout(0.1)
        .with_layer_drop(0.2)
}
