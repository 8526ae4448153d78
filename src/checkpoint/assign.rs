//! Tensors into a model: all of them, each of its shape, or none.

use std::borrow::Cow;
use std::collections::BTreeMap;

use safetensors::Dtype;

use super::Tensors;
use super::codec::{is_floating, known};
use super::prefix::explained;
use super::source::Sources;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// Copies every tensor to the parameter of its name.
///
/// Where one is missing, unexpected, of another shape or not of floating-point numbers, all such are listed in the error and `model`
/// is left as it was.
pub(crate) fn assign<'t, A: Scalar>(model: &mut impl Parameters<A>, tensors: impl Into<Cow<'t, Tensors<A>>>) -> Result<()> {
    assign_sources(model, Sources::of(tensors.into()))
}

/// Copies every source to the parameter of its name. Each is dropped after its last use, so that memory that nobody else holds is freed.
pub(super) fn assign_sources<A: Scalar>(model: &mut impl Parameters<A>, mut sources: Sources<A>) -> Result<()> {
    let mut uses = uses(model, &sources)?;
    model.visit_mut("", &mut |name, _, parameter| {
        let Some(stored) = sources.stored_name(name).map(str::to_owned) else {
            return;
        };
        if let Some(source) = sources.by_name.get(&stored) {
            source.copy_to(parameter);
        }
        let left = uses.entry(stored.clone()).or_default();
        *left = left.saturating_sub(1);
        if *left == 0 {
            sources.by_name.remove(&stored);
        }
    });
    Ok(())
}

/// How many parameters each source is for; an error that lists everything that does not fit.
fn uses<A: Scalar>(model: &impl Parameters<A>, sources: &Sources<A>) -> Result<BTreeMap<String, usize>> {
    let (mut problems, mut missing) = (Vec::new(), Vec::new());
    let mut uses = BTreeMap::<String, usize>::new();
    model.visit("", &mut |name, _, parameter| {
        let found = sources
            .stored_name(name)
            .and_then(|stored| Some((stored, sources.by_name.get(stored)?)));
        let Some((stored, source)) = found else {
            problems.push(format!("`{name}` {:?} is missing", parameter.shape()));
            missing.push(name.to_owned());
            return;
        };
        *uses.entry(stored.to_owned()).or_default() += 1;
        let shape = source.shape();
        if shape != parameter.shape() {
            problems.push(format!("`{name}` has shape {shape:?}, expected {:?}", parameter.shape()));
        }
        problems.extend(not_floating(name, source.dtype));
    });
    let unexpected: Vec<&str> = sources
        .by_name
        .keys()
        .map(String::as_str)
        .filter(|&name| !uses.contains_key(name))
        .collect();
    problems.extend(unexpected.iter().map(|name| format!("`{name}` is not part of the model")));
    if problems.is_empty() {
        return Ok(uses);
    }
    problems.splice(0..0, explained(&missing, &unexpected));
    Err(Error::Checkpoint { problems })
}

/// The message for a tensor that does not hold floating-point numbers: quantized weights are not supported.
pub(super) fn not_floating(name: &str, dtype: Dtype) -> Option<String> {
    let (stored, _) = known(dtype).unwrap_or_default();
    (!is_floating(dtype)).then(|| format!("`{name}` is stored as {stored}, expected floating-point numbers"))
}
