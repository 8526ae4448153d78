//! Softmax of score tiles, with the row maximum subtracted.

use crate::scalar::Scalar;

/// The exponential of one element type.
pub(crate) trait SoftmaxKernels: Sized {
    /// Replaces every row x of `tile` (rows of `cols` elements) by exp(x − max x) and writes the rows' maxima and sums.
    fn exp_rows(tile: &mut [Self], cols: usize, maxima: &mut [Self], sums: &mut [Self]);
}

macro_rules! reference {
    ($t:ty) => {
        impl SoftmaxKernels for $t {
            fn exp_rows(tile: &mut [Self], cols: usize, maxima: &mut [Self], sums: &mut [Self]) {
                for ((row, max), sum) in tile.chunks_exact_mut(cols).zip(maxima).zip(sums) {
                    *max = row
                        .iter()
                        .fold(<$t>::NEG_INFINITY, |m, &x| if x > m || x.is_nan() { x } else { m });
                    *sum = 0.0;
                    for x in row {
                        *x = if *max == <$t>::NEG_INFINITY { 0.0 } else { (*x - *max).exp() };
                        *sum += *x;
                    }
                }
            }
        }
    };
}
reference!(f32);
reference!(f64);

/// Replaces every row x of `tile` (rows of `cols` elements) by exp(x − max x), and writes each row's maximum and sum.
///
/// A row of −∞ only becomes zeros with the sum 0.
pub(crate) fn exp_rows<A: Scalar>(tile: &mut [A], cols: usize, maxima: &mut [A], sums: &mut [A]) {
    if cols == 0 {
        maxima.fill(A::neg_infinity());
        sums.fill(A::zero());
        return;
    }
    A::exp_rows(tile, cols, maxima, sums);
}

/// Replaces every row of `tile` (rows of `cols` elements) by its softmax; a row of −∞ only becomes zeros.
pub(crate) fn softmax_rows<A: Scalar>(tile: &mut [A], cols: usize) {
    if cols == 0 {
        return;
    }
    for row in tile.chunks_exact_mut(cols) {
        let (mut max, mut sum) = ([A::zero()], [A::zero()]);
        A::exp_rows(row, cols, &mut max, &mut sum);
        if sum[0] != A::zero() {
            let factor = A::one() / sum[0];
            for x in row {
                *x *= factor;
            }
        }
    }
}
