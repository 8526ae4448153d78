//! Training of models whose sequences are spread over ranks.

use super::rank_shard::RankShard;
use super::sharded::{Shardable, Sharded, pass_words};
use super::team::{Header, Team, digest};
use crate::config::TrainingPass;
use crate::error::Result;
use crate::parameters::Parameters;
use crate::scalar::Scalar;
use crate::training::{CrossEntropy, Reduction, Scored, Targets, Trainable, weight_of};

/// The interface that training over ranks needs of a model and its batches.
pub(super) trait ShardedTraining<B: Targets, A: Scalar>: Scored<B, A> + Shardable<A> {
    const OPERATION: &'static str;

    /// Whether every rank has the scores of whole sequences, with the same targets; otherwise each has those of its positions.
    const WHOLE: bool;

    /// The values of a batch that must agree between ranks.
    fn header(sharded: &Sharded<'_, Self>, batch: &B) -> Result<Header>;

    /// This rank's shard of the sequences.
    fn shard<'t>(sharded: &Sharded<'_, Self>, team: &'t Team<'t>, batch: &B) -> Result<RankShard<'t>>;
}

/// Trains on sequences that are spread over the ranks, and over all replicas: every rank gets the loss of all targets, the gradients of its columns
/// of E and F, and the same gradients of all other parameters.
///
/// The sequences of the batch, its mask and its positions (counted from this rank's first) are this rank's. So are the targets of a language model;
/// those of a classifier are the items', the same on all ranks of a sequence. Dropout masks are each rank's own, and not those of a single process, except
/// those of the weights of local-global attention.
#[allow(private_bounds)] // the bound is the seal
impl<A: Scalar, B: Targets, M: ShardedTraining<B, A>> Trainable<B, A> for Sharded<'_, M> {
    type Loss = CrossEntropy;
    type Gradients = M;

    fn loss_and_gradients(&self, batch: &B, loss: &CrossEntropy, pass: &TrainingPass) -> Result<(f64, M)> {
        let targets = batch.targets();
        let mut header = M::header(self, batch).map(|header| header.and(pass_words(pass)).and(loss_words(loss)));
        if M::WHOLE {
            header = header.map(|header| header.and([("the targets", digest(format!("{targets:?}").into_bytes()))]));
        }
        self.together_on_grid(M::OPERATION, header, |team| {
            let mut gradients = self.model().zeros_like();
            let mut totals = [0.0, targets.iter().flatten().count() as f64];
            let mut add_up = || {
                let shard = M::shard(self, team, batch)?;
                let (scores, cache) = self.model().train_scores(batch, &self.own_pass(pass), Some(&shard))?;
                let (sum, dy) = loss.with_reduction(Reduction::Sum).loss_and_gradient(scores, targets)?;
                totals[0] = pass.step.finite_loss(sum)?;
                self.model().backward_scores(cache, dy, &mut gradients, Some(&shard))?;
                // The same scores give the same loss on all ranks.
                let totals: &mut [f64] = if M::WHOLE { &mut [] } else { &mut totals };
                self.add_up_parts(team, totals, &mut gradients)
            };
            let sums = add_up();
            let words = Header::new(pass_words(pass)).and(loss_words(loss));
            self.over_replicas(sums, words, &mut totals, &mut gradients)?;
            Ok((scaled(loss, totals, &mut gradients), gradients))
        })
    }

    fn weight(&self, batch: &B, loss: &CrossEntropy) -> f64 {
        weight_of(batch, loss)
    }

    fn tokens(&self, batch: &B) -> usize {
        batch.tokens()
    }
}

/// The values of a loss that must agree between ranks.
fn loss_words(loss: &CrossEntropy) -> [(&'static str, u64); 2] {
    [
        ("the label smoothing", loss.label_smoothing.to_bits()),
        ("the reduction of the loss", loss.reduction as u64),
    ]
}

/// From sums over all targets, whose number is the second of `totals`, to the loss and its gradients.
fn scaled<A: Scalar>(loss: &CrossEntropy, [sum, count]: [f64; 2], gradients: &mut impl Parameters<A>) -> f64 {
    if loss.reduction == Reduction::Sum {
        return sum;
    }
    let factor = 1.0 / count.max(1.0);
    gradients.visit_mut("", &mut |_, _, mut tensor| tensor.mapv_inplace(|number| number * A::cast(factor)));
    sum * factor
}
