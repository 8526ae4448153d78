//! Texts that are written token by token.

#[cfg(feature = "checkpoint")]
mod files;
pub mod language_models;
mod refusals;
pub mod translation;
