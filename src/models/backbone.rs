//! From tokens to features: what language models and classifiers have in common.

use ndarray::{Array3, ArrayRef2, Axis, s};

use super::ends::Ends;
use crate::attention::{PaddingMask, Part};
use crate::blocks::Encoder;
use crate::config::LanguageModelConfig;
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::Start;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Token and position vectors, the encoder, and the products around it.
#[derive(Clone, Debug)]
pub(crate) struct Body<A> {
    pub(crate) ends: Ends<A>,
    pub(crate) encoder: Encoder<A>,
}

parameters!(Body { encoder } flat { ends });

impl<A: Scalar> Body<A> {
    pub(crate) fn draw(config: &LanguageModelConfig, streams: &mut Streams) -> Self {
        let (ends, encoder) = Ends::draw_around(config, streams, |streams| Encoder::draw(&config.encoder, streams));
        Self { ends, encoder }
    }

    /// (batch, n) token ids → (batch, n, dim): what the encoder is given.
    pub(crate) fn lead_in(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>, part: Option<&dyn Part<A>>) -> Result<Array3<A>> {
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "LanguageModel", batch, length)?;
        self.ends.lead_in(start(part), tokens, mask)
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
        let x = self.lead_in(tokens, mask, part)?;
        self.ends.lead_out(encode(x)?)
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
