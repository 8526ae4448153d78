//! Training: losses, optimisers, schedules, masking of tokens, and files to resume from.

pub use crate::initialization::Step;
