//! Training of blocks: forward with a cache of O(n·d), and backward.

use ndarray::Array3;

use super::block::EncoderBlock;
use crate::attention::{AttentionCache, Lent, PaddingMask, Projections};
use crate::blocks::Attention;
use crate::blocks::feed_forward::FeedForwardBlockCache;
use crate::config::{NormPlacement, TrainingPass};
use crate::error::Result;
use crate::initialization::Place;
use crate::layers::{add, drop_out, dropped};
use crate::ops::Dropout;
use crate::room::Room;
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
    fn give(self, room: Room<'_, A>) {
        self.attention.give(room);
        room.give(self.attention_normed);
        if let Some(feed_forward) = self.feed_forward {
            feed_forward.give(room);
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
        self.train_around(x, pass, layer, lent.room, |input, weights| {
            self.attention().train(lent, input, mask, weights)
        })
    }

    /// [`train`](Self::train) with `attend` for the block's attention, given its input and the dropout of its weights.
    pub(in crate::blocks) fn train_around(
        &self,
        x: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        room: Room<'_, A>,
        attend: impl FnOnce(Array3<A>, Option<Dropout<A>>) -> Result<(Array3<A>, AttentionCache<A>)>,
    ) -> Result<(Array3<A>, BlockCache<A>)> {
        let weights = pass.dropout(layer, Place::AttentionWeights);
        let input = match self.placement() {
            NormPlacement::Pre => self.attention_norm().forward_in(room, &x),
            NormPlacement::Post => x.clone(),
        };
        let (mut stream, mut attention) = attend(input, weights)?;
        if self.placement() == NormPlacement::Pre {
            room.give(attention.take_x());
        }
        drop_out(&mut stream, pass.dropout(layer, Place::AttentionOutput));
        add(&mut stream, &x);
        let attention_normed = match self.placement() {
            NormPlacement::Pre => x,
            NormPlacement::Post => {
                let normed = self.attention_norm().forward_in(room, &stream);
                std::mem::replace(&mut stream, normed)
            }
        };
        let (stream, feed_forward) = match self.feed_forward() {
            None => (stream, None),
            Some(feed_forward) => {
                let (stream, cache) = feed_forward.train(self.placement(), stream, pass, layer, room);
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
        self.backward_around(cache, dy, pass, layer, gradients, lent.room, |cache, dy, weights, own| {
            self.attention().backward(lent, cache, dy, weights, own, shared_gradients)
        })
    }

    /// [`backward`](Self::backward) with `attend` for the attention's: given its cache, the gradient of its output, the dropout of its
    /// weights and the place of its own gradients.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(in crate::blocks) fn backward_around(
        &self,
        mut cache: BlockCache<A>,
        mut dy: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        gradients: &mut Self,
        room: Room<'_, A>,
        attend: impl FnOnce(&AttentionCache<A>, &Array3<A>, Option<Dropout<A>>, &mut Attention<A>) -> Result<Array3<A>>,
    ) -> Result<Array3<A>> {
        let placement = self.placement();
        let (own_norm, own_attention, own_feed_forward) = gradients.parts_mut();
        if let (Some(feed_forward), Some(cache), Some(own)) = (self.feed_forward(), &mut cache.feed_forward, own_feed_forward) {
            dy = feed_forward.backward(placement, cache, dy, pass, layer, own, room);
        }
        if placement == NormPlacement::Post {
            self.attention_norm().backward_in_place(&cache.attention_normed, &mut dy, own_norm);
        }
        let dattention = dropped(&dy, pass.dropout(layer, Place::AttentionOutput));
        let weights = pass.dropout(layer, Place::AttentionWeights);
        if placement == NormPlacement::Pre {
            cache
                .attention
                .restore_x(self.attention_norm().forward_in(room, &cache.attention_normed));
        }
        let mut dinput = attend(&cache.attention, &dattention, weights, own_attention)?;
        if placement == NormPlacement::Pre {
            self.attention_norm()
                .backward_in_place(&cache.attention_normed, &mut dinput, own_norm);
        }
        add(&mut dinput, &dy);
        drop(dattention);
        room.give(dy);
        cache.give(room);
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
            let (added, mut cache) = feed_forward.added(NormPlacement::Pre, first.clone(), pass, layer, lent.room);
            *second -= &added;
            lent.room.give(added);
            let dx = feed_forward.added_backward(NormPlacement::Pre, &mut cache, dsecond, pass, layer, own, lent.room);
            add(dfirst, &dx);
            lent.room.give(dx);
            cache.give(lent.room);
        }
        // first += attention(norm(second))
        let weights = pass.dropout(layer, Place::AttentionWeights);
        let input = self.attention_norm().forward_in(lent.room, second);
        let (mut added, cache) = self.attention().train(lent, input, mask, weights)?;
        drop_out(&mut added, pass.dropout(layer, Place::AttentionOutput));
        *first -= &added;
        lent.room.give(added);
        let dattention = dropped(dfirst, pass.dropout(layer, Place::AttentionOutput));
        let mut dinput = self
            .attention()
            .backward(lent, &cache, &dattention, weights, own_attention, shared_gradients)?;
        self.attention_norm().backward_in_place(second, &mut dinput, own_norm);
        add(dsecond, &dinput);
        lent.room.give(dinput);
        cache.give(lent.room);
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
        let input = self.attention_norm().forward_in(lent.room, second);
        let (mut added, _) = self
            .attention()
            .train(lent, input, mask, pass.dropout(layer, Place::AttentionWeights))?;
        drop_out(&mut added, pass.dropout(layer, Place::AttentionOutput));
        add(first, &added);
        if let Some(feed_forward) = self.feed_forward() {
            add(
                second,
                &feed_forward.added(NormPlacement::Pre, first.clone(), pass, layer, lent.room).0,
            );
        }
        Ok(())
    }
}
