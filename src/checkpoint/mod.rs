//! Saving and loading: the crate's own files, and those of the PyTorch implementations.

mod assign;
pub mod fairseq;
mod foreign;
pub mod lucidrains;
mod tensors;

pub use tensors::Tensors;
