use super::super::elementary::tests::{spread, worst};
use super::*;
use Activation::{Gelu, GeluTanh, Identity, Relu, Silu, Tanh};

type Kernel = fn(Activation, &mut [f32]);
const VALUES: [Kernel; 2] = [
    |activation, x| f32::activate(activation, x, x.len(), x.len().max(1)),
    |activation, x| activate_body::<f32, false>(activation, x, x.len(), x.len().max(1)),
];
const DERIVATIVES: [Kernel; 2] = [f32::derivative, derivative_body::<f32, false>];
const ALL: [Activation; 6] = [Gelu, GeluTanh, Silu, Relu, Tanh, Identity];

fn at(kernel: Kernel, activation: Activation, x: f32) -> f32 {
    let mut x = [x];
    kernel(activation, &mut x);
    x[0]
}

fn exact(activation: Activation, x: f64) -> f64 {
    match activation {
        Gelu => 0.5 * x * libm::erfc(-x / SQRT_2),
        GeluTanh => x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).exp()),
        Relu => x.max(0.0),
        Silu => x / (1.0 + (-x).exp()),
        Tanh => x.tanh(),
        Identity => x,
    }
}

fn exact_slope(activation: Activation, x: f64) -> f64 {
    match activation {
        Gelu => 0.5 * libm::erfc(-x / SQRT_2) + x * (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt(),
        GeluTanh => {
            let c = (2.0 / std::f64::consts::PI).sqrt();
            let tanh = (c * (x + 0.044_715 * x * x * x)).tanh();
            0.5 * (1.0 + tanh) + 0.5 * x * (1.0 - tanh * tanh) * c * (1.0 + 0.134_145 * x * x)
        }
        Relu => f64::from(u8::from(x > 0.0)),
        Silu => (1.0 + x / (1.0 + x.exp())) / (1.0 + (-x).exp()),
        Tanh => 1.0 - x.tanh().powi(2),
        Identity => 1.0,
    }
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn within_the_stated_bounds() {
    for kernel in VALUES {
        for activation in ALL {
            let error = |x: f32| (f64::from(at(kernel, activation, x)) - exact(activation, f64::from(x))).abs();
            let bound = if activation == Tanh { 1.2e-7 } else { 1e-7 };
            let scaled = |x: f32| error(x) / f64::from(x.abs()).max(1.0);
            assert!(worst(f32::MIN..=f32::MAX, scaled) < bound, "{activation:?}");
            let bound = match activation {
                Gelu => 9e-7,
                GeluTanh => 3.3e-6,
                Silu => 2.5e-7,
                _ => continue,
            };
            let relative = |x: f32| error(x) / exact(activation, f64::from(x)).abs().max(1e-37);
            assert!(worst(-5.0..=0.0, relative) < bound, "{activation:?} left of 0");
            assert!(worst(0.0..=f32::MAX, relative) < 3e-7, "{activation:?} right of 0");
        }
    }
}

#[test]
fn infinities_nan_and_signed_zero() {
    for kernel in VALUES {
        for activation in ALL {
            let (left, right) = match activation {
                Tanh => (-1.0, 1.0),
                Identity => (f32::NEG_INFINITY, f32::INFINITY),
                _ => (0.0, f32::INFINITY),
            };
            let mut x = [f32::NEG_INFINITY, f32::INFINITY, 0.0, -0.0, f32::NAN];
            kernel(activation, &mut x);
            assert_eq!(x[..4], [left, right, 0.0, 0.0], "{activation:?}");
            assert!(x[4].is_nan());
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn double_precision() {
    for activation in ALL {
        let input = spread(20_001, 45.0);
        let mut x = input.clone();
        activation.apply(&mut x);
        for (&x, &input) in x.iter().zip(&input) {
            assert!(
                (x - exact(activation, input)).abs() <= 4e-16 * input.abs().max(1.0),
                "{activation:?} of {input}"
            );
        }
        let mut edges = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        activation.apply(&mut edges);
        assert!(edges[0] > 0.0 && edges[1] <= 0.0 && edges[2].is_nan());
    }
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn an_element_does_not_depend_on_its_place() {
    for (activation, kernel) in ALL.into_iter().flat_map(|a| [(a, VALUES[0]), (a, DERIVATIVES[0])]) {
        for len in (0..=40).chain([63, 129, 1001]) {
            let input: Vec<f32> = spread(len, 6.0).into_iter().map(f32::of).collect();
            let mut x = input.clone();
            kernel(activation, &mut x);
            assert!(
                x.iter()
                    .zip(input)
                    .all(|(x, input)| x.to_bits() == at(kernel, activation, input).to_bits())
            );
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn derivatives_within_the_stated_bound() {
    for kernel in DERIVATIVES {
        for activation in ALL {
            let error = |x: f32| (f64::from(at(kernel, activation, x)) - exact_slope(activation, f64::from(x))).abs();
            assert!(worst(-100.0..=100.0, error) < 2.3e-7, "{activation:?}");
            let (left, middle, right) = match activation {
                Tanh => (0.0, 1.0, 0.0),
                Identity => (1.0, 1.0, 1.0),
                Relu => (0.0, 0.0, 1.0),
                _ => (0.0, 0.5, 1.0),
            };
            let mut x = [f32::NEG_INFINITY, -1e30, -0.0, 0.0, 1e30, f32::INFINITY, f32::NAN];
            kernel(activation, &mut x);
            assert_eq!(x[..6], [left, left, middle, middle, right, right], "{activation:?}");
            assert!(x[6].is_nan() || activation == Identity);
        }
    }
}

#[test]
fn both_at_once_are_the_same_bits_as_one_after_the_other() {
    fn check<A: Scalar>(cast: impl Fn(f64) -> A) {
        for (activation, len) in ALL
            .into_iter()
            .flat_map(|activation| [0, 1, 15, 16, 17, 1003].map(|len| (activation, len)))
        {
            let x: Vec<A> = spread(len, 9.0).into_iter().map(&cast).collect();
            let (mut values, mut slopes) = (x.clone(), x.clone());
            activation.apply(&mut values);
            activation.differentiate(&mut slopes);
            let (mut x, mut found) = (x.clone(), x);
            activation.apply_and_differentiate(&mut x, &mut found);
            assert!(found == values && x == slopes, "{activation:?} of {len}");
        }
    }
    check(|x| x);
    check(f32::of);
}

#[test]
fn derivatives_are_central_differences() {
    const STEP: f64 = 1e-5;
    for activation in ALL {
        // Off the kink at 0.
        let x: Vec<f64> = spread(2003, 7.0).into_iter().map(|x| x + 1e-4).collect();
        let [mut left, mut right] = [-STEP, STEP].map(|step| x.iter().map(|x| x + step).collect::<Vec<_>>());
        let mut slopes = x;
        activation.differentiate(&mut slopes);
        activation.apply(&mut left);
        activation.apply(&mut right);
        for ((slope, left), right) in slopes.iter().zip(&left).zip(&right) {
            assert!((slope - (right - left) / (2.0 * STEP)).abs() < 1e-9, "{activation:?}");
        }
    }
}
