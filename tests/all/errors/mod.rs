//! Bad input of every kind is a typed error that says what to do, and changes nothing.

mod any_input;
mod bad_input;
#[cfg(feature = "checkpoint")]
mod checkpoint_refusals;
#[cfg(feature = "checkpoint")]
mod foreign_options;
#[cfg(feature = "checkpoint")]
mod hostile_options;
mod messages;
mod mismatched;
