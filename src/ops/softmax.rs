//! Softmax of score tiles, with the row maximum subtracted.

mod groups;

use ndarray::{Array3, ArrayRef3};

use super::elementary::{Elementary, Pointwise, dispatch, map, maximum, sum_of, sum_of_pairs};
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;
use groups::softmax_groups_body;

pub(crate) use groups::softmax_groups;

/// Multiplications that an exponential costs, roughly.
const EXPONENTIAL_COST: usize = 16;
/// Elements that one task of a whole array takes.
const TASK_ELEMENTS: usize = 1 << 14;

/// Computes exp(x − max x)/Σ exp(x − max x) over the last axis, (batch, rows, columns), spread over threads.
///
/// A row of −∞ only becomes zeros, the weights of nothing to attend to. A row that holds NaN or +∞ becomes NaN.
///
/// ```
/// use linformer::ndarray::array;
/// use linformer::softmax;
///
/// let shares = softmax(&array![[[0.0, 3.0_f64.ln()], [f64::NEG_INFINITY, 5.0]]]);
/// assert!((shares[[0, 0, 1]] - 0.75).abs() < 1e-15);
/// assert_eq!((shares[[0, 1, 0]], shares[[0, 1, 1]]), (0.0, 1.0));
/// ```
pub fn softmax<A: Scalar>(x: &ArrayRef3<A>) -> Array3<A> {
    let mut x = x.as_standard_layout().into_owned();
    let cols = x.dim().2;
    let cost = parallel::cost(&[x.len(), EXPONENTIAL_COST]);
    if let Some(slice) = x.as_slice_mut().filter(|slice| !slice.is_empty()) {
        let size = cols * (TASK_ELEMENTS / cols).max(1);
        for_each_part(Chunks { slice, size }, cost, |_, part| softmax_rows(part.slice, cols));
    }
    x
}

/// The exponential of one element type.
pub(crate) trait SoftmaxKernels: Sized {
    /// Replaces every row x of `tile` (rows of `cols` elements at the distance `stride`) by exp(x − max x) and writes the rows' maxima and sums.
    fn exp_rows(tile: &mut [Self], cols: usize, stride: usize, maxima: &mut [Self], sums: &mut [Self]);

    /// Replaces every row of `tile` (rows of `cols` elements) by its softmax.
    fn softmax_rows(tile: &mut [Self], cols: usize);

    /// Replaces every group of 2, 4, 8 or 16 neighbors in the first `cols` of every `stride` elements by its softmax.
    fn softmax_groups(tile: &mut [Self], cols: usize, group: usize, stride: usize);

    /// Replaces every row of `grad`, the gradient of a softmax's output `p`, by the gradient of its input.
    fn softmax_backward_rows(p: &[Self], grad: &mut [Self], cols: usize);
}

macro_rules! kernels {
    ($t:ty) => {
        impl SoftmaxKernels for $t {
            fn exp_rows(tile: &mut [Self], cols: usize, stride: usize, maxima: &mut [Self], sums: &mut [Self]) {
                dispatch!(dispatched, exp_rows_body, $t, (tile: &mut [$t], cols: usize, stride: usize, maxima: &mut [$t], sums: &mut [$t]));
                dispatched(tile, cols, stride, maxima, sums);
            }

            fn softmax_rows(tile: &mut [Self], cols: usize) {
                dispatch!(dispatched, softmax_rows_body, $t, (tile: &mut [$t], cols: usize));
                dispatched(tile, cols);
            }

            fn softmax_groups(tile: &mut [Self], cols: usize, group: usize, stride: usize) {
                dispatch!(dispatched, softmax_groups_body, $t, (tile: &mut [$t], cols: usize, group: usize, stride: usize));
                dispatched(tile, cols, group, stride);
            }

            fn softmax_backward_rows(p: &[Self], grad: &mut [Self], cols: usize) {
                dispatch!(dispatched, softmax_backward_rows_body, $t, (p: &[$t], grad: &mut [$t], cols: usize));
                dispatched(p, grad, cols);
            }
        }
    };
}
kernels!(f32);
kernels!(f64);

