//! Sequences of different lengths in one array, and those of a batch that are continued.

use ndarray::{Array2, Array3};

use crate::attention::PaddingMask;
use crate::error::{Error, Result, checked_len};
use crate::scalar::Scalar;

/// Sequences in one array, padded on the right with 0, and which of its places are real.
pub(crate) fn padded(operation: &'static str, sequences: &[impl AsRef<[usize]>]) -> Result<(Array2<usize>, PaddingMask)> {
    let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.as_ref().len()).collect();
    let longest = lengths.iter().copied().max().unwrap_or(0);
    checked_len(operation, &[sequences.len(), longest], size_of::<usize>())?;
    let mask = PaddingMask::from_lengths(&lengths, longest)?;
    let tokens = Array2::from_shape_fn((sequences.len(), longest), |(item, position)| {
        sequences[item].as_ref().get(position).copied().unwrap_or(0)
    });
    Ok((tokens, mask))
}

/// The sequences of a batch that a step continues, and the token of each.
pub(super) struct Continued<S> {
    pub(super) sequences: Vec<S>,
    /// (sequences, 1).
    pub(super) tokens: Array2<usize>,
    /// The place of each in the batch.
    items: Vec<usize>,
}

impl<S> Continued<S> {
    /// Selects those of a batch that are given a token. `each` names one of them in the error.
    pub(super) fn new(
        operation: &'static str,
        each: &str,
        batch: impl IntoIterator<Item = S, IntoIter: ExactSizeIterator>,
        tokens: &[Option<usize>],
    ) -> Result<Self> {
        let batch = batch.into_iter();
        if tokens.len() != batch.len() {
            let expected = format!("({}), one for each {each}", batch.len());
            return Err(Error::shape(operation, "tokens", expected, &[tokens.len()]));
        }
        let given = batch.zip(tokens).filter(|(_, token)| token.is_some());
        let (items, column): (Vec<usize>, Vec<usize>) = tokens
            .iter()
            .enumerate()
            .filter_map(|(item, token)| Some((item, (*token)?)))
            .unzip();
        Ok(Self {
            sequences: given.map(|(sequence, _)| sequence).collect(),
            tokens: Array2::from_shape_fn((column.len(), 1), |(row, _)| column[row]),
            items,
        })
    }

    /// Returns the scores of a batch of `count`, given those of the continued sequences, (sequences, 1, `vocab_size`); 0 for the others.
    pub(super) fn spread<A: Scalar>(&self, found: &Array3<A>, count: usize) -> Array2<A> {
        let mut scores = Array2::zeros((count, found.dim().2));
        for (&item, found) in self.items.iter().zip(found.outer_iter()) {
            scores.row_mut(item).assign(&found.row(0));
        }
        scores
    }
}
