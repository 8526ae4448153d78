//! Tensors by name.

use std::collections::BTreeMap;

use ndarray::{ArrayD, ArrayViewD};

use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// Tensors by name, in the order of their names: what is read from a file or written to one.
#[derive(Clone, Debug, Default)]
pub struct Tensors<A = f32> {
    tensors: BTreeMap<String, ArrayD<A>>,
}

impl<A: Scalar> Tensors<A> {
    /// No tensors yet.
    pub fn new() -> Self {
        Self { tensors: BTreeMap::new() }
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// A name that is taken.
    pub fn insert(&mut self, name: impl Into<String>, tensor: ArrayD<A>) -> Result<()> {
        let name = name.into();
        if self.tensors.contains_key(&name) {
            return Err(Error::Malformed {
                reason: format!("two tensors are named `{name}`"),
            });
        }
        self.tensors.insert(name, tensor);
        Ok(())
    }

    /// The tensor of this name.
    pub fn get(&self, name: &str) -> Option<ArrayViewD<'_, A>> {
        self.tensors.get(name).map(|tensor| tensor.view())
    }

    /// All names, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }
}
