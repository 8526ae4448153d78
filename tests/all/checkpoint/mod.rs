//! Files.

mod crash;
mod foreign;
mod models;
mod other_files;
mod safetensors;
mod saving;
