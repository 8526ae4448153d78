//! Losses of a model's output.

use ndarray::{Array, Array2, ArrayRef, ArrayRef2, Axis, Dimension};

use crate::config::setters;
use crate::error::{Error, Result};
use crate::ops::{cross_entropy_backward_row, cross_entropy_row};
use crate::parallel;
use crate::scalar::Scalar;

/// Rows whose losses one task computes.
const ROWS: usize = 16;

/// About how many multiplications an exponential takes as long as.
const EXPONENTIAL: usize = 8;

/// How many losses become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Reduction {
    /// Their mean. The default.
    #[default]
    Mean,
    /// Their sum.
    Sum,
}

impl Reduction {
    /// The factor of each of `count` losses in their sum. The mean of none is 0.
    fn scale(self, count: usize) -> f64 {
        match self {
            Self::Mean => 1.0 / count.max(1) as f64,
            Self::Sum => 1.0,
        }
    }
}

/// Cross-entropy of logits to target classes, as PyTorch's `cross_entropy` defines it.
///
/// The loss of a row x of C logits with the target class c is −log softmax(x)_c. Smoothed by ε, the target is no longer all of c, but
/// 1 − ε of it and ε/C of every class (Szegedy et al. 2016, arXiv 1512.00567). A row whose target is `None` (PyTorch's `ignore_index`) does not
/// count: it adds nothing to the loss, the mean is over the others, and its gradient is 0.
///
/// Exponentials are taken of differences from a row's largest logit. Losses are computed and added in `f64`, row after row. Where no row
/// counts the loss is 0 (PyTorch's mean is NaN). A logit of NaN or +∞ makes the loss NaN: see [`Step::finite_loss`](super::Step::finite_loss).
///
/// ```
/// use linformer::ndarray::array;
/// use linformer::training::CrossEntropy;
///
/// let logits = array![[0.0, 0.0], [5.0, 1.0], [0.0, 3.0_f64.ln()]];
/// let (loss, gradient) = CrossEntropy::new().loss_and_gradient(logits, &[Some(0), None, Some(0)])?;
/// assert!((loss - (2.0_f64.ln() + 4.0_f64.ln()) / 2.0).abs() < 1e-15);
/// let expected = array![[-0.25, 0.25], [0.0, 0.0], [-0.375, 0.375]];
/// assert!((gradient - expected).iter().all(|difference| difference.abs() < 1e-15));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct CrossEntropy {
    /// ε, from 0 to 1.
    pub label_smoothing: f64,
    /// How the rows' losses become one.
    pub reduction: Reduction,
}

impl CrossEntropy {
    /// Creates the mean loss of the rows that count, without label smoothing.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets [`CrossEntropy::label_smoothing`].
        with_label_smoothing => label_smoothing: f64,
        /// Sets [`CrossEntropy::reduction`].
        with_reduction => reduction: Reduction,
    }

    /// Computes the loss of `logits` (rows, classes) with one target a row.
    ///
    /// # Errors
    /// Returns an error if there are more or fewer targets than rows, if a target is not a class, or if the smoothing is not from 0 to 1.
    pub fn loss<A: Scalar>(&self, logits: &ArrayRef2<A>, targets: &[Option<usize>]) -> Result<f64> {
        let scale = self.check("CrossEntropy::loss", logits, targets)?;
        let mut losses = vec![0.0; targets.len()];
        let tasks = losses
            .chunks_mut(ROWS)
            .zip(targets.chunks(ROWS))
            .zip(logits.axis_chunks_iter(Axis(0), ROWS));
        parallel::for_each_with(tasks.collect(), cost(logits), |row: &mut Vec<A>, ((losses, targets), logits)| {
            for ((loss, target), logits) in losses.iter_mut().zip(targets).zip(logits.outer_iter()) {
                let Some(class) = *target else { continue };
                row.clear();
                row.extend(logits.iter().copied());
                (*loss, _) = cross_entropy_row(row, class, self.label_smoothing);
            }
        });
        Ok(total(&losses) * scale)
    }

    /// Computes the loss of `logits` (rows, classes) with one target a row, and its gradient, which takes the place of the logits in memory.
    ///
    /// # Errors
    /// Returns an error as [`loss`](Self::loss) does.
    pub fn loss_and_gradient<A: Scalar>(&self, logits: Array2<A>, targets: &[Option<usize>]) -> Result<(f64, Array2<A>)> {
        let scale = self.check("CrossEntropy::loss_and_gradient", &logits, targets)?;
        let mut gradient = if logits.is_standard_layout() {
            logits
        } else {
            logits.as_standard_layout().into_owned()
        };
        let (classes, cost) = (gradient.ncols(), cost(&gradient));
        let mut losses = vec![0.0; targets.len()];
        if let Some(values) = gradient.as_slice_mut()
            && classes > 0
        {
            let tasks = losses
                .chunks_mut(ROWS)
                .zip(targets.chunks(ROWS))
                .zip(values.chunks_mut(ROWS * classes));
            parallel::for_each(tasks.collect(), cost, |((losses, targets), rows)| {
                for ((loss, target), row) in losses.iter_mut().zip(targets).zip(rows.chunks_exact_mut(classes)) {
                    *loss = self.row(row, *target, scale);
                }
            });
        }
        Ok((total(&losses) * scale, gradient))
    }

    /// The loss of a row of logits, which becomes `scale` times the loss's gradient.
    fn row<A: Scalar>(&self, row: &mut [A], target: Option<usize>, scale: f64) -> f64 {
        let Some(class) = target else {
            row.fill(A::zero());
            return 0.0;
        };
        let (loss, sum) = cross_entropy_row(row, class, self.label_smoothing);
        cross_entropy_backward_row(row, sum, class, self.label_smoothing, scale);
        loss
    }

    /// The factor of each row's loss.
    fn check<A>(&self, operation: &'static str, logits: &ArrayRef2<A>, targets: &[Option<usize>]) -> Result<f64> {
        if !(0.0..=1.0).contains(&self.label_smoothing) {
            return Err(Error::config("label_smoothing", self.label_smoothing, "it must be from 0 to 1"));
        }
        Ok(self.reduction.scale(check_targets(operation, logits, targets)?))
    }
}

