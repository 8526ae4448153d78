//! Padding reaches no gradient, whatever stands there: NaN, infinities, the largest numbers. The gradients are those with zeros there, bit for bit.

use crate::common::decoder::{SOURCE, VOCABULARIES, causal_decoder, encoder_decoder, open_decoder, text};
use crate::common::gradients::pass;
use crate::common::{encoder_config, linformer_config, sequence};
use linformer::ndarray::{Array2, Array3, ArrayD, Axis};
use linformer::training::{CrossEntropy, TokenBatch, Trainable};
use linformer::{
    Activation, AttentionKind, BlockwiseCausalAttention, Classifier, ClassifierConfig, ClassifierInput, Decoder, Encoder, EncoderDecoder,
    ExactAttention, FeedForward, FeedForwardConfig, HeadKind, LanguageModel, LanguageModelConfig, LinformerAttention, PaddingMask,
    Parameters, Pooling, PositionKind, Scalar, TokenPairs,
};
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::RngSeed;

/// What is put where padding is.
fn poisons<A: Scalar>() -> [A; 5] {
    [A::nan(), A::infinity(), A::neg_infinity(), A::max_value(), A::cast(-3e38)]
}

/// Padding on the right, or holes; the second item has one real position at least, the first may have none.
fn mask(pattern: u64, length: usize, right: bool) -> PaddingMask {
    let lengths = [0, 1].map(|item| item.max(usize::try_from(pattern >> (8 * item)).unwrap() % (length + 1)));
    PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, position)| {
        let hole = pattern >> ((item * 31 + position) % 64) & 1 == 1;
        if right { position < lengths[item] } else { hole }
    }))
}

/// `x` with `value` at padding.
fn padded<A: Scalar>(x: &Array3<A>, mask: &PaddingMask, value: A) -> Array3<A> {
    let (_, length, width) = x.dim();
    let at = |index: usize| (index / (length * width), index / width % length);
    let numbers = x.iter().enumerate().map(|(index, &number)| {
        let (item, position) = at(index);
        if mask.is_real(item, position) { number } else { value }
    });
    Array3::from_shape_vec(x.dim(), numbers.collect()).unwrap()
}

fn numbers<A: Scalar>(shape: (usize, usize, usize), seed: u64) -> Array3<A> {
    sequence(shape, seed).mapv(A::cast)
}

fn tensors<A: Scalar>(model: &impl Parameters<A>) -> Vec<(String, ArrayD<A>)> {
    model.named().into_iter().map(|(name, tensor)| (name, tensor.to_owned())).collect()
}

/// Asserts that `gradients` of inputs with padding of any kind are those of inputs with zeros there.
fn check<A: Scalar>(gradients: impl Fn(A) -> Vec<(String, ArrayD<A>)>) {
    let expected = gradients(A::zero());
    assert!(expected.iter().any(|(_, gradient)| !gradient.is_empty()));
    for value in poisons::<A>() {
        for ((name, found), (_, expected)) in gradients(value).iter().zip(&expected) {
            assert!(
                found.iter().all(|number| number.is_finite()),
                "{name} with {value} at padding: {found}"
            );
            assert_eq!(found, expected, "{name} with {value} at padding");
        }
    }
}

/// The gradients of a layer with `x`, and those of its input.
macro_rules! of_layer {
    ($layer:expr, $x:expr, $mask:expr) => {{
        let (layer, mask) = (&$layer, &$mask);
        let x = $x;
        let dy = padded(&numbers(x.dim(), 77), mask, A::zero());
        check::<A>(|value| {
            let (_, cache) = layer.forward_train(&padded(&x, mask, value), Some(mask)).unwrap();
            let mut gradients = layer.zeros_like();
            let dx = layer.backward(cache, dy.clone(), &mut gradients).unwrap();
            let mut all = tensors(&gradients);
            all.push(("x".to_owned(), dx.into_dyn()));
            all
        });
    }};
}

