//! Training of decoders.

use ndarray::{Array3, ArrayRef3};

use crate::attention::{LayerContext, PaddingMask, Projections};
use crate::blocks::encoder::BlockCache;
use crate::blocks::stack::{SavedBlock, train_blocks};
use crate::blocks::{Decoder, DecoderBlock};
use crate::buffer_pool::Buffers;
use crate::config::{DecoderConfig, TrainingPass, check_alike};
use crate::error::Result;
use crate::layers::{add, check_gradient, check_width, contiguous};
use crate::scalar::Scalar;

/// The state that the backward pass of a [`Decoder`] needs.
#[derive(Clone, Debug)]
pub struct DecoderCache<A = f32> {
    config: DecoderConfig,
    pass: TrainingPass,
    first_layer: usize,
    inputs: Inputs<A>,
    /// With the caches of both halves of a block.
    saved: Vec<SavedBlock<A, [BlockCache<A>; 2]>>,
    /// The input of the final norm.
    last: Option<Array3<A>>,
    dim: (usize, usize, usize),
}

/// The inputs of every block, except the stream.
#[derive(Clone, Debug)]
struct Inputs<A> {
    mask: Option<PaddingMask>,
    source: Array3<A>,
    source_mask: Option<PaddingMask>,
}

impl<A> DecoderCache<A> {
    /// Returns the pass that made it.
    pub fn pass(&self) -> &TrainingPass {
        &self.pass
    }
}

/// The layers' numbers of a block's two halves, which draw apart.
fn places(first_layer: usize, block: usize) -> [usize; 2] {
    [first_layer + 2 * block, first_layer + 2 * block + 1]
}

impl<A: Scalar> Decoder<A> {
    /// Runs [`forward`](Self::forward) with the pass's dropout; returns the output and what [`backward`](Self::backward) needs: O((m + n)·d) numbers
    /// a layer; with gradient checkpointing one target a layer and one source in total. Layer drop leaves out whole blocks.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if a rate of the pass is below 0, or 1 or more.
    pub fn forward_train(
        &self,
        target: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        source: &ArrayRef3<A>,
        source_mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, DecoderCache<A>)> {
        for (argument, x) in [("target", target), ("source", source)] {
            check_width("Decoder::forward_train", argument, x, self.config().dim())?;
        }
        let [target, source] = [target, source].map(|x| x.as_standard_layout().into_owned());
        self.train_after(0, (target, mask), (source, source_mask), pass)
    }

    /// [`forward_train`](Self::forward_train) in a model that has numbered other layers below `first_layer`.
    pub(crate) fn train_after(
        &self,
        first_layer: usize,
        (target, mask): (Array3<A>, Option<&PaddingMask>),
        (source, source_mask): (Array3<A>, Option<&PaddingMask>),
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, DecoderCache<A>)> {
        let inputs = Inputs {
            mask: mask.cloned(),
            source,
            source_mask: source_mask.cloned(),
        };
        self.train(target, inputs, pass, first_layer)
    }

    fn train(&self, target: Array3<A>, inputs: Inputs<A>, pass: &TrainingPass, first_layer: usize) -> Result<(Array3<A>, DecoderCache<A>)> {
        const OPERATION: &str = "Decoder::forward_train";
        pass.check()?;
        let (sources, length, _) = inputs.source.dim();
        let stream = self.checked(OPERATION, target, inputs.mask.as_ref(), sources)?;
        check_width(OPERATION, "source", &inputs.source, self.config().dim())?;
        PaddingMask::check(inputs.source_mask.as_ref(), OPERATION, sources, length)?;
        let dim = stream.dim();
        self.buffer_pool().begin();
        let (mut stream, saved) = train_blocks(
            self.blocks(),
            stream,
            pass.gradient_checkpointing,
            |block, _| pass.drops_layer(places(first_layer, block)[0]),
            |block, own, stream| own.train(stream, self.layer_context(), &inputs, pass, places(first_layer, block)),
            |_| (),
        )?;
        let last = self.final_norm().map(|norm| {
            let normed = norm.forward_in(Buffers::of(self.buffer_pool()), &stream);
            std::mem::replace(&mut stream, normed)
        });
        let cache = DecoderCache {
            config: self.config().clone(),
            pass: *pass,
            first_layer,
            inputs,
            saved,
            last,
            dim,
        };
        Ok((stream, cache))
    }

    /// To the self-attentions and to the cross-attentions.
    fn layer_context(&self) -> [LayerContext<'_, A>; 2] {
        let buffers = Buffers::of(self.buffer_pool());
        [self.projections(), self.cross_projections()].map(|projections| LayerContext {
            buffers,
            ..LayerContext::whole(projections)
        })
    }

