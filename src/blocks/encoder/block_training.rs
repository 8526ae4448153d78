//! Training of blocks: forward with a cache of O(n·d), and backward.

use std::slice;

use ndarray::{Array3, ArrayRef3};

use super::block::EncoderBlock;
use crate::attention::{AttentionCache, LayerContext, PaddingMask, Projections};
use crate::blocks::Attention;
use crate::blocks::feed_forward::FeedForwardBlockCache;
use crate::blocks::stack::{SavedBlock, train_blocks};
use crate::buffer_pool::Buffers;
use crate::config::{AttentionKind, FeedForwardConfig, NormPlacement, TrainingPass, check_alike};
use crate::error::Result;
use crate::initialization::Place;
use crate::layers::{add, check_gradient, check_width, contiguous, drop_out, dropped};
use crate::ops::Dropout;
use crate::parallel;
use crate::scalar::Scalar;

/// The state that the backward pass of an [`EncoderBlock`] needs.
#[derive(Clone, Debug)]
pub struct EncoderBlockCache<A = f32> {
    kind: BlockKind,
    pass: TrainingPass,
    mask: Option<PaddingMask>,
    saved: SavedBlock<A, BlockCache<A>>,
    dim: (usize, usize, usize),
}

/// The parts by which blocks, gradients and caches of each other are matched.
#[derive(Clone, Debug, PartialEq)]
struct BlockKind {
    attention: AttentionKind,
    feed_forward: Option<FeedForwardConfig>,
    widths: [usize; 2],
    placement: NormPlacement,
}

impl<A: Scalar> EncoderBlock<A> {
    /// Runs [`forward`](Self::forward) with the dropout of the `pass`; returns the output and what [`backward`](Self::backward) needs: O(n·d)
    /// numbers, or the input alone with gradient checkpointing. Several blocks one after another drop different elements where each has a pass with its
    /// own [`first_layer`](TrainingPass::first_layer).
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if a rate of the pass is below 0, or 1 or more.
    pub fn forward_train(
        &self,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, EncoderBlockCache<A>)> {
        const OPERATION: &str = "EncoderBlock::forward_train";
        pass.check()?;
        check_width(OPERATION, "x", x, self.in_dim())?;
        PaddingMask::check(mask, OPERATION, x.dim().0, x.dim().1)?;
        let x = x.as_standard_layout().into_owned();
        let (y, mut saved) = parallel::within(training_cost(&x), || {
            train_blocks(
                slice::from_ref(self),
                x,
                pass.gradient_checkpointing,
                |layer, block| block.is_dropped(pass, layer),
                |layer, block, x| block.train(x, LayerContext::whole(None), mask, pass, layer),
                |_| (),
            )
        })?;
        let cache = EncoderBlockCache {
            kind: self.kind(),
            pass: *pass,
            mask: mask.cloned(),
            saved: saved.pop().unwrap_or(SavedBlock::Dropped),
            dim: y.dim(),
        };
        Ok((y, cache))
    }

    /// Returns the gradient of the input, (batch, n, `in_dim`), given `dy` of the output, (batch, n, `out_dim`). Those of the parameters are added to
    /// `gradients`, a value like the block's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// ```
    /// use linformer::ndarray::Array3;
    /// use linformer::training::Step;
    /// use linformer::{EncoderBlock, EncoderConfig, LinformerConfig, Parameters, TrainingPass};
    ///
    /// let block = EncoderBlock::<f32>::new(&EncoderConfig::new(LinformerConfig::new(16, 2, 64, 8), 1), 0)?;
    /// let pass = TrainingPass::new(Step::new(7, 0)).with_residual_dropout(0.1);
    /// let (y, cache) = block.forward_train(&Array3::ones((2, 50, 16)), None, &pass)?;
    ///
    /// let mut gradients = block.zeros_like();
    /// let dx = block.backward(cache, Array3::ones(y.dim()), &mut gradients)?;
    /// assert_eq!(dx.dim(), (2, 50, 16));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of the output, or the cache or the gradients are of a block of another configuration.
    pub fn backward(&self, cache: EncoderBlockCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "EncoderBlock::backward";
        check_alike(OPERATION, &self.kind(), &cache.kind, &gradients.kind())?;
        check_gradient(OPERATION, &dy, cache.dim)?;
        let dy = contiguous(dy);
        let (pass, mask) = (&cache.pass, cache.mask.as_ref());
        parallel::within(training_cost(&dy), || {
            let layer_context = LayerContext::whole(None);
            match cache.saved.cache(|input| self.train(input, layer_context, mask, pass, 0))? {
                Some(cache) => self.backward_through(cache, dy, layer_context, pass, 0, gradients, None),
                None => Ok(dy),
            }
        })
    }

    /// Whether the pass leaves the block out, which it can where the block keeps the width.
    pub(super) fn is_dropped(&self, pass: &TrainingPass, layer: usize) -> bool {
        pass.drops_layer(layer) && self.in_dim() == self.out_dim()
    }

    /// The dropout of the attention's weights.
    fn weights_dropout(&self, pass: &TrainingPass, layer: usize) -> Option<Dropout<A>> {
        let pass = match self.attention() {
            // It knows the positions of its rows in whole sequences.
            Attention::LocalGlobal(_) => pass.for_positions(),
            _ => *pass,
        };
        pass.dropout(layer, Place::AttentionWeights)
    }

