//! Tensors into a model: all of them, each of its shape, or none.

use std::collections::BTreeSet;

use super::Tensors;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// Copies every tensor to the parameter of its name.
///
/// Where one is missing, unexpected, of another shape or not of floating-point numbers, all such are listed in the error and `model`
/// is left as it was.
pub(crate) fn assign<A: Scalar>(model: &mut impl Parameters<A>, tensors: &Tensors<A>) -> Result<()> {
    let mut problems = Vec::new();
    let mut unexpected: BTreeSet<&str> = tensors.names().collect();
    model.visit("", &mut |name, _, parameter| {
        unexpected.remove(name);
        let Some(tensor) = tensors.get(name) else {
            problems.push(format!("`{name}` {:?} is missing", parameter.shape()));
            return;
        };
        if tensor.shape() != parameter.shape() {
            problems.push(format!("`{name}` has shape {:?}, expected {:?}", tensor.shape(), parameter.shape()));
        }
        problems.extend(not_floating(tensors, name));
    });
    problems.extend(unexpected.iter().map(|name| format!("`{name}` is not part of the model")));
    if !problems.is_empty() {
        return Err(Error::Checkpoint { problems });
    }
    model.visit_mut("", &mut |name, _, mut parameter| {
        if let Some(tensor) = tensors.get(name) {
            parameter.assign(&tensor);
        }
    });
    Ok(())
}

/// What is wrong with a tensor that is there but is not of floating-point numbers: quantised weights are no weights.
pub(crate) fn not_floating<A: Scalar>(tensors: &Tensors<A>, name: &str) -> Option<String> {
    let is_wrong = tensors.get(name).is_some() && !tensors.is_floating(name);
    let dtype = tensors.dtype(name).unwrap_or_default();
    is_wrong.then(|| format!("`{name}` is stored as {dtype}, expected floating-point numbers"))
}
