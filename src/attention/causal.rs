//! Causal attention: no row sees what comes after it.

mod attend;
mod backward;
mod blockwise;
mod exact;
mod online;
mod sight;
mod state;
mod summaries;

pub use blockwise::BlockwiseCausalAttention;

pub(crate) use attend::CausalContext;
pub(crate) use sight::{Reach, Sight};
pub(crate) use state::{LayerState, StateShape, Summarised, step};
pub(crate) use summaries::draw_projections;
