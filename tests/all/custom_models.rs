//! Models that are made of the crate's layers outside of it: whatever takes parameters takes theirs.

use crate::common::gradients::{check, weights};
use crate::common::{difference, sequence, tensors};
use linformer::distributed::{Communicator, ThreadGroup, all_reduce_gradients};
use linformer::ndarray::{Array1, Array3, Axis, array};
use linformer::training::{Accumulation, AdamW, AdamWConfig, MeanSquaredError, Optimizer, Sgd, SgdConfig, Step};
use linformer::{
    Attention, Encoder, EncoderConfig, ExactAttention, LayerNorm, Linear, LinformerConfig, Parameters, Position, PositionKind, Result,
    Role, Scalar, TrainingPass, parameters,
};

/// Generic over its element type, with fields of every kind.
#[derive(Clone)]
struct Tagger<A> {
    input: Linear<A>,
    position: Position<A>,
    encoder: Encoder<A>,
    norms: Vec<LayerNorm<A>>,
    scale: Option<Array1<A>>,
    output: Linear<A>,
    /// No tensors.
    depth: usize,
}

parameters!(Tagger {
    input,
    position,
    encoder,
    norms,
    scale,
    output
});

impl<A: Scalar> Tagger<A> {
    fn new(seed: u64) -> Self {
        let encoder = EncoderConfig::new(LinformerConfig::new(6, 2, 5, 3), 2);
        Self {
            input: Linear::new(2, 6, true, seed).unwrap(),
            position: Position::new(PositionKind::Learned { max_len: 5 }, 6, seed).unwrap(),
            encoder: Encoder::new(&encoder, seed).unwrap(),
            norms: vec![LayerNorm::new(6, 1e-5).unwrap(); 2],
            scale: Some(Array1::from_elem(1, A::one())),
            output: Linear::new(6, 1, true, seed + 1).unwrap(),
            depth: 2,
        }
    }

    fn forward(&self, x: &Array3<A>) -> Result<Array3<A>> {
        let mut x = self.encoder.forward(&self.position.forward(&self.input.forward(x)?, None)?, None)?;
        for norm in &self.norms[..self.depth] {
            x = norm.forward(&x)?;
        }
        let scale = self.scale.as_ref().map_or_else(A::one, |scale| scale[0]);
        Ok(self.output.forward(&x)? * scale)
    }

    /// The gradients, and that of x, given that of the output.
    fn gradients(&self, x: &Array3<A>, pass: &TrainingPass, dy: impl FnOnce(&Array3<A>) -> Array3<A>) -> Result<(Self, Array3<A>)> {
        let (x, input) = self.input.forward_train(x)?;
        let (x, position) = self.position.forward_train(&x, None)?;
        let (mut x, encoder) = self.encoder.forward_train(&x, None, pass)?;
        let mut norms = Vec::new();
        for norm in &self.norms {
            let (y, cache) = norm.forward_train(&x)?;
            x = y;
            norms.push(cache);
        }
        let (y, output) = self.output.forward_train(&x)?;
        let scale = self.scale.as_ref().map_or_else(A::one, |scale| scale[0]);

        let (mut gradients, dy) = (self.zeros_like(), dy(&(&y * scale)));
        if let Some(own) = &mut gradients.scale {
            own[0] += (&y * &dy).sum();
        }
        let mut dx = self.output.backward(output, dy * scale, &mut gradients.output)?;
        for ((norm, cache), own) in self.norms.iter().zip(norms).zip(&mut gradients.norms).rev() {
            dx = norm.backward(cache, dx, own)?;
        }
        let dx = self.encoder.backward(encoder, dx, &mut gradients.encoder)?;
        let dx = self.position.backward(position, dx, &mut gradients.position)?;
        let dx = self.input.backward(input, dx, &mut gradients.input)?;
        Ok((gradients, dx))
    }

    fn loss_and_gradients(&self, x: &Array3<A>, target: &Array3<A>, pass: &TrainingPass) -> Result<(f64, Self)> {
        let mut loss = Ok(f64::NAN);
        let (gradients, _) = self.gradients(x, pass, |y| {
            let both = MeanSquaredError::new().loss_and_gradient(y, target);
            let (value, gradient) = both.unwrap();
            loss = Ok(value);
            gradient
        })?;
        Ok((loss?, gradients))
    }
}

/// Of one element type, with another model in it.
struct Probe {
    tagger: Tagger<f64>,
    bias: Array1<f64>,
}

parameters!(Probe: f64 { bias } flat { tagger });

#[derive(Clone)]
#[allow(clippy::large_enum_variant)]
enum Layer<A> {
    Exact(ExactAttention<A>),
    Any(Attention<A>),
}

parameters!(
    enum Layer {
        Exact,
        Any,
    }
);

