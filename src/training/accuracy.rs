//! How often a model is right.

use super::losses::check_targets;
use super::{Scored, Targets};
use crate::error::{Error, Result};
use crate::models::highest;
use crate::scalar::Scalar;

/// Returns the fraction of all targets of `batches` whose score is the highest of their row: a [`Classifier`](crate::Classifier)'s classes, or the tokens
/// of a [`LanguageModel`](crate::LanguageModel) or an [`EncoderDecoder`](crate::EncoderDecoder). A target that is `None` does not count.
///
/// ```
/// use linformer::ndarray::array;
/// use linformer::training::{TokenBatch, accuracy};
/// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LanguageModelConfig, LinformerConfig};
///
/// let body = LanguageModelConfig::new(10, EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1));
/// let model = Classifier::<f32>::new(&ClassifierConfig::tokens(body, 2), 0)?;
/// let tokens = array![[1, 2, 3], [4, 5, 6]];
/// let classes = model.predict(&tokens, None)?;
/// let held_out = [TokenBatch::new(&tokens, &[Some(classes[0]), Some(1 - classes[1])])];
/// assert_eq!(accuracy(&model, &held_out)?, 0.5);
/// # Ok::<(), linformer::Error>(())
/// ```
///
/// # Errors
/// Returns an error if a batch does not fit the model, if a score is NaN, or if the batches have no targets at all.
#[allow(private_bounds)] // models and batches of this crate
pub fn accuracy<A: Scalar, B: Targets, M: Scored<B, A>>(model: &M, batches: &[B]) -> Result<f64> {
    const OPERATION: &str = "accuracy";
    let (mut right, mut all) = (0_usize, 0_usize);
    for batch in batches {
        let scores = model.scores_of_batch(batch)?;
        all += check_targets(OPERATION, &scores, batch.targets())?;
        let predicted = highest(OPERATION, &scores)?.into_iter().zip(batch.targets());
        right += predicted.filter(|&(class, &target)| Some(class) == target).count();
    }
    if all == 0 {
        return Err(Error::argument(
            OPERATION,
            "there are no targets to compare with; give it batches that have some",
        ));
    }
    Ok(right as f64 / all as f64)
}
