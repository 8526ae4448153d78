//! Where the parts of a model are: a folder of the model hub, or one file of this crate.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use linformer::checkpoint::read_metadata;

use crate::error::{Error, Result};

const WEIGHTS: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Parts by name.
#[derive(Debug)]
pub(crate) enum Source {
    /// Files.
    Folder(PathBuf),
    /// Entries of the metadata of a file with a model of the crate `linformer`.
    File { path: PathBuf, entries: BTreeMap<String, String> },
}

impl Source {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let failed = |source| Error::Io {
            action: "open",
            path: path.to_owned(),
            source,
        };
        if fs::metadata(path).map_err(failed)?.is_dir() {
            return Ok(Self::Folder(path.to_owned()));
        }
        Ok(Self::File {
            path: path.to_owned(),
            entries: read_metadata(path)?,
        })
    }

    /// What errors about a part say that it is called.
    pub(crate) fn path_of(&self, folder: &str, name: &str) -> PathBuf {
        match self {
            Self::Folder(path) => path.join(folder).join(name),
            Self::File { path, .. } => path.clone(),
        }
    }

    /// The text of a part, if it is there.
    pub(crate) fn text(&self, folder: &str, name: &str) -> Result<Option<String>> {
        match self {
            Self::File { entries, .. } if folder.is_empty() => Ok(entries.get(name).cloned()),
            Self::File { .. } => Ok(None),
            Self::Folder(_) => {
                let path = self.path_of(folder, name);
                match fs::read_to_string(&path) {
                    Ok(text) => Ok(Some(text)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(source) => Err(Error::Io {
                        action: "read",
                        path,
                        source,
                    }),
                }
            }
        }
    }

    /// The JSON of a part, if it is there.
    pub(crate) fn json<T: serde::de::DeserializeOwned>(&self, folder: &str, name: &str) -> Result<Option<T>> {
        let text = self.text(folder, name)?;
        text.map(|text| serde_json::from_str(&text).map_err(|error| Error::malformed(&self.path_of(folder, name), error)))
            .transpose()
    }

    /// The file of a folder's weights, or of the index of their parts.
    pub(crate) fn weights(&self, folder: &str) -> Result<PathBuf> {
        let candidates = [WEIGHTS, INDEX].map(|name| self.path_of(folder, name));
        if let Some(found) = candidates.iter().find(|path| path.is_file()) {
            return Ok(found.clone());
        }
        let pickled = self.path_of(folder, "pytorch_model.bin").is_file();
        let reason = if pickled {
            "there is pytorch_model.bin, which only Python can read, but no model.safetensors; save the model again \
             (in Python: `model.save_pretrained(folder, safe_serialization=True)`)"
        } else {
            "there is neither model.safetensors nor model.safetensors.index.json"
        };
        Err(Error::missing(&self.path_of(folder, ""), reason))
    }
}
