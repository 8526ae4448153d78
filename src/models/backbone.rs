//! From tokens to features: what language models and classifiers have in common.

use ndarray::{Array3, ArrayRef2, Axis, s};

use super::embeddings::{Embeddings, EmbeddingsCache};
use crate::attention::{PaddingMask, Part};
use crate::blocks::{Encoder, EncoderCache, EncoderState};
use crate::config::{LanguageModelConfig, TrainingPass};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::Start;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Token and position vectors, the encoder, and the products around it.
#[derive(Clone, Debug)]
pub(crate) struct Backbone<A> {
    pub(crate) embeddings: Embeddings<A>,
    pub(crate) encoder: Encoder<A>,
}

parameters!(Backbone { encoder } flat { embeddings });

impl<A: Scalar> Backbone<A> {
    pub(crate) fn draw(config: &LanguageModelConfig, streams: &mut Streams) -> Self {
        let (embeddings, encoder) = Embeddings::draw_around(config, streams, |streams| Encoder::draw(&config.encoder, streams));
        Self { embeddings, encoder }
    }

    /// (batch, n) token ids → (batch, n, dim): what the encoder is given.
    pub(crate) fn embed(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>, part: Option<&dyn Part<A>>) -> Result<Array3<A>> {
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "LanguageModel", batch, length)?;
        self.embeddings.embed(start(part), tokens, mask)
    }

    /// (batch, n) token ids → (batch, n, embedding width).
    pub(crate) fn forward(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.around(tokens, mask, None, |x| self.encoder.forward_owned(x, mask))
    }

    /// [`forward`](Self::forward) with `encode` for the encoder, and of a part of sequences, if it is one.
    pub(crate) fn around(
        &self,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
        part: Option<&dyn Part<A>>,
        encode: impl FnOnce(Array3<A>) -> Result<Array3<A>>,
    ) -> Result<Array3<A>> {
        let x = self.embed(tokens, mask, part)?;
        self.embeddings.project_out(encode(x)?)
    }

    pub(super) fn train(
        &self,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        part: Option<&dyn Part<A>>,
    ) -> Result<(Array3<A>, BackboneCache<A>)> {
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "LanguageModel", batch, length)?;
        let (x, embeddings) = self.embeddings.embed_train(start(part), tokens, mask, pass, 0)?;
        let (x, encoder) = self.encoder.forward_train_part(x, mask, pass, part)?;
        let (x, encoded) = self.embeddings.project_out_train(x)?;
        Ok((
            x,
            BackboneCache {
                embeddings,
                encoder,
                encoded,
            },
        ))
    }

    pub(super) fn backward(&self, cache: BackboneCache<A>, dy: Array3<A>, gradients: &mut Self, part: Option<&dyn Part<A>>) -> Result<()> {
        let pass = *cache.encoder.pass();
        let dy = self
            .embeddings
            .project_out_backward(cache.encoded.as_ref(), dy, &mut gradients.embeddings);
        let dy = self.encoder.backward_part(cache.encoder, dy, &mut gradients.encoder, part)?;
        self.embeddings
            .embed_backward(start(part), &cache.embeddings, dy, &pass, &mut gradients.embeddings);
        Ok(())
    }

    pub(super) fn prefill(
        &self,
        tokens: &ArrayRef2<usize>,
        lengths: &[usize],
        mask: &PaddingMask,
    ) -> Result<(Array3<A>, Vec<EncoderState<A>>)> {
        let x = self.embeddings.embed(Start::default(), tokens, Some(mask))?;
        let (x, states) = self.encoder.prefill(x, lengths, mask)?;
        Ok((self.embeddings.project_out(x)?, states))
    }

    pub(super) fn step(&self, tokens: &ArrayRef2<usize>, positions: &[usize], states: &mut [&mut EncoderState<A>]) -> Result<Array3<A>> {
        let x = self.encoder.step(self.embeddings.embed_at(tokens, positions)?, states)?;
        self.embeddings.project_out(x)
    }
}

/// What the backward pass of the part from tokens to features needs.
#[derive(Clone, Debug)]
pub(super) struct BackboneCache<A> {
    embeddings: EmbeddingsCache<A>,
    encoder: EncoderCache<A>,
    /// Before the product out of the encoder's width.
    encoded: Option<Array3<A>>,
}

/// Where a part's rows begin in their sequences.
pub(crate) fn start<A>(part: Option<&dyn Part<A>>) -> Start<'_> {
    part.map_or(Start::default(), |part| Start {
        position: part.offset(),
        tokens: part.tokens_before(),
    })
}

/// The features at `positions`, one list an item: (sum of all lists' lengths, dim), item after item.
pub(crate) fn select<A: Scalar>(features: &Array3<A>, positions: &[Vec<usize>]) -> Result<Array3<A>> {
    let (batch, length, dim) = features.dim();
    if positions.len() != batch {
        return Err(Error::argument(
            "LanguageModel",
            format!("{} lists of positions came for a batch of {batch}", positions.len()),
        ));
    }
    let total = positions.iter().map(Vec::len).sum();
    let mut selected = Array3::zeros((1, total, dim));
    let places = positions
        .iter()
        .enumerate()
        .flat_map(|(item, own)| own.iter().map(move |&position| (item, position)));
    for (mut row, (item, position)) in selected.index_axis_mut(Axis(0), 0).outer_iter_mut().zip(places) {
        if position >= length {
            return Err(Error::argument(
                "LanguageModel",
                format!("position {position} was asked of item {item}, but the sequences have {length} positions"),
            ));
        }
        row.assign(&features.slice(s![item, position, ..]));
    }
    Ok(selected)
}
