//! The element types: `f32` and `f64`.

use ndarray::NdFloat;

use crate::ops::Kernels;

/// The element type of every array here: `f32` (the default) or `f64`.
///
/// The trait is sealed: both types carry hand-tuned kernels, and no other can.
#[allow(private_bounds)] // the bound is the seal
pub trait Scalar: NdFloat + Default + std::iter::Sum + Kernels {
    /// The name of the type in a safetensors header.
    const NAME: &'static str;

    /// `value` rounded to this type.
    fn cast(value: f64) -> Self;

    /// This value as an `f64`, exactly.
    fn widen(self) -> f64;
}

/// 2^−e for a `value` from 2^e up to 2^(e+1), as far as it and its inverse are normal numbers: a factor that changes no digit and brings the
/// value near 1.
pub(crate) fn inverse_power_of_two<T: NdFloat>(value: T) -> T {
    let exponent = |value: T| value.to_f64().map_or(0, |value| (value.to_bits() >> 52) & 0x7ff);
    let (zero, least) = (exponent(T::one()), exponent(T::min_positive_value()));
    let inverse = 2 * zero - exponent(value).clamp(least, 2 * zero - least);
    T::from(f64::from_bits(inverse << 52)).unwrap_or_else(T::one)
}

impl Scalar for f32 {
    const NAME: &'static str = "F32";

    #[allow(clippy::cast_possible_truncation)] // rounding is what is asked for
    fn cast(value: f64) -> Self {
        value as Self
    }

    fn widen(self) -> f64 {
        f64::from(self)
    }
}

impl Scalar for f64 {
    const NAME: &'static str = "F64";

    fn cast(value: f64) -> Self {
        value
    }

    fn widen(self) -> f64 {
        self
    }
}
