//! Exact models with a projection put in: with E = F = 1 they compute what the exact ones do.

use crate::common::{bits, difference, scramble, sequence};
use linformer::ndarray::array;
use linformer::{
    AttentionConfig, Classifier, ClassifierConfig, Encoder, EncoderConfig, ExactAttention, FeedForwardConfig, Initialization,
    LanguageModel, LanguageModelConfig, LinformerAttention, LinformerConfig, NormPlacement, PaddingMask, Parameters, PositionKind,
    ProjectionConfig, ProjectionKind, Sharing,
};

const LENGTH: usize = 6;

/// Makes every E and F the identity.
fn make_identity(model: &mut impl Parameters<f64>) {
    let mut found = 0;
    model.visit_mut("", &mut |name, _, mut tensor| {
        if name.contains("projections") {
            found += 1;
            let last = tensor.ndim() - 1;
            for (at, number) in tensor.indexed_iter_mut() {
                *number = f64::from(u8::from(at[last] == at[last - 1]));
            }
        }
    });
    assert!(found > 0);
}

fn scrambled<M: Parameters<f64>>(mut model: M) -> M {
    scramble(&mut model, 5);
    model
}

fn projections(with_layerwise: bool) -> Vec<ProjectionConfig> {
    let modes = [
        None,
        Some(Sharing::None),
        Some(Sharing::Headwise),
        Some(Sharing::KeyValue),
        Some(Sharing::Layerwise),
    ];
    let count = if with_layerwise { 5 } else { 4 };
    let of = |&sharing: &Option<Sharing>| ProjectionConfig::default().with_sharing(sharing);
    modes[..count].iter().map(of).collect()
}

/// Everything that weights of exact attention can be.
fn attentions() -> Vec<AttentionConfig> {
    let mut all = Vec::new();
    for kv_heads in [1, 2, 4] {
        for tied in [false, true] {
            for (rank, bias) in [(None, false), (Some(3), true)] {
                let config = AttentionConfig::new(8, 4).with_kv_heads(kv_heads).with_tied_key_value(tied);
                let config = config.with_output_rank(rank).with_query_bias(bias).with_output_bias(!bias);
                all.push(config.with_key_value_bias(bias, bias));
            }
        }
    }
    all.push(AttentionConfig::new(8, 4).with_head_dim(Some(3)).with_key_value_bias(true, false));
    all
}

#[test]
fn layers() {
    let x = sequence((2, LENGTH, 8), 1);
    let mask = PaddingMask::from_bools(&array![[true, true, false, true, true, false], [true; 6]]);
    for config in attentions() {
        for stays in [false, true] {
            let exact = scrambled(ExactAttention::<f64>::new(&config.clone().with_masked_keys_stay(stays), 0).unwrap());
            for projection in projections(false) {
                let mut layer = LinformerAttention::from_exact(&exact, LENGTH, LENGTH, projection, 1).unwrap();
                make_identity(&mut layer);
                let y = layer.forward(&x, None).unwrap();
                assert!(
                    difference(y.view(), exact.forward(&x, None).unwrap().view()) < 1e-12,
                    "{config:?} {projection:?}"
                );
                if stays {
                    let y = layer.forward(&x, Some(&mask)).unwrap();
                    let expected = exact.forward(&x, Some(&mask)).unwrap();
                    assert!(difference(y.view(), expected.view()) < 1e-12, "{config:?} {projection:?}");
                }
                // And back.
                let back = ExactAttention::from_linformer(&layer);
                assert_eq!(bits(&back.forward(&x, None).unwrap()), bits(&exact.forward(&x, None).unwrap()));
            }
        }
    }
}

