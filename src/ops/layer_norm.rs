//! Layer normalisation of rows.

use crate::scalar::Scalar;

/// Layer normalisation of one element type.
pub(crate) trait LayerNormKernels: Sized {
    /// Normalises every row of `x` (rows of `weight.len()` elements) in place.
    fn layer_norm_rows(x: &mut [Self], weight: &[Self], bias: &[Self], eps: Self);
}

macro_rules! reference {
    ($t:ty) => {
        impl LayerNormKernels for $t {
            fn layer_norm_rows(x: &mut [Self], weight: &[Self], bias: &[Self], eps: Self) {
                let count = weight.len() as $t;
                for row in x.chunks_exact_mut(weight.len()) {
                    let mean = row.iter().sum::<$t>() / count;
                    let variance = row.iter().map(|&x| (x - mean) * (x - mean)).sum::<$t>() / count;
                    let factor = 1.0 / (variance + eps).sqrt();
                    for ((x, &w), &b) in row.iter_mut().zip(weight).zip(bias) {
                        *x = (*x - mean) * factor * w + b;
                    }
                }
            }
        }
    };
}
reference!(f32);
reference!(f64);

/// (x − mean) / √(variance + eps) · weight + bias for every row of `x`, in place; the variance is the biased one, in two passes.
pub(crate) fn layer_norm_rows<A: Scalar>(x: &mut [A], weight: &[A], bias: &[A], eps: A) {
    if !weight.is_empty() {
        A::layer_norm_rows(x, weight, bias, eps);
    }
}
