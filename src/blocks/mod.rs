//! Attention and feed-forward on a residual stream.

mod attention;
mod encoder;
mod encoder_block;

pub use attention::Attention;
pub use encoder::Encoder;
pub use encoder_block::{EncoderBlock, FeedForwardBlock};
