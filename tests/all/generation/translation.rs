//! Encoder–decoders token by token: the cache gives what whole runs give, and the search finds what it says.

use crate::common::decoder::{SOURCE, VOCABULARIES, encoder_decoder, text};
use crate::common::{difference, scramble};
use linformer::ndarray::{Array2, s};
use linformer::{
    AttentionConfig, CausalConfig, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoder, EncoderDecoderConfig, Error,
    LanguageModelConfig, LinformerConfig, Parameters, PositionKind, TokenPairs, TranslationConfig,
};
use proptest::prelude::*;

fn model(config: &EncoderDecoderConfig, seed: u64) -> EncoderDecoder<f64> {
    let mut model = EncoderDecoder::new(config, seed).unwrap();
    scramble(&mut model, seed);
    model
}

/// A small model whose targets have three tokens to choose from.
pub fn small(max_len: usize, seed: u64) -> EncoderDecoder<f64> {
    let attention = LinformerConfig::new(6, 2, SOURCE, 3);
    let source = LanguageModelConfig::new(VOCABULARIES.0, EncoderConfig::new(attention.clone(), 1));
    let decoder = DecoderConfig::new(CausalConfig::new(6, 2, 8, 1).with_block(Some(2)), attention, 2);
    let target = DecoderLanguageModelConfig::new(3, decoder).with_position(PositionKind::Learned { max_len });
    model(&EncoderDecoderConfig::new(source, target), seed)
}

pub fn row(tokens: &[usize]) -> Array2<usize> {
    Array2::from_shape_vec((1, tokens.len()), tokens.to_vec()).unwrap()
}

