//! Texts that cannot be gone on with.

use crate::generation::language_models::{VOCABULARY, small};
use linformer::{
    BlockWeights, CausalConfig, EncoderConfig, Error, GenerationConfig, LanguageModel, LanguageModelConfig, Parameters, PositionKind,
};

#[test]
fn options_prompts_and_models() {
    let model = small(8);
    let plain = || GenerationConfig::new(3);
    for bad in [
        plain().with_temperature(-1.0),
        plain().with_temperature(f64::NAN),
        plain().with_temperature(1.0).with_top_k(Some(0)),
        plain().with_temperature(1.0).with_top_p(Some(0.0)),
        plain().with_temperature(1.0).with_top_p(Some(1.5)),
        plain().with_top_k(Some(3)),
        plain().with_repetition_penalty(0.0),
        plain().with_max_context(Some(0)),
        plain().with_stop_tokens(vec![1, VOCABULARY]),
    ] {
        assert!(matches!(model.generate(&[[1]], &bad), Err(Error::Config { .. })), "{bad:?}");
    }
    let none: [Vec<usize>; 0] = [];
    assert!(matches!(model.generate(&none, &plain()), Err(Error::Argument { .. })));
    assert!(matches!(model.generate(&[vec![], vec![1]], &plain()), Err(Error::Argument { .. })));
    assert!(matches!(model.generate(&[[VOCABULARY]], &plain()), Err(Error::Token { .. })));
    let per_block = CausalConfig::new(6, 2, 8, 1)
        .with_block(Some(3))
        .with_block_weights(BlockWeights::PerBlock);
    let config = LanguageModelConfig::new(5, EncoderConfig::new(per_block, 1)).with_position(PositionKind::None);
    assert_eq!(LanguageModel::<f32>::new(&config, 0).unwrap().max_context(), Some(8));
}

#[test]
fn seeds_without_effect_are_refused() {
    let model = small(32);
    let drawn = GenerationConfig::new(2).with_temperature(1.0);
    for (config, option) in [
        (GenerationConfig::new(2).with_seeds(vec![1, 2]), "seeds"),
        (drawn.clone().with_seed(1).with_seeds(vec![1, 2]), "seed"),
        (drawn.clone().with_seeds(vec![1]), "seeds"),
        (drawn.with_seeds(vec![1, 2, 3]), "seeds"),
    ] {
        match model.generate(&[vec![1], vec![2]], &config) {
            Err(Error::Config { option: found, .. }) => assert_eq!(found, option),
            other => panic!("{other:?}"),
        }
    }
}

/// Scores that are all −∞ are an error that changes nothing, greedy or drawn.
#[test]
fn no_possible_token_is_an_error() {
    let mut model = small(32);
    model.visit_mut("", &mut |name, _, mut tensor| {
        if name == "head.bias" {
            tensor.fill(f64::NEG_INFINITY);
        }
    });
    for temperature in [0.0, 1.0] {
        let config = GenerationConfig::new(3).with_temperature(temperature);
        let mut generation = model.generate(&[vec![1], vec![2, 3]], &config).unwrap();
        assert!(matches!(generation.next(), Some(Err(Error::Argument { .. }))));
        assert!(generation.next().is_none());
        assert_eq!(generation.texts().collect::<Vec<_>>(), [&[1][..], &[2, 3]]);
    }
}