/// x ↦ exp(x − shift).
struct ShiftedExp<T> {
    shift: T,
}

impl<T: Elementary> Pointwise<T> for ShiftedExp<T> {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T) -> T {
        T::exp_of_negative::<FMA>(x - self.shift)
    }
}

/// Replaces the row x by exp(x − max x); gives the maximum and the sum.
#[inline(always)]
fn exp_row<T: Elementary, const FMA: bool>(row: &mut [T]) -> (T, T) {
    let max = maximum(row);
    // −∞ − −∞ would be NaN.
    let shift = if max == T::neg_infinity() { T::zero() } else { max };
    map::<T, _, FMA>(row, &ShiftedExp { shift });
    let sum = sum_of(row, |x| x);
    if sum.is_nan() {
        row.fill(T::nan());
        return (T::nan(), T::nan());
    }
    (max, sum)
}

/// Elements of rows that are too short for vectors, worked on together.
const TOGETHER: usize = 64;
/// Rows shorter than this are.
const SHORT: usize = 8;

/// x ↦ exp(x) for x ≤ 0.
struct Exp;

impl<T: Elementary> Pointwise<T> for Exp {
    #[inline(always)]
    fn at<const FMA: bool>(&self, x: T) -> T {
        T::exp_of_negative::<FMA>(x)
    }
}

/// [`exp_row`] of short rows, as many as fit into `TOGETHER` elements.
#[inline(always)]
fn exp_short_rows<T: Elementary, const FMA: bool>(tile: &mut [T], cols: usize, stride: usize, maxima: &mut [T], sums: &mut [T]) {
    let mut together = [T::zero(); TOGETHER];
    for ((row, to), max) in tile.chunks(stride).zip(together.chunks_exact_mut(cols)).zip(&mut *maxima) {
        *max = row[..cols].iter().fold(T::neg_infinity(), |max, &x| if x > max { x } else { max });
        let shift = if *max == T::neg_infinity() { T::zero() } else { *max };
        to.iter_mut().zip(row).for_each(|(to, &x)| *to = x - shift);
    }
    map::<T, _, FMA>(&mut together, &Exp);
    for (((row, from), max), sum) in tile.chunks_mut(stride).zip(together.chunks_exact(cols)).zip(maxima).zip(sums) {
        *sum = from.iter().fold(T::zero(), |sum, &x| sum + x);
        row[..cols].copy_from_slice(from);
        if sum.is_nan() {
            row[..cols].fill(T::nan());
            *max = T::nan();
        }
    }
}

#[inline(always)]
fn exp_rows_body<T: Elementary, const FMA: bool>(tile: &mut [T], cols: usize, stride: usize, maxima: &mut [T], sums: &mut [T]) {
    if cols < SHORT {
        let rows = TOGETHER / cols;
        let parts = tile
            .chunks_mut(rows * stride)
            .zip(maxima.chunks_mut(rows))
            .zip(sums.chunks_mut(rows));
        for ((tile, maxima), sums) in parts {
            exp_short_rows::<T, FMA>(tile, cols, stride, maxima, sums);
        }
        return;
    }
    for ((row, max), sum) in tile.chunks_mut(stride).zip(maxima).zip(sums) {
        (*max, *sum) = exp_row::<T, FMA>(&mut row[..cols]);
    }
}

#[inline(always)]
fn softmax_rows_body<T: Elementary, const FMA: bool>(tile: &mut [T], cols: usize) {
    for row in tile.chunks_exact_mut(cols) {
        let (_, sum) = exp_row::<T, FMA>(row);
        if sum != T::zero() {
            let factor = T::one() / sum;
            for x in row {
                *x *= factor;
            }
        }
    }
}

#[inline(always)]
fn softmax_backward_rows_body<T: Elementary, const FMA: bool>(p: &[T], grad: &mut [T], cols: usize) {
    for (p, grad) in p.chunks_exact(cols).zip(grad.chunks_exact_mut(cols)) {
        let mean = sum_of_pairs(p, grad, |p, grad| p * grad);
        for (grad, &p) in grad.iter_mut().zip(p) {
            *grad = p * (*grad - mean);
        }
    }
}