/// The log-probability of `target`, which is followed by `end` where it ends, computed from a whole run.
fn log_probability(model: &EncoderDecoder<f64>, source: &[usize], start: usize, target: &[usize]) -> f64 {
    let given = [&[start], &target[..target.len() - 1]].concat();
    let scores = model.forward(&TokenPairs::new(&row(source), &row(&given))).unwrap();
    target
        .iter()
        .enumerate()
        .map(|(position, &token)| {
            let scores = scores.slice(s![0, position, ..]);
            scores[token] - scores.mapv(f64::exp).sum().ln()
        })
        .sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_cache_gives_what_the_whole_gives(
        config in encoder_decoder(), sources in (1..=SOURCE, 1..=SOURCE), length in 1..=12_usize, branch in 0..12_usize, seed in 0..1000_u64,
    ) {
        let model = model(&config, seed);
        let sources = [text(sources.0, VOCABULARIES.0, seed), text(sources.1, VOCABULARIES.0, seed + 1)];
        // The second target reads the second source, and from `branch` on goes on in two ways.
        let first = text(length, VOCABULARIES.1, seed);
        let second = text(length, VOCABULARIES.1, seed + 1);
        let third = [&second[..branch.min(length)], &text(length, VOCABULARIES.1, seed + 2)[branch.min(length)..]].concat();
        // Whole runs alone; padding would take its share of the weight where it stays among the keys.
        let targets = [(0, &first), (1, &second), (1, &third)];
        let whole = targets.map(|(source, target)| model.forward(&TokenPairs::new(&row(&sources[source]), &row(target))).unwrap());
        prop_assume!(!config.target.decoder.cross_attention.attention().masked_keys_stay);
        let mut state = model.begin(&sources).unwrap();
        for step in 0..length {
            if step == branch {
                state.select(&[1, 0, 1]).unwrap();
                prop_assert_eq!(state.sources(), vec![1, 0, 1]);
            }
            let order: &[usize] = if step < branch { &[0, 1] } else { &[1, 0, 2] };
            let tokens: Vec<_> = order.iter().map(|&target| Some(targets[target].1[step])).collect();
            let scores = model.step(&mut state, &tokens).unwrap();
            for (place, &target) in order.iter().enumerate() {
                prop_assert!(difference(whole[target].slice(s![0, step, ..]), scores.row(place)) < 1e-10, "step {}", step);
            }
        }
    }

    #[test]
    fn one_beam_always_takes_the_likeliest(n in 1..=SOURCE, most in 0..=6_usize, seed in 0..1000_u64) {
        let model = small(9, seed);
        let source = text(n, VOCABULARIES.0, seed);
        let found = model.translate(&[&source], &TranslationConfig::new(0, 1, most)).unwrap();
        let mut target = vec![0];
        let mut ended = false;
        while target.len() <= most && !ended {
            let scores = model.forward(&TokenPairs::new(&row(&source), &row(&target))).unwrap();
            let last = scores.slice(s![0, target.len() - 1, ..]);
            let best = (0..3).max_by(|&a, &b| last[a].total_cmp(&last[b]).then(b.cmp(&a))).unwrap();
            ended = best == 1;
            target.push(best);
        }
        let tokens = &target[1..target.len() - usize::from(ended)];
        prop_assert_eq!((found.len(), found[0].len()), (1, 1));
        prop_assert_eq!((&found[0][0].tokens[..], found[0][0].ended), (tokens, ended));
    }

    #[test]
    fn many_beams_find_the_best_of_all(n in 1..=SOURCE, penalty in 0.0..2.0_f64, seed in 0..1000_u64) {
        const MOST: usize = 4;
        let model = small(9, seed);
        let source = text(n, VOCABULARIES.0, seed);
        // All targets of tokens 0 and 2 that end with 1, or are as long as they may be.
        let mut open = vec![vec![]];
        let mut all: Vec<(Vec<usize>, f64)> = Vec::new();
        for length in 1..=MOST {
            let mut next = Vec::new();
            for target in open {
                for token in 0..3 {
                    let longer = [&target[..], &[token]].concat();
                    if token == 1 || length == MOST {
                        let divisor = ((5.0 + length as f64) / 6.0).powf(penalty);
                        all.push((longer.clone(), log_probability(&model, &source, 0, &longer) / divisor));
                    }
                    if token != 1 {
                        next.push(longer);
                    }
                }
            }
            open = next;
        }
        let best = all.iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
        let config = TranslationConfig::new(0, 1, MOST).with_beams(40).with_length_penalty(penalty);
        let found = &model.translate(&[&source], &config).unwrap()[0];
        prop_assert!((found[0].score - best.1).abs() < 1e-10);
        prop_assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
        for translation in found {
            let mut target = translation.tokens.clone();
            target.extend(translation.ended.then_some(1));
            let (_, score) = all.iter().find(|(own, _)| *own == target).unwrap();
            prop_assert!((score - translation.score).abs() < 1e-10);
        }
    }

    #[test]
    fn each_source_is_searched_for_as_if_alone(lengths in (0..=SOURCE, 1..=SOURCE, 1..=SOURCE), beams in 1..=4_usize, seed in 0..1000_u64) {
        let model = small(9, seed);
        let sources = [lengths.0, lengths.1, lengths.2].map(|length| text(length, VOCABULARIES.0, seed + length as u64));
        let config = TranslationConfig::new(0, 1, 6).with_beams(beams);
        let together = model.translate(&sources, &config).unwrap();
        for (source, together) in sources.iter().zip(&together) {
            let alone = &model.translate(&[source], &config).unwrap()[0];
            prop_assert_eq!(alone.len(), together.len());
            for (alone, together) in alone.iter().zip(together) {
                prop_assert!(alone.tokens == together.tokens && alone.ended == together.ended);
                prop_assert!((alone.score - together.score).abs() < 1e-10);
            }
        }
    }
}

