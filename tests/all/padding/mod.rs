//! Padding is what the mask says, and reaches nothing.

mod gradients;
mod positions;
