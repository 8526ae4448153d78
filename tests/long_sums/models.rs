//! Models whose biases all rows have a share in, and many batches.

use linformer::ndarray::{Array2, array};
use linformer::training::{Accumulation, CrossEntropy, Step};
use linformer::{
    EncoderConfig, LanguageModel, LanguageModelConfig, Linear, LinformerConfig, Parameters, PositionKind, ProjectionKind, TrainingPass,
};

use super::{BOUND, TERMS, gradients, relative};

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
        .backward(cache, &gradient.into_shape_with_order((1, length, 3)).unwrap(), &mut sums)
        .unwrap();
    let named = gradients(&sums);
    let (_, bias) = named.iter().find(|(name, _)| name == "head.bias").unwrap();
    let worst = relative(bias.iter().copied(), [-2.0 / 3.0, 1.0 / 3.0, 1.0 / 3.0]);
    assert!(worst <= BOUND, "{worst:.1e}");
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
