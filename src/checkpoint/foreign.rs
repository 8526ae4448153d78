//! Code that the foreign loaders and writers share: tensors taken by their foreign names and given native ones.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use ndarray::ArrayViewD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::assign::{assign_sources, not_floating};
use super::prefix::explained;
use super::source::{SharedArray, Source, Sources};
use super::{Tensors, unknown};
use crate::error::{Error, Result};
use crate::parameters::{Parameters, join};
use crate::scalar::Scalar;

/// A native tensor, and the names under which a foreign file holds it. Loaders and writers read the same list of these.
#[derive(Debug)]
pub(crate) struct Entry {
    native: String,
    /// More than one where the file repeats a shared tensor.
    foreign: Vec<String>,
    transposed: bool,
}

impl Entry {
    pub(crate) fn new(native: impl Into<String>, foreign: impl Into<String>) -> Self {
        Self::tied(native, vec![foreign.into()])
    }

    /// A matrix that the file holds transposed.
    pub(crate) fn transposed(native: impl Into<String>, foreign: impl Into<String>) -> Self {
        Self {
            transposed: true,
            ..Self::new(native, foreign)
        }
    }

    /// A tensor that the file holds under several names.
    pub(crate) fn tied(native: impl Into<String>, foreign: Vec<String>) -> Self {
        Self {
            native: native.into(),
            foreign,
            transposed: false,
        }
    }

    /// `weight` and, if there is one, `bias` of a layer.
    pub(crate) fn layer(native: &str, foreign: &str, bias: bool) -> Vec<Self> {
        let fields = if bias { &["weight", "bias"][..] } else { &["weight"] };
        fields
            .iter()
            .map(|field| Self::new(join(native, field), join(foreign, field)))
            .collect()
    }
}

/// Takes tensors by foreign names and collects them under native ones; every tensor must be taken or ignored by name.
///
/// No numbers are copied: what is collected shares them with the tensors that were given.
pub(crate) struct Translation<'t, A: Scalar> {
    foreign: Cow<'t, Tensors<A>>,
    used: BTreeSet<String>,
    native: Sources<A>,
    missing: Vec<String>,
    problems: Vec<String>,
}

impl<'t, A: Scalar> Translation<'t, A> {
    pub(crate) fn new(foreign: Cow<'t, Tensors<A>>) -> Self {
        Self {
            foreign,
            used: BTreeSet::new(),
            native: Sources::new(),
            missing: Vec::new(),
            problems: Vec::new(),
        }
    }

    pub(crate) fn has(&self, foreign: &str) -> bool {
        self.foreign.stored_name(foreign).is_some()
    }

    /// A tensor by its foreign name; one that is missing, or not of floating-point numbers, is noted.
    pub(crate) fn take(&mut self, foreign: &str) -> Option<SharedArray<A>> {
        let Some((tensor, dtype)) = self.foreign.shared(foreign) else {
            self.problem(format!("`{foreign}` is missing"));
            self.missing.push(foreign.to_owned());
            return None;
        };
        if let Some(problem) = not_floating(foreign, dtype) {
            self.problem(problem);
        }
        self.ignore(foreign);
        Some(tensor)
    }

    /// Gives a native tensor its value.
    pub(crate) fn recycle(&mut self, native: &str, tensor: SharedArray<A>) {
        self.give_source(native, Source::one(tensor));
    }

    fn give_source(&mut self, native: &str, source: Source<A>) {
        if self.native.by_name.insert(native.to_owned(), source).is_some() {
            self.problem(format!("two tensors are for `{native}`"));
        }
    }

    /// `foreign` as it is, under the name `native`.
    pub(crate) fn copy(&mut self, foreign: &str, native: &str) {
        if let Some(tensor) = self.take(foreign) {
            self.recycle(native, tensor);
        }
    }

