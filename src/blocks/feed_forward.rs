//! The feed-forward of a block, with its norm and its residual.

use ndarray::{Array2, Array3, ArrayView2, ArrayViewMut2};

use crate::attention::TileSpace;
use crate::buffer_pool::Buffers;
use crate::config::{EncoderConfig, NormPlacement, TrainingPass};
use crate::error::Result;
use crate::initialization::{Place, Streams};
use crate::layers::{FeedForward, LayerNorm, Linear, add, drop_out, dropped, rows, sequence};
use crate::ops::RowsMut;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// A feed-forward with its norm and, where it changes the width, its residual weight.
#[derive(Clone, Debug)]
pub struct FeedForwardBlock<A = f32> {
    norm: LayerNorm<A>,
    layer: FeedForward<A>,
    residual: Option<Linear<A>>,
}

parameters!(FeedForwardBlock { norm, residual } flat { layer });

impl<A: Scalar> FeedForwardBlock<A> {
    /// The feed-forward of a block of these widths, before and after, if there is one.
    pub(super) fn init(config: &EncoderConfig, (before, after): (usize, usize), streams: &mut Streams) -> Option<Self> {
        let norm_width = match config.norm {
            NormPlacement::Pre => before,
            NormPlacement::Post => after,
        };
        config.feed_forward.as_ref().map(|feed_forward| Self {
            norm: LayerNorm::init(norm_width, config.norm_eps),
            layer: FeedForward::init(before, after, feed_forward, streams),
            residual: (before != after).then(|| Linear::init(before, after, true, streams)),
        })
    }

    pub(crate) fn norm(&self) -> &LayerNorm<A> {
        &self.norm
    }

    pub(crate) fn residual(&self) -> Option<&Linear<A>> {
        self.residual.as_ref()
    }

    pub(crate) fn parts_mut(&mut self) -> (&mut LayerNorm<A>, &mut FeedForward<A>, Option<&mut Linear<A>>) {
        (&mut self.norm, &mut self.layer, self.residual.as_mut())
    }

    /// Returns the feed-forward itself.
    pub fn layer(&self) -> &FeedForward<A> {
        &self.layer
    }

    /// `out` ← or += f of the rows that were taken.
    pub(super) fn apply(&self, space: &mut TileSpace<A>, adds: bool, out: &mut ArrayViewMut2<'_, A>) {
        let TileSpace { x, feed_forward, .. } = space;
        self.layer.apply_tile(x.rows(), adds, RowsMut::of(out.view_mut()), feed_forward);
    }

    /// rows ← rows + f(norm(rows)), or norm(rows + f(rows)).
    pub(super) fn add_in_place(&self, placement: NormPlacement, rows: &mut ArrayViewMut2<'_, A>, space: &mut TileSpace<A>) {
        space.take(rows.view(), placement.first(&self.norm));
        self.apply(space, true, rows);
        if placement == NormPlacement::Post {
            self.norm.apply_in_place(rows);
        }
    }

    /// The same into rows of another width: the residual goes through its own weight.
    pub(super) fn write(
        &self,
        placement: NormPlacement,
        rows: ArrayView2<'_, A>,
        out: &mut ArrayViewMut2<'_, A>,
        space: &mut TileSpace<A>,
    ) {
        space.take(rows, placement.first(&self.norm));
        self.apply(space, false, out);
        if let Some(residual) = &self.residual {
            space.take(rows, None);
            residual.apply_tile(space.x.rows(), true, RowsMut::of(out.view_mut()));
        }
        if placement == NormPlacement::Post {
            self.norm.apply_in_place(out);
        }
    }
}

impl<A: Scalar> FeedForwardBlock<A> {
    /// x + f(norm(x)), or norm(x + f(x)); the residual goes through its own weight where the width changes.
    pub(super) fn apply_whole(&self, placement: NormPlacement, stream: Array3<A>) -> Result<Array3<A>> {
        let mut sum = match placement {
            NormPlacement::Pre => self.layer().forward(&self.norm().forward(&stream)?)?,
            NormPlacement::Post => self.layer().forward(&stream)?,
        };
        match self.residual() {
            None => sum += &stream,
            Some(residual) => sum += &residual.forward(&stream)?,
        }
        match placement {
            NormPlacement::Pre => Ok(sum),
            NormPlacement::Post => self.norm().forward(&sum),
        }
    }
}

// Training.
#[derive(Clone, Debug)]
pub(super) struct FeedForwardBlockCache<A> {
    /// The input of the feed-forward and the residual weight.
    x: Array3<A>,
    /// The input of a norm at the end (post-norm). The one before is recomputed.
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
    /// The residual branch: dropout(f(norm(x))), or dropout(f(x)).
    pub(super) fn added(
        &self,
        placement: NormPlacement,
        x: Array3<A>,
        pass: &TrainingPass,
        layer: usize,
        buffers: Buffers<'_, A>,
    ) -> (Array3<A>, FeedForwardBlockCache<A>) {
        let (batch, length, _) = x.dim();
        let normed = (placement == NormPlacement::Pre).then(|| self.norm().forward_in(buffers, &x));
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
        let normed = (placement == NormPlacement::Pre).then(|| self.norm().forward_in(buffers, &cache.x));
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
            self.norm().backward_in_place(&cache.x, &mut dinput, own_norm);
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
            let normed = self.norm().forward_in(buffers, &stream);
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
            self.norm().backward_in_place(input, &mut dy, gradients.parts_mut().0);
        }
        let mut dx = self.added_backward(placement, cache, &dy, pass, layer, gradients, buffers);
        match (self.residual(), gradients.parts_mut().2) {
            (Some(residual), Some(own)) => {
                let (batch, length, _) = cache.x.dim();
                add(
                    &mut dx,
                    &sequence(residual.backward_rows(rows(&cache.x), rows(&dy), own), batch, length),
                );
            }
            _ => add(&mut dx, &dy),
        }
        buffers.recycle(dy);
        dx
    }
}
