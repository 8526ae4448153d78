//! Layer normalization of rows whose variance leaves the range of their type: they are divided by a power of two first.
//!
//! The squares of large rows overflow, those of small ones vanish, and where a row is nearly constant its variance is the rounding of its
//! mean. Such rows are rare, so none of this is compiled for an instruction set or made fast.

use super::super::elementary::{Elementary, LANES, sum_of};
use super::backward_row;
use crate::scalar::inverse_power_of_two;

/// A bound of the relative error of the mean of so many numbers that are alike.
#[inline(always)]
pub(super) fn rounding_of_mean<T: Elementary>(count: usize) -> T {
    T::of((64 + count / LANES) as f64) * T::epsilon()
}

/// Whether the variance of a row, `spread` with eps, is as exact as its type allows.
#[inline(always)]
pub(super) fn is_in_range<T: Elementary>(mean: T, spread: T, rounding: T) -> bool {
    let least = T::min_positive_value() / T::epsilon();
    let noise = rounding * mean;
    spread >= least && spread <= T::max_value() && spread > noise * noise
}

/// Normalizes a row as (`scale`·x − `mean`)·`factor`.
struct Rescaled<T> {
    scale: T,
    mean: T,
    factor: T,
}

impl<T: Elementary> Rescaled<T> {
    fn of(row: &[T], eps: T) -> Self {
        // NaN becomes the largest and stays it.
        let larger = |largest: T, &x: &T| if x.abs() > largest || x.is_nan() { x.abs() } else { largest };
        let largest = row.iter().fold(eps.sqrt(), larger);
        let scale = inverse_power_of_two(largest);
        let count = T::of(row.len() as f64);
        let rough = sum_of(row, |x| scale * x) / count;
        let is_constant = row.iter().all(|&x| x == row[0]);
        let mean = if is_constant {
            scale * row[0]
        } else {
            rough + sum_of(row, |x| scale * x - rough) / count
        };
        let variance = sum_of(row, |x| (scale * x - mean) * (scale * x - mean)) / count;
        let spread = variance + eps * scale * scale;
        // A constant row without eps has no direction: 0 throughout, and so is its gradient.
        let factor = if spread == T::zero() { T::zero() } else { spread.sqrt().recip() };
        Self { scale, mean, factor }
    }

    fn at(&self, x: T) -> T {
        (self.scale * x - self.mean) * self.factor
    }
}

/// Replaces a row by (x − mean)/√(variance + eps).
#[cold]
#[inline(never)]
pub(super) fn normalize<T: Elementary>(row: &mut [T], eps: T) {
    let rescaled = Rescaled::of(row, eps);
    for x in row {
        *x = rescaled.at(*x);
    }
}

/// [`backward_row`] of such a row: x has the gradient of the divided row, divided as well.
#[cold]
#[inline(never)]
pub(super) fn backward<T: Elementary>(x: &[T], weight: &[T], eps: T, grad: &mut [T], grad_weight: &mut [T], grad_bias: &mut [T]) {
    let rescaled = Rescaled::of(x, eps);
    let normal: Vec<T> = x.iter().map(|&x| rescaled.at(x)).collect();
    backward_row(&normal, (T::zero(), T::one()), weight, grad, grad_weight, grad_bias);
    for grad in grad {
        *grad = *grad * rescaled.factor * rescaled.scale;
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation, clippy::float_cmp)] // f32 is what is tried, and what is compared so is exact
mod tests {
    use super::super::super::elementary::tests::spread;
    use super::super::{layer_norm_backward_rows, layer_norm_rows};
    use crate::scalar::Scalar;

    const WIDTHS: [usize; 9] = [2, 3, 15, 16, 17, 32, 33, 100, 768];

    struct Backward<A> {
        y: Vec<A>,
        grads: [Vec<A>; 3],
    }

    /// Both passes of rows times `factor`.
    fn both<A: Scalar>(x: &[f64], cols: usize, factor: A, eps: A) -> Backward<A> {
        let of = |len: usize, span: f64| spread(len, span).into_iter().map(A::cast).collect::<Vec<_>>();
        let (weight, bias, dy) = (of(cols, 2.0), of(cols, 1.0), of(x.len() + 7, 3.0).split_off(7));
        let x: Vec<A> = x.iter().map(|&x| A::cast(x) * factor).collect();
        let (mut y, mut grad, mut grad_weight, mut grad_bias) = (x.clone(), dy, vec![A::zero(); cols], vec![A::zero(); cols]);
        layer_norm_rows(&mut y, &weight, &bias, eps);
        layer_norm_backward_rows(&x, &weight, eps, &mut grad, &mut grad_weight, &mut grad_bias);
        let grads = [grad, grad_weight, grad_bias];
        Backward { y, grads }
    }

    fn assert_close<A: Scalar>(found: &[A], expected: &[A], bound: f64, what: &str) {
        for (found, expected) in found.iter().zip(expected) {
            let (found, expected) = (found.widen(), expected.widen());
            assert!(
                (found - expected).abs() <= bound * (1.0 + expected.abs()),
                "{what}: {found} for {expected}"
            );
        }
    }

