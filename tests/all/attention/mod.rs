//! Exact, causal and pooled attention against their definitions.

mod causal;
mod exact;
mod from_exact;
mod local_global;
mod pooling;
mod segments;
pub mod to_local_global;
