//! Tokens and a source in, token scores out.

use ndarray::{Array3, ArrayRef2, ArrayRef3};

use super::ends::Ends;
use super::head::Head;
use crate::attention::PaddingMask;
use crate::blocks::{CompressedSource, Decoder, EncoderState};
use crate::config::{DecoderLanguageModelConfig, HasNorms};
use crate::error::Result;
use crate::initialization::Streams;
use crate::layers::{Embedding, Start};
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
    ends: Ends<A>,
    decoder: Decoder<A>,
    head: Option<Head<A>>,
}

parameters!(DecoderLanguageModel { decoder, head } flat { ends });

impl<A: Scalar> DecoderLanguageModel<A> {
    /// A model with drawn weights.
    ///
    /// # Errors
    /// A configuration that describes no model.
    pub fn new(config: &DecoderLanguageModelConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::draw(config, streams))
    }

    pub(crate) fn draw(config: &DecoderLanguageModelConfig, streams: &mut Streams) -> Self {
        let (ends, decoder) = Ends::draw_around(config, streams, |streams| Decoder::draw(&config.decoder, streams));
        let sizes = (config.effective_embedding_dim(), config.vocab_size);
        Self {
            config: config.clone(),
            ends,
            decoder,
            head: Head::draw(config.head, sizes, config.decoder.norm_eps, streams),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderLanguageModelConfig {
        &self.config
    }

    /// The blocks.
    pub fn decoder(&self) -> &Decoder<A> {
        &self.decoder
    }

    /// The token vectors.
    pub fn embedding(&self) -> &Embedding<A> {
        &self.ends.embedding
    }

    /// What makes token scores, if the model has it.
    pub fn head(&self) -> Option<&Head<A>> {
        self.head.as_ref()
    }

    pub(super) fn ends(&self) -> &Ends<A> {
        &self.ends
    }

    #[allow(clippy::type_complexity)] // its fields
    pub(super) fn parts_mut(&mut self) -> (&mut Ends<A>, &mut Decoder<A>, Option<&mut Head<A>>) {
        (&mut self.ends, &mut self.decoder, self.head.as_mut())
    }

    /// A source (batch, n, dim), compressed once for each block; see [`Decoder::compress`].
    ///
    /// # Errors
    /// As [`Decoder::compress`].
    pub fn compress(&self, source: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<CompressedSource<A>> {
        self.decoder.compress(source, mask)
    }

    /// (batch, m) token ids and their source (batch, n, dim) → (batch, m, `vocab_size`) scores, or (batch, m, embedding width) features where the
    /// model has no head. Each mask is that of its own sequence's padding.
    ///
    /// # Errors
    /// A token outside the vocabulary; more tokens than there are positions; as [`Decoder::forward`].
    pub fn forward(
        &self,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
        source: &ArrayRef3<A>,
        source_mask: Option<&PaddingMask>,
    ) -> Result<Array3<A>> {
        self.attend(tokens, mask, &self.compress(source, source_mask)?)
    }

    /// [`forward`](Self::forward) with a source that was compressed before.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a source that another decoder compressed.
    pub fn attend(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>, source: &CompressedSource<A>) -> Result<Array3<A>> {
        PaddingMask::check(mask, "DecoderLanguageModel::forward", tokens.nrows(), tokens.ncols())?;
        let x = self.ends.lead_in(Start::default(), tokens, mask)?;
        self.scores(self.decoder.attend(&x, mask, source)?)
    }

    /// What the blocks put out, led out and scored.
    fn scores(&self, decoded: Array3<A>) -> Result<Array3<A>> {
        let features = self.ends.lead_out(decoded)?;
        match &self.head {
            Some(head) => head.forward(features, self.ends.embedding.weight()),
            None => Ok(features),
        }
    }

    /// The scores of what follows one more token of each target, (targets, 1), which stands at `positions` and reads the source `of` it.
    pub(super) fn step(
        &self,
        (tokens, positions): (&ArrayRef2<usize>, &[usize]),
        states: &mut [&mut EncoderState<A>],
        source: &CompressedSource<A>,
        of: &[usize],
    ) -> Result<Array3<A>> {
        let x = self.ends.lead_in_at(tokens, positions)?;
        self.scores(self.decoder.step(x, states, source, of)?)
    }
}
