//! Attention: configurations and arrays that do not fit, and exact models that cannot be compressed.

use crate::common::sequence;
use linformer::ndarray::{Array3, array};
use linformer::{
    AttentionConfig, AttentionKind, BlockWeights, BlockwiseCausalAttention, CausalConfig, Classifier, ClassifierConfig, Encoder,
    EncoderConfig, Error, ExactAttention, Initialization, LanguageModel, LanguageModelConfig, LinformerAttention, LinformerConfig,
    PaddingMask, ProjectionConfig, ProjectionKind, Sharing,
};

fn exact(config: &AttentionConfig) -> ExactAttention<f64> {
    ExactAttention::new(config, 1).unwrap()
}

#[test]
fn causal_attention() {
    let config = || CausalConfig::new(6, 2, 12, 2).with_block(Some(4));
    for bad in [
        CausalConfig::new(0, 2, 12, 2),
        CausalConfig::new(6, 2, 0, 2),
        CausalConfig::new(6, 2, 12, 0),
        config().with_block(Some(0)),
        config().with_window(Some(0)),
        config().with_block_weights(BlockWeights::PerBlock).with_block(Some(13)),
        config().with_attention(AttentionConfig::new(6, 2).with_causal(true)),
        config().with_attention(AttentionConfig::new(6, 2).with_masked_keys_stay(true)),
        config().with_initialization(linformer::Initialization::Normal {
            standard_deviation: f64::NAN,
        }),
        CausalConfig::new(6, 2, usize::MAX, usize::MAX),
        CausalConfig::new(6, 2, usize::MAX, 1).with_block_weights(BlockWeights::PerBlock),
    ] {
        let error = BlockwiseCausalAttention::<f64>::new(&bad, 0).unwrap_err();
        assert!(matches!(error, Error::Config { .. } | Error::Overflow { .. }), "{error}");
    }
    assert!(matches!(
        BlockwiseCausalAttention::<f64>::new(&config().with_sharing(Sharing::Layerwise), 0),
        Err(Error::Config { option: "sharing", .. })
    ));
    let layer = BlockwiseCausalAttention::<f64>::new(&config().with_block_weights(BlockWeights::PerBlock), 0).unwrap();
    assert!(matches!(
        layer.forward(&Array3::zeros((1, 13, 6)), None),
        Err(Error::TooLong { seq_len: 12, .. })
    ));
    assert!(matches!(layer.forward(&Array3::zeros((1, 3, 5)), None), Err(Error::Shape { .. })));
    let mask = PaddingMask::from_bools(&array![[true, true]]);
    assert!(matches!(
        layer.forward(&Array3::zeros((1, 3, 6)), Some(&mask)),
        Err(Error::Shape { .. })
    ));
    let linformer = LinformerConfig::new(6, 2, 12, 2).with_attention(AttentionConfig::new(6, 2).with_causal(true));
    assert!(matches!(linformer.check(), Err(Error::Config { option: "causal", .. })));
    let by_layer = EncoderConfig::new(config(), 2).with_k_by_layer(Some(vec![1, 2]));
    assert!(matches!(by_layer.check(), Err(Error::Config { option: "k_by_layer", .. })));
    let exact = ExactAttention::<f64>::new(&AttentionConfig::new(6, 2).with_causal(true), 0).unwrap();
    let (y, cache) = exact.forward_train(&Array3::zeros((1, 4, 6)), None).unwrap();
    let mut gradients = linformer::Parameters::zeros_like(&layer);
    assert!(matches!(
        layer.backward(cache.clone(), y.clone(), &mut gradients),
        Err(Error::Argument { .. })
    ));
    assert!(matches!(
        exact.attend(&Array3::zeros((1, 4, 6)), &Array3::zeros((1, 3, 6)), None),
        Err(Error::Argument { .. })
    ));
}

