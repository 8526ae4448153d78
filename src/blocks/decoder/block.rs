//! One block of a decoder.

use ndarray::{Array3, ArrayRef3};

use crate::attention::{Compressed, PaddingMask, Projections, Workspace};
use crate::blocks::{Attention, EncoderBlock, FeedForwardBlock};
use crate::config::EncoderConfig;
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Self-attention, perhaps a feed-forward, cross-attention, then a feed-forward, each with a norm and a residual.
#[derive(Clone, Debug)]
pub struct DecoderBlock<A = f32> {
    /// The first half, which attends to the target.
    target: EncoderBlock<A>,
    /// The second half, which attends to the source.
    source: EncoderBlock<A>,
}

parameters!(DecoderBlock { target, source });

impl<A: Scalar> DecoderBlock<A> {
    pub(in crate::blocks) fn draw(target: &EncoderConfig, source: &EncoderConfig, layer: usize, streams: &mut Streams) -> Self {
        Self {
            target: EncoderBlock::draw(target, layer, streams),
            source: EncoderBlock::draw(source, layer, streams),
        }
    }

    /// The attention of the target to itself.
    pub fn self_attention(&self) -> &Attention<A> {
        self.target.attention()
    }

    /// The feed-forward between the two attentions, if there is one.
    pub fn middle_feed_forward(&self) -> Option<&FeedForwardBlock<A>> {
        self.target.feed_forward()
    }

    /// The attention of the target to the source.
    pub fn cross_attention(&self) -> &Attention<A> {
        self.source.attention()
    }

    /// The feed-forward after cross-attention, if there is one.
    pub fn feed_forward(&self) -> Option<&FeedForwardBlock<A>> {
        self.source.feed_forward()
    }

    pub(in crate::blocks) fn halves(&self) -> (&EncoderBlock<A>, &EncoderBlock<A>) {
        (&self.target, &self.source)
    }

    pub(in crate::blocks) fn halves_mut(&mut self) -> (&mut EncoderBlock<A>, &mut EncoderBlock<A>) {
        (&mut self.target, &mut self.source)
    }

    /// The block on the residual stream; `mask` is the target's.
    pub(in crate::blocks) fn apply(
        &self,
        stream: Array3<A>,
        (own, context): (Option<&Projections<A>>, &Compressed<A>),
        mask: Option<&PaddingMask>,
        workspace: &mut Workspace<A>,
    ) -> Result<Array3<A>> {
        let stream = self.target.apply(stream, own, mask, workspace)?;
        self.attend(stream, context)
    }

    /// The second half.
    pub(in crate::blocks) fn attend(&self, stream: Array3<A>, context: &Compressed<A>) -> Result<Array3<A>> {
        self.source
            .apply_around(stream, |queries| self.cross_attention().attend(queries, context))
    }
}

impl<A: Scalar> Attention<A> {
    /// The keys and values of another sequence.
    pub(in crate::blocks) fn compress(
        &self,
        shared: Option<&Projections<A>>,
        context: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<Compressed<A>> {
        match self {
            Self::Linformer(attention) => attention.compress_with(attention.own_or(shared)?, context, mask),
            Self::Exact(attention) => attention.keys_of("Decoder::compress", context, mask),
            Self::Causal(_) => Err(not_of_another()),
        }
    }

    /// An error unless these are keys and values of the heads that it makes.
    pub(in crate::blocks) fn check_context(&self, operation: &'static str, context: &Compressed<A>) -> Result<()> {
        let heads = match self {
            Self::Linformer(attention) => attention.config().compressed_heads(),
            Self::Exact(attention) => attention.config().kv_heads,
            Self::Causal(_) => return Err(not_of_another()),
        };
        context.check_heads(operation, (heads, self.config().effective_head_dim()))
    }

    /// Attention to the keys and values of another sequence.
    fn attend(&self, queries: &ArrayRef3<A>, context: &Compressed<A>) -> Result<Array3<A>> {
        match self {
            Self::Linformer(attention) => attention.attend(queries, context),
            Self::Exact(attention) => attention.attend_to("Decoder::attend", queries, context),
            Self::Causal(_) => Err(not_of_another()),
        }
    }
}

pub(in crate::blocks) fn not_of_another() -> Error {
    Error::argument("Decoder", "causal attention has no other sequence to attend to")
}
