//! From features to token scores.

use ndarray::{Array1, Array2, Array3, ArrayRef2, ArrayView1, ArrayView2, ArrayViewMut2};

use super::embeddings::{linear_rows, norm_rows};
use crate::config::HeadKind;
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, Linear, bias_gradient, input_gradient, map_tiles, rows, sequence, weight_gradient};
use crate::ops::{Activation, Output, PackedMatrix, RowsMut, Scratch, add_bias, gemm};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Shorter sequences are multiplied without packing the weight. It depends on an item's length, not on the batch, as all that decides about bits.
const PACKED_LENGTH: usize = 48;

/// The class with the highest score of each row, the first of equal ones.
pub(crate) fn highest<A: Scalar>(operation: &'static str, scores: &ArrayRef2<A>) -> Result<Vec<usize>> {
    let highest_of = |row: ArrayView1<'_, A>| {
        if row.iter().any(|score| score.is_nan()) {
            return Err(Error::argument(
                operation,
                "a score is NaN; look for bad numbers in the input or the model",
            ));
        }
        Ok((1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best }))
    };
    scores.outer_iter().map(highest_of).collect()
}

/// The sizes that a head has to fit.
pub(crate) struct HeadSizes {
    /// The width of features.
    pub(crate) features: usize,
    /// The width of token vectors.
    pub(crate) embedding: usize,
    pub(crate) vocab_size: usize,
}

/// From features to token scores, or those of labels; see [`HeadKind`].
#[derive(Clone, Debug)]
pub struct LanguageModelHead<A = f32> {
    pub(super) dense: Option<Linear<A>>,
    pub(super) norm: Option<LayerNorm<A>>,
    /// (scores, width); `None` where it is the token embedding.
    pub(super) weight: Option<Array2<A>>,
    pub(super) bias: Array1<A>,
    pub(super) activation: Activation,
}

parameters!(LanguageModelHead { dense, norm, weight, bias });

impl<A: Scalar> LanguageModelHead<A> {
    /// A head whose norm, where it has one, has this ε.
    pub(crate) fn init(kind: HeadKind, sizes: HeadSizes, norm_eps: f64, streams: &mut Streams) -> Option<Self> {
        let HeadSizes {
            features,
            embedding,
            vocab_size,
        } = sizes;
        let (scores, tied, roberta) = match kind {
            HeadKind::None => return None,
            HeadKind::Plain => (vocab_size, false, None),
            HeadKind::Tied => (vocab_size, true, None),
            HeadKind::Roberta { tied, activation } => (vocab_size, tied, Some(activation)),
            HeadKind::Labels { count } => (count, false, None),
        };
        let width = if roberta.is_some() { embedding } else { features };
        Some(Self {
            dense: roberta.map(|_| Linear::init(features, width, true, streams)),
            norm: roberta.map(|_| LayerNorm::init(width, norm_eps)),
            weight: (!tied).then(|| streams.uniform((scores, width), 1.0 / (width as f64).sqrt())),
            bias: Array1::zeros(scores),
            activation: roberta.unwrap_or_default(),
        })
    }

    /// (batch, length, features) → (batch, length, scores), with the token embedding where the weight is tied to it.
    pub(crate) fn forward(&self, features: Array3<A>, embedding: ArrayView2<'_, A>) -> Result<Array3<A>> {
        let mut x = features;
        if let (Some(dense), Some(norm)) = (&self.dense, &self.norm) {
            x = dense.forward(&x)?;
            if let Some(values) = x.as_slice_mut() {
                self.activation.apply(values);
            }
            x = norm.forward(&x)?;
        }
        self.scores(&x, embedding)
    }

    /// x·Wᵀ + b.
    pub(super) fn scores(&self, x: &Array3<A>, embedding: ArrayView2<'_, A>) -> Result<Array3<A>> {
        const OPERATION: &str = "LanguageModel";
        let weight = self.weight.as_ref().map_or(embedding, |weight| weight.view());
        let (vocab_size, cost) = (weight.nrows(), weight.len());
        let bias = self.bias.as_slice().filter(|_| x.dim().1 >= PACKED_LENGTH);
        let Some(bias) = bias else {
            return map_tiles(OPERATION, x, vocab_size, cost, |(): &mut (), _, x, mut out| {
                gemm(A::one(), x, weight.t(), A::zero(), &mut out);
                add_bias(&mut out, self.bias.view());
            });
        };
        // Once for all tiles.
        let mut packed = PackedMatrix::default();
        packed.repack_spread(weight.t());
        map_tiles(OPERATION, x, vocab_size, cost, |scratch: &mut Scratch<A>, _, x, out| {
            packed.multiply_view(x, Output::set(Some(bias)), RowsMut::of(out), scratch);
        })
    }
}

/// The cache of a head.
#[derive(Clone, Debug)]
pub(super) struct HeadCache<A> {
    features: Array3<A>,
    /// RoBERTa's: the dense layer's output, and the norm's input and output.
    dense: Option<[Array3<A>; 3]>,
}

impl<A: Scalar> LanguageModelHead<A> {
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
