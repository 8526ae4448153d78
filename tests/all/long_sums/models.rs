//! Models whose biases all rows have a share in, and many batches.

use linformer::ndarray::{Array2, Array3, ArrayD, array};
use linformer::training::{Accumulation, CrossEntropy, Step};
use linformer::{
    Classifier, ClassifierConfig, Encoder, EncoderConfig, LanguageModel, LanguageModelConfig, Linear, LinformerConfig, Parameters,
    PositionKind, ProjectionKind, TrainingPass,
};

use super::{BOUND, TERMS, assert_near, gradients, relative};

fn encoder_config(length: usize) -> EncoderConfig {
    EncoderConfig::new(LinformerConfig::new(2, 1, length, 1).with_kind(ProjectionKind::MeanPooling), 1)
}

/// A uniform guess among three, a million times.
#[test]
fn the_bias_of_a_head() {
    let length = 1_000_000;
    let config = LanguageModelConfig::new(3, encoder_config(length)).with_position(PositionKind::None);
    let mut model = LanguageModel::<f32>::new(&config, 1).unwrap();
    model.set_zero();
    let (logits, cache) = model
        .forward_train(&Array2::zeros((1, length)), None, None, &TrainingPass::new(Step::new(1, 0)))
        .unwrap();
    let rows = logits.into_shape_with_order((length, 3)).unwrap();
    let (loss, gradient) = CrossEntropy::new().loss_and_gradient(rows, &vec![Some(0); length]).unwrap();
    assert!((loss / 3.0_f64.ln() - 1.0).abs() <= BOUND);
    let mut sums = model.zeros_like();
    model
        .backward(cache, gradient.into_shape_with_order((1, length, 3)).unwrap(), &mut sums)
        .unwrap();
    let named = gradients(&sums);
    let (_, bias) = named.iter().find(|(name, _)| name == "head.bias").unwrap();
    let worst = relative(bias.iter().copied(), [-2.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
    assert!(worst <= BOUND, "{worst:.1e}");
}

/// The gradients of `count` equal items are `count` times those of one: every weight, bias, norm, embedding and position has a share of all.
fn assert_copies_add_up(what: &str, of: impl Fn(usize) -> Vec<(String, ArrayD<f64>)>) {
    const COUNT: usize = 20_000;
    let one = of(1).into_iter().map(|(name, tensor)| (name, tensor * COUNT as f64));
    assert_near(&of(COUNT), &one.collect::<Vec<_>>(), what);
}

/// The output's gradient, the same for all items.
fn gradient_of_items(shape: (usize, usize, usize)) -> Array3<f32> {
    Array3::from_shape_fn(shape, |(_, t, i)| ((t * 3 + i) as f32 + 0.3).sin())
}

#[test]
fn copies_of_an_item_in_an_encoder() {
    for kind in [ProjectionKind::Learned, ProjectionKind::MeanPooling] {
        let config = EncoderConfig::new(LinformerConfig::new(4, 2, 3, 2).with_kind(kind), 2);
        let model = Encoder::<f32>::new(&config, 1).unwrap();
        assert_copies_add_up(&format!("an encoder, {kind:?}"), |count| {
            let x = Array3::from_shape_fn((count, 3, 4), |(_, t, i)| ((t * 4 + i) as f32).cos());
            let mut sums = model.zeros_like();
            let (y, cache) = model.forward_train(&x, None, &TrainingPass::new(Step::new(1, 0))).unwrap();
            model.backward(cache, gradient_of_items(y.dim()), &mut sums).unwrap();
            gradients(&sums)
        });
    }
}

#[test]
fn copies_of_an_item_in_a_classifier() {
    let model = Classifier::<f32>::new(&ClassifierConfig::features(2, encoder_config(3), 2), 1).unwrap();
    assert_copies_add_up("a classifier", |count| {
        let x = Array3::from_shape_fn((count, 3, 2), |(_, t, i)| ((t * 2 + i) as f32).cos());
        let (y, cache) = model.forward_train(&x, None, &TrainingPass::new(Step::new(1, 0))).unwrap();
        let mut sums = model.zeros_like();
        let dy = Array2::from_shape_fn(y.dim(), |(_, class)| if class == 0 { 0.1 } else { -0.3 });
        model.backward(cache, dy, &mut sums).unwrap();
        gradients(&sums)
    });
}

#[test]
fn copies_of_an_item_in_a_language_model() {
    let learned = PositionKind::Learned { max_len: 3 };
    for position in [PositionKind::None, learned] {
        let config = LanguageModelConfig::new(3, encoder_config(3)).with_position(position);
        let model = LanguageModel::<f32>::new(&config, 1).unwrap();
        assert_copies_add_up(&format!("a language model, {position:?}"), |count| {
            let tokens = Array2::from_shape_fn((count, 3), |(_, t)| [2, 0, 2][t]);
            let (y, cache) = model
                .forward_train(&tokens, None, None, &TrainingPass::new(Step::new(1, 0)))
                .unwrap();
            let mut sums = model.zeros_like();
            model.backward(cache, gradient_of_items(y.dim()), &mut sums).unwrap();
            gradients(&sums)
        });
    }
}

/// A hundred thousand batches of one model.
#[test]
fn accumulated_batches() {
    for (term, weight) in [(TERMS[0], 1.0), (TERMS[1], 3.0)] {
        let mut batches = Accumulation::new();
        for _ in 0..100_000 {
            let gradients = Linear::from_parts(array![[term]], Some(array![term])).unwrap();
            batches.add(f64::from(term), gradients, weight).unwrap();
        }
        let (loss, mean) = batches.finish().unwrap();
        let found = [loss, mean.weight()[[0, 0]].into(), mean.bias().unwrap()[0].into()];
        let worst = relative(found, [f64::from(term); 3]);
        assert!(worst <= BOUND, "{term} of weight {weight}: {worst:.1e}");
    }
}
