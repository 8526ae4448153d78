//! Training of whole models: forward with a cache, and backward.

use ndarray::{Array2, Array3, ArrayRef2, ArrayRef3, ArrayView2, ArrayViewMut2, s};

use super::body::{Body, select, start};
use super::ends::EndsCache;
use super::head::Head;
use super::language_model::LanguageModel;
use crate::attention::{PaddingMask, Part};
use crate::blocks::EncoderCache;
use crate::config::{LanguageModelConfig, TrainingPass, check_alike};
use crate::error::{Error, Result};
use crate::layers::{LayerNorm, Linear, bias_gradient, flat, input_gradient, rows, sequence, weight_gradient};
use crate::ops::{Activation, scatter_rows};
use crate::scalar::Scalar;

/// What the backward pass of the part from tokens to features needs.
#[derive(Clone, Debug)]
pub(super) struct BodyCache<A> {
    ends: EndsCache<A>,
    encoder: EncoderCache<A>,
    /// Before the product out of the encoder's width.
    encoded: Option<Array3<A>>,
}

pub(super) fn norm_rows<A: Scalar>(norm: &LayerNorm<A>, x: &Array3<A>, dy: Array3<A>, gradients: &mut LayerNorm<A>) -> Array3<A> {
    let (batch, length, _) = x.dim();
    let mut dy = flat(dy);
    norm.backward(rows(x), &mut dy.view_mut(), gradients);
    sequence(dy, batch, length)
}

pub(super) fn linear_rows<A: Scalar>(linear: &Linear<A>, x: &Array3<A>, dy: &Array3<A>, gradients: &mut Linear<A>) -> Array3<A> {
    let (batch, length, _) = x.dim();
    sequence(linear.backward(rows(x), rows(dy), gradients), batch, length)
}

impl<A: Scalar> Body<A> {
    pub(super) fn train(
        &self,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        part: Option<&dyn Part<A>>,
    ) -> Result<(Array3<A>, BodyCache<A>)> {
        let (batch, length) = tokens.dim();
        PaddingMask::check(mask, "LanguageModel", batch, length)?;
        let (x, ends) = self.ends.train_in(start(part), tokens, mask, pass, 0)?;
        let (x, encoder) = self.encoder.forward_train_part(x, mask, pass, part)?;
        let (x, encoded) = self.ends.train_out(x)?;
        Ok((x, BodyCache { ends, encoder, encoded }))
    }

    pub(super) fn backward(&self, cache: BodyCache<A>, dy: Array3<A>, gradients: &mut Self, part: Option<&dyn Part<A>>) -> Result<()> {
        let pass = *cache.encoder.pass();
        let dy = self.ends.backward_out(cache.encoded.as_ref(), dy, &mut gradients.ends);
        let dy = self.encoder.backward_part(cache.encoder, dy, &mut gradients.encoder, part)?;
        self.ends.backward_in(start(part), &cache.ends, dy, &pass, &mut gradients.ends);
        Ok(())
    }
}

/// What a head's backward pass needs.
#[derive(Clone, Debug)]
pub(super) struct HeadCache<A> {
    features: Array3<A>,
    /// Of RoBERTa's: the dense layer's output, and the norm's input and output.
    dense: Option<[Array3<A>; 3]>,
}

impl<A: Scalar> Head<A> {
    pub(super) fn train(&self, features: Array3<A>, embedding: ArrayView2<'_, A>) -> Result<(Array3<A>, HeadCache<A>)> {
        let dense = match (&self.dense, &self.norm) {
            (Some(dense), Some(norm)) => {
                let hidden = dense.forward(&features)?;
                let mut activated = hidden.clone();
                activate(self.activation, &mut activated);
                let normed = norm.forward(&activated)?;
                Some([hidden, activated, normed])
            }
            _ => None,
        };
        let scores = self.scores(dense.as_ref().map_or(&features, |[_, _, normed]| normed), embedding)?;
        Ok((scores, HeadCache { features, dense }))
    }

    /// The gradient of the features; where the weight is the token embedding, its gradient is added to `embedding`.
    pub(super) fn backward(
        &self,
        cache: &HeadCache<A>,
        dy: &Array3<A>,
        weight: ArrayView2<'_, A>,
        gradients: &mut Self,
        embedding: ArrayViewMut2<'_, A>,
    ) -> Array3<A> {
        let (batch, length, _) = dy.dim();
        let x = cache.dense.as_ref().map_or(&cache.features, |[_, _, normed]| normed);
        let own = gradients.weight.as_mut().map_or(embedding, |weight| weight.view_mut());
        let weight = self.weight.as_ref().map_or(weight, |weight| weight.view());
        weight_gradient(rows(x), rows(dy), own);
        bias_gradient(rows(dy), &mut gradients.bias);
        let mut dx = Array2::zeros((batch * length, weight.ncols()));
        input_gradient(rows(dy), weight, dx.view_mut());
        let dx = sequence(dx, batch, length);
        let (Some(dense), Some(norm), Some([hidden, activated, _])) = (&self.dense, &self.norm, &cache.dense) else {
            return dx;
        };
        let (Some(own_dense), Some(own_norm)) = (&mut gradients.dense, &mut gradients.norm) else {
            return dx;
        };
        let mut dx = norm_rows(norm, activated, dx, own_norm);
        differentiate(self.activation, hidden, &mut dx);
        linear_rows(dense, &cache.features, &dx, own_dense)
    }
}

