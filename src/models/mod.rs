//! Whole models: tokens or features in, scores out.

mod body;
mod classifier;
mod head;
mod language_model;

pub use classifier::Classifier;
pub use head::Head;
pub use language_model::LanguageModel;
