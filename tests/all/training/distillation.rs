//! Encoders that learn from others.

use linformer::ndarray::{Array3, s};
use linformer::training::{Distillation, EncoderBatch, Step, Trainable};
use linformer::{
    AttentionConfig, Encoder, EncoderConfig, FeedForwardConfig, LinformerConfig, LocalGlobalConfig, NormPlacement, PaddingMask, Parameters,
    Pooling, TrainingPass,
};

use crate::common::{bits, difference, scramble, sequence};

const WIDTH: usize = 6;

fn config(norm: NormPlacement) -> EncoderConfig {
    EncoderConfig::new(AttentionConfig::new(WIDTH, 2), 2)
        .with_feed_forward(FeedForwardConfig::new(8))
        .with_norm(norm)
        .with_final_norm(norm == NormPlacement::Pre)
}

fn teacher(norm: NormPlacement) -> Encoder<f64> {
    let mut teacher = Encoder::new(&config(norm), 1).unwrap();
    scramble(&mut teacher, 5);
    teacher
}

/// The teacher in local-global form with other weights.
fn student(teacher: &Encoder<f64>) -> Encoder<f64> {
    let form = LocalGlobalConfig::of(&AttentionConfig::new(WIDTH, 2)).with_block(2).with_slots(2);
    let mut student = teacher.to_local_global(&form, &[(sequence((1, 9, WIDTH), 3), None)]).unwrap();
    let mut index = 0.0;
    student.visit_mut("", &mut |_, _, mut tensor| {
        for value in &mut tensor {
            index += 1.0;
            *value += 0.1 * f64::sin(index);
        }
    });
    student
}

fn batch() -> EncoderBatch<f64> {
    let mask = PaddingMask::from_bools(&linformer::ndarray::array![
        [true, true, false, true, true, true, true],
        [true, true, true, true, false, false, false]
    ]);
    EncoderBatch::new(sequence((2, 7, WIDTH), 2)).with_mask(&mask)
}

fn pass() -> TrainingPass {
    TrainingPass::new(Step::new(1, 0))
}

#[test]
fn the_gradients_are_those_of_the_loss() {
    let batch = batch();
    for (norm, pooling, weight) in [
        (NormPlacement::Post, Pooling::Mean, 1.0),
        (NormPlacement::Pre, Pooling::First, 0.5),
        (NormPlacement::Post, Pooling::Max, 2.0),
        (NormPlacement::Pre, Pooling::Mean, 0.0),
    ] {
        let teacher = teacher(norm);
        let student = student(&teacher);
        let loss = Distillation::new(teacher).with_pooling(pooling).with_cosine_weight(weight);
        for pass in [pass(), pass().with_gradient_checkpointing(true)] {
            let (value, gradients) = student.loss_and_gradients(&batch, &loss, &pass).unwrap();
            assert!((value - student.evaluate(&batch, &loss).unwrap()).abs() < 1e-12);
            check_parameters(&student, &gradients, |student| student.evaluate(&batch, &loss).unwrap());
        }
    }
}

fn check_parameters(model: &Encoder<f64>, gradients: &Encoder<f64>, loss: impl Fn(&Encoder<f64>) -> f64) {
    for (name, gradient) in gradients.named() {
        for (index, &gradient) in gradient.iter().enumerate() {
            let moved = |by: f64| {
                let mut model = model.clone();
                model.visit_mut("", &mut |own, _, mut tensor| {
                    if own == name {
                        *tensor.iter_mut().nth(index).unwrap() += by;
                    }
                });
                loss(&model)
            };
            let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (numeric - gradient).abs() < 1e-6 * gradient.abs().max(1.0),
                "{name} {index}: {gradient} for {numeric}"
            );
        }
    }
}

#[test]
fn an_encoder_has_nothing_to_learn_from_itself() {
    let teacher = teacher(NormPlacement::Post);
    let (loss, gradients) = teacher
        .loss_and_gradients(&batch(), &Distillation::new(teacher.clone()), &pass())
        .unwrap();
    assert!(loss.abs() < 1e-12);
    assert!(
        gradients
            .named()
            .iter()
            .all(|(_, gradient)| gradient.iter().all(|value| value.abs() < 1e-12))
    );
}

