//! Tokens with types.

use ndarray::{Array3, ArrayRef2};

use super::{LanguageModel, LanguageModelCache};
use crate::attention::PaddingMask;
use crate::config::TrainingPass;
use crate::error::Result;
use crate::models::typed_tokens::TypedTokens;
use crate::scalar::Scalar;

/// What the methods without types compute, of tokens with a type each, for models that have [types](crate::LanguageModelConfig::token_types).
impl<A: Scalar> LanguageModel<A> {
    /// Computes the head's input: (batch, n) token ids and their types → (batch, n, [`feature_dim`](crate::LanguageModelConfig::feature_dim)).
    ///
    /// ```
    /// use linformer::ndarray::{Array2, array};
    /// use linformer::{AttentionConfig, EncoderConfig, LanguageModel, LanguageModelConfig};
    ///
    /// let encoder = EncoderConfig::new(AttentionConfig::new(8, 2), 1);
    /// let model = LanguageModel::<f32>::new(&LanguageModelConfig::new(100, encoder).with_token_types(2), 0)?;
    /// // A question and an answer in one sequence.
    /// let (tokens, types) = (array![[1, 17, 2, 30, 31, 2]], array![[0, 0, 0, 1, 1, 1]]);
    /// assert_eq!(model.features_with_types(&tokens, &types, None)?.dim(), (1, 6, 8));
    /// // Without types all tokens are of type 0.
    /// assert_eq!(model.features(&tokens, None)?, model.features_with_types(&tokens, &Array2::zeros((1, 6)), None)?);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error as [`features`](Self::features) does, if the model has no types, or if `types` has another shape than `tokens` or a type
    /// that the model does not have.
    pub fn features_with_types(
        &self,
        tokens: &ArrayRef2<usize>,
        types: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
    ) -> Result<Array3<A>> {
        self.backbone().forward(TypedTokens::new(tokens, Some(types)), mask)
    }

    /// Computes [`forward`](Self::forward) of (batch, n) token ids and their types.
    ///
    /// # Errors
    /// Returns an error as [`features_with_types`](Self::features_with_types) does.
    pub fn forward_with_types(&self, tokens: &ArrayRef2<usize>, types: &ArrayRef2<usize>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.forward_of(TypedTokens::new(tokens, Some(types)), mask)
    }

    /// Returns what the encoder reads, (batch, n, dim), of (batch, n) token ids and their types.
    ///
    /// # Errors
    /// Returns an error as [`encoder_input`](Self::encoder_input) and [`features_with_types`](Self::features_with_types) do.
    pub fn encoder_input_with_types(
        &self,
        tokens: &ArrayRef2<usize>,
        types: &ArrayRef2<usize>,
        mask: Option<&PaddingMask>,
    ) -> Result<Array3<A>> {
        self.backbone().embed(TypedTokens::new(tokens, Some(types)), mask, None)
    }

    /// Runs [`forward_train`](Self::forward_train) on (batch, n) token ids and their types.
    ///
    /// # Errors
    /// Returns an error as [`forward_train`](Self::forward_train) and [`features_with_types`](Self::features_with_types) do.
    pub fn forward_train_with_types(
        &self,
        tokens: &ArrayRef2<usize>,
        types: &ArrayRef2<usize>,
        positions: Option<&[Vec<usize>]>,
        mask: Option<&PaddingMask>,
        pass: &TrainingPass,
    ) -> Result<(Array3<A>, LanguageModelCache<A>)> {
        self.forward_train_shard(TypedTokens::new(tokens, Some(types)), positions, mask, pass, None)
    }
}
