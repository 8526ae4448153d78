//! Training of language models: forward with a cache, and backward.

use ndarray::{Array2, Array3, ArrayRef2, s};

use super::LanguageModel;
use crate::attention::{PaddingMask, SequenceShard};
use crate::config::{LanguageModelConfig, TrainingPass, check_alike};
use crate::error::Result;
use crate::layers::{check_gradient, contiguous, rows, sequence};
use crate::models::backbone::{BackboneCache, select};
use crate::models::head::HeadCache;
use crate::models::typed_tokens::TypedTokens;
use crate::ops::scatter_rows;
use crate::scalar::Scalar;

/// The positions that were chosen, and the shape of all features.
type Chosen = (Vec<Vec<usize>>, (usize, usize, usize));

/// Everything that a language model's backward pass needs.
#[derive(Clone, Debug)]
pub struct LanguageModelCache<A = f32> {
    pub(in crate::models) config: LanguageModelConfig,
    backbone: BackboneCache<A>,
    head: Option<HeadCache<A>>,
    /// Where scores were made, and the shape of all features; everywhere if `None`.
    positions: Option<Chosen>,
    output: (usize, usize, usize),
}

impl<A: Scalar> LanguageModel<A> {
    /// Runs [`forward`](Self::forward) with the pass's dropout; returns the scores and what [`backward`](Self::backward) needs.
    ///
    /// With `positions`, one list for each batch item, scores are made there only: (1, number of positions, `vocab_size`), item after item.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) and [`logits_at`](Self::logits_at) do, or if a rate is below 0 or not below 1.
    pub fn forward_train(
        &self,
        tokens: &ArrayRef2<usize>,
        positions: Option<&[Vec<usize>]>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, LanguageModelCache<A>)> {
        self.forward_train_shard(tokens.into(), positions, mask, pass, None)
    }

    /// [`forward_train`](Self::forward_train) of a part of sequences, if it is one; its positions are counted from its first row.
    pub(crate) fn forward_train_shard(
        &self,
        tokens: TypedTokens<'_>,
        positions: Option<&[Vec<usize>]>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<(Array3<A>, LanguageModelCache<A>)> {
        let (mut features, backbone) = self.backbone().train(tokens, mask, pass, shard)?;
        let positions = match positions {
            Some(positions) => {
                let dim = features.dim();
                features = select(&features, positions)?;
                Some((positions.to_vec(), dim))
            }
            None => None,
        };
        let (output, head) = match self.head() {
            Some(head) => {
                let (scores, cache) = head.train(features, self.embedding().weight())?;
                (scores, Some(cache))
            }
            None => (features, None),
        };
        let cache = LanguageModelCache {
            config: self.config().clone(),
            backbone,
            head,
            positions,
            output: output.dim(),
        };
        Ok((output, cache))
    }

    /// Adds the gradients of all parameters to `gradients`, given `dy` of the output of [`forward_train`](Self::forward_train).
    ///
    /// # Errors
    /// Returns an error if `dy` has another shape than the output, or if the cache or the gradients are of a model of another configuration.
    pub fn backward(&self, cache: LanguageModelCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<()> {
        self.backward_shard(cache, dy, gradients, None)
    }

    /// [`backward`](Self::backward) of a part of sequences, if it is one.
    pub(crate) fn backward_shard(
        &self,
        cache: LanguageModelCache<A>,
        dy: Array3<A>,
        gradients: &mut Self,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<()> {
        const OPERATION: &str = "LanguageModel::backward";
        check_alike(OPERATION, self.config(), &cache.config, gradients.config())?;
        check_gradient(OPERATION, &dy, cache.output)?;
        let mut dy = contiguous(dy);
        let (own_backbone, own_head) = gradients.parts_mut();
        if let (Some(head), Some(head_cache), Some(own)) = (self.head(), &cache.head, own_head) {
            let embedding = own_backbone.embeddings.embedding.weight_mut();
            dy = head.backward(head_cache, &dy, self.embedding().weight(), own, embedding);
        }
        if let Some((positions, dim)) = &cache.positions {
            let (batch, length, width) = *dim;
            let mut spread = Array2::zeros((batch * length, width));
            let places = positions
                .iter()
                .enumerate()
                .flat_map(|(item, own)| own.iter().map(move |&position| item * length + position));
            let chosen = rows(&dy);
            scatter_rows(places, |index| chosen.slice_move(s![index, ..]), &mut spread);
            dy = sequence(spread, batch, length);
        }
        self.backbone().backward(cache.backbone, dy, own_backbone, shard)
    }
}
