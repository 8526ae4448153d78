//! Options of a training pass: dropout and gradient checkpointing.

use super::setters;
use crate::error::{Error, Result};
use crate::initialization::{Place, Step};
use crate::ops::Dropout;
use crate::scalar::Scalar;

/// How a training pass regularizes, and what it keeps. None of it is part of a model: inference drops nothing.
///
/// Rates are the probability that an element is dropped; the others are scaled up by 1/(1 − rate). [`training`](crate::training) has an
/// example.
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct TrainingPass {
    /// The random numbers: a pass with the same step drops the same elements.
    pub step: Step,
    /// Dropout rate of the attention's probabilities.
    pub attention_dropout: f64,
    /// Dropout rate of the residual branches.
    pub residual_dropout: f64,
    /// Dropout rate between the two products of the feed-forward.
    pub activation_dropout: f64,
    /// Dropout rate of the embedded tokens.
    pub embedding_dropout: f64,
    /// Dropout rate of whole blocks, where they keep the width (LayerDrop, Fan et al., arXiv 1909.11556).
    pub layer_drop: f64,
    /// The number of the first block that the pass goes through, 0 as a rule. Blocks of different numbers drop different elements: a model of
    /// your own that has several encoders, or several blocks one after another, gives each of them a pass with its own number.
    pub first_layer: usize,
    /// Whether only the inputs of the blocks are kept and each block is computed again in the backward pass.
    pub gradient_checkpointing: bool,
    /// The part of the batch that the pass is for, if there are several: each drops other elements.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) part: u32,
    /// The first of the parts that have shards of the same sequences: what is drawn by position is drawn alike for all of them.
    #[cfg_attr(feature = "serde", serde(skip))]
    pub(crate) first_part: u32,
}

impl TrainingPass {
    /// Creates a pass that drops nothing and keeps everything that the backward pass needs.
    pub fn new(step: Step) -> Self {
        Self {
            step,
            attention_dropout: 0.0,
            residual_dropout: 0.0,
            activation_dropout: 0.0,
            embedding_dropout: 0.0,
            layer_drop: 0.0,
            first_layer: 0,
            gradient_checkpointing: false,
            part: 0,
            first_part: 0,
        }
    }

    setters! {
        /// Sets [`TrainingPass::attention_dropout`].
        with_attention_dropout => attention_dropout: f64,
        /// Sets [`TrainingPass::residual_dropout`].
        with_residual_dropout => residual_dropout: f64,
        /// Sets [`TrainingPass::activation_dropout`].
        with_activation_dropout => activation_dropout: f64,
        /// Sets [`TrainingPass::embedding_dropout`].
        with_embedding_dropout => embedding_dropout: f64,
        /// Sets [`TrainingPass::layer_drop`].
        with_layer_drop => layer_drop: f64,
        /// Sets [`TrainingPass::first_layer`].
        with_first_layer => first_layer: usize,
        /// Sets [`TrainingPass::gradient_checkpointing`].
        with_gradient_checkpointing => gradient_checkpointing: bool,
    }

    /// The pass for one of several parts of the batch.
    pub(crate) fn for_part(self, part: usize) -> Self {
        self.for_shard(part, part)
    }

    /// The pass for a part that has a shard of sequences, of which part `first` has the first shard.
    pub(crate) fn for_shard(mut self, part: usize, first: usize) -> Self {
        let [part, first] = [part, first].map(|part| u32::try_from(part).unwrap_or(u32::MAX));
        (self.part, self.first_part) = (part, first);
        self
    }

    /// The pass in which all shards of the same sequences draw alike, for dropout that knows whole sequences' positions.
    pub(crate) fn for_positions(mut self) -> Self {
        self.part = self.first_part;
        self
    }

    /// Checks that every rate is at least 0 and below 1.
    ///
    /// # Errors
    /// Returns an error that names the first rate that is not.
    pub fn check(&self) -> Result<()> {
        let rates = [
            ("attention_dropout", self.attention_dropout),
            ("residual_dropout", self.residual_dropout),
            ("activation_dropout", self.activation_dropout),
            ("embedding_dropout", self.embedding_dropout),
            ("layer_drop", self.layer_drop),
        ];
        match rates.into_iter().find(|(_, rate)| !(0.0..1.0).contains(rate)) {
            Some((option, rate)) => Err(Error::config(option, rate, "a rate is at least 0 and below 1")),
            None => Ok(()),
        }
    }

    /// The dropout at a place of a layer, if anything is dropped there.
    pub(crate) fn dropout<A: Scalar>(&self, layer: usize, place: Place) -> Option<Dropout<A>> {
        let rate = match place {
            Place::Embedding => self.embedding_dropout,
            Place::AttentionWeights => self.attention_dropout,
            Place::AttentionOutput | Place::FeedForwardOutput => self.residual_dropout,
            Place::Activation => self.activation_dropout,
            Place::Layer => return None,
        };
        if rate == 0.0 {
            return None;
        }
        Dropout::new(rate, self.step.key_of_part(self.part, self.numbered(layer), place))
    }

    /// Whether a whole layer is left out.
    pub(crate) fn drops_layer(&self, layer: usize) -> bool {
        self.layer_drop > 0.0 && self.step.chance(self.layer_drop, self.numbered(layer), Place::Layer)
    }

    fn numbered(&self, layer: usize) -> usize {
        self.first_layer.saturating_add(layer)
    }
}
