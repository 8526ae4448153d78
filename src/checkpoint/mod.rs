//! Saving and loading: the crate's own files, those of the PyTorch implementations, and folders of the model hub ([`bert`]).
//!
//! Loaders of foreign models take their tensors by reference or by value. By value, each is freed as soon as the model has its numbers, so that
//! memory holds the model once instead of twice.

mod assign;
mod codec;
mod columns;
mod contents;
mod file;
mod foreign;
mod header;
mod index;
mod kind;
mod metadata;
mod native;
mod parameters;
mod prefix;
mod size;
mod source;
mod tensors;
mod unknown;

pub mod bert;
pub mod fairseq;
pub mod lucidrains;
pub mod rifath95;
pub mod tatp22;

pub use metadata::read_metadata;
pub use native::Checkpoint;
pub use parameters::{load_matching, load_parameters, save_parameters};
pub use tensors::Tensors;

// Training saves and loads through these, too.
pub(crate) use assign::assign;
pub(crate) use codec::{decode, encode, native_dtype};
pub(crate) use columns::Opened;
pub(crate) use contents::Contents;
pub(crate) use header::malformed;
pub(crate) use metadata::{check_key, own_entries};
pub(crate) use native::{RUN, Stored, described, description_of, description_of_any};
pub(crate) use unknown::parse_value;
