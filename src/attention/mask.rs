//! Masks of real positions.

use ndarray::{Array2, ArrayRef2, ArrayView1, ArrayView2};

use crate::error::{Error, Result, checked_len};

/// One past the last real position.
pub(super) fn one_past_last(real: ArrayView1<'_, bool>) -> usize {
    real.iter().rposition(|&real| real).map_or(0, |last| last + 1)
}

/// A mask of a batch of sequences: `true` at real tokens, `false` at padding.
///
/// Padding contributes nothing to keys and values, in every layer, whatever its values are, NaN included. A right-padded batch gives
/// the same real rows as each sequence alone; holes and padding on the left contribute nothing and leave the other positions where
/// they are. Query rows at padding are computed as usual.
///
/// The same holds for gradients: a row whose incoming gradient is 0 adds nothing to any of them, whatever its values are. Where the gradient of
/// an output is 0 at padding, as losses and pooling make it, all gradients are those with zeros there, and that of padding is 0.
///
/// ```
/// use linformer::PaddingMask;
///
/// let mask = PaddingMask::from_lengths(&[3, 1], 3)?;
/// assert_eq!(mask.lengths(), [3, 1]);
/// assert!(mask.is_real(0, 2) && !mask.is_real(1, 2));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PaddingMask {
    real: Array2<bool>,
    /// One past the last real position of each item.
    lengths: Vec<usize>,
}

impl PaddingMask {
    /// Creates a mask in which the first `lengths[i]` of the `length` positions of item i are real.
    ///
    /// # Errors
    /// Returns an error if an item is longer than `length`.
    pub fn from_lengths(lengths: &[usize], length: usize) -> Result<Self> {
        checked_len("PaddingMask::from_lengths", &[lengths.len(), length], 1)?;
        if let Some((item, own)) = lengths.iter().enumerate().find(|&(_, &own)| own > length) {
            return Err(Error::argument(
                "PaddingMask::from_lengths",
                format!("item {item} has {own} real positions, but the sequences have only {length}"),
            ));
        }
        Ok(Self {
            real: Array2::from_shape_fn((lengths.len(), length), |(item, position)| position < lengths[item]),
            lengths: lengths.to_vec(),
        })
    }

    /// Creates a mask from `real[[i, t]]`: whether position t of item i is a real token.
    pub fn from_bools(real: &ArrayRef2<bool>) -> Self {
        let lengths = real.outer_iter().map(one_past_last).collect();
        Self {
            real: real.to_owned(),
            lengths,
        }
    }

    /// Creates a mask in which every position of `batch` items of `length` is real.
    ///
    /// # Errors
    /// Returns an error if the sizes overflow.
    pub fn all_real(batch: usize, length: usize) -> Result<Self> {
        checked_len("PaddingMask::all_real", &[batch, length], 1)?;
        checked_len("PaddingMask::all_real", &[batch], size_of::<usize>())?;
        Self::from_lengths(&vec![length; batch], length)
    }

    /// Returns (batch, length).
    pub fn dim(&self) -> (usize, usize) {
        self.real.dim()
    }

    /// Returns one past the last real position of each item.
    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// Returns whether `position` of `item` is a real token; anything outside the batch is not.
    pub fn is_real(&self, item: usize, position: usize) -> bool {
        self.real.get((item, position)).copied().unwrap_or(false)
    }

    /// All positions, (batch, length).
    pub(crate) fn real(&self) -> ArrayView2<'_, bool> {
        self.real.view()
    }

    /// The positions of one item.
    pub(crate) fn item(&self, item: usize) -> ArrayView1<'_, bool> {
        self.real.row(item)
    }

    /// An error unless the mask fits `batch` items of `length` positions.
    pub(crate) fn check(mask: Option<&Self>, operation: &'static str, batch: usize, length: usize) -> Result<()> {
        match mask {
            Some(mask) if mask.dim() != (batch, length) => Err(Error::shape(
                operation,
                "mask",
                format!("({batch}, {length})"),
                &[mask.dim().0, mask.dim().1],
            )),
            _ => Ok(()),
        }
    }
}
