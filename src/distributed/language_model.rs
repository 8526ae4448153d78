//! Language models whose sequences are spread over ranks.

use ndarray::{Array2, Array3, ArrayRef2, ArrayView1, Axis};

use super::rank_shard::{RankShard, check_output, real_rows};
use super::sharded::Sharded;
use super::team::{Header, Team};
use super::training::ShardedTraining;
use crate::attention::{PaddingMask, SequenceShard};
use crate::error::{Error, Result};
use crate::models::{Backbone, LanguageModel, TypedTokens, select};
use crate::scalar::Scalar;
use crate::training::TokenBatch;

impl<A: Scalar> Backbone<A> {
    /// This rank's shard of the sequences, with what positions count of them.
    pub(super) fn shard<'t, M>(
        &self,
        team: &'t Team<'t>,
        sharded: &Sharded<'_, M>,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
    ) -> Result<RankShard<'t>> {
        let mut shard = RankShard::new(team, sharded.shards(), tokens.nrows(), mask)?;
        if let Some(padding) = self.embeddings.position.padding_token() {
            let counts: Vec<usize> = match mask {
                Some(mask) => mask.real().outer_iter().map(|row| count(row, |&real| real)).collect(),
                None => tokens.outer_iter().map(|row| count(row, |&token| token != padding)).collect(),
            };
            shard.count_tokens(&counts)?;
        }
        Ok(shard)
    }

    /// Features of a shard of sequences, (batch, own n, embedding width).
    pub(super) fn forward_shard(
        &self,
        tokens: TypedTokens<'_>,
        mask: Option<&PaddingMask>,
        shard: &dyn SequenceShard<A>,
    ) -> Result<Array3<A>> {
        self.around(tokens, mask, Some(shard), |x| self.encoder.forward_shard(x, mask, shard))
    }
}

fn count<T>(row: ArrayView1<'_, T>, is_token: impl Fn(&T) -> bool) -> usize {
    row.iter().filter(|value| is_token(value)).count()
}

impl<A: Scalar> Sharded<'_, LanguageModel<A>> {
    /// Computes token scores: (batch, own n) token ids → (batch, own n, `vocab_size`), or features where the model has no head: the rows that
    /// [`LanguageModel::forward`] has at this rank's positions.
    ///
    /// # Errors
    /// Returns an error as [`LanguageModel::forward`] does, if the ranks disagree, or if another rank failed.
    pub fn forward(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.with_features("Sharded::forward of a LanguageModel", tokens, mask, |features| {
            let Some(head) = self.model().head() else {
                return Ok(features);
            };
            let scores = head.forward(features, self.model().embedding().weight())?;
            check_output(self.communicator().rank(), real_rows(&scores, mask))?;
            Ok(scores)
        })
    }

    /// Computes the head's input: (batch, own n) token ids → (batch, own n, embedding width).
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn features(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.with_features("Sharded::features of a LanguageModel", tokens, mask, Ok)
    }

    /// Computes the scores at some of this rank's `positions`, counted from its first, one list for each batch item: (number of positions,
    /// `vocab_size`).
    ///
    /// # Errors
    /// Returns an error as [`LanguageModel::logits_at`] does, if the ranks disagree, or if another rank failed.
    pub fn logits_at(&self, tokens: &ArrayRef2<usize>, positions: &[Vec<usize>], mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        self.with_features("Sharded::logits_at of a LanguageModel", tokens, mask, |features| {
            let Some(head) = self.model().head() else {
                let reason = "the model has no head (HeadKind::None); use features";
                return Err(Error::argument("Sharded::logits_at", reason));
            };
            let scores = head.forward(select(&features, positions)?, self.model().embedding().weight())?;
            let scores = scores.index_axis_move(Axis(0), 0);
            let is_real = |item, position: &usize| mask.is_none_or(|mask| mask.is_real(item, *position));
            let real = positions
                .iter()
                .enumerate()
                .flat_map(|(item, own)| own.iter().map(move |position| is_real(item, position)));
            let rows = scores.outer_iter().zip(real).filter_map(|(row, is_real)| is_real.then_some(row));
            check_output(self.communicator().rank(), rows)?;
            Ok(scores)
        })
    }

    fn with_features<T>(
        &self,
        operation: &'static str,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
        finish: impl FnOnce(Array3<A>) -> Result<T>,
    ) -> Result<T> {
        let header = self.sequence_header(tokens.nrows(), tokens.ncols(), mask);
        self.together(operation, header, |team| {
            let backbone = self.model().backbone();
            let shard = backbone.shard(team, self, tokens, mask)?;
            let features = backbone.forward_shard(tokens.into(), mask, &shard)?;
            check_output(team.rank(), real_rows(&features, mask))?;
            finish(features)
        })
    }
}

impl<A: Scalar> ShardedTraining<TokenBatch, A> for LanguageModel<A> {
    const OPERATION: &'static str = "Sharded::loss_and_gradients of a LanguageModel";
    const WHOLE: bool = false;

    fn header(sharded: &Sharded<'_, Self>, batch: &TokenBatch) -> Result<Header> {
        sharded.sequence_header(batch.tokens.nrows(), batch.tokens.ncols(), batch.mask.as_ref())
    }

    fn shard<'t>(sharded: &Sharded<'_, Self>, team: &'t Team<'t>, batch: &TokenBatch) -> Result<RankShard<'t>> {
        let backbone = sharded.model().backbone();
        backbone.shard(team, sharded, &batch.tokens, batch.mask.as_ref())
    }
}
