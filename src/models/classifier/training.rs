//! Training of classifiers.

use ndarray::{Array2, Array3, Axis};

use super::pooling::{Pooled, pool, pool_backward, pool_shard};
use super::{Classifier, Input, Sequences};
use crate::attention::{PaddingMask, SequenceShard};
use crate::blocks::EncoderCache;
use crate::config::{ClassifierConfig, TrainingPass, check_alike};
use crate::error::{Error, Result};
use crate::initialization::Place;
use crate::layers::{Linear, Padding, check_width, drop_out};
use crate::models::backbone::{BackboneCache, start};
use crate::models::embeddings::linear_rows;
use crate::models::head::{activate, differentiate};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// Everything that a classifier's backward pass needs.
#[derive(Clone, Debug)]
pub struct ClassifierCache<A = f32> {
    config: ClassifierConfig,
    input: InputCache<A>,
    mask: Option<PaddingMask>,
    features: Array3<A>,
    pooled: Array3<A>,
    /// The share of this shard in each pooled number, (batch, width); `None` where it is the whole.
    shares: Option<Array2<A>>,
    /// The hidden layer before and after its activation.
    hidden: Option<[Array3<A>; 2]>,
}

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a pass
enum InputCache<A> {
    Tokens(BackboneCache<A>),
    Features { x: Array3<A>, encoder: EncoderCache<A> },
}

impl<A: Scalar> Classifier<A> {
    /// Runs [`forward`](Self::forward) with the pass's dropout; returns the scores, and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if a rate is below 0 or not below 1.
    pub fn forward_train<'s>(
        &self,
        sequences: impl Into<Sequences<'s, A>>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array2<A>, ClassifierCache<A>)>
    where
        A: 's,
    {
        self.forward_train_shard(sequences.into(), mask, pass, None)
    }

    /// [`forward_train`](Self::forward_train) of a shard of sequences, if it is one.
    pub(crate) fn forward_train_shard(
        &self,
        sequences: Sequences<'_, A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<(Array2<A>, ClassifierCache<A>)> {
        const OPERATION: &str = "Classifier::forward_train";
        let (features, input) = match (self.input(), sequences.tokens(), sequences.vectors()) {
            (Input::Tokens(backbone), Some(tokens), _) => {
                let (features, cache) = backbone.train(tokens, mask, pass, shard)?;
                (features, InputCache::Tokens(cache))
            }
            (Input::Features { input, position, encoder }, _, Some(x)) => {
                check_width(OPERATION, "x", x, input.in_dim())?;
                PaddingMask::check(mask, OPERATION, x.dim().0, x.dim().1)?;
                let mut stream = input.forward(x)?;
                position.add_from(start(shard), &mut stream.view_mut(), Padding::None)?;
                drop_out(&mut stream, pass.dropout(0, Place::Embedding));
                let (features, encoder) = encoder.forward_train_shard(stream, mask, pass, shard)?;
                let x = x.as_standard_layout().into_owned();
                (features, InputCache::Features { x, encoder })
            }
            (input, ..) => return Err(input.mistaken(OPERATION)),
        };
        self.train_pooled(features, input, mask, shard)
    }

    fn train_pooled(
        &self,
        features: Array3<A>,
        input: InputCache<A>,
        mask: Option<&PaddingMask>,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<(Array2<A>, ClassifierCache<A>)> {
        let pooling = self.config().pooling;
        let (pooled, shares) = match shard {
            None => (pool(&features, pooling, mask), None),
            Some(shard) => {
                let Pooled { pooled, shares } = pool_shard(&features, pooling, mask, shard)?;
                (pooled, Some(shares))
            }
        };
        let pooled = pooled.insert_axis(Axis(1));
        let hidden = match self.hidden() {
            Some(hidden) => {
                let before = hidden.forward(&pooled)?;
                let mut after = before.clone();
                activate(self.config().activation, &mut after);
                Some([before, after])
            }
            None => None,
        };
        let scores = self.output().forward(hidden.as_ref().map_or(&pooled, |[_, after]| after))?;
        let cache = ClassifierCache {
            config: self.config().clone(),
            input,
            mask: mask.cloned(),
            features,
            pooled,
            shares,
            hidden,
        };
        Ok((scores.index_axis_move(Axis(1), 0), cache))
    }

    /// Adds the gradients of all parameters to `gradients`, given `dy` (batch, classes) of the scores. Those of features that were read are returned.
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the scores, or if the cache or the gradients are of a model of another configuration.
    pub fn backward(&self, cache: ClassifierCache<A>, dy: Array2<A>, gradients: &mut Self) -> Result<Option<Array3<A>>> {
        self.backward_shard(cache, dy, gradients, None)
    }

    /// [`backward`](Self::backward) of a shard of sequences, if it is one. All shards have the same pooled features, so that the first alone has
    /// the gradients of what makes scores of them.
    pub(crate) fn backward_shard(
        &self,
        cache: ClassifierCache<A>,
        dy: Array2<A>,
        gradients: &mut Self,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<Option<Array3<A>>> {
        const OPERATION: &str = "Classifier::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        let expected = (cache.pooled.dim().0, self.config().classes);
        if dy.dim() != expected {
            return Err(Error::shape(OPERATION, "dy", format!("{expected:?}"), dy.shape()));
        }
        let dy = dy.as_standard_layout().into_owned().insert_axis(Axis(1));
        let (own_input, own_hidden, own_output) = gradients.parts_mut();
        let mut others = shard
            .filter(|shard| !shard.is_first())
            .map(|_| (self.hidden().map(Linear::zeros_like), self.output().zeros_like()));
        let (own_hidden, own_output) = match &mut others {
            None => (own_hidden, own_output),
            Some((hidden, output)) => (hidden.as_mut(), output),
        };
        let before_output = cache.hidden.as_ref().map_or(&cache.pooled, |[_, after]| after);
        let mut dx = linear_rows(self.output(), before_output, &dy, own_output);
        if let (Some(hidden), Some([before, _]), Some(own)) = (self.hidden(), &cache.hidden, own_hidden) {
            differentiate(self.config().activation, before, &mut dx);
            dx = linear_rows(hidden, &cache.pooled, &dx, own);
        }
        let mut dpooled = dx.index_axis_move(Axis(1), 0);
        if let Some(shares) = &cache.shares {
            dpooled *= shares;
        }
        let dfeatures = pool_backward(&cache.features, &dpooled, self.config().pooling, cache.mask.as_ref());
        match (self.input(), cache.input, own_input) {
            (Input::Tokens(backbone), InputCache::Tokens(cache), Input::Tokens(own)) => {
                backbone.backward(cache, dfeatures, own, shard)?;
                Ok(None)
            }
            (
                Input::Features { input, position, encoder },
                InputCache::Features { x, encoder: cache },
                Input::Features {
                    input: own_input,
                    position: own_position,
                    encoder: own_encoder,
                },
            ) => {
                let pass = *cache.pass();
                let mut dx = encoder.backward_shard(cache, dfeatures, own_encoder, shard)?;
                drop_out(&mut dx, pass.dropout(0, Place::Embedding));
                position.backward_from(start(shard), Padding::None, &dx, own_position);
                Ok(Some(linear_rows(input, &x, &dx, own_input)))
            }
            _ => Err(Error::argument(OPERATION, "the cache or the gradients are of another model")),
        }
    }
}
