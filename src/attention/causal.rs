//! Causal attention: no row sees what comes after it.

mod attend;
mod backward;
mod blockwise;
mod online;
mod state;
mod summaries;
mod visibility;

pub use blockwise::BlockwiseCausalAttention;

pub(crate) use attend::CausalContext;
pub(super) use online::{KeyPart, masked_scores, multiply_values};
pub(crate) use state::{KeyShape, KeyState, Summarized, step};
pub(crate) use summaries::draw_projections;
pub(crate) use visibility::{Span, Visibility};
