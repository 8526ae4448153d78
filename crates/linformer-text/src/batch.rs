//! Sequences that a model reads together.

use linformer::PaddingMask;
use linformer::ndarray::Array2;

use crate::error::Result;
use crate::tokens::Tokens;

/// A batch with fewer tokens than this takes shorter sequences, too: products of few rows are slow.
const SMALL: usize = 512;

/// The part of a larger batch that may be padding is one in this number.
const PADDING: usize = 8;

/// What a model reads at once.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) ids: Vec<usize>,
    pub(crate) types: Vec<usize>,
    /// The number of its tokens that are not special.
    pub(crate) weight: usize,
}

impl Piece {
    pub(crate) fn of(tokens: &Tokens) -> Self {
        Self {
            ids: tokens.ids().to_vec(),
            types: tokens.types().to_vec(),
            weight: tokens.len() - tokens.special(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }
}

/// Pieces as a model takes them, right-padded. Padding has id 0 and type 0; the mask tells it from tokens.
#[derive(Debug)]
pub(crate) struct Padded {
    pub(crate) ids: Array2<usize>,
    pub(crate) types: Array2<usize>,
    pub(crate) mask: PaddingMask,
}

impl Padded {
    pub(crate) fn of(pieces: &[&Piece]) -> Result<Self> {
        let lengths: Vec<_> = pieces.iter().map(|piece| piece.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let numbers = |of: fn(&Piece) -> &[usize]| {
            Array2::from_shape_fn((pieces.len(), longest), |(item, position)| {
                of(pieces[item]).get(position).copied().unwrap_or(0)
            })
        };
        Ok(Self {
            ids: numbers(|piece| &piece.ids),
            types: numbers(|piece| &piece.types),
            mask: PaddingMask::from_lengths(&lengths, longest)?,
        })
    }
}

/// Puts sequences together that need no padding, the longest first, without those of no length: lists of their indices.
pub(crate) fn unpadded(lengths: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut tokens = 0;
    for index in longest_first(lengths) {
        let length = lengths[index];
        tokens += length;
        match batches.last_mut() {
            Some(batch) if tokens <= batch_tokens => batch.push(index),
            _ => {
                batches.push(vec![index]);
                tokens = length;
            }
        }
    }
    batches
}

/// The indices of lengths that are not 0, the longest first.
fn longest_first(lengths: &[usize]) -> Vec<usize> {
    let mut order: Vec<_> = (0..lengths.len()).filter(|&index| lengths[index] > 0).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(lengths[index]));
    order
}

/// Puts sequences of similar length together, the longest first, without those of no length: lists of their indices.
pub(crate) fn plan(lengths: &[usize], batch_tokens: usize) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    // The first of a batch is its longest.
    let (mut longest, mut tokens) = (0, 0);
    for index in longest_first(lengths) {
        let length = lengths[index];
        let fits = batches.last().is_some_and(|batch| {
            let padded = longest * (batch.len() + 1);
            let padding = padded - (tokens + length);
            padded <= batch_tokens && (padded <= SMALL || padding <= padded / PADDING)
        });
        match batches.last_mut() {
            Some(batch) if fits => {
                batch.push(index);
                tokens += length;
            }
            _ => {
                batches.push(vec![index]);
                (longest, tokens) = (length, length);
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sequence_with_tokens_is_in_one_batch_and_none_is_too_large() {
        let lengths: Vec<usize> = (0..700).map(|index| index * 7919 % 513).collect();
        for (batch_tokens, is_padded) in [1, 100, 4096].into_iter().flat_map(|tokens| [(tokens, true), (tokens, false)]) {
            let batches = if is_padded { plan } else { unpadded }(&lengths, batch_tokens);
            let mut seen: Vec<_> = batches.concat();
            seen.sort_unstable();
            let expected: Vec<_> = (0..700).filter(|&index| lengths[index] > 0).collect();
            assert_eq!(seen, expected);
            for batch in &batches {
                let padded = lengths[batch[0]] * batch.len();
                let tokens: usize = batch.iter().map(|&index| lengths[index]).sum();
                assert!(batch.len() == 1 || if is_padded { padded } else { tokens } <= batch_tokens);
                assert!(
                    !is_padded || padded <= SMALL || (padded - tokens) * PADDING <= padded,
                    "{tokens} of {padded}"
                );
            }
        }
    }

    #[test]
    fn padding_is_masked() {
        let piece = |ids: &[usize]| Piece {
            ids: ids.to_vec(),
            types: vec![1; ids.len()],
            weight: 0,
        };
        let padded = Padded::of(&[&piece(&[5, 6, 7]), &piece(&[8])]).unwrap();
        assert_eq!(padded.ids, linformer::ndarray::array![[5, 6, 7], [8, 0, 0]]);
        assert_eq!(padded.types, linformer::ndarray::array![[1, 1, 1], [1, 0, 0]]);
        assert_eq!(padded.mask.lengths(), [3, 1]);
    }
}
