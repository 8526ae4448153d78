//! Steps, clipping, accumulation.

use linformer::ndarray::{Array2, array};
use linformer::training::{Accumulation, AdamW, AdamWConfig, Optimizer, Sgd, SgdConfig, WeightDecay};
use linformer::{
    EncoderConfig, Error, LanguageModel, LanguageModelConfig, Linear, LinformerConfig, Parameters, ProjectionConfig, ProjectionKind, Role,
};
use serde_json::Value;

use super::{close, fixtures, matrix, vector};

fn linear(weight: &Value, bias: &Value) -> Linear<f64> {
    Linear::from_parts(matrix(weight), Some(vector(bias))).unwrap()
}

fn check_steps(case: &Value, mut optimizer: impl Optimizer<f64>, mut model: Linear<f64>) {
    for step in case["steps"].as_array().unwrap() {
        let mut gradients = linear(&step["weight_gradient"], &step["bias_gradient"]);
        if let Some(clip) = case["clip"].as_f64() {
            let norm = optimizer.clip_gradient_norm(&mut gradients, clip).unwrap();
            assert!((norm - step["norm"].as_f64().unwrap()).abs() < 1e-14);
        }
        optimizer.step(&mut model, &gradients, step["lr"].as_f64().unwrap()).unwrap();
        assert!(close(model.weight().to_owned(), matrix(&step["weight"]), 1e-14), "{case}");
        assert!(close(model.bias().unwrap().to_owned(), vector(&step["bias"]), 1e-14), "{case}");
    }
    assert_eq!(optimizer.steps(), case["steps"].as_array().unwrap().len() as u64);
}

#[test]
fn steps_are_pytorchs() {
    for case in fixtures()["optimizers"].as_array().unwrap() {
        let model = linear(&case["weight"], &case["bias"]);
        let options = &case["options"];
        let number = |option: &str, default: f64| options[option].as_f64().unwrap_or(default);
        if case["optimizer"] == "AdamW" {
            let beta = |index: usize, default: f64| options["betas"][index].as_f64().unwrap_or(default);
            let config = AdamWConfig::new()
                .with_betas((beta(0, 0.9), beta(1, 0.999)))
                .with_eps(number("eps", 1e-8))
                .with_weight_decay(number("weight_decay", 0.01));
            check_steps(case, AdamW::new(&model, config).unwrap(), model);
        } else {
            let config = SgdConfig::new()
                .with_momentum(number("momentum", 0.0))
                .with_nesterov(options["nesterov"].as_bool().unwrap_or(false))
                .with_weight_decay(number("weight_decay", 0.0));
            check_steps(case, Sgd::new(&model, config).unwrap(), model);
        }
    }
}

/// A model with a buffer (E and F are fixed), and gradients of 1 everywhere.
fn language_model() -> (LanguageModel<f32>, LanguageModel<f32>) {
    let attention = LinformerConfig::new(8, 2, 16, 4).with_projection(ProjectionConfig::new(ProjectionKind::Random));
    let model = LanguageModel::new(&LanguageModelConfig::new(12, EncoderConfig::new(attention, 2)), 0).unwrap();
    let mut gradients = model.zeros_like();
    gradients.visit_mut("", &mut |_, _, mut tensor| tensor.fill(1.0));
    (model, gradients)
}

fn tensors(model: &impl Parameters<f32>) -> Vec<(String, Vec<f32>)> {
    let named = model.named().into_iter();
    named.map(|(name, tensor)| (name, tensor.iter().copied().collect())).collect()
}

/// The names of the tensors that changed.
pub fn changed(before: &impl Parameters<f32>, after: &impl Parameters<f32>) -> Vec<String> {
    let pairs = tensors(before).into_iter().zip(tensors(after));
    pairs
        .filter(|(before, after)| before != after)
        .map(|(before, _)| before.0)
        .collect()
}

