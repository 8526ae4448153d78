//! Whole models: tokens or features in, scores out.

mod backbone;
mod classifier;
mod continued;
mod embeddings;
mod encoder_decoder;
mod head;
mod language_model;
mod typed_tokens;

pub use classifier::{Classifier, ClassifierCache, Sequences};
pub use encoder_decoder::{
    DecoderLanguageModel, DecoderLanguageModelCache, EncoderDecoder, EncoderDecoderCache, EncoderDecoderState, TokenPairs, Translation,
};
pub use head::LanguageModelHead;
pub use language_model::{Generation, LanguageModel, LanguageModelCache, LanguageModelState};

pub(crate) use backbone::{Backbone, select, start};
pub(crate) use classifier::{Input, pool, pool_backward, pool_shard};
pub(crate) use continued::padded;
pub(crate) use head::highest;
pub(crate) use typed_tokens::TypedTokens;