fn attention<A: Scalar>(config: &linformer::LinformerConfig, mask: &PaddingMask, seed: u64) {
    let n = config.seq_len;
    let layer = LinformerAttention::<A>::new(config, seed).unwrap();
    of_layer!(layer, numbers::<A>((2, n, 5), seed), *mask);
    let mut attention = config.attention.clone();
    for (causal, stay) in [(false, false), (false, true), (true, false), (true, true)] {
        attention = attention.with_causal(causal).with_masked_keys_stay(stay);
        let layer = ExactAttention::<A>::new(&attention, seed).unwrap();
        of_layer!(layer, numbers::<A>((2, n, 5), seed), *mask);
    }
    // Other sequences of queries have padding of their own.
    let (context, queries) = (numbers::<A>((2, n, 5), seed), numbers::<A>((2, 4, 5), seed + 1));
    let own = PaddingMask::from_lengths(&[3, 1], 4).unwrap();
    let dy = padded(&numbers(queries.dim(), 77), &own, A::zero());
    check::<A>(|value| {
        let (queries, context) = (padded(&queries, &own, value), padded(&context, mask, value));
        let (_, cache) = layer.forward_train_cross(&queries, &context, Some(mask)).unwrap();
        let mut gradients = layer.zeros_like();
        let (dqueries, dcontext) = layer.backward_cross(cache, dy.clone(), &mut gradients).unwrap();
        let mut all = tensors(&gradients);
        all.extend([
            ("queries".to_owned(), dqueries.into_dyn()),
            ("context".to_owned(), dcontext.into_dyn()),
        ]);
        all
    });
}

fn blockwise<A: Scalar>(config: &linformer::CausalConfig, mask: &PaddingMask, seed: u64) {
    let layer = BlockwiseCausalAttention::<A>::new(config, seed).unwrap();
    of_layer!(layer, numbers::<A>((2, mask.dim().1, 5), seed), *mask);
}

fn encoder<A: Scalar>(config: &linformer::EncoderConfig, mask: &PaddingMask, pass: &linformer::TrainingPass, seed: u64) {
    let encoder = Encoder::<A>::new(config, seed).unwrap();
    let x = numbers::<A>((2, mask.dim().1, 5), seed);
    check::<A>(|value| {
        let (y, cache) = encoder.forward_train(&padded(&x, mask, value), Some(mask), pass).unwrap();
        let mut gradients = encoder.zeros_like();
        let dy = padded(&numbers(y.dim(), 77), mask, A::zero());
        let dx = encoder.backward(cache, dy.clone(), &mut gradients).unwrap();
        let mut all = tensors(&gradients);
        all.push(("x".to_owned(), dx.into_dyn()));
        all
    });
}

fn decoder<A: Scalar>(config: &linformer::DecoderConfig, masks: &[PaddingMask; 2], pass: &linformer::TrainingPass, seed: u64) {
    let decoder = Decoder::<A>::new(config, seed).unwrap();
    let [own, other] = masks;
    let (x, source) = (
        numbers::<A>((2, own.dim().1, 5), seed),
        numbers::<A>((2, other.dim().1, 5), seed + 1),
    );
    let dy = padded(&numbers(x.dim(), 77), own, A::zero());
    check::<A>(|value| {
        let (x, source) = (padded(&x, own, value), padded(&source, other, value));
        let (_, cache) = decoder.forward_train(&x, Some(own), &source, Some(other), pass).unwrap();
        let mut gradients = decoder.zeros_like();
        let (dx, dsource) = decoder.backward(cache, dy.clone(), &mut gradients).unwrap();
        let mut all = tensors(&gradients);
        all.extend([("x".to_owned(), dx.into_dyn()), ("source".to_owned(), dsource.into_dyn())]);
        all
    });
}

/// Sets the numbers of the last token's vector, which stands at padding only.
fn poison_token<A: Scalar, M: Parameters<A>>(model: &mut M, tensor: &str, value: A) {
    let mut found = false;
    model.visit_mut("", &mut |name, _, mut numbers| {
        if name == tensor {
            found = true;
            let last = numbers.len_of(Axis(0)) - 1;
            numbers.index_axis_mut(Axis(0), last).fill(value);
        }
    });
    assert!(found, "{tensor}");
}

fn language_model<A: Scalar>(config: &LanguageModelConfig, mask: &PaddingMask, seed: u64) {
    let (_, length) = mask.dim();
    let model = LanguageModel::<A>::new(config, seed).unwrap();
    let last = config.vocab_size - 1;
    let tokens = Array2::from_shape_fn((2, length), |(item, position)| {
        if mask.is_real(item, position) {
            (item * 7 + position * 5) % last
        } else {
            last
        }
    });
    let targets: Vec<_> = tokens
        .indexed_iter()
        .map(|((item, position), &token)| mask.is_real(item, position).then_some(token))
        .collect();
    let (loss, pass) = (CrossEntropy::new().with_label_smoothing(0.1), pass(seed, true));
    check::<A>(|value| {
        let mut model = model.clone();
        poison_token(&mut model, "embedding.weight", value);
        let (_, gradients) = model
            .loss_and_gradients(&TokenBatch::new(&tokens, &targets).with_mask(mask), &loss, &pass)
            .unwrap();
        tensors(&gradients)
    });
}

