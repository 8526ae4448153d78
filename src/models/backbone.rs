//! From tokens to features: what language models and classifiers have in common.

use ndarray::{Array2, Array3, ArrayRef2, ArrayView1, ArrayView2, Axis, s};

use super::embeddings::{Embeddings, EmbeddingsCache};
use super::typed_tokens::TypedTokens;
use crate::attention::{PaddingMask, SequenceShard};
use crate::blocks::{Encoder, EncoderCache, EncoderState};
use crate::config::{LanguageModelConfig, TrainingPass};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{Start, row_ranges};
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
    pub(crate) fn init(config: &LanguageModelConfig, streams: &mut Streams) -> Self {
        let (embeddings, encoder) = Embeddings::init_around(config, streams, |streams| Encoder::init(&config.encoder, streams));
        Self { embeddings, encoder }
    }

    /// (batch, n) token ids → (batch, n, dim): what the encoder is given.
    pub(crate) fn embed(
        &self,
        tokens: TypedTokens<'_>,
        mask: Option<&PaddingMask>,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<Array3<A>> {
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "LanguageModel", batch, length)?;
        self.embeddings.embed(start(shard), tokens, mask)
    }

    /// (batch, n) token ids → (batch, n, embedding width).
    pub(crate) fn forward(&self, tokens: TypedTokens<'_>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.encode(self.embed(tokens, mask, None)?, mask)
    }

    /// The second half of [`forward`](Self::forward), of what the encoder is given.
    pub(crate) fn encode(&self, x: Array3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.embeddings.project_out(self.encoder.forward_owned(x, mask)?)
    }

    /// [`forward`](Self::forward) of sequences of different lengths, one after the other: (sum of their lengths, embedding width). `types` are those
    /// of each.
    pub(super) fn forward_ragged(&self, sequences: &[&[usize]], types: Option<&[&[usize]]>) -> Result<Array2<A>> {
        const OPERATION: &str = "LanguageModel::features_ragged";
        let lengths: Vec<usize> = sequences.iter().map(|tokens| tokens.len()).collect();
        let rows = lengths.iter().fold(0, |sum: usize, &length| sum.saturating_add(length));
        let dim = self.encoder.config().dim();
        checked_len(OPERATION, &[rows, dim], size_of::<A>())?;
        lengths
            .iter()
            .try_for_each(|&length| self.encoder.check_length(OPERATION, length))?;
        let mut x = Array2::zeros((rows, dim));
        for (item, rows) in row_ranges(&lengths).enumerate() {
            let own = self.embed_alone(sequences[item], types.map(|types| types[item]));
            let own = own.map_err(|error| error.of_item(item))?;
            x.slice_mut(s![rows, ..]).assign(&own.index_axis(Axis(0), 0));
        }
        self.embeddings
            .project_out_ragged(self.encoder.apply_ragged(x, &lengths)?, &lengths)
    }

    /// [`embed`](Self::embed) of one sequence. A mask says that nothing is padding, so that no token is taken for it.
    fn embed_alone(&self, tokens: &[usize], types: Option<&[usize]>) -> Result<Array3<A>> {
        let mask = PaddingMask::from_lengths(&[tokens.len()], tokens.len())?;
        let tokens = row(tokens);
        let types = types.map(row);
        self.embed(TypedTokens::new(&tokens, types.as_deref()), Some(&mask), None)
    }

    /// [`forward`](Self::forward) with `encode` for the encoder, and of a shard of sequences, if it is one.
    pub(crate) fn around(
        &self,
        tokens: TypedTokens<'_>,
        mask: Option<&PaddingMask>,
        shard: Option<&dyn SequenceShard<A>>,
        encode: impl FnOnce(Array3<A>) -> Result<Array3<A>>,
    ) -> Result<Array3<A>> {
        let x = self.embed(tokens, mask, shard)?;
        self.embeddings.project_out(encode(x)?)
    }

    pub(super) fn train(
        &self,
        tokens: TypedTokens<'_>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<(Array3<A>, BackboneCache<A>)> {
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "LanguageModel", batch, length)?;
        let (x, embeddings) = self.embeddings.embed_train(start(shard), tokens, mask, pass, 0)?;
        let (x, encoder) = self.encoder.forward_train_shard(x, mask, pass, shard)?;
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

    pub(super) fn backward(
        &self,
        cache: BackboneCache<A>,
        dy: Array3<A>,
        gradients: &mut Self,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<()> {
        let pass = *cache.encoder.pass();
        let dy = self
            .embeddings
            .project_out_backward(cache.encoded.as_ref(), dy, &mut gradients.embeddings);
        let dy = self.encoder.backward_shard(cache.encoder, dy, &mut gradients.encoder, shard)?;
        self.embeddings
            .embed_backward(start(shard), &cache.embeddings, dy, &pass, &mut gradients.embeddings);
        Ok(())
    }

    pub(super) fn prefill(
        &self,
        tokens: &ArrayRef2<usize>,
        lengths: &[usize],
        mask: &PaddingMask,
    ) -> Result<(Array3<A>, Vec<EncoderState<A>>)> {
        let x = self.embeddings.embed(Start::default(), tokens.into(), Some(mask))?;
        let (x, states) = self.encoder.prefill(x, lengths, mask)?;
        Ok((self.embeddings.project_out(x)?, states))
    }

    pub(super) fn step(&self, tokens: &ArrayRef2<usize>, positions: &[usize], states: &mut [&mut EncoderState<A>]) -> Result<Array3<A>> {
        let x = self.encoder.step(self.embeddings.embed_at(tokens, positions)?, states)?;
        self.embeddings.project_out(x)
    }
}

/// The cache of the pass from tokens to features.
#[derive(Clone, Debug)]
pub(super) struct BackboneCache<A> {
    embeddings: EmbeddingsCache<A>,
    encoder: EncoderCache<A>,
    /// Before the product out of the encoder's width.
    encoded: Option<Array3<A>>,
}

/// One sequence as a batch.
fn row(tokens: &[usize]) -> ArrayView2<'_, usize> {
    ArrayView1::from(tokens).insert_axis(Axis(0))
}

/// Where a shard's rows begin in their sequences.
pub(crate) fn start<A>(shard: Option<&dyn SequenceShard<A>>) -> Start<'_> {
    shard.map_or(Start::default(), |shard| Start {
        position: shard.offset(),
        tokens: shard.tokens_before(),
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
