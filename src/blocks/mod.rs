//! Attention and feed-forward on a residual stream.

mod attention;
mod causal_block;
mod decoder;
mod decoder_block;
mod decoder_decoding;
mod decoder_training;
mod decoding;
mod encoder;
mod encoder_block;
mod encoder_training;
mod feed_forward_training;
mod kept;
mod training;

pub use attention::Attention;
pub use decoder::{CompressedSource, Decoder};
pub use decoder_block::DecoderBlock;
pub use decoder_training::DecoderCache;
pub use encoder::Encoder;
pub use encoder_block::{EncoderBlock, FeedForwardBlock};
pub use encoder_training::EncoderCache;

pub(crate) use decoding::EncoderState;