    /// The transpose of the matrix `foreign` under the name `native`.
    pub(crate) fn transpose(&mut self, foreign: &str, native: &str) {
        if let Some(tensor) = self.take(foreign) {
            self.recycle(native, tensor.reversed_axes());
        }
    }

    /// Several tensors one after the other along their first axis.
    pub(crate) fn concatenate(&mut self, foreign: &[String], native: &str) {
        self.join(foreign, native, Source::rows);
    }

    /// Several tensors of one shape along a new first axis.
    pub(crate) fn stack(&mut self, foreign: &[String], native: &str) {
        self.join(foreign, native, Source::stack);
    }

    /// The transposes of several matrices of one shape along a new first axis.
    pub(crate) fn stack_transposed(&mut self, foreign: &[String], native: &str) {
        let transposed = |parts: Vec<SharedArray<A>>| Source::stack(parts.into_iter().map(SharedArray::reversed_axes).collect());
        self.join(foreign, native, transposed);
    }

    fn join(&mut self, foreign: &[String], native: &str, join: impl FnOnce(Vec<SharedArray<A>>) -> Option<Source<A>>) {
        let parts: Vec<_> = foreign.iter().filter_map(|name| self.take(name)).collect();
        if parts.len() < foreign.len() || parts.is_empty() {
            return;
        }
        match join(parts) {
            Some(joined) => self.give_source(native, joined),
            None => self.problem(format!("`{}` and its fellows differ in shape", foreign[0])),
        }
    }

    /// One tensor that the foreign file holds under several names; all copies must agree.
    pub(crate) fn tied(&mut self, foreign: &[String], native: &str) {
        if let Some(tensor) = self.agreeing(foreign) {
            self.recycle(native, tensor);
        }
    }

    /// The first of the copies of one tensor; those that differ from it are noted.
    pub(crate) fn agreeing(&mut self, foreign: &[String]) -> Option<SharedArray<A>> {
        let copies: Vec<_> = foreign.iter().filter_map(|name| self.take(name).map(|copy| (name, copy))).collect();
        let (first_name, first) = copies.first()?;
        for (name, copy) in &copies[1..] {
            if !is_same(copy, first) {
                self.problem(format!("`{first_name}` and `{name}` are one tensor in this model, but differ"));
            }
        }
        Some(first.clone())
    }

    /// Gives the native tensors of these entries their values.
    pub(crate) fn place(&mut self, entries: &[Entry]) {
        for entry in entries {
            if entry.transposed {
                self.transpose(&entry.foreign[0], &entry.native);
            } else {
                self.tied(&entry.foreign, &entry.native);
            }
        }
    }

    /// Notes the tensors of these entries that have another shape than the parameters of `model`.
    fn check_shapes(&mut self, model: &impl Parameters<A>, entries: &[Entry]) {
        let parameters: BTreeMap<String, ArrayViewD<'_, A>> = model.named().into_iter().collect();
        for entry in entries {
            let (Some(parameter), Some(tensor)) = (parameters.get(&entry.native), self.foreign.get(&entry.foreign[0])) else {
                continue;
            };
            let mut expected = parameter.shape().to_vec();
            if entry.transposed {
                expected.reverse();
            }
            if tensor.shape() != expected {
                self.problem(format!(
                    "`{}` has shape {:?}, expected {expected:?}",
                    entry.foreign[0],
                    tensor.shape()
                ));
            }
        }
    }

    /// A tensor that means nothing to this model, if it is there.
    pub(crate) fn ignore(&mut self, foreign: &str) {
        let stored = self.foreign.stored_name(foreign).unwrap_or(foreign);
        self.used.insert(stored.to_owned());
    }

    pub(crate) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The native tensors; an error that lists everything missing, left over or disagreeing.
    pub(crate) fn finish(mut self) -> Result<Sources<A>> {
        let left: Vec<&str> = self.foreign.names().filter(|&name| !self.used.contains(name)).collect();
        self.problems
            .extend(left.iter().map(|name| format!("`{name}` is not part of the model")));
        if self.problems.is_empty() {
            return Ok(self.native);
        }
        self.problems.splice(0..0, explained(&self.missing, &left));
        Err(Error::Checkpoint { problems: self.problems })
    }
}

