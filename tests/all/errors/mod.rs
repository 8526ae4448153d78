//! Bad input of every kind is a typed error that says what to do, and changes nothing. (What ranks learn of each other's errors is a
//! matter of `distributed`; numbers that are not finite are in `numbers` and `training::range`.)

#[cfg(feature = "analysis")]
mod analysis;
mod any_input;
mod attention;
mod bad_input;
#[cfg(feature = "checkpoint")]
mod checkpoint_refusals;
mod decoders;
#[cfg(feature = "checkpoint")]
mod foreign_options;
mod generation;
#[cfg(feature = "checkpoint")]
mod hostile_options;
mod layers;
mod messages;
mod mismatched;
#[cfg(feature = "checkpoint")]
mod other_files;
#[cfg(feature = "checkpoint")]
mod safetensors;
mod to_local_global;
mod training;
#[cfg(feature = "checkpoint")]
mod training_files;
