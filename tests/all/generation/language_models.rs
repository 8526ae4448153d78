//! Going on with texts: the cache gives what whole runs give, and choices follow their options.

use crate::common::causal::encoder_config;
#[cfg(feature = "checkpoint")]
use crate::common::model_bits;
use crate::common::{difference, scramble};
use linformer::ndarray::{Array2, array, s};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Step, TokenBatch, Trainable};
use linformer::{
    AttentionConfig, CausalConfig, ContextOverflow, EncoderConfig, Error, FeedForwardConfig, GenerationConfig, HeadKind, LanguageModel,
    LanguageModelConfig, LocalGlobalConfig, PositionKind, SinusoidLayout, TrainingPass,
};
use proptest::prelude::*;
use proptest::sample::select;

pub const VOCABULARY: usize = 7;

pub fn model(config: &LanguageModelConfig, seed: u64) -> LanguageModel<f64> {
    let mut model = LanguageModel::new(config, seed).unwrap();
    scramble(&mut model, seed);
    model
}

/// A small model of `max_len` positions.
pub fn small(max_len: usize) -> LanguageModel<f64> {
    let attention = CausalConfig::new(6, 2, max_len, 1).with_block(Some(3));
    model(&LanguageModelConfig::new(VOCABULARY, EncoderConfig::new(attention, 2)), 5)
}

pub fn text(length: usize, seed: u64) -> Vec<usize> {
    let seed = usize::try_from(seed).unwrap();
    (0..length)
        .map(|position| (position * position + seed * 3 + position / 2) % VOCABULARY)
        .collect()
}

