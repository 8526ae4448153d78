//! How a run goes.

use crate::config::{TrainingPass, setters};
use crate::error::{Error, Result};
use crate::training::{Schedule, Step};

/// How a [`Trainer`](super::Trainer) trains.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct TrainerConfig {
    /// The number of optimizer steps.
    pub steps: u64,
    /// The learning rate of each of them.
    pub schedule: Schedule,
    /// Dropout rates and gradient checkpointing. Batch i of the run has the step `pass.step.index` + i of its seed, 0 by default.
    pub pass: TrainingPass,
    /// The largest norm of the gradients; larger ones are scaled down to it. They are not clipped if `None`, the default.
    pub max_norm: Option<f64>,
    /// The number of batches that a step is made of, as of one large batch. 1 by default.
    pub accumulation: u64,
    /// The number of steps after which the model is evaluated on held-out batches. It is not if `None`, the default.
    pub evaluate_every: Option<u64>,
    /// The number of evaluations in a row without an improvement after which the run stops. With a number the best weights are kept; with `u64::MAX`
    /// they are kept and the run does not stop early. `None` by default.
    pub patience: Option<u64>,
}

impl TrainerConfig {
    /// Creates a configuration of so many steps at the rates of a schedule.
    pub fn new(steps: u64, schedule: Schedule) -> Self {
        Self {
            steps,
            schedule,
            pass: TrainingPass::new(Step::new(0, 0)),
            max_norm: None,
            accumulation: 1,
            evaluate_every: None,
            patience: None,
        }
    }

    setters! {
        /// Sets [`TrainerConfig::pass`].
        with_pass => pass: TrainingPass,
        /// Sets [`TrainerConfig::max_norm`].
        with_max_norm => max_norm: Option<f64>,
        /// Sets [`TrainerConfig::accumulation`].
        with_accumulation => accumulation: u64,
        /// Sets [`TrainerConfig::evaluate_every`].
        with_evaluate_every => evaluate_every: Option<u64>,
        /// Sets [`TrainerConfig::patience`].
        with_patience => patience: Option<u64>,
    }

    /// Checks the configuration.
    ///
    /// # Errors
    /// Returns an error if a rate of the pass is below 0 or not below 1, if the largest norm is negative or NaN, if the accumulation, the number of steps
    /// between evaluations, or the patience is 0, or if there is a patience without evaluations.
    pub fn check(&self) -> Result<()> {
        self.pass.check()?;
        if let Some(max_norm) = self.max_norm.filter(|max_norm| max_norm.is_nan() || *max_norm < 0.0) {
            return Err(Error::config("max_norm", max_norm, "it must be a number that is not negative"));
        }
        let counts = [
            ("accumulation", Some(self.accumulation)),
            ("evaluate_every", self.evaluate_every),
            ("patience", self.patience),
        ];
        if let Some((option, _)) = counts.into_iter().find(|(_, count)| *count == Some(0)) {
            return Err(Error::config(option, 0, "it must be at least 1"));
        }
        match (self.patience, self.evaluate_every) {
            (Some(patience), None) => Err(Error::config("patience", patience, "nothing is evaluated; set evaluate_every too")),
            _ => Ok(()),
        }
    }
}
