//! Saving and loading: the crate's own files, and those of the PyTorch implementations.

mod assign;
pub mod fairseq;
mod foreign;
pub mod lucidrains;
pub mod tatp22;
mod tensors;

pub use tensors::Tensors;
