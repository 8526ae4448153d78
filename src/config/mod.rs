//! The configurations of layers and models: plain data with public fields, built with `new` and `with_…`, checked by every constructor.

mod attention;
mod attention_kind;
mod causal;
mod classifier;
mod decoder;
mod encoder;
mod generation;
mod local_global;
mod model;
mod norms;
mod patches;
mod position;
mod projection;
mod training;
mod translation;

pub use attention::{AttentionConfig, BiasPlace, LinformerConfig};
pub use attention_kind::AttentionKind;
pub use causal::{BlockWeights, CausalConfig, SummarySoftmax};
pub use classifier::{ClassifierConfig, ClassifierInput, Pooling};
pub use decoder::{DecoderConfig, DecoderLanguageModelConfig, EncoderDecoderConfig};
pub use encoder::{EncoderConfig, FeedForwardConfig, NormPlacement};
pub use generation::{ContextOverflow, GenerationConfig};
pub use local_global::{LocalGlobalConfig, PoolingQuery};
pub use model::{HeadKind, LanguageModelConfig};
pub use patches::PatchesConfig;
pub use position::{PositionKind, SinusoidLayout};
pub use projection::{Convolution, ConvolutionKernel, ConvolutionTail, ProjectionConfig, ProjectionKind, Sharing};
pub use training::TrainingPass;
pub use translation::TranslationConfig;

pub(crate) use norms::{HasNorms, check_eps};
pub(crate) use position::{LearnedPositions, check_position, default_position, longest};

use crate::error::{Error, Result};

/// Writes `with_…` methods that set one field each; those of options take the value or the option. A place that is not a path of fields is in
/// parentheses.
macro_rules! setters {
    () => {};
    ($(#[$doc:meta])* $name:ident => ($($place:tt)+): Option<$type:ty> $(, $($rest:tt)*)?) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, value: impl Into<Option<$type>>) -> Self {
            self.$($place)+ = value.into();
            self
        }

        $($crate::config::setters! { $($rest)* })?
    };
    ($(#[$doc:meta])* $name:ident => ($($place:tt)+): $type:ty $(, $($rest:tt)*)?) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(mut self, value: $type) -> Self {
            self.$($place)+ = value;
            self
        }

        $($crate::config::setters! { $($rest)* })?
    };
    ($(#[$doc:meta])* $name:ident => $($field:ident).+: $($rest:tt)+) => {
        $crate::config::setters! { $(#[$doc])* $name => ($($field).+): $($rest)+ }
    };
}
pub(crate) use setters;

/// An error unless a cache and gradients are of models of one configuration with the one that is asked to go back.
pub(crate) fn check_alike<C: PartialEq>(operation: &'static str, model: &C, cache: &C, gradients: &C) -> Result<()> {
    if cache == model && gradients == model {
        return Ok(());
    }
    Err(Error::argument(
        operation,
        "the cache or the gradients are of another configuration; pass the cache of this one's forward pass, and its zeros_like",
    ))
}

/// An error unless `value` is at least 1.
pub(crate) fn at_least_one(option: &'static str, value: usize) -> Result<()> {
    if value == 0 {
        return Err(Error::config(option, value, "it must be at least 1"));
    }
    Ok(())
}
