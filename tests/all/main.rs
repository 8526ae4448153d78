//! The tests of the public interface, by subject: one crate, so that the generic functions of the library are compiled for the tests once.
//!
//! `cargo test --test all errors::` runs one subject; `tests/workspace.rs`, which counts allocations, is a crate of its own.

#![allow(unreachable_pub)] // a test's modules have no users outside

#[cfg(feature = "analysis")]
mod analysis;
mod attention;
#[cfg(feature = "checkpoint")]
mod checkpoint;
mod common;
#[cfg(feature = "serde")]
mod configurations;
mod custom_models;
mod distributed;
mod errors;
mod fingerprints;
mod generation;
#[cfg(feature = "checkpoint")]
mod goldens;
mod gradients;
mod initial_numbers;
mod layers;
mod long_sums;
mod numbers;
mod padding;
mod properties;
mod public_names;
mod ragged;
mod threads;
mod token_types;
mod training;
mod warm_start;