#[test]
fn shapes_of_exact_attention() {
    let layer = exact(&AttentionConfig::new(6, 2));
    let x = sequence((2, 5, 6), 1);
    let narrow = Array3::zeros((2, 5, 4));
    let other_batch = Array3::zeros((3, 5, 6));
    let mask = PaddingMask::all_real(2, 4).unwrap();
    let argument = |error: Error| match error {
        Error::Shape { argument, .. } => argument,
        other => panic!("{other}"),
    };
    for (queries, context, mask, expected) in [
        (&narrow, &x, None, "queries"),
        (&x, &narrow, None, "context"),
        (&other_batch, &x, None, "queries"),
        (&x, &other_batch, None, "queries"),
        (&x, &x, Some(&mask), "mask"),
    ] {
        assert_eq!(argument(layer.attend(queries, context, mask).unwrap_err()), expected);
        assert_eq!(argument(layer.attention_map(queries, context, mask).unwrap_err()), expected);
    }
    assert_eq!(argument(layer.forward_materialized(&narrow, None).unwrap_err()), "queries");
    assert_eq!(argument(layer.forward_materialized(&x, Some(&mask)).unwrap_err()), "mask");
}

/// Scores that memory cannot address are refused before anything is computed.
#[test]
fn stored_scores_that_cannot_be_addressed_are_errors() {
    let layer = exact(&AttentionConfig::new(1, 1));
    let one = Array3::<f64>::zeros((1, 1, 1));
    let long = one.broadcast((1, 1 << 31, 1)).unwrap();
    for error in [
        layer.forward_materialized(&long, None).unwrap_err(),
        layer.attention_map(&long, &long, None).unwrap_err(),
    ] {
        assert!(matches!(error, Error::Overflow { .. }), "{error}");
    }
}

fn refused<T>(result: linformer::Result<T>, expected: &str) {
    match result.err() {
        Some(Error::Config { option, .. }) => assert_eq!(option, expected),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_cannot_be_compressed_is_refused() {
    let plain = ProjectionConfig::default();
    let causal = AttentionConfig::new(8, 2).with_causal(true);
    let layer = ExactAttention::<f64>::new(&causal, 0).unwrap();
    refused(LinformerAttention::from_exact(&layer, 6, 3, plain, 0), "causal");
    let encoder = |attention: AttentionKind| Encoder::<f64>::new(&EncoderConfig::new(attention, 2), 0).unwrap();
    refused(Encoder::from_exact(&encoder(causal.into()), 6, 3, plain, 0), "causal");
    for other in [
        encoder(LinformerConfig::new(8, 2, 6, 3).into()),
        encoder(CausalConfig::new(8, 2, 6, 1).into()),
    ] {
        refused(Encoder::from_exact(&other, 6, 3, plain, 0), "attention");
    }
    let layer = ExactAttention::<f64>::new(&AttentionConfig::new(8, 2), 0).unwrap();
    let pooling = ProjectionConfig::new(ProjectionKind::MeanPooling);
    for (seq_len, k, projection, option) in [
        (0, 3, plain, "seq_len"),
        (6, 0, plain, "k"),
        (6, 3, plain.with_sharing(Some(Sharing::Layerwise)), "sharing"),
        (6, 3, pooling.with_sharing(Some(Sharing::None)), "sharing"),
        (6, 3, pooling.with_bias(true), "projection bias"),
        (
            6,
            3,
            pooling.with_initialization(Some(Initialization::MeanPooling)),
            "initialization",
        ),
    ] {
        refused(LinformerAttention::from_exact(&layer, seq_len, k, projection, 0), option);
    }
    let exact = encoder(AttentionConfig::new(8, 2).into());
    refused(Encoder::from_exact(&exact, 6, 0, plain, 0), "k");
    let model = LanguageModel::<f64>::new(
        &LanguageModelConfig::new(5, EncoderConfig::new(LinformerConfig::new(8, 2, 6, 3), 1)),
        0,
    )
    .unwrap();
    refused(LanguageModel::from_exact(&model, 6, 3, plain, 0), "attention");
    let config = ClassifierConfig::features(3, EncoderConfig::new(LinformerConfig::new(8, 2, 6, 3), 1), 2);
    refused(
        Classifier::from_exact(&Classifier::<f64>::new(&config, 0).unwrap(), 6, 3, plain, 0),
        "attention",
    );
}
