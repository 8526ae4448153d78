//! Runs that stop and go on.

use std::path::PathBuf;

use linformer::checkpoint::Tensors;
use linformer::ndarray::{Array2, Array3, Axis, array};
use linformer::training::{
    AdamW, AdamWConfig, CrossEntropy, Optimizer, Schedule, Sgd, SgdConfig, Step, TokenMasking, WeightDecay, load_training, save_training,
};
use linformer::{Error, Linear, Parameters, Scalar};

/// A file that is removed in the end.
pub struct Scratch(pub PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Self {
        let name = format!("linformer-training-{}-{name}.safetensors", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

const VOCABULARY: usize = 12;

pub fn model<A: Scalar>() -> Linear<A> {
    Linear::new(VOCABULARY, VOCABULARY, true, 1).unwrap()
}

/// One step of a model that says which token stood where a corrupted one stands.
fn train<A: Scalar>(model: &mut Linear<A>, optimizer: &mut impl Optimizer<A>, step: &mut Step) -> f64 {
    let masking = TokenMasking::new(VOCABULARY, 0, &[]).unwrap().with_shares(0.5, 0.5, 0.3).unwrap();
    let index = usize::try_from(step.index % 1000).unwrap();
    let tokens = Array2::from_shape_fn((2, 20), |(item, position)| 1 + (item + position * index) % (VOCABULARY - 1));
    let masked = masking.corrupt(&tokens, None, *step).unwrap();
    let mut chosen = Vec::new();
    for (item, positions) in masked.positions.iter().flatten().enumerate() {
        chosen.extend(positions.iter().map(|&position| masked.tokens[[item, position]]));
    }
    let x = Array2::from_shape_fn((chosen.len(), VOCABULARY), |(row, column)| {
        A::cast(f64::from(u8::from(chosen[row] == column)))
    });
    let logits: Array3<A> = model.forward(&x.view().insert_axis(Axis(0))).unwrap();
    let logits = logits.index_axis_move(Axis(0), 0);
    let (loss, grad) = CrossEntropy::new().loss_and_gradient(logits, &masked.targets).unwrap();
    let mut gradients = Linear::from_parts(grad.t().dot(&x), Some(grad.sum_axis(Axis(0)))).unwrap();
    optimizer.clip_gradient_norm(&mut gradients, 0.5).unwrap();
    let schedule = Schedule::cosine(0.05, 20).with_warmup(3);
    optimizer.step(model, &gradients, schedule.at(step.index)).unwrap();
    step.index += 1;
    loss
}

pub fn same<A: Scalar>(a: &Linear<A>, b: &Linear<A>) -> bool {
    a.named() == b.named()
}

fn stopped_anywhere<A: Scalar, O: Optimizer<A> + Clone>(name: &str, fresh: impl Fn(&Linear<A>) -> O, other: impl Fn(&Linear<A>) -> O) {
    const STEPS: u64 = 12;
    let file = Scratch::new(name);
    let (mut whole, mut step) = (model(), Step::new(99, 0));
    let mut optimizer = fresh(&whole);
    let losses: Vec<f64> = (0..STEPS).map(|_| train(&mut whole, &mut optimizer, &mut step)).collect();
    assert!(losses[11] < losses[0]);
    for stop in 0..=STEPS {
        let (mut first, mut step) = (model(), Step::new(99, 0));
        let mut optimizer = fresh(&first);
        let mut found: Vec<f64> = (0..stop).map(|_| train(&mut first, &mut optimizer, &mut step)).collect();
        save_training(&file.0, &first, &optimizer, step).unwrap();

        // Another process would have nothing but the file: other weights, and other options of the optimizer.
        let mut second = Linear::new(VOCABULARY, VOCABULARY, true, 2).unwrap();
        let mut optimizer = other(&second);
        let mut step = load_training(&file.0, &mut second, &mut optimizer).unwrap();
        assert_eq!((step, optimizer.steps()), (Step::new(99, stop), stop));
        assert!(same(&first, &second));
        found.extend((stop..STEPS).map(|_| train(&mut second, &mut optimizer, &mut step)));
        assert!(same(&whole, &second), "stopped after {stop}");
        assert_eq!(found, losses);
    }
}

#[test]
fn bit_equal_wherever_it_was_stopped() {
    let config = AdamWConfig::new().with_betas((0.9, 0.95)).with_weight_decay(0.1 + 0.2);
    stopped_anywhere::<f32, _>(
        "adamw32",
        |model| AdamW::new(model, config.clone()).unwrap(),
        |model| AdamW::new(model, AdamWConfig::new()).unwrap(),
    );
    stopped_anywhere::<f64, _>(
        "adamw64",
        |model| AdamW::new(model, config.clone()).unwrap(),
        |model| AdamW::new(model, AdamWConfig::new()).unwrap(),
    );
    let frozen = config.with_frozen(vec!["bias".into()]).with_decay(WeightDecay::OnlyMatrices);
    stopped_anywhere::<f32, _>(
        "frozen",
        |model| AdamW::new(model, frozen.clone()).unwrap(),
        |model| AdamW::new(model, AdamWConfig::new()).unwrap(),
    );
    let config = SgdConfig::new().with_momentum(0.9).with_nesterov(true);
    stopped_anywhere::<f32, _>(
        "sgd",
        |model| Sgd::new(model, config.clone()).unwrap(),
        |model| Sgd::new(model, SgdConfig::new()).unwrap(),
    );
    stopped_anywhere::<f32, _>(
        "plain",
        |model| Sgd::new(model, SgdConfig::new()).unwrap(),
        |model| Sgd::new(model, config.clone()).unwrap(),
    );
}

#[test]
fn what_the_file_holds() {
    let file = Scratch::new("contents");
    let model = model::<f32>();
    let optimizer = AdamW::new(&model, AdamWConfig::new().with_frozen(vec!["bias".into()])).unwrap();
    save_training(&file.0, &model, &optimizer, Step::new(u64::MAX, u64::MAX)).unwrap();
    let tensors = Tensors::<f32>::read(&file.0).unwrap();
    let names: Vec<&str> = tensors.names().collect();
    assert_eq!(names, ["model.bias", "model.weight", "moment1.weight", "moment2.weight"]);
    let bytes = std::fs::read(&file.0).unwrap();
    save_training(&file.0, &model, &optimizer, Step::new(u64::MAX, u64::MAX)).unwrap();
    assert_eq!(std::fs::read(&file.0).unwrap(), bytes);
    let (mut again, mut optimizer) = (model.clone(), optimizer);
    assert_eq!(
        load_training(&file.0, &mut again, &mut optimizer).unwrap(),
        Step::new(u64::MAX, u64::MAX)
    );
}

/// A saved run, with its tensors changed by `edit`, which gives `None` for those to leave out.
pub fn edited(name: &str, edit: impl Fn(&str, Array2<f32>) -> Option<Array2<f32>>) -> Tensors<f32> {
    let file = Scratch::new(name);
    let (mut model, mut step) = (model::<f32>(), Step::new(0, 0));
    let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    train(&mut model, &mut optimizer, &mut step);
    save_training(&file.0, &model, &optimizer, step).unwrap();
    let saved = Tensors::<f32>::read(&file.0).unwrap();
    let mut tensors = Tensors::new();
    for (key, value) in saved.metadata() {
        tensors.set_metadata(key, value);
    }
    for name in saved.names() {
        let tensor = saved.get(name).unwrap();
        let edited = match tensor.view().into_dimensionality() {
            Ok(matrix) => edit(name, matrix.to_owned()).map(Array2::into_dyn),
            Err(_) => Some(tensor.to_owned()),
        };
        if let Some(edited) = edited {
            tensors.insert(name, edited).unwrap();
        }
    }
    tensors
}

/// Most steps there can be, as a hostile file may say.
#[test]
fn the_last_step_does_not_overflow() {
    let mut tensors = edited("last", |_, matrix| Some(matrix));
    let json = tensors.metadata()["linformer_training"].replace(r#""steps":1"#, &format!(r#""steps":{}"#, u64::MAX));
    tensors.set_metadata("linformer_training", json);
    let file = Scratch::new("steps");
    tensors.write(&file.0).unwrap();
    let mut model = model::<f32>();
    let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    let mut step = load_training(&file.0, &mut model, &mut optimizer).unwrap();
    train(&mut model, &mut optimizer, &mut step);
    assert_eq!(optimizer.steps(), u64::MAX);
}

/// Moments from a file are looked at: what they are decides whether a step stays in the range, and none goes on from what is not finite.
#[test]
fn moments_from_a_file_count() {
    let file = Scratch::new("range");
    let config = AdamWConfig::new().with_weight_decay(0.0);
    let gradient = |x: f32| Linear::from_parts(array![[x]], None).unwrap();
    let mut model = gradient(1.0);
    let mut optimizer = AdamW::new(&model, config.clone()).unwrap();
    optimizer.step(&mut model, &gradient(5.5e20), 1e-3).unwrap();
    save_training(&file.0, &model, &optimizer, Step::new(0, 1)).unwrap();
    let mut loaded = AdamW::new(&model, config.clone()).unwrap();
    load_training(&file.0, &mut model, &mut loaded).unwrap();
    for optimizer in [&mut optimizer, &mut loaded] {
        let failed = optimizer.step(&mut model, &gradient(2.9e20), 1e-3);
        assert!(matches!(failed, Err(Error::NonFiniteStep { step: 2, .. })), "{failed:?}");
    }
    for name in ["moment1.weight", "moment2.weight", "model.weight"] {
        for bad in [f32::INFINITY, f32::NAN] {
            let read = Tensors::<f32>::read(&file.0).unwrap();
            let mut tensors = Tensors::<f32>::new();
            for own in read.names() {
                let values = read.get(own).unwrap().to_owned();
                tensors
                    .insert(own, if own == name { values.mapv(|_| bad) } else { values })
                    .unwrap();
            }
            for (key, value) in read.metadata() {
                tensors.set_metadata(key, value);
            }
            let other = Scratch::new("bad");
            tensors.write(&other.0).unwrap();
            let (before, steps) = (model.weight()[[0, 0]], loaded.steps());
            match load_training(&other.0, &mut model, &mut loaded) {
                Err(Error::Checkpoint { problems }) => assert!(problems[0].contains(name), "{problems:?}"),
                other => panic!("{other:?}"),
            }
            assert_eq!((model.weight()[[0, 0]], loaded.steps()), (before, steps));
        }
    }
}