    /// Returns the gradients of the target and of the source, given `dy` of the output. Those of the parameters are added to `gradients`, a value
    /// like the decoder's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of the output, or the cache or the gradients are of a model of another configuration.
    pub fn backward(&self, cache: DecoderCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<(Array3<A>, Array3<A>)> {
        const OPERATION: &str = "Decoder::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        check_gradient(OPERATION, &dy, cache.dim)?;
        let mut dy = contiguous(dy);
        let DecoderCache {
            pass,
            first_layer,
            inputs,
            saved,
            last,
            ..
        } = cache;
        let (mut shared, own_blocks, own_norm) = gradients.parts_mut();
        if let (Some(norm), Some(last), Some(own)) = (self.final_norm(), &last, own_norm) {
            norm.backward_in_place(last, &mut dy, own);
        }
        let mut dsource = Array3::zeros(inputs.source.dim());
        let blocks = self.blocks().iter().zip(own_blocks).enumerate().rev();
        for ((block, (own, gradients)), saved) in blocks.zip(saved.into_iter().rev()) {
            let layers = places(first_layer, block);
            let Some(caches) = saved.cache(|input| own.train(input, self.layer_context(), &inputs, &pass, layers))? else {
                continue;
            };
            dy = own.backward(
                caches,
                dy,
                self.layer_context(),
                &pass,
                layers,
                gradients,
                (&mut shared, &mut dsource),
            )?;
        }
        Ok((dy, dsource))
    }
}

impl<A: Scalar> DecoderBlock<A> {
    fn train(
        &self,
        stream: Array3<A>,
        [own, cross]: [LayerContext<'_, A>; 2],
        inputs: &Inputs<A>,
        pass: &TrainingPass,
        layers: [usize; 2],
    ) -> Result<(Array3<A>, [BlockCache<A>; 2])> {
        let (target, source) = self.halves();
        let (stream, first) = target.train(stream, own, inputs.mask.as_ref(), pass, layers[0])?;
        let (stream, second) = source.train_around(stream, pass, layers[1], cross.buffers, |queries, dropout| {
            let source = (&inputs.source, inputs.source_mask.as_ref());
            self.cross_attention().train_cross(cross, queries, source, dropout)
        })?;
        Ok((stream, [first, second]))
    }

    /// The gradient of the stream before the block; that of the source is added to `dsource`.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    fn backward(
        &self,
        [first, second]: [BlockCache<A>; 2],
        dy: Array3<A>,
        [own, cross]: [LayerContext<'_, A>; 2],
        pass: &TrainingPass,
        layers: [usize; 2],
        gradients: &mut Self,
        (shared, dsource): (&mut [Option<&mut Projections<A>>; 2], &mut Array3<A>),
    ) -> Result<Array3<A>> {
        let (target, source) = self.halves();
        let (own_target, own_source) = gradients.halves_mut();
        let [of_own, of_cross] = shared;
        // Where the cross-attentions have no projection of their own, they may use that of the self-attentions.
        let of_cross = of_cross.as_deref_mut().or(of_own.as_deref_mut());
        let dy = source.backward_around(
            second,
            dy,
            pass,
            layers[1],
            own_source,
            cross.buffers,
            |cache, dy, weights, own_attention| {
                let attention = self.cross_attention();
                let (dqueries, dcontext) = attention.backward_both(cross, cache, dy, weights, own_attention, of_cross)?;
                if let Some(dcontext) = dcontext {
                    add(dsource, &dcontext);
                }
                Ok(dqueries)
            },
        )?;
        target.backward_through(first, dy, own, pass, layers[0], own_target, of_own.as_deref_mut())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{AttentionConfig, CausalConfig, LinformerConfig};
    use crate::parameters::Parameters;
    use crate::training::Step;

    /// As in `encoder_training`.
    #[test]
    fn what_kept_memory_holds_is_never_read() {
        let source_attention = LinformerConfig::new(64, 4, 100, 8);
        for config in [
            DecoderConfig::new(CausalConfig::new(64, 4, 100, 2), source_attention.clone(), 2),
            DecoderConfig::new(AttentionConfig::new(64, 4).with_causal(true), source_attention, 1),
        ] {
            let decoder = Decoder::<f64>::new(&config, 3).expect("a valid configuration");
            let [source, target] = [(100, 0.3), (90, 0.7)].map(|(length, factor)| {
                Array3::from_shape_fn((2, length, 64), |(item, t, i)| ((item * 90 + t) as f64 * factor + i as f64).sin())
            });
            let mask = PaddingMask::from_lengths(&[100, 0], 100).expect("lengths that fit");
            let step = |between: bool| {
                let mut gradients = decoder.zeros_like();
                let pass = TrainingPass::new(Step::new(1, 0));
                let (y, cache) = decoder.forward_train(&target, None, &source, Some(&mask), &pass).expect("it fits");
                if between {
                    decoder.buffer_pool().fill(f64::NAN);
                }
                let inputs = decoder.backward(cache, y.clone(), &mut gradients).expect("it fits");
                let mut numbers = Vec::new();
                gradients.visit("", &mut |_, _, values| numbers.extend(values.iter().copied()));
                (y, inputs, numbers)
            };
            let first = step(false);
            decoder.buffer_pool().fill(f64::NAN);
            assert!(first == step(false));
            assert!(first == step(true), "what is given back between the passes is not read either");
        }
    }
}
