//! A training run in a file.

use std::collections::BTreeMap;
use std::path::Path;

use ndarray::ArrayViewD;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::Step;
use super::optimizer::{Optimizer, State};
use crate::checkpoint::{Contents, Tensors, assign, malformed, parse_value};
use crate::error::{Error, Result};
use crate::parameters::{Parameters, Visitor, VisitorMut, join};
use crate::scalar::Scalar;

/// The one key of the metadata: with several, their order would differ from file to file.
const KEY: &str = "linformer_training";

/// The version of what stands under it.
const FORMAT: u64 = 1;

/// What the metadata says.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u64,
    optimizer: String,
    config: Value,
    /// Optimiser steps done.
    steps: u64,
    seed: u64,
    /// Of the next step.
    index: u64,
}

/// Writes all that a run needs to go on to one safetensors file: the model's tensors (`model.…`), the optimiser's moments (`moment1.…`,
/// `moment2.…`), its configuration and number of steps, and the `next` step, whose seed and index are all there is to a generator's state.
///
/// It is written to a temporary file in the same directory and renamed: whatever happens, there is a whole file at `path`, the old one or the
/// new one. The schedule is not saved; it is a function of the step.
///
/// ```
/// use linformer::Linear;
/// use linformer::training::{AdamW, AdamWConfig, Step, load_training, save_training};
///
/// let path = std::env::temp_dir().join(format!("linformer-doc-{}.safetensors", std::process::id()));
/// let mut model = Linear::<f32>::new(3, 2, true, 0)?;
/// let mut optimizer = AdamW::new(&model, AdamWConfig::new())?;
/// save_training(&path, &model, &optimizer, Step::new(7, 100))?;
///
/// // In the next run, with a model and an optimiser of the same kind:
/// let step = load_training(&path, &mut model, &mut optimizer)?;
/// assert_eq!(step, Step::new(7, 100));
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// A file or directory that cannot be written; a model of more tensors than a header has room for.
pub fn save_training<A: Scalar, M: Parameters<A>, O: Optimizer<A>>(
    path: impl AsRef<Path>,
    model: &M,
    optimizer: &O,
    next: Step,
) -> Result<()> {
    Contents::new(run_tensors(model, optimizer), run_metadata(optimizer, next)?)?.save(path.as_ref())
}

/// The tensors of a run with their names.
pub(crate) fn run_tensors<'a, A: Scalar, O: Optimizer<A>>(
    model: &'a impl Parameters<A>,
    optimizer: &'a O,
) -> Vec<(String, ArrayViewD<'a, A>)> {
    let mut tensors = Vec::new();
    model.visit("model", &mut |name, _, tensor| tensors.push((name.to_owned(), tensor)));
    optimizer
        .state()
        .visit("", &mut |name, _, tensor| tensors.push((name.to_owned(), tensor)));
    tensors
}

/// What a file's metadata says of a run.
pub(crate) fn run_metadata<A: Scalar, O: Optimizer<A>>(optimizer: &O, next: Step) -> Result<BTreeMap<String, String>> {
    let description = Description {
        format: FORMAT,
        optimizer: O::NAME.to_owned(),
        config: optimizer.config_json().map_err(in_metadata)?,
        steps: optimizer.state().steps,
        seed: next.seed,
        index: next.index,
    };
    let json = serde_json::to_string(&description).map_err(in_metadata)?;
    Ok(BTreeMap::from([(KEY.to_owned(), json)]))
}

/// Puts `model` and `optimizer` into the state that [`save_training`] wrote, and gives the step to go on with. A run that goes on from there
/// is equal, bit for bit, to one that was not stopped.
///
/// The optimiser gets the configuration that it was saved with.
///
/// # Errors
/// A file that cannot be read or is no valid safetensors file; one that holds no run, or one with another kind of optimiser or of another
/// format number; tensors that are missing, unexpected, of another shape, of integers, or of numbers
/// that are not finite, all of them listed. Model and optimiser are then left as
/// they were.
pub fn load_training<A: Scalar, M: Parameters<A>, O: Optimizer<A>>(
    path: impl AsRef<Path>,
    model: &mut M,
    optimizer: &mut O,
) -> Result<Step> {
    resume(Tensors::read(path)?, model, optimizer)
}