#[test]
fn the_projections_are_those_of_a_new_layer() {
    let exact = ExactAttention::<f64>::new(&AttentionConfig::new(8, 2), 0).unwrap();
    for kind in [ProjectionKind::Learned, ProjectionKind::Random] {
        let initialization = Some(Initialization::XavierNormal);
        let projection = ProjectionConfig::new(kind)
            .with_initialization(initialization)
            .with_bias(kind == ProjectionKind::Learned);
        let layer = LinformerAttention::from_exact(&exact, 20, 3, projection, 7).unwrap();
        let new = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 20, 3).with_projection(projection), 7).unwrap();
        let of = |layer: &LinformerAttention<f64>| bits(&layer.projections().unwrap().key().matrix().unwrap().to_owned());
        assert_eq!(of(&layer), of(&new));
        assert_ne!(
            of(&layer),
            of(&LinformerAttention::from_exact(&exact, 20, 3, projection, 8).unwrap())
        );
        assert_eq!(bits(&layer.query().weight().to_owned()), bits(&scrambled_query(&exact)));
    }
    // Kinds without a matrix keep the weights as well.
    let pooled = LinformerAttention::from_exact(&exact, 20, 3, ProjectionConfig::new(ProjectionKind::MeanPooling), 0).unwrap();
    assert_eq!(bits(&pooled.query().weight().to_owned()), bits(&scrambled_query(&exact)));
}

fn scrambled_query(exact: &ExactAttention<f64>) -> linformer::ndarray::Array2<f64> {
    let named = exact.named();
    let (_, weight) = named.iter().find(|(name, _)| name == "query.weight").unwrap();
    weight.to_owned().into_dimensionality().unwrap()
}

fn encoders() -> Vec<EncoderConfig> {
    let attention = AttentionConfig::new(8, 2).with_kv_heads(1).with_key_value_bias(true, true);
    let base = EncoderConfig::new(attention.with_masked_keys_stay(true), 3).with_feed_forward(Some(FeedForwardConfig::new(5)));
    vec![
        base.clone(),
        base.clone().with_norm(NormPlacement::Post).with_final_norm(false),
        base.clone().with_reversible(true),
        base.clone().with_hidden_dim(Some(4)),
        base.with_feed_forward(None),
    ]
}

#[test]
fn encoders_and_models() {
    let x = sequence((2, LENGTH, 8), 1);
    let mask = PaddingMask::from_lengths(&[LENGTH, 4], LENGTH).unwrap();
    let tokens = array![[1, 2, 3, 4, 5, 0], [5, 4, 3, 2, 1, 1]];
    for config in encoders() {
        for projection in projections(true) {
            let exact = scrambled(Encoder::<f64>::new(&config, 0).unwrap());
            let mut encoder = Encoder::from_exact(&exact, LENGTH, LENGTH, projection, 1).unwrap();
            let is_shared = projection.sharing == Some(Sharing::Layerwise);
            assert_eq!(encoder.projections().is_some(), is_shared);
            make_identity(&mut encoder);
            let model = LanguageModelConfig::new(6, config.clone()).with_position(PositionKind::Learned { max_len: LENGTH });
            let exact_model = scrambled(LanguageModel::<f64>::new(&model, 0).unwrap());
            let mut language_model = LanguageModel::from_exact(&exact_model, LENGTH, LENGTH, projection, 1).unwrap();
            make_identity(&mut language_model);
            let by_tokens = scrambled(Classifier::<f64>::new(&ClassifierConfig::tokens(model, 3), 0).unwrap());
            let mut of_tokens = Classifier::from_exact(&by_tokens, LENGTH, LENGTH, projection, 1).unwrap();
            make_identity(&mut of_tokens);
            let by_features = scrambled(Classifier::<f64>::new(&ClassifierConfig::features(8, config.clone(), 3), 0).unwrap());
            let mut of_features = Classifier::from_exact(&by_features, LENGTH, LENGTH, projection, 1).unwrap();
            make_identity(&mut of_features);
            for mask in [None, Some(&mask)] {
                let close = |a: linformer::ndarray::ArrayD<f64>, b: linformer::ndarray::ArrayD<f64>| {
                    assert!(difference(a.view(), b.view()) < 1e-12, "{config:?} {projection:?}");
                };
                close(
                    encoder.forward(&x, mask).unwrap().into_dyn(),
                    exact.forward(&x, mask).unwrap().into_dyn(),
                );
                let expected = exact_model.forward(&tokens, mask).unwrap();
                close(language_model.forward(&tokens, mask).unwrap().into_dyn(), expected.into_dyn());
                let expected = by_tokens.forward(&tokens, mask).unwrap();
                close(of_tokens.forward(&tokens, mask).unwrap().into_dyn(), expected.into_dyn());
                let expected = by_features.forward(&x, mask).unwrap();
                close(of_features.forward(&x, mask).unwrap().into_dyn(), expected.into_dyn());
            }
        }
    }
}