#[test]
fn buffers_and_frozen_parameters_stay() {
    let (model, gradients) = language_model();
    let mut trainable = Vec::new();
    let mut buffers = 0;
    model.visit("", &mut |name, role, _| match role {
        Role::Trainable => trainable.push(name.to_owned()),
        Role::Buffer => buffers += 1,
    });
    assert!(buffers > 0);
    let mut after = model.clone();
    let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    optimizer.step(&mut after, &gradients, 0.1).unwrap();
    assert_eq!(changed(&model, &after), trainable);

    let frozen = vec!["embedding".to_owned(), "encoder.blocks.1".to_owned()];
    let below = |name: &String| !frozen.iter().any(|prefix| name.starts_with(prefix.as_str()));
    let expected: Vec<String> = trainable.iter().filter(|name| below(name)).cloned().collect();
    assert!(expected.len() < trainable.len());
    let mut after = model.clone();
    let mut optimizer = Sgd::new(&model, SgdConfig::new().with_frozen(frozen)).unwrap();
    optimizer.step(&mut after, &gradients, 0.1).unwrap();
    assert_eq!(changed(&model, &after), expected);
    // What is frozen counts for no norm either, and is not scaled.
    let mut clipped = gradients.clone();
    let norm = optimizer.clip_gradient_norm(&mut clipped, 1e-3).unwrap();
    let count: usize = tensors(&model)
        .iter()
        .filter(|(name, _)| expected.contains(name))
        .map(|(_, x)| x.len())
        .sum();
    assert!((norm - (count as f64).sqrt()).abs() < 1e-9);
    assert_eq!(changed(&gradients, &clipped), expected);
}

#[test]
fn only_matrices_decay() {
    let (mut model, _) = language_model();
    model.visit_mut("", &mut |_, _, mut tensor| tensor.fill(1.0));
    let (gradients, mut after) = (model.zeros_like(), model.clone());
    let config = AdamWConfig::new().with_weight_decay(0.5).with_decay(WeightDecay::OnlyMatrices);
    let mut optimizer = AdamW::new(&model, config).unwrap();
    optimizer.step(&mut after, &gradients, 0.1).unwrap();
    let changed = changed(&model, &after);
    assert!(changed.iter().any(|name| name.ends_with("query.weight")), "{changed:?}");
    for exempt in ["embedding", "position", "norm", "bias"] {
        assert!(!changed.iter().any(|name| name.contains(exempt)), "{changed:?}");
    }
}

#[test]
fn a_bad_gradient_changes_nothing() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let (model, good) = language_model();
        let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
        let mut trained = model.clone();
        optimizer.step(&mut trained, &good, 0.1).unwrap();
        let (before, mut gradients) = (trained.clone(), good.clone());
        gradients.visit_mut("", &mut |name, _, mut tensor| {
            // A buffer has no gradient; the last is not the first.
            if name.contains("projections") || name == "encoder.blocks.1.attention.query.weight" || name.ends_with("output.bias") {
                tensor.iter_mut().last().into_iter().for_each(|x| *x = bad);
            }
        });
        let first = good.named().into_iter().map(|(name, _)| name);
        let first = first.into_iter().find(|name| name.ends_with("output.bias")).unwrap();
        for result in [
            optimizer.step(&mut trained, &gradients, 0.1),
            optimizer.clip_gradient_norm(&mut gradients.clone(), 1.0).map(|_| ()),
        ] {
            match result {
                Err(Error::NonFiniteGradient { step: 2, parameter }) => assert_eq!(parameter, first),
                other => panic!("{other:?}"),
            }
        }
        assert!(changed(&before, &trained).is_empty());
        assert_eq!(optimizer.steps(), 1);
        // The moments are untouched as well: the next step is that of an optimizer that never saw the gradient.
        let mut other = AdamW::new(&model, AdamWConfig::new()).unwrap();
        let mut expected = model.clone();
        other.step(&mut expected, &good, 0.1).unwrap();
        other.step(&mut expected, &good, 0.1).unwrap();
        optimizer.step(&mut trained, &good, 0.1).unwrap();
        assert!(changed(&expected, &trained).is_empty());
    }
}

