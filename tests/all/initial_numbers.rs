//! How large the numbers of a new model are, and where its positions are by default.

use crate::common::small_encoder;
use linformer::ndarray::Array2;
use linformer::{
    AttentionConfig, Classifier, ClassifierConfig, ClassifierInput, DecoderConfig, DecoderLanguageModel, DecoderLanguageModelConfig,
    EncoderConfig, Error, LanguageModel, LanguageModelConfig, LinformerConfig, Parameters, PositionKind,
};

fn config() -> LanguageModelConfig {
    LanguageModelConfig::new(500, EncoderConfig::new(LinformerConfig::new(16, 2, 8, 4), 1))
}

fn vectors(config: &LanguageModelConfig) -> Array2<f64> {
    LanguageModel::new(config, 1).unwrap().embedding().weight().to_owned()
}

/// Token vectors have the deviation of the configuration, 0.02 by default, and no other number of the model depends on it.
#[test]
fn token_vectors_are_as_large_as_the_configuration_says() {
    let (default, large) = (vectors(&config()), vectors(&config().with_embedding_deviation(0.7)));
    assert!((default.std(0.0) / 0.02 - 1.0).abs() < 0.03);
    assert!((&default * 35.0 - &large).iter().all(|difference| difference.abs() < 1e-12));
    assert_eq!(vectors(&config().with_embedding_deviation(0.02)), default);
    let [one, other] = [None, Some(0.7)].map(|deviation| {
        let model = LanguageModel::<f64>::new(&config().with_embedding_deviation(deviation), 1).unwrap();
        let others = model.named().into_iter().filter(|(name, _)| name != "embedding.weight");
        others.map(|(name, tensor)| (name, tensor.to_owned())).collect::<Vec<_>>()
    });
    assert_eq!(one, other);

    let decoder = DecoderConfig::new(AttentionConfig::new(16, 2).with_causal(true), LinformerConfig::new(16, 2, 8, 4), 1);
    let decoder = DecoderLanguageModelConfig::new(500, decoder).with_embedding_deviation(0.7);
    let decoder = DecoderLanguageModel::<f64>::new(&decoder, 1).unwrap();
    let (_, vectors) = decoder.named().into_iter().find(|(name, _)| name == "embedding.weight").unwrap();
    assert!((vectors.std(0.0) / 0.7 - 1.0).abs() < 0.03);
}

#[test]
fn a_deviation_that_is_none_is_refused() {
    for deviation in [-0.1, f64::NAN, f64::INFINITY, 1e300] {
        let error = LanguageModel::<f32>::new(&config().with_embedding_deviation(deviation), 1).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Config {
                    option: "embedding_deviation",
                    ..
                }
            ),
            "{error}"
        );
    }
}

/// The bytes of files without the option are what they were before there was one.
#[cfg(feature = "serde")]
#[test]
fn the_default_deviation_is_not_written() {
    let json = serde_json::to_string(&config()).unwrap();
    assert!(!json.contains("deviation"), "{json}");
    let large = config().with_embedding_deviation(0.7);
    assert_eq!(
        serde_json::from_str::<LanguageModelConfig>(&serde_json::to_string(&large).unwrap()).unwrap(),
        large
    );
}

/// Vectors are read in their order unless the configuration says that they have none.
#[test]
fn features_have_positions_by_default() {
    let series = ClassifierConfig::features(2, small_encoder(), 3);
    let ClassifierInput::Features { position, .. } = &series.input else {
        panic!("{series:?}");
    };
    assert_eq!(*position, PositionKind::sinusoidal());
    let set = series.clone().with_position(PositionKind::None);
    let x = crate::common::sequence((1, 5, 2), 1);
    let scores = |config: &ClassifierConfig| Classifier::<f64>::new(config, 1).unwrap().forward(&x, None).unwrap();
    assert_ne!(scores(&series), scores(&set));
}
