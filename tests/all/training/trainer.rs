//! The training loop.

use linformer::ndarray::{Array1, array};
use linformer::training::{
    AdamW, AdamWConfig, Best, CrossEntropy, Ending, Epochs, Schedule, Sgd, SgdConfig, Step, TokenBatch, Trainable, Trainer, TrainerConfig,
};
use linformer::{
    Classifier, ClassifierConfig, EncoderConfig, Error, LanguageModelConfig, LinformerConfig, Parameters, Result, TrainingPass, Visitor,
    VisitorMut,
};

/// A model of the user's own: one number, whose gradient is what the batch says. The held-out loss is its distance from −1.
#[derive(Clone, Debug, PartialEq)]
struct Slope(Array1<f64>);

impl Parameters<f64> for Slope {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, f64>) {
        self.0.visit(path, visitor);
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, f64>) {
        self.0.visit_mut(path, visitor);
    }
}

impl Trainable<f64, f64> for Slope {
    type Loss = ();
    type Gradients = Self;

    fn loss_and_gradients(&self, gradient: &f64, (): &(), _: &TrainingPass) -> Result<(f64, Self)> {
        Ok((self.0[0], Self(array![*gradient])))
    }

    fn evaluate(&self, _: &f64, (): &()) -> Result<f64> {
        Ok((self.0[0] + 1.0).abs())
    }

    fn tokens(&self, _: &f64) -> usize {
        5
    }
}

fn ones() -> impl Iterator<Item = Result<f64>> {
    std::iter::repeat_with(|| Ok(1.0))
}

fn plain(steps: u64) -> TrainerConfig {
    TrainerConfig::new(steps, Schedule::constant(0.25))
}

fn slope(config: TrainerConfig) -> (Slope, Trainer<Slope, Sgd<f64>>) {
    let model = Slope(array![0.0]);
    let sgd = Sgd::new(&model, SgdConfig::new()).unwrap();
    (model, Trainer::new(config, sgd).unwrap())
}

#[test]
fn rates_are_those_of_the_schedule_and_large_gradients_are_clipped() {
    let config = TrainerConfig::new(4, Schedule::linear(1.0, 4).with_warmup(2));
    let (mut model, mut trainer) = slope(config);
    let mut seen = Vec::new();
    let ending = trainer.run(&mut model, &(), ones(), &[], |progress| {
        assert!(progress.tokens_per_second > 0.0 && progress.steps == 4 && progress.norm.is_none());
        seen.push((progress.step, progress.loss, progress.rate));
    });
    assert_eq!(ending.unwrap(), Ending::Finished);
    // The loss is that before the step.
    assert_eq!(seen, [(1, 0.0, 0.5), (2, -0.5, 1.0), (3, -1.5, 1.0), (4, -2.5, 0.5)]);
    assert_eq!((model.0[0], trainer.batches()), (-3.0, 4));
    let (mut model, mut trainer) = slope(plain(4).with_max_norm(Some(0.5)));
    trainer
        .run(&mut model, &(), ones(), &[], |progress| assert_eq!(progress.norm, Some(1.0)))
        .unwrap();
    assert!((model.0[0] + 4.0 * 0.25 * 0.5).abs() < 1e-5);
}

#[test]
fn early_stopping_keeps_the_best_weights() {
    let (mut model, mut trainer) = slope(plain(100).with_evaluate_every(Some(2)).with_patience(Some(3)));
    let mut evaluations = Vec::new();
    let ending = trainer.run(&mut model, &(), ones(), &[0.0], |progress| evaluations.extend(progress.evaluation));
    assert_eq!(ending.unwrap(), Ending::Patience);
    // Four steps lead to −1, six more away from it.
    assert_eq!(evaluations, [0.5, 0.0, 0.5, 1.0, 1.5]);
    let Best {
        model: best, loss, step, ..
    } = trainer.best().unwrap();
    assert_eq!((best, *loss, *step), (&Slope(array![-1.0]), 0.0, 4));
    assert_eq!(model, Slope(array![-1.0]));
    // It has ended, and stays so.
    assert_eq!(
        trainer.run(&mut model, &(), ones(), &[0.0], |_| panic!("no step")).unwrap(),
        Ending::Patience
    );
    // Without patience the last weights stay, and the last step is evaluated.
    let (mut model, mut trainer) = slope(plain(9).with_evaluate_every(Some(4)));
    let mut evaluated = Vec::new();
    let count = |progress: &mut linformer::training::Progress| {
        if progress.evaluation.is_some() {
            evaluated.push(progress.step);
        }
    };
    trainer.run(&mut model, &(), ones(), &[0.0], count).unwrap();
    assert_eq!((model.0[0], evaluated), (-2.25, vec![4, 8, 9]));
    assert!(trainer.best().is_none());
}

