//! Linformer.
#![cfg_attr(docsrs, feature(doc_cfg))]

mod error;
mod ops;
mod parallel;
mod scalar;

pub use error::{Error, Result};
pub use ndarray;
pub use ops::{Activation, batched_matmul};
pub use scalar::Scalar;
