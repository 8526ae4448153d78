//! The feed-forward's non-linearities.

use std::f64::consts::{FRAC_2_SQRT_PI, SQRT_2};

use super::elementary::{Elementary, Pointwise, at_most, dispatch, map};
use crate::scalar::Scalar;

/// A pointwise non-linearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Activation {
    /// x·Φ(x) with the exact normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415).
    #[default]
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`]; it differs by up to 4.7e-4.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x·σ(x), also called swish.
    Silu,
    /// tanh(x).
    Tanh,
    /// x itself.
    Identity,
}

/// The activations of one element type.
pub(crate) trait ActivationKernels: Sized {
    /// Applies `activation` to every element of `x`.
    fn activate(activation: Activation, x: &mut [Self]);
}

macro_rules! kernels {
    ($t:ty) => {
        impl ActivationKernels for $t {
            fn activate(activation: Activation, x: &mut [Self]) {
                dispatch!(dispatched, activate_body, $t, (activation: Activation, x: &mut [$t]));
                dispatched(activation, x);
            }
        }
    };
}
kernels!(f32);
kernels!(f64);

#[inline(always)]
fn activate_body<T: Elementary, const FMA: bool>(activation: Activation, x: &mut [T]) {
    match activation {
        Activation::Gelu => map::<T, _, FMA>(x, &Gated(Gelu)),
        Activation::GeluTanh => map::<T, _, FMA>(x, &Gated(GeluTanh)),
        Activation::Relu => map::<T, _, FMA>(x, &Relu),
        Activation::Silu => map::<T, _, FMA>(x, &Gated(Silu)),
        Activation::Tanh => map::<T, _, FMA>(x, &Tanh),
        Activation::Identity => {}
    }
}

/// max(x, 0), which keeps NaN.
#[inline(always)]
fn rectified<T: Elementary>(x: T) -> T {
    if x < T::zero() { T::zero() } else { x }
}

struct Relu;

impl<T: Elementary> Pointwise<T> for Relu {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T) -> T {
        // Without the sum LLVM stores the zeros alone, under a mask, which costs ten times as much.
        rectified(x + T::zero())
    }
}

struct Tanh;

impl<T: Elementary> Pointwise<T> for Tanh {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T) -> T {
        T::tanh_of::<FMA>(x)
    }
}

/// x·G(x) for a distribution function G symmetric about 0.
///
/// It is computed as max(x, 0) − |x|·G(−|x|): the subtrahend is small and can be had to a small relative error, so that nothing
/// cancels on either side of 0.
struct Gated<D>(D);

/// A distribution function G, symmetric about 0.
trait Distribution<T> {
    /// G(−t) for t in [0, [`LIMIT`]].
    fn tail<const FMA: bool>(&self, t: T) -> T;
}

/// Where every tail has long been 0 in both types; larger arguments are taken as this one, so that ∞·0 does not arise.
const LIMIT: f64 = 1000.0;

impl<T: Elementary, D: Distribution<T>> Pointwise<T> for Gated<D> {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T) -> T {
        let t = at_most(x.abs(), T::of(LIMIT));
        rectified(x) - t * self.0.tail::<FMA>(t)
    }
}

struct Gelu;

impl<T: Elementary> Distribution<T> for Gelu {
    #[inline(always)]
    fn tail<const FMA: bool>(&self, t: T) -> T {
        T::normal_tail::<FMA>(t)
    }
}

struct GeluTanh;

impl<T: Elementary> Distribution<T> for GeluTanh {
    #[inline(always)]
    fn tail<const FMA: bool>(&self, t: T) -> T {
        // ½(1 + tanh u) = σ(2u), with u = √(2/π)·(t + 0.044715·t³).
        let slope = T::fused::<FMA>(t * t, T::of(0.044_715), T::one());
        Silu.tail::<FMA>(T::of(FRAC_2_SQRT_PI * SQRT_2) * t * slope)
    }
}

struct Silu;

impl<T: Elementary> Distribution<T> for Silu {
    #[inline(always)]
    fn tail<const FMA: bool>(&self, t: T) -> T {
        let exp = T::exp_of_negative::<FMA>(-t);
        exp / (T::one() + exp)
    }
}

impl Activation {
    /// Applies this activation to every element.
    ///
    /// In f32 the error, measured against f64, is at most 1e-7·max(1, |x|), and 1.2e-7 for tanh; in f64 it is that of `std` and
    /// `libm`. Where a gated activation's value is small, so is its error: relative to the value it is at most 3e-7 for x ≥ 0,
    /// and for x ≥ −5 at most 2.5e-7 (`Silu`), 9e-7 (`Gelu`) and 3.3e-6 (`GeluTanh`).
    ///
    /// NaN gives NaN, and −∞ the limit: 0 for the gated ones, where `PyTorch` has NaN: −∞·0.
    pub(crate) fn apply<A: Scalar>(self, x: &mut [A]) {
        A::activate(self, x);
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests {
    use super::super::elementary::tests::{spread, worst};
    use super::*;

    const GATED: [(Activation, f64); 3] = [(Activation::Gelu, 9e-7), (Activation::GeluTanh, 3.3e-6), (Activation::Silu, 2.5e-7)];
    const ALL: [Activation; 6] = [
        Activation::Gelu,
        Activation::GeluTanh,
        Activation::Silu,
        Activation::Relu,
        Activation::Tanh,
        Activation::Identity,
    ];

    fn exact(activation: Activation, x: f64) -> f64 {
        match activation {
            Activation::Gelu => 0.5 * x * libm::erfc(-x / SQRT_2),
            Activation::GeluTanh => x / (1.0 + (-2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x * x * x)).exp()),
            Activation::Relu => x.max(0.0),
            Activation::Silu => x / (1.0 + (-x).exp()),
            Activation::Tanh => x.tanh(),
            Activation::Identity => x,
        }
    }

    fn portable(activation: Activation, x: f32) -> f32 {
        let mut x = [x];
        activate_body::<f32, false>(activation, &mut x);
        x[0]
    }

    fn dispatched(activation: Activation, x: f32) -> f32 {
        let mut x = [x];
        activation.apply(&mut x);
        x[0]
    }

    #[test]
    fn within_the_stated_bounds() {
        for f in [portable, dispatched] {
            for activation in ALL {
                let error = |x: f32| (f64::from(f(activation, x)) - exact(activation, f64::from(x))).abs() / f64::from(x.abs()).max(1.0);
                let bound = if activation == Activation::Tanh { 1.2e-7 } else { 1e-7 };
                assert!(worst(f32::MIN..=f32::MAX, error) < bound, "{activation:?}");
            }
            for (activation, bound) in GATED {
                let error = |x: f32| {
                    let exact = exact(activation, f64::from(x));
                    (f64::from(f(activation, x)) - exact).abs() / exact.abs().max(1e-37)
                };
                assert!(worst(-5.0..=0.0, error) < bound, "{activation:?} left of 0");
                assert!(worst(0.0..=f32::MAX, error) < 3e-7, "{activation:?} right of 0");
            }
        }
    }

    #[test]
    fn infinities_nan_and_signed_zero() {
        for f in [portable, dispatched] {
            for activation in ALL {
                let tanh = activation == Activation::Tanh;
                assert_eq!(f(activation, f32::INFINITY), if tanh { 1.0 } else { f32::INFINITY });
                let left = match activation {
                    Activation::Tanh => -1.0,
                    Activation::Identity => f32::NEG_INFINITY,
                    _ => 0.0,
                };
                assert_eq!(f(activation, f32::NEG_INFINITY), left);
                assert!(f(activation, f32::NAN).is_nan());
                assert_eq!((f(activation, 0.0), f(activation, -0.0)), (0.0, 0.0));
            }
        }
    }

    #[test]
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
    fn an_element_does_not_depend_on_its_place() {
        for activation in ALL {
            for len in (0..=40).chain([63, 129, 1001]) {
                let input: Vec<f32> = spread(len, 6.0).into_iter().map(f32::of).collect();
                let mut x = input.clone();
                activation.apply(&mut x);
                for (x, &input) in x.iter().zip(&input) {
                    assert_eq!(x.to_bits(), dispatched(activation, input).to_bits());
                }
            }
        }
    }
}