/// The number of rows that have a target; an error unless each row may have one and each is a class.
pub(super) fn check_targets<A>(operation: &'static str, logits: &ArrayRef2<A>, targets: &[Option<usize>]) -> Result<usize> {
    let (rows, classes) = logits.dim();
    if targets.len() != rows {
        return Err(Error::shape(operation, "targets", format!("({rows}), one a row"), &[targets.len()]));
    }
    let mut count = 0;
    for (row, target) in targets.iter().enumerate() {
        match *target {
            Some(class) if class >= classes => return Err(Error::Class { class, row, classes }),
            Some(_) => count += 1,
            None => {}
        }
    }
    Ok(count)
}

fn cost<A>(logits: &ArrayRef2<A>) -> usize {
    parallel::cost(&[logits.nrows(), logits.ncols(), EXPONENTIAL])
}

/// The squared difference of a prediction from its target, as PyTorch's `mse_loss` defines it: (p − t)², averaged or added over all elements.
///
/// Computed and added in `f64`. The loss of no elements is 0 (PyTorch's mean is NaN).
///
/// ```
/// use linformer::ndarray::array;
/// use linformer::training::MeanSquaredError;
///
/// let (loss, gradient) = MeanSquaredError::new().loss_and_gradient(&array![1.0, 3.0], &array![1.0, 1.0])?;
/// assert_eq!((loss, gradient), (2.0, array![0.0, 2.0]));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct MeanSquaredError {
    /// How the elements' losses become one.
    pub reduction: Reduction,
}

impl MeanSquaredError {
    /// Creates the mean loss.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets [`MeanSquaredError::reduction`].
        with_reduction => reduction: Reduction,
    }

    /// Computes the loss of a `prediction` of any shape.
    ///
    /// # Errors
    /// Returns an error if the target has another shape.
    pub fn loss<A: Scalar, D: Dimension>(&self, prediction: &ArrayRef<A, D>, target: &ArrayRef<A, D>) -> Result<f64> {
        check_shape("MeanSquaredError::loss", prediction, target)?;
        let mut sum = 0.0;
        ndarray::Zip::from(prediction).and(target).for_each(|prediction, target| {
            sum += (prediction.widen() - target.widen()).powi(2);
        });
        Ok(sum * self.reduction.scale(prediction.len()))
    }

    /// Computes the loss of a `prediction` of any shape, and its gradient, of the same shape.
    ///
    /// # Errors
    /// Returns an error if the target has another shape.
    pub fn loss_and_gradient<A: Scalar, D: Dimension>(
        &self,
        prediction: &ArrayRef<A, D>,
        target: &ArrayRef<A, D>,
    ) -> Result<(f64, Array<A, D>)> {
        check_shape("MeanSquaredError::loss_and_gradient", prediction, target)?;
        let loss = self.loss(prediction, target)?;
        let factor = 2.0 * self.reduction.scale(prediction.len());
        let gradient = ndarray::Zip::from(prediction)
            .and(target)
            .map_collect(|prediction, target| A::cast(factor * (prediction.widen() - target.widen())));
        Ok((loss, gradient))
    }
}

fn check_shape<A, D: Dimension>(operation: &'static str, prediction: &ArrayRef<A, D>, target: &ArrayRef<A, D>) -> Result<()> {
    if prediction.shape() == target.shape() {
        return Ok(());
    }
    let expected = format!("{:?}, the prediction's", prediction.shape());
    Err(Error::shape(operation, "target", expected, target.shape()))
}
/// Their sum; that of nothing is 0, which `Iterator::sum` takes for −0.
fn total(losses: &[f64]) -> f64 {
    losses.iter().fold(0.0, |sum, loss| sum + loss)
}
