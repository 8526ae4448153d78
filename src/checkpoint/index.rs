//! Models in several safetensors files, which an index lists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Component, Path};

use serde::Deserialize;

use super::contents::read_header;
use super::file::{failed, open};
use super::header::{Header, LONGEST_HEADER, Unique, malformed};
use super::tensors::Tensors;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// How the names of indices end.
pub(super) const ENDING: &str = ".index.json";

/// The contents of an index; other entries are ignored.
#[derive(Deserialize)]
struct Index {
    /// The part that holds each tensor.
    weight_map: Unique,
}

/// The names of the tensors of each part.
type Parts = BTreeMap<String, BTreeSet<String>>;

/// The tensors of all parts of the index at `path`.
pub(super) fn read<A: Scalar>(mut input: BufReader<File>, len: u64, path: &Path) -> Result<Tensors<A>> {
    let parts = parts(&mut input, len, path)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    // Before any numbers are read: where a part is missing, the others need not be waited for.
    let problems: Vec<String> = parts
        .iter()
        .flat_map(|(part, names)| match header(&folder.join(part)) {
            Ok(header) => compare(part, names, &header, &parts),
            Err(error) => vec![format!("part `{part}`: {}", cause(error))],
        })
        .collect();
    if !problems.is_empty() {
        return Err(malformed(format!("{}: {}", path.display(), problems.join("; "))));
    }
    let mut tensors = Tensors::new();
    for part in parts.keys() {
        tensors.take_all(Tensors::read_one(&folder.join(part))?)?;
    }
    Ok(tensors)
}

/// Returns the contents of the index, with every name of a part checked.
fn parts(input: &mut impl Read, len: u64, path: &Path) -> Result<Parts> {
    if len > LONGEST_HEADER as u64 {
        return Err(malformed(format!(
            "the index has {len} bytes, more than the limit of {LONGEST_HEADER}"
        )));
    }
    let mut json = Vec::new();
    let read = input.take(LONGEST_HEADER as u64).read_to_end(&mut json);
    read.map_err(|source| failed("read", path, source))?;
    let index: Index = serde_json::from_slice(&json).map_err(|error| {
        malformed(format!(
            "this is JSON, but no index of a model in several safetensors files: {error}"
        ))
    })?;
    let mut parts = Parts::new();
    for (name, part) in index.weight_map.0 {
        parts.entry(part).or_default().insert(name);
    }
    let outside: Vec<String> = parts
        .keys()
        .filter(|part| !is_file_name(part))
        .map(|part| format!("`{part}`"))
        .collect();
    if outside.is_empty() {
        return Ok(parts);
    }
    Err(malformed(format!(
        "the index names the parts {}; a part is a file in the folder of the index, by its name alone",
        outside.join(", ")
    )))
}

/// Whether `part` is a file's name on every system, and no path.
fn is_file_name(part: &str) -> bool {
    let mut components = Path::new(part).components();
    let first = components.next();
    matches!(first, Some(Component::Normal(name)) if name == part) && components.next().is_none() && !part.contains(['/', '\\', ':', '\0'])
}

fn header(path: &Path) -> Result<Header> {
    let (mut input, len) = open(path)?;
    read_header(&mut input, len, &|source: io::Error| failed("read", path, source))
}

/// An error without the words that the whole will begin with.
fn cause(error: Error) -> String {
    match error {
        Error::Malformed { reason } => reason,
        other => other.to_string(),
    }
}

/// Where a part and the index disagree.
fn compare(part: &str, expected: &BTreeSet<String>, header: &Header, parts: &Parts) -> Vec<String> {
    let held: BTreeSet<&str> = header.tensors.iter().map(|(name, _)| name.as_str()).collect();
    let is_held = |name: &str| {
        let alias = header.metadata.get(name);
        held.contains(name) || alias.is_some_and(|stored| held.contains(stored.as_str()))
    };
    let lacking = expected
        .iter()
        .filter(|name| !is_held(name))
        .map(|name| format!("part `{part}` has no `{name}`, which the index says it has"));
    let surplus = held.iter().filter(|&&name| !expected.contains(name)).map(|&name| {
        let other = parts.iter().find(|(_, names)| names.contains(name));
        match other {
            Some((other, _)) => format!("`{name}` is in part `{part}`, and the index says that part `{other}` has it"),
            None => format!("part `{part}` has `{name}`, which the index does not name"),
        }
    });
    lacking.chain(surplus).collect()
}
