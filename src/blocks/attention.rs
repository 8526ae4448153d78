//! The attention of a block, of any kind, behind one face.

use ndarray::{Array3, ArrayRef3, ArrayView1, ArrayView2};

use crate::attention::{
    AttendScratch, BlockwiseCausalAttention, ContextSpace, ExactAttention, LinformerAttention, PackedKeyValues, PaddingMask, Projections,
};
use crate::config::{AttentionConfig, AttentionKind};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::LayerNorm;
use crate::ops::{RowsMut, TileRows};
use crate::parameters::{Parameters, Visitor, VisitorMut};
use crate::scalar::Scalar;

/// The attention of a block.
///
/// A model's type does not depend on which of them its blocks use, so that a checkpoint's configuration alone can decide it.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a block
#[non_exhaustive]
pub enum Attention<A = f32> {
    /// Linformer attention, O(n·k).
    Linformer(LinformerAttention<A>),
    /// Exact attention, O(n²).
    Exact(ExactAttention<A>),
    /// Causal attention to a window and to summaries.
    Causal(BlockwiseCausalAttention<A>),
}

impl<A: Scalar> Parameters<A> for Attention<A> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        match self {
            Self::Linformer(attention) => attention.visit(path, visitor),
            Self::Exact(attention) => attention.visit(path, visitor),
            Self::Causal(attention) => attention.visit(path, visitor),
        }
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        match self {
            Self::Linformer(attention) => attention.visit_mut(path, visitor),
            Self::Exact(attention) => attention.visit_mut(path, visitor),
            Self::Causal(attention) => attention.visit_mut(path, visitor),
        }
    }
}

impl<A: Scalar> Attention<A> {
    pub(crate) fn draw(kind: &AttentionKind, streams: &mut Streams) -> Self {
        match kind {
            AttentionKind::Linformer(config) => Self::Linformer(LinformerAttention::draw(config, streams)),
            AttentionKind::Exact(config) => Self::Exact(ExactAttention::draw(config, streams)),
            AttentionKind::Causal(config) => Self::Causal(BlockwiseCausalAttention::draw(config, streams)),
        }
    }

    pub(super) fn config(&self) -> &AttentionConfig {
        match self {
            Self::Linformer(attention) => &attention.config().attention,
            Self::Exact(attention) => attention.config(),
            Self::Causal(attention) => &attention.config().attention,
        }
    }

    /// Whether a row's place decides what it sees.
    pub(crate) fn is_causal(&self) -> bool {
        matches!(self, Self::Causal(_)) || self.config().causal
    }

    /// Self-attention of whole sequences.
    pub(crate) fn forward(&self, shared: Option<&Projections<A>>, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        match self {
            Self::Linformer(attention) => attention.attend(x, &attention.compress_with(attention.own_or(shared)?, x, mask)?),
            Self::Exact(attention) => attention.forward(x, mask),
            Self::Causal(attention) => Ok(attention.forward_with(shared, x, mask)?.0),
        }
    }

    /// Makes the packed keys and values of one item's rows, normed if a norm comes first; `real` says which of them are.
    pub(crate) fn compress_item(
        &self,
        shared: Option<&Projections<A>>,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        space: &mut ContextSpace<A>,
    ) -> Result<()> {
        match self {
            Self::Linformer(attention) => attention.compress_item(attention.own_or(shared)?, rows, norm, real, space),
            Self::Exact(attention) => attention.compress_item(rows, norm, real, space),
            Self::Causal(_) => Err(Error::argument(
                "EncoderBlock",
                "causal attention takes whole sequences, since a row's place decides what it sees",
            )),
        }
    }

    /// `out` += the attention of the rows of `x` to one item's keys and values.
    pub(crate) fn add_tile(&self, x: TileRows<'_, A>, context: &PackedKeyValues<A>, out: RowsMut<'_, A>, scratch: &mut AttendScratch<A>) {
        let weights = match self {
            Self::Linformer(attention) => attention.weights(),
            Self::Exact(attention) => attention.weights(),
            Self::Causal(attention) => attention.weights(),
        };
        weights.attend_tile(x, (context, 0), true, out, scratch);
    }

    /// Multiplications of a row of a sequence of `length` that attends to it.
    pub(crate) fn attend_cost(&self, length: usize) -> usize {
        match self {
            Self::Linformer(attention) => attention.attend_cost(attention.config().effective_k()),
            Self::Exact(attention) => attention.attend_cost(length),
            Self::Causal(attention) => 2 * attention.config().attention.query_dim().saturating_mul(length),
        }
    }
}
