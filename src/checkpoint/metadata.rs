//! The user's own entries in the metadata of a file.

use std::collections::BTreeMap;
use std::path::Path;

use super::contents::read_header;
use super::file::{failed, open};
use crate::error::{Error, Result};

/// Returns an error if this crate uses the key itself.
pub(crate) fn check_key(operation: &'static str, key: &str) -> Result<()> {
    if !is_reserved(key) {
        return Ok(());
    }
    let reason = format!("the key `{key}` is this crate's own; choose one that does not begin with `linformer`");
    Err(Error::argument(operation, reason))
}

fn is_reserved(key: &str) -> bool {
    key.starts_with("linformer")
}

/// The entries that this crate does not use itself.
pub(crate) fn own_entries(metadata: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let own = metadata.iter().filter(|(key, _)| !is_reserved(key));
    own.map(|(key, value)| (key.clone(), value.clone())).collect()
}

/// Returns the entries that [`Checkpoint::save_with_metadata`](super::Checkpoint::save_with_metadata) or
/// [`Trainer::set_metadata`](crate::training::Trainer::set_metadata) put into a file. Its tensors are not read.
///
/// # Errors
/// Returns an error if the file cannot be read or is no valid safetensors file.
pub fn read_metadata(path: impl AsRef<Path>) -> Result<BTreeMap<String, String>> {
    let path = path.as_ref();
    let (mut input, len) = open(path)?;
    let header = read_header(&mut input, len, &|source| failed("read", path, source))?;
    Ok(own_entries(&header.metadata))
}
