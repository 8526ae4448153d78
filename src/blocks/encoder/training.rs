//! Training of encoders: what is saved of each block, and the way back through them.

use ndarray::{Array3, ArrayRef3};

use super::Encoder;
use super::block_training::BlockCache;
use crate::attention::{LayerContext, PaddingMask, SequenceShard};
use crate::blocks::stack::{SavedBlock, train_blocks};
use crate::buffer_pool::Buffers;
use crate::config::{EncoderConfig, TrainingPass, check_alike};
use crate::error::Result;
use crate::layers::{check_gradient, check_width, contiguous};
use crate::parallel;
use crate::scalar::Scalar;

/// The state that the backward pass of an [`Encoder`] needs.
#[derive(Clone, Debug)]
pub struct EncoderCache<A = f32> {
    config: EncoderConfig,
    pass: TrainingPass,
    mask: Option<PaddingMask>,
    saved: Saved<A>,
    /// The input of the final norm.
    last: Option<Array3<A>>,
    dim: (usize, usize, usize),
}

impl<A> EncoderCache<A> {
    /// Returns the pass that made it.
    pub fn pass(&self) -> &TrainingPass {
        &self.pass
    }
}

#[derive(Clone, Debug)]
enum Saved<A> {
    Blocks(Vec<SavedBlock<A, BlockCache<A>>>),
    /// The two streams after the last block: those before it are computed from them.
    Reversible(Box<[Array3<A>; 2]>),
}

impl<A: Scalar> Encoder<A> {
    /// Runs [`forward`](Self::forward) with the pass's dropout; returns the output and what [`backward`](Self::backward) needs: O(n·d) numbers a
    /// layer; with gradient checkpointing one sequence a layer, in the reversible form two in total.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if a rate of the pass is below 0, or 1 or more.
    pub fn forward_train(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>, pass: &TrainingPass) -> Result<(Array3<A>, EncoderCache<A>)> {
        check_width("Encoder::forward_train", "x", x, self.config().dim())?;
        self.forward_train_shard(x.as_standard_layout().into_owned(), mask, pass, None)
    }

