//! The attention of a block, of any kind: all that depends on the kind is here.

use ndarray::{Array3, ArrayRef3, ArrayView1, ArrayView2};

use crate::attention::{
    AttentionCache, BlockwiseCausalAttention, Compressed, ContextSpace, ExactAttention, KeyShape, KeyState, LayerContext, LayerState,
    LinformerAttention, LocalGlobalAttention, PaddingMask, PastContext, Projections, StateShape, Summarized, TileSpace, step,
};
use crate::config::{AttentionConfig, AttentionKind};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, check_width};
use crate::ops::{Dropout, RowsMut};
use crate::parameters::parameters;
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
    /// Attention to a window and to summaries of everything outside it, O(n), or of everything before it, O(n·log n).
    LocalGlobal(LocalGlobalAttention<A>),
}

parameters!(
    enum Attention {
        Linformer,
        Exact,
        Causal,
        LocalGlobal,
    }
);

impl<A: Scalar> Attention<A> {
    pub(crate) fn init(kind: &AttentionKind, streams: &mut Streams) -> Self {
        match kind {
            AttentionKind::Linformer(config) => Self::Linformer(LinformerAttention::init(config, streams)),
            AttentionKind::Exact(config) => Self::Exact(ExactAttention::init(config, streams)),
            AttentionKind::Causal(config) => Self::Causal(BlockwiseCausalAttention::init(config, streams)),
            AttentionKind::LocalGlobal(config) => Self::LocalGlobal(LocalGlobalAttention::init(config, streams)),
        }
    }

    /// The kind with its configuration.
    pub(super) fn kind(&self) -> AttentionKind {
        match self {
            Self::Linformer(attention) => AttentionKind::Linformer(attention.config().clone()),
            Self::Exact(attention) => AttentionKind::Exact(attention.config().clone()),
            Self::Causal(attention) => AttentionKind::Causal(attention.config().clone()),
            Self::LocalGlobal(attention) => AttentionKind::LocalGlobal(attention.config().clone()),
        }
    }

    pub(super) fn config(&self) -> &AttentionConfig {
        match self {
            Self::Linformer(attention) => &attention.config().attention,
            Self::Exact(attention) => attention.config(),
            Self::Causal(attention) => &attention.config().attention,
            Self::LocalGlobal(attention) => &attention.config().attention,
        }
    }

    /// The bias of the output, the same for all rows.
    #[cfg(feature = "analysis")]
    pub(crate) fn output_bias(&self) -> Option<ArrayView1<'_, A>> {
        let weights = match self {
            Self::Linformer(attention) => attention.weights(),
            Self::Exact(attention) => attention.weights(),
            Self::Causal(attention) => attention.weights(),
            Self::LocalGlobal(attention) => attention.weights(),
        };
        weights.output.bias()
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
            Self::LocalGlobal(attention) => attention.forward(x, mask),
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
            Self::LocalGlobal(attention) => attention.compress_item(rows, norm, real, space),
            Self::Causal(_) => Err(Error::argument(
                "EncoderBlock",
                "causal attention takes whole sequences, since a row's place decides what it sees",
            )),
        }
    }

    /// `out` += the attention of the rows that `space` has taken, the first of which is row `first` of the item, to its keys and values.
    pub(crate) fn add_tile(&self, (context, first): (&ContextSpace<A>, usize), out: RowsMut<'_, A>, space: &mut TileSpace<A>) {
        let rows = space.x.rows();
        let weights = match self {
            Self::Linformer(attention) => attention.weights(),
            Self::Exact(attention) => attention.weights(),
            Self::Causal(attention) => attention.weights(),
            Self::LocalGlobal(attention) => return attention.attend_tile(rows, (context, first), true, out, &mut space.local_global),
        };
        weights.attend_tile(rows, (&context.packed, 0), true, out, &mut space.attention);
    }

    /// Multiplications of a row of a sequence of `length` that attends to it.
    pub(crate) fn attend_cost(&self, length: usize) -> usize {
        match self {
            Self::Linformer(attention) => attention.attend_cost(attention.config().effective_k()),
            Self::Exact(attention) => attention.attend_cost(length),
            Self::Causal(attention) => 2 * attention.config().attention.query_dim().saturating_mul(length),
            Self::LocalGlobal(attention) => attention.attend_cost(),
        }
    }
}

