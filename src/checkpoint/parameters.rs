//! The tensors of any value with parameters, including user-defined models.

use std::collections::BTreeMap;
use std::path::Path;

use super::Tensors;
use super::assign::{assign, not_floating};
use super::contents::Contents;
use super::native::{is_run, weights_of_run};
use crate::error::{Error, Result};
use crate::parameters::{Copied, Parameters, copy_tensors};
use crate::scalar::Scalar;

/// Writes all tensors of `model`, parameters and buffers, to a safetensors file, under the names that [`Parameters::visit`] gives them.
///
/// For user-defined models, made with [`parameters!`](crate::parameters!). The models of this crate have [`Checkpoint::save`](super::Checkpoint::save),
/// whose files hold their configurations, too. The file is written to a temporary file, synced and atomically renamed, so `path` always holds a
/// complete file.
///
/// ```
/// use linformer::checkpoint::{load_parameters, save_parameters};
/// use linformer::{LayerNorm, Linear, Parameters, parameters};
///
/// struct Mine {
///     norm: LayerNorm<f32>,
///     output: Linear<f32>,
/// }
///
/// parameters!(Mine: f32 { norm, output });
///
/// let new = |seed| Ok::<_, linformer::Error>(Mine { norm: LayerNorm::new(4, 1e-5)?, output: Linear::new(4, 2, true, seed)? });
/// let (trained, mut model) = (new(1)?, new(2)?);
/// let path = std::env::temp_dir().join(format!("linformer-mine-{}.safetensors", std::process::id()));
/// save_parameters(&path, &trained)?;
/// load_parameters(&path, &mut model)?;
/// assert_eq!(model.named(), trained.named());
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the file cannot be written, two tensors have one name, or there are more tensors than a header has room for.
pub fn save_parameters<A: Scalar, M: Parameters<A>>(path: impl AsRef<Path>, model: &M) -> Result<()> {
    Contents::new(model.named(), BTreeMap::new())?.save(path.as_ref())
}

/// Reads a safetensors file, and gives every parameter and buffer of `model` the value of the tensor of its name. Metadata is not read.
///
/// # Errors
/// Returns an error if the file cannot be read or is not a valid safetensors file, or if tensors are missing, unexpected, of another shape, or of
/// integers, all of which are listed. The model is then left as it was.
pub fn load_parameters<A: Scalar, M: Parameters<A>>(path: impl AsRef<Path>, model: &mut M) -> Result<()> {
    assign(model, Tensors::read(path)?)
}

/// Reads a safetensors file, gives every tensor of `model` the value of the one that has its name and its shape, and returns which were taken. The others
/// stay as they are: a warm start, such as that of a classifier from a trained language model. From the file of a training run it takes the best
/// weights, where the file has them, and otherwise the last. [`Parameters::copy_matching`] does the same from a model.
///
/// ```
/// use linformer::checkpoint::{Checkpoint, load_matching};
/// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig};
///
/// let config = LanguageModelConfig::new(100, EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1));
/// let path = std::env::temp_dir().join(format!("linformer-warm-{}.safetensors", std::process::id()));
/// LanguageModel::<f32>::new(&config, 0)?.save(&path)?;
/// let mut classifier = Classifier::<f32>::new(&ClassifierConfig::tokens(config, 3), 1)?;
/// let copied = load_matching(&path, &mut classifier)?;
/// assert_eq!(copied.missing, ["output.weight", "output.bias"]);
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the file cannot be read or is no valid safetensors file, or if tensors that the model has are of integers, all of which are
/// listed. The model is then left as it was.
pub fn load_matching<A: Scalar, M: Parameters<A>>(path: impl AsRef<Path>, model: &mut M) -> Result<Copied> {
    let mut tensors = Tensors::read(path)?;
    if is_run(tensors.metadata()) {
        tensors = weights_of_run(tensors)?;
    }
    let mut problems = Vec::new();
    model.visit("", &mut |name, _, _| {
        problems.extend(tensors.shared(name).and_then(|(_, dtype)| not_floating(name, dtype)));
    });
    if !problems.is_empty() {
        return Err(Error::Checkpoint { problems });
    }
    let names = tensors.names().chain(tensors.aliases().map(|(alias, _)| alias));
    let views = names.filter_map(|name| Some((name.to_owned(), tensors.get(name)?)));
    Ok(copy_tensors(&views.collect(), model))
}
