//! Texts that are written token by token.

pub mod language_models;
pub mod translation;
