//! A training run in a file.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;

use ndarray::ArrayViewD;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::Step;
use super::optimizer::{Optimizer, State};
use crate::checkpoint::{Contents, RUN, Tensors, assign, description_of_any, malformed, parse_value};
use crate::error::{Error, Result};
use crate::parameters::{Parameters, Visitor, VisitorMut, join};
use crate::scalar::Scalar;

/// The version of the metadata under this key.
pub(super) const FORMAT: u64 = 1;

/// The metadata of a run.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u64,
    optimizer: String,
    config: Value,
    /// Optimizer steps done.
    steps: u64,
    seed: u64,
    /// The index of the next step.
    index: u64,
}

/// Writes all that a run needs to continue to one safetensors file: the model's tensors (`model.…`), the optimizer's moments (`moment1.…`,
/// `moment2.…`), its configuration and number of steps, and the `next` step, whose seed and index are all there is to a generator's state. A
/// [`Trainer`](super::Trainer) does it by itself.
///
/// The file is written to a temporary file, synced and atomically renamed, so `path` always holds a complete file. The schedule is not saved; it is a
/// function of the step. The configuration of a model of this crate is, so that [`Checkpoint::load`](crate::checkpoint::Checkpoint::load) reads the
/// model from the file.
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
/// // In the next run, with a model and an optimizer of the same kind:
/// let step = load_training(&path, &mut model, &mut optimizer)?;
/// assert_eq!(step, Step::new(7, 100));
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the file cannot be written, or if the model has more tensors than a header has room for.
pub fn save_training<A: Scalar, M: Parameters<A> + 'static, O: Optimizer<A>>(
    path: impl AsRef<Path>,
    model: &M,
    optimizer: &O,
    next: Step,
) -> Result<()> {
    Contents::new(run_tensors(model, optimizer), run_metadata(model, optimizer, next)?)?.save(path.as_ref())
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

/// Returns the run that a file's metadata describes.
pub(crate) fn run_metadata<A: Scalar, O: Optimizer<A>>(model: &dyn Any, optimizer: &O, next: Step) -> Result<BTreeMap<String, String>> {
    let description = Description {
        format: FORMAT,
        optimizer: O::NAME.to_owned(),
        config: optimizer.config_json().map_err(|error| in_metadata(RUN, error))?,
        steps: optimizer.state().steps,
        seed: next.seed,
        index: next.index,
    };
    let mut metadata = description_of_any::<A>(model)?;
    metadata.insert(RUN.to_owned(), to_json(RUN, &description)?);
    Ok(metadata)
}

/// Puts `model` and `optimizer` into the state that [`save_training`] wrote, and returns the step to continue with. A run that continues from there
/// is equal, bit for bit, to one that was not stopped.
///
/// The optimizer gets the configuration that it was saved with.
///
/// # Errors
/// Returns an error if the file cannot be read or is not a valid safetensors file; if it holds no run, or one with another kind of optimizer or format
/// number; or if tensors are missing, unexpected, of another shape, of integers, or not finite, all of which are listed. Model and optimizer are then
/// unchanged.
pub fn load_training<A: Scalar, M: Parameters<A>, O: Optimizer<A>>(
    path: impl AsRef<Path>,
    model: &mut M,
    optimizer: &mut O,
) -> Result<Step> {
    resume(Tensors::read(path)?, model, optimizer)
}

/// Puts a model and its optimizer into the state of a run that has been read.
pub(crate) fn resume<A: Scalar, M: Parameters<A>, O: Optimizer<A>>(tensors: Tensors<A>, model: &mut M, optimizer: &mut O) -> Result<Step> {
    resume_with_best(tensors, model, None, optimizer)
}

/// [`resume`] of a run whose file has the best weights too.
pub(super) fn resume_with_best<A: Scalar, M: Parameters<A>, O: Optimizer<A>>(
    tensors: Tensors<A>,
    model: &mut M,
    best: Option<&mut M>,
    optimizer: &mut O,
) -> Result<Step> {
    let description = description(&tensors)?;
    if description.optimizer != O::NAME {
        let problem = format!("the run was one of {}, not of {}", description.optimizer, O::NAME);
        return Err(Error::Checkpoint { problems: vec![problem] });
    }
    let mut loaded = O::from_json(model, description.config)?;
    let state = loaded.state_mut();
    check_finite(&tensors)?;
    assign(&mut Run { model, best, state }, tensors)?;
    state.steps = description.steps;
    state.measure();
    *optimizer = loaded;
    Ok(Step::new(description.seed, description.index))
}

/// An error that lists the tensors with numbers that are not finite: no run can continue from them.
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
    parse_value(config).map_err(|reason| malformed(format!("metadata `{RUN}`: {reason}")))
}

fn in_metadata(key: &str, error: serde_json::Error) -> Error {
    malformed(format!("metadata `{key}`: {error}"))
}

pub(super) fn to_json(key: &str, description: &impl Serialize) -> Result<String> {
    serde_json::to_string(description).map_err(|error| in_metadata(key, error))
}

/// Returns the metadata entry `key`, which files that hold `what` have.
pub(super) fn described<A: Scalar, T: DeserializeOwned>(tensors: &Tensors<A>, key: &str, what: &str) -> Result<T> {
    let Some(json) = tensors.metadata().get(key) else {
        return Err(malformed(format!(
            "its metadata has no `{key}`, so it holds no {what} of this crate"
        )));
    };
    // Before the rest is: another format has other fields.
    let value: Value = serde_json::from_str(json).map_err(|error| in_metadata(key, error))?;
    if value["format"] != FORMAT {
        return Err(malformed(format!(
            "it has the format {}, and this version of the crate reads {FORMAT}",
            value["format"]
        )));
    }
    parse_value(value).map_err(|reason| malformed(format!("metadata `{key}`: {reason}")))
}

fn description<A: Scalar>(tensors: &Tensors<A>) -> Result<Description> {
    described(tensors, RUN, "training run")
}

/// The step that a run continues with.
pub(super) fn next_step<A: Scalar>(tensors: &Tensors<A>) -> Result<Step> {
    let Description { seed, index, .. } = description(tensors)?;
    Ok(Step::new(seed, index))
}

/// A model and what its optimizer keeps, as one tree.
struct Run<'a, A, M> {
    model: &'a mut M,
    best: Option<&'a mut M>,
    state: &'a mut State<A>,
}

impl<A: Scalar, M: Parameters<A>> Parameters<A> for Run<'_, A, M> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        self.model.visit(&join(path, "model"), visitor);
        if let Some(best) = &self.best {
            best.visit(&join(path, "best"), visitor);
        }
        self.state.visit(path, visitor);
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        self.model.visit_mut(&join(path, "model"), visitor);
        if let Some(best) = &mut self.best {
            best.visit_mut(&join(path, "best"), visitor);
        }
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
