//! The one call a training loop needs of a model: its loss and the gradients of its parameters.

use ndarray::{Array2, Array3, ArrayRef2, ArrayRef3};

use super::CrossEntropy;
use crate::attention::PaddingMask;
use crate::config::TrainingPass;
use crate::error::Result;
use crate::layers::{flat, sequence};
use crate::models::{Classifier, ClassifierCache, EncoderDecoder, LanguageModel, TokenPairs};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

impl<A: Scalar> LanguageModel<A> {
    /// The cross-entropy of the scores at `positions`, one list for each batch item (everywhere if `None`), against `targets`, one for each
    /// score in the same order; and the gradients of all parameters, a value of the model's own type. A causal model's targets are its
    /// [`next_tokens`](Self::next_tokens).
    ///
    /// ```
    /// use linformer::ndarray::array;
    /// use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Step};
    /// use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig, TrainingPass};
    ///
    /// let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1);
    /// let mut model = LanguageModel::<f32>::new(&LanguageModelConfig::new(10, encoder), 0)?;
    /// let mut optimizer = AdamW::new(&model, AdamWConfig::default())?;
    /// let (tokens, targets) = (array![[1, 2, 3]], [Some(2), Some(3), None]);
    /// let mut losses = Vec::new();
    /// for index in 0..20 {
    ///     let pass = TrainingPass::new(Step::new(7, index)).with_residual_dropout(0.1);
    ///     let (loss, gradients) = model.loss_and_gradients(&tokens, None, &targets, &CrossEntropy::new(), None, &pass)?;
    ///     optimizer.step(&mut model, &gradients, 1e-2)?;
    ///     losses.push(loss);
    /// }
    /// assert!(losses[19] < losses[0]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`forward_train`](Self::forward_train); another number of targets than scores; a target outside the vocabulary; a loss that is not finite.
    pub fn loss_and_gradients(
        &self,
        tokens: &ArrayRef2<usize>,
        positions: Option<&[Vec<usize>]>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(f64, Self)> {
        let (scores, cache) = self.forward_train(tokens, positions, mask, pass)?;
        let (loss, gradient) = loss_and_gradient_of(scores, targets, loss, pass)?;
        let mut gradients = self.zeros_like();
        self.backward(cache, &gradient, &mut gradients)?;
        Ok((loss, gradients))
    }
}

impl<A: Scalar> EncoderDecoder<A> {
    /// The cross-entropy of the scores of `pairs` against `targets`, one for each token of the pairs' targets, row after row, such as those of a
    /// [`PairBatch`](crate::PairBatch); and the gradients of all parameters. (Teacher forcing: every position is given the tokens before it as they
    /// should be.)
    ///
    /// # Errors
    /// As [`forward_train`](Self::forward_train); another number of targets than scores; a target outside the vocabulary; a loss that is not finite.
    pub fn loss_and_gradients(
        &self,
        pairs: &TokenPairs<'_>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        pass: &TrainingPass,
    ) -> Result<(f64, Self)> {
        let (scores, cache) = self.forward_train(pairs, pass)?;
        let (loss, gradient) = loss_and_gradient_of(scores, targets, loss, pass)?;
        let mut gradients = self.zeros_like();
        self.backward(cache, &gradient, &mut gradients)?;
        Ok((loss, gradients))
    }
}

impl<A: Scalar> Classifier<A> {
    /// The cross-entropy of the scores of token sequences against `targets`, one for each batch item; and the gradients of all parameters.
    ///
    /// # Errors
    /// As [`forward_train`](Self::forward_train); another number of targets; a class outside the classes; a loss that is not finite.
    pub fn loss_and_gradients(
        &self,
        tokens: &ArrayRef2<usize>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(f64, Self)> {
        self.gradients_of(self.forward_train(tokens, mask, pass)?, targets, loss, pass)
    }

    /// [`loss_and_gradients`](Self::loss_and_gradients) of sequences of vectors.
    ///
    /// # Errors
    /// As [`forward_train_features`](Self::forward_train_features) and [`loss_and_gradients`](Self::loss_and_gradients).
    pub fn loss_and_gradients_of_features(
        &self,
        x: &ArrayRef3<A>,
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(f64, Self)> {
        self.gradients_of(self.forward_train_features(x, mask, pass)?, targets, loss, pass)
    }

    fn gradients_of(
        &self,
        (scores, cache): (Array2<A>, ClassifierCache<A>),
        targets: &[Option<usize>],
        loss: &CrossEntropy,
        pass: &TrainingPass,
    ) -> Result<(f64, Self)> {
        let (loss, gradient) = loss.loss_and_gradient(scores, targets)?;
        let loss = pass.step.finite_loss(loss)?;
        let mut gradients = self.zeros_like();
        self.backward(cache, &gradient, &mut gradients)?;
        Ok((loss, gradients))
    }
}

/// The loss of (batch, length, classes) scores, and its gradient.
fn loss_and_gradient_of<A: Scalar>(
    scores: Array3<A>,
    targets: &[Option<usize>],
    loss: &CrossEntropy,
    pass: &TrainingPass,
) -> Result<(f64, Array3<A>)> {
    let (batch, length, _) = scores.dim();
    let (loss, gradient) = loss.loss_and_gradient(flat(scores), targets)?;
    Ok((pass.step.finite_loss(loss)?, sequence(gradient, batch, length)))
}
