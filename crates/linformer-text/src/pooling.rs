//! One vector of many.

use linformer::ndarray::{Array1, ArrayView2, Zip};
use serde::{Deserialize, Serialize};

/// How the vectors of a text's tokens, special ones included, become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Pooling {
    /// Their mean. The default, as in the Python package `sentence-transformers`.
    #[default]
    Mean,
    /// The first, that of `[CLS]` or `<s>`.
    Cls,
    /// The largest number of each column.
    Max,
    /// Their sum divided by the square root of their number.
    MeanSqrtLen,
    /// The last.
    LastToken,
}

impl Pooling {
    /// The vector of these rows of `features` (tokens, dim), in the order of the rows: the same rows give the same bits, whatever else there is.
    pub(crate) fn pool(self, features: ArrayView2<'_, f32>, rows: &[usize]) -> Array1<f32> {
        let row = |index: Option<&usize>| index.map_or_else(|| Array1::zeros(features.ncols()), |&index| features.row(index).to_owned());
        match self {
            Self::Mean => scaled_sum(features, rows, 1.0 / rows.len().max(1) as f64),
            Self::MeanSqrtLen => scaled_sum(features, rows, 1.0 / (rows.len().max(1) as f64).sqrt()),
            Self::Cls => row(rows.first()),
            Self::LastToken => row(rows.last()),
            Self::Max => rows.iter().skip(1).fold(row(rows.first()), |mut largest, &index| {
                largest.zip_mut_with(&features.row(index), |largest, &value| *largest = largest.max(value));
                largest
            }),
        }
    }

    /// Whether the vector of some of a text's tokens means what that of all of them does.
    pub(crate) fn is_of_any_tokens(self) -> bool {
        matches!(self, Self::Mean | Self::MeanSqrtLen | Self::Max)
    }
}

/// The sum of rows times `scale`, added up in f64.
fn scaled_sum(features: ArrayView2<'_, f32>, rows: &[usize], scale: f64) -> Array1<f32> {
    let mut sum = Array1::<f64>::zeros(features.ncols());
    for &index in rows {
        Zip::from(&mut sum)
            .and(features.row(index))
            .for_each(|sum, &value| *sum += f64::from(value));
    }
    sum.mapv(|sum| rounded(sum * scale))
}

/// The mean of vectors with weights, in their order.
pub(crate) fn weighted_mean(vectors: &[(Array1<f32>, usize)]) -> Array1<f32> {
    let dim = vectors.first().map_or(0, |(vector, _)| vector.len());
    let mut sum = Array1::<f64>::zeros(dim);
    for (vector, weight) in vectors {
        sum.zip_mut_with(vector, |sum, &value| *sum += *weight as f64 * f64::from(value));
    }
    let total: usize = vectors.iter().map(|(_, weight)| weight).sum();
    sum.mapv(|sum| rounded(sum / total.max(1) as f64))
}

#[allow(clippy::cast_possible_truncation)]
pub(crate) fn rounded(value: f64) -> f32 {
    value as f32
}
