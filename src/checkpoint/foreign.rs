//! What the foreign loaders and writers have in common: tensors taken by their foreign names and given native ones.

use std::collections::BTreeSet;

use ndarray::{ArrayD, ArrayViewD, Axis};

use super::Tensors;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// Takes tensors by foreign names and collects them under native ones; every tensor must be taken or ignored by name.
pub(crate) struct Translation<'t, A> {
    foreign: &'t Tensors<A>,
    used: BTreeSet<String>,
    native: Tensors<A>,
    problems: Vec<String>,
}

impl<'t, A: Scalar> Translation<'t, A> {
    pub(crate) fn new(foreign: &'t Tensors<A>) -> Self {
        Self {
            foreign,
            used: BTreeSet::new(),
            native: Tensors::new(),
            problems: Vec::new(),
        }
    }

    pub(crate) fn has(&self, foreign: &str) -> bool {
        self.foreign.get(foreign).is_some()
    }

    /// A tensor by its foreign name; one that is missing is noted.
    pub(crate) fn take(&mut self, foreign: &str) -> Option<ArrayViewD<'t, A>> {
        let tensor = self.foreign.get(foreign);
        match tensor {
            Some(_) => {
                self.used.insert(foreign.to_owned());
            }
            None => self.problem(format!("`{foreign}` is missing")),
        }
        tensor
    }

    /// Gives a native tensor its value.
    pub(crate) fn give(&mut self, native: &str, tensor: ArrayD<A>) {
        if let Err(error) = self.native.insert(native, tensor) {
            self.problem(error.to_string());
        }
    }

    /// `foreign` as it is, under the name `native`.
    pub(crate) fn copy(&mut self, foreign: &str, native: &str) {
        if let Some(tensor) = self.take(foreign) {
            self.give(native, tensor.to_owned());
        }
    }

    /// The transpose of the matrix `foreign` under the name `native`.
    pub(crate) fn transpose(&mut self, foreign: &str, native: &str) {
        if let Some(tensor) = self.take(foreign) {
            self.give(native, tensor.reversed_axes().as_standard_layout().into_owned());
        }
    }

    /// Several tensors one after the other along their first axis.
    pub(crate) fn concatenate(&mut self, foreign: &[String], native: &str) {
        let parts: Vec<_> = foreign.iter().filter_map(|name| self.take(name)).collect();
        if parts.len() < foreign.len() {
            return;
        }
        match ndarray::concatenate(Axis(0), &parts) {
            Ok(joined) => self.give(native, joined),
            Err(_) => self.problem(format!("`{}` and its fellows differ in shape", foreign[0])),
        }
    }

    /// Several tensors of one shape along a new first axis.
    pub(crate) fn stack(&mut self, foreign: &[String], native: &str) {
        let parts: Vec<_> = foreign.iter().filter_map(|name| self.take(name)).collect();
        if parts.len() < foreign.len() {
            return;
        }
        match ndarray::stack(Axis(0), &parts) {
            Ok(stacked) => self.give(native, stacked),
            Err(_) => self.problem(format!("`{}` and its fellows differ in shape", foreign[0])),
        }
    }

    /// One tensor that the foreign file holds under several names; all copies must agree.
    pub(crate) fn tied(&mut self, foreign: &[String], native: &str) {
        let copies: Vec<_> = foreign.iter().filter_map(|name| self.take(name).map(|copy| (name, copy))).collect();
        let Some((first_name, first)) = copies.first() else {
            return;
        };
        for (name, copy) in &copies[1..] {
            let agrees = copy.shape() == first.shape() && copy.iter().zip(first).all(|(a, b)| a == b || (a.is_nan() && b.is_nan()));
            if !agrees {
                self.problem(format!("`{first_name}` and `{name}` are one tensor in this model, but differ"));
            }
        }
        let tensor = first.to_owned();
        self.give(native, tensor);
    }

    /// A tensor that means nothing to this model, if it is there.
    pub(crate) fn ignore(&mut self, foreign: &str) {
        self.used.insert(foreign.to_owned());
    }

    pub(crate) fn problem(&mut self, problem: String) {
        self.problems.push(problem);
    }

    /// The native tensors; an error that lists everything missing, left over or disagreeing.
    pub(crate) fn finish(mut self) -> Result<Tensors<A>> {
        for name in self.foreign.names().filter(|&name| !self.used.contains(name)) {
            self.problems.push(format!("`{name}` is not part of the model"));
        }
        if self.problems.is_empty() {
            return Ok(self.native);
        }
        Err(Error::Checkpoint { problems: self.problems })
    }
}