// Token by token.
impl<A: Scalar> Attention<A> {
    /// Causal self-attention, and what its rows saw.
    pub(super) fn forward_causal(
        &self,
        shared: Option<&Projections<A>>,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<(Array3<A>, PastContext<A>)> {
        let (y, context) = match self {
            Self::Exact(attention) if attention.config().causal => attention.forward_causal(x, mask)?,
            Self::Causal(attention) => attention.forward_with(shared, x, mask)?,
            Self::LocalGlobal(attention) if attention.config().attention.causal => {
                let (y, items) = attention.forward_kept(x, mask)?;
                return Ok((y, PastContext::Segments(items)));
            }
            _ => return Err(not_causal()),
        };
        Ok((y, PastContext::Keys(context)))
    }

    /// The states of right-padded sequences of these lengths, which were run with `context`.
    pub(super) fn states_after(
        &self,
        shared: Option<&Projections<A>>,
        context: &PastContext<A>,
        lengths: &[usize],
    ) -> Result<Vec<LayerState<A>>> {
        let summarized = self.summarized(shared)?;
        let items = lengths.iter().enumerate();
        match (self, self.state_shape()?, context) {
            (_, StateShape::Keys(shape), PastContext::Keys(context)) => Ok(items
                .map(|(item, &length)| LayerState::Keys(KeyState::after(shape, context, item, length, summarized)))
                .collect()),
            (Self::LocalGlobal(attention), StateShape::Segments(shape), PastContext::Segments(contexts)) => Ok(items
                .zip(contexts)
                .map(|((_, &length), context)| LayerState::Segments(attention.state_after(shape, context, length)))
                .collect()),
            _ => Err(not_causal()),
        }
    }

    /// How its summaries are made, where it has any.
    fn summarized<'l>(&'l self, shared: Option<&'l Projections<A>>) -> Result<Option<Summarized<'l, A>>> {
        match self {
            Self::Causal(attention) => Ok(Some(Summarized {
                config: attention.config(),
                projections: attention.own_or(shared)?,
            })),
            _ => Ok(None),
        }
    }

    /// One more row of each sequence, whose states are of its shape.
    pub(super) fn step(&self, shared: Option<&Projections<A>>, x: &Array3<A>, states: &mut [&mut LayerState<A>]) -> Result<Array3<A>> {
        check_width("Encoder::step", "x", x, self.config().dim)?;
        let summarized = self.summarized(shared)?;
        let weights = match self {
            Self::Exact(attention) => attention.weights(),
            Self::Causal(attention) => attention.weights(),
            Self::LocalGlobal(attention) => {
                let mut own: Vec<_> = states.iter_mut().filter_map(|state| state.segments_mut()).collect();
                return Ok(attention.step(x, &mut own));
            }
            Self::Linformer(_) => return Err(not_causal()),
        };
        let mut own: Vec<_> = states.iter_mut().filter_map(|state| state.keys_mut()).collect();
        Ok(step(weights, summarized, x, &mut own))
    }

    /// The shape of its states.
    pub(super) fn state_shape(&self) -> Result<StateShape> {
        match self {
            Self::Exact(attention) if attention.config().causal => {
                Ok(StateShape::Keys(KeyShape::new(attention.config(), usize::MAX, None)))
            }
            Self::Causal(attention) => {
                let config = attention.config();
                let shape = KeyShape::new(&config.attention, config.effective_window(), Some(config));
                Ok(StateShape::Keys(shape))
            }
            Self::LocalGlobal(attention) => attention.state_shape().map(StateShape::Segments).ok_or_else(not_causal),
            _ => Err(not_causal()),
        }
    }
}

// To another sequence.
impl<A: Scalar> Attention<A> {
    /// The keys and values of another sequence.
    pub(super) fn compress(
        &self,
        shared: Option<&Projections<A>>,
        context: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<Compressed<A>> {
        match self {
            Self::Linformer(attention) => attention.compress_with(attention.own_or(shared)?, context, mask),
            Self::Exact(attention) => attention.keys_of("Decoder::compress", context, mask),
            Self::Causal(_) | Self::LocalGlobal(_) => Err(not_of_another()),
        }
    }

    /// An error unless these are keys and values of the heads that it makes.
    pub(super) fn check_context(&self, operation: &'static str, context: &Compressed<A>) -> Result<()> {
        let heads = match self {
            Self::Linformer(attention) => attention.config().compressed_heads(),
            Self::Exact(attention) => attention.config().kv_heads,
            Self::Causal(_) | Self::LocalGlobal(_) => return Err(not_of_another()),
        };
        context.check_heads(operation, (heads, self.config().effective_head_dim()))
    }

    /// Attention to the keys and values of another sequence.
    pub(super) fn attend(&self, queries: &ArrayRef3<A>, context: &Compressed<A>) -> Result<Array3<A>> {
        match self {
            Self::Linformer(attention) => attention.attend(queries, context),
            Self::Exact(attention) => attention.attend_to("Decoder::attend", queries, context),
            Self::Causal(_) | Self::LocalGlobal(_) => Err(not_of_another()),
        }
    }
}

// Training.
impl<A: Scalar> Attention<A> {
    /// Cross-attention of `queries` to the source, and what the backward pass needs.
    pub(super) fn train_cross(
        &self,
        layer_context: LayerContext<'_, A>,
        queries: Array3<A>,
        (source, mask): (&Array3<A>, Option<&PaddingMask>),
        dropout: Option<Dropout<A>>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        let source = Some(source.clone());
        match self {
            Self::Linformer(attention) => attention.train_with(layer_context, queries, source, mask, dropout),
            Self::Exact(attention) => attention.train(queries, source, mask, dropout),
            Self::Causal(_) | Self::LocalGlobal(_) => Err(not_of_another()),
        }
    }

