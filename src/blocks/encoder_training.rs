//! Training of encoders: what is kept of each block, and the way back through them.

use ndarray::Array3;

use super::Encoder;
use super::kept::{KeptBlock, train_blocks};
use super::training::{BlockCache, contiguous, norm_backward, normed};
use crate::attention::{Lent, PaddingMask, Part};
use crate::buffer_pool::Buffers;
use crate::config::{EncoderConfig, TrainingPass, check_alike};
use crate::error::{Error, Result};
use crate::parallel;
use crate::scalar::Scalar;

/// What an encoder's backward pass needs.
#[derive(Clone, Debug)]
pub struct EncoderCache<A = f32> {
    config: EncoderConfig,
    pass: TrainingPass,
    mask: Option<PaddingMask>,
    kept: Kept<A>,
    /// What the final norm was given.
    last: Option<Array3<A>>,
    dim: (usize, usize, usize),
}

impl<A> EncoderCache<A> {
    /// The pass that made it.
    pub fn pass(&self) -> &TrainingPass {
        &self.pass
    }
}

#[derive(Clone, Debug)]
enum Kept<A> {
    Blocks(Vec<KeptBlock<A, BlockCache<A>>>),
    /// The two streams after the last block: those before it are computed from them.
    Reversible(Box<[Array3<A>; 2]>),
}

impl<A: Scalar> Encoder<A> {
    /// [`forward`](Self::forward) with the pass's dropout, and what [`backward`](Self::backward) needs: O(n·d) numbers a layer; with gradient
    /// checkpointing one sequence a layer, in the reversible form two altogether.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); a rate below 0, or of 1 or more.
    pub fn forward_train(&self, x: Array3<A>, mask: Option<&PaddingMask>, pass: &TrainingPass) -> Result<(Array3<A>, EncoderCache<A>)> {
        self.forward_train_part(x, mask, pass, None)
    }

    /// [`forward_train`](Self::forward_train) of a part of sequences, if it is one.
    pub(crate) fn forward_train_part(
        &self,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        part: Option<&dyn Part<A>>,
    ) -> Result<(Array3<A>, EncoderCache<A>)> {
        pass.check()?;
        let x = self.checked(x, mask)?;
        match part {
            None => parallel::within(self.training_cost(&x), || self.train(x, mask, pass, None)),
            // Parts wait for one another, and the pool's threads must not.
            part => self.train(x, mask, pass, part),
        }
    }

    fn train(
        &self,
        x: Array3<A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        part: Option<&dyn Part<A>>,
    ) -> Result<(Array3<A>, EncoderCache<A>)> {
        let dim = x.dim();
        self.buffer_pool().begin();
        let lent = self.lent(part);
        let (mut stream, kept) = if self.config().reversible {
            let mut streams = Box::new([x.clone(), x]);
            for (layer, block) in self.blocks().iter().enumerate().filter(|&(layer, _)| !pass.drops_layer(layer)) {
                block.train_reversible(&mut streams, mask, lent, pass, layer)?;
            }
            (&streams[0] + &streams[1], Kept::Reversible(streams))
        } else {
            let (stream, kept) = train_blocks(
                self.blocks(),
                x,
                pass.gradient_checkpointing,
                |layer, block| pass.drops_layer(layer) && block.in_dim() == block.out_dim(),
                |layer, block, stream| block.train(stream, lent, mask, pass, layer),
            )?;
            (stream, Kept::Blocks(kept))
        };
        let last = self.final_norm().map(|norm| {
            let normed = normed(norm, &stream, lent.buffers);
            std::mem::replace(&mut stream, normed)
        });
        let cache = EncoderCache {
            config: self.config().clone(),
            pass: *pass,
            mask: mask.cloned(),
            kept,
            last,
            dim,
        };
        Ok((stream, cache))
    }

    /// The gradient of the input, given `dy` of the output. Those of the parameters are added to `gradients`, a value like the encoder's own
    /// [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// # Errors
    /// `dy` of another shape than the output, a cache or gradients of a model of another configuration.
    pub fn backward(&self, cache: EncoderCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        self.backward_part(cache, dy, gradients, None)
    }

    fn lent<'l>(&'l self, part: Option<&'l dyn Part<A>>) -> Lent<'l, A> {
        let projections = self.projections();
        let buffers = Buffers::of(self.buffer_pool());
        Lent {
            projections,
            part,
            buffers,
        }
    }

    /// [`backward`](Self::backward) of a part of sequences, if it is one.
    pub(crate) fn backward_part(
        &self,
        cache: EncoderCache<A>,
        dy: Array3<A>,
        gradients: &mut Self,
        part: Option<&dyn Part<A>>,
    ) -> Result<Array3<A>> {
        const OPERATION: &str = "Encoder::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        if dy.dim() != cache.dim {
            return Err(Error::shape(OPERATION, "dy", format!("{:?}", cache.dim), dy.shape()));
        }
        let dy = contiguous(dy);
        match part {
            None => parallel::within(self.training_cost(&dy), || self.lead_back(cache, dy, gradients, None)),
            part => self.lead_back(cache, dy, gradients, part),
        }
    }

    /// Multiplications of a pass over the sequences, at least.
    fn training_cost(&self, x: &Array3<A>) -> usize {
        parallel::cost(&[x.len(), x.dim().2, self.blocks().len()])
    }

    fn lead_back(&self, cache: EncoderCache<A>, mut dy: Array3<A>, gradients: &mut Self, part: Option<&dyn Part<A>>) -> Result<Array3<A>> {
        let (mut shared_gradients, own_blocks, own_norm) = gradients.parts_mut();
        let (pass, mask, lent) = (&cache.pass, cache.mask.as_ref(), self.lent(part));
        if let (Some(norm), Some(last), Some(own)) = (self.final_norm(), cache.last, own_norm) {
            norm_backward(norm, &last, &mut dy, own);
            lent.buffers.recycle(last);
        }
        let layers = self.blocks().iter().zip(own_blocks).enumerate().rev();
        match cache.kept {
            Kept::Reversible(mut streams) => {
                let mut grads = [dy.clone(), dy];
                for (layer, (block, own)) in layers.filter(|&(layer, _)| !pass.drops_layer(layer)) {
                    let shared_gradients = shared_gradients.as_deref_mut();
                    block.backward_reversible(&mut streams, &mut grads, mask, lent, pass, layer, own, shared_gradients)?;
                }
                let [first, second] = grads;
                Ok(first + second)
            }
            Kept::Blocks(kept) => {
                for ((layer, (block, own)), kept) in layers.zip(kept.into_iter().rev()) {
                    let Some(cache) = kept.cache(|input| block.train(input, lent, mask, pass, layer))? else {
                        continue;
                    };
                    dy = block.backward(cache, dy, lent, pass, layer, own, shared_gradients.as_deref_mut())?;
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
                let (y, cache) = encoder.forward_train(x.clone(), Some(&mask), &pass).expect("it fits");
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