#[test]
fn clipping() {
    let gradients = Linear::from_parts(array![[3.0, 0.0], [0.0, 4.0]], None).unwrap();
    let optimizer = Sgd::new(&gradients, SgdConfig::new()).unwrap();
    for (max_norm, factor) in [(f64::INFINITY, 1.0), (6.0, 1.0), (1.0, 1.0 / (5.0 + 1e-6)), (0.0, 0.0)] {
        let mut clipped = gradients.clone();
        assert_eq!(optimizer.clip_gradient_norm(&mut clipped, max_norm).unwrap(), 5.0);
        assert_eq!(clipped.weight(), gradients.weight().mapv(|x| x * factor));
    }
    // Numbers whose squares are too large.
    let mut large = Linear::from_parts(array![[3e200, 0.0], [0.0, -4e200]], None).unwrap();
    let norm = optimizer.clip_gradient_norm(&mut large, 1.0).unwrap();
    assert!((norm / 5e200 - 1.0).abs() < 1e-15);
    assert!((large.weight()[[1, 1]] + 0.8_f64).abs() < 1e-15);
    for max_norm in [-1.0, f64::NAN] {
        assert!(optimizer.clip_gradient_norm(&mut large, max_norm).is_err());
    }
    let mut other = Linear::<f64>::new(2, 2, true, 0).unwrap();
    assert!(optimizer.clip_gradient_norm(&mut other, 1.0).is_err());
}

/// A step of a tensor that is cut into pieces is the same on any number of threads, and in any memory order.
#[test]
fn large_and_strided_tensors() {
    let shape = (300, 700);
    let value = |(i, j): (usize, usize)| ((i * 31 + j * 17) % 1013) as f64 / 500.0 - 1.0;
    let weight = Array2::from_shape_fn(shape, value);
    let gradient = weight.mapv(|x| x * x - 0.3);
    let strided = |x: &Array2<f64>| x.t().as_standard_layout().into_owned().reversed_axes();
    let run = |weight: Array2<f64>, gradient: Array2<f64>| {
        let mut model = Linear::from_parts(weight, None).unwrap();
        let gradients = Linear::from_parts(gradient, None).unwrap();
        let mut optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
        for _ in 0..3 {
            let mut gradients = gradients.clone();
            optimizer.clip_gradient_norm(&mut gradients, 10.0).unwrap();
            optimizer.step(&mut model, &gradients, 0.01).unwrap();
        }
        model.weight().to_owned()
    };
    let whole = run(weight.clone(), gradient.clone());
    assert!(whole.iter().zip(&weight).all(|(after, before)| after != before));
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| run(weight.clone(), gradient.clone())), whole);
    }
    for (weight, gradient) in [
        (strided(&weight), gradient.clone()),
        (weight.clone(), strided(&gradient)),
        (strided(&weight), strided(&gradient)),
    ] {
        assert!(close(run(weight, gradient), whole.clone(), 1e-15));
    }
}

#[test]
fn accumulation_is_the_mean_of_all() {
    let gradients = |x: f64| Linear::from_parts(array![[x]], Some(array![-x])).unwrap();
    let mut batches = Accumulation::new();
    assert!(Accumulation::<Linear<f64>>::new().finish().is_none());
    batches.add(f64::NAN, gradients(f64::NAN), 0.0).unwrap();
    for (loss, x, weight) in [(1.0, 2.0, 3.0), (4.0, 8.0, 1.0), (2.0, 0.5, 4.0)] {
        batches.add(loss, gradients(x), weight).unwrap();
    }
    assert!(batches.add(1.0, Linear::from_parts(array![[1.0]], None).unwrap(), 1.0).is_err());
    assert!(batches.add(1.0, gradients(1.0), -1.0).is_err());
    let (loss, mean) = batches.finish().unwrap();
    assert_eq!((loss, mean.weight()[[0, 0]], mean.bias().unwrap()[0]), (1.875, 2.0, -2.0));
}
