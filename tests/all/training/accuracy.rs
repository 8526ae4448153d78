//! How often a model is right.

use crate::common::{scramble, small_encoder, small_language_model, small_model};
use linformer::ndarray::{Array3, array};
use linformer::training::{FeatureBatch, TokenBatch, accuracy};
use linformer::{Classifier, ClassifierConfig, Error, Parameters};

fn classifier() -> Classifier<f64> {
    let mut model = Classifier::new(&ClassifierConfig::tokens(small_language_model(), 3), 1).unwrap();
    scramble(&mut model, 1);
    model
}

/// The class with the highest score, the first of equal ones; a NaN is an error.
#[test]
fn the_predicted_class_has_the_highest_score() {
    let (mut model, tokens) = (classifier(), array![[1, 2, 3, 4], [6, 5, 0, 0], [3, 3, 1, 2]]);
    let scores = model.forward(&tokens, None).unwrap();
    let classes = model.predict(&tokens, None).unwrap();
    assert_eq!(classes.len(), 3);
    for (row, class) in scores.outer_iter().zip(classes) {
        assert!(row.iter().all(|&score| score <= row[class]));
    }
    let set_bias = |model: &mut Classifier<f64>, bias: [f64; 3]| {
        for (name, mut tensor) in model.named_mut() {
            match name.as_str() {
                "output.weight" => tensor.fill(0.0),
                "output.bias" => tensor.assign(&array![bias[0], bias[1], bias[2]]),
                _ => {}
            }
        }
    };
    set_bias(&mut model, [1.0, 2.0, 2.0]);
    assert_eq!(model.predict(&tokens, None).unwrap(), [1, 1, 1]);
    set_bias(&mut model, [f64::NEG_INFINITY, f64::NEG_INFINITY, 0.0]);
    assert_eq!(model.predict(&tokens, None).unwrap(), [2, 2, 2]);
    set_bias(&mut model, [1.0, f64::NAN, 2.0]);
    let error = model.predict(&tokens, None).unwrap_err().to_string();
    assert!(error.starts_with("Classifier::predict: a score is NaN"), "{error}");
}

/// Right targets over all targets of all batches, whatever the batches' sizes are; those that are none do not count.
#[test]
fn accuracy_counts_targets_over_all_batches() {
    let (model, tokens) = (classifier(), array![[1, 2, 3, 4], [6, 5, 0, 0], [3, 3, 1, 2]]);
    let classes = model.predict(&tokens, None).unwrap();
    let wrong = (classes[1] + 1) % 3;
    let first = TokenBatch::new(&tokens, &[Some(classes[0]), Some(wrong), None]);
    let second = TokenBatch::new(&array![[1, 2, 3, 4]], &[Some(classes[0])]);
    assert!((accuracy(&model, &[first, second]).unwrap() - 2.0 / 3.0).abs() < 1e-15);

    let none: [TokenBatch; 0] = [];
    assert!(matches!(accuracy(&model, &none), Err(Error::Argument { .. })));
    let unknown = TokenBatch::new(&tokens, &[None, Some(3), None]);
    assert!(matches!(
        accuracy(&model, &[unknown]),
        Err(Error::Class {
            class: 3,
            row: 1,
            classes: 3
        })
    ));
    let few = TokenBatch::new(&tokens, &[Some(0)]);
    assert!(matches!(accuracy(&model, &[few]), Err(Error::Shape { .. })));
}

#[test]
fn of_features_and_of_language_models() {
    let model = Classifier::<f64>::new(&ClassifierConfig::features(2, small_encoder(), 3), 1).unwrap();
    let x = Array3::from_shape_fn((2, 5, 2), |(item, t, i)| ((item + t * 2 + i) as f64).sin());
    let classes = model.predict(&x, None).unwrap();
    let batch = FeatureBatch::new(&x, &[Some(classes[0]), Some((classes[1] + 1) % 3)]);
    assert_eq!(accuracy(&model, &[batch]).unwrap(), 0.5);

    let (model, tokens) = (small_model(), array![[1, 2, 3]]);
    let scores = model.logits_at(&tokens, &[vec![2]], None).unwrap();
    let best = (0..7).max_by(|&a, &b| scores[[0, a]].total_cmp(&scores[[0, b]]));
    let batch = TokenBatch::new(&tokens, &[best]).at(&[vec![2]]);
    assert_eq!(accuracy(&model, &[batch]).unwrap(), 1.0);
}
