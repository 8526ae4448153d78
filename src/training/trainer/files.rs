//! Runs in files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Best, Trainer};
use crate::checkpoint::{Contents, Tensors, check_key, own_entries};
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::scalar::Scalar;
use crate::training::state::{self, FORMAT, resume_with_best, run_metadata, run_tensors};
use crate::training::{Optimizer, Step};

/// The key of what the metadata says of a trainer.
const KEY: &str = "linformer_trainer";

/// Where a run is saved by itself, and what else is in its files.
#[derive(Clone, Debug, Default)]
pub(super) struct Files {
    /// A path, and the number of steps after which it is written.
    every: Option<(PathBuf, u64)>,
    metadata: BTreeMap<String, String>,
}

/// The metadata of a trainer.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u64,
    /// The index of the first step.
    first: u64,
    waited: u64,
    best: Option<BestDescription>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BestDescription {
    loss: f64,
    step: u64,
}

impl<M, O> Trainer<M, O> {
    /// Saves the run to `path` every so many steps and after the last one, as [`save`](Self::save) does.
    ///
    /// # Errors
    /// Returns an error if `every` is 0.
    pub fn with_checkpoints(mut self, path: impl Into<PathBuf>, every: u64) -> Result<Self> {
        if every == 0 {
            return Err(Error::config("every", every, "it must be at least 1"));
        }
        self.files.every = Some((path.into(), every));
        Ok(self)
    }

    /// Sets an entry of the metadata of the files, such as the names of classes or how inputs are scaled, replacing any previous value.
    ///
    /// # Errors
    /// Returns an error if this crate uses the key itself.
    pub fn set_metadata(&mut self, key: impl Into<String>, value: impl Into<String>) -> Result<()> {
        let key = key.into();
        check_key("Trainer::set_metadata", &key)?;
        self.files.metadata.insert(key, value.into());
        Ok(())
    }

    /// Returns the entries of the metadata, those of a file that was loaded too.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.files.metadata
    }

    /// Saves where it is time to.
    pub(super) fn save_now<A>(&self, model: &M, is_last: bool) -> Result<()>
    where
        A: Scalar,
        M: Parameters<A> + 'static,
        O: Optimizer<A>,
    {
        match &self.files.every {
            Some((path, every)) if is_last || self.optimizer.steps() % every == 0 => self.save(path, model),
            _ => Ok(()),
        }
    }

    /// Writes all that the run needs to continue to one safetensors file: the weights, those of the best evaluation, the optimizer's moments and
    /// configuration, the number of steps, and the metadata.
    ///
    /// The file is written to a temporary file, synced and atomically renamed, so `path` always holds a complete file. Models of this crate can be loaded
    /// from it with [`Checkpoint::load`](crate::checkpoint::Checkpoint::load): with the best weights, where they are kept.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written, or if the model has more tensors than a header has room for.
    pub fn save<A>(&self, path: impl AsRef<Path>, model: &M) -> Result<()>
    where
        A: Scalar,
        M: Parameters<A> + 'static,
        O: Optimizer<A>,
    {
        let first = self.config.pass.step;
        let next = Step::new(first.seed, first.index.wrapping_add(self.batches));
        let description = Description {
            format: FORMAT,
            first: first.index,
            waited: self.waited,
            best: self
                .best
                .as_ref()
                .map(|Best { loss, step, .. }| BestDescription { loss: *loss, step: *step }),
        };
        let mut metadata = self.files.metadata.clone();
        metadata.extend(run_metadata::<A, O>(model, &self.optimizer, next)?);
        metadata.insert(KEY.to_owned(), state::to_json(KEY, &description)?);
        let mut tensors = run_tensors(model, &self.optimizer);
        if let Some(best) = &self.best {
            best.model
                .visit("best", &mut |name, _, tensor| tensors.push((name.to_owned(), tensor)));
        }
        Contents::new(tensors, metadata)?.save(path.as_ref())
    }

    /// Puts the trainer and `model` into the state that [`save`](Self::save) wrote. The run that continues is equal, bit for bit, to one that was not
    /// stopped, given the same batches from [`batches`](Self::batches) on.
    ///
    /// The optimizer gets the configuration that it was saved with; the trainer keeps its own, whose seed must be the file's.
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a valid safetensors file, if it holds no run of a trainer, one of another kind of optimizer or
    /// with another seed, or if tensors are missing, unexpected, of another shape, or not finite, all of which are listed. The trainer and the model are then
    /// unchanged.
    pub fn load<A>(&mut self, path: impl AsRef<Path>, model: &mut M) -> Result<()>
    where
        A: Scalar,
        M: Parameters<A> + Clone,
        O: Optimizer<A>,
    {
        let tensors = Tensors::read(path)?;
        let description: Description = state::described(&tensors, KEY, "run of a Trainer")?;
        let metadata = own_entries(tensors.metadata());
        let next = state::next_step(&tensors)?;
        let first = Step::new(self.config.pass.step.seed, description.first);
        if next.seed != first.seed || first != self.config.pass.step {
            let problem = format!(
                "the run began with the step {} of the seed {}, but the trainer's pass begins with {} of {}; configure the same",
                first.index, next.seed, self.config.pass.step.index, self.config.pass.step.seed
            );
            return Err(Error::Checkpoint { problems: vec![problem] });
        }
        let mut best = description.best.map(|BestDescription { loss, step }| Best {
            model: model.clone(),
            loss,
            step,
        });
        resume_with_best(tensors, model, best.as_mut().map(|best| &mut best.model), &mut self.optimizer)?;
        self.batches = next.index.wrapping_sub(first.index);
        (self.best, self.waited, self.files.metadata) = (best, description.waited, metadata);
        Ok(())
    }
}