    /// LN(c·x) = LN(x), and the gradient of x is divided by c, for every power of two that leaves x its digits.
    fn scales<A: Scalar>(exponents: std::ops::RangeInclusive<i32>, normal: i32, bound: f64) {
        for cols in WIDTHS {
            let x = spread(3 * cols, 1.9);
            let expected = both::<A>(&x, cols, A::one(), A::zero());
            for exponent in exponents.clone() {
                let (c, half) = (A::cast(2.0).powi(exponent), A::cast(2.0).powi(exponent / 2));
                let found = both::<A>(&x, cols, c, A::zero());
                let what = format!("{cols} columns times 2^{exponent}");
                assert_close(&found.y, &expected.y, bound, &what);
                assert_close(&found.grads[1], &expected.grads[1], bound, &what);
                assert_close(&found.grads[2], &expected.grads[2], bound, &what);
                // In two steps, since gradients of small rows are large and those of large ones small.
                let rest = c / half;
                let scaled: Vec<A> = found.grads[0].iter().map(|&grad| grad * half * rest).collect();
                if exponent.abs() < normal {
                    assert_close(&scaled, &expected.grads[0], 10.0 * bound, &what);
                }
                assert!(found.grads[0].iter().all(|grad| grad.is_finite()), "{what}");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn rows_of_any_magnitude() {
        scales::<f32>(-120..=126, 96, 2e-5);
        scales::<f64>(-1016..=1022, 960, 1e-12);
    }

    /// Rows next to eps, and where either is out of range by itself.
    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn eps_of_any_magnitude() {
        for cols in WIDTHS {
            let x = spread(2 * cols, 1.9);
            let expected = both::<f32>(&x, cols, 1.0, 0.25);
            for exponent in -62..=60 {
                let c = 2.0f32.powi(exponent);
                let found = both::<f32>(&x, cols, c, 0.25 * c * c);
                assert_close(&found.y, &expected.y, 2e-5, &format!("{cols} columns times 2^{exponent}"));
            }
        }
        // Where eps is all that counts, a row is divided by its root.
        let mut row = [1e-40f32, -1e-40];
        layer_norm_rows(&mut row, &[1.0; 2], &[0.0; 2], f32::MIN_POSITIVE);
        assert!((row[0] * f32::MIN_POSITIVE.sqrt() / 1e-40 - 1.0).abs() < 1e-4 && row[1] == -row[0]);
    }

    /// The bias and a gradient of 0, however the mean of equal numbers is rounded.
    #[test]
    fn constant_rows() {
        for cols in WIDTHS.into_iter().chain([1]) {
            for value in [0.0, 1e-45, 1e-23, 0.1, 3.3, 1e9, 1e20, f32::MAX, -f32::MAX] {
                for eps in [0.0, f32::MIN_POSITIVE] {
                    let (mut y, mut grad) = (vec![value; cols], (0..cols).map(|i| i as f32).collect::<Vec<_>>());
                    let (x, weight, bias) = (y.clone(), vec![3.0; cols], vec![0.5; cols]);
                    layer_norm_rows(&mut y, &weight, &bias, eps);
                    assert!(y.iter().all(|y| y.to_bits() == 0.5f32.to_bits()), "{cols} times {value}: {y:?}");
                    let mut sums = [vec![0.0; cols], vec![0.0; cols]];
                    let [grad_weight, grad_bias] = &mut sums;
                    layer_norm_backward_rows(&x, &weight, eps, &mut grad, grad_weight, grad_bias);
                    assert!(grad_weight.iter().all(|&grad| grad == 0.0));
                    if eps == 0.0 {
                        assert!(grad.iter().all(|&grad| grad == 0.0), "{cols} times {value}: {grad:?}");
                    }
                }
            }
        }
    }

    /// So many numbers that the mean of those that are alike is another, corrected or not.
    #[test]
    #[cfg_attr(miri, ignore = "too long to interpret")]
    fn a_wide_constant_row() {
        const WIDTH: usize = 4_000_000;
        for value in [0.1f32, 3.3, 1e9] {
            let mut y = vec![value; WIDTH];
            layer_norm_rows(&mut y, &vec![1.0; WIDTH], &vec![0.5; WIDTH], 0.0);
            assert!(y.iter().all(|&y| y == 0.5), "{value}: {}", y[0]);
        }
    }

    /// A row of the narrow widths is worked out with its neighbors, and must not depend on them.
    #[test]
    fn a_row_does_not_depend_on_its_neighbours() {
        for cols in [16, 32] {
            let x: Vec<f32> = spread(11 * cols, 2.0).into_iter().map(|x| x as f32).collect();
            let mut rows = x.clone();
            for (index, row) in rows.chunks_mut(cols).enumerate().filter(|(index, _)| index % 3 == 1) {
                for x in row {
                    *x *= [1e38, 1e-30, f32::NAN, 0.0][index / 3];
                }
            }
            let (weight, bias) = (vec![1.5; cols], vec![0.25; cols]);
            let mut together = rows.clone();
            layer_norm_rows(&mut together, &weight, &bias, 0.0);
            for (together, row) in together.chunks(cols).zip(rows.chunks(cols)) {
                let mut alone = row.to_vec();
                layer_norm_rows(&mut alone, &weight, &bias, 0.0);
                assert!(
                    together
                        .iter()
                        .zip(&alone)
                        .all(|(a, b)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan())
                );
            }
        }
    }
}
