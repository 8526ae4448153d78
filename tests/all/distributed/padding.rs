//! Padding reaches no gradient of any rank, and norms of gradients are those of one process.

use linformer::distributed::{Communicator, Sharded, Shards};
use linformer::ndarray::{Array2, Array3, ArrayD, s};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, FeatureBatch, Optimizer, Step, Trainable};
use linformer::{
    AttentionKind, Classifier, ClassifierConfig, Encoder, EncoderConfig, LinformerConfig, PaddingMask, Parameters, Pooling, TrainingPass,
};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{cut, ranks};
use crate::common::{encoder_config, sequence, tensors};

fn pass() -> TrainingPass {
    TrainingPass::new(Step::new(1, 2))
}

fn with_padding(x: &Array3<f64>, mask: &PaddingMask, value: f64) -> Array3<f64> {
    let mut x = x.clone();
    for ((item, position, _), number) in x.indexed_iter_mut() {
        if !mask.is_real(item, position) {
            *number = value;
        }
    }
    x
}

fn check(gradients: impl Fn(f64) -> Vec<Vec<(String, ArrayD<f64>)>>) {
    let expected = gradients(0.0);
    for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MAX] {
        let found = gradients(value);
        for ((name, found), (_, expected)) in found.iter().flatten().zip(expected.iter().flatten()) {
            assert!(found.iter().all(|number| number.is_finite()), "{name} with {value} at padding");
            assert_eq!(found, expected, "{name} with {value} at padding");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, rng_seed: RngSeed::Fixed(7), ..ProptestConfig::default() })]

    #[test]
    fn encoders_and_classifiers(config in encoder_config(3..=9), size in 1..=3_usize, pattern: u64, seed in 0..1000_u64) {
        let AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let length = attention.seq_len;
        let shards = Shards::even(length, size).unwrap();
        let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, t)| t == item || pattern >> (item * 9 + t) & 1 == 1));
        let encoder = Encoder::<f64>::new(&config, 3).unwrap();
        let x = sequence((2, length, 5), seed);
        let dy = with_padding(&sequence((2, length, config.dim()), 5), &mask, 0.0);
        check(|value| {
            let x = with_padding(&x, &mask, value);
            ranks(size, |rank| {
                let encoder = Sharded::of(&encoder, shards.clone(), rank)?;
                let own = shards.part(rank.rank(), length);
                let rows = s![.., own.clone(), ..];
                let (_, cache) = encoder.forward_train(&x.slice(rows), Some(&cut(&mask, own.clone())), &pass())?;
                let mut gradients = encoder.model().zeros_like();
                let dx = encoder.backward(cache, dy.slice(rows).to_owned(), &mut gradients)?;
                encoder.reduce_gradients(&mut gradients)?;
                let mut all = tensors(&gradients);
                all.push(("x".to_owned(), dx.into_dyn()));
                Ok(all)
            })
        });
        let pooling = [Pooling::Mean, Pooling::Max, Pooling::First][size - 1];
        let config = ClassifierConfig::features(3, config.clone(), 4).with_pooling(pooling);
        let model = Classifier::<f64>::new(&config, 3).unwrap();
        let x = sequence((2, length, 3), seed);
        check(|value| {
            let x = with_padding(&x, &mask, value);
            ranks(size, |rank| {
                let sharded = Sharded::of(&model, shards.clone(), rank)?;
                let own = shards.part(rank.rank(), length);
                let (x, mask) = (x.slice(s![.., own.clone(), ..]).to_owned(), cut(&mask, own));
                let targets = [Some(3), Some(1)];
                let (_, gradients) = sharded.loss_and_gradients(&FeatureBatch::new(&x, &targets).with_mask(&mask), &CrossEntropy::new(), &pass())?;
                Ok(tensors(&gradients))
            })
        });
    }
}

/// Gradients of which some columns are another rank's, as large and as small as numbers are.
#[test]
fn norms_of_gradients_of_any_magnitude() {
    let config = EncoderConfig::new(LinformerConfig::new(4, 2, 12, 2), 1);
    let whole = Encoder::<f64>::new(&config, 1).unwrap();
    for size in [5e-324, 1e-310, 3e-200, 1e-120, 1.0, 1e120, 4e200, 1e306] {
        let mut gradients = whole.clone();
        gradients.visit_mut("", &mut |_, _, mut tensor| tensor.mapv_inplace(|x| x.signum() * size));
        let optimizer = AdamW::new(&whole, AdamWConfig::new()).unwrap();
        let mut clipped = gradients.clone();
        let expected = optimizer.clip_gradient_norm(&mut clipped, 0.5).unwrap();
        assert!(expected.is_finite() && expected > size);
        ranks(2, |rank| {
            let sharded = Sharded::of(&whole, Shards::even(12, 2)?, rank)?;
            let optimizer = AdamW::new(sharded.model(), AdamWConfig::new())?;
            let mut own = Sharded::of(&gradients, Shards::even(12, 2)?, rank)?.model().clone();
            let norm = sharded.clip_gradient_norm(&optimizer, &mut own, 0.5)?;
            assert!((norm / expected - 1.0).abs() < 1e-12, "{size}: {norm} for {expected}");
            assert!(super::part_difference(&own, &clipped, &sharded.range()) < 1e-12, "{size}");
            Ok(())
        });
    }
    let mut gradients = whole.clone();
    gradients.visit_mut("", &mut |_, _, mut tensor| tensor.fill(1.5e308));
    ranks(2, |rank| {
        let sharded = Sharded::of(&whole, Shards::even(12, 2)?, rank)?;
        let optimizer = AdamW::new(sharded.model(), AdamWConfig::new())?;
        let mut own = Sharded::of(&gradients, Shards::even(12, 2)?, rank)?.model().clone();
        let before = tensors(&own);
        let error = sharded.clip_gradient_norm(&optimizer, &mut own, 0.5).unwrap_err().to_string();
        assert!(error.contains("the norm of the gradients is more than"), "{error}");
        assert_eq!(tensors(&own), before);
        Ok(())
    });
}
