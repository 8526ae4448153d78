//! Token vectors.

mod training;

pub use training::EmbeddingCache;

use ndarray::{Array2, Array3, ArrayRef2, ArrayView2, ArrayViewMut2, s};

use crate::config::at_least_one;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// A trained vector for each token id.
///
/// ```
/// use linformer::Embedding;
/// use linformer::ndarray::array;
///
/// let embedding = Embedding::from_weight(array![[0.0, 1.0], [2.0, 3.0]]);
/// assert_eq!(embedding.forward(&array![[1, 0]])?, array![[[2.0, 3.0], [0.0, 1.0]]]);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Embedding<A = f32> {
    weight: Array2<A>,
}

parameters!(Embedding { weight });

impl<A: Scalar> Embedding<A> {
    /// Makes `vocab_size` vectors of `dim` numbers, normal with standard deviation 0.02.
    ///
    /// # Errors
    /// Returns an error if a size is 0, or the sizes overflow.
    pub fn new(vocab_size: usize, dim: usize, seed: u64) -> Result<Self> {
        at_least_one("vocab_size", vocab_size)?;
        at_least_one("dim", dim)?;
        checked_len("Embedding", &[vocab_size, dim], size_of::<A>())?;
        Ok(Self::init(vocab_size, dim, None, &mut Streams::new(seed)))
    }

    /// Vectors with this standard deviation, or that of [`new`](Self::new).
    pub(crate) fn init(vocab_size: usize, dim: usize, deviation: Option<f64>, streams: &mut Streams) -> Self {
        let deviation = deviation.unwrap_or(0.02);
        let weight = streams.normal((vocab_size, dim), deviation);
        streams.note("embedding_deviation", deviation, weight.iter());
        Self { weight }
    }

    /// Makes a layer whose vectors are the rows of `weight`, (`vocab_size`, dim).
    pub fn from_weight(weight: Array2<A>) -> Self {
        Self { weight }
    }

    /// Returns the vectors, (`vocab_size`, dim).
    pub fn weight(&self) -> ArrayView2<'_, A> {
        self.weight.view()
    }

    /// Returns the vectors, (`vocab_size`, dim), to be written.
    pub fn weight_mut(&mut self) -> ArrayViewMut2<'_, A> {
        self.weight.view_mut()
    }

    /// Returns the number of token ids.
    pub fn vocab_size(&self) -> usize {
        self.weight.nrows()
    }

    /// Returns the vectors of token ids: (batch, length) → (batch, length, dim).
    ///
    /// # Errors
    /// Returns an error if a token id is outside the vocabulary.
    pub fn forward(&self, tokens: &ArrayRef2<usize>) -> Result<Array3<A>> {
        let (batch, length) = tokens.dim();
        let dim = self.weight.ncols();
        checked_len("Embedding::forward", &[batch, length, dim], size_of::<A>())?;
        let mut vectors = Array3::zeros((batch, length, dim));
        for ((item, position), &token) in tokens.indexed_iter() {
            if token >= self.vocab_size() {
                return Err(Error::Token {
                    token,
                    item,
                    position,
                    vocab_size: self.vocab_size(),
                });
            }
            vectors.slice_mut(s![item, position, ..]).assign(&self.weight.row(token));
        }
        Ok(vectors)
    }

    /// Adds its vector to the place of each token id in `x`, (batch, length, dim). The ids have been checked.
    pub(crate) fn add_to(&self, x: &mut Array3<A>, tokens: &ArrayRef2<usize>) {
        for (mut row, &token) in x.rows_mut().into_iter().zip(tokens) {
            row += &self.weight.row(token);
        }
    }
}
