//! A training loop.

mod config;
#[cfg(feature = "checkpoint")]
mod files;

use std::time::Instant;

use super::{Accumulation, Optimizer, Step, Trainable};
use crate::config::TrainingPass;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

pub use config::TrainerConfig;

/// Trains a model on batches from an iterator: at the rates of a schedule, with clipping, accumulation, evaluation on held-out batches, early
/// stopping that keeps the best weights, and files to resume from bit for bit.
///
/// It trains whatever is [`Trainable`], a model of your own too. Every error leaves the model with the weights of the last complete step, and the
/// run can continue from [`batches`](Self::batches).
///
/// ```
/// use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Epochs, Schedule, TokenBatch, Trainer, TrainerConfig};
/// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LanguageModelConfig, LinformerConfig};
///
/// // Texts of different lengths; their class is whether a 5 comes first.
/// let texts: Vec<Vec<usize>> = (0..64).map(|text| (0..4 + text % 5).map(|t| if t == 0 { 4 + text % 2 } else { (text * t) % 4 }).collect()).collect();
/// let classes: Vec<Option<usize>> = (0..64).map(|text| Some(text % 2)).collect();
/// let batch = |indices: Vec<usize>| {
///     let sequences: Vec<&[usize]> = indices.iter().map(|&index| &texts[index][..]).collect();
///     TokenBatch::from_sequences(&sequences, indices.iter().map(|&index| classes[index]).collect::<Vec<_>>())
/// };
/// let held_out = [batch((48..64).collect())?];
///
/// let encoder = EncoderConfig::new(LinformerConfig::new(16, 2, 8, 4), 1);
/// let mut model = Classifier::<f32>::new(&ClassifierConfig::tokens(LanguageModelConfig::new(6, encoder), 2), 0)?;
/// let config = TrainerConfig::new(200, Schedule::cosine(1e-2, 200).with_warmup(10))
///     .with_max_norm(Some(1.0))
///     .with_evaluate_every(Some(20))
///     .with_patience(Some(5));
/// let mut trainer = Trainer::new(config, AdamW::new(&model, AdamWConfig::new())?)?;
/// let lengths: Vec<usize> = texts[..48].iter().map(Vec::len).collect();
/// trainer.run(&mut model, &CrossEntropy::new(), Epochs::by_length(&lengths, 8, 1)?.map(batch), &held_out, |progress| {
///     if let Some(evaluation) = progress.evaluation {
///         println!("step {}: loss {:.3}, held out {evaluation:.3}", progress.step, progress.loss);
///     }
/// })?;
/// assert!(trainer.best().unwrap().loss < 0.1);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Trainer<M, O> {
    config: TrainerConfig,
    optimizer: O,
    /// Batches of the steps done.
    batches: u64,
    best: Option<Best<M>>,
    /// Evaluations since the best one.
    waited: u64,
    #[cfg(feature = "checkpoint")]
    files: files::Files,
}

/// The best weights of a run so far.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Best<M> {
    /// The model with these weights.
    pub model: M,
    /// The loss on the held-out batches.
    pub loss: f64,
    /// The number of steps that made them.
    pub step: u64,
}

/// A step that was made.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Progress {
    /// The number of steps done, this one included.
    pub step: u64,
    /// The number of steps of the whole run.
    pub steps: u64,
    /// The loss of the step's batches, before the step.
    pub loss: f64,
    /// The learning rate.
    pub rate: f64,
    /// The norm of the gradients before clipping, where they are clipped.
    pub norm: Option<f64>,
    /// Tokens a second of this step, padding excluded.
    pub tokens_per_second: f64,
    /// The loss on the held-out batches, after a step that is followed by an evaluation.
    pub evaluation: Option<f64>,
    stops: bool,
}

impl Progress {
    /// Ends the run after this step. It can be continued.
    pub fn stop(&mut self) {
        self.stops = true;
    }
}

/// Why a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// All steps are done.
    Finished,
    /// The loss on the held-out batches has not improved for as many evaluations as [`TrainerConfig::patience`] says.
    Patience,
    /// The iterator has no more batches.
    NoMoreBatches,
    /// [`Progress::stop`] was called.
    Stopped,
}

