//! Losses, optimizers, masking and resuming: against PyTorch where it has the same, and for what is promised besides.
#![allow(clippy::float_cmp)] // what is compared so is exact

mod accuracy;
mod distillation;
mod epochs;
mod losses;
pub mod masking;
pub mod optimizers;
mod range;
#[cfg(feature = "checkpoint")]
pub mod resume;
mod trainer;

use linformer::ndarray::{Array1, Array2};
use serde_json::Value;

fn fixtures() -> Value {
    serde_json::from_str(include_str!("../../fixtures/training/pytorch.json")).unwrap()
}

fn vector(value: &Value) -> Array1<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn matrix(value: &Value) -> Array2<f64> {
    let rows: Vec<Array1<f64>> = value.as_array().unwrap().iter().map(vector).collect();
    Array2::from_shape_fn((rows.len(), rows[0].len()), |(i, j)| rows[i][j])
}

fn close(a: impl IntoIterator<Item = f64>, b: impl IntoIterator<Item = f64>, tolerance: f64) -> bool {
    a.into_iter().zip(b).all(|(a, b)| (a - b).abs() <= tolerance)
}
