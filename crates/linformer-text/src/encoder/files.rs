//! Opening folders and files, and writing files.

use std::path::Path;

use linformer::LanguageModel;
use linformer::checkpoint::Checkpoint;
use serde::{Deserialize, Serialize};

use super::TextEncoder;
use crate::error::{Error, Result};
use crate::head::{Module, StoredModule};
use crate::model::ModelFolder;
use crate::modules::Modules;
use crate::pooling::Pooling;
use crate::source::Source;
use crate::tokenizer::{TOKENIZER, Tokenizer};

/// The entry of a file's metadata that describes what is around the model.
const DESCRIPTION: &str = "text_encoder";

/// The version of the description.
const FORMAT: u64 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description {
    format: u64,
    pooling: Pooling,
    after: Vec<StoredModule>,
    trained_len: Option<usize>,
}

pub(super) fn open(path: &Path) -> Result<TextEncoder> {
    let source = Source::open(path)?;
    match &source {
        Source::File { path, .. } => open_file(&source, path),
        Source::Folder(_) => open_folder(&source),
    }
}

fn open_folder(source: &Source) -> Result<TextEncoder> {
    let modules = Modules::read(source)?;
    let tokenizer = Tokenizer::of(source, &modules.transformer)?;
    let model = ModelFolder::read(source, &modules.transformer)?.encoder()?;
    TextEncoder::of(model, tokenizer, modules.pooling, modules.after, modules.trained_len)
}

fn open_file(source: &Source, path: &Path) -> Result<TextEncoder> {
    let Some(description) = source.json::<Description>("", DESCRIPTION)? else {
        let reason = "the file has no tokenizer and no pooling; open the folder that it is in, or a file that TextEncoder::save wrote";
        return Err(Error::missing(path, reason));
    };
    if description.format != FORMAT {
        let reason = format!("the format is {}, but this version reads {FORMAT}", description.format);
        return Err(Error::malformed(path, reason));
    }
    let tokenizer = Tokenizer::of(source, "")?;
    let model = LanguageModel::<f32>::load(path)?;
    let after = description.after.into_iter().map(Module::from_stored).collect::<Result<_>>()?;
    TextEncoder::of(model, tokenizer, description.pooling, after, description.trained_len)
}

pub(super) fn save(encoder: &TextEncoder, path: &Path) -> Result<()> {
    if !encoder.after.iter().all(Module::is_finite) {
        let reason = "a Dense module has a number that is not finite, which the file cannot keep";
        return Err(Error::argument("TextEncoder::save", reason));
    }
    let description = Description {
        format: FORMAT,
        pooling: encoder.pooling,
        after: encoder.stored_modules(),
        trained_len: encoder.trained_len,
    };
    let description = serde_json::to_string(&description).map_err(|error| Error::malformed(path, error))?;
    let entries = [(DESCRIPTION, description), (TOKENIZER, encoder.tokenizer.to_json()?)];
    Ok(encoder.model.save_with_metadata(path, entries)?)
}
