//! Tokens and a source in, token scores out.

use ndarray::{Array3, ArrayRef2, ArrayRef3};

use crate::attention::PaddingMask;
use crate::blocks::{CompressedSource, Decoder, DecoderCache, EncoderState};
use crate::config::{DecoderLanguageModelConfig, HasNorms, TrainingPass, check_alike};
use crate::error::Result;
use crate::initialization::Streams;
use crate::layers::{Embedding, Start, check_gradient, contiguous};
use crate::models::embeddings::{Embeddings, EmbeddingsCache};
use crate::models::head::{HeadCache, HeadSizes, LanguageModelHead};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Tokens in, a score for each token of the vocabulary out, given a source of features: the half of an [`EncoderDecoder`](crate::EncoderDecoder)
/// that writes, or what writes to features from elsewhere.
///
/// ```
/// use linformer::{CausalConfig, DecoderConfig, DecoderLanguageModel, DecoderLanguageModelConfig, LinformerConfig};
/// use linformer::ndarray::{Array3, array};
///
/// let decoder = DecoderConfig::new(CausalConfig::new(32, 4, 64, 2), LinformerConfig::new(32, 4, 500, 16), 2);
/// let model = DecoderLanguageModel::<f32>::new(&DecoderLanguageModelConfig::new(10, decoder), 0)?;
/// let source = model.compress(&Array3::ones((1, 300, 32)), None)?;
/// assert_eq!(model.attend(&array![[1, 2, 3, 4]], None, &source)?.dim(), (1, 4, 10));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct DecoderLanguageModel<A = f32> {
    config: DecoderLanguageModelConfig,
    embeddings: Embeddings<A>,
    decoder: Decoder<A>,
    head: Option<LanguageModelHead<A>>,
}

parameters!(DecoderLanguageModel { decoder, head } flat { embeddings });