fn classifier<A: Scalar>(config: &ClassifierConfig, mask: &PaddingMask, seed: u64) {
    let model = Classifier::<A>::new(config, seed).unwrap();
    let x = numbers::<A>((2, mask.dim().1, 3), seed);
    check::<A>(|value| {
        let x = padded(&x, mask, value);
        let (_, cache) = model.forward_train(&x, Some(mask), &pass(seed, true)).unwrap();
        let dy = numbers::<A>((1, 2, 4), 77).index_axis_move(Axis(0), 0);
        let mut gradients = model.zeros_like();
        let dx = model.backward(cache, dy, &mut gradients).unwrap().unwrap();
        let mut all = tensors(&gradients);
        all.push(("x".to_owned(), dx.into_dyn()));
        all
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn attention_of_every_kind(config in linformer_config(1..=9), pattern: u64, right: bool, seed in 0..1000_u64) {
        let mask = mask(pattern, config.seq_len, right);
        attention::<f64>(&config, &mask, seed);
        attention::<f32>(&config, &mask, seed);
    }

    #[test]
    fn causal_attention(config in crate::common::causal::causal_config(), n in 1..=9_usize, pattern: u64, right: bool, seed in 0..1000_u64) {
        let mask = mask(pattern, n, right);
        blockwise::<f64>(&config, &mask, seed);
        blockwise::<f32>(&config, &mask, seed);
    }

    #[test]
    fn encoders(
        config in prop_oneof![encoder_config(2..=6).boxed(), crate::common::causal::encoder_config().boxed()], pattern: u64, right: bool,
        checkpointing: bool, dropout: bool, seed in 0..1000_u64,
    ) {
        let n = match &config.attention {
            AttentionKind::Linformer(attention) => attention.seq_len,
            _ => 6,
        };
        let mask = mask(pattern, n, right);
        let pass = pass(seed, dropout).with_gradient_checkpointing(checkpointing);
        encoder::<f64>(&config, &mask, &pass, seed);
        encoder::<f32>(&config, &mask, &pass, seed);
    }

    #[test]
    fn decoders(
        config in prop_oneof![causal_decoder().boxed(), open_decoder().boxed()], m in 1..=5_usize, n in 1..=SOURCE, pattern: u64, right: bool,
        checkpointing: bool, dropout: bool, seed in 0..1000_u64,
    ) {
        let masks = [mask(pattern, m, right), mask(!pattern, n, right)];
        let pass = pass(seed, dropout).with_gradient_checkpointing(checkpointing);
        decoder::<f64>(&config, &masks, &pass, seed);
        decoder::<f32>(&config, &masks, &pass, seed);
    }

    #[test]
    fn language_models(
        config in encoder_config(3..=5), head in select(vec![
            HeadKind::Plain, HeadKind::Roberta { tied: false, activation: Activation::Gelu }, HeadKind::Roberta { tied: false, activation: Activation::Tanh },
        ]),
        width in select(vec![None, Some(4)]), norm: bool, learned: bool, pattern: u64, right: bool, seed in 0..1000_u64,
    ) {
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let mask = mask(pattern, attention.seq_len, right);
        let position = if learned { PositionKind::Learned { max_len: attention.seq_len } } else { PositionKind::None };
        let config = LanguageModelConfig::new(6, config)
            .with_head(head).with_position(position).with_embedding_dim(width).with_embedding_norm(norm);
        language_model::<f64>(&config, &mask, seed);
        language_model::<f32>(&config, &mask, seed);
    }

    #[test]
    fn classifiers(
        config in encoder_config(2..=5), pooling in select(vec![Pooling::Mean, Pooling::Max, Pooling::First]), hidden in select(vec![None, Some(4)]),
        pattern: u64, right: bool, learned: bool, seed in 0..1000_u64,
    ) {
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let n = attention.seq_len;
        let mask = mask(pattern, n, right);
        let position = if learned { PositionKind::Learned { max_len: n } } else { PositionKind::None };
        let input = ClassifierInput::Features { features: 3, encoder: config.clone(), position };
        let config = ClassifierConfig::new(input, 4).with_pooling(pooling).with_hidden_dim(hidden);
        classifier::<f64>(&config, &mask, seed);
        classifier::<f32>(&config, &mask, seed);
    }

    #[test]
    fn encoder_decoders(config in encoder_decoder(), m in 2..=4_usize, n in 2..=SOURCE, pattern: u64, right: bool, seed in 0..1000_u64) {
        let masks = [mask(pattern, n, right), mask(!pattern, m, right)];
        let [source, target] = [(&masks[0], n, VOCABULARIES.0), (&masks[1], m, VOCABULARIES.1)].map(|(mask, length, vocabulary)| {
            let ids = [text(length, vocabulary - 1, seed), text(length, vocabulary - 1, seed + 5)].concat();
            let mut tokens = Array2::from_shape_vec((2, length), ids).unwrap();
            tokens.indexed_iter_mut().for_each(|((item, position), token)| {
                if !mask.is_real(item, position) {
                    *token = vocabulary - 1;
                }
            });
            tokens
        });
        let model = EncoderDecoder::<f64>::new(&config, seed).unwrap();
        let pairs = TokenPairs::new(&source, &target).with_source_mask(Some(&masks[0])).with_target_mask(Some(&masks[1]));
        let pass = pass(seed, true);
        // A head that is tied to the vectors multiplies every position by that of padding.
        let is_tied = config.target.head == HeadKind::Tied;
        check::<f64>(|value| {
            let mut model = model.clone();
            poison_token(&mut model, "source.embedding.weight", value);
            if !is_tied {
                poison_token(&mut model, "target.embedding.weight", value);
            }
            let (y, cache) = model.forward_train(&pairs, &pass).unwrap();
            let dy = padded(&numbers(y.dim(), 77), &masks[1], 0.0);
            let mut gradients = model.zeros_like();
            model.backward(cache, dy, &mut gradients).unwrap();
            tensors(&gradients)
        });
    }
}

/// Layers that know of no mask leave out the rows whose gradient is 0.
fn feed_forward<A: Scalar>(config: &FeedForwardConfig) {
    let layer = FeedForward::<A>::new(5, 5, config, 1).unwrap();
    let (x, mask) = (numbers::<A>((2, 7, 5), 1), mask(0b101_1010, 7, false));
    let dy = padded(&numbers(x.dim(), 77), &mask, A::zero());
    check::<A>(|value| {
        let (_, cache) = layer.forward_train(&padded(&x, &mask, value)).unwrap();
        let mut gradients = layer.zeros_like();
        let dx = layer.backward(cache, dy.clone(), &mut gradients).unwrap();
        let mut all = tensors(&gradients);
        all.push(("x".to_owned(), dx.into_dyn()));
        all
    });
}

#[test]
fn feed_forwards() {
    for activation in [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Relu,
        Activation::Silu,
        Activation::Tanh,
    ] {
        for gated in [false, true] {
            let config = FeedForwardConfig::new(9).with_activation(activation).with_gated(gated);
            feed_forward::<f64>(&config);
            feed_forward::<f32>(&config);
        }
    }
}

/// Sequences that take several tiles of rows and blocks of keys.
#[test]
fn long_sequences() {
    use linformer::{AttentionConfig, CausalConfig, EncoderConfig, LinformerConfig, LocalGlobalConfig, NormPlacement, ProjectionKind};
    let exact = AttentionConfig::new(8, 4).with_kv_heads(2);
    let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, 600), |(item, t)| {
        item == 0 && t < 300 || (t % 5 > 0 && t < 577)
    }));
    for config in [
        EncoderConfig::new(CausalConfig::new(8, 4, 600, 2).with_window(Some(64)), 1),
        EncoderConfig::new(exact.clone().with_causal(true), 1).with_norm(NormPlacement::Post),
        EncoderConfig::new(LocalGlobalConfig::new(8, 4).with_causal(true).with_block(8).with_slots(2), 1),
        EncoderConfig::new(exact, 1),
        EncoderConfig::new(LinformerConfig::new(8, 4, 600, 530), 1).with_norm(NormPlacement::Post),
        EncoderConfig::new(LinformerConfig::new(8, 4, 600, 16).with_kind(ProjectionKind::MaxPooling), 1),
        EncoderConfig::new(LinformerConfig::new(8, 4, 600, 16).with_kind(ProjectionKind::AttentionPooling), 1),
    ] {
        let encoder = Encoder::<f32>::new(&config, 1).unwrap();
        let x = numbers::<f32>((2, 600, 8), 1);
        let dy = padded(&numbers(x.dim(), 77), &mask, 0.0);
        check::<f32>(|value| {
            let pass = pass(1, true).with_layer_drop(0.0);
            let (_, cache) = encoder.forward_train(&padded(&x, &mask, value), Some(&mask), &pass).unwrap();
            let mut gradients = encoder.zeros_like();
            let dx = encoder.backward(cache, dy.clone(), &mut gradients).unwrap();
            let mut all = tensors(&gradients);
            all.push(("x".to_owned(), dx.into_dyn()));
            all
        });
    }
}
