//! Models of the hub: config.json and weights.

use std::path::PathBuf;

use linformer::checkpoint::{Tensors, bert};
use linformer::{LanguageModel, LanguageModelConfig, PositionKind};
use serde_json::Value;

use crate::error::{Error, Result};
use crate::source::Source;

pub(crate) const CONFIG: &str = "config.json";

/// The configuration of a folder's model, and where its weights are.
#[derive(Debug)]
pub(crate) struct ModelFolder {
    pub(crate) options: bert::Options,
    /// All of config.json, for what is not about the encoder.
    pub(crate) config: Value,
    pub(crate) config_path: PathBuf,
    weights: PathBuf,
}

impl ModelFolder {
    pub(crate) fn read(source: &Source, folder: &str) -> Result<Self> {
        let config_path = source.path_of(folder, CONFIG);
        let Some(json) = source.text(folder, CONFIG)? else {
            return Err(Error::missing(
                &config_path,
                "it would describe the model, but is not there; open the folder of a model",
            ));
        };
        let config = serde_json::from_str(&json).map_err(|error| Error::malformed(&config_path, error))?;
        Ok(Self {
            options: bert::Options::from_json(&json)?,
            config,
            config_path,
            weights: source.weights(folder)?,
        })
    }

    pub(crate) fn encoder(&self) -> Result<LanguageModel<f32>> {
        Ok(bert::load(&self.weights, &self.options)?)
    }

    pub(crate) fn tensors(&self) -> Result<Tensors<f32>> {
        Ok(Tensors::read(&self.weights)?)
    }
}

/// The most tokens that a model has positions for; of positions that repeat, those before they do.
pub(crate) fn positions(config: &LanguageModelConfig) -> Option<usize> {
    match config.position {
        PositionKind::Learned { max_len }
        | PositionKind::LearnedAfterPadding { max_len, .. }
        | PositionKind::LearnedRepeating { max_len, .. } => Some(max_len),
        _ => None,
    }
}
