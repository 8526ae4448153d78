//! Training of blocks: forward with a cache of O(n·d), and backward.

use std::borrow::Cow;

use ndarray::{Array3, s};

use super::Attention;
use super::encoder_block::EncoderBlock;
use super::feed_forward_training::FeedForwardBlockCache;
use crate::attention::{AttentionCache, Lent, PaddingMask, Projections};
use crate::buffer_pool::Buffers;
use crate::config::{NormPlacement, TrainingPass};
use crate::error::{Error, Result};
use crate::initialization::Place;
use crate::layers::{LayerNorm, TILE, add, drop_out, for_each_tile, rows};
use crate::ops::Dropout;
use crate::parallel;
use crate::scalar::Scalar;

/// What a block's backward pass needs.
#[derive(Clone, Debug)]
pub(crate) struct BlockCache<A> {
    attention: AttentionCache<A>,
    /// What the attention's norm was given: x before it (pre-norm), x + attention(x) (post-norm).
    attention_normed: Array3<A>,
    feed_forward: Option<FeedForwardBlockCache<A>>,
}

impl<A: Scalar> BlockCache<A> {
    /// Gives its memory back.
    fn recycle(self, buffers: Buffers<'_, A>) {
        self.attention.recycle(buffers);
        buffers.recycle(self.attention_normed);
        if let Some(feed_forward) = self.feed_forward {
            feed_forward.recycle(buffers);
        }
    }
}

/// The gradient of what was dropped out of, given that of what came out.
pub(super) fn dropped<A: Scalar>(dy: &Array3<A>, dropout: Option<Dropout<A>>) -> Cow<'_, Array3<A>> {
    let mut dy = Cow::Borrowed(dy);
    if dropout.is_some() {
        drop_out(dy.to_mut(), dropout);
    }
    dy
}

/// `x`, row after row in memory.
pub(super) fn contiguous<A: Scalar>(x: Array3<A>) -> Array3<A> {
    if x.is_standard_layout() {
        x
    } else {
        x.as_standard_layout().into_owned()
    }
}

pub(super) fn normed<A: Scalar>(norm: &LayerNorm<A>, x: &Array3<A>, buffers: Buffers<'_, A>) -> Array3<A> {
    let mut normed = buffers.array3(x.dim());
    let cost = parallel::cost(&[x.len(), 4]);
    for_each_tile(normed.view_mut(), TILE, cost, |item, range, mut rows| {
        norm.apply(x.slice(s![item, range, ..]), &mut rows);
    });
    normed
}

/// The gradient of what a norm was given, in the place of that of its output.
pub(super) fn norm_backward<A: Scalar>(norm: &LayerNorm<A>, x: &Array3<A>, dy: &mut Array3<A>, gradients: &mut LayerNorm<A>) {
    let (batch, length, dim) = x.dim();
    let mut dy = dy
        .view_mut()
        .into_shape_with_order((batch * length, dim))
        .expect("training keeps its sequences contiguous");
    norm.backward(rows(x), &mut dy, gradients);
}

