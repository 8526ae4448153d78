//! What holds for every configuration.

mod decoders;
mod encoders;
