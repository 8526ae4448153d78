//! Tokens in, token scores out.

use ndarray::{Array2, Array3, ArrayRef2, Axis};

use super::body::{Body, select};
use super::head::Head;
use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::config::{HasNorms, LanguageModelConfig, ProjectionConfig};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::Embedding;
use crate::parameters::{copy_namesakes, parameters};
use crate::scalar::Scalar;

/// Tokens in; features, or a score for each token of the vocabulary, out. Bidirectional: for masked language models and encoders of text.
///
/// ```
/// use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig};
/// use linformer::ndarray::array;
///
/// let encoder = EncoderConfig::new(LinformerConfig::new(32, 4, 64, 8), 2);
/// let model = LanguageModel::<f32>::new(&LanguageModelConfig::new(256, encoder), 0)?;
/// let tokens = array![[104, 101, 108, 108, 111]];
/// assert_eq!(model.forward(&tokens, None)?.dim(), (1, 5, 256));
/// assert_eq!(model.logits_at(&tokens, &[vec![1, 3]], None)?.dim(), (2, 256));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LanguageModel<A = f32> {
    config: LanguageModelConfig,
    body: Body<A>,
    head: Option<Head<A>>,
}

parameters!(LanguageModel { head } flat { body });

impl<A: Scalar> LanguageModel<A> {
    /// A model with drawn weights.
    ///
    /// # Errors
    /// A configuration that describes no model.
    pub fn new(config: &LanguageModelConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::draw(config, streams))
    }

    /// The model with the weights of one whose encoder has exact attention and with new projections; see [`Encoder::from_exact`]. Positions stay as
    /// they are.
    ///
    /// # Errors
    /// As [`Encoder::from_exact`].
    pub fn from_exact(model: &Self, seq_len: usize, k: usize, projection: ProjectionConfig, seed: u64) -> Result<Self> {
        let mut config = model.config.clone();
        config.encoder = config.encoder.compressing(seq_len, k, projection)?;
        let mut own = Self::new(&config, seed)?;
        copy_namesakes(model, &mut own);
        Ok(own)
    }

    pub(crate) fn draw(config: &LanguageModelConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            body: Body::draw(config, streams),
            head: Head::draw(
                config.head,
                (config.effective_embedding_dim(), config.vocab_size),
                config.encoder.norm_eps,
                streams,
            ),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &LanguageModelConfig {
        &self.config
    }

    #[cfg(feature = "analysis")]
    pub(crate) fn encoder_input(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.body.lead_in(tokens, mask, None)
    }

    pub(crate) fn body(&self) -> &Body<A> {
        &self.body
    }

    /// What makes token scores, if the model has it.
    pub fn head(&self) -> Option<&Head<A>> {
        self.head.as_ref()
    }

    pub(super) fn parts_mut(&mut self) -> (&mut Body<A>, Option<&mut Head<A>>) {
        (&mut self.body, self.head.as_mut())
    }

    /// The blocks.
    pub fn encoder(&self) -> &Encoder<A> {
        &self.body.encoder
    }

    /// The token vectors.
    pub fn embedding(&self) -> &Embedding<A> {
        &self.body.ends.embedding
    }

    /// (batch, n) token ids → (batch, n, `vocab_size`) scores, or (batch, n, embedding width) features where the model has no head.
    ///
    /// # Errors
    /// A token outside the vocabulary, a mask of another shape, a sequence longer than the positions or projections allow.
    pub fn forward(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        let features = self.features(tokens, mask)?;
        match &self.head {
            Some(head) => head.forward(features, self.body.ends.embedding.weight()),
            None => Ok(features),
        }
    }

    /// (batch, n) token ids → (batch, n, embedding width): what the head is given.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.body.forward(tokens, mask)
    }

    /// The scores at `positions`, one list for each batch item, without making those of the others: (number of positions, `vocab_size`),
    /// item after item.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a model without a head; another number of lists than items; a position outside the sequence.
    pub fn logits_at(&self, tokens: &ArrayRef2<usize>, positions: &[Vec<usize>], mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        let Some(head) = &self.head else {
            return Err(Error::argument(
                "LanguageModel::logits_at",
                "the model has no head (HeadKind::None); use features",
            ));
        };
        let selected = select(&self.features(tokens, mask)?, positions)?;
        Ok(head
            .forward(selected, self.body.ends.embedding.weight())?
            .index_axis_move(Axis(0), 0))
    }
}
