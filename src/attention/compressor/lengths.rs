//! How long the sequences of a batch will be.

/// The lengths of whole sequences. Mean and max pooling must know them before the first position comes, since their windows depend on them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SequenceLengths {
    /// All items have this length.
    Equal(usize),
    /// Each item has its own length; the rows after it are padding.
    PerItem(Vec<usize>),
}
