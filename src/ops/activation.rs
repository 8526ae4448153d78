//! The feed-forward's non-linearities.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use super::elementary::{Differentiable, Elementary, Pointwise, Slope, at_most, dispatch, map, map_rows};
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
    /// Applies `activation` to the first `cols` of every `stride` elements of `x`.
    fn activate(activation: Activation, x: &mut [Self], cols: usize, stride: usize);

    /// Replaces every element of `x` by the derivative of `activation` there.
    fn derivative(activation: Activation, x: &mut [Self]);
}

macro_rules! kernels {
    ($t:ty) => {
        impl ActivationKernels for $t {
            fn activate(activation: Activation, x: &mut [Self], cols: usize, stride: usize) {
                dispatch!(dispatched, activate_body, $t, (activation: Activation, x: &mut [$t], cols: usize, stride: usize));
                dispatched(activation, x, cols, stride);
            }

            fn derivative(activation: Activation, x: &mut [Self]) {
                dispatch!(dispatched, derivative_body, $t, (activation: Activation, x: &mut [$t]));
                dispatched(activation, x);
            }
        }
    };
}
kernels!(f32);
kernels!(f64);

#[inline(always)]
fn activate_body<T: Elementary, const FMA: bool>(activation: Activation, x: &mut [T], cols: usize, stride: usize) {
    match activation {
        Activation::Gelu => map_rows::<T, _, FMA>(x, cols, stride, &Gated(Gelu)),
        Activation::GeluTanh => map_rows::<T, _, FMA>(x, cols, stride, &Gated(GeluTanh)),
        Activation::Relu => map_rows::<T, _, FMA>(x, cols, stride, &Relu),
        Activation::Silu => map_rows::<T, _, FMA>(x, cols, stride, &Gated(Silu)),
        Activation::Tanh => map_rows::<T, _, FMA>(x, cols, stride, &Tanh),
        Activation::Identity => {}
    }
}

#[inline(always)]
fn derivative_body<T: Elementary, const FMA: bool>(activation: Activation, x: &mut [T]) {
    match activation {
        Activation::Gelu => map::<T, _, FMA>(x, &Slope(Gated(Gelu))),
        Activation::GeluTanh => map::<T, _, FMA>(x, &Slope(Gated(GeluTanh))),
        Activation::Relu => map::<T, _, FMA>(x, &Slope(Relu)),
        Activation::Silu => map::<T, _, FMA>(x, &Slope(Gated(Silu))),
        Activation::Tanh => map::<T, _, FMA>(x, &Slope(Tanh)),
        Activation::Identity => x.fill(T::one()),
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

impl<T: Elementary> Differentiable<T> for Relu {
    #[inline(always)]
    fn slope<const FMA: bool>(&self, x: T) -> T {
        // The sum as in the function itself.
        let x = x + T::zero();
        let zero_or_nan = if x <= T::zero() { T::zero() } else { x };
        if x > T::zero() { T::one() } else { zero_or_nan }
    }
}

struct Tanh;

impl<T: Elementary> Pointwise<T> for Tanh {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T) -> T {
        T::tanh_of::<FMA>(x)
    }
}

impl<T: Elementary> Differentiable<T> for Tanh {
    #[inline(always)]
    fn slope<const FMA: bool>(&self, x: T) -> T {
        // 4σ(2x)σ(−2x) instead of 1 − tanh²x, which cancels.
        let (lower, upper) = logistic::<T, FMA>(T::of(2.0) * at_most(x.abs(), T::of(LIMIT)));
        T::of(4.0) * lower * upper
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

    /// The derivative of t·G(−t), for the same t.
    fn tail_product_slope<const FMA: bool>(&self, t: T) -> T;
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

impl<T: Elementary, D: Distribution<T>> Differentiable<T> for Gated<D> {
    #[inline(always)]
    fn slope<const FMA: bool>(&self, x: T) -> T {
        let slope = self.0.tail_product_slope::<FMA>(at_most(x.abs(), T::of(LIMIT)));
        if x < T::zero() { slope } else { T::one() - slope }
    }
}

/// σ(−u) and σ(u) for u ≥ 0.
#[inline(always)]
fn logistic<T: Elementary, const FMA: bool>(u: T) -> (T, T) {
    let exp = T::exp_of_negative::<FMA>(-u);
    let upper = (T::one() + exp).recip();
    (exp * upper, upper)
}

struct Gelu;

impl<T: Elementary> Distribution<T> for Gelu {
    #[inline(always)]
    fn tail<const FMA: bool>(&self, t: T) -> T {
        T::normal_tail::<FMA>(t)
    }

    #[inline(always)]
    fn tail_product_slope<const FMA: bool>(&self, t: T) -> T {
        let density = T::of(0.5 * FRAC_2_SQRT_PI * FRAC_1_SQRT_2) * T::exp_of_negative::<FMA>(T::of(-0.5) * t * t);
        T::normal_tail::<FMA>(t) - t * density
    }
}

/// ½(1 + tanh u) = σ(2u), with 2u = √(8/π)·(t + CUBIC·t³).
struct GeluTanh;

const CUBIC: f64 = 0.044_715;

impl<T: Elementary> Distribution<T> for GeluTanh {
    #[inline(always)]
    fn tail<const FMA: bool>(&self, t: T) -> T {
        let chord = T::fused::<FMA>(t * t, T::of(CUBIC), T::one());
        Silu.tail::<FMA>(T::of(FRAC_2_SQRT_PI * SQRT_2) * t * chord)
    }

    #[inline(always)]
    fn tail_product_slope<const FMA: bool>(&self, t: T) -> T {
        let chord = T::fused::<FMA>(t * t, T::of(CUBIC), T::one());
        let slope = T::fused::<FMA>(t * t, T::of(3.0 * CUBIC), T::one());
        let scaled = T::of(FRAC_2_SQRT_PI * SQRT_2) * t;
        let (lower, upper) = logistic::<T, FMA>(scaled * chord);
        lower * (T::one() - scaled * slope * upper)
    }
}

struct Silu;

impl<T: Elementary> Distribution<T> for Silu {
    #[inline(always)]
    fn tail<const FMA: bool>(&self, t: T) -> T {
        let exp = T::exp_of_negative::<FMA>(-t);
        exp / (T::one() + exp)
    }

    #[inline(always)]
    fn tail_product_slope<const FMA: bool>(&self, t: T) -> T {
        let (lower, upper) = logistic::<T, FMA>(t);
        lower * (T::one() - t * upper)
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
        if !x.is_empty() {
            A::activate(self, x, x.len(), x.len());
        }
    }

    /// [`apply`](Self::apply) to the first `cols` of every `stride` elements.
    pub(crate) fn apply_rows<A: Scalar>(self, x: &mut [A], cols: usize, stride: usize) {
        A::activate(self, x, cols, stride);
    }

    /// Replaces every element by the derivative of this activation there.
    ///
    /// In f32 the error, measured against f64, is at most 2.3e-7. NaN gives NaN, ±∞ the limits, and `Relu` has 0 at 0.
    pub(crate) fn differentiate<A: Scalar>(self, x: &mut [A]) {
        A::derivative(self, x);
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests {
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
}
