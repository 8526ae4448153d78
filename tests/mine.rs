//! Temporary.
#![allow(dead_code, unused_imports, unreachable_pub)]
#[path = "all/common/mod.rs"]
mod common;
#[path = "all/custom_models.rs"]
mod custom_models;
#[path = "all/errors/layers.rs"]
mod errors_layers;
#[path = "all/gradients/layers.rs"]
mod gradients_layers;