impl<M, O> Trainer<M, O> {
    /// Creates a trainer whose run has yet to begin.
    ///
    /// # Errors
    /// Returns an error if the configuration is not valid; see [`TrainerConfig::check`].
    pub fn new(config: TrainerConfig, optimizer: O) -> Result<Self> {
        config.check()?;
        Ok(Self {
            config,
            optimizer,
            batches: 0,
            best: None,
            waited: 0,
            #[cfg(feature = "checkpoint")]
            files: files::Files::default(),
        })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &TrainerConfig {
        &self.config
    }

    /// Returns the optimizer.
    pub fn optimizer(&self) -> &O {
        &self.optimizer
    }

    /// Returns the number of batches that the steps done were made of: a run that continues begins with the batch of this index, as
    /// `epochs.skip(trainer.batches())` does.
    pub fn batches(&self) -> usize {
        usize::try_from(self.batches).unwrap_or(usize::MAX)
    }

    /// Returns the best weights so far, if the run has a [`patience`](TrainerConfig::patience) and has been evaluated.
    pub fn best(&self) -> Option<&Best<M>> {
        self.best.as_ref()
    }

    /// Trains until all steps are done, the patience is exhausted, the iterator ends, or the report asks for it.
    ///
    /// Every batch is an `Ok`, or an error that ends the run. With [`TrainerConfig::evaluate_every`] the mean loss of the batches that are
    /// `held_out` is computed every so many steps and after the last one. `report` is called after each step. Where the run ends by its last step
    /// or by patience and keeps the best weights, the model has these; otherwise it has those of the last step, and a further call continues.
    /// (An iterator that ends within an accumulated step makes it of fewer batches.)
    ///
    /// # Errors
    /// Returns an error if there are held-out batches but no evaluation or the other way round, and whatever batches, the model, the optimizer and files
    /// fail with. The model and the trainer are then as the last complete step left them.
    pub fn run<A, B, E>(
        &mut self,
        model: &mut M,
        loss: &<M as Trainable<B, A>>::Loss,
        batches: impl IntoIterator<Item = std::result::Result<B, E>>,
        held_out: &[B],
        mut report: impl FnMut(&mut Progress),
    ) -> std::result::Result<Ending, E>
    where
        A: Scalar,
        M: Trainable<B, A, Gradients = M> + Parameters<A> + Clone + 'static,
        O: Optimizer<A>,
        E: From<Error>,
    {
        self.check_held_out(held_out.is_empty())?;
        let mut batches = batches.into_iter();
        while !self.is_out_of_patience() && self.optimizer.steps() < self.config.steps {
            let Some(mut progress) = self.step(model, loss, &mut batches)? else {
                return Ok(Ending::NoMoreBatches);
            };
            let is_last = progress.step == self.config.steps;
            if self
                .config
                .evaluate_every
                .is_some_and(|every| is_last || progress.step % every == 0)
            {
                let evaluation = evaluate(model, loss, held_out)?;
                self.compare(model, evaluation);
                progress.evaluation = Some(evaluation);
            }
            #[cfg(feature = "checkpoint")]
            self.save_now(model, is_last || self.is_out_of_patience())?;
            report(&mut progress);
            if progress.stops {
                return Ok(Ending::Stopped);
            }
        }
        if let Some(best) = &self.best {
            model.clone_from(&best.model);
        }
        let ending = if self.is_out_of_patience() {
            Ending::Patience
        } else {
            Ending::Finished
        };
        Ok(ending)
    }

    fn check_held_out(&self, is_empty: bool) -> Result<()> {
        const OPERATION: &str = "Trainer::run";
        match (self.config.evaluate_every, is_empty) {
            (Some(_), true) => Err(Error::argument(OPERATION, "evaluate_every is set, but no batches are held out")),
            (None, false) => Err(Error::argument(OPERATION, "batches are held out, but evaluate_every is not set")),
            _ => Ok(()),
        }
    }

    fn is_out_of_patience(&self) -> bool {
        self.config.patience.is_some_and(|patience| self.waited >= patience)
    }

    /// Makes a step, unless there are no more batches.
    fn step<A, B, E>(
        &mut self,
        model: &mut M,
        loss: &<M as Trainable<B, A>>::Loss,
        batches: &mut impl Iterator<Item = std::result::Result<B, E>>,
    ) -> std::result::Result<Option<Progress>, E>
    where
        A: Scalar,
        M: Trainable<B, A, Gradients = M> + Parameters<A> + Clone,
        O: Optimizer<A>,
        E: From<Error>,
    {
        let start = Instant::now();
        let (mut count, mut tokens, mut sum) = (0, 0, Sum::Nothing);
        while count < self.config.accumulation {
            let Some(batch) = batches.next().transpose()? else { break };
            let pass = self.pass(self.batches + count);
            let (own, gradients) = model.loss_and_gradients(&batch, loss, &pass)?;
            sum.add(own, gradients, model.weight(&batch, loss), self.config.accumulation == 1)?;
            tokens += model.tokens(&batch);
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        let (loss, mut gradients) = sum.finish().unwrap_or_else(|| (0.0, model.zeros_like()));
        let clip = |max_norm| self.optimizer.clip_gradient_norm(&mut gradients, max_norm);
        let norm = self.config.max_norm.map(clip).transpose()?;
        let rate = self.config.schedule.at(self.optimizer.steps());
        self.optimizer.step(model, &gradients, rate)?;
        self.batches += count;
        Ok(Some(Progress {
            step: self.optimizer.steps(),
            steps: self.config.steps,
            loss,
            rate,
            norm,
            tokens_per_second: tokens as f64 / start.elapsed().as_secs_f64().max(f64::MIN_POSITIVE),
            evaluation: None,
            stops: false,
        }))
    }

    /// The pass of the batch `index` of the run.
    fn pass(&self, index: u64) -> TrainingPass {
        let Step { seed, index: first } = self.config.pass.step;
        TrainingPass {
            step: Step::new(seed, first.wrapping_add(index)),
            ..self.config.pass
        }
    }

    /// Keeps the model where it is the best, if the best is to be kept.
    fn compare<A: Scalar>(&mut self, model: &M, loss: f64)
    where
        M: Clone,
        O: Optimizer<A>,
    {
        if self.config.patience.is_none() {
            return;
        }
        if self.best.as_ref().is_some_and(|best| best.loss <= loss) {
            self.waited += 1;
            return;
        }
        self.waited = 0;
        self.best = Some(Best {
            model: model.clone(),
            loss,
            step: self.optimizer.steps(),
        });
    }
}

/// The mean loss of several batches, each counted by its weight.
fn evaluate<A: Scalar, B, M: Trainable<B, A>>(model: &M, loss: &M::Loss, batches: &[B]) -> Result<f64> {
    let (mut sum, mut weights) = (0.0, 0.0);
    for batch in batches {
        let weight = model.weight(batch, loss);
        if weight > 0.0 {
            sum += weight * model.evaluate(batch, loss)?;
            weights += weight;
        }
    }
    Ok(if weights > 0.0 { sum / weights } else { 0.0 })
}

/// Losses and gradients of the batches of a step.
enum Sum<M> {
    Nothing,
    /// Those of one batch, unchanged.
    One(f64, M),
    Several(Accumulation<M>),
}

impl<M> Sum<M> {
    fn add<A: Scalar>(&mut self, loss: f64, gradients: M, weight: f64, is_only: bool) -> Result<()>
    where
        M: Parameters<A>,
    {
        if is_only {
            *self = Self::One(loss, gradients);
            return Ok(());
        }
        if !matches!(self, Self::Several(_)) {
            *self = Self::Several(Accumulation::new());
        }
        match self {
            Self::Several(sum) => sum.add(loss, gradients, weight),
            _ => Ok(()),
        }
    }

    fn finish<A: Scalar>(self) -> Option<(f64, M)>
    where
        M: Parameters<A>,
    {
        match self {
            Self::Nothing => None,
            Self::One(loss, gradients) => Some((loss, gradients)),
            Self::Several(sum) => sum.finish(),
        }
    }
}
