//! Training: losses, optimisers, schedules, masking of tokens, and files to resume from.

mod losses;
mod masking;

pub use crate::initialization::Step;
pub use losses::{CrossEntropy, MeanSquaredError, Reduction};
pub use masking::{MaskedTokens, TokenMasking};
