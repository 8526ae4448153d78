//! Saving and loading: the crate's own files, and those of the PyTorch implementations.

mod assign;
mod codec;
mod contents;
pub mod fairseq;
mod file;
mod foreign;
mod header;
pub mod lucidrains;
mod tensors;

pub use tensors::Tensors;
