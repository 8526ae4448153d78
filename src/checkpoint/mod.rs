//! Saving and loading: the crate's own files, and those of the PyTorch implementations.

mod assign;
mod codec;
mod columns;
mod contents;
mod file;
mod foreign;
mod header;
mod native;
mod size;
mod tensors;

pub mod fairseq;
pub mod lucidrains;
pub mod rifath95;
pub mod tatp22;

pub use native::Checkpoint;
pub use tensors::Tensors;

// What training saves and loads goes the same way.
pub(crate) use assign::assign;
pub(crate) use codec::{decode, encode, native_dtype};
pub(crate) use columns::Opened;
pub(crate) use contents::Contents;
pub(crate) use header::malformed;
pub(crate) use native::{Stored, described, description_of};
