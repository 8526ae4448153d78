//! Language models whose sequences are spread over ranks.

use ndarray::{Array2, Array3, ArrayRef2, ArrayView1, Axis};

use super::part::{SequencePart, check_output, real_rows};
use super::sharded::{Sharded, pass_words};
use super::team::{Header, Team};
use crate::attention::{PaddingMask, Part};
use crate::config::TrainingPass;
use crate::error::{Error, Result};
use crate::layers::{flat, sequence};
use crate::models::{Backbone, LanguageModel, select};
use crate::parameters::Parameters;
use crate::scalar::Scalar;
use crate::training::{CrossEntropy, Reduction};

impl<A: Scalar> Backbone<A> {
    /// This rank's part of the sequences, with what positions count of them.
    pub(super) fn part<'t, M>(
        &self,
        team: &'t Team<'t>,
        sharded: &Sharded<'_, M>,
        tokens: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
    ) -> Result<SequencePart<'t>> {
        let mut part = SequencePart::new(team, sharded.shards(), tokens.nrows(), mask)?;
        if let Some(padding) = self.embeddings.position.padding_token() {
            let counts: Vec<usize> = match mask {
                Some(mask) => mask.real().outer_iter().map(|row| count(row, |&real| real)).collect(),
                None => tokens.outer_iter().map(|row| count(row, |&token| token != padding)).collect(),
            };
            part.count_tokens(&counts)?;
        }
        Ok(part)
    }

    /// Features of a part of sequences, (batch, own n, embedding width).
    pub(super) fn forward_part(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>, part: &dyn Part<A>) -> Result<Array3<A>> {
        self.around(tokens, mask, Some(part), |x| self.encoder.forward_part(x, mask, part))
    }
}

fn count<T>(row: ArrayView1<'_, T>, is_token: impl Fn(&T) -> bool) -> usize {
    row.iter().filter(|value| is_token(value)).count()
}

impl<A: Scalar> Sharded<'_, LanguageModel<A>> {
    /// (batch, own n) token ids → (batch, own n, `vocab_size`) scores, or features where the model has no head: the rows that
    /// [`LanguageModel::forward`] has at this rank's positions.
    ///
    /// # Errors
    /// As [`LanguageModel::forward`]; ranks that disagree; what failed on another rank.
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

    /// (batch, own n) token ids → (batch, own n, embedding width): what the head is given.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn features(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.with_features("Sharded::features of a LanguageModel", tokens, mask, Ok)
    }

    /// The scores at some of this rank's `positions`, counted from its first, one list for each batch item: (number of positions, `vocab_size`).
    ///
    /// # Errors
    /// As [`LanguageModel::logits_at`]; ranks that disagree; what failed on another rank.
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
            let part = backbone.part(team, self, tokens, mask)?;
            let features = backbone.forward_part(tokens, mask, &part)?;
            check_output(team.rank(), real_rows(&features, mask))?;
            finish(features)
        })
    }

    /// [`LanguageModel::loss_and_gradients`] of sequences that are spread over the ranks, and over all replicas: every rank has the loss of all
    /// targets, the gradients of its columns of E and F, and the same gradients of all other parameters.
    ///
    /// `tokens` (batch, own n), `positions` (counted from this rank's first), `targets` and `mask` are this rank's. Dropout masks are each rank's own,
    /// and not those of a single process.
    ///
    /// # Errors
    /// As [`LanguageModel::loss_and_gradients`]; ranks that disagree; what failed on another rank.
    pub fn loss_and_gradients(
        &self,
        tokens: &ArrayRef2<usize>,
        positions: Option<&[Vec<usize>]>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(f64, LanguageModel<A>)> {
        let header = self.sequence_header(tokens.nrows(), tokens.ncols(), mask);
        let header = header.map(|header| header.and(pass_words(pass)).and(loss_words(loss)));
        self.together_on_grid("Sharded::loss_and_gradients of a LanguageModel", header, |team| {
            let mut gradients = self.model().zeros_like();
            let mut totals = [0.0, targets.iter().flatten().count() as f64];
            let mut add_up = || {
                let part = self.model().backbone().part(team, self, tokens, mask)?;
                let (scores, cache) = self
                    .model()
                    .forward_train_part(tokens, positions, mask, &self.own_pass(pass), Some(&part))?;
                let (batch, length, _) = scores.dim();
                let (sum, dy) = loss.with_reduction(Reduction::Sum).loss_and_gradient(flat(scores), targets)?;
                totals[0] = pass.step.finite_loss(sum)?;
                self.model()
                    .backward_part(cache, &sequence(dy, batch, length), &mut gradients, Some(&part))?;
                self.add_up_parts(team, &mut totals, &mut gradients)
            };
            let sums = add_up();
            let words = Header::new(pass_words(pass)).and(loss_words(loss));
            self.over_replicas(sums, words, &mut totals, &mut gradients)?;
            Ok((scaled(loss, totals, &mut gradients), gradients))
        })
    }
}

/// What must be alike of a loss.
pub(super) fn loss_words(loss: &CrossEntropy) -> [(&'static str, u64); 2] {
    [
        ("the label smoothing", loss.label_smoothing.to_bits()),
        ("the reduction of the loss", loss.reduction as u64),
    ]
}

/// From sums over all targets, whose number is the second of `totals`, to the loss and its gradients.
pub(super) fn scaled<A: Scalar>(loss: &CrossEntropy, [sum, count]: [f64; 2], gradients: &mut impl Parameters<A>) -> f64 {
    if loss.reduction == Reduction::Sum {
        return sum;
    }
    let factor = 1.0 / count.max(1.0);
    gradients.visit_mut("", &mut |_, _, mut tensor| tensor.mapv_inplace(|number| number * A::cast(factor)));
    sum * factor
}
