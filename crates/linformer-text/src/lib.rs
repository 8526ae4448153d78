#![doc = include_str!("../README.md")]
// An `expect` says why it cannot fail; everything that can fail is an error.
#![cfg_attr(not(test), warn(clippy::unwrap_used, clippy::panic, clippy::todo, clippy::unimplemented))]

mod batch;
mod convert;
mod encoder;
mod error;
mod head;
mod labels;
mod model;
mod modules;
mod options;
mod pairs;
mod pooling;
mod search;
mod source;
mod tokenizer;
mod tokens;

pub use convert::{Agreement, DistillationOptions, DistillationProgress, Distilled, Fidelity};
pub use encoder::TextEncoder;
pub use error::{Error, Result};
pub use labels::{MaskedLanguageModel, TokenClassifier};
pub use linformer::analysis::Plan;
pub use linformer::ndarray;
pub use options::{EmbedOptions, LongText, Progress};
pub use pairs::PairScorer;
pub use pooling::Pooling;
pub use search::{similarity, top_k};
pub use tokenizer::Tokenizer;
pub use tokens::Tokens;
