//! Files.

mod crash;
mod foreign;
mod models;
pub mod parts;
pub mod safetensors;
mod saving;
