//! The feed-forward's non-linearities.

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use super::elementary::{Differentiable, Elementary, Pointwise, Slope, at_most, dispatch, map, map_both, map_rows};
use crate::scalar::Scalar;

/// A pointwise non-linearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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

    /// [`derivative`](Self::derivative), and `values` becomes `activation` of what was in `x`.
    fn value_and_derivative(activation: Activation, x: &mut [Self], values: &mut [Self]);
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

            fn value_and_derivative(activation: Activation, x: &mut [Self], values: &mut [Self]) {
                dispatch!(dispatched, both_body, $t, (activation: Activation, x: &mut [$t], values: &mut [$t]));
                dispatched(activation, x, values);
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

#[inline(always)]
fn both_body<T: Elementary, const FMA: bool>(activation: Activation, x: &mut [T], values: &mut [T]) {
    match activation {
        Activation::Gelu => map_both::<T, _, FMA>(x, values, &Gated(Gelu)),
        Activation::GeluTanh => map_both::<T, _, FMA>(x, values, &Gated(GeluTanh)),
        Activation::Relu => map_both::<T, _, FMA>(x, values, &Relu),
        Activation::Silu => map_both::<T, _, FMA>(x, values, &Gated(Silu)),
        Activation::Tanh => map_both::<T, _, FMA>(x, values, &Tanh),
        Activation::Identity => {
            values.copy_from_slice(x);
            x.fill(T::one());
        }
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
    /// In f32 the error, measured against f64, is at most 1e-7·max(1, |x|), and 1.2e-7 for tanh; in f64 at most
    /// 4e-16·max(1, |x|). Where a gated activation's value is small, so is its error: relative to the value it is at most 3e-7 for x ≥ 0,
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

    /// [`differentiate`](Self::differentiate) and [`apply`](Self::apply) in one go, `values` becoming the latter's result.
    pub(crate) fn apply_and_differentiate<A: Scalar>(self, x: &mut [A], values: &mut [A]) {
        A::value_and_derivative(self, x, values);
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests;