/// Keeps what it computed from its tensor, and forgets it when the tensor may change.
struct Doubled {
    weight: Array1<f64>,
    sum: Kept,
}

#[derive(Default)]
struct Kept(Option<f64>);

impl Kept {
    fn forget(&mut self) {
        self.0 = None;
    }
}

parameters!(Doubled: f64 { weight } derived { sum });

fn pass(index: u64) -> TrainingPass {
    TrainingPass::new(Step::new(3, index)).with_residual_dropout(0.2)
}

/// What step `index` trains on.
fn batch(index: u64) -> (Array3<f64>, Array3<f64>) {
    let x = sequence((4, 5, 2), index);
    let target = x.map_axis(Axis(2), |row| row.sum()).insert_axis(Axis(2));
    (x, target)
}

#[test]
fn names_are_the_paths_of_the_fields() {
    let probe = Probe {
        tagger: Tagger::new(1),
        bias: Array1::zeros(2),
    };
    let names: Vec<String> = probe.named().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names[..3], ["input.weight", "input.bias", "position.weight"]);
    let last = [
        "norms.0.weight",
        "norms.0.bias",
        "norms.1.weight",
        "norms.1.bias",
        "scale",
        "output.weight",
        "output.bias",
        "bias",
    ];
    assert_eq!(names[names.len() - last.len()..], last);
    assert!(names.contains(&"encoder.blocks.1.attention.query.weight".to_owned()));
    let exact = ExactAttention::<f32>::new(&linformer::AttentionConfig::new(4, 2), 1).unwrap();
    let named = |layer: Layer<f32>| layer.named().into_iter().map(|(name, _)| name).collect::<Vec<_>>();
    assert_eq!(named(Layer::Exact(exact.clone())), named(Layer::Any(Attention::Exact(exact))));
}

#[test]
fn what_was_computed_from_tensors_is_forgotten_when_they_may_change() {
    let (mut own, x) = (
        Doubled {
            weight: array![1.0, 2.0],
            sum: Kept(Some(3.0)),
        },
        sequence((1, 9, 5), 1),
    );
    own.visit("", &mut |_, role, _| assert_eq!(role, Role::Trainable));
    assert_eq!(own.sum.0, Some(3.0));
    drop(own.named_mut());
    assert_eq!(own.sum.0, None);
    let mut layer = Linear::<f64>::new(5, 7, true, 1).unwrap();
    let before = layer.forward(&x).unwrap();
    for (_, mut tensor) in layer.named_mut() {
        tensor.mapv_inplace(|value| 2.0 * value);
    }
    assert_eq!(layer.forward(&x).unwrap(), &before * 2.0);
    layer.weight_mut().mapv_inplace(|value| 2.0 * value);
    layer.bias_mut().unwrap().mapv_inplace(|value| 2.0 * value);
    assert_eq!(layer.forward(&x).unwrap(), before * 4.0);
}

#[test]
fn gradients_are_central_differences() {
    let (model, (x, _)) = (Tagger::<f64>::new(1), batch(0));
    let pass = TrainingPass::new(Step::new(1, 0));
    let (gradients, dx) = model.gradients(&x, &pass, |y| weights(y.dim())).unwrap();
    check(&model, &x, &dx, &gradients, |model, x| model.forward(x).unwrap());
}

/// Clipped steps of every optimizer on accumulated gradients; the loss falls.
#[test]
fn it_trains() {
    fn train<O: Optimizer<f64>>(mut optimizer: O, mut model: Tagger<f64>) -> (f64, f64) {
        let mut losses = Vec::new();
        for index in 0..60 {
            let mut sum = Accumulation::new();
            for half in 0..2 {
                let (x, target) = batch(2 * index + half);
                let (loss, gradients) = model.loss_and_gradients(&x, &target, &pass(index)).unwrap();
                sum.add(loss, gradients, x.len() as f64).unwrap();
            }
            let (loss, mut gradients) = sum.finish().unwrap();
            optimizer.clip_gradient_norm(&mut gradients, 1.0).unwrap();
            optimizer.step(&mut model, &gradients, 0.02).unwrap();
            losses.push(loss);
        }
        (losses[0], losses[50..].iter().sum::<f64>() / 10.0)
    }
    let model = Tagger::new(1);
    for (first, last) in [
        train(AdamW::new(&model, AdamWConfig::new()).unwrap(), model.clone()),
        train(Sgd::new(&model, SgdConfig::new().with_momentum(0.9)).unwrap(), model.clone()),
    ] {
        assert!(last < first / 2.0, "{first} {last}");
    }
}

