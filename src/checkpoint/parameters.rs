//! The tensors of any value with parameters, including user-defined models.

use std::collections::BTreeMap;
use std::path::Path;

use super::Tensors;
use super::assign::assign;
use super::contents::Contents;
use crate::error::Result;
use crate::parameters::Parameters;
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
