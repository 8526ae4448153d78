//! Models that cannot generate, and texts that are too long.

use linformer::ndarray::{Array2, array};
use linformer::{
    AttentionConfig, CausalConfig, EncoderConfig, Error, GenerationConfig, HeadKind, LanguageModel, LanguageModelConfig, LinformerConfig,
    PositionKind, ProjectionConfig, ProjectionKind, Scalar, SinusoidLayout,
};
use proptest::prelude::*;
use proptest::sample::select;

use super::language_models::VOCABULARY;
use crate::common::{causal, encoder_config};

/// An option that generating refuses, and a word of what to do about it.
type Rule = (LanguageModelConfig, &'static str, &'static str);

/// Every kind of model that cannot generate; the first ones cannot train on next tokens either.
fn not_generating() -> ([Rule; 7], [Rule; 4]) {
    let causal = |head| LanguageModelConfig::new(5, EncoderConfig::new(CausalConfig::new(6, 2, 8, 1), 1)).with_head(head);
    let exact = || LanguageModelConfig::new(5, EncoderConfig::new(AttentionConfig::new(6, 2).with_causal(true), 2));
    let open = |encoder| LanguageModelConfig::new(5, encoder);
    let after_padding = PositionKind::LearnedAfterPadding {
        max_len: 8,
        padding_token: 1,
    };
    let linformer = || LinformerConfig::new(6, 2, 8, 2);
    (
        [
            (open(EncoderConfig::new(linformer(), 1)), "attention", "CausalConfig"),
            (
                open(EncoderConfig::new(
                    linformer().with_projection(ProjectionConfig::new(ProjectionKind::MeanPooling)),
                    2,
                )),
                "attention",
                "CausalConfig",
            ),
            (
                open(EncoderConfig::new(AttentionConfig::new(6, 2), 1)),
                "attention",
                "with_causal(true)",
            ),
            (
                open(EncoderConfig::new(AttentionConfig::new(6, 2), 1).with_reversible(true)),
                "attention",
                "with_causal(true)",
            ),
            (open(EncoderConfig::new(linformer(), 0)), "attention", "CausalConfig"),
            (causal(HeadKind::None), "head", "HeadKind::Plain"),
            (exact().with_head(HeadKind::None), "head", "HeadKind::Plain"),
        ],
        [
            (causal(HeadKind::Tied).with_zeroed_token(Some(1)), "zeroed_token", "set it to None"),
            (exact().with_zeroed_token(Some(0)), "zeroed_token", "set it to None"),
            (
                causal(HeadKind::Plain).with_position(after_padding),
                "position",
                "PositionKind::Learned",
            ),
            (exact().with_position(after_padding), "position", "PositionKind::Learned"),
        ],
    )
}

fn refuse_to_generate<A: Scalar>() {
    let tokens = array![[1, 2, 3]];
    let (untrainable, trainable) = not_generating();
    for (trains, (config, option, advice)) in untrainable
        .into_iter()
        .map(|rule| (false, rule))
        .chain(trainable.into_iter().map(|rule| (true, rule)))
    {
        // It is a model all the same.
        let model = LanguageModel::<A>::new(&config, 0).unwrap();
        assert_eq!(model.forward(&tokens, None).unwrap().dim().1, 3);
        let refused = |call: &str, error: Option<Error>| match error {
            Some(Error::Config {
                option: found, ref reason, ..
            }) => {
                assert!(found == option && reason.contains(advice), "{call}: {found}: {reason}");
            }
            other => panic!("{call} of {config:?}: {other:?}"),
        };
        let plain = GenerationConfig::new(2);
        refused("generate", model.generate(&[[1]], &plain).err());
        refused("generate_one", model.generate_one(&[1], &plain).err());
        refused("prefill", model.prefill(&[[1]]).err());
        let causal = LanguageModelConfig::new(5, EncoderConfig::new(CausalConfig::new(6, 2, 8, 1), 1));
        let (_, mut state) = LanguageModel::<A>::new(&causal, 0).unwrap().prefill(&[[1]]).unwrap();
        refused("step", model.step(&mut state, &[Some(1)]).err());
        assert_eq!(state.lengths(), [1]);
        match model.next_tokens(&tokens, None) {
            Ok(targets) => assert!(trains && targets == [Some(2), Some(3), None]),
            Err(error) => {
                assert!(!trains);
                refused("next_tokens", Some(error));
            }
        }
    }
}

#[test]
fn a_model_that_cannot_generate_says_why() {
    refuse_to_generate::<f32>();
    refuse_to_generate::<f64>();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// A model of any attention reads `max_context` tokens, and no more.
    #[test]
    fn the_longest_text_is_read_and_a_longer_one_is_not(
        causal in causal::encoder_config(), encoder in encoder_config(3..=40), is_causal: bool, depth in 0..=2_usize,
        position in select(vec![
            PositionKind::None, PositionKind::Learned { max_len: 9 }, PositionKind::Learned { max_len: 300 },
            PositionKind::LearnedAfterPadding { max_len: 9, padding_token: 0 },
            PositionKind::Sinusoidal { base: 100.0, layout: SinusoidLayout::Halves, stored: false },
        ]),
    ) {
        let mut encoder = if is_causal { causal } else { encoder };
        if depth == 0 && encoder.k_by_layer.is_none() && encoder.hidden_dim.is_none() {
            encoder.depth = 0;
        }
        let config = LanguageModelConfig::new(VOCABULARY, encoder).with_position(position);
        prop_assume!(config.check().is_ok());
        let model = LanguageModel::<f64>::new(&config, 1).unwrap();
        let reads = |length| model.forward(&Array2::from_elem((1, length), 1), None).is_ok();
        match model.max_context() {
            Some(most) => prop_assert!(reads(most) && !reads(most + 1), "{} of {:?}", most, config),
            None => prop_assert!(reads(500), "{:?}", config),
        }
    }
}
