//! Training of decoders of tokens, and of encoder–decoders.

use ndarray::{Array3, ArrayRef2, ArrayRef3};

use super::decoder_language_model::DecoderLanguageModel;
use super::encoder_decoder::{EncoderDecoder, TokenPairs};
use super::ends::EndsCache;
use super::training::{HeadCache, LanguageModelCache};
use crate::attention::PaddingMask;
use crate::blocks::DecoderCache;
use crate::config::{DecoderLanguageModelConfig, TrainingPass, check_alike};
use crate::error::{Error, Result};
use crate::layers::Start;
use crate::scalar::Scalar;

/// What the backward pass of a decoder of tokens needs.
#[derive(Clone, Debug)]
pub struct DecoderLanguageModelCache<A = f32> {
    config: DecoderLanguageModelConfig,
    ends: EndsCache<A>,
    decoder: DecoderCache<A>,
    /// Before the product out of the decoder's width.
    decoded: Option<Array3<A>>,
    head: Option<HeadCache<A>>,
    output: (usize, usize, usize),
}

impl<A: Scalar> DecoderLanguageModel<A> {
    /// [`forward`](Self::forward) with the pass's dropout, and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a rate below 0, or of 1 or more.
    pub fn forward_train(
        &self,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
        source: Array3<A>,
        source_mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, DecoderLanguageModelCache<A>)> {
        self.train_after(0, (tokens, mask), (source, source_mask), pass)
    }

    /// [`forward_train`](Self::forward_train) in a model that has numbered other layers below `first_layer`.
    fn train_after(
        &self,
        first_layer: usize,
        (tokens, mask): (&ArrayRef2<usize>, Option<&PaddingMask>),
        source: (Array3<A>, Option<&PaddingMask>),
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, DecoderLanguageModelCache<A>)> {
        PaddingMask::check(mask, "DecoderLanguageModel::forward_train", tokens.nrows(), tokens.ncols())?;
        let (x, ends) = self.ends().train_in(Start::default(), tokens, mask, pass, first_layer)?;
        let (x, decoder) = self.decoder().train_after(first_layer, (x, mask), source, pass)?;
        let (features, decoded) = self.ends().train_out(x)?;
        let (output, head) = match self.head() {
            Some(head) => {
                let (scores, cache) = head.train(features, self.embedding().weight())?;
                (scores, Some(cache))
            }
            None => (features, None),
        };
        let cache = DecoderLanguageModelCache {
            config: self.config().clone(),
            ends,
            decoder,
            decoded,
            head,
            output: output.dim(),
        };
        Ok((output, cache))
    }

    /// The gradient of the source, given `dy` of the output of [`forward_train`](Self::forward_train). Those of the parameters are added to
    /// `gradients`.
    ///
    /// # Errors
    /// `dy` of another shape than the output, a cache or gradients of a model of another configuration.
    pub fn backward(&self, cache: DecoderLanguageModelCache<A>, dy: &ArrayRef3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "DecoderLanguageModel::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        if dy.dim() != cache.output {
            let expected = format!("{:?}", cache.output);
            return Err(Error::shape(OPERATION, "dy", expected, dy.shape()));
        }
        let mut dy = dy.as_standard_layout().into_owned();
        let pass = *cache.decoder.pass();
        let (own_ends, own_decoder, own_head) = gradients.parts_mut();
        if let (Some(head), Some(head_cache), Some(own)) = (self.head(), &cache.head, own_head) {
            dy = head.backward(head_cache, &dy, self.embedding().weight(), own, own_ends.embedding.weight_mut());
        }
        dy = self.ends().backward_out(cache.decoded.as_ref(), dy, own_ends);
        let (dy, dsource) = self.decoder().backward(cache.decoder, dy, own_decoder)?;
        self.ends().backward_in(Start::default(), &cache.ends, dy, &pass, own_ends);
        Ok(dsource)
    }
}

/// What an encoder–decoder's backward pass needs.
#[derive(Clone, Debug)]
pub struct EncoderDecoderCache<A = f32> {
    source: LanguageModelCache<A>,
    target: DecoderLanguageModelCache<A>,
}

impl<A: Scalar> EncoderDecoder<A> {
    /// [`forward`](Self::forward) with the pass's dropout, and what [`backward`](Self::backward) needs. The decoder draws apart from the encoder.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a rate below 0, or of 1 or more.
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
    /// `dy` of another shape than the output, a cache or gradients of a model of another configuration.
    pub fn backward(&self, cache: EncoderDecoderCache<A>, dy: &ArrayRef3<A>, gradients: &mut Self) -> Result<()> {
        const OPERATION: &str = "EncoderDecoder::backward";
        // Both before anything is added to either.
        check_alike(OPERATION, self.source().config(), &cache.source.config, gradients.source().config())?;
        check_alike(OPERATION, self.target().config(), &cache.target.config, gradients.target().config())?;
        let (own_source, own_target) = gradients.parts_mut();
        let dsource = self.target().backward(cache.target, dy, own_target)?;
        self.source().backward(cache.source, &dsource, own_source)
    }
}
