//! Cross-entropy of one row of logits.

use super::exp_rows;
use crate::scalar::Scalar;

/// The cross-entropy of the row of logits x to `class`, in `f64`; the row becomes exp(x − max x), whose sum is given too.
///
/// With c the class, C the number of classes and ε the `smoothing`, it is (1 − ε)·(lse − x_c) + ε·(lse − Σx/C), where lse is log Σ exp(x).
/// In f32 it is within 3e-7 of that. `class` must be less than the length.
pub(crate) fn cross_entropy_row<A: Scalar>(row: &mut [A], class: usize, smoothing: f64) -> (f64, f64) {
    let own = row[class].widen();
    // Not where nothing is smoothed: 0·∞ would be NaN.
    let mean = (smoothing > 0.0).then(|| sum_widened(row) / row.len() as f64);
    let (mut max, mut sum) = ([A::zero()], [A::zero()]);
    exp_rows(row, row.len(), row.len(), &mut max, &mut sum);
    // The kernel's sum has the element type's precision, which shows in rows of many classes.
    let sum = if sum[0].is_nan() { f64::NAN } else { sum_widened(row) };
    let log_sum = max[0].widen() + libm::log(sum);
    let loss = match mean {
        Some(mean) if smoothing < 1.0 => (1.0 - smoothing) * (log_sum - own) + smoothing * (log_sum - mean),
        Some(mean) => log_sum - mean,
        None => log_sum - own,
    };
    (loss, sum)
}

/// Σ x in `f64`, in an order that depends on the length only.
fn sum_widened<A: Scalar>(row: &[A]) -> f64 {
    /// Independent sums hide the latency of an addition.
    const LANES: usize = 8;
    let (chunks, rest) = row.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane += x.widen();
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|x| x.widen()).sum::<f64>()
}

/// The gradient of `scale` times the cross-entropy, in place of the exponentials that [`cross_entropy_row`] left: softmax(x) − (1 − ε)·[class] − ε/C,
/// times `scale`.
pub(crate) fn cross_entropy_backward_row<A: Scalar>(exponentials: &mut [A], sum: f64, class: usize, smoothing: f64, scale: f64) {
    let factor = A::cast(scale / sum);
    let shift = A::cast(scale * smoothing / exponentials.len() as f64);
    for x in &mut *exponentials {
        *x = *x * factor - shift;
    }
    exponentials[class] -= A::cast(scale * (1.0 - smoothing));
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests {
    use super::super::elementary::tests::spread;
    use super::*;

    const INF: f64 = f64::INFINITY;

    fn loss(row: &[f64], class: usize, smoothing: f64) -> f64 {
        cross_entropy_row(&mut row.to_vec(), class, smoothing).0
    }

    fn gradient<A: Scalar>(row: &[A], class: usize, smoothing: f64, scale: f64) -> Vec<A> {
        let mut row = row.to_vec();
        let (_, sum) = cross_entropy_row(&mut row, class, smoothing);
        cross_entropy_backward_row(&mut row, sum, class, smoothing, scale);
        row
    }

    #[test]
    fn backward_matches_central_differences() {
        const STEP: f64 = 1e-5;
        for cols in (1..=20).chain([33, 64]) {
            for smoothing in [0.0, 0.1, 1.0] {
                let (x, class) = (spread(cols, 3.0), cols / 2);
                let gradient = gradient(&x, class, smoothing, 0.5);
                for i in 0..cols {
                    let [left, right] = [-STEP, STEP].map(|step| {
                        let mut x = x.clone();
                        x[i] += step;
                        loss(&x, class, smoothing)
                    });
                    assert!((gradient[i] - 0.5 * (right - left) / (2.0 * STEP)).abs() < 1e-9);
                }
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
    fn single_precision() {
        for cols in (1..=40).chain([1000, 50_000]) {
            for (class, smoothing) in [(0, 0.0), (cols / 2, 0.1), (cols - 1, 1.0)] {
                let mut narrow: Vec<f32> = spread(cols, 8.0).into_iter().map(f32::cast).collect();
                let wide: Vec<f64> = narrow.iter().map(|&x| x.into()).collect();
                let gradients = gradient(&wide, class, smoothing, 1.0)
                    .into_iter()
                    .zip(gradient(&narrow, class, smoothing, 1.0));
                assert!(gradients.into_iter().all(|(wide, narrow)| (wide - f64::from(narrow)).abs() < 3e-7));
                let (narrow, _) = cross_entropy_row(&mut narrow, class, smoothing);
                assert!((narrow - loss(&wide, class, smoothing)).abs() < 3e-7);
            }
        }
    }

    #[test]
    fn large_and_infinite_logits() {
        assert_eq!(loss(&[1000.0, 0.0], 0, 0.0), 0.0);
        assert_eq!(loss(&[1000.0, 0.0], 1, 0.0), 1000.0);
        assert_eq!(loss(&[-1e300, 1e300], 1, 0.0), 0.0);
        assert_eq!(loss(&[-INF, 2.0], 1, 0.0), 0.0);
        assert_eq!(gradient(&[-INF, 2.0], 1, 0.0, 1.0), [0.0, 0.0]);
        assert_eq!(loss(&[-INF, 2.0], 0, 0.0), INF);
        assert_eq!(gradient(&[-INF, 2.0], 0, 0.0, 1.0), [-1.0, 1.0]);
        for row in [[-INF, -INF], [INF, 0.0], [0.0, f64::NAN]] {
            assert!(loss(&row, 0, 0.0).is_nan());
            assert!(gradient(&row, 0, 0.0, 1.0).iter().all(|x| x.is_nan()));
        }
    }
}