/// Whether two tensors hold the same numbers; NaN is the same as NaN.
fn is_same<A: Scalar>(a: &SharedArray<A>, b: &SharedArray<A>) -> bool {
    a.shape() == b.shape() && a.iter().zip(b).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()))
}

/// `model` with the values that `entries` find in `foreign`; every tensor must be used, or else be named in `dropped`.
pub(crate) fn load<A: Scalar, M: Parameters<A>>(
    model: M,
    foreign: Cow<'_, Tensors<A>>,
    entries: &[Entry],
    dropped: &[String],
) -> Result<M> {
    let mut translation = Translation::new(foreign);
    translation.check_shapes(&model, entries);
    translation.place(entries);
    for name in dropped {
        translation.ignore(name);
    }
    fill(model, translation.finish()?)
}

/// `model` with these values.
pub(crate) fn fill<A: Scalar, M: Parameters<A>>(mut model: M, native: Sources<A>) -> Result<M> {
    assign_sources(&mut model, native)?;
    Ok(model)
}

/// The tensors of `model` under the foreign names of `entries`.
pub(crate) fn write<A: Scalar>(model: &impl Parameters<A>, entries: &[Entry]) -> Result<Tensors<A>> {
    let native: BTreeMap<String, ArrayViewD<'_, A>> = model.named().into_iter().collect();
    let mut foreign = Tensors::new();
    for entry in entries {
        let Some(tensor) = native.get(&entry.native) else {
            let problems = vec![format!("the model has no `{}`", entry.native)];
            return Err(Error::Checkpoint { problems });
        };
        let tensor = if entry.transposed { tensor.t() } else { tensor.view() };
        for name in &entry.foreign {
            foreign.insert(name, tensor.as_standard_layout().into_owned())?;
        }
    }
    Ok(foreign)
}

/// Options from JSON, in their foreign names.
pub(crate) fn parse<T: DeserializeOwned>(operation: &'static str, json: &str) -> Result<T> {
    unknown::parse(json).map_err(|reason| Error::argument(operation, reason))
}

/// A default.
pub(crate) fn yes() -> bool {
    true
}

/// A default.
pub(crate) fn number<const N: usize>() -> usize {
    N
}

/// An error unless `rate` is a dropout rate.
pub(crate) fn check_rate(option: &'static str, rate: f64) -> Result<()> {
    if (0.0..=1.0).contains(&rate) {
        return Ok(());
    }
    Err(Error::config(option, rate, "a dropout rate is between 0 and 1"))
}

/// An error by name unless `config` is the one that a foreign implementation's options describe. How weights start does not matter.
pub(crate) fn check_same(peer: &'static str, config: &impl Serialize, foreign: &impl Serialize) -> Result<()> {
    let (Ok(config), Ok(foreign)) = (serde_json::to_value(config), serde_json::to_value(foreign)) else {
        return Err(Error::argument("state_dict", "a number of the configuration is not finite"));
    };
    match difference("", &config, &foreign) {
        None => Ok(()),
        Some((option, reason)) => Err(Error::Refused { peer, option, reason }),
    }
}

/// The path of the first field that differs, and how.
fn difference(path: &str, ours: &Value, theirs: &Value) -> Option<(String, String)> {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) if ours.keys().eq(theirs.keys()) => ours
            .iter()
            .filter(|&(field, _)| field != "initialization")
            .find_map(|(field, ours)| difference(&join(path, field), ours, &theirs[field])),
        _ if ours == theirs => None,
        _ => Some((
            path.to_owned(),
            format!("the model has {ours}, and the nearest model that can be written {theirs}"),
        )),
    }
}
