//! Whole models: tokens or features in, scores out.

mod body;
mod classifier;
mod classifier_training;
mod decoder_language_model;
mod decoding;
mod encoder_decoder;
mod encoder_decoder_state;
mod encoder_decoder_training;
mod ends;
mod generation;
mod head;
mod language_model;
mod part_pooling;
mod sampling;
mod training;
mod translation;

pub use classifier::Classifier;
pub use classifier_training::ClassifierCache;
pub use decoder_language_model::DecoderLanguageModel;
pub use decoding::CausalState;
pub use encoder_decoder::{EncoderDecoder, PairBatch, TokenPairs};
pub use encoder_decoder_state::EncoderDecoderState;
pub use encoder_decoder_training::{DecoderLanguageModelCache, EncoderDecoderCache};
pub use generation::Generation;
pub use head::Head;
pub use language_model::LanguageModel;
pub use training::LanguageModelCache;
pub use translation::Translation;

pub(crate) use body::{Body, select, start};
pub(crate) use classifier::Input;
pub(crate) use part_pooling::pool_part;
