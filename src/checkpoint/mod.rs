//! Saving and loading: the crate's own files, and those of the PyTorch implementations.

mod assign;
mod codec;
mod contents;
mod file;
mod foreign;
mod header;
mod tensors;

pub use tensors::Tensors;
