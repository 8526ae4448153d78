//! Training of encoder–decoders.

use ndarray::Array3;

use super::decoder::DecoderLanguageModelCache;
use super::{EncoderDecoder, TokenPairs};
use crate::config::{TrainingPass, check_alike};
use crate::error::Result;
use crate::models::language_model::LanguageModelCache;
use crate::scalar::Scalar;

/// Everything that an encoder–decoder's backward pass needs.
#[derive(Clone, Debug)]
pub struct EncoderDecoderCache<A = f32> {
    source: LanguageModelCache<A>,
    target: DecoderLanguageModelCache<A>,
}

impl<A: Scalar> EncoderDecoder<A> {
    /// Runs [`forward`](Self::forward) with the pass's dropout; returns the scores and what [`backward`](Self::backward) needs. The decoder draws
    /// apart from the encoder.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if a rate is below 0 or not below 1.
    pub fn forward_train(&self, pairs: &TokenPairs<'_>, pass: &TrainingPass) -> Result<(Array3<A>, EncoderDecoderCache<A>)> {
        let TokenPairs {
            source,
            source_mask,
            target,
            target_mask,
        } = *pairs;
        let (features, source) = self.source().forward_train(source, None, source_mask, pass)?;
        // Without blocks too, the source's embedding has dropped as layer 0.
        let first_layer = self.config().source.encoder.depth.max(1);
        let (scores, target) = self
            .target()
            .train_after(first_layer, (target, target_mask), (features, source_mask), pass)?;
        Ok((scores, EncoderDecoderCache { source, target }))
    }

    /// Adds the gradients of all parameters to `gradients`, given `dy` of the output of [`forward_train`](Self::forward_train).
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a model of another configuration.
    pub fn backward(&self, cache: EncoderDecoderCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<()> {
        const OPERATION: &str = "EncoderDecoder::backward";
        // Both before anything is added to either.
        check_alike(OPERATION, self.source().config(), &cache.source.config, gradients.source().config())?;
        check_alike(OPERATION, self.target().config(), &cache.target.config, gradients.target().config())?;
        let (own_source, own_target) = gradients.parts_mut();
        let dsource = self.target().backward(cache.target, dy, own_target)?;
        self.source().backward(cache.source, dsource, own_source)
    }
}