pub(super) fn activate<A: Scalar>(activation: Activation, x: &mut Array3<A>) {
    if let Some(x) = x.as_slice_mut() {
        activation.apply(x);
    }
}

/// dx ← dx ∘ act'(x), and 0 where it was 0, whatever the slope.
pub(super) fn differentiate<A: Scalar>(activation: Activation, x: &Array3<A>, dx: &mut Array3<A>) {
    let mut slope = x.clone();
    if let Some(slope) = slope.as_slice_mut() {
        activation.differentiate(slope);
    }
    dx.zip_mut_with(&slope, |dx, &slope| {
        if *dx != A::zero() {
            *dx *= slope;
        }
    });
}

/// The positions that were chosen, and the shape of all features.
type Chosen = (Vec<Vec<usize>>, (usize, usize, usize));

/// What a language model's backward pass needs.
#[derive(Clone, Debug)]
pub struct LanguageModelCache<A = f32> {
    pub(super) config: LanguageModelConfig,
    body: BodyCache<A>,
    head: Option<HeadCache<A>>,
    /// Where scores were made, and the shape of all features; everywhere if not told.
    positions: Option<Chosen>,
    output: (usize, usize, usize),
}

impl<A: Scalar> LanguageModel<A> {
    /// [`forward`](Self::forward) with the pass's dropout, and what [`backward`](Self::backward) needs.
    ///
    /// With `positions`, one list for each batch item, scores are made there only: (1, number of positions, `vocab_size`), item after item.
    ///
    /// # Errors
    /// As [`forward`](Self::forward) and [`logits_at`](Self::logits_at); a rate below 0, or of 1 or more.
    pub fn forward_train(
        &self,
        tokens: &ArrayRef2<usize>,
        positions: Option<&[Vec<usize>]>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, LanguageModelCache<A>)> {
        self.forward_train_part(tokens, positions, mask, pass, None)
    }

    /// [`forward_train`](Self::forward_train) of a part of sequences, if it is one; its positions are counted from its first row.
    pub(crate) fn forward_train_part(
        &self,
        tokens: &ArrayRef2<usize>,
        positions: Option<&[Vec<usize>]>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        part: Option<&dyn Part<A>>,
    ) -> Result<(Array3<A>, LanguageModelCache<A>)> {
        let (mut features, body) = self.body().train(tokens, mask, pass, part)?;
        let positions = match positions {
            Some(positions) => {
                let dim = features.dim();
                features = select(&features, positions)?;
                Some((positions.to_vec(), dim))
            }
            None => None,
        };
        let (output, head) = match self.head() {
            Some(head) => {
                let (scores, cache) = head.train(features, self.embedding().weight())?;
                (scores, Some(cache))
            }
            None => (features, None),
        };
        let cache = LanguageModelCache {
            config: self.config().clone(),
            body,
            head,
            positions,
            output: output.dim(),
        };
        Ok((output, cache))
    }

    /// Adds the gradients of all parameters to `gradients`, given `dy` of the output of [`forward_train`](Self::forward_train).
    ///
    /// # Errors
    /// `dy` of another shape than the output, a cache or gradients of a model of another configuration.
    pub fn backward(&self, cache: LanguageModelCache<A>, dy: &ArrayRef3<A>, gradients: &mut Self) -> Result<()> {
        self.backward_part(cache, dy, gradients, None)
    }

    /// [`backward`](Self::backward) of a part of sequences, if it is one.
    pub(crate) fn backward_part(
        &self,
        cache: LanguageModelCache<A>,
        dy: &ArrayRef3<A>,
        gradients: &mut Self,
        part: Option<&dyn Part<A>>,
    ) -> Result<()> {
        const OPERATION: &str = "LanguageModel::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        if dy.dim() != cache.output {
            return Err(Error::shape(OPERATION, "dy", format!("{:?}", cache.output), dy.shape()));
        }
        let mut dy = dy.as_standard_layout().into_owned();
        let (own_body, own_head) = gradients.parts_mut();
        if let (Some(head), Some(head_cache), Some(own)) = (self.head(), &cache.head, own_head) {
            let embedding = own_body.ends.embedding.weight_mut();
            dy = head.backward(head_cache, &dy, self.embedding().weight(), own, embedding);
        }
        if let Some((positions, dim)) = &cache.positions {
            let (batch, length, width) = *dim;
            let mut spread = Array2::zeros((batch * length, width));
            let places = positions
                .iter()
                .enumerate()
                .flat_map(|(item, own)| own.iter().map(move |&position| item * length + position));
            let chosen = rows(&dy);
            scatter_rows(places, |index| chosen.slice_move(s![index, ..]), &mut spread);
            dy = sequence(spread, batch, length);
        }
        self.body().backward(cache.body, dy, own_body, part)
    }
}
