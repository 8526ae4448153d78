//! Exact models in local-global form: the same weights, and the exact result where the form is exact.

use crate::common::{difference, model_bits, scramble, sequence};
use linformer::ndarray::{Array2, array};
use linformer::{
    Attention, AttentionConfig, AttentionKind, Classifier, ClassifierConfig, Encoder, EncoderConfig, ExactAttention, FeedForwardConfig,
    LanguageModel, LanguageModelConfig, LocalGlobalAttention, LocalGlobalConfig, NormPlacement, PaddingMask, Parameters, PoolingQuery,
};

const LENGTH: usize = 20;

/// Everything that weights of exact attention can be.
fn attentions() -> [AttentionConfig; 4] {
    let base = AttentionConfig::new(8, 4);
    [
        base.clone(),
        base.clone().with_kv_heads(2).with_query_bias(true).with_key_value_bias(true, true),
        base.clone().with_tied_key_value(true).with_output_rank(Some(3)),
        base.with_head_dim(Some(3)).with_output_bias(false).with_query_bias(true),
    ]
}

pub fn encoders(attention: &AttentionConfig) -> Vec<EncoderConfig> {
    let base = EncoderConfig::new(attention.clone(), 3).with_feed_forward(Some(FeedForwardConfig::new(5)));
    vec![
        base.clone(),
        base.clone().with_norm(NormPlacement::Post).with_final_norm(false),
        base.clone().with_reversible(true),
        base.clone().with_hidden_dim(Some(4)),
        base.with_feed_forward(None),
    ]
}

/// Two forms that are exact at this length: one position a segment, and two blocks.
fn exact_forms(attention: &AttentionConfig) -> [LocalGlobalConfig; 2] {
    let form = LocalGlobalConfig::of(attention);
    [form.clone().with_block(2).with_slots(LENGTH), form.with_block(16).with_slots(1)]
}

fn scrambled<M: Parameters<f64>>(mut model: M) -> M {
    scramble(&mut model, 5);
    model
}

/// All tensors but u.
fn weights(model: &impl Parameters<f64>) -> Vec<(String, Vec<usize>, Vec<u64>)> {
    let mut all = model_bits(model);
    all.retain(|(name, ..)| !name.ends_with("pooling_query"));
    all
}

#[test]
fn layers() {
    let x = sequence((2, LENGTH, 8), 1);
    let mask = PaddingMask::from_lengths(&[LENGTH, 13], LENGTH).unwrap();
    for config in attentions() {
        let exact = scrambled(ExactAttention::<f64>::new(&config, 0).unwrap());
        for form in exact_forms(&config) {
            let layer = LocalGlobalAttention::from_exact(&exact, &form).unwrap();
            assert!(layer.pooling_query().unwrap().iter().all(|&number| number == 0.0));
            assert_eq!(weights(&layer), weights(&exact));
            let query = exact.mean_query(&x, Some(&mask)).unwrap();
            let layer = layer.with_pooling_query(query.clone()).unwrap();
            assert_eq!(layer.pooling_query().unwrap(), query);
            for mask in [None, Some(&mask)] {
                let (y, expected) = (layer.forward(&x, mask).unwrap(), exact.forward(&x, mask).unwrap());
                assert!(difference(y.view(), expected.view()) < 1e-10, "{config:?}");
            }
        }
    }
}

/// The mean of W_Q·x + b over what is real, whatever padding holds.
#[test]
fn the_mean_query_of_a_layer() {
    let mut x = sequence((2, LENGTH, 8), 3);
    x[[1, 15, 2]] = f64::NAN;
    let mask = PaddingMask::from_lengths(&[LENGTH, 13], LENGTH).unwrap();
    for config in attentions() {
        let exact = scrambled(ExactAttention::<f64>::new(&config, 0).unwrap());
        let named: std::collections::HashMap<_, _> = exact.named().into_iter().collect();
        let weight = named["query.weight"]
            .view()
            .into_dimensionality::<linformer::ndarray::Ix2>()
            .unwrap();
        let mut expected = vec![0.0; weight.nrows()];
        for (item, length) in [LENGTH, 13].into_iter().enumerate() {
            for position in 0..length {
                for (row, sum) in expected.iter_mut().enumerate() {
                    *sum += (0..8).map(|i| weight[[row, i]] * x[[item, position, i]]).sum::<f64>() / (LENGTH + 13) as f64;
                }
            }
        }
        if let Some(bias) = named.get("query.bias") {
            expected.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
        }
        let heads = (config.heads, config.effective_head_dim());
        let expected = Array2::from_shape_vec(heads, expected).unwrap();
        let query = exact.mean_query(&x, Some(&mask)).unwrap();
        assert!(difference(query.view(), expected.view()) < 1e-12, "{config:?}");
    }
}

