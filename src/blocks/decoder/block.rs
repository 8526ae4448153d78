//! One block of a decoder.

use ndarray::Array3;

use crate::attention::{Compressed, PaddingMask, Projections, Workspace};
use crate::blocks::{Attention, EncoderBlock, FeedForwardBlock};
use crate::config::EncoderConfig;
use crate::error::Result;
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
    pub(in crate::blocks) fn init(target: &EncoderConfig, source: &EncoderConfig, layer: usize, streams: &mut Streams) -> Self {
        Self {
            target: EncoderBlock::init(target, layer, streams),
            source: EncoderBlock::init(source, layer, streams),
        }
    }

    /// Returns the attention of the target to itself.
    pub fn self_attention(&self) -> &Attention<A> {
        self.target.attention()
    }

    /// Returns the feed-forward between the two attentions, if there is one.
    pub fn middle_feed_forward(&self) -> Option<&FeedForwardBlock<A>> {
        self.target.feed_forward()
    }

    /// Returns the attention of the target to the source.
    pub fn cross_attention(&self) -> &Attention<A> {
        self.source.attention()
    }

    /// Returns the feed-forward after cross-attention, if there is one.
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
