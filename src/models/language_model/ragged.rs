//! Sequences of different lengths, one after the other.

use ndarray::Array2;

use super::LanguageModel;
use crate::error::{Error, Result};
use crate::scalar::Scalar;

impl<A: Scalar> LanguageModel<A> {
    /// Computes the features of sequences of different lengths without padding: the rows of all, one sequence after the other, (sum of their lengths,
    /// [`feature_dim`](crate::LanguageModelConfig::feature_dim)). They are, bit for bit, those that [`features`](Self::features) computes of each alone,
    /// with a mask that says that it has no padding. All tokens are of type 0. See [`Encoder::forward_ragged`](crate::Encoder::forward_ragged).
    ///
    /// ```
    /// use linformer::{AttentionConfig, EncoderConfig, LanguageModel, LanguageModelConfig};
    ///
    /// let encoder = EncoderConfig::new(AttentionConfig::new(8, 2), 1);
    /// let model = LanguageModel::<f32>::new(&LanguageModelConfig::new(100, encoder), 0)?;
    /// let features = model.features_ragged(&[&[1, 17, 22, 2][..], &[1, 30, 2]])?;
    /// assert_eq!(features.dim(), (7, 8));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if a token is outside the vocabulary, or if a sequence is longer than the positions or projections allow.
    pub fn features_ragged<S: AsRef<[usize]>>(&self, sequences: &[S]) -> Result<Array2<A>> {
        self.backbone().forward_ragged(&slices(sequences), None)
    }

    /// Computes [`features_ragged`](Self::features_ragged) of tokens and their types.
    ///
    /// # Errors
    /// Returns an error as [`features_ragged`](Self::features_ragged) does, if the model has no types, or if `types` are not as many as the tokens of
    /// each sequence or are types that the model does not have.
    pub fn features_ragged_with_types<S, T>(&self, sequences: &[S], types: &[T]) -> Result<Array2<A>>
    where
        S: AsRef<[usize]>,
        T: AsRef<[usize]>,
    {
        const OPERATION: &str = "LanguageModel::features_ragged_with_types";
        let (sequences, types) = (slices(sequences), slices(types));
        if sequences.len() != types.len() {
            let reason = format!("types came for {} sequences, but there are {}", types.len(), sequences.len());
            return Err(Error::argument(OPERATION, reason));
        }
        let Some(count) = self.config().token_types else {
            return Err(Error::argument(
                OPERATION,
                "the model has no types (LanguageModelConfig::token_types); use features_ragged",
            ));
        };
        for (sequence, (tokens, types)) in sequences.iter().zip(&types).enumerate() {
            if tokens.len() != types.len() {
                let reason = format!(
                    "sequence {sequence} has {} tokens, but {} types came for it",
                    tokens.len(),
                    types.len()
                );
                return Err(Error::argument(OPERATION, reason));
            }
            if let Some(wrong) = types.iter().find(|&&own| own >= count) {
                let reason = format!("sequence {sequence} has type {wrong}, but the model has {count} types, which begin at 0");
                return Err(Error::argument(OPERATION, reason));
            }
        }
        self.backbone().forward_ragged(&sequences, Some(&types))
    }
}

fn slices<S: AsRef<[usize]>>(sequences: &[S]) -> Vec<&[usize]> {
    sequences.iter().map(AsRef::as_ref).collect()
}