/// Multiplies the first `cols` of every `stride` elements by a row's factor.
pub(crate) fn scale_rows<A: Scalar>(x: &mut [A], cols: usize, stride: usize, factors: &[A]) {
    for (row, &factor) in x.chunks_mut(stride).zip(factors) {
        for x in &mut row[..cols] {
            *x *= factor;
        }
    }
}

/// Replaces every row x of `tile` (rows of `cols` elements at the distance `stride`) by exp(x − max x), and writes each row's maximum and sum.
///
/// A row of −∞ only becomes zeros with the sum 0. A row that holds NaN or +∞ becomes NaN, its maximum and sum too.
/// In f32 an exponential is within 8.6e-8 of that of the rounded difference; sums are taken in an order that depends on `cols` only.
pub(crate) fn exp_rows<A: Scalar>(tile: &mut [A], cols: usize, stride: usize, maxima: &mut [A], sums: &mut [A]) {
    if cols == 0 {
        maxima.fill(A::neg_infinity());
        sums.fill(A::zero());
        return;
    }
    A::exp_rows(tile, cols, stride, maxima, sums);
}

/// Replaces every row of `tile` (rows of `cols` elements) by its softmax; a row of −∞ only becomes zeros, one with NaN or +∞ NaN.
pub(crate) fn softmax_rows<A: Scalar>(tile: &mut [A], cols: usize) {
    if cols > 0 {
        A::softmax_rows(tile, cols);
    }
}

