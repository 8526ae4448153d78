//! Files.

mod crash;
mod foreign;
mod metadata;
mod models;
pub mod parts;
pub mod safetensors;
mod saving;
