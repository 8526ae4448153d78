//! Whole models: tokens or features in, scores out.

mod body;
mod classifier;
mod classifier_training;
mod head;
mod language_model;
mod training;

pub use classifier::Classifier;
pub use classifier_training::ClassifierCache;
pub use head::Head;
pub use language_model::LanguageModel;
pub use training::LanguageModelCache;