#[test]
fn a_run_can_be_left_and_continued() {
    let (mut model, mut trainer) = slope(plain(6));
    let mut run = |model: &mut Slope, batches: &mut dyn Iterator<Item = Result<f64>>, last: u64| {
        let report = |progress: &mut linformer::training::Progress| {
            if progress.step == last {
                progress.stop();
            }
        };
        trainer.run(model, &(), batches, &[], report).unwrap()
    };
    assert_eq!(run(&mut model, &mut ones().take(2), 9), Ending::NoMoreBatches);
    assert_eq!(run(&mut model, &mut ones(), 3), Ending::Stopped);
    assert_eq!(model.0[0], -0.75);
    assert_eq!(run(&mut model, &mut ones(), 9), Ending::Finished);
    assert_eq!(model.0[0], -1.5);
}

/// Texts of several lengths and their classes, as batches of the examples that are named.
fn batch(examples: &[usize]) -> Result<TokenBatch> {
    let text = |&example: &usize| -> Vec<usize> { (0..2 + example % 5).map(|position| (example + position * position) % 11).collect() };
    let texts: Vec<Vec<usize>> = examples.iter().map(text).collect();
    let classes = examples.iter().map(|example| (example % 7 > 0).then_some(example % 3));
    TokenBatch::from_sequences(&texts, classes.collect::<Vec<_>>())
}

fn classifier(seed: u64) -> Classifier<f64> {
    let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 6, 3), 1);
    Classifier::new(&ClassifierConfig::tokens(LanguageModelConfig::new(11, encoder), 3), seed).unwrap()
}

fn adamw(model: &Classifier<f64>) -> AdamW<f64> {
    AdamW::new(model, AdamWConfig::new()).unwrap()
}

#[test]
fn small_batches_make_the_step_of_a_large_one() {
    let mut sgd = Vec::new();
    for (accumulation, batches) in [
        (1, vec![vec![1, 2, 3, 4, 5, 8, 7]]),
        (3, vec![vec![1, 2, 3], vec![7], vec![4, 5, 8]]),
    ] {
        let mut model = classifier(1);
        let config = plain(1).with_accumulation(accumulation);
        let mut trainer = Trainer::new(config, Sgd::new(&model, SgdConfig::new()).unwrap()).unwrap();
        let batches = batches.iter().map(|examples| batch(examples));
        let mut loss = 0.0;
        trainer
            .run(&mut model, &CrossEntropy::new(), batches, &[], |progress| loss = progress.loss)
            .unwrap();
        assert_eq!(trainer.batches() as u64, accumulation);
        sgd.push((loss, model));
    }
    assert!((sgd[0].0 - sgd[1].0).abs() < 1e-12);
    let start = classifier(1);
    for (((name, one), (_, several)), (_, before)) in sgd[0].1.named().iter().zip(sgd[1].1.named()).zip(start.named()) {
        assert!(
            one.iter().zip(&several).all(|(one, several)| (one - several).abs() < 1e-12),
            "{name}"
        );
        assert!(name.contains("key.bias") || one != before, "{name}");
    }
}

#[test]
fn batches_with_no_targets_change_nothing_but_what_decays() {
    for accumulation in [1, 2] {
        let (mut model, start) = (classifier(1), classifier(1));
        let mut trainer = Trainer::new(
            plain(1).with_accumulation(accumulation),
            Sgd::new(&model, SgdConfig::new()).unwrap(),
        )
        .unwrap();
        let batches = [batch(&[7]), batch(&[14])];
        trainer
            .run(&mut model, &CrossEntropy::new(), batches, &[], |progress| {
                assert_eq!(progress.loss, 0.0);
            })
            .unwrap();
        assert_eq!(model.named(), start.named());
    }
}