#[test]
fn a_resting_target_stays_as_it_is() {
    let model = small(4, 3);
    let mut state = model.begin(&[vec![1, 2], vec![3, 4, 5]]).unwrap();
    model.step(&mut state, &[Some(0), Some(0)]).unwrap();
    let rested = model.step(&mut state, &[None, Some(2)]).unwrap();
    assert!(rested.row(0).iter().all(|&score| score == 0.0));
    assert_eq!((state.lengths(), state.sources()), (vec![1, 2], vec![0, 1]));
    let after = model.step(&mut state, &[Some(2), None]).unwrap();
    let expected = model.forward(&TokenPairs::new(&row(&[1, 2]), &row(&[0, 2]))).unwrap();
    assert!(difference(after.row(0), expected.slice(s![0, 1, ..])) < 1e-12);
    // A refused step changes nothing.
    assert!(matches!(model.step(&mut state, &[Some(3), None]), Err(Error::Token { .. })));
    assert!(matches!(model.step(&mut state, &[None]), Err(Error::Shape { .. })));
    assert!(matches!(state.select(&[0, 2]), Err(Error::Argument { .. })));
    assert_eq!(state.lengths(), [2, 2]);
    assert_eq!(model.step(&mut state, &[None, None]).unwrap().dim(), (2, 3));
    // Four positions have a vector.
    model.step(&mut state, &[Some(2), Some(2)]).unwrap();
    model.step(&mut state, &[Some(2), Some(2)]).unwrap();
    assert!(matches!(model.step(&mut state, &[Some(2), None]), Err(Error::Argument { .. })));
    assert_eq!(state.lengths(), [4, 4]);
    state.select(&[]).unwrap();
    assert_eq!(model.step(&mut state, &[]).unwrap().dim(), (0, 3));
    // Another model's state.
    let attention = LinformerConfig::new(6, 2, SOURCE, 3);
    let source = LanguageModelConfig::new(6, EncoderConfig::new(attention.clone(), 1));
    let decoder = DecoderConfig::new(AttentionConfig::new(6, 2).with_causal(true), attention, 2);
    let other = EncoderDecoder::<f64>::new(&EncoderDecoderConfig::new(source, DecoderLanguageModelConfig::new(3, decoder)), 1).unwrap();
    let mut state = other.begin(&[vec![1]]).unwrap();
    assert!(matches!(model.step(&mut state, &[Some(0)]), Err(Error::Argument { .. })));
    assert!(other.step(&mut state, &[Some(0)]).is_ok());
}

/// Tokens that the head makes impossible are in no target, and fewer targets come back than there are beams.
#[test]
fn impossible_tokens_are_in_no_target() {
    for (possible, end) in [(vec![0, 1], 1), (vec![0], 1), (vec![2], 2), (vec![0, 2], 1), (vec![0, 1, 2], 1)] {
        let mut model = small(6, 3);
        model.visit_mut("", &mut |name, _, mut tensor| {
            if name == "target.head.bias" {
                let closed = (0..3).filter(|token| !possible.contains(token));
                closed.for_each(|token| tensor[[token]] = f64::NEG_INFINITY);
            }
        });
        for beams in 1..=5 {
            for most in 1..=4 {
                let config = TranslationConfig::new(0, end, most).with_beams(beams);
                for found in model.translate(&[vec![1], vec![2, 3, 4]], &config).unwrap() {
                    assert!(!found.is_empty() && found.len() <= beams);
                    for target in &found {
                        assert!(target.score.is_finite(), "{found:?}");
                        assert!(target.tokens.iter().all(|token| possible.contains(token)), "{found:?}");
                        assert!(!target.ended || possible.contains(&end), "{found:?}");
                    }
                    if possible.len() == 1 {
                        assert_eq!(found.len(), 1, "{found:?}");
                    }
                }
            }
        }
    }
}

/// A length penalty of any size gives numbers, and the targets of a search stay in their order.
#[test]
fn extreme_penalties_give_numbers() {
    let model = small(4, 3);
    for penalty in [1e-300, 5e3, 1e300] {
        for most in 0..=3 {
            let config = TranslationConfig::new(0, 1, most).with_beams(3).with_length_penalty(penalty);
            let found = &model.translate(&[[1]], &config).unwrap()[0];
            assert!(found.iter().all(|target| !target.score.is_nan()), "{penalty} {most}");
            assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score), "{penalty} {most}");
        }
    }
}

