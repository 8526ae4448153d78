//! Layers and models, whose biases, norms, embeddings and positions all rows have a share in.

use linformer::ndarray::{Array1, Array2, Array3, ArrayD, array, s};
use linformer::training::{Accumulation, CrossEntropy, Step};
use linformer::{
    Classifier, ClassifierConfig, Encoder, EncoderConfig, LanguageModel, LanguageModelConfig, Linear, LinformerConfig, Parameters,
    PositionKind, ProjectionKind, Scalar, TrainingPass,
};

use super::{BOUND, MODEL_BOUND, TERMS, assert_near, copy, gradients, relative, widened};

fn encoder_config(length: usize) -> EncoderConfig {
    EncoderConfig::new(LinformerConfig::new(2, 1, length, 1).with_kind(ProjectionKind::MeanPooling), 1)
}

fn classified<A: Scalar>(batch: usize, length: usize, term: f32) -> (Vec<f64>, Vec<(String, ArrayD<f64>)>) {
    let mut model = Classifier::<A>::new(&ClassifierConfig::features(1, encoder_config(length), 2), 1).unwrap();
    copy(&Classifier::new(&model.config().clone(), 1).unwrap(), &mut model);
    let x = Array3::from_elem((batch, length, 1), A::cast(f64::from(term)));
    let (y, cache) = model.forward_train_features(&x, None, &TrainingPass::new(Step::new(1, 0))).unwrap();
    let mut sums = model.zeros_like();
    let dy = Array2::from_shape_fn(y.dim(), |(_, class)| A::cast(if class == 0 { 0.1 } else { -0.3 }));
    model.backward(cache, &dy, &mut sums).unwrap();
    (widened(y), gradients(&sums))
}

/// Mean pooling, norms, feed-forward layers and all of their biases.
#[test]
fn classifiers() {
    for (batch, length) in [(1, 300_000), (60_000, 4)] {
        for term in TERMS {
            let (found, expected) = (classified::<f32>(batch, length, term), classified::<f64>(batch, length, term));
            let size = expected.0.iter().fold(0.0, |most: f64, x| most.max(x.abs()));
            let worst = found.0.iter().zip(&expected.0).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / size;
            assert!(worst <= MODEL_BOUND, "{batch} of {length}: {worst:.1e}");
            assert_near(&found.1, &expected.1, &format!("{batch} of {length}"));
        }
    }
}

fn language_model<A: Scalar>(batch: usize, length: usize, kind: PositionKind) -> Vec<(String, ArrayD<f64>)> {
    let config = LanguageModelConfig::new(3, encoder_config(length)).with_position(kind);
    let mut model = LanguageModel::<A>::new(&config, 1).unwrap();
    copy(&LanguageModel::new(&config, 1).unwrap(), &mut model);
    // One token, so that all rows of an item are alike but for their positions.
    let tokens = Array2::from_elem((batch, length), 2);
    let (y, cache) = model
        .forward_train(&tokens, None, None, &TrainingPass::new(Step::new(1, 0)))
        .unwrap();
    let dy = Array3::from_shape_fn(y.dim(), |(_, _, token)| A::cast([0.1, 0.3, -0.7][token]));
    let mut sums = model.zeros_like();
    model.backward(cache, &dy, &mut sums).unwrap();
    gradients(&sums)
}

/// Frequent tokens, their output weights, and positions.
#[test]
fn language_models() {
    let learned = |max_len| PositionKind::Learned { max_len };
    let after = PositionKind::LearnedAfterPadding {
        max_len: 3,
        padding_token: 1,
    };
    for (batch, length, kind) in [(1, 200_000, PositionKind::None), (70_000, 3, learned(3)), (70_000, 3, after)] {
        let found = language_model::<f32>(batch, length, kind);
        assert_near(&found, &language_model::<f64>(batch, length, kind), &format!("{batch} of {length}"));
    }
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
        .backward(cache, &gradient.into_shape_with_order((1, length, 3)).unwrap(), &mut sums)
        .unwrap();
    let named = gradients(&sums);
    let (_, bias) = named.iter().find(|(name, _)| name == "head.bias").unwrap();
    let worst = relative(bias.iter().copied(), [-2.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
    assert!(worst <= BOUND, "{worst:.1e}");
}

/// A hundred thousand batches of one model, and weights that are nothing in f32.
#[test]
fn accumulated_batches() {
    for (term, weight) in [(TERMS[0], 1.0), (TERMS[1], 3.0), (TERMS[0], 1e39), (TERMS[1], 1e-46)] {
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

/// An encoder's norms and feed-forward layers over more rows than go through one product.
#[test]
fn encoders() {
    fn of<A: Scalar>(x: &Array3<f32>) -> Vec<(String, ArrayD<f64>)> {
        let config = encoder_config(x.dim().1);
        let mut model = Encoder::<A>::new(&config, 1).unwrap();
        copy(&Encoder::new(&config, 1).unwrap(), &mut model);
        let x = x.mapv(|x| A::cast(f64::from(x)));
        let mut sums = model.zeros_like();
        let (y, cache) = model.forward_train(x, None, &TrainingPass::new(Step::new(1, 0))).unwrap();
        let dy = Array1::from_iter([0.1, 0.3]).mapv(A::cast);
        let dy = dy.broadcast(y.dim()).unwrap().to_owned();
        model.backward(cache, dy, &mut sums).unwrap();
        gradients(&sums)
    }
    let mut x = Array3::from_elem((1, 300_000, 2), 0.1_f32);
    x.slice_mut(s![.., .., 1]).fill(0.3);
    assert_near(&of::<f32>(&x), &of::<f64>(&x), "equal rows");
}