#[test]
fn encoders_and_models() {
    let x = sequence((2, LENGTH, 8), 1);
    let tokens = Array2::from_shape_fn((2, LENGTH), |(item, position)| (item * 5 + position * 3) % 6);
    let mask = PaddingMask::from_lengths(&[LENGTH, 13], LENGTH).unwrap();
    let (vectors, texts) = ([(x.clone(), Some(mask.clone()))], [(tokens.clone(), Some(mask.clone()))]);
    for config in attentions().iter().flat_map(encoders) {
        let encoder = scrambled(Encoder::<f64>::new(&config, 0).unwrap());
        let model_config = LanguageModelConfig::new(6, config.clone());
        let model = scrambled(LanguageModel::<f64>::new(&model_config, 0).unwrap());
        let by_tokens = scrambled(Classifier::<f64>::new(&ClassifierConfig::tokens(model_config, 3), 0).unwrap());
        let by_vectors = scrambled(Classifier::<f64>::new(&ClassifierConfig::features(8, config.clone(), 3), 0).unwrap());
        for form in exact_forms(config.attention.attention()) {
            let converted = encoder.to_local_global(&form, &vectors).unwrap();
            assert_eq!(converted.config().attention, AttentionKind::LocalGlobal(form.clone()));
            assert_eq!(weights(&converted), weights(&encoder));
            let converted_model = model.to_local_global(&form, &texts).unwrap();
            assert_eq!(converted_model.config().encoder, *converted_model.encoder().config());
            assert_eq!(weights(&converted_model), weights(&model));
            let of_tokens = by_tokens.to_local_global(&form, &texts).unwrap();
            let of_vectors = by_vectors.to_local_global(&form, &vectors).unwrap();
            for mask in [None, Some(&mask)] {
                let near = |a: linformer::ndarray::ArrayD<f64>, b: linformer::ndarray::ArrayD<f64>| {
                    assert!(difference(a.view(), b.view()) < 1e-10, "{config:?} {form:?}");
                };
                let real = |mut y: linformer::ndarray::Array3<f64>| {
                    let zero = |item, position| mask.is_some_and(|mask| !mask.is_real(item, position));
                    y.indexed_iter_mut()
                        .filter(|((b, t, _), _)| zero(*b, *t))
                        .for_each(|(_, number)| *number = 0.0);
                    y.into_dyn()
                };
                near(real(converted.forward(&x, mask).unwrap()), real(encoder.forward(&x, mask).unwrap()));
                let expected = model.forward(&tokens, mask).unwrap();
                near(real(converted_model.forward(&tokens, mask).unwrap()), real(expected));
                let expected = by_tokens.forward(&tokens, mask).unwrap();
                near(of_tokens.forward(&tokens, mask).unwrap().into_dyn(), expected.into_dyn());
                let expected = by_vectors.forward(&x, mask).unwrap();
                near(of_vectors.forward(&x, mask).unwrap().into_dyn(), expected.into_dyn());
            }
        }
    }
}

/// The configuration of a converted model is that of a new one, so that its file loads.
#[test]
fn a_converted_model_is_one_of_its_configuration() {
    for config in encoders(&AttentionConfig::new(8, 2)) {
        let exact = Encoder::<f64>::new(&config, 0).unwrap();
        let form = LocalGlobalConfig::of(&AttentionConfig::new(8, 2)).with_block(4).with_slots(4);
        let converted = exact.to_local_global(&form, &[(sequence((1, 9, 8), 1), None)]).unwrap();
        let new = Encoder::<f64>::new(converted.config(), 1).unwrap();
        let shapes = |model: &Encoder<f64>| {
            model_bits(model)
                .into_iter()
                .map(|(name, shape, _)| (name, shape))
                .collect::<Vec<_>>()
        };
        assert_eq!(shapes(&converted), shapes(&new));
        for (block, of_new) in converted.blocks().iter().zip(new.blocks()) {
            let (Attention::LocalGlobal(layer), Attention::LocalGlobal(of_new)) = (block.attention(), of_new.attention()) else {
                panic!("they are local-global")
            };
            assert_eq!(layer.config(), of_new.config());
        }
    }
}

/// Without a u that is the same for all texts there is nothing to measure.
#[test]
fn forms_without_a_fixed_query_take_no_batches() {
    let exact = Encoder::<f64>::new(&EncoderConfig::new(AttentionConfig::new(8, 2), 2), 0).unwrap();
    let form = LocalGlobalConfig::of(&AttentionConfig::new(8, 2)).with_block(4);
    for form in [form.clone().with_slots(0), form.with_pooling_query(PoolingQuery::MeanOfItem)] {
        let converted = exact.to_local_global(&form, &[]).unwrap();
        assert_eq!(converted.forward(&sequence((1, 30, 8), 1), None).unwrap().dim(), (1, 30, 8));
        let error = exact
            .to_local_global(&form, &[(sequence((1, 9, 8), 1), None)])
            .unwrap_err()
            .to_string();
        assert!(error.contains("give none"), "{error}");
    }
    let tokens: [(Array2<usize>, Option<PaddingMask>); 1] = [(array![[1, 2, 6]], None)];
    let model = LanguageModel::<f64>::new(&LanguageModelConfig::new(6, exact.config().clone()), 0).unwrap();
    let form = LocalGlobalConfig::of(&AttentionConfig::new(8, 2));
    assert!(matches!(model.to_local_global(&form, &tokens), Err(linformer::Error::Token { .. })));
}
