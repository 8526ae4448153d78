//! Backward passes against central differences.

mod decoders;
mod encoders;
mod layers;
mod patches;
