//! Checks of the number that norms add to the variance, which not every element type can hold.

use super::{
    ClassifierConfig, ClassifierInput, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, LanguageModelConfig,
};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// An error unless `eps` is 0 or a normal number of the element type: one below it would be rounded to 0, or lose its digits.
pub(crate) fn check_eps<A: Scalar>(eps: f64) -> Result<()> {
    let as_added = A::cast(eps);
    if eps == 0.0 || (as_added >= A::min_positive_value() && as_added.is_finite()) {
        return Ok(());
    }
    let least = A::min_positive_value();
    let reason = format!(
        "it must be 0, or finite and at least {least:e}, the smallest normal number of {}",
        A::NAME
    );
    Err(Error::config("norm_eps", eps, reason))
}

/// Configurations of models with norms.
pub(crate) trait HasNorms {
    /// Checks that this describes a model of elements of type A.
    fn check_for<A: Scalar>(&self) -> Result<()>;
}

macro_rules! has_norms {
    ($($config:ty: |$own:ident| $check:expr;)*) => {
        $(
            impl HasNorms for $config {
                fn check_for<A: Scalar>(&self) -> Result<()> {
                    self.check()?;
                    let $own = self;
                    $check
                }
            }
        )*
    };
}

has_norms! {
    EncoderConfig: |config| check_eps::<A>(config.norm_eps);
    DecoderConfig: |config| check_eps::<A>(config.norm_eps);
    LanguageModelConfig: |config| check_eps::<A>(config.encoder.norm_eps);
    DecoderLanguageModelConfig: |config| check_eps::<A>(config.decoder.norm_eps);
    EncoderDecoderConfig: |config| config.source.check_for::<A>().and_then(|()| config.target.check_for::<A>());
    ClassifierConfig: |config| match &config.input {
        ClassifierInput::Tokens(model) => model.check_for::<A>(),
        ClassifierInput::Features { encoder, .. } => encoder.check_for::<A>(),
    };
}