#[test]
fn a_layer_that_is_constant_counts_one() {
    // A student whose outputs are all 0: ‖0 − t‖² / ‖t − t̄‖² is 1 where the mean of t is 0, as it is behind a fresh norm.
    let config = config(NormPlacement::Post);
    let teacher = Encoder::<f64>::new(&config, 1).unwrap();
    let mut student = Encoder::new(&config, 1).unwrap();
    student.visit_mut("", &mut |name, _, mut tensor| {
        if name.contains("norm") {
            tensor.fill(0.0);
        }
    });
    let loss = Distillation::new(teacher).with_cosine_weight(0.0);
    let loss = student.evaluate(&batch(), &loss).unwrap();
    assert!((loss - 2.0).abs() < 1e-9, "two layers: {loss}");
}

#[test]
fn padding_changes_nothing_whatever_is_in_it() {
    let teacher = teacher(NormPlacement::Post);
    let student = student(&teacher);
    let loss = Distillation::new(teacher);
    let x = sequence((1, 5, WIDTH), 2);
    let mut padded = Array3::from_elem((1, 8, WIDTH), f64::NAN);
    padded.slice_mut(s![.., ..5, ..]).assign(&x);
    let padded = EncoderBatch::new(padded).with_mask(&PaddingMask::from_lengths(&[5], 8).unwrap());
    let (alone, alone_gradients) = student.loss_and_gradients(&EncoderBatch::new(x), &loss, &pass()).unwrap();
    let (value, gradients) = student.loss_and_gradients(&padded, &loss, &pass()).unwrap();
    assert!((alone - value).abs() < 1e-12);
    for ((name, gradient), (_, alone)) in gradients.named().iter().zip(alone_gradients.named()) {
        assert!(difference(gradient.view(), alone.view()) < 1e-12, "{name}");
    }
}

#[test]
fn the_last_hidden_state_is_the_output() {
    for norm in [NormPlacement::Post, NormPlacement::Pre] {
        let student = student(&teacher(norm));
        let batch = batch();
        let states = student.hidden_states(&batch.x, batch.mask.as_ref()).unwrap();
        let output = student.forward(&batch.x, batch.mask.as_ref()).unwrap();
        assert_eq!(states.len(), 2);
        assert_eq!(bits(&states[1]), bits(&output));
    }
}

#[test]
fn an_encoder_without_blocks_has_no_states() {
    let empty = Encoder::<f64>::new(&EncoderConfig::new(AttentionConfig::new(WIDTH, 2), 0), 0).unwrap();
    assert!(empty.hidden_states(&batch().x, None).unwrap().is_empty());
    let (loss, _) = empty
        .loss_and_gradients(&batch(), &Distillation::new(empty.clone()), &pass())
        .unwrap();
    assert_eq!(loss, 0.0);
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let student = teacher(NormPlacement::Post);
    let refused = |teacher: &Encoder<f64>, weight: f64| {
        let loss = Distillation::new(teacher.clone()).with_cosine_weight(weight);
        student.loss_and_gradients(&batch(), &loss, &pass()).unwrap_err().to_string()
    };
    let deeper = Encoder::new(&EncoderConfig::new(AttentionConfig::new(WIDTH, 2), 3), 0).unwrap();
    assert!(refused(&deeper, 1.0).contains("depth"));
    assert!(refused(&student, f64::NAN).contains("cosine_weight"));
    assert!(refused(&student, -1.0).contains("cosine_weight"));
    let reversible = EncoderConfig::new(LinformerConfig::new(WIDTH, 2, 9, 3), 2).with_reversible(true);
    let reversible = Encoder::new(&reversible, 0).unwrap();
    assert!(refused(&reversible, 1.0).contains("reversible"));
    assert!(reversible.hidden_states(&batch().x, None).is_err());
    // A teacher whose norms are 0 says the same everywhere.
    let mut constant = student.clone();
    constant.visit_mut("", &mut |name, _, mut tensor| {
        if name.contains("norm") {
            tensor.fill(0.0);
        }
    });
    assert!(refused(&constant, 1.0).contains("layer 0"));
}
