//! What comes after pooling.

use linformer::Linear;
use linformer::ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::pooling::rounded;

/// The smallest length that a vector is divided by, as in PyTorch's `normalize`.
const LEAST_LENGTH: f64 = 1e-12;

/// A step from vector to vector.
#[derive(Clone, Debug)]
pub(crate) enum Module {
    /// The vector divided by its length.
    Normalize,
    /// A product, and an activation.
    Dense { linear: Box<Linear<f32>>, activation: Activation },
}

/// The activation of a dense module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Activation {
    Identity,
    Tanh,
}

/// A module as files of this crate have it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum StoredModule {
    Normalize,
    Dense {
        weight: Vec<Vec<f32>>,
        bias: Option<Vec<f32>>,
        activation: Activation,
    },
}

impl Module {
    pub(crate) fn dense(linear: Linear<f32>, activation: Activation) -> Self {
        Self::Dense {
            linear: Box::new(linear),
            activation,
        }
    }

    /// The module's vector of one.
    pub(crate) fn apply(&self, vector: Array1<f32>) -> Result<Array1<f32>> {
        match self {
            Self::Normalize => Ok(normalized(vector)),
            Self::Dense { linear, activation } => {
                // One row by itself: a product of many rows may add up in another order.
                let rows = vector.insert_axis(Axis(0)).insert_axis(Axis(0));
                let product = linear.forward(&rows)?.index_axis_move(Axis(0), 0).index_axis_move(Axis(0), 0);
                Ok(match activation {
                    Activation::Identity => product,
                    Activation::Tanh => product.mapv_into(libm::tanhf),
                })
            }
        }
    }

    /// Whether all its numbers are finite.
    pub(crate) fn is_finite(&self) -> bool {
        match self {
            Self::Normalize => true,
            Self::Dense { linear, .. } => linear
                .weight()
                .iter()
                .chain(linear.bias().iter().flatten())
                .all(|value| value.is_finite()),
        }
    }

    /// The width after the module, given that before.
    pub(crate) fn width(&self, before: usize) -> Result<usize> {
        match self {
            Self::Normalize => Ok(before),
            Self::Dense { linear, .. } => {
                let (after, expected) = linear.weight().dim();
                if expected != before {
                    let reason = format!("a Dense module takes vectors of {expected} numbers, but is given those of {before}");
                    return Err(Error::argument("TextEncoder", reason));
                }
                Ok(after)
            }
        }
    }

    pub(crate) fn stored(&self) -> StoredModule {
        match self {
            Self::Normalize => StoredModule::Normalize,
            Self::Dense { linear, activation } => StoredModule::Dense {
                weight: linear.weight().outer_iter().map(|row| row.to_vec()).collect(),
                bias: linear.bias().map(|bias| bias.to_vec()),
                activation: *activation,
            },
        }
    }

    pub(crate) fn from_stored(stored: StoredModule) -> Result<Self> {
        match stored {
            StoredModule::Normalize => Ok(Self::Normalize),
            StoredModule::Dense { weight, bias, activation } => {
                let shape = (weight.len(), weight.first().map_or(0, Vec::len));
                let weight = Array2::from_shape_vec(shape, weight.concat())
                    .map_err(|_| Error::argument("TextEncoder::open", "the rows of a Dense module's weight differ in length"))?;
                Ok(Self::dense(Linear::from_parts(weight, bias.map(Array1::from))?, activation))
            }
        }
    }
}

/// The vector divided by its length, which is added up in f64.
pub(crate) fn normalized(vector: Array1<f32>) -> Array1<f32> {
    let squares: f64 = vector.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
    let length = squares.sqrt();
    // Not `max`, which would lose NaN.
    let length = if length < LEAST_LENGTH { LEAST_LENGTH } else { length };
    vector.mapv_into(|value| rounded(f64::from(value) / length))
}
