//! The attention of a block, exact or Linformer, behind one face.

use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayView3, ArrayViewMut2};

use crate::attention::{
    BlockwiseCausalAttention, Compressed, Compressor, ExactAttention, KeyValueRows, LinformerAttention, PaddingMask, Projections,
    TileScratch,
};
use crate::config::{AttentionConfig, AttentionKind};
use crate::error::{Error, Result};
use crate::initialization::Streams;
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

    fn config(&self) -> &AttentionConfig {
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

    /// What takes in the rows of (batch, length, dim) sequences, part by part, to make the context their queries attend to.
    pub(crate) fn collector<'a>(
        &'a self,
        shared: Option<&'a Projections<A>>,
        batch: usize,
        length: usize,
        mask: Option<&PaddingMask>,
    ) -> Result<Collector<'a, A>> {
        Ok(match self {
            Self::Linformer(attention) => {
                let projections = attention.own_or(shared)?;
                Collector::Compressor(attention.compressor_for(projections, batch, length, mask)?)
            }
            Self::Exact(attention) => Collector::Rows(attention.key_values(batch, length)?),
            Self::Causal(_) => {
                return Err(Error::argument(
                    "EncoderBlock",
                    "causal attention takes whole sequences, since a row's place decides what it sees",
                ));
            }
        })
    }

    /// Fills `out` with the attention of the rows of `x` to an item of `context`.
    pub(crate) fn attend_rows(
        &self,
        x: ArrayView2<'_, A>,
        context: &Compressed<A>,
        item: usize,
        out: &mut ArrayViewMut2<'_, A>,
        scratch: &mut TileScratch<A>,
    ) {
        let weights = match self {
            Self::Linformer(attention) => attention.weights(),
            Self::Exact(attention) => attention.weights(),
            Self::Causal(attention) => attention.weights(),
        };
        weights.attend_rows(self.config(), x, context.item(item), out, scratch);
    }

    /// Multiplications of a query row that attends to `slots` slots.
    pub(crate) fn attend_cost(&self, slots: usize) -> usize {
        match self {
            Self::Linformer(attention) => attention.attend_cost(slots),
            Self::Exact(attention) => attention.attend_cost(slots),
            Self::Causal(attention) => 2 * attention.config().attention.query_dim().saturating_mul(slots),
        }
    }
}

/// What makes keys and values of rows that come part by part.
pub(crate) enum Collector<'a, A> {
    Compressor(Compressor<'a, A>),
    Rows(KeyValueRows<'a, A>),
}

impl<A: Scalar> Collector<'_, A> {
    /// Adds the rows start.. of every item; `mask` is that of the whole sequence.
    pub(crate) fn push(&mut self, rows: ArrayView3<'_, A>, start: usize, mask: Option<&PaddingMask>) -> Result<()> {
        match self {
            Self::Compressor(compressor) => {
                let part = mask.map(|mask| mask.part(start, start + rows.dim().1));
                compressor.push(&rows, part.as_ref())
            }
            Self::Rows(collected) => {
                collected.push(rows, mask);
                Ok(())
            }
        }
    }

    pub(crate) fn finish(self) -> Result<Compressed<A>> {
        match self {
            Self::Compressor(compressor) => compressor.finish(),
            Self::Rows(rows) => Ok(rows.finish()),
        }
    }
}
