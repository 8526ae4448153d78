//! Texts that are written token by token.

mod language_models;
mod translation;
