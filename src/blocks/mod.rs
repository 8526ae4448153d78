//! Attention and feed-forward on a residual stream.

mod attention;
mod causal_block;
mod decoder;
mod encoder;
mod feed_forward;
mod stack;

pub use attention::Attention;
pub use decoder::{CompressedSource, Decoder, DecoderBlock, DecoderCache};
pub use encoder::{Encoder, EncoderBlock, EncoderCache, FeedForwardBlock};

pub(crate) use encoder::EncoderState;
