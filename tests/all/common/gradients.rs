//! Gradients against central differences.

use linformer::ndarray::{Array2, Array3, ArrayD};
use linformer::training::Step;
use linformer::{PaddingMask, Parameters, TrainingPass};

use super::sequence;

/// The second is for elements that stand so near a tie of max pooling, or a kink, that the first goes over it.
const STEPS: [f64; 2] = [1e-5, 1e-7];

/// What a gradient may be off by.
const BOUND: f64 = 1e-6;

/// Weighs an output by fixed numbers: a loss whose gradient is these numbers.
pub fn weights(dim: (usize, usize, usize)) -> Array3<f64> {
    sequence(dim, 77)
}

fn loss(y: &Array3<f64>) -> f64 {
    (y * &weights(y.dim())).sum()
}

/// The largest error of `gradient` relative to the scale of the gradient, against central differences of `loss` in every element.
fn error(gradient: &ArrayD<f64>, mut loss: impl FnMut(usize, f64) -> f64) -> f64 {
    let scale = gradient.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
    let errors = gradient.iter().enumerate().map(|(index, value)| {
        let mut wrong = |step: f64| {
            let numeric = (loss(index, step) - loss(index, -step)) / (2.0 * step);
            (numeric - value).abs() / scale
        };
        let first = wrong(STEPS[0]);
        if first < BOUND { first } else { first.min(wrong(STEPS[1])) }
    });
    // `f64::max` would drop NaN.
    errors.fold(0.0, |most: f64, error| if error > most || error.is_nan() { error } else { most })
}

/// Checks the gradients of all parameters of `model` and of `x`.
pub fn check<M: Parameters<f64> + Clone>(
    model: &M,
    x: &Array3<f64>,
    dx: &Array3<f64>,
    gradients: &M,
    forward: impl Fn(&M, &Array3<f64>) -> Array3<f64>,
) {
    let moved = |index: usize, by: f64| {
        let mut x = x.clone();
        x.as_slice_mut().unwrap()[index] += by;
        loss(&forward(model, &x))
    };
    let wrong = error(&dx.clone().into_dyn(), moved);
    assert!(wrong < BOUND, "input: {wrong:e}");
    let mut changed = model.clone();
    for (name, gradient) in gradients.named() {
        let moved = |index: usize, by: f64| {
            let value = replace(&mut changed, &name, index, |value| value + by);
            let loss = loss(&forward(&changed, x));
            replace(&mut changed, &name, index, |_| value);
            loss
        };
        let mut buffer = false;
        model.visit("", &mut |own, role, _| buffer |= own == name && role == linformer::Role::Buffer);
        if buffer {
            assert!(gradient.iter().all(|&value| value == 0.0), "{name} is a buffer");
            continue;
        }
        let wrong = error(&gradient.to_owned(), moved);
        assert!(wrong < BOUND, "{name}: {wrong:e}");
    }
}

/// Changes one element of the tensor `name`, and returns what it was.
fn replace(model: &mut impl Parameters<f64>, name: &str, index: usize, change: impl Fn(f64) -> f64) -> f64 {
    let mut old = f64::NAN;
    model.visit_mut("", &mut |own, _, mut tensor| {
        if own == name {
            let element = tensor.iter_mut().nth(index).unwrap();
            old = *element;
            *element = change(old);
        }
    });
    old
}

pub fn mask(pattern: u64, length: usize) -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_fn((2, length), |(item, position)| {
        pattern >> ((item * 31 + position) % 64) & 1 == 1
    }))
}

/// A pass that drops some of everything, or nothing.
pub fn pass(seed: u64, dropout: bool) -> TrainingPass {
    let pass = TrainingPass::new(Step::new(seed, 3));
    if !dropout {
        return pass;
    }
    pass.with_attention_dropout(0.3)
        .with_residual_dropout(0.2)
        .with_activation_dropout(0.25)
        .with_embedding_dropout(0.1)
        .with_layer_drop(0.2)
}
