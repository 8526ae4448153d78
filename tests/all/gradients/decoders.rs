//! The gradients of decoders and encoder–decoders against central differences, in f64.

use crate::common::decoder::{SOURCE, VOCABULARIES, causal_decoder, encoder_decoder, open_decoder, text};
use crate::common::gradients::{check, mask, pass, weights};
use crate::common::{scramble, sequence};
use linformer::ndarray::{Array2, Array3};
use linformer::training::Step;
use linformer::{
    CausalConfig, Decoder, DecoderConfig, DecoderLanguageModelConfig, Embedding, EncoderConfig, EncoderDecoder, EncoderDecoderConfig,
    LanguageModelConfig, LinformerConfig, PaddingMask, Parameters, PositionKind, TokenPairs, TrainingPass,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// (2, length) token ids.
fn tokens(length: usize, vocabulary: usize, seed: u64) -> Array2<usize> {
    let ids = [text(length, vocabulary, seed), text(length, vocabulary, seed + 5)].concat();
    Array2::from_shape_vec((2, length), ids).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn decoder(
        config in prop_oneof![causal_decoder().boxed(), open_decoder().boxed()], m in 1..=5_usize, n in 1..=SOURCE, pattern: u64, masked: bool,
        checkpointing: bool, dropout: bool, seed in 0..1000_u64,
    ) {
        let mut decoder = Decoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut decoder, seed);
        let (x, source) = (sequence((2, m, 5), seed), sequence((2, n, 5), seed + 1));
        let (own, other) = (mask(pattern, m), mask(!pattern, n));
        let (own, other) = (masked.then_some(&own), masked.then_some(&other));
        let pass = pass(seed, dropout).with_gradient_checkpointing(checkpointing);
        let forward = |decoder: &Decoder<f64>, x: &Array3<f64>, source: &Array3<f64>| {
            decoder.forward_train(x, own, source, other, &pass).unwrap()
        };
        let (y, cache) = forward(&decoder, &x, &source);
        if !dropout {
            let plain = decoder.forward(&x, own, &source, other).unwrap();
            prop_assert!((&y - &plain).iter().all(|difference| difference.abs() < 1e-10));
        }
        let mut gradients = decoder.zeros_like();
        let (dx, dsource) = decoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&decoder, &x, &dx, &gradients, |decoder, x| forward(decoder, x, &source).0);
        // Of the source alone: the parameters have been looked at.
        check(&Nothing, &source, &dsource, &Nothing, |_, source| forward(&decoder, &x, source).0);
    }

    #[test]
    fn encoder_and_decoder(
        config in encoder_decoder(), m in 1..=4_usize, n in 2..=SOURCE, masked: bool, checkpointing: bool, dropout: bool, seed in 0..1000_u64,
    ) {
        let mut model = EncoderDecoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut model, seed);
        let (source, target) = (tokens(n, VOCABULARIES.0, seed), tokens(m, VOCABULARIES.1, seed));
        let source_mask = PaddingMask::from_lengths(&[n, n - 1], n).unwrap();
        let target_mask = PaddingMask::from_lengths(&[m, m - 1], m).unwrap();
        let pairs = TokenPairs::new(&source, &target)
            .with_source_mask(masked.then_some(&source_mask))
            .with_target_mask(masked.then_some(&target_mask));
        let pass = pass(seed, dropout).with_gradient_checkpointing(checkpointing);
        let forward = |model: &EncoderDecoder<f64>| model.forward_train(&pairs, &pass).unwrap();
        let (y, cache) = forward(&model);
        if !dropout {
            prop_assert!((&y - &model.forward(&pairs).unwrap()).iter().all(|difference| difference.abs() < 1e-10));
        }
        let mut gradients = model.zeros_like();
        model.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        let nothing = Array3::zeros((0, 0, 0));
        check(&model, &nothing, &nothing, &gradients, |model, _| forward(model).0);
    }
}

/// What is dropped of a source's token vectors is not what is dropped of a target's, however many blocks are between them.
#[test]
fn the_two_sides_drop_apart() {
    let attention = || LinformerConfig::new(8, 2, 6, 3);
    for depth in 0..3 {
        let source = LanguageModelConfig::new(6, EncoderConfig::new(attention(), depth)).with_position(PositionKind::None);
        let decoder = DecoderConfig::new(CausalConfig::new(8, 2, 6, 1), attention(), 1);
        let target = DecoderLanguageModelConfig::new(6, decoder).with_position(PositionKind::None);
        let model = EncoderDecoder::<f64>::new(&EncoderDecoderConfig::new(source, target), 1).unwrap();
        let tokens = Array2::from_shape_fn((1, 6), |(_, position)| position);
        let pass = TrainingPass::new(Step::new(1, 0)).with_embedding_dropout(0.5);
        let (y, cache) = model.forward_train(&TokenPairs::new(&tokens, &tokens), &pass).unwrap();
        let mut gradients = model.zeros_like();
        model.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        let dropped = |vectors: &Embedding<f64>| vectors.weight().mapv(|gradient| gradient == 0.0);
        let (source, target) = (dropped(gradients.source().embedding()), dropped(gradients.target().embedding()));
        assert!([&source, &target].iter().all(|side| side.iter().any(|&dropped| dropped)));
        assert_ne!(source, target, "{depth} blocks");
    }
}

/// A model without parameters.
#[derive(Clone)]
struct Nothing;

impl Parameters<f64> for Nothing {
    fn visit<'a>(&'a self, _: &str, _: &mut linformer::Visitor<'_, 'a, f64>) {}

    fn visit_mut<'a>(&'a mut self, _: &str, _: &mut linformer::VisitorMut<'_, 'a, f64>) {}
}