#[test]
fn a_failed_step_leaves_the_model_whole() {
    let whole = |broken: Option<usize>| {
        let mut model = classifier(1);
        let mut trainer = Trainer::new(plain(5).with_accumulation(2), adamw(&model)).unwrap();
        let mut run = |broken: Option<usize>, model: &mut Classifier<f64>| {
            let first = trainer.batches();
            let batches = Epochs::new(20, 3, 5)
                .unwrap()
                .enumerate()
                .skip(first)
                .map(|(index, examples)| match broken {
                    Some(broken) if broken == index => Ok::<_, Error>(TokenBatch::new(array![[99]], vec![Some(0)])),
                    _ => batch(&examples),
                });
            trainer.run(model, &CrossEntropy::new(), batches, &[], |_| {})
        };
        if broken.is_some() {
            assert!(matches!(run(broken, &mut model), Err(Error::Token { token: 99, .. })));
        }
        run(None, &mut model).unwrap();
        model
    };
    // The second batch of the third step, and an error of the iterator's own.
    assert_eq!(whole(Some(5)).named(), whole(None).named());
    let (mut model, mut trainer) = slope(plain(3));
    let batches = [Ok(1.0), Err(Box::from("the disk is full"))];
    let error: Box<dyn std::error::Error> = trainer.run(&mut model, &(), batches, &[], |_| {}).unwrap_err();
    assert_eq!((error.to_string().as_str(), model.0[0]), ("the disk is full", -0.25));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |config: TrainerConfig, option: &str| match config.check() {
        Err(Error::Config { option: found, .. }) => assert_eq!(found, option),
        other => panic!("{option}: {other:?}"),
    };
    refused(plain(1).with_accumulation(0), "accumulation");
    refused(plain(1).with_max_norm(Some(f64::NAN)), "max_norm");
    refused(plain(1).with_evaluate_every(Some(0)), "evaluate_every");
    refused(plain(1).with_patience(Some(3)), "patience");
    refused(plain(1).with_evaluate_every(Some(1)).with_patience(Some(0)), "patience");
    let pass = TrainingPass::new(Step::new(0, 0)).with_residual_dropout(1.0);
    refused(plain(1).with_pass(pass), "residual_dropout");
    for (config, held_out) in [(plain(1), vec![1.0]), (plain(1).with_evaluate_every(Some(1)), vec![])] {
        let (mut model, mut trainer) = slope(config);
        let outcome = trainer.run(&mut model, &(), ones(), &held_out, |_| {});
        assert!(matches!(outcome, Err(Error::Argument { .. })));
        assert_eq!(model.0[0], 0.0);
    }
}

#[cfg(feature = "checkpoint")]
mod files {
    use std::path::Path;

    use linformer::checkpoint::{Checkpoint, Tensors};
    use linformer::training::load_training;

    use super::*;
    use crate::common::directory::Directory;

    fn config() -> TrainerConfig {
        let pass = TrainingPass::new(Step::new(11, 3))
            .with_residual_dropout(0.1)
            .with_embedding_dropout(0.1);
        TrainerConfig::new(14, Schedule::cosine(0.02, 14).with_warmup(2))
            .with_pass(pass)
            .with_max_norm(Some(0.5))
            .with_accumulation(2)
            .with_evaluate_every(Some(2))
            .with_patience(Some(u64::MAX))
    }

    fn run(trainer: &mut Trainer<Classifier<f64>, AdamW<f64>>, model: &mut Classifier<f64>, last: u64) -> (Ending, Vec<u64>) {
        let lengths: Vec<usize> = (0..20).map(|example| 2 + example % 5).collect();
        let batches = Epochs::by_length(&lengths, 3, 5).unwrap().skip(trainer.batches());
        let held_out = [batch(&[20, 21, 22]).unwrap(), batch(&[23, 24]).unwrap()];
        let mut losses = Vec::new();
        let ending = trainer.run(
            model,
            &CrossEntropy::new(),
            batches.map(|examples| batch(&examples)),
            &held_out,
            |progress| {
                losses.push(progress.loss.to_bits());
                losses.extend(progress.evaluation.map(f64::to_bits));
                if progress.step == last {
                    progress.stop();
                }
            },
        );
        (ending.unwrap(), losses)
    }

    fn started(path: &Path) -> (Classifier<f64>, Trainer<Classifier<f64>, AdamW<f64>>) {
        let model = classifier(1);
        let mut trainer = Trainer::new(config(), adamw(&model)).unwrap().with_checkpoints(path, 5).unwrap();
        trainer.set_metadata("classes", "a, b, c").unwrap();
        (model, trainer)
    }