pub fn collect(model: &LanguageModel<f64>, prompts: &[Vec<usize>], config: &GenerationConfig) -> Vec<Vec<usize>> {
    let mut generation = model.generate(prompts, config).unwrap();
    for step in generation.by_ref() {
        step.unwrap();
    }
    generation
        .texts()
        .zip(prompts)
        .map(|(text, prompt)| text[prompt.len()..].to_vec())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_cache_gives_what_the_whole_gives(
        encoder in encoder_config(), lengths in (1..=9_usize, 1..=9_usize), more in 0..=5_usize, width in select(vec![None, Some(4)]), norm: bool,
        head in select(vec![HeadKind::Plain, HeadKind::Tied]),
        position in select(vec![
            PositionKind::None, PositionKind::Learned { max_len: 14 },
            PositionKind::Sinusoidal { base: 100.0, layout: SinusoidLayout::Halves, stored: true },
        ]),
        seed in 0..1000_u64,
    ) {
        let config = LanguageModelConfig::new(VOCABULARY, encoder)
            .with_head(head).with_position(position).with_embedding_dim(width).with_embedding_norm(norm);
        let model = model(&config, seed);
        let texts = [text(lengths.0 + more, seed), text(lengths.1 + more, seed + 1)];
        let whole: Vec<_> = texts.iter().map(|text| {
            let tokens = Array2::from_shape_vec((1, text.len()), text.clone()).unwrap();
            model.forward(&tokens, None).unwrap()
        }).collect();
        let lengths = [lengths.0, lengths.1];
        let (mut scores, mut state) = model.prefill(&[&texts[0][..lengths[0]], &texts[1][..lengths[1]]]).unwrap();
        for step in 0..=more {
            for (item, whole) in whole.iter().enumerate() {
                let expected = whole.slice(s![0, lengths[item] - 1 + step, ..]);
                prop_assert!(difference(expected, scores.row(item)) < 1e-10, "step {}", step);
            }
            if step < more {
                scores = model.step(&mut state, &[Some(texts[0][lengths[0] + step]), Some(texts[1][lengths[1] + step])]).unwrap();
            }
        }
        prop_assert_eq!(state.lengths(), &[lengths[0] + more, lengths[1] + more]);
    }

    #[test]
    fn each_text_is_gone_on_with_as_if_alone(a in 1..=8_usize, b in 1..=8_usize, stop in 0..VOCABULARY, seed in 0..1000_u64) {
        let model = small(32);
        let prompts = [text(a, seed), text(b, seed + 1)];
        let config = GenerationConfig::new(9).with_temperature(0.9).with_top_p(Some(0.9)).with_seed(seed).with_stop_tokens(vec![stop]);
        let together = collect(&model, &prompts, &config);
        // The first text draws from the same stream alone.
        prop_assert_eq!(&collect(&model, &prompts[..1], &config)[0], &together[0]);
        prop_assert_eq!(&collect(&model, &prompts, &config), &together);
        for tokens in together {
            let ended = tokens.iter().position(|&token| token == stop);
            prop_assert_eq!(tokens.len(), ended.map_or(9, |last| last + 1));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn a_text_with_a_seed_of_its_own_gets_in_any_batch_what_it_gets_alone(
        texts in prop::collection::vec((1..=8_usize, 0..5_u64, 0..1000_u64), 1..=4), stop in 0..VOCABULARY, overflow: bool,
    ) {
        let model = small(if overflow { 10 } else { 32 });
        let config = GenerationConfig::new(9).with_temperature(0.9).with_top_p(Some(0.9)).with_stop_tokens(vec![stop]);
        let config = config.with_overflow(if overflow { ContextOverflow::Slide } else { ContextOverflow::Error });
        let prompts: Vec<Vec<usize>> = texts.iter().map(|&(length, number, _)| text(length, number)).collect();
        let seeds: Vec<u64> = texts.iter().map(|&(_, _, seed)| seed).collect();
        let together = collect(&model, &prompts, &config.clone().with_seeds(seeds.clone()));
        let mut backwards: (Vec<Vec<usize>>, Vec<u64>) = (prompts.clone(), seeds.clone());
        backwards.0.reverse();
        backwards.1.reverse();
        let mut other = collect(&model, &backwards.0, &config.clone().with_seeds(backwards.1));
        other.reverse();
        prop_assert_eq!(&other, &together);
        for ((prompt, &seed), tokens) in prompts.iter().zip(&seeds).zip(&together) {
            let prompt = std::slice::from_ref(prompt);
            prop_assert_eq!(&collect(&model, prompt, &config.clone().with_seed(seed))[0], tokens);
            prop_assert_eq!(&collect(&model, prompt, &config.clone().with_seeds(vec![seed]))[0], tokens);
            let one: Vec<usize> = model.generate_one(&prompt[0], &config.clone().with_seed(seed)).unwrap().map(Result::unwrap).collect();
            prop_assert_eq!(&one, tokens);
        }
    }
}

/// One seed for all: the first text gets what it gets alone, and equal texts draw apart.
#[test]
fn texts_of_one_seed_draw_apart() {
    let model = small(32);
    let config = GenerationConfig::new(12).with_temperature(1.0).with_seed(3);
    let prompts = vec![text(3, 0); 3];
    let together = collect(&model, &prompts, &config);
    assert_eq!(collect(&model, &prompts[..1], &config)[0], together[0]);
    assert!(together[0] != together[1] && together[1] != together[2] && together[0] != together[2]);
    let same = collect(&model, &prompts, &config.with_seed(0).with_seeds(vec![3; 3]));
    assert!(same.iter().all(|tokens| *tokens == together[0]));
}

/// The same where keys fill several blocks, and a window has been written over many times.
#[test]
fn the_cache_of_a_long_text_gives_what_the_whole_gives() {
    let blockwise = |block, window| CausalConfig::new(6, 2, 700, 2).with_block(Some(block)).with_window(Some(window));
    let segments = |block, slots| LocalGlobalConfig::new(6, 2).with_causal(true).with_block(block).with_slots(slots);
    for encoder in [
        EncoderConfig::new(blockwise(27, 27), 2),
        EncoderConfig::new(blockwise(1, 1), 1),
        EncoderConfig::new(blockwise(11, 640), 1),
        EncoderConfig::new(AttentionConfig::new(6, 2).with_causal(true), 2),
        EncoderConfig::new(segments(8, 2), 2),
        EncoderConfig::new(segments(1, 5).with_kv_heads(1), 1)
            .with_reversible(true)
            .with_feed_forward(Some(FeedForwardConfig::new(6))),
        EncoderConfig::new(segments(32, 0), 1),
    ] {
        let model = model(&LanguageModelConfig::new(VOCABULARY, encoder), 4);
        let text = text(700, 3);
        let tokens = Array2::from_shape_vec((1, text.len()), text.clone()).unwrap();
        let whole = model.forward(&tokens, None).unwrap();
        let (_, mut state) = model.prefill(&[&text[..500]]).unwrap();
        for (position, &token) in text.iter().enumerate().skip(500) {
            let scores = model.step(&mut state, &[Some(token)]).unwrap();
            let expected = whole.slice(s![0, position, ..]);
            assert!(
                difference(expected, scores.row(0)) < 1e-10,
                "{position} {:?}",
                model.config().encoder
            );
        }
    }
}

#[test]
fn a_resting_text_stays_as_it_is() {
    let model = small(32);
    let (_, mut state) = model.prefill(&[[1, 2, 3], [3, 2, 1]]).unwrap();
    let (_, mut alone) = model.prefill(&[[1, 2, 3]]).unwrap();
    let rested = model.step(&mut state, &[None, Some(4)]).unwrap();
    assert!(rested.row(0).iter().all(|&score| score == 0.0));
    assert_eq!(state.lengths(), [3, 4]);
    let after = model.step(&mut state, &[Some(5), None]).unwrap();
    let expected = model.step(&mut alone, &[Some(5)]).unwrap();
    assert!(difference(after.row(0), expected.row(0)) < 1e-12);
    // A refused step changes nothing.
    assert!(matches!(
        model.step(&mut state, &[Some(VOCABULARY), None]),
        Err(Error::Token { .. })
    ));
    assert!(matches!(model.step(&mut state, &[None]), Err(Error::Shape { .. })));
    assert_eq!(state.lengths(), [4, 4]);
    assert_eq!(model.step(&mut state, &[None, None]).unwrap().dim(), (2, VOCABULARY));
    let exact = EncoderConfig::new(AttentionConfig::new(6, 2).with_causal(true), 2);
    let other = LanguageModel::<f64>::new(&LanguageModelConfig::new(VOCABULARY, exact), 1).unwrap();
    assert!(matches!(other.step(&mut state, &[Some(1), None]), Err(Error::Argument { .. })));
}

#[test]
fn a_full_context_is_an_error_or_slides() {
    let model = small(8);
    assert_eq!(model.max_context(), Some(8));
    let prompt = text(6, 1);
    let steps: Vec<_> = model.generate(&[&prompt], &GenerationConfig::new(9)).unwrap().collect();
    assert_eq!(
        steps.len(),
        4,
        "positions 6 and 7 are free, and the third token has no place to follow from"
    );
    assert!(steps[..3].iter().all(Result::is_ok) && matches!(steps[3], Err(Error::Argument { .. })));
    assert!(matches!(
        model.generate(&[text(9, 1)], &GenerationConfig::new(1)),
        Err(Error::Argument { .. })
    ));
    let slide = GenerationConfig::new(30).with_overflow(ContextOverflow::Slide);
    let tokens = &collect(&model, &[text(12, 1)], &slide)[0];
    assert_eq!(tokens.len(), 30);
    // After sliding, the scores are those of the last half by itself.
    let limited = slide.clone().with_max_context(Some(4));
    let mut generation = model.generate(&[text(4, 1)], &limited).unwrap();
    generation.next().unwrap().unwrap();
    let so_far: Vec<usize> = generation.texts().next().unwrap().to_vec();
    generation.next().unwrap().unwrap();
    let (scores, _) = model.prefill(&[&so_far[3..]]).unwrap();
    assert!(difference(scores.view(), generation.scores().view()) < 1e-12);
}

#[test]
fn tokens_come_one_by_one() {
    let model = small(32);
    let config = GenerationConfig::new(6).with_repetition_penalty(1.3);
    let tokens: Vec<usize> = model.generate_one(&[1, 2], &config).unwrap().map(Result::unwrap).collect();
    assert_eq!(tokens, collect(&model, &[vec![1, 2]], &config)[0]);
    assert_eq!(model.generate_one(&[1], &GenerationConfig::new(0)).unwrap().count(), 0);
}

/// A model learns to count, and then does.
#[test]
fn a_trained_model_goes_on_as_it_has_learned() {
    let attention = CausalConfig::new(16, 2, 24, 1).with_block(Some(4));
    let config = LanguageModelConfig::new(VOCABULARY, EncoderConfig::new(attention, 1));
    let mut model = LanguageModel::<f64>::new(&config, 1).unwrap();
    let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    let tokens = Array2::from_shape_fn((7, 20), |(item, position)| (item + position) % VOCABULARY);
    let targets = model.next_tokens(&tokens, None).unwrap();
    for step in 0..80 {
        let pass = TrainingPass::new(Step::new(3, step)).with_attention_dropout(0.1);
        let (_, gradients) = model
            .loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass)
            .unwrap();
        optimizer.step(&mut model, &gradients, 1e-2).unwrap();
    }
    let found = collect(&model, &[vec![3, 4], vec![0]], &GenerationConfig::new(8));
    assert_eq!(found[0], [5, 6, 0, 1, 2, 3, 4, 5]);
    assert_eq!(found[1], [1, 2, 3, 4, 5, 6, 0, 1]);
}

#[test]
fn next_tokens_stop_at_padding_and_at_the_end() {
    let tokens = array![[1, 2, 3], [4, 5, 0]];
    let mask = linformer::PaddingMask::from_lengths(&[3, 2], 3).unwrap();
    let expected = [Some(2), Some(3), None, Some(5), None, None];
    let model = small(8);
    assert_eq!(model.next_tokens(&tokens, Some(&mask)).unwrap(), expected);
    let other = linformer::PaddingMask::from_lengths(&[2, 2], 2).unwrap();
    assert!(matches!(model.next_tokens(&tokens, Some(&other)), Err(Error::Shape { .. })));
    // A view of more positions than memory has.
    let endless = array![[1]];
    let endless = endless.broadcast((usize::MAX >> 40, 1 << 39)).unwrap();
    assert!(matches!(model.next_tokens(&endless, None), Err(Error::Overflow { .. })));
}

#[cfg(feature = "checkpoint")]
#[test]
fn a_model_comes_back_from_its_bytes_as_its_kind() {
    use linformer::Classifier;
    use linformer::checkpoint::Checkpoint;
    let model = small(8);
    let bytes = model.to_bytes().unwrap();
    let again = LanguageModel::<f64>::from_bytes(&bytes).unwrap();
    assert_eq!((model_bits(&again), again.config()), (model_bits(&model), model.config()));
    assert!(matches!(Classifier::<f64>::from_bytes(&bytes), Err(Error::Checkpoint { .. })));
}
