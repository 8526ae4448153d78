//! Training of positions.

use ndarray::{Array2, Array3, ArrayRef2, ArrayRef3, s};

use super::{Padding, Position, Start, rows_after_padding};
use crate::config::{PositionKind, check_alike};
use crate::error::Result;
use crate::layers::{check_gradient, contiguous, rows};
use crate::ops::scatter_rows;
use crate::scalar::Scalar;

/// The state that the backward pass of a [`Position`] needs: the tokens, if there were any.
#[derive(Clone, Debug)]
pub struct PositionCache {
    kind: PositionKind,
    tokens: Option<Array2<usize>>,
    dim: (usize, usize, usize),
}

impl<A: Scalar> Position<A> {
    /// Runs [`forward`](Self::forward); returns the output and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn forward_train(&self, x: &ArrayRef3<A>, tokens: Option<&ArrayRef2<usize>>) -> Result<(Array3<A>, PositionCache)> {
        let y = self.forward(x, tokens)?;
        let cache = PositionCache {
            kind: self.kind,
            tokens: tokens.map(ndarray::ArrayRef::to_owned),
            dim: y.dim(),
        };
        Ok((y, cache))
    }

    /// Returns the gradient of x, which is `dy` of y, both (batch, length, dim). Those of learned vectors are added to `gradients`, a value like
    /// the layer's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// ```
    /// use linformer::ndarray::{Array3, array};
    /// use linformer::{Parameters, Position, PositionKind};
    ///
    /// let position = Position::<f64>::new(PositionKind::Learned { max_len: 4 }, 1, 0)?;
    /// let mut gradients = position.zeros_like();
    /// let (_, cache) = position.forward_train(&Array3::zeros((2, 3, 1)), None)?;
    /// position.backward(cache, array![[[1.0], [2.0], [3.0]], [[10.0], [20.0], [30.0]]], &mut gradients)?;
    /// assert_eq!(gradients.weight().unwrap(), array![[11.0], [22.0], [33.0], [0.0]]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of y, or the cache or the gradients are of positions of another kind or width. The gradients
    /// are then as they were.
    pub fn backward(&self, cache: PositionCache, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "Position::backward";
        let cached = (cache.kind, cache.dim.2);
        check_alike(OPERATION, &(self.kind, self.dim), &cached, &(gradients.kind, gradients.dim))?;
        check_gradient(OPERATION, &dy, cache.dim)?;
        let dy = contiguous(dy);
        let padding = cache.tokens.as_deref().map_or(Padding::None, Padding::Ids);
        self.backward_from(Start::default(), padding, &dy, gradients);
        Ok(dy)
    }

    /// Adds the gradients `dy` of a sequence to those of the learned vectors that were added to it.
    pub(crate) fn backward_from(&self, start: Start<'_>, padding: Padding<'_>, dy: &Array3<A>, gradients: &mut Self) {
        let Some(weight) = &mut gradients.weight else {
            return;
        };
        let (batch, length, _) = dy.dim();
        let Some(learned) = self.kind.learned() else {
            return;
        };
        let indices: Vec<usize> = match learned.padding_token {
            Some(padding_token) => (0..batch)
                .flat_map(|item| rows_after_padding(learned, padding, item, start.tokens_of(item), padding_token).take(length))
                .collect(),
            None => (0..batch)
                .flat_map(|_| start.position..start.position + length)
                .map(|position| learned.index(position))
                .collect(),
        };
        let dy = rows(dy);
        scatter_rows(indices.into_iter(), |index| dy.slice_move(s![index, ..]), weight);
    }
}
