//! The scores of batches that a cross-entropy compares with their targets.

use ndarray::Array2;

use super::batches::{PairBatch, SequenceBatch, TokenBatch};
use crate::attention::SequenceShard;
use crate::config::TrainingPass;
use crate::error::Result;
use crate::layers::{flat, sequence};
use crate::models::{Classifier, ClassifierCache, EncoderDecoder, EncoderDecoderCache, LanguageModel, LanguageModelCache};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// A model that makes rows of scores of a batch.
pub(crate) trait Scored<B, A: Scalar>: Parameters<A> + Clone {
    type Cache;

    /// (targets, classes) scores for training, of a shard of the sequences if they are in shards.
    fn train_scores(&self, batch: &B, pass: &TrainingPass, shard: Option<&dyn SequenceShard<A>>) -> Result<(Array2<A>, Self::Cache)>;

    /// Adds the gradients of the parameters, given that of the scores.
    fn backward_scores(&self, cache: Self::Cache, dy: Array2<A>, gradients: &mut Self, shard: Option<&dyn SequenceShard<A>>) -> Result<()>;

    /// (targets, classes) scores without a cache.
    fn scores_of_batch(&self, batch: &B) -> Result<Array2<A>>;
}

/// Before its rows are put into one array, the output is (batch, length, classes).
type Dim = (usize, usize, usize);

impl<A: Scalar> Scored<TokenBatch, A> for LanguageModel<A> {
    type Cache = (LanguageModelCache<A>, Dim);

    fn train_scores(
        &self,
        batch: &TokenBatch,
        pass: &TrainingPass,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<(Array2<A>, Self::Cache)> {
        let (scores, cache) =
            self.forward_train_shard(batch.typed_tokens(), batch.positions.as_deref(), batch.mask.as_ref(), pass, shard)?;
        let dim = scores.dim();
        Ok((flat(scores), (cache, dim)))
    }

    fn backward_scores(
        &self,
        (cache, (batch, length, _)): Self::Cache,
        dy: Array2<A>,
        gradients: &mut Self,
        shard: Option<&dyn SequenceShard<A>>,
    ) -> Result<()> {
        self.backward_shard(cache, sequence(dy, batch, length), gradients, shard)
    }

    fn scores_of_batch(&self, batch: &TokenBatch) -> Result<Array2<A>> {
        match &batch.positions {
            Some(positions) => self.logits_of(batch.typed_tokens(), positions, batch.mask.as_ref()),
            None => Ok(flat(self.forward_of(batch.typed_tokens(), batch.mask.as_ref())?)),
        }
    }
}

impl<A: Scalar> Scored<PairBatch, A> for EncoderDecoder<A> {
    type Cache = (EncoderDecoderCache<A>, Dim);

    fn train_scores(&self, batch: &PairBatch, pass: &TrainingPass, _: Option<&dyn SequenceShard<A>>) -> Result<(Array2<A>, Self::Cache)> {
        let (scores, cache) = self.forward_train(&batch.pairs(), pass)?;
        let dim = scores.dim();
        Ok((flat(scores), (cache, dim)))
    }

    fn backward_scores(
        &self,
        (cache, (batch, length, _)): Self::Cache,
        dy: Array2<A>,
        gradients: &mut Self,
        _: Option<&dyn SequenceShard<A>>,
    ) -> Result<()> {
        self.backward(cache, sequence(dy, batch, length), gradients)
    }

    fn scores_of_batch(&self, batch: &PairBatch) -> Result<Array2<A>> {
        Ok(flat(self.forward(&batch.pairs())?))
    }
}

impl<A: Scalar, B: SequenceBatch<A>> Scored<B, A> for Classifier<A> {
    type Cache = ClassifierCache<A>;

    fn train_scores(&self, batch: &B, pass: &TrainingPass, shard: Option<&dyn SequenceShard<A>>) -> Result<(Array2<A>, Self::Cache)> {
        let (sequences, mask) = batch.sequences()?;
        self.forward_train_shard(sequences, mask, pass, shard)
    }

    fn backward_scores(&self, cache: Self::Cache, dy: Array2<A>, gradients: &mut Self, shard: Option<&dyn SequenceShard<A>>) -> Result<()> {
        self.backward_shard(cache, dy, gradients, shard).map(|_| ())
    }

    fn scores_of_batch(&self, batch: &B) -> Result<Array2<A>> {
        let (sequences, mask) = batch.sequences()?;
        self.forward(sequences, mask)
    }
}