/// Trains one step on the part of the batch that is this rank's.
fn step(model: &mut Tagger<f64>, optimizer: &mut AdamW<f64>, index: u64, rank: &dyn Communicator) -> Result<f64> {
    let (x, target) = batch(index);
    let part = |x: &Array3<f64>| {
        let size = x.len_of(Axis(0)) / rank.size();
        x.axis_chunks_iter(Axis(0), size).nth(rank.rank()).unwrap().to_owned()
    };
    let pass = TrainingPass::new(Step::new(3, index));
    let (loss, mut gradients) = model.loss_and_gradients(&part(&x), &part(&target), &pass)?;
    let loss = all_reduce_gradients(rank, loss, &mut gradients, 1.0)?;
    optimizer.clip_gradient_norm(&mut gradients, 1.0)?;
    optimizer.step(model, &gradients, 0.02)?;
    Ok(loss)
}

#[test]
fn ranks_train_what_one_process_trains() {
    let run = |ranks: usize| {
        let mut results = ThreadGroup::run(ranks, |rank| {
            let mut model = Tagger::<f64>::new(1);
            let mut optimizer = AdamW::new(&model, AdamWConfig::new().with_eps(1e-3))?;
            let mut losses = Vec::new();
            for index in 0..10 {
                losses.push(step(&mut model, &mut optimizer, index, rank)?);
            }
            Ok((losses, tensors(&model)))
        });
        results.swap_remove(0).unwrap()
    };
    let (losses, whole) = run(1);
    for ranks in [2, 4] {
        let (own_losses, own) = run(ranks);
        assert!(losses.iter().zip(&own_losses).all(|(a, b)| (a - b).abs() < 1e-10));
        for ((name, own), (_, whole)) in own.iter().zip(&whole) {
            assert!(difference(own.view(), whole.view()) < 1e-9, "{name}");
        }
    }
}

#[cfg(feature = "checkpoint")]
mod files {
    use super::*;
    use crate::common::directory::Directory;
    use crate::common::model_bits;
    use linformer::Error;
    use linformer::checkpoint::{load_parameters, save_parameters};
    use linformer::training::{load_training, save_training};

    fn train(model: &mut Tagger<f64>, optimizer: &mut AdamW<f64>, steps: std::ops::Range<u64>) {
        for index in steps {
            let (x, target) = batch(index);
            let (_, gradients) = model.loss_and_gradients(&x, &target, &pass(index)).unwrap();
            optimizer.step(model, &gradients, 0.02).unwrap();
        }
    }

    #[test]
    fn a_resumed_run_is_the_whole_one_bit_for_bit() {
        let directory = Directory::new("custom-resume");
        let path = directory.join("run.safetensors");
        let mut model = Tagger::new(1);
        let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
        train(&mut model, &mut optimizer, 0..5);
        save_training(&path, &model, &optimizer, Step::new(3, 5)).unwrap();
        train(&mut model, &mut optimizer, 5..10);

        let mut resumed = Tagger::new(2);
        let mut optimizer = AdamW::new(&resumed, AdamWConfig::new()).unwrap();
        let next = load_training(&path, &mut resumed, &mut optimizer).unwrap();
        assert_eq!(next, Step::new(3, 5));
        train(&mut resumed, &mut optimizer, 5..10);
        assert_eq!(model_bits(&resumed), model_bits(&model));
    }

    #[test]
    fn parameters_are_saved_and_loaded_whole_or_not_at_all() {
        let directory = Directory::new("custom-save");
        let path = directory.join("model.safetensors");
        let (saved, mut loaded) = (Tagger::<f64>::new(1), Tagger::new(2));
        save_parameters(&path, &saved).unwrap();
        load_parameters(&path, &mut loaded).unwrap();
        assert_eq!(model_bits(&loaded), model_bits(&saved));

        let mut other = Tagger::<f64>::new(2);
        other.output = Linear::new(6, 2, true, 1).unwrap();
        other.scale = None;
        let before = model_bits(&other);
        let Err(Error::Checkpoint { problems }) = load_parameters(&path, &mut other) else {
            panic!("it fits")
        };
        assert!(problems.iter().any(|problem| problem.contains("`output.weight`")), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.contains("`scale`")), "{problems:?}");
        assert_eq!(model_bits(&other), before);
    }

    /// `flat` may give two tensors one name: no file can hold both.
    #[test]
    fn two_tensors_of_one_name_are_refused() {
        struct Twins {
            first: Linear<f64>,
            second: Linear<f64>,
        }
        parameters!(Twins: f64 {} flat { first, second });
        let directory = Directory::new("custom-twins");
        let twins = Twins {
            first: Linear::new(1, 1, false, 1).unwrap(),
            second: Linear::new(1, 1, false, 1).unwrap(),
        };
        let error = save_parameters(directory.join("twins.safetensors"), &twins).unwrap_err();
        assert!(error.to_string().contains("`weight`"), "{error}");
        assert!(directory.files().is_empty());
    }
}
