//! Exact and causal attention against their definitions.

mod causal;
mod exact;
mod from_exact;
mod local_global;
mod segments;