#[test]
fn batches_of_pairs() {
    let batch = linformer::training::PairBatch::from_sequences(&[(vec![5, 4], vec![2, 3, 2]), (vec![3], vec![])], 0, 1).unwrap();
    assert_eq!(batch.source, linformer::ndarray::array![[5, 4], [3, 0]]);
    assert_eq!(batch.target, linformer::ndarray::array![[0, 2, 3, 2], [0, 0, 0, 0]]);
    assert_eq!(
        (batch.source_mask.unwrap().lengths(), batch.target_mask.unwrap().lengths()),
        (&[2, 1][..], &[4, 1][..])
    );
    let expected = [Some(2), Some(3), Some(2), Some(1), Some(1), None, None, None];
    assert_eq!(batch.targets, expected);
    let none: [(Vec<usize>, Vec<usize>); 0] = [];
    assert_eq!(
        linformer::training::PairBatch::from_sequences(&none, 0, 1).unwrap().target.dim(),
        (0, 0)
    );
}

#[cfg(feature = "checkpoint")]
mod files {
    use super::*;
    use crate::common::model_bits;
    use linformer::checkpoint::Checkpoint;
    use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, PairBatch, Step, Trainable, load_training, save_training};
    use linformer::{Decoder, DecoderLanguageModel, TrainingPass};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(40))]

        #[test]
        fn what_is_saved_is_loaded(config in encoder_decoder(), open in crate::common::decoder::open_decoder(), seed in 0..1000_u64) {
            let whole = model(&config, seed);
            let loaded = EncoderDecoder::<f64>::from_bytes(&whole.to_bytes().unwrap()).unwrap();
            prop_assert_eq!(loaded.config(), whole.config());
            prop_assert_eq!(model_bits(&loaded), model_bits(&whole));
            let bytes = whole.target().to_bytes().unwrap();
            let target = DecoderLanguageModel::<f64>::from_bytes(&bytes).unwrap();
            prop_assert_eq!(model_bits(&target), model_bits(whole.target()));
            prop_assert!(EncoderDecoder::<f64>::from_bytes(&bytes).is_err());
            let decoder = Decoder::<f64>::new(&open, seed).unwrap();
            let loaded = Decoder::<f64>::from_bytes(&decoder.to_bytes().unwrap()).unwrap();
            prop_assert_eq!(model_bits(&loaded), model_bits(&decoder));
        }
    }

    #[test]
    fn a_stopped_run_goes_on_bit_for_bit() {
        let path = std::env::temp_dir().join(format!("linformer-translation-{}.safetensors", std::process::id()));
        let batch = PairBatch::from_sequences(&[(vec![5, 4, 1], vec![2, 2, 0]), (vec![3], vec![2])], 0, 1).unwrap();
        let step = |model: &mut EncoderDecoder<f64>, optimizer: &mut AdamW<f64>, index| {
            let pass = TrainingPass::new(Step::new(7, index))
                .with_residual_dropout(0.1)
                .with_attention_dropout(0.1)
                .with_embedding_dropout(0.1);
            let (loss, gradients) = model.loss_and_gradients(&batch, &CrossEntropy::new(), &pass).unwrap();
            optimizer.step(model, &gradients, 1e-2).unwrap();
            loss
        };
        let mut whole = small(8, 1);
        let mut optimizer = AdamW::new(&whole, AdamWConfig::new()).unwrap();
        let losses: Vec<f64> = (0..30).map(|index| step(&mut whole, &mut optimizer, index)).collect();
        assert!(losses[29] < losses[0] * 0.75, "{losses:?}");
        let mut first = small(8, 1);
        let mut optimizer = AdamW::new(&first, AdamWConfig::new()).unwrap();
        for (index, &expected) in (0..11).zip(&losses) {
            assert_eq!(step(&mut first, &mut optimizer, index).to_bits(), expected.to_bits());
        }
        save_training(&path, &first, &optimizer, Step::new(7, 11)).unwrap();
        let mut second = small(8, 2);
        let mut optimizer = AdamW::new(&second, AdamWConfig::new()).unwrap();
        let next = load_training(&path, &mut second, &mut optimizer).unwrap();
        for index in next.index..30 {
            step(&mut second, &mut optimizer, index);
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(model_bits(&second), model_bits(&whole));
    }
}