    pub(super) fn train(
        &self,
        layer_context: LayerContext<'_, A>,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        dropout: Option<Dropout<A>>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        match self {
            Self::Linformer(attention) => attention.train_with(layer_context, x, None, mask, dropout),
            Self::Exact(attention) => attention.train(x, None, mask, dropout),
            Self::Causal(attention) => attention.train_with(layer_context.projections, x, mask, dropout),
            Self::LocalGlobal(attention) => attention.train(layer_context.shard, x, mask, dropout),
        }
    }

    pub(super) fn backward(
        &self,
        layer_context: LayerContext<'_, A>,
        cache: &AttentionCache<A>,
        dy: &Array3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<Array3<A>> {
        Ok(self
            .backward_both(layer_context, cache, dy, dropout, gradients, shared_gradients)?
            .0)
    }

    /// The gradient of the rows that attend, and of the sequence that they attend to where it is another.
    pub(super) fn backward_both(
        &self,
        layer_context: LayerContext<'_, A>,
        cache: &AttentionCache<A>,
        dy: &Array3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<(Array3<A>, Option<Array3<A>>)> {
        match (self, gradients) {
            (Self::Linformer(attention), Self::Linformer(own)) => {
                attention.backward_dropped(layer_context, cache, dy, dropout, own, shared_gradients)
            }
            (Self::Exact(attention), Self::Exact(own)) => attention.backward_dropped(cache, dy, dropout, own),
            (Self::Causal(attention), Self::Causal(own)) => {
                let dx = attention.backward_dropped(layer_context.projections, cache, dy, dropout, own, shared_gradients)?;
                Ok((dx, None))
            }
            (Self::LocalGlobal(attention), Self::LocalGlobal(own)) => {
                Ok((attention.backward_dropped(layer_context.shard, cache, dy, dropout, own)?, None))
            }
            _ => Err(Error::argument(
                "Encoder::backward",
                "the gradients are of a model with another attention",
            )),
        }
    }
}

fn not_causal() -> Error {
    Error::argument("Encoder", "only causal attention continues token by token")
}

fn not_of_another() -> Error {
    Error::argument(
        "Decoder",
        "this attention sees its own sequence only; attend to another with LinformerConfig, or with AttentionConfig",
    )
}