    #[test]
    fn a_stopped_run_continues_bit_for_bit() {
        let directory = Directory::new("trainer");
        let (whole_path, path) = (directory.join("whole"), directory.join("stopped"));
        let (mut whole, mut trainer) = started(&whole_path);
        let (ending, losses) = run(&mut trainer, &mut whole, u64::MAX);
        assert_eq!(ending, Ending::Finished);
        let best = trainer.best().unwrap();
        assert!(best.step < 14, "the last step is the best, so the best weights are not tested");
        for stop in [1, 5, 7, 13] {
            let (mut model, mut trainer) = started(&path);
            assert_eq!(run(&mut trainer, &mut model, stop).0, Ending::Stopped);
            trainer.save(&path, &model).unwrap();
            // Another process, which begins with other weights and knows the file alone.
            let mut model = classifier(2);
            let mut trainer = Trainer::new(config(), adamw(&model)).unwrap().with_checkpoints(&path, 5).unwrap();
            trainer.load(&path, &mut model).unwrap();
            assert_eq!(
                (trainer.batches() as u64, trainer.metadata()["classes"].as_str()),
                (2 * stop, "a, b, c")
            );
            let (ending, rest) = run(&mut trainer, &mut model, u64::MAX);
            assert_eq!((ending, &rest[..]), (Ending::Finished, &losses[losses.len() - rest.len()..]));
            assert_eq!(model.named(), whole.named());
            // Moments, best weights and all.
            assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&whole_path).unwrap());
            assert_eq!(directory.files(), ["stopped", "whole"]);
        }
    }

    #[test]
    fn a_file_of_a_run_is_a_model_with_the_best_weights() {
        let directory = Directory::new("trainer");
        let path = directory.join("run");
        let (mut model, mut trainer) = started(&path);
        run(&mut trainer, &mut model, u64::MAX);
        let loaded = Classifier::<f64>::load(&path).unwrap();
        assert_eq!(
            (loaded.config(), loaded.named()),
            (model.config(), trainer.best().unwrap().model.named())
        );
        assert_eq!(Tensors::<f64>::read(&path).unwrap().metadata()["classes"], "a, b, c");
        // Without an evaluation so far there are the last weights.
        let mut trainer = Trainer::new(config(), adamw(&model)).unwrap();
        run(&mut trainer, &mut model, 1);
        trainer.save(&path, &model).unwrap();
        assert_eq!(Classifier::<f64>::load(&path).unwrap().named(), model.named());
        let mut again = classifier(3);
        let mut optimizer = adamw(&again);
        assert_eq!(load_training(&path, &mut again, &mut optimizer).unwrap(), Step::new(11, 3 + 2));
        assert_eq!(again.named(), model.named());
    }

    #[test]
    fn files_that_do_not_fit_are_refused_and_change_nothing() {
        let directory = Directory::new("trainer");
        let path = directory.join("run");
        let (mut model, mut trainer) = started(&path);
        run(&mut trainer, &mut model, 6);
        assert!(trainer.set_metadata("linformer", "mine").is_err());
        let saved = std::fs::read(&path).unwrap();
        let mut other = classifier(2);
        let mut seeded = Trainer::new(config().with_pass(TrainingPass::new(Step::new(12, 3))), adamw(&other)).unwrap();
        assert!(matches!(seeded.load(&path, &mut other), Err(Error::Checkpoint { .. })));
        let mut sgd = Trainer::new(config(), Sgd::new(&other, SgdConfig::new()).unwrap()).unwrap();
        assert!(matches!(sgd.load(&path, &mut other), Err(Error::Checkpoint { .. })));
        let mut tensors = Tensors::<f64>::from_bytes(&saved).unwrap();
        tensors.insert("best.more", array![1.0].into_dyn()).unwrap();
        tensors.write(&path).unwrap();
        let mut trainer = Trainer::new(config(), adamw(&other)).unwrap();
        assert!(matches!(trainer.load(&path, &mut other), Err(Error::Checkpoint { .. })));
        model.save(&path).unwrap();
        assert!(matches!(trainer.load(&path, &mut other), Err(Error::Malformed { .. })));
        assert_eq!((trainer.batches(), other.named()), (0, classifier(2).named()));
        assert!(trainer.best().is_none() && trainer.metadata().is_empty());
        assert!(trainer.with_checkpoints(&path, 0).is_err());
        // A user's own model has no configuration; the file says what reads it.
        let (own, trainer) = slope(plain(3));
        trainer.save(&path, &own).unwrap();
        let message = Classifier::<f64>::load(&path).unwrap_err().to_string();
        assert!(message.contains("Trainer::load"), "{message}");
        let (mut again, mut resumed) = slope(plain(3));
        resumed.load(&path, &mut again).unwrap();
    }
}
