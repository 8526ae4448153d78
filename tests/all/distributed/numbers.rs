//! Bad numbers on one rank, wherever they come up: all ranks learn of them, and of whose they are.

use linformer::distributed::{Communicator, Shardable, Sharded, Shards, ThreadRank};
use linformer::ndarray::{Array2, Array3};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Step, TokenBatch, Trainable};
use linformer::{
    AttentionKind, Classifier, ClassifierConfig, Encoder, EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig,
    LocalGlobalConfig, NormPlacement, Parameters, Pooling, ProjectionKind, Result, TrainingPass,
};

use super::failures::{LENGTH, assert_named, config, errors};

fn pass() -> TrainingPass {
    TrainingPass::new(Step::new(0, 0))
}

/// A model of which one tensor of `odd` is NaN.
fn poisoned<'c, M: Shardable<f64>>(rank: &'c ThreadRank, config: &M::Config, (odd, place): (usize, usize)) -> Result<Sharded<'c, M>> {
    let mut model = Sharded::<M>::new(config, 0, Shards::even(LENGTH, rank.size())?, rank)?;
    let mut index = 0;
    let is_odd = rank.rank() == odd;
    model.model_mut().visit_mut("", &mut |_, _, mut tensor| {
        if is_odd && index == place {
            tensor.fill(f64::NAN);
        }
        index += 1;
    });
    Ok(model)
}

/// Every tensor in turn is NaN on one rank in turn, and `work` fails on all of them.
fn each_tensor<M: Shardable<f64>>(whole: &M, config: &M::Config, work: impl Fn(&Sharded<'_, M>) -> Result<()> + Sync)
where
    M::Config: Sync,
{
    for place in 0..whole.named().len() {
        for odd in 0..3 {
            let errors = errors(3, |rank| work(&poisoned::<M>(rank, config, (odd, place))?));
            assert_named(&errors, odd, "");
        }
    }
}

#[test]
fn parameters_of_encoders() -> Result<()> {
    let local_global: AttentionKind = LocalGlobalConfig::new(4, 2).with_block(2).with_slots(3).into();
    for (depth, placement, attention) in [
        (0, NormPlacement::Pre, config().attention),
        (2, NormPlacement::Pre, config().attention),
        (1, NormPlacement::Post, config().attention),
        (2, NormPlacement::Pre, local_global),
    ] {
        let mut config = config().with_norm(placement);
        config.attention = attention;
        config.depth = depth;
        let whole = Encoder::new(&config, 0)?;
        let x = |encoder: &Sharded<'_, Encoder<f64>>| {
            Array3::from_shape_fn((2, encoder.range().len(), 4), |(item, row, feature)| (item + row * feature) as f64)
        };
        each_tensor(&whole, &config, |encoder| encoder.forward(&x(encoder), None).map(|_| ()));
        each_tensor(&whole, &config, |encoder| {
            encoder.forward_train(&x(encoder), None, &pass()).map(|_| ())
        });
    }
    Ok(())
}

#[test]
fn parameters_of_language_models() -> Result<()> {
    let config = LanguageModelConfig::new(7, config());
    let whole = LanguageModel::new(&config, 0)?;
    let tokens = |model: &Sharded<'_, LanguageModel<f64>>| Array2::ones((1, model.range().len()));
    each_tensor(&whole, &config, |model| model.forward(&tokens(model), None).map(|_| ()));
    each_tensor(&whole, &config, |model| {
        model.logits_at(&tokens(model), &[vec![1, 2]], None).map(|_| ())
    });
    each_tensor(&whole, &config, |model| {
        let targets = vec![Some(1); model.range().len()];
        model
            .loss_and_gradients(&TokenBatch::new(tokens(model), &targets), &CrossEntropy::new(), &pass())
            .map(|_| ())
    });
    Ok(())
}

#[test]
fn parameters_of_classifiers() -> Result<()> {
    for pooling in [Pooling::Mean, Pooling::Max, Pooling::First] {
        let config = ClassifierConfig::tokens(LanguageModelConfig::new(7, config()), 3).with_pooling(pooling);
        let whole = Classifier::new(&config, 0)?;
        let tokens = |model: &Sharded<'_, Classifier<f64>>| Array2::ones((1, model.range().len()));
        each_tensor(&whole, &config, |model| model.forward(&tokens(model), None).map(|_| ()));
        each_tensor(&whole, &config, |model| {
            model
                .loss_and_gradients(&TokenBatch::new(tokens(model), &[Some(1)]), &CrossEntropy::new(), &pass())
                .map(|_| ())
        });
    }
    Ok(())
}

#[test]
fn rows_of_every_kind() {
    for kind in [
        ProjectionKind::Learned,
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
    ] {
        let attention = LinformerConfig::new(4, 2, LENGTH, 3).with_kind(kind);
        let config = EncoderConfig::new(attention, 2).with_norm(NormPlacement::Post);
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for odd in 0..3 {
                let errors = errors(3, |rank| {
                    let encoder = Sharded::<Encoder<f64>>::new(&config, 0, Shards::even(LENGTH, 3)?, rank)?;
                    let mut x = Array3::ones((1, encoder.range().len(), 4));
                    if rank.rank() == odd {
                        x[[0, 2, 1]] = bad;
                    }
                    encoder.forward(&x, None)
                });
                assert_named(&errors, odd, "not finite");
            }
        }
    }
}

/// The gradient of F alone overflows, where a rank's rows are large and its columns small.
#[test]
fn gradients_of_columns() -> Result<()> {
    let config = EncoderConfig::new(LinformerConfig::new(4, 1, LENGTH, 1), 1);
    let mut whole = Encoder::<f64>::new(&config, 0)?;
    whole.visit_mut("", &mut |name, _, mut tensor| {
        if name.ends_with("attention_norm.weight") {
            tensor.fill(1e200);
        } else if name.contains("projections") {
            tensor.fill(1e-200);
        }
    });
    for clips in [false, true] {
        let errors = errors(3, |rank| {
            let encoder = Sharded::of(&whole, Shards::even(LENGTH, 3)?, rank)?;
            let length = encoder.range().len();
            let x = Array3::from_shape_fn(
                (1, length, 4),
                |(_, _, feature)| if rank.rank() == 1 { feature as f64 } else { 0.0 },
            );
            let (_, cache) = encoder.forward_train(&x, None, &pass())?;
            let mut gradients = encoder.model().zeros_like();
            encoder.backward(cache, Array3::from_elem((1, length, 4), 1e200), &mut gradients)?;
            let mut bad = Vec::new();
            gradients.visit("", &mut |name, _, tensor| {
                if tensor.iter().any(|number| !number.is_finite()) {
                    bad.push(name.to_owned());
                }
            });
            assert_eq!(bad.len(), usize::from(rank.rank() == 1), "{bad:?}");
            if clips {
                let optimizer = AdamW::new(encoder.model(), AdamWConfig::new())?;
                return encoder.clip_gradient_norm(&optimizer, &mut gradients, 1.0).map(|_| ());
            }
            encoder.reduce_gradients(&mut gradients)
        });
        assert_named(&errors, 1, "projections.value.weight` is not finite");
    }
    Ok(())
}
