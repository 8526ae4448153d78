//! Causal attention: no row sees what comes after it.

mod attend;
mod backward;
mod exact;
mod online;
mod sight;

pub(crate) use attend::CausalContext;
pub(crate) use sight::{Reach, Sight};
