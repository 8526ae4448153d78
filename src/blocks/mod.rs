//! Attention and feed-forward on a residual stream.

mod attention;
mod decoder;
mod encoder;
mod feed_forward;
mod stack;

pub use attention::Attention;
pub use decoder::{CompressedSource, Decoder, DecoderBlock, DecoderCache};
pub use encoder::{Encoder, EncoderBlock, EncoderBlockCache, EncoderCache};
pub use feed_forward::FeedForwardBlock;

pub(crate) use encoder::EncoderState;
