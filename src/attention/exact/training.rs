//! Training of exact attention: forward with a cache, and backward.

use ndarray::{Array2, Array3, Array4, ArrayRef3, s};

use super::super::cache::{AttentionCache, CachedContext, check_gradient, owned, unlike};
use super::super::gradients::KeyValueGradients;
use super::super::mask::PaddingMask;
use super::super::weights::AttentionWeights;
use super::ExactAttention;
use crate::buffer_pool::Buffers;
use crate::error::Result;
use crate::layers::{check_width, rows, sequence};
use crate::ops::Dropout;
use crate::scalar::Scalar;

impl<A: Scalar> ExactAttention<A> {
    /// Returns [`forward`](Self::forward)'s result and the cache that [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn forward_train(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<(Array3<A>, AttentionCache<A>)> {
        self.train(owned("ExactAttention::forward_train", x)?, None, mask, None)
    }

    /// Returns the gradient of `x`, given `dy` of the output, both (batch, n, dim). Those of the parameters are added to `gradients`.
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a layer of another configuration.
    pub fn backward(&self, cache: AttentionCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        Ok(self.backward_dropped(&cache, &dy, None, gradients)?.0)
    }

    pub(crate) fn train(
        &self,
        x: Array3<A>,
        other: Option<Array3<A>>,
        mask: Option<&PaddingMask>,
        dropout: Option<Dropout<A>>,
    ) -> Result<(Array3<A>, AttentionCache<A>)> {
        const OPERATION: &str = "ExactAttention::forward_train";
        let context_input = other.as_ref().unwrap_or(&x);
        check_width(OPERATION, "x", &x, self.config().dim)?;
        let (batch, length, _) = context_input.dim();
        PaddingMask::check(mask, OPERATION, batch, length)?;
        let mut collected = self.key_values(batch, length)?;
        collected.push(context_input.view(), |item| mask.map(|mask| mask.item(item)));
        let mut context = collected.finish();
        let (context, (y, attend)) = if self.config().causal {
            let context = self.causal_context(OPERATION, context, (x.dim().1, length), mask)?;
            let result = self.weights().attend_causal_train(&x, &context, dropout);
            (CachedContext::Causal(context), result)
        } else {
            let result = self.weights().attend_train(&x, &context, dropout, Buffers::new());
            context.forget_packed();
            (CachedContext::Whole(context), result)
        };
        let cache = AttentionCache {
            layer: self.config().clone().into(),
            x,
            other,
            mask: mask.cloned(),
            context,
            compression: None,
            attend,
        };
        Ok((y, cache))
    }

    pub(crate) fn backward_dropped(
        &self,
        cache: &AttentionCache<A>,
        dy: &ArrayRef3<A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
    ) -> Result<(Array3<A>, Option<Array3<A>>)> {
        const OPERATION: &str = "ExactAttention::backward";
        cache.check(OPERATION, self.config(), gradients.config())?;
        check_gradient(OPERATION, dy, &cache.x)?;
        let dy = dy.as_standard_layout();
        let (weights, own) = (self.weights(), gradients.weights_mut());
        let (dx, grads) = match &cache.context {
            CachedContext::Whole(context) => {
                weights.attend_backward(&cache.x, context, &cache.attend, rows(&dy), dropout, own, Buffers::new())
            }
            CachedContext::Causal(context) => {
                let (dx, grads) = weights.attend_causal_backward(&cache.x, context, &cache.attend, rows(&dy), dropout, own);
                (dx, grads.keys)
            }
            CachedContext::LocalGlobal(_) => return Err(unlike(OPERATION, "the cache has a window and summaries")),
        };
        let dcontext = self.key_value_backward(cache.context_input(), cache.mask.as_ref(), &grads, own);
        Ok(cache.input_gradients(dx, dcontext))
    }

    /// The gradient of the sequence that keys and values were made of, given theirs.
    pub(in crate::attention) fn key_value_backward(
        &self,
        input: &Array3<A>,
        mask: Option<&PaddingMask>,
        grads: &KeyValueGradients<A>,
        own: &mut AttentionWeights<A>,
    ) -> Array3<A> {
        // The gradients of padding are rows of 0, which leaves its inputs out.
        let (batch, length, _) = input.dim();
        let mut dcontext = Array3::zeros(input.dim());
        for (is_value, grad) in [(false, &grads.keys), (true, &grads.values)] {
            let dfeatures = self.position_gradients(grad, length, mask);
            let linear = if is_value { self.weights().value() } else { &self.weights().key };
            let through = linear.backward_rows(rows(input), dfeatures.view(), own.source_mut(is_value));
            dcontext += &sequence(through, batch, length);
        }
        dcontext
    }

    /// The gradients of the slots (batch, heads, slots, `head_dim`) at the positions that they were made of: (batch·n, heads·`head_dim`).
    fn position_gradients(&self, grad: &Array4<A>, length: usize, mask: Option<&PaddingMask>) -> Array2<A> {
        let (batch, heads, _, head_dim) = grad.dim();
        let mut features = Array2::zeros((batch * length, heads * head_dim));
        for item in 0..batch {
            let mut slot = 0;
            for position in 0..length {
                let is_real = mask.is_none_or(|mask| mask.is_real(item, position));
                if is_real {
                    let mut row = features.row_mut(item * length + position);
                    for head in 0..heads {
                        row.slice_mut(s![head * head_dim..(head + 1) * head_dim])
                            .assign(&grad.slice(s![item, head, slot, ..]));
                    }
                }
                slot += usize::from(is_real || self.config().masked_keys_stay);
            }
        }
        features
    }
}
