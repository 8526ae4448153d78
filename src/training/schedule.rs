//! Learning rates over the steps of a run.

use crate::config::setters;

/// A learning rate for every step: a function of the step alone, so that nothing of it needs to be saved.
///
/// Over the first `warmup` steps the rate rises in equal parts to the peak, which the last of them has. With the step s counted from 0, the
/// warm-up w and the total T it is then
///
/// | schedule | rate |
/// |---|---|
/// | [`constant`](Self::constant) | peak |
/// | [`linear`](Self::linear) | peak·(T − s)/(T − w) |
/// | [`cosine`](Self::cosine) | peak·½·(1 + cos(π·(s − w)/(T − w))) (Loshchilov and Hutter 2017, arXiv 1608.03983, without restarts) |
/// | [`inverse_square_root`](Self::inverse_square_root) | peak·√(w/(s + 1)), w at least 1 (Vaswani et al. 2017) |
///
/// ```
/// use linformer::training::Schedule;
///
/// let schedule = Schedule::linear(1.0, 12).with_warmup(4);
/// let rates: Vec<f64> = (0..13).map(|step| schedule.at(step)).collect();
/// assert_eq!(rates, [0.25, 0.5, 0.75, 1.0, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0]);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Schedule {
    /// The highest rate.
    pub peak: f64,
    /// Steps until it is reached.
    pub warmup: u64,
    shape: Shape,
}

/// The shape after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
enum Shape {
    Constant,
    Linear { total: u64 },
    Cosine { total: u64 },
    InverseSquareRoot,
}

impl Schedule {
    /// Creates a schedule with the same rate at every step.
    pub fn constant(peak: f64) -> Self {
        Self::new(peak, Shape::Constant)
    }

    /// Creates a schedule that falls to 0 at step `total` along a line. Later steps have rate 0.
    pub fn linear(peak: f64, total: u64) -> Self {
        Self::new(peak, Shape::Linear { total })
    }

    /// Creates a schedule that falls to 0 at step `total` along half a cosine. Later steps have rate 0.
    pub fn cosine(peak: f64, total: u64) -> Self {
        Self::new(peak, Shape::Cosine { total })
    }

    /// Creates a schedule that falls with the square root of the step, without end.
    pub fn inverse_square_root(peak: f64) -> Self {
        Self::new(peak, Shape::InverseSquareRoot)
    }

    fn new(peak: f64, shape: Shape) -> Self {
        Self { peak, warmup: 0, shape }
    }

    setters! {
        /// Sets [`Schedule::warmup`].
        with_warmup => warmup: u64,
    }

    /// Returns the rate of `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.peak * ((step + 1) as f64 / self.warmup as f64);
        }
        let factor = match self.shape {
            Shape::Constant => 1.0,
            Shape::Linear { total } => 1.0 - self.progress(step, total),
            Shape::Cosine { total } => 0.5 * (1.0 + libm::cos(std::f64::consts::PI * self.progress(step, total))),
            Shape::InverseSquareRoot => (self.warmup.max(1) as f64 / (step as f64 + 1.0)).sqrt(),
        };
        self.peak * factor
    }

    /// From 0 after the warm-up to 1 at step `total`.
    fn progress(&self, step: u64, total: u64) -> f64 {
        if step >= total {
            return 1.0;
        }
        (step - self.warmup) as f64 / (total - self.warmup) as f64
    }
}

#[cfg(test)]
#[allow(clippy::float_cmp)] // what is compared so is exact
mod tests {
    use super::*;

    #[test]
    fn from_the_peak_down() {
        for schedule in [
            Schedule::linear(2.0, 110),
            Schedule::cosine(2.0, 110),
            Schedule::inverse_square_root(2.0),
        ] {
            let schedule = schedule.with_warmup(10);
            assert_eq!((schedule.at(0), schedule.at(9)), (0.2, 2.0));
            let rates: Vec<f64> = (9..110).map(|step| schedule.at(step)).collect();
            assert!(rates.is_sorted_by(|a, b| a >= b));
        }
        let cosine = Schedule::cosine(2.0, 110).with_warmup(10);
        assert!((cosine.at(60) - 1.0).abs() < 1e-15);
        assert_eq!((cosine.at(110), cosine.at(u64::MAX)), (0.0, 0.0));
        assert_eq!(Schedule::inverse_square_root(2.0).with_warmup(10).at(39), 1.0);
        assert_eq!(Schedule::inverse_square_root(2.0).at(3), 1.0);
        assert_eq!(Schedule::constant(2.0).with_warmup(4).at(1), 1.0);
        assert_eq!(Schedule::constant(2.0).at(u64::MAX), 2.0);
    }

    #[test]
    fn odd_lengths() {
        // No warm-up, no steps, a warm-up that never ends.
        assert_eq!(Schedule::linear(1.0, 1).at(0), 1.0);
        assert_eq!(Schedule::linear(1.0, 0).at(0), 0.0);
        let long = Schedule::cosine(1.0, 5).with_warmup(10);
        assert_eq!((long.at(4), long.at(9), long.at(10)), (0.5, 1.0, 0.0));
        assert!(Schedule::linear(1.0, u64::MAX).with_warmup(u64::MAX).at(u64::MAX - 1) <= 1.0);
    }
}