/// Puts a model and its optimiser into the state of a run that has been read.
pub(crate) fn resume<A: Scalar, M: Parameters<A>, O: Optimizer<A>>(tensors: Tensors<A>, model: &mut M, optimizer: &mut O) -> Result<Step> {
    let description = description(&tensors, O::NAME)?;
    let mut loaded = O::from_json(model, description.config)?;
    let state = loaded.state_mut();
    check_finite(&tensors)?;
    assign(&mut Run { model, state }, tensors)?;
    state.steps = description.steps;
    state.measure();
    *optimizer = loaded;
    Ok(Step::new(description.seed, description.index))
}

/// An error that lists the tensors with numbers that are not finite: no run can go on from them.
fn check_finite<A: Scalar>(tensors: &Tensors<A>) -> Result<()> {
    let is_finite = |name: &&str| {
        tensors
            .get(name)
            .is_some_and(|tensor| tensor.iter().all(|number| number.is_finite()))
    };
    let bad = tensors.names().filter(|name| !is_finite(name));
    let problems: Vec<String> = bad
        .map(|name| format!("`{name}` holds numbers that are not finite as {}", A::NAME))
        .collect();
    if problems.is_empty() {
        return Ok(());
    }
    Err(Error::Checkpoint { problems })
}

/// A configuration from a file.
pub(super) fn parsed<T: DeserializeOwned>(config: Value) -> Result<T> {
    parse_value(config).map_err(|reason| malformed(format!("metadata `{KEY}`: {reason}")))
}

fn in_metadata(error: serde_json::Error) -> Error {
    malformed(format!("metadata `{KEY}`: {error}"))
}

fn description<A: Scalar>(tensors: &Tensors<A>, optimizer: &str) -> Result<Description> {
    let Some(json) = tensors.metadata().get(KEY) else {
        return Err(malformed(format!(
            "its metadata has no `{KEY}`, so it holds no training run of this crate"
        )));
    };
    // Before the rest is: another format has other fields.
    let value: Value = serde_json::from_str(json).map_err(in_metadata)?;
    if value["format"] != FORMAT {
        return Err(malformed(format!(
            "it has the format {}, and this version of the crate reads {FORMAT}",
            value["format"]
        )));
    }
    let description: Description = parsed(value)?;
    if description.optimizer != optimizer {
        let problem = format!("the run was one of {}, not of {optimizer}", description.optimizer);
        return Err(Error::Checkpoint { problems: vec![problem] });
    }
    Ok(description)
}

/// A model and what its optimiser keeps, as one tree.
struct Run<'a, A, M> {
    model: &'a mut M,
    state: &'a mut State<A>,
}

impl<A: Scalar, M: Parameters<A>> Parameters<A> for Run<'_, A, M> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        self.model.visit(&join(path, "model"), visitor);
        self.state.visit(path, visitor);
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        self.model.visit_mut(&join(path, "model"), visitor);
        self.state.visit_mut(path, visitor);
    }
}

impl<A: Scalar> Parameters<A> for State<A> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        for slot in &self.slots {
            for (number, moment) in slot.moments.iter().enumerate() {
                moment.visit(&moment_name(path, number, &slot.name), visitor);
            }
        }
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        for slot in &mut self.slots {
            for (number, moment) in slot.moments.iter_mut().enumerate() {
                moment.visit_mut(&moment_name(path, number, &slot.name), visitor);
            }
        }
    }
}

fn moment_name(path: &str, number: usize, parameter: &str) -> String {
    join(&join(path, &format!("moment{}", number + 1)), parameter)
}
