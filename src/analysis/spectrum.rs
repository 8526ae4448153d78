//! How many directions a map has.

use nalgebra::DMatrix;
use ndarray::ArrayView2;

use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// The singular values of an attention map, the largest first.
#[derive(Clone, Debug, PartialEq)]
pub struct Spectrum {
    values: Vec<f64>,
}

impl Spectrum {
    /// Returns the singular values of `map` (rows, columns), min(rows, columns) of them, computed in f64. The time grows with the cube of the smaller side:
    /// less than a second at 512.
    ///
    /// # Errors
    /// Returns an error if the map has no elements, or one that is not finite.
    pub fn of<A: Scalar>(map: ArrayView2<'_, A>) -> Result<Self> {
        const OPERATION: &str = "Spectrum::of";
        if map.is_empty() {
            return Err(Error::shape(OPERATION, "map", "(1 or more, 1 or more)", map.shape()));
        }
        if !map.iter().all(|value| value.is_finite()) {
            return Err(Error::argument(
                OPERATION,
                "the map has an element that is not finite; look for bad numbers in the model and its input",
            ));
        }
        let (rows, cols) = map.dim();
        // Numbers near the largest of f64 would overflow on the way.
        let largest = map.iter().fold(0.0, |largest: f64, value| largest.max(value.widen().abs()));
        let scale = if largest > 1.0 { largest } else { 1.0 };
        let matrix = DMatrix::from_fn(rows, cols, |i, j| map[[i, j]].widen() / scale);
        let mut values: Vec<f64> = matrix.singular_values().iter().map(|value| value * scale).collect();
        values.sort_by(|a, b| b.total_cmp(a));
        Ok(Self { values })
    }

    /// Returns the singular values, the largest first.
    pub fn values(&self) -> &[f64] {
        &self.values
    }

    /// Returns the sums of the first 1, 2, … singular values, as a share of all (paper, Figure 1): it rises to 1. All are 1 where the map is 0.
    pub fn cumulative(&self) -> Vec<f64> {
        let total: f64 = self.values.iter().sum();
        let mut sum = 0.0;
        self.values
            .iter()
            .map(|value| {
                sum += value;
                if total > 0.0 { (sum / total).min(1.0) } else { 1.0 }
            })
            .collect()
    }

    /// Returns how many of the largest singular values make up `share` of all, at least 1.
    ///
    /// # Errors
    /// Returns an error if the share is outside 0 to 1.
    pub fn rank_for(&self, share: f64) -> Result<usize> {
        if !(0.0..=1.0).contains(&share) {
            return Err(Error::argument(
                "Spectrum::rank_for",
                format!("the share is {share}, not from 0 to 1"),
            ));
        }
        // The last sum may miss 1 by a rounding error.
        let reached = self.cumulative().iter().position(|&sum| sum >= share - 1e-12);
        Ok(reached.map_or(self.values.len(), |index| index + 1))
    }
}
