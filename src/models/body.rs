//! From tokens to features: what language models and classifiers have in common.

use ndarray::{Array3, ArrayRef2, Axis, s};

use crate::attention::{PaddingMask, Part};
use crate::blocks::Encoder;
use crate::config::LanguageModelConfig;
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{Embedding, LayerNorm, Linear, Position, Start};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Token and position vectors, the encoder, and the products around it.
#[derive(Clone, Debug)]
pub(crate) struct Body<A> {
    pub(crate) embedding: Embedding<A>,
    pub(crate) position: Position<A>,
    pub(super) embedding_norm: Option<LayerNorm<A>>,
    pub(super) project_in: Option<Linear<A>>,
    pub(crate) encoder: Encoder<A>,
    pub(super) project_out: Option<Linear<A>>,
    zeroed_token: Option<usize>,
}

parameters!(Body {
    embedding,
    position,
    embedding_norm,
    project_in,
    encoder,
    project_out
});

impl<A: Scalar> Body<A> {
    pub(crate) fn draw(config: &LanguageModelConfig, streams: &mut Streams) -> Self {
        let (width, dim) = (config.effective_embedding_dim(), config.encoder.dim());
        let projects = config.embedding_dim.is_some_and(|width| width != dim);
        Self {
            embedding: Embedding::draw(config.vocab_size, width, streams),
            position: Position::draw(config.position, width, streams),
            embedding_norm: config.embedding_norm.then(|| LayerNorm::start(width, config.encoder.norm_eps)),
            project_in: projects.then(|| Linear::draw(width, dim, true, streams)),
            encoder: Encoder::draw(&config.encoder, streams),
            project_out: projects.then(|| Linear::draw(dim, width, true, streams)),
            zeroed_token: config.zeroed_token,
        }
    }

    /// Sets the vectors of the zeroed token to 0 where no mask is given.
    pub(super) fn zero(&self, x: &mut Array3<A>, tokens: &ArrayRef2<usize>, masked: bool) {
        let Some(zeroed) = self.zeroed_token.filter(|_| !masked) else {
            return;
        };
        for ((item, position), _) in tokens.indexed_iter().filter(|&(_, &token)| token == zeroed) {
            x.slice_mut(s![item, position, ..]).fill(A::zero());
        }
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
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "LanguageModel", batch, length)?;
        let mut x = self.embedding.forward(tokens)?;
        self.position.add_from(start(part), &mut x.view_mut(), Some(tokens))?;
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(&x)?;
        }
        self.zero(&mut x, tokens, mask.is_some());
        if let Some(project_in) = &self.project_in {
            x = project_in.forward(&x)?;
        }
        let x = encode(x)?;
        match &self.project_out {
            Some(project_out) => project_out.forward(&x),
            None => Ok(x),
        }
    }
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