    fn kind(&self) -> BlockKind {
        BlockKind {
            attention: self.attention().kind(),
            feed_forward: self.feed_forward().map(|feed_forward| feed_forward.layer().config()),
            widths: [self.in_dim(), self.out_dim()],
            placement: self.placement(),
        }
    }
}

/// Multiplications of a pass over the sequences, at least.
fn training_cost<A>(x: &Array3<A>) -> usize {
    parallel::cost(&[x.len(), x.dim().2])
}

/// The cache of one block.
#[derive(Clone, Debug)]
pub(crate) struct BlockCache<A> {
    attention: AttentionCache<A>,
    /// The input of the attention's norm: x before it (pre-norm), x + attention(x) (post-norm).
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

impl<A: Scalar> EncoderBlock<A> {
    /// The block on the residual stream, and what the backward pass needs.
    pub(crate) fn train(
        &self,
        x: Array3<A>,
        layer_context: LayerContext<'_, A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        layer: usize,
    ) -> Result<(Array3<A>, BlockCache<A>)> {
        self.train_around(x, pass, layer, layer_context.buffers, |input, weights| {
            self.attention().train(layer_context, input, mask, weights)
        })
    }

    /// [`train`](Self::train) with `attend` for the block's attention, given its input and the dropout of its weights.
    pub(in crate::blocks) fn train_around(
        &self,
        x: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        buffers: Buffers<'_, A>,
        attend: impl FnOnce(Array3<A>, Option<Dropout<A>>) -> Result<(Array3<A>, AttentionCache<A>)>,
    ) -> Result<(Array3<A>, BlockCache<A>)> {
        let weights = self.weights_dropout(pass, layer);
        let input = match self.placement() {
            NormPlacement::Pre => self.attention_norm().forward_in(buffers, &x),
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
                let normed = self.attention_norm().forward_in(buffers, &stream);
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
    pub(crate) fn backward_through(
        &self,
        cache: BlockCache<A>,
        dy: Array3<A>,
        layer_context: LayerContext<'_, A>,
        pass: &TrainingPass,
        layer: usize,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<Array3<A>> {
        self.backward_around(
            cache,
            dy,
            pass,
            layer,
            gradients,
            layer_context.buffers,
            |cache, dy, weights, own| self.attention().backward(layer_context, cache, dy, weights, own, shared_gradients),
        )
    }

    /// [`backward_through`](Self::backward_through) with `attend` for the attention's: given its cache, the gradient of its output, the dropout of its
    /// weights and the place of its own gradients.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(in crate::blocks) fn backward_around(
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
            self.attention_norm().backward_in_place(&cache.attention_normed, &mut dy, own_norm);
        }
        let dattention = dropped(&dy, pass.dropout(layer, Place::AttentionOutput));
        let weights = self.weights_dropout(pass, layer);
        if placement == NormPlacement::Pre {
            cache
                .attention
                .restore_x(self.attention_norm().forward_in(buffers, &cache.attention_normed));
        }
        let mut dinput = attend(&cache.attention, &dattention, weights, own_attention)?;
        if placement == NormPlacement::Pre {
            self.attention_norm()
                .backward_in_place(&cache.attention_normed, &mut dinput, own_norm);
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
        layer_context: LayerContext<'_, A>,
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
            let (added, mut cache) = feed_forward.added(NormPlacement::Pre, first.clone(), pass, layer, layer_context.buffers);
            *second -= &added;
            layer_context.buffers.recycle(added);
            let dx = feed_forward.added_backward(NormPlacement::Pre, &mut cache, dsecond, pass, layer, own, layer_context.buffers);
            add(dfirst, &dx);
            layer_context.buffers.recycle(dx);
            cache.recycle(layer_context.buffers);
        }
        // first += attention(norm(second))
        let weights = self.weights_dropout(pass, layer);
        let input = self.attention_norm().forward_in(layer_context.buffers, second);
        let (mut added, cache) = self.attention().train(layer_context, input, mask, weights)?;
        drop_out(&mut added, pass.dropout(layer, Place::AttentionOutput));
        *first -= &added;
        layer_context.buffers.recycle(added);
        let dattention = dropped(dfirst, pass.dropout(layer, Place::AttentionOutput));
        let mut dinput = self
            .attention()
            .backward(layer_context, &cache, &dattention, weights, own_attention, shared_gradients)?;
        self.attention_norm().backward_in_place(second, &mut dinput, own_norm);
        add(dsecond, &dinput);
        layer_context.buffers.recycle(dinput);
        cache.recycle(layer_context.buffers);
        Ok(())
    }

    /// The reversible form on two streams.
    pub(crate) fn train_reversible(
        &self,
        streams: &mut [Array3<A>; 2],
        mask: Option<&PaddingMask>,
        layer_context: LayerContext<'_, A>,
        pass: &TrainingPass,
        layer: usize,
    ) -> Result<()> {
        let [first, second] = streams;
        let input = self.attention_norm().forward_in(layer_context.buffers, second);
        let (mut added, _) = self
            .attention()
            .train(layer_context, input, mask, self.weights_dropout(pass, layer))?;
        drop_out(&mut added, pass.dropout(layer, Place::AttentionOutput));
        add(first, &added);
        if let Some(feed_forward) = self.feed_forward() {
            add(
                second,
                &feed_forward
                    .added(NormPlacement::Pre, first.clone(), pass, layer, layer_context.buffers)
                    .0,
            );
        }
        Ok(())
    }
}
