//! Numbers at the ends of their type's range.

mod finite_models;
mod magnitudes;
