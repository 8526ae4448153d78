//! Training of a block's feed-forward with its norm and its residual.

use ndarray::{Array2, Array3};

use super::encoder_block::FeedForwardBlock;
use super::training::{dropped, norm_backward, normed};
use crate::buffer_pool::Buffers;
use crate::config::{NormPlacement, TrainingPass};
use crate::initialization::Place;
use crate::layers::{add, drop_out, rows, sequence};
use crate::scalar::Scalar;

#[derive(Clone, Debug)]
pub(super) struct FeedForwardBlockCache<A> {
    /// What the feed-forward and the residual weight were given.
    x: Array3<A>,
    /// What a norm at the end was given (post-norm). The one before is made again.
    norm_input: Option<Array3<A>>,
    hidden: Array2<A>,
}

impl<A: Scalar> FeedForwardBlockCache<A> {
    /// Gives its memory back.
    pub(super) fn recycle(self, buffers: Buffers<'_, A>) {
        buffers.recycle(self.x);
        if let Some(input) = self.norm_input {
            buffers.recycle(input);
        }
    }
}

impl<A: Scalar> FeedForwardBlock<A> {
    /// What is added to the residual: dropout(f(norm(x))), or dropout(f(x)).
    pub(super) fn added(
        &self,
        placement: NormPlacement,
        x: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        buffers: Buffers<'_, A>,
    ) -> (Array3<A>, FeedForwardBlockCache<A>) {
        let (batch, length, _) = x.dim();
        let normed = (placement == NormPlacement::Pre).then(|| normed(self.norm(), &x, buffers));
        let activation = pass.dropout(layer, Place::Activation);
        let (added, hidden) = self.layer().train_rows(rows(normed.as_ref().unwrap_or(&x)), activation, buffers);
        let mut added = sequence(added, batch, length);
        drop_out(&mut added, pass.dropout(layer, Place::FeedForwardOutput));
        if let Some(normed) = normed {
            buffers.recycle(normed);
        }
        let norm_input = None;
        (added, FeedForwardBlockCache { x, norm_input, hidden })
    }

    /// The gradient of x through what was added, given that of what was added.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(super) fn added_backward(
        &self,
        placement: NormPlacement,
        cache: &mut FeedForwardBlockCache<A>,
        dadded: &Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        gradients: &mut Self,
        buffers: Buffers<'_, A>,
    ) -> Array3<A> {
        let (batch, length, _) = cache.x.dim();
        let dadded = dropped(dadded, pass.dropout(layer, Place::FeedForwardOutput));
        let (own_norm, own_layer, _) = gradients.parts_mut();
        let normed = (placement == NormPlacement::Pre).then(|| normed(self.norm(), &cache.x, buffers));
        let activation = pass.dropout(layer, Place::Activation);
        let dinput = self.layer().backward_rows(
            rows(normed.as_ref().unwrap_or(&cache.x)),
            std::mem::take(&mut cache.hidden),
            rows(&dadded),
            activation,
            own_layer,
            buffers,
        );
        if let Some(normed) = normed {
            buffers.recycle(normed);
        }
        let mut dinput = sequence(dinput, batch, length);
        if placement == NormPlacement::Pre {
            norm_backward(self.norm(), &cache.x, &mut dinput, own_norm);
        }
        dinput
    }

    pub(super) fn train(
        &self,
        placement: NormPlacement,
        x: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        buffers: Buffers<'_, A>,
    ) -> (Array3<A>, FeedForwardBlockCache<A>) {
        let (mut stream, mut cache) = self.added(placement, x, pass, layer, buffers);
        match self.residual() {
            None => add(&mut stream, &cache.x),
            Some(residual) => {
                let (batch, length, _) = cache.x.dim();
                add(&mut stream, &sequence(residual.forward_rows(rows(&cache.x)), batch, length));
            }
        }
        if placement == NormPlacement::Post {
            let normed = normed(self.norm(), &stream, buffers);
            cache.norm_input = Some(std::mem::replace(&mut stream, normed));
        }
        (stream, cache)
    }

    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(super) fn backward(
        &self,
        placement: NormPlacement,
        cache: &mut FeedForwardBlockCache<A>,
        mut dy: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        gradients: &mut Self,
        buffers: Buffers<'_, A>,
    ) -> Array3<A> {
        if let Some(input) = &cache.norm_input {
            norm_backward(self.norm(), input, &mut dy, gradients.parts_mut().0);
        }
        let mut dx = self.added_backward(placement, cache, &dy, pass, layer, gradients, buffers);
        match (self.residual(), gradients.parts_mut().2) {
            (Some(residual), Some(own)) => {
                let (batch, length, _) = cache.x.dim();
                add(&mut dx, &sequence(residual.backward(rows(&cache.x), rows(&dy), own), batch, length));
            }
            _ => add(&mut dx, &dy),
        }
        buffers.recycle(dy);
        dx
    }
}