    /// [`forward_train`](Self::forward_train) of a shard of sequences, if it is one.
    pub(crate) fn forward_train_shard(
        &self,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<(Array3<A>, EncoderCache<A>)> {
        pass.check()?;
        let x = self.checked(x, mask)?;
        match shard {
            None => parallel::within(self.training_cost(&x), || self.train(x, mask, pass, None, |_| ())),
            // Shards wait for one another, and the pool's threads must not.
            shard => self.train(x, mask, pass, shard, |_| ()),
        }
    }

    /// [`forward_train`](Self::forward_train), and the [`hidden_states`](Self::hidden_states) of the pass.
    pub(crate) fn forward_train_hidden(
        &self,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Vec<Array3<A>>, EncoderCache<A>)> {
        pass.check()?;
        self.check_single_stream("Encoder::forward_train_hidden")?;
        let x = self.checked(x.as_standard_layout().into_owned(), mask)?;
        let mut hidden = Vec::with_capacity(self.blocks().len());
        let (y, cache) = parallel::within(self.training_cost(&x), || {
            self.train(x, mask, pass, None, |stream| hidden.push(stream.clone()))
        })?;
        // An encoder without blocks has no state to put the output's in.
        if let Some(last) = hidden.last_mut() {
            *last = y;
        }
        Ok((hidden, cache))
    }

    fn train(
        &self,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        shard: Option<&dyn SequenceShard<A>>,
        after_each: impl FnMut(&Array3<A>),
    ) -> Result<(Array3<A>, EncoderCache<A>)> {
        let dim = x.dim();
        self.buffer_pool().begin();
        let layer_context = self.layer_context(shard);
        let (mut stream, saved) = if self.config().reversible {
            let mut streams = Box::new([x.clone(), x]);
            for (layer, block) in self.blocks().iter().enumerate().filter(|&(layer, _)| !pass.drops_layer(layer)) {
                block.train_reversible(&mut streams, mask, layer_context, pass, layer)?;
            }
            (&streams[0] + &streams[1], Saved::Reversible(streams))
        } else {
            let (stream, saved) = train_blocks(
                self.blocks(),
                x,
                pass.gradient_checkpointing,
                |layer, block| block.is_dropped(pass, layer),
                |layer, block, stream| block.train(stream, layer_context, mask, pass, layer),
                after_each,
            )?;
            (stream, Saved::Blocks(saved))
        };
        let last = self.final_norm().map(|norm| {
            let normed = norm.forward_in(layer_context.buffers, &stream);
            std::mem::replace(&mut stream, normed)
        });
        let cache = EncoderCache {
            config: self.config().clone(),
            pass: *pass,
            mask: mask.cloned(),
            saved,
            last,
            dim,
        };
        Ok((stream, cache))
    }

    /// Returns the gradient of the input, given `dy` of the output, both (batch, n, width). Those of the parameters are added to `gradients`, a value
    /// like the encoder's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// ```
    /// use linformer::ndarray::Array3;
    /// use linformer::training::{MeanSquaredError, Step};
    /// use linformer::{Encoder, EncoderConfig, LinformerConfig, Parameters, TrainingPass};
    ///
    /// let encoder = Encoder::<f32>::new(&EncoderConfig::new(LinformerConfig::new(16, 2, 64, 8), 2), 0)?;
    /// let pass = TrainingPass::new(Step::new(7, 0)).with_residual_dropout(0.1);
    /// let (y, cache) = encoder.forward_train(&Array3::ones((2, 50, 16)), None, &pass)?;
    /// let (_, dy) = MeanSquaredError::new().loss_and_gradient(&y, &Array3::zeros(y.dim()))?;
    ///
    /// let mut gradients = encoder.zeros_like();
    /// let dx = encoder.backward(cache, dy, &mut gradients)?;
    /// assert_eq!(dx.dim(), (2, 50, 16));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of the output, or the cache or the gradients are of a model of another configuration.
    pub fn backward(&self, cache: EncoderCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        self.backward_shard(cache, dy, gradients, None)
    }

    /// [`backward`](Self::backward) of [`forward_train_hidden`](Self::forward_train_hidden), given the gradients of all hidden states.
    pub(crate) fn backward_hidden(&self, cache: EncoderCache<A>, mut hidden: Vec<Array3<A>>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "Encoder::backward_hidden";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        let dy = hidden.pop().unwrap_or_else(|| Array3::zeros(cache.dim));
        check_gradient(OPERATION, &dy, cache.dim)?;
        parallel::within(self.training_cost(&dy), || self.lead_back(cache, dy, gradients, None, &hidden))
    }

    fn layer_context<'l>(&'l self, shard: Option<&'l dyn SequenceShard<A>>) -> LayerContext<'l, A> {
        let projections = self.projections();
        let buffers = Buffers::of(self.buffer_pool());
        LayerContext {
            projections,
            shard,
            buffers,
        }
    }

    /// [`backward`](Self::backward) of a shard of sequences, if it is one.
    pub(crate) fn backward_shard(
        &self,
        cache: EncoderCache<A>,
        dy: Array3<A>,
        gradients: &mut Self,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<Array3<A>> {
        const OPERATION: &str = "Encoder::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        check_gradient(OPERATION, &dy, cache.dim)?;
        let dy = contiguous(dy);
        match shard {
            None => parallel::within(self.training_cost(&dy), || self.lead_back(cache, dy, gradients, None, &[])),
            shard => self.lead_back(cache, dy, gradients, shard, &[]),
        }
    }

    /// Multiplications of a pass over the sequences, at least.
    fn training_cost(&self, x: &Array3<A>) -> usize {
        parallel::cost(&[x.len(), x.dim().2, self.blocks().len()])
    }

    /// The way back from `dy` to the gradient of the input; `hidden` has gradients that are added after blocks other than the last.
    fn lead_back(
        &self,
        cache: EncoderCache<A>,
        mut dy: Array3<A>,
        gradients: &mut Self,
        shard: Option<&dyn SequenceShard<A>>,
        hidden: &[Array3<A>],
    ) -> Result<Array3<A>> {
        let (mut shared_gradients, own_blocks, own_norm) = gradients.parts_mut();
        let (pass, mask, layer_context) = (&cache.pass, cache.mask.as_ref(), self.layer_context(shard));
        if let (Some(norm), Some(last), Some(own)) = (self.final_norm(), cache.last, own_norm) {
            norm.backward_in_place(&last, &mut dy, own);
            layer_context.buffers.recycle(last);
        }
        let layers = self.blocks().iter().zip(own_blocks).enumerate().rev();
        match cache.saved {
            Saved::Reversible(mut streams) => {
                let mut grads = [dy.clone(), dy];
                for (layer, (block, own)) in layers.filter(|&(layer, _)| !pass.drops_layer(layer)) {
                    let shared_gradients = shared_gradients.as_deref_mut();
                    block.backward_reversible(&mut streams, &mut grads, mask, layer_context, pass, layer, own, shared_gradients)?;
                }
                let [first, second] = grads;
                Ok(first + second)
            }
            Saved::Blocks(saved) => {
                for ((layer, (block, own)), saved) in layers.zip(saved.into_iter().rev()) {
                    if let Some(of_state) = hidden.get(layer) {
                        dy += of_state;
                    }
                    let Some(cache) = saved.cache(|input| block.train(input, layer_context, mask, pass, layer))? else {
                        continue;
                    };
                    dy = block.backward_through(cache, dy, layer_context, pass, layer, own, shared_gradients.as_deref_mut())?;
                }
                Ok(dy)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{FeedForwardConfig, LinformerConfig, NormPlacement};
    use crate::parameters::Parameters;
    use crate::training::Step;

    /// The memory of the pass before is written whole: whatever is in it, nothing is read of it.
    #[test]
    fn what_kept_memory_holds_is_never_read() {
        for (placement, gated) in [(NormPlacement::Pre, false), (NormPlacement::Post, true)] {
            let feed_forward = FeedForwardConfig::new(160).with_gated(gated);
            let config = EncoderConfig::new(LinformerConfig::new(64, 4, 90, 8), 2)
                .with_feed_forward(Some(feed_forward))
                .with_norm(placement);
            let encoder = Encoder::<f64>::new(&config, 3).expect("a valid configuration");
            let x = Array3::from_shape_fn((2, 90, 64), |(item, t, i)| ((item * 90 + t) as f64 * 0.3 + i as f64).sin());
            let mask = PaddingMask::from_lengths(&[90, 0], 90).expect("lengths that fit");
            let step = |between: bool| {
                let mut gradients = encoder.zeros_like();
                let pass = TrainingPass::new(Step::new(1, 0));
                let (y, cache) = encoder.forward_train(&x, Some(&mask), &pass).expect("it fits");
                if between {
                    encoder.buffer_pool().fill(f64::NAN);
                }
                let dx = encoder.backward(cache, y.clone(), &mut gradients).expect("it fits");
                let mut numbers = Vec::new();
                gradients.visit("", &mut |_, _, values| numbers.extend(values.iter().copied()));
                (y, dx, numbers)
            };
            let first = step(false);
            encoder.buffer_pool().fill(f64::NAN);
            assert!(first == step(false));
            assert!(first == step(true), "what is given back between the passes is not read either");
        }
    }
}
