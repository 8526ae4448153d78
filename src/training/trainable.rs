//! The one call a training loop needs of a model: the loss of a batch and the gradients of its parameters.

use super::batches::{FeatureBatch, PairBatch, Targets, TokenBatch};
use super::scored::Scored;
use super::{CrossEntropy, Reduction};
use crate::config::TrainingPass;
use crate::error::Result;
use crate::initialization::Step;
use crate::models::{Classifier, EncoderDecoder, LanguageModel};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// A model that trains on batches of type `B`: [`LanguageModel`] and [`Classifier`] on a [`TokenBatch`], [`Classifier`] on a [`FeatureBatch`],
/// [`EncoderDecoder`] on a [`PairBatch`], models that are [`Sharded`](crate::distributed::Sharded) on their rank's part of one, and models of your
/// own on whatever they need.
///
/// ```
/// use linformer::ndarray::array;
/// use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Step, TokenBatch, Trainable};
/// use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig, TrainingPass};
///
/// let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1);
/// let mut model = LanguageModel::<f32>::new(&LanguageModelConfig::new(10, encoder), 0)?;
/// let mut optimizer = AdamW::new(&model, AdamWConfig::default())?;
/// let batch = TokenBatch::new(&array![[1, 2, 3]], &[Some(2), Some(3), None]);
/// let mut losses = Vec::new();
/// for index in 0..20 {
///     let pass = TrainingPass::new(Step::new(7, index)).with_residual_dropout(0.1);
///     let (loss, gradients) = model.loss_and_gradients(&batch, &CrossEntropy::new(), &pass)?;
///     optimizer.step(&mut model, &gradients, 1e-2)?;
///     losses.push(loss);
/// }
/// assert!(losses[19] < losses[0]);
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// A model of your own, here a line through points:
///
/// ```
/// use linformer::ndarray::{Array3, array};
/// use linformer::training::{MeanSquaredError, Trainable};
/// use linformer::{Linear, Parameters, Result, TrainingPass, Visitor, VisitorMut};
///
/// #[derive(Clone)]
/// struct Line(Linear<f32>);
///
/// impl Parameters<f32> for Line {
///     fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, f32>) {
///         self.0.visit(path, visitor);
///     }
///
///     fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, f32>) {
///         self.0.visit_mut(path, visitor);
///     }
/// }
///
/// /// Points x and y, each (1, n, 1).
/// impl Trainable<(Array3<f32>, Array3<f32>)> for Line {
///     type Loss = MeanSquaredError;
///     type Gradients = Self;
///
///     fn loss_and_gradients(&self, (x, y): &(Array3<f32>, Array3<f32>), loss: &MeanSquaredError, _: &TrainingPass) -> Result<(f64, Self)> {
///         let (loss, dy) = loss.loss_and_gradient(&self.0.forward(x)?, y)?;
///         Ok((loss, Self(Linear::from_parts(array![[(&dy * x).sum()]], Some(array![dy.sum()]))?)))
///     }
/// }
/// ```
pub trait Trainable<B, A: Scalar = f32> {
    /// The loss, such as [`CrossEntropy`].
    type Loss;

    /// The gradients: a value of the model's own type, with the gradient of each parameter in its place.
    type Gradients: Parameters<A>;

    /// Returns the loss of a batch and the gradients of all parameters.
    ///
    /// # Errors
    /// Returns an error if the batch does not fit the model (another kind of input, a token outside the vocabulary, a mask of another shape, more
    /// positions than the model has, another number of targets than scores, a target that is not a class), if a rate of `pass` is below 0 or not
    /// below 1, or if the loss is not finite. Over several ranks, also if the ranks disagree or another rank fails.
    fn loss_and_gradients(&self, batch: &B, loss: &Self::Loss, pass: &TrainingPass) -> Result<(f64, Self::Gradients)>;

    /// Returns the loss of a batch with nothing dropped, to evaluate the model. By default that of
    /// [`loss_and_gradients`](Self::loss_and_gradients); models that can should save themselves the gradients.
    ///
    /// # Errors
    /// Returns an error as [`loss_and_gradients`](Self::loss_and_gradients) does.
    fn evaluate(&self, batch: &B, loss: &Self::Loss) -> Result<f64> {
        let pass = TrainingPass::new(Step::new(0, 0));
        Ok(self.loss_and_gradients(batch, loss, &pass)?.0)
    }

    /// Returns how much a batch counts where losses and gradients of several are averaged: the number of targets, where the loss is a mean over
    /// them. 1 by default.
    fn weight(&self, batch: &B, loss: &Self::Loss) -> f64 {
        let _ = (batch, loss);
        1.0
    }

    /// Returns the number of tokens, or positions, of a batch, padding excluded, for reports of speed. 0 by default.
    fn tokens(&self, batch: &B) -> usize {
        let _ = batch;
        0
    }
}

fn loss_and_gradients<A: Scalar, B: Targets, M: Scored<B, A>>(
    model: &M,
    batch: &B,
    loss: &CrossEntropy,
    pass: &TrainingPass,
) -> Result<(f64, M)> {
    let (scores, cache) = model.train_scores(batch, pass, None)?;
    let (loss, dy) = loss.loss_and_gradient(scores, batch.targets())?;
    let loss = pass.step.finite_loss(loss)?;
    let mut gradients = model.zeros_like();
    model.backward_scores(cache, dy, &mut gradients, None)?;
    Ok((loss, gradients))
}

/// Sums of several batches are averaged as they are.
pub(crate) fn weight_of(batch: &impl Targets, loss: &CrossEntropy) -> f64 {
    match loss.reduction {
        Reduction::Mean => batch.targets().iter().flatten().count() as f64,
        Reduction::Sum => 1.0,
    }
}

macro_rules! trainable {
    ($($model:ident on $batch:ty;)*) => {
        $(
            impl<A: Scalar> Trainable<$batch, A> for $model<A> {
                type Loss = CrossEntropy;
                type Gradients = Self;

                fn loss_and_gradients(&self, batch: &$batch, loss: &CrossEntropy, pass: &TrainingPass) -> Result<(f64, Self)> {
                    loss_and_gradients(self, batch, loss, pass)
                }

                fn evaluate(&self, batch: &$batch, loss: &CrossEntropy) -> Result<f64> {
                    Step::new(0, 0).finite_loss(loss.loss(&self.scores_of_batch(batch)?, batch.targets())?)
                }

                fn weight(&self, batch: &$batch, loss: &CrossEntropy) -> f64 {
                    weight_of(batch, loss)
                }

                fn tokens(&self, batch: &$batch) -> usize {
                    batch.tokens()
                }
            }
        )*
    };
}

trainable! {
    LanguageModel on TokenBatch;
    Classifier on TokenBatch;
    Classifier on FeatureBatch<A>;
    EncoderDecoder on PairBatch;
}
