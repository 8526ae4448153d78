//! Classifiers whose sequences are spread over ranks.

use ndarray::{Array2, Array3};

use super::rank_shard::{RankShard, check_output};
use super::sharded::Sharded;
use super::team::{Header, Team};
use super::training::ShardedTraining;
use crate::attention::{PaddingMask, SequenceShard};
use crate::error::Result;
use crate::layers::{Padding, check_width};
use crate::models::{Classifier, Input, Sequences, pool_shard, start};
use crate::scalar::Scalar;
use crate::training::SequenceBatch;

impl<A: Scalar> Sharded<'_, Classifier<A>> {
    /// Returns the (batch, classes) scores of whole sequences, on every rank, given this rank's positions of them: (batch, own n) token ids or
    /// (batch, own n, features) vectors, whichever the model reads.
    ///
    /// # Errors
    /// Returns an error as [`Classifier::forward`] does, or if the ranks disagree or another rank fails.
    pub fn forward<'s>(&self, sequences: impl Into<Sequences<'s, A>>, mask: Option<&PaddingMask>) -> Result<Array2<A>>
    where
        A: 's,
    {
        let sequences = sequences.into();
        self.together("Sharded::forward of a Classifier", self.header(&sequences, mask), |team| {
            let shard = self.shard(team, &sequences, mask)?;
            let features = self.model().features_of_shard(&sequences, mask, &shard)?;
            let pooled = pool_shard(&features, self.model().config().pooling, mask, &shard)?.pooled;
            let scores = self.model().scores_of(pooled)?;
            check_output(team.rank(), scores.outer_iter())?;
            Ok(scores)
        })
    }

    fn header(&self, sequences: &Sequences<'_, A>, mask: Option<&PaddingMask>) -> Result<Header> {
        const OPERATION: &str = "Sharded of a Classifier";
        let (batch, length) = sequences.dim();
        let header = self.sequence_header(batch, length, mask)?;
        match (self.model().input(), sequences.tokens(), sequences.vectors()) {
            (Input::Tokens(_), Some(_), _) => Ok(header),
            (Input::Features { input, .. }, _, Some(x)) => {
                check_width(OPERATION, "x", x, input.in_dim())?;
                Ok(header)
            }
            (input, ..) => Err(input.mistaken(OPERATION)),
        }
    }

    fn shard<'t>(&self, team: &'t Team<'t>, sequences: &Sequences<'_, A>, mask: Option<&PaddingMask>) -> Result<RankShard<'t>> {
        match (self.model().input(), sequences.tokens()) {
            (Input::Tokens(backbone), Some(tokens)) => backbone.shard(team, self, tokens.ids, mask),
            _ => RankShard::new(team, self.shards(), sequences.dim().0, mask),
        }
    }
}

impl<A: Scalar, B: SequenceBatch<A>> ShardedTraining<B, A> for Classifier<A> {
    const OPERATION: &'static str = "Sharded::loss_and_gradients of a Classifier";
    const WHOLE: bool = true;

    fn header(sharded: &Sharded<'_, Self>, batch: &B) -> Result<Header> {
        let (sequences, mask) = batch.sequences()?;
        sharded.header(&sequences, mask)
    }

    fn shard<'t>(sharded: &Sharded<'_, Self>, team: &'t Team<'t>, batch: &B) -> Result<RankShard<'t>> {
        let (sequences, mask) = batch.sequences()?;
        sharded.shard(team, &sequences, mask)
    }
}

impl<A: Scalar> Classifier<A> {
    /// The features of a shard's rows, before they are pooled.
    fn features_of_shard(
        &self,
        sequences: &Sequences<'_, A>,
        mask: Option<&PaddingMask>,
        shard: &dyn SequenceShard<A>,
    ) -> Result<Array3<A>> {
        match (self.input(), sequences.tokens(), sequences.vectors()) {
            (Input::Tokens(backbone), Some(tokens), _) => backbone.forward_shard(tokens, mask, shard),
            (Input::Features { input, position, encoder }, _, Some(x)) => {
                let mut x = input.forward(x)?;
                position.add_from(start(Some(shard)), &mut x.view_mut(), Padding::None)?;
                encoder.forward_shard(x, mask, shard)
            }
            (input, ..) => Err(input.mistaken("Sharded of a Classifier")),
        }
    }
}