impl<A: Scalar> DecoderLanguageModel<A> {
    /// Creates a model with random weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no model.
    pub fn new(config: &DecoderLanguageModelConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    pub(crate) fn init(config: &DecoderLanguageModelConfig, streams: &mut Streams) -> Self {
        let (embeddings, decoder) = Embeddings::init_around(config, streams, |streams| Decoder::init(&config.decoder, streams));
        let width = config.effective_embedding_dim();
        let sizes = HeadSizes {
            features: width,
            embedding: width,
            vocab_size: config.vocab_size,
        };
        Self {
            config: config.clone(),
            embeddings,
            decoder,
            head: LanguageModelHead::init(config.head, sizes, config.decoder.norm_eps, streams),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &DecoderLanguageModelConfig {
        &self.config
    }

    /// Returns the blocks.
    pub fn decoder(&self) -> &Decoder<A> {
        &self.decoder
    }

    /// Returns the token vectors.
    pub fn embedding(&self) -> &Embedding<A> {
        &self.embeddings.embedding
    }

    /// Returns the head, which makes token scores, if the model has one.
    pub fn head(&self) -> Option<&LanguageModelHead<A>> {
        self.head.as_ref()
    }

    pub(super) fn embeddings(&self) -> &Embeddings<A> {
        &self.embeddings
    }

    #[allow(clippy::type_complexity)] // its fields
    pub(super) fn parts_mut(&mut self) -> (&mut Embeddings<A>, &mut Decoder<A>, Option<&mut LanguageModelHead<A>>) {
        (&mut self.embeddings, &mut self.decoder, self.head.as_mut())
    }

    /// Compresses a source (batch, n, dim) once for each block; see [`Decoder::compress`].
    ///
    /// # Errors
    /// Returns an error as [`Decoder::compress`] does.
    pub fn compress(&self, source: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<CompressedSource<A>> {
        self.decoder.compress(source, mask)
    }

    /// Computes token scores: (batch, m) token ids and their source (batch, n, dim) → (batch, m, `vocab_size`), or (batch, m, embedding width) features
    /// where the model has no head. Each mask belongs to its own sequence.
    ///
    /// # Errors
    /// Returns an error if a token is outside the vocabulary, if there are more tokens than positions, or as [`Decoder::forward`] does.
    pub fn forward(
        &self,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
        source: &ArrayRef3<A>,
        source_mask: Option<&PaddingMask>,
    ) -> Result<Array3<A>> {
        self.attend(tokens, mask, &self.compress(source, source_mask)?)
    }

    /// Runs [`forward`](Self::forward) with a source that was compressed before.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if another decoder compressed the source.
    pub fn attend(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>, source: &CompressedSource<A>) -> Result<Array3<A>> {
        PaddingMask::check(mask, "DecoderLanguageModel::forward", tokens.nrows(), tokens.ncols())?;
        let x = self.embeddings.embed(Start::default(), tokens.into(), mask)?;
        self.scores(self.decoder.attend(&x, mask, source)?)
    }

    /// Projects the blocks' output and computes its scores.
    fn scores(&self, decoded: Array3<A>) -> Result<Array3<A>> {
        let features = self.embeddings.project_out(decoded)?;
        match &self.head {
            Some(head) => head.forward(features, self.embeddings.embedding.weight()),
            None => Ok(features),
        }
    }

    /// The scores of what follows one more token of each target, (targets, 1), which is at `positions` and reads the source `of` it.
    pub(super) fn step(
        &self,
        (tokens, positions): (&ArrayRef2<usize>, &[usize]),
        states: &mut [&mut EncoderState<A>],
        source: &CompressedSource<A>,
        of: &[usize],
    ) -> Result<Array3<A>> {
        let x = self.embeddings.embed_at(tokens, positions)?;
        self.scores(self.decoder.step(x, states, source, of)?)
    }

    /// Runs [`forward`](Self::forward) with the pass's dropout; returns the scores and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if a rate is below 0 or not below 1.
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
    pub(super) fn train_after(
        &self,
        first_layer: usize,
        (tokens, mask): (&ArrayRef2<usize>, Option<&PaddingMask>),
        source: (Array3<A>, Option<&PaddingMask>),
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, DecoderLanguageModelCache<A>)> {
        PaddingMask::check(mask, "DecoderLanguageModel::forward_train", tokens.nrows(), tokens.ncols())?;
        let (x, embeddings) = self
            .embeddings()
            .embed_train(Start::default(), tokens.into(), mask, pass, first_layer)?;
        let (x, decoder) = self.decoder().train_after(first_layer, (x, mask), source, pass)?;
        let (features, decoded) = self.embeddings().project_out_train(x)?;
        let (output, head) = match self.head() {
            Some(head) => {
                let (scores, cache) = head.train(features, self.embedding().weight())?;
                (scores, Some(cache))
            }
            None => (features, None),
        };
        let cache = DecoderLanguageModelCache {
            config: self.config().clone(),
            embeddings,
            decoder,
            decoded,
            head,
            output: output.dim(),
        };
        Ok((output, cache))
    }

    /// Returns the gradient of the source, given `dy` of the output of [`forward_train`](Self::forward_train). Those of the parameters are added to
    /// `gradients`.
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a model of another configuration.
    pub fn backward(&self, cache: DecoderLanguageModelCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "DecoderLanguageModel::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        check_gradient(OPERATION, &dy, cache.output)?;
        let mut dy = contiguous(dy);
        let pass = *cache.decoder.pass();
        let (own_embeddings, own_decoder, own_head) = gradients.parts_mut();
        if let (Some(head), Some(head_cache), Some(own)) = (self.head(), &cache.head, own_head) {
            dy = head.backward(
                head_cache,
                &dy,
                self.embedding().weight(),
                own,
                own_embeddings.embedding.weight_mut(),
            );
        }
        dy = self.embeddings().project_out_backward(cache.decoded.as_ref(), dy, own_embeddings);
        let (dy, dsource) = self.decoder().backward(cache.decoder, dy, own_decoder)?;
        self.embeddings()
            .embed_backward(Start::default(), &cache.embeddings, dy, &pass, own_embeddings);
        Ok(dsource)
    }
}

/// Everything that the backward pass of a decoder of tokens needs.
#[derive(Clone, Debug)]
pub struct DecoderLanguageModelCache<A = f32> {
    pub(super) config: DecoderLanguageModelConfig,
    embeddings: EmbeddingsCache<A>,
    decoder: DecoderCache<A>,
    /// Before the product out of the decoder's width.
    decoded: Option<Array3<A>>,
    head: Option<HeadCache<A>>,
    output: (usize, usize, usize),
}