impl<A: Scalar> Attention<A> {
    fn train(
        &self,
        lent: Lent<'_, A>,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        dropout: Option<Dropout<A>>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        match self {
            Self::Linformer(attention) => attention.train_with(lent, x, None, mask, dropout),
            Self::Exact(attention) => attention.train(x, None, mask, dropout),
            Self::Causal(attention) => attention.train_with(lent.projections, x, mask, dropout),
        }
    }

    fn backward(
        &self,
        lent: Lent<'_, A>,
        cache: &AttentionCache<A>,
        dy: &Array3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<Array3<A>> {
        Ok(self.backward_both(lent, cache, dy, dropout, gradients, shared_gradients)?.0)
    }

    /// The gradient of the rows that attend, and of the sequence that they attend to where it is another.
    pub(super) fn backward_both(
        &self,
        lent: Lent<'_, A>,
        cache: &AttentionCache<A>,
        dy: &Array3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<(Array3<A>, Option<Array3<A>>)> {
        match (self, gradients) {
            (Self::Linformer(attention), Self::Linformer(own)) => {
                attention.backward_dropped(lent, cache, dy, dropout, own, shared_gradients)
            }
            (Self::Exact(attention), Self::Exact(own)) => attention.backward_dropped(cache, dy, dropout, own),
            (Self::Causal(attention), Self::Causal(own)) => {
                let dx = attention.backward_dropped(lent.projections, cache, dy, dropout, own, shared_gradients)?;
                Ok((dx, None))
            }
            _ => Err(Error::argument(
                "Encoder::backward",
                "the gradients are of a model with another attention",
            )),
        }
    }
}

impl<A: Scalar> EncoderBlock<A> {
    /// The block on the residual stream, and what the backward pass needs.
    pub(crate) fn train(
        &self,
        x: Array3<A>,
        lent: Lent<'_, A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        layer: usize,
    ) -> Result<(Array3<A>, BlockCache<A>)> {
        self.train_around(x, pass, layer, lent.buffers, |input, weights| {
            self.attention().train(lent, input, mask, weights)
        })
    }

    /// [`train`](Self::train) with `attend` for the block's attention, given its input and the dropout of its weights.
    pub(super) fn train_around(
        &self,
        x: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        buffers: Buffers<'_, A>,
        attend: impl FnOnce(Array3<A>, Option<Dropout<A>>) -> Result<(Array3<A>, AttentionCache<A>)>,
    ) -> Result<(Array3<A>, BlockCache<A>)> {
        let weights = pass.dropout(layer, Place::AttentionWeights);
        let input = match self.placement() {
            NormPlacement::Pre => normed(self.attention_norm(), &x, buffers),
            NormPlacement::Post => x.clone(),
        };
        let (mut stream, mut attention) = attend(input, weights)?;
        if self.placement() == NormPlacement::Pre {
            buffers.recycle(attention.take_x());
        }
        drop_out(&mut stream, pass.dropout(layer, Place::AttentionOutput));
        add(&mut stream, &x);
        let attention_normed = match self.placement() {
            NormPlacement::Pre => x,
            NormPlacement::Post => {
                let normed = normed(self.attention_norm(), &stream, buffers);
                std::mem::replace(&mut stream, normed)
            }
        };
        let (stream, feed_forward) = match self.feed_forward() {
            None => (stream, None),
            Some(feed_forward) => {
                let (stream, cache) = feed_forward.train(self.placement(), stream, pass, layer, buffers);
                (stream, Some(cache))
            }
        };
        let cache = BlockCache {
            attention,
            attention_normed,
            feed_forward,
        };
        Ok((stream, cache))
    }

    /// The gradient of the stream before the block, given that after it.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(crate) fn backward(
        &self,
        cache: BlockCache<A>,
        dy: Array3<A>,
        lent: Lent<'_, A>,
        pass: &TrainingPass,
        layer: usize,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<Array3<A>> {
        self.backward_around(cache, dy, pass, layer, gradients, lent.buffers, |cache, dy, weights, own| {
            self.attention().backward(lent, cache, dy, weights, own, shared_gradients)
        })
    }

    /// [`backward`](Self::backward) with `attend` for the attention's: given its cache, the gradient of its output, the dropout of its
    /// weights and the place of its own gradients.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(super) fn backward_around(
        &self,
        mut cache: BlockCache<A>,
        mut dy: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        gradients: &mut Self,
        buffers: Buffers<'_, A>,
        attend: impl FnOnce(&AttentionCache<A>, &Array3<A>, Option<Dropout<A>>, &mut Attention<A>) -> Result<Array3<A>>,
    ) -> Result<Array3<A>> {
        let placement = self.placement();
        let (own_norm, own_attention, own_feed_forward) = gradients.parts_mut();
        if let (Some(feed_forward), Some(cache), Some(own)) = (self.feed_forward(), &mut cache.feed_forward, own_feed_forward) {
            dy = feed_forward.backward(placement, cache, dy, pass, layer, own, buffers);
        }
        if placement == NormPlacement::Post {
            norm_backward(self.attention_norm(), &cache.attention_normed, &mut dy, own_norm);
        }
        let dattention = dropped(&dy, pass.dropout(layer, Place::AttentionOutput));
        let weights = pass.dropout(layer, Place::AttentionWeights);
        if placement == NormPlacement::Pre {
            cache
                .attention
                .restore_x(normed(self.attention_norm(), &cache.attention_normed, buffers));
        }
        let mut dinput = attend(&cache.attention, &dattention, weights, own_attention)?;
        if placement == NormPlacement::Pre {
            norm_backward(self.attention_norm(), &cache.attention_normed, &mut dinput, own_norm);
        }
        add(&mut dinput, &dy);
        drop(dattention);
        buffers.recycle(dy);
        cache.recycle(buffers);
        Ok(dinput)
    }

    /// The gradients of both streams before a reversible block, in the place of those after it; the streams themselves are led back too.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(crate) fn backward_reversible(
        &self,
        streams: &mut [Array3<A>; 2],
        grads: &mut [Array3<A>; 2],
        mask: Option<&PaddingMask>,
        lent: Lent<'_, A>,
        pass: &TrainingPass,
        layer: usize,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<()> {
        let [first, second] = streams;
        let [dfirst, dsecond] = grads;
        let (own_norm, own_attention, own_feed_forward) = gradients.parts_mut();
        if let (Some(feed_forward), Some(own)) = (self.feed_forward(), own_feed_forward) {
            // second += f(norm(first))
            let (added, mut cache) = feed_forward.added(NormPlacement::Pre, first.clone(), pass, layer, lent.buffers);
            *second -= &added;
            lent.buffers.recycle(added);
            let dx = feed_forward.added_backward(NormPlacement::Pre, &mut cache, dsecond, pass, layer, own, lent.buffers);
            add(dfirst, &dx);
            lent.buffers.recycle(dx);
            cache.recycle(lent.buffers);
        }
        // first += attention(norm(second))
        let weights = pass.dropout(layer, Place::AttentionWeights);
        let input = normed(self.attention_norm(), second, lent.buffers);
        let (mut added, cache) = self.attention().train(lent, input, mask, weights)?;
        drop_out(&mut added, pass.dropout(layer, Place::AttentionOutput));
        *first -= &added;
        lent.buffers.recycle(added);
        let dattention = dropped(dfirst, pass.dropout(layer, Place::AttentionOutput));
        let mut dinput = self
            .attention()
            .backward(lent, &cache, &dattention, weights, own_attention, shared_gradients)?;
        norm_backward(self.attention_norm(), second, &mut dinput, own_norm);
        add(dsecond, &dinput);
        lent.buffers.recycle(dinput);
        cache.recycle(lent.buffers);
        Ok(())
    }

    /// The reversible form on two streams.
    pub(crate) fn train_reversible(
        &self,
        streams: &mut [Array3<A>; 2],
        mask: Option<&PaddingMask>,
        lent: Lent<'_, A>,
        pass: &TrainingPass,
        layer: usize,
    ) -> Result<()> {
        let [first, second] = streams;
        let input = normed(self.attention_norm(), second, lent.buffers);
        let (mut added, _) = self
            .attention()
            .train(lent, input, mask, pass.dropout(layer, Place::AttentionWeights))?;
        drop_out(&mut added, pass.dropout(layer, Place::AttentionOutput));
        add(first, &added);
        if let Some(feed_forward) = self.feed_forward() {
            add(
                second,
                &feed_forward.added(NormPlacement::Pre, first.clone(), pass, layer, lent.buffers).0,
            );
        }
        Ok(())
    }
}
