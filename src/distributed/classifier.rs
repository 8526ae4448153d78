//! Classifiers whose sequences are spread over ranks.

use ndarray::{Array2, Array3, ArrayRef2, ArrayRef3};

use super::language_model::{loss_words, scaled};
use super::part::{SequencePart, check_output};
use super::sharded::{Sharded, pass_words};
use super::team::{Header, Team, digest};
use crate::attention::{PaddingMask, Part};
use crate::config::TrainingPass;
use crate::error::{Error, Result};
use crate::layers::{Padding, check_width};
use crate::models::{Classifier, ClassifierCache, Input, pool_part, start};
use crate::parameters::Parameters;
use crate::scalar::Scalar;
use crate::training::{CrossEntropy, Reduction};

/// What a classifier reads, of this rank's positions.
#[derive(Clone, Copy)]
enum Read<'r, A> {
    Tokens(&'r ArrayRef2<usize>),
    Features(&'r ArrayRef3<A>),
}

impl<A: Scalar> Read<'_, A> {
    /// (batch, own n).
    fn dim(self) -> (usize, usize) {
        match self {
            Self::Tokens(tokens) => tokens.dim(),
            Self::Features(x) => (x.dim().0, x.dim().1),
        }
    }
}

impl<A: Scalar> Sharded<'_, Classifier<A>> {
    /// (batch, own n) token ids → (batch, classes) scores of the whole sequences, on every rank.
    ///
    /// # Errors
    /// As [`Classifier::forward`]; ranks that disagree; what failed on another rank.
    pub fn forward(&self, tokens: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        self.scores("Sharded::forward of a Classifier", Read::Tokens(tokens), mask)
    }

    /// (batch, own n, features) → (batch, classes) scores of the whole sequences, on every rank.
    ///
    /// # Errors
    /// As [`Classifier::forward_features`]; ranks that disagree; what failed on another rank.
    pub fn forward_features(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        self.scores("Sharded::forward_features of a Classifier", Read::Features(x), mask)
    }

    /// [`Classifier::loss_and_gradients`] of sequences that are spread over the ranks, and over all replicas: every rank has the loss of all items, the
    /// gradients of its columns of E and F, and the same gradients of all other parameters.
    ///
    /// `tokens` (batch, own n) and `mask` are this rank's, `targets` those of the items, the same on all ranks of a sequence. Dropout masks are each
    /// rank's own, and not those of a single process.
    ///
    /// # Errors
    /// As [`Classifier::loss_and_gradients`]; ranks that disagree; what failed on another rank.
    pub fn loss_and_gradients(
        &self,
        tokens: &ArrayRef2<usize>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(f64, Classifier<A>)> {
        let operation = "Sharded::loss_and_gradients of a Classifier";
        self.trained(operation, Read::Tokens(tokens), targets, loss, mask, pass)
    }

    /// [`loss_and_gradients`](Self::loss_and_gradients) of sequences of vectors, (batch, own n, features).
    ///
    /// # Errors
    /// As [`Classifier::loss_and_gradients_of_features`]; ranks that disagree; what failed on another rank.
    pub fn loss_and_gradients_of_features(
        &self,
        x: &ArrayRef3<A>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(f64, Classifier<A>)> {
        let operation = "Sharded::loss_and_gradients_of_features of a Classifier";
        self.trained(operation, Read::Features(x), targets, loss, mask, pass)
    }

    fn header(&self, read: Read<'_, A>, mask: Option<&PaddingMask>) -> Result<Header> {
        let (batch, length) = read.dim();
        let header = self.sequence_header(batch, length, mask)?;
        match (self.model().input(), read) {
            (Input::Tokens(_), Read::Tokens(_)) => Ok(header),
            (Input::Features { input, .. }, Read::Features(x)) => {
                check_width("Sharded::forward_features", "x", x, input.in_dim())?;
                Ok(header)
            }
            (Input::Tokens(_), Read::Features(_)) => {
                let reason = "the model reads tokens, not features; use the method for tokens";
                Err(Error::argument("Sharded::forward_features", reason))
            }
            (Input::Features { .. }, Read::Tokens(_)) => {
                let reason = "the model reads features, not tokens; use the method for features";
                Err(Error::argument("Sharded::forward", reason))
            }
        }
    }

    fn part<'t>(&self, team: &'t Team<'t>, read: Read<'_, A>, mask: Option<&PaddingMask>) -> Result<SequencePart<'t>> {
        match (self.model().input(), read) {
            (Input::Tokens(backbone), Read::Tokens(tokens)) => backbone.part(team, self, tokens, mask),
            _ => SequencePart::new(team, self.shards(), read.dim().0, mask),
        }
    }

    fn scores(&self, operation: &'static str, read: Read<'_, A>, mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        self.together(operation, self.header(read, mask), |team| {
            let part = self.part(team, read, mask)?;
            let features = self.model().features_of_part(read, mask, &part)?;
            let pooled = pool_part(&features, self.model().config().pooling, mask, &part)?.pooled;
            let scores = self.model().scores_of(pooled)?;
            check_output(team.rank(), scores.outer_iter())?;
            Ok(scores)
        })
    }

    fn trained(
        &self,
        operation: &'static str,
        read: Read<'_, A>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(f64, Classifier<A>)> {
        let all_targets = ("the targets", digest(format!("{targets:?}").into_bytes()));
        let header = self.header(read, mask);
        let header = header.map(|header| header.and(pass_words(pass)).and(loss_words(loss)).and([all_targets]));
        self.together_on_grid(operation, header, |team| {
            let mut gradients = self.model().zeros_like();
            let mut totals = [0.0, targets.iter().flatten().count() as f64];
            let mut add_up = || {
                let part = self.part(team, read, mask)?;
                let (scores, cache) = self.model().train_part(read, mask, &self.own_pass(pass), &part)?;
                // All ranks have the same scores, and so the same loss.
                let (sum, dy) = loss.with_reduction(Reduction::Sum).loss_and_gradient(scores, targets)?;
                totals[0] = pass.step.finite_loss(sum)?;
                self.model().backward_part(cache, &dy, &mut gradients, Some(&part))?;
                self.add_up_parts(team, &mut [], &mut gradients)
            };
            let sums = add_up();
            let words = Header::new(pass_words(pass)).and(loss_words(loss));
            self.over_replicas(sums, words, &mut totals, &mut gradients)?;
            Ok((scaled(loss, totals, &mut gradients), gradients))
        })
    }
}

impl<A: Scalar> Classifier<A> {
    /// The features of a part's rows, before they are pooled.
    fn features_of_part(&self, read: Read<'_, A>, mask: Option<&PaddingMask>, part: &dyn Part<A>) -> Result<Array3<A>> {
        match (self.input(), read) {
            (Input::Tokens(backbone), Read::Tokens(tokens)) => backbone.forward_part(tokens, mask, part),
            (Input::Features { input, position, encoder }, Read::Features(x)) => {
                let mut x = input.forward(x)?;
                position.add_from(start(Some(part)), &mut x.view_mut(), Padding::None)?;
                encoder.forward_part(x, mask, part)
            }
            _ => Err(Error::argument("Sharded", "the model reads something else")),
        }
    }

    fn train_part(
        &self,
        read: Read<'_, A>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
        part: &dyn Part<A>,
    ) -> Result<(Array2<A>, ClassifierCache<A>)> {
        match read {
            Read::Tokens(tokens) => self.forward_train_part(tokens, mask, pass, Some(part)),
            Read::Features(x) => self.forward_train_features_part(x, mask, pass, Some(part)),
        }
    }
}
