//! Training of Linformer attention: forward with a cache, and backward.

use ndarray::{Array3, Array4, ArrayRef3};

use super::super::cache::{AttentionCache, CachedContext, check_gradient, no_projections, owned, unlike};
use super::super::compressor::{CompressionCache, CompressionGradients, Compressor};
use super::super::gradients::KeyValueGradients;
use super::super::mask::PaddingMask;
use super::super::projection::Projections;
use super::super::sequence_shard::{LayerContext, SequenceShard};
use super::LinformerAttention;
use crate::error::{Error, Result};
use crate::layers::{check_width, rows};
use crate::ops::Dropout;
use crate::scalar::Scalar;

impl<A: Scalar> LinformerAttention<A> {
    /// Returns [`forward`](Self::forward)'s result and the cache that [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn forward_train(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<(Array3<A>, AttentionCache<A>)> {
        let x = owned("LinformerAttention::forward_train", x)?;
        self.train_with(LayerContext::whole(None), x, None, mask, None)
    }

    /// Returns the cross-attention of `queries` to `context` and the cache that [`backward_cross`](Self::backward_cross) needs.
    ///
    /// # Errors
    /// Returns an error as [`compress`](Self::compress) and [`attend`](Self::attend) do.
    pub fn forward_train_cross(
        &self,
        queries: &ArrayRef3<A>,
        context: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        const OPERATION: &str = "LinformerAttention::forward_train_cross";
        let (queries, context) = (owned(OPERATION, queries)?, owned(OPERATION, context)?);
        self.train_with(LayerContext::whole(None), queries, Some(context), mask, None)
    }

    /// Returns the gradient of `x`, given `dy` of the output, both (batch, n, dim). Those of the parameters are added to `gradients`, a value like
    /// the layer's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a layer of another configuration.
    pub fn backward(&self, cache: AttentionCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        let (dx, dcontext) = self.backward_with(None, &cache, &dy, gradients, None)?;
        Ok(match dcontext {
            None => dx,
            Some(_) => {
                return Err(Error::argument(
                    "LinformerAttention::backward",
                    "the cache is of cross-attention; use backward_cross",
                ));
            }
        })
    }

    /// Returns the gradients of `queries` and `context`, given `dy` of the output.
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a layer of another configuration.
    pub fn backward_cross(&self, cache: AttentionCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<(Array3<A>, Array3<A>)> {
        match self.backward_with(None, &cache, &dy, gradients, None)? {
            (dx, Some(dcontext)) => Ok((dx, dcontext)),
            _ => Err(Error::argument(
                "LinformerAttention::backward_cross",
                "the cache is of self-attention; use backward",
            )),
        }
    }

    pub(crate) fn train_with(
        &self,
        layer_context: LayerContext<'_, A>,
        x: Array3<A>,
        other: Option<Array3<A>>,
        mask: Option<&PaddingMask>,
        dropout: Option<Dropout<A>>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        const OPERATION: &str = "LinformerAttention::forward_train";
        let context_input = other.as_ref().unwrap_or(&x);
        let (batch, length, _) = context_input.dim();
        check_width(OPERATION, "queries", &x, self.config().attention.dim)?;
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let mut compressor = self.training_compressor(layer_context, batch, length, mask)?;
        compressor.push_last(context_input, mask)?;
        let (mut context, compression) = compressor.finish_train(layer_context.shard)?;
        if x.dim().0 != context.batch() {
            let expected = format!("({batch}, any length, {})", self.config().attention.dim);
            return Err(Error::shape(OPERATION, "queries", expected, x.shape()));
        }
        let (y, attend) = self.weights().attend_train(&x, &context, dropout, layer_context.buffers);
        context.forget_packed();
        let cache = AttentionCache {
            layer: self.config().clone().into(),
            x,
            other,
            mask: mask.cloned(),
            context: CachedContext::Whole(context),
            compression: Some(compression),
            attend,
        };
        Ok((y, cache))
    }

    fn training_compressor<'a>(
        &'a self,
        layer_context: LayerContext<'a, A>,
        batch: usize,
        length: usize,
        mask: Option<&PaddingMask>,
    ) -> Result<Compressor<'a, A>> {
        let order = Compressor::<A>::training_order(self.config());
        let compressor = Compressor::new(self.config(), self.weights(), self.own_or(layer_context.projections)?, batch, order)?;
        match layer_context.shard {
            Some(shard) => compressor.of_shard(shard, shard.lengths()),
            None => self.with_lengths(compressor, length, mask),
        }
    }

    pub(crate) fn backward_with(
        &self,
        shared: Option<&Projections<A>>,
        cache: &AttentionCache<A>,
        dy: &ArrayRef3<A>,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<(Array3<A>, Option<Array3<A>>)> {
        self.backward_dropped(LayerContext::whole(shared), cache, dy, None, gradients, shared_gradients)
    }

    pub(crate) fn backward_dropped(
        &self,
        layer_context: LayerContext<'_, A>,
        cache: &AttentionCache<A>,
        dy: &ArrayRef3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        shared_gradients: Option<&mut Projections<A>>,
    ) -> Result<(Array3<A>, Option<Array3<A>>)> {
        const OPERATION: &str = "LinformerAttention::backward";
        cache.check(OPERATION, self.config(), gradients.config())?;
        check_gradient(OPERATION, dy, &cache.x)?;
        let dy = dy.as_standard_layout();
        let (own_weights, own_projections) = gradients.parts_mut();
        let own_projections = own_projections.or(shared_gradients).ok_or_else(|| no_projections(OPERATION))?;
        let (Some(compression), CachedContext::Whole(context)) = (&cache.compression, &cache.context) else {
            return Err(unlike(OPERATION, "the cache has no keys and values that were compressed whole"));
        };
        let (mut dx, own) = self.weights().attend_backward(
            &cache.x,
            context,
            &cache.attend,
            rows(&dy),
            dropout,
            own_weights,
            layer_context.buffers,
        );
        let input = cache.context_input();
        let mut dother = cache.other.as_ref().map(|other| Array3::zeros(other.dim()));
        let (batch, length, _) = input.dim();
        let compressor = self
            .training_compressor(layer_context, batch, length, cache.mask.as_ref())?
            .resumed(compression.clone());
        let whole = layer_context
            .shard
            .map(|shard| whole_gradients(&own, compression, shard))
            .transpose()?;
        let mut into = CompressionGradients {
            weights: own_weights,
            projections: own_projections,
            x: dother.as_mut().unwrap_or(&mut dx),
        };
        compressor.backward(input.view(), cache.mask.as_ref(), &own, whole.as_ref().unwrap_or(&own), &mut into)?;
        Ok((dx, dother))
    }
}

/// The gradients that come from the queries of all shards, as far as they belong to this one.
fn whole_gradients<A: Scalar>(
    own: &KeyValueGradients<A>,
    compression: &CompressionCache<A>,
    shard: &dyn SequenceShard<A>,
) -> Result<KeyValueGradients<A>> {
    let mut whole = own.clone();
    let KeyValueGradients { keys, values, log_mass } = &mut whole;
    let mut slices: Vec<_> = [keys, values].into_iter().filter_map(Array4::as_slice_memory_order_mut).collect();
    slices.extend(log_mass.as_mut().and_then(Array3::as_slice_memory_order_mut));
    shard.sum(&mut slices)?;
    compression.keep_owned(&mut whole);
    Ok(whole)
}
