//! Exact models that have no local-global form, and queries that do not fit.

use crate::common::{model_bits, sequence};
use linformer::ndarray::{Array2, Array3};
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, Classifier, ClassifierConfig, Encoder, EncoderConfig, Error, ExactAttention,
    LanguageModel, LanguageModelConfig, LinformerConfig, LocalGlobalAttention, LocalGlobalConfig, PaddingMask,
};

fn refused<T>(result: Result<T, Error>, expected: &str) {
    match result {
        Err(Error::Config { option, .. }) => assert_eq!(option, expected),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("`{expected}` is taken"),
    }
}

fn encoder(attention: impl Into<AttentionKind>) -> Encoder<f64> {
    Encoder::new(&EncoderConfig::new(attention, 2), 0).unwrap()
}

type Batches = [(Array3<f64>, Option<PaddingMask>); 1];

fn batches() -> Batches {
    [(sequence((1, 9, 8), 1), None)]
}

#[test]
fn models_without_that_form() {
    let plain = AttentionConfig::new(8, 2);
    let form = LocalGlobalConfig::of(&plain);
    let layer = |config: &AttentionConfig| ExactAttention::<f64>::new(config, 0).unwrap();
    let stays = plain.clone().with_masked_keys_stay(true);
    refused(
        LocalGlobalAttention::from_exact(&layer(&stays), &LocalGlobalConfig::of(&stays)),
        "masked_keys_stay",
    );
    refused(
        encoder(stays.clone()).to_local_global(&LocalGlobalConfig::of(&stays), &batches()),
        "masked_keys_stay",
    );
    for other in [
        stays,
        plain.clone().with_causal(true),
        plain.clone().with_query_bias(true),
        AttentionConfig::new(8, 4),
        AttentionConfig::new(12, 2),
    ] {
        refused(LocalGlobalAttention::from_exact(&layer(&other), &form), "attention");
        refused(encoder(other).to_local_global(&form, &batches()), "attention");
    }
    refused(
        LocalGlobalAttention::from_exact(&layer(&plain), &form.clone().with_block(3)),
        "block",
    );
    refused(
        encoder(plain.clone()).to_local_global(&form.clone().with_block(3), &batches()),
        "block",
    );
    for other in [
        AttentionKind::from(LinformerConfig::new(8, 2, 9, 3)),
        CausalConfig::new(8, 2, 9, 1).into(),
        form.clone().into(),
    ] {
        let config = EncoderConfig::new(other, 2);
        refused(
            Encoder::<f64>::new(&config, 0).unwrap().to_local_global(&form, &batches()),
            "attention",
        );
        let model = LanguageModelConfig::new(6, config.clone());
        let tokens = [(Array2::zeros((1, 9)), None)];
        refused(
            LanguageModel::<f64>::new(&model, 0).unwrap().to_local_global(&form, &tokens),
            "attention",
        );
        let classifier = Classifier::<f64>::new(&ClassifierConfig::features(8, config, 2), 0).unwrap();
        refused(classifier.to_local_global(&form, &batches()), "attention");
    }
}

#[test]
fn batches_that_measure_nothing() {
    let form = LocalGlobalConfig::of(&AttentionConfig::new(8, 2));
    let exact = encoder(AttentionConfig::new(8, 2));
    let before = model_bits(&exact);
    let argument = |batches: &[(Array3<f64>, Option<PaddingMask>)], part: &str| match exact.to_local_global(&form, batches) {
        Err(Error::Argument { reason, .. }) => assert!(reason.contains(part), "{reason}"),
        other => panic!("{other:?}"),
    };
    argument(&[], "no position is real");
    argument(&[(sequence((2, 0, 8), 1), None)], "no position is real");
    let padding = PaddingMask::from_lengths(&[0], 9).unwrap();
    argument(&[(sequence((1, 9, 8), 1), Some(padding))], "no position is real");
    let mut bad = sequence((1, 9, 8), 1);
    bad[[0, 3, 3]] = f64::INFINITY;
    argument(&[(bad, None)], "not finite");
    let misfit = PaddingMask::from_lengths(&[8], 8).unwrap();
    for batch in [(sequence((1, 9, 7), 1), None), (sequence((1, 9, 8), 1), Some(misfit))] {
        assert!(matches!(exact.to_local_global(&form, &[batch]), Err(Error::Shape { .. })));
    }
    assert_eq!(model_bits(&exact), before);
}

/// A classifier is measured on what it reads.
#[test]
fn sequences_of_the_other_kind() {
    let form = LocalGlobalConfig::of(&AttentionConfig::new(8, 2));
    let config = EncoderConfig::new(AttentionConfig::new(8, 2), 1);
    let of_vectors = Classifier::<f64>::new(&ClassifierConfig::features(8, config.clone(), 2), 0).unwrap();
    let of_tokens = Classifier::<f64>::new(&ClassifierConfig::tokens(LanguageModelConfig::new(6, config), 2), 0).unwrap();
    let tokens = [(Array2::<usize>::zeros((1, 9)), None)];
    assert!(matches!(of_vectors.to_local_global(&form, &tokens), Err(Error::Argument { .. })));
    assert!(matches!(of_tokens.to_local_global(&form, &batches()), Err(Error::Argument { .. })));
    assert!(matches!(
        of_tokens.encoder_input(&batches()[0].0, None),
        Err(Error::Argument { .. })
    ));
    assert_eq!(of_tokens.encoder_input(&tokens[0].0, None).unwrap().dim(), (1, 9, 8));
}

#[test]
fn queries_that_do_not_fit() {
    let config = LocalGlobalConfig::new(8, 2);
    let layer = |config: &LocalGlobalConfig| LocalGlobalAttention::<f64>::new(config, 0).unwrap();
    assert!(matches!(
        layer(&config).with_pooling_query(Array2::zeros((4, 2))),
        Err(Error::Shape { .. })
    ));
    for bad in [f64::NAN, f64::INFINITY] {
        let query = Array2::from_elem((2, 4), bad);
        assert!(matches!(layer(&config).with_pooling_query(query), Err(Error::Argument { .. })));
    }
    let without = layer(&config.clone().with_slots(0));
    assert!(matches!(
        without.with_pooling_query(Array2::zeros((2, 4))),
        Err(Error::Argument { .. })
    ));

    let exact = ExactAttention::<f64>::new(&config.attention, 0).unwrap();
    assert!(matches!(exact.mean_query(&sequence((1, 5, 7), 1), None), Err(Error::Shape { .. })));
    let mask = PaddingMask::from_lengths(&[4], 4).unwrap();
    assert!(matches!(
        exact.mean_query(&sequence((1, 5, 8), 1), Some(&mask)),
        Err(Error::Shape { .. })
    ));
    assert!(matches!(
        exact.mean_query(&sequence((0, 5, 8), 1), None),
        Err(Error::Argument { .. })
    ));
}
