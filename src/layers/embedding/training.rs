//! Training of token vectors.

use ndarray::{Array2, Array3, ArrayRef2, s};

use super::Embedding;
use crate::config::check_alike;
use crate::error::Result;
use crate::layers::{check_gradient, contiguous, rows};
use crate::ops::scatter_rows;
use crate::scalar::Scalar;

/// The state that the backward pass of an [`Embedding`] needs: the tokens.
#[derive(Clone, Debug)]
pub struct EmbeddingCache {
    tokens: Array2<usize>,
    /// The shape of the vectors, (`vocab_size`, dim).
    dim: (usize, usize),
}

impl<A: Scalar> Embedding<A> {
    /// Runs [`forward`](Self::forward); returns the output and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error if a token id is outside the vocabulary.
    pub fn forward_train(&self, tokens: &ArrayRef2<usize>) -> Result<(Array3<A>, EmbeddingCache)> {
        let (y, dim) = (self.forward(tokens)?, self.weight.dim());
        let tokens = tokens.to_owned();
        Ok((y, EmbeddingCache { tokens, dim }))
    }

    /// Adds the gradient `dy` of every vector, (batch, length, dim), to that of its token in `gradients`, a value like the layer's own
    /// [`zeros_like`](crate::Parameters::zeros_like). Tokens have no gradient.
    ///
    /// ```
    /// use linformer::ndarray::array;
    /// use linformer::{Embedding, Parameters};
    ///
    /// let embedding = Embedding::from_weight(array![[0.0, 1.0], [2.0, 3.0]]);
    /// let mut gradients = embedding.zeros_like();
    /// let (_, cache) = embedding.forward_train(&array![[1, 1]])?;
    /// embedding.backward(cache, array![[[1.0, 2.0], [30.0, 40.0]]], &mut gradients)?;
    /// assert_eq!(gradients.weight(), array![[0.0, 0.0], [31.0, 42.0]]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of the output, or the cache or the gradients are of a layer of another shape. The gradients are
    /// then as they were.
    pub fn backward(&self, cache: EmbeddingCache, dy: Array3<A>, gradients: &mut Self) -> Result<()> {
        const OPERATION: &str = "Embedding::backward";
        check_alike(OPERATION, &self.weight.dim(), &cache.dim, &gradients.weight.dim())?;
        let (batch, length) = cache.tokens.dim();
        check_gradient(OPERATION, &dy, (batch, length, cache.dim.1))?;
        Self::backward_tokens(&cache.tokens, &contiguous(dy), gradients);
        Ok(())
    }

    /// Adds the gradient of every vector `dy` to that of its token, token by token in their order.
    pub(crate) fn backward_tokens(tokens: &ArrayRef2<usize>, dy: &Array3<A>, gradients: &mut Self) {
        let dy = rows(dy);
        scatter_rows(tokens.iter().copied(), |index| dy.slice_move(s![index, ..]), &mut gradients.weight);
    }
}
