//! From features to token scores.

use ndarray::{Array1, Array2, Array3, ArrayView2};

use crate::config::HeadKind;
use crate::error::Result;
use crate::initialization::Streams;
use crate::layers::{LayerNorm, Linear, map_tiles};
use crate::ops::{Activation, Output, PackedMatrix, RowsMut, Scratch, add_bias, gemm};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Shorter sequences are multiplied without packing the weight. It depends on an item's length, not on the batch, as all that decides about bits.
const PACKED_LENGTH: usize = 48;

/// From features to token scores; see [`HeadKind`].
#[derive(Clone, Debug)]
pub struct Head<A = f32> {
    pub(super) dense: Option<Linear<A>>,
    pub(super) norm: Option<LayerNorm<A>>,
    /// (`vocab_size`, width); `None` where it is the token embedding.
    pub(super) weight: Option<Array2<A>>,
    pub(super) bias: Array1<A>,
    pub(super) activation: Activation,
}

parameters!(Head { dense, norm, weight, bias });

impl<A: Scalar> Head<A> {
    /// A head from `width` features to `vocab_size` scores, whose norm, where it has one, has this ε.
    pub(crate) fn draw(kind: HeadKind, (width, vocab_size): (usize, usize), norm_eps: f64, streams: &mut Streams) -> Option<Self> {
        let (tied, roberta) = match kind {
            HeadKind::None => return None,
            HeadKind::Plain => (false, None),
            HeadKind::Tied => (true, None),
            HeadKind::Roberta { tied, activation } => (tied, Some(activation)),
        };
        Some(Self {
            dense: roberta.map(|_| Linear::draw(width, width, true, streams)),
            norm: roberta.map(|_| LayerNorm::init(width, norm_eps)),
            weight: (!tied).then(|| streams.uniform((vocab_size, width), 1.0 / (width as f64).sqrt())),
            bias: Array1::zeros(vocab_size),
            activation: roberta.unwrap_or_default(),
        })
    }

    /// (batch, length, width) → (batch, length, `vocab_size`), with the token embedding where the weight is tied to it.
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
