//! Decoders and the models around them.

use linformer::ndarray::Array2;
use linformer::training::{CrossEntropy, PairBatch, Trainable};
use linformer::{Decoder, DecoderConfig, EncoderDecoder, EncoderDecoderConfig, Parameters, TokenPairs, TranslationConfig};
use proptest::prelude::*;

use super::configs::{decoder, encoder_decoder, number, size};
use super::{input, mask, pass};
use crate::common::decoder as valid;

/// Any decoder, and as many again that can be made.
fn any_decoder() -> BoxedStrategy<DecoderConfig> {
    prop_oneof![2 => decoder(), 1 => valid::causal_decoder().boxed(), 1 => valid::open_decoder().boxed()].boxed()
}

fn any_encoder_decoder() -> BoxedStrategy<EncoderDecoderConfig> {
    prop_oneof![encoder_decoder(), valid::encoder_decoder().boxed()].boxed()
}

/// Token ids, of which one may be outside the vocabulary.
fn text() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(prop_oneof![30 => 0..3_usize, 1 => size()], 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn decoders(
        config in any_decoder(), own in input(), own_mask in mask(), mut other in input(), other_mask in mask(), pass in pass(),
        one_batch in prop::bool::weighted(0.9),
    ) {
        let Ok(model) = Decoder::<f64>::new(&config, 1) else {
            prop_assert!(config.check().is_err());
            return Ok(());
        };
        if one_batch {
            other.batch = own.batch;
        }
        let (x, source) = (own.array(config.dim()), other.array(config.dim()));
        let (own_mask, other_mask) = (own_mask.of(&own), other_mask.of(&other));
        let (own_mask, other_mask) = (own_mask.as_ref(), other_mask.as_ref());
        let y = model.forward(&x, own_mask, &source, other_mask);
        prop_assert!(!y.is_ok_and(|y| y.dim() != x.dim()));
        if let Ok(kept) = model.compress(&source, other_mask) {
            prop_assert_eq!((kept.batch(), kept.layers().len()), (other.batch, config.depth));
            let _ = model.attend(&x, None, &kept);
        }
        if let Ok((y, cache)) = model.forward_train(&x, own_mask, &source, other_mask, &pass) {
            prop_assert!(model.backward(cache, y, &mut model.zeros_like()).is_ok());
        }
    }

    #[test]
    fn encoder_decoders(
        config in any_encoder_decoder(), pairs in prop::collection::vec((text(), text()), 0..4), (start, end) in (0..3_usize, 0..3_usize), pass in pass(),
        masked in any::<bool>(), smoothing in number(),
    ) {
        let Ok(model) = EncoderDecoder::<f64>::new(&config, 1) else {
            prop_assert!(config.check().is_err());
            return Ok(());
        };
        let batch = PairBatch::from_sequences(&pairs, start, end).unwrap();
        let given = if masked { batch.pairs() } else { TokenPairs::new(&batch.source, &batch.target) };
        let _ = model.forward(&given);
        if let Ok((y, cache)) = model.forward_train(&given, &pass) {
            prop_assert!(model.backward(cache, y.clone(), &mut model.zeros_like()).is_ok());
        }
        let _ = model.loss_and_gradients(&PairBatch::new(&given, &batch.targets), &CrossEntropy::new().with_label_smoothing(smoothing), &pass);
        let strange = TokenPairs::new(&batch.source, &batch.target).with_source_mask(batch.target_mask.as_ref());
        let _ = model.forward(&strange.with_target_mask(batch.source_mask.as_ref()));
    }

    #[test]
    fn translation(
        config in any_encoder_decoder(), sources in prop::collection::vec(text(), 0..4), (start, end) in (0..4_usize, 0..4_usize), beams in size(),
        most in 0..4_usize, penalty in number(), tokens in prop::collection::vec(prop::option::of(size()), 0..4), chosen in prop::collection::vec(0..4_usize, 0..5),
    ) {
        let Ok(model) = EncoderDecoder::<f64>::new(&config, 1) else { return Ok(()) };
        let search = TranslationConfig::new(start, end, most).with_beams(beams);
        for search in [search.clone().with_length_penalty(penalty), search] {
            if let Ok(found) = model.translate(&sources, &search) {
                prop_assert_eq!(found.len(), sources.len());
                for found in found {
                    prop_assert!(!found.is_empty() && found.len() <= beams);
                    prop_assert!(found.iter().all(|target| target.tokens.len() <= most && !target.score.is_nan()));
                    prop_assert!(found.windows(2).all(|pair| pair[0].score >= pair[1].score));
                }
            }
        }
        if let Ok(mut state) = model.begin(&sources) {
            for _ in 0..3 {
                let _ = model.step(&mut state, &tokens);
                let fitting: Vec<Option<usize>> = state.lengths().iter().enumerate().map(|(target, _)| (target % 2 == 0).then_some(0)).collect();
                let stepped = model.step(&mut state, &fitting);
                prop_assert!(!stepped.is_ok_and(|scores| scores.dim() != (fitting.len(), config.target.vocab_size)));
                let _ = state.select(&chosen);
            }
        }
        let tokens = Array2::from_shape_fn((2, most), |(item, position)| item + position);
        if let Ok(source) = model.encode(&tokens, None) {
            let _ = model.target().attend(&tokens, None, &source);
        }
    }
}