/// Replaces every row g of `grad`, the gradient of the softmax's output `p`, by that of its input: p∘(g − ⟨g, p⟩).
///
/// A row of zeros in `p`, which a row of −∞ only gave, makes a gradient of zeros.
pub(crate) fn softmax_backward_rows<A: Scalar>(p: &[A], grad: &mut [A], cols: usize) {
    if cols > 0 {
        A::softmax_backward_rows(p, grad, cols);
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests {
    use super::super::elementary::tests::spread;
    use super::*;

    const INF: f32 = f32::INFINITY;
    type ExpRows = fn(&mut [f32], usize, &mut [f32], &mut [f32]);
    const VERSIONS: [ExpRows; 2] = [
        |x, cols, maxima, sums| exp_rows(x, cols, cols, maxima, sums),
        |x, cols, maxima, sums| exp_rows_body::<f32, false>(x, cols, cols, maxima, sums),
    ];

    fn widths() -> impl Iterator<Item = usize> {
        (1..=40).chain([63, 64, 100, 127, 128, 129, 1000])
    }

    fn tile(rows: usize, cols: usize, span: f64) -> Vec<f32> {
        spread(rows * cols, span).into_iter().map(f32::of).collect()
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn rows_match_double_precision() {
        for version in VERSIONS {
            for cols in widths() {
                let input = tile(5, cols, 60.0);
                let mut x = input.clone();
                let (mut maxima, mut sums) = ([0.0; 5], [0.0; 5]);
                version(&mut x, cols, &mut maxima, &mut sums);
                for (row, input) in input.chunks_exact(cols).enumerate() {
                    let max = input.iter().copied().fold(-INF, f32::max);
                    assert_eq!(maxima[row], max);
                    let exact: Vec<f64> = input.iter().map(|&x| f64::from(x - max).exp()).collect();
                    for (&x, exact) in x[row * cols..].iter().zip(&exact) {
                        assert!((f64::from(x) - exact).abs() <= 8.6e-8 * exact + 1e-45);
                    }
                    let sum = exact.iter().sum::<f64>();
                    assert!((f64::from(sums[row]) - sum).abs() <= 2e-7 * sum);
                }
            }
        }
    }

    #[test]
    fn infinities_and_nan() {
        for version in VERSIONS {
            for cols in widths() {
                let mut x = tile(6, cols, 3.0);
                x[cols..2 * cols].fill(-INF);
                x[3 * cols - 1] = f32::NAN;
                x[3 * cols..4 * cols].fill(f32::NAN);
                x[4 * cols + cols / 2] = INF;
                x[5 * cols + 1..].fill(-INF);
                let (mut maxima, mut sums) = ([0.0; 6], [0.0; 6]);
                version(&mut x, cols, &mut maxima, &mut sums);
                assert!((1.0..=cols as f32).contains(&sums[0]));
                assert_eq!((maxima[1], sums[1]), (-INF, 0.0));
                assert!(x[cols..2 * cols].iter().all(|&x| x == 0.0));
                assert!(x[2 * cols..5 * cols].iter().all(|x| x.is_nan()));
                assert!(maxima[2..5].iter().chain(&sums[2..5]).all(|x| x.is_nan()));
                assert_eq!((x[5 * cols], sums[5]), (1.0, 1.0));
                assert!(x[5 * cols + 1..].iter().all(|&x| x == 0.0));
            }
        }
    }

    #[test]
    fn a_row_does_not_depend_on_its_tile() {
        for cols in widths() {
            let input = tile(7, cols, 8.0);
            let mut whole = input.clone();
            softmax_rows(&mut whole, cols);
            for (whole, row) in whole.chunks_exact(cols).zip(input.chunks_exact(cols)) {
                let mut row = row.to_vec();
                softmax_rows(&mut row, cols);
                assert_eq!(whole, row);
                assert!((row.iter().copied().map(f64::from).sum::<f64>() - 1.0).abs() < 3e-7);
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn double_precision() {
        for cols in widths() {
            let input = spread(3 * cols, 60.0);
            let mut x = input.clone();
            softmax_rows(&mut x, cols);
            for (x, input) in x.chunks_exact(cols).zip(input.chunks_exact(cols)) {
                let max = input.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = input.iter().map(|x| (x - max).exp()).sum();
                for (x, input) in x.iter().zip(input) {
                    assert!((x - (input - max).exp() / sum).abs() < 1e-15);
                }
            }
        }
    }

    #[test]
    fn masked_rows_and_empty_ones() {
        let mut x = [-INF, -INF, 1.0, -INF];
        softmax_rows(&mut x, 2);
        assert_eq!(x, [0.0, 0.0, 1.0, 0.0]);
        softmax_rows::<f32>(&mut [], 0);
        let (mut maxima, mut sums) = ([1.0], [1.0]);
        exp_rows::<f32>(&mut [], 0, 0, &mut maxima, &mut sums);
        assert_eq!((maxima, sums), ([-INF], [0.0]));
    }
    /// ⟨softmax(x), c⟩ of a row.
    fn functional(x: &[f64], c: &[f64]) -> f64 {
        let mut p = x.to_vec();
        softmax_rows(&mut p, x.len());
        p.iter().zip(c).map(|(p, c)| p * c).sum()
    }

    #[test]
    fn backward_matches_central_differences() {
        const STEP: f64 = 1e-5;
        for cols in (1..=20).chain([33, 64]) {
            let (x, c) = (spread(cols, 3.0), spread(cols + 5, 2.0)[5..].to_vec());
            let (mut p, mut grad) = (x.clone(), c.clone());
            softmax_rows(&mut p, cols);
            softmax_backward_rows(&p, &mut grad, cols);
            for i in 0..cols {
                let [left, right] = [-STEP, STEP].map(|step| {
                    let mut x = x.clone();
                    x[i] += step;
                    functional(&x, &c)
                });
                assert!((grad[i] - (right - left) / (2.0 * STEP)).abs() < 1e-9);
            }
            for version in [f32::softmax_backward_rows, softmax_backward_rows_body::<f32, false>] {
                let [p, mut narrow] = [&p, &c].map(|x| x.iter().map(|&x| f32::of(x)).collect::<Vec<_>>());
                version(&p, &mut narrow, cols);
                assert!(
                    narrow
                        .iter()
                        .zip(&grad)
                        .all(|(&narrow, grad)| (f64::from(narrow) - grad).abs() < 3e-7)
                );
            }
        }
        let mut grad = [1.0, 2.0, 3.0, 5.0];
        softmax_backward_rows(&[0.0, 0.0, 0.5, 0.5], &mut grad, 2);
        assert_eq!(grad, [0.0, 0.0, -0.5, 0.5]);
    }
}
