//! Batches: sequences and their targets.

use std::borrow::Cow;

use ndarray::{Array2, Array3, ArrayRef2, Axis, CowArray, Ix2, Ix3, s};

use crate::attention::PaddingMask;
use crate::error::{Error, Result, checked_len};
use crate::models::{Sequences, TokenPairs, TypedTokens, padded};
use crate::scalar::Scalar;

/// The interface of all batches.
pub(crate) trait Targets {
    /// One for each row of scores.
    fn targets(&self) -> &[Option<usize>];

    /// Real positions.
    fn tokens(&self) -> usize;
}

/// A batch of sequences with a class each.
pub(crate) trait SequenceBatch<A>: Targets {
    fn sequences(&self) -> Result<(Sequences<'_, A>, Option<&PaddingMask>)>;
}

pub(super) fn real_positions(mask: Option<&PaddingMask>, (batch, length): (usize, usize)) -> usize {
    mask.map_or(batch * length, |mask| mask.real().iter().filter(|&&real| real).count())
}

/// Sequences of token ids and their targets: a language model's tokens, or a classifier's classes.
///
/// A target that is `None` does not count. A batch owns its arrays; borrowed ones are copied.
///
/// ```
/// use linformer::PaddingMask;
/// use linformer::ndarray::array;
/// use linformer::training::TokenBatch;
///
/// // Two sequences, of which the second is shorter, and the class of each.
/// let mask = PaddingMask::from_lengths(&[3, 2], 3)?;
/// let batch = TokenBatch::new(&array![[5, 6, 7], [8, 9, 0]], &[Some(1), Some(0)]).with_mask(&mask);
/// assert_eq!(batch, TokenBatch::from_sequences(&[vec![5, 6, 7], vec![8, 9]], &[Some(1), Some(0)])?);
///
/// // A language model is scored at some positions of each sequence, and has a target for each of them.
/// let batch = TokenBatch::new(&array![[5, 6, 7], [8, 9, 0]], &[Some(7), Some(9), Some(2)]).at(&[vec![1], vec![0, 2]]);
/// assert_eq!(batch.positions.unwrap()[1], [0, 2]);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TokenBatch {
    /// (batch, n) token ids.
    pub tokens: Array2<usize>,
    /// The type of each, for a model that has types; all are of type 0 if `None`.
    pub types: Option<Array2<usize>>,
    /// The class of each item for a classifier. For a language model the token of each position, sequence after sequence; with
    /// [`positions`](Self::positions) only of these.
    pub targets: Vec<Option<usize>>,
    /// The positions at which a language model is scored, one list for each item; all of them if `None`.
    pub positions: Option<Vec<Vec<usize>>>,
    /// The mask of real positions; all are real if `None`.
    pub mask: Option<PaddingMask>,
}

impl TokenBatch {
    /// Creates a batch of (batch, n) token ids without padding.
    pub fn new<'t>(tokens: impl Into<CowArray<'t, usize, Ix2>>, targets: impl Into<Cow<'t, [Option<usize>]>>) -> Self {
        Self {
            tokens: tokens.into().into_owned(),
            types: None,
            targets: targets.into().into_owned(),
            positions: None,
            mask: None,
        }
    }

    /// Creates a batch of sequences of any lengths, padded on the right with the token 0 and masked.
    ///
    /// # Errors
    /// Returns an error if the padded batch has more tokens than can be counted.
    pub fn from_sequences<'t>(sequences: &[impl AsRef<[usize]>], targets: impl Into<Cow<'t, [Option<usize>]>>) -> Result<Self> {
        let (tokens, mask) = padded("TokenBatch::from_sequences", sequences)?;
        Ok(Self::new(tokens, targets).with_mask(&mask))
    }

    /// Sets the types of the tokens, (batch, n).
    #[must_use]
    pub fn with_types<'t>(mut self, types: impl Into<CowArray<'t, usize, Ix2>>) -> Self {
        self.types = Some(types.into().into_owned());
        self
    }

    pub(crate) fn typed_tokens(&self) -> TypedTokens<'_> {
        TypedTokens::new(&self.tokens, self.types.as_deref())
    }

    /// Sets the positions at which a language model is scored, one list for each item.
    #[must_use]
    pub fn at<'p>(mut self, positions: impl Into<Cow<'p, [Vec<usize>]>>) -> Self {
        self.positions = Some(positions.into().into_owned());
        self
    }

    /// Sets the mask of real positions.
    #[must_use]
    pub fn with_mask<'m>(mut self, mask: impl Into<Option<&'m PaddingMask>>) -> Self {
        self.mask = mask.into().cloned();
        self
    }
}

impl Targets for TokenBatch {
    fn targets(&self) -> &[Option<usize>] {
        &self.targets
    }

    fn tokens(&self) -> usize {
        real_positions(self.mask.as_ref(), self.tokens.dim())
    }
}

impl<A> SequenceBatch<A> for TokenBatch {
    fn sequences(&self) -> Result<(Sequences<'_, A>, Option<&PaddingMask>)> {
        match self.positions {
            None => {
                let sequences = match &self.types {
                    Some(types) => (&self.tokens, types).into(),
                    None => (&self.tokens).into(),
                };
                Ok((sequences, self.mask.as_ref()))
            }
            Some(_) => Err(Error::argument(
                "Classifier::loss_and_gradients",
                "the batch has positions to be scored, but a classifier scores whole sequences; leave out TokenBatch::at",
            )),
        }
    }
}

/// Sequences of vectors and the class of each.
///
/// A target that is `None` does not count. A batch owns its arrays; borrowed ones are copied.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct FeatureBatch<A = f32> {
    /// (batch, n, features).
    pub x: Array3<A>,
    /// The class of each item.
    pub targets: Vec<Option<usize>>,
    /// The mask of real positions; all are real if `None`.
    pub mask: Option<PaddingMask>,
}

impl<A: Scalar> FeatureBatch<A> {
    /// Creates a batch of (batch, n, features) vectors without padding.
    pub fn new<'t>(x: impl Into<CowArray<'t, A, Ix3>>, targets: impl Into<Cow<'t, [Option<usize>]>>) -> Self
    where
        A: 't,
    {
        Self {
            x: x.into().into_owned(),
            targets: targets.into().into_owned(),
            mask: None,
        }
    }

    /// Creates a batch of (n, features) sequences of any lengths, padded on the right with zeros and masked.
    ///
    /// ```
    /// use linformer::ndarray::{Array2, array};
    /// use linformer::training::FeatureBatch;
    ///
    /// let sequences = [array![[1.0], [2.0], [3.0]], array![[4.0]]];
    /// let batch = FeatureBatch::from_sequences(&sequences, &[Some(0), Some(1)])?;
    /// assert_eq!(batch.x, array![[[1.0], [2.0], [3.0]], [[4.0], [0.0], [0.0]]]);
    /// assert_eq!(batch.mask.unwrap().lengths(), [3, 1]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the sequences differ in width, or if the padded batch has more numbers than can be counted.
    pub fn from_sequences<'t>(
        sequences: &[impl std::ops::Deref<Target = ArrayRef2<A>>],
        targets: impl Into<Cow<'t, [Option<usize>]>>,
    ) -> Result<Self> {
        const OPERATION: &str = "FeatureBatch::from_sequences";
        let lengths: Vec<usize> = sequences.iter().map(|sequence| sequence.nrows()).collect();
        let (longest, width) = (
            lengths.iter().copied().max().unwrap_or(0),
            sequences.first().map_or(0, |first| first.ncols()),
        );
        if let Some(other) = sequences.iter().find(|sequence| sequence.ncols() != width) {
            let expected = format!("(n, {width}), as wide as the first");
            return Err(Error::shape(OPERATION, "sequences", expected, other.shape()));
        }
        checked_len(OPERATION, &[lengths.len(), longest, width], size_of::<A>())?;
        let mut x = Array3::zeros((lengths.len(), longest, width));
        for (mut item, sequence) in x.axis_iter_mut(Axis(0)).zip(sequences) {
            item.slice_mut(s![..sequence.nrows(), ..]).assign(sequence);
        }
        Ok(Self::new(x, targets).with_mask(&PaddingMask::from_lengths(&lengths, longest)?))
    }

    /// Sets the mask of real positions.
    #[must_use]
    pub fn with_mask<'m>(mut self, mask: impl Into<Option<&'m PaddingMask>>) -> Self {
        self.mask = mask.into().cloned();
        self
    }
}

impl<A> Targets for FeatureBatch<A> {
    fn targets(&self) -> &[Option<usize>] {
        &self.targets
    }

    fn tokens(&self) -> usize {
        let (batch, length, _) = self.x.dim();
        real_positions(self.mask.as_ref(), (batch, length))
    }
}

impl<A> SequenceBatch<A> for FeatureBatch<A> {
    fn sequences(&self) -> Result<(Sequences<'_, A>, Option<&PaddingMask>)> {
        Ok(((&self.x).into(), self.mask.as_ref()))
    }
}

/// Sources, targets behind a start token, and the token that follows each position of the targets.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PairBatch {
    /// (batch, n) token ids.
    pub source: Array2<usize>,
    /// The mask of real tokens; all are real if `None`.
    pub source_mask: Option<PaddingMask>,
    /// (batch, m) token ids.
    pub target: Array2<usize>,
    /// The mask of real tokens; all are real if `None`.
    pub target_mask: Option<PaddingMask>,
    /// The token that follows each position of the targets, row after row; a `None` does not count.
    pub targets: Vec<Option<usize>>,
}

impl PairBatch {
    /// Creates a batch of pairs that are in arrays already, with a target for each position of their targets, row after row.
    pub fn new<'t>(pairs: &TokenPairs<'_>, targets: impl Into<Cow<'t, [Option<usize>]>>) -> Self {
        Self {
            source: pairs.source.to_owned(),
            source_mask: pairs.source_mask.cloned(),
            target: pairs.target.to_owned(),
            target_mask: pairs.target_mask.cloned(),
            targets: targets.into().into_owned(),
        }
    }

    /// Creates a batch of a source and a target of any lengths each, padded on the right with the token 0 and masked. The decoder reads the start
    /// token and the target, and is trained on the target and the end token.
    ///
    /// # Errors
    /// Returns an error if the padded batch has more tokens than can be counted.
    pub fn from_sequences<S: AsRef<[usize]>, T: AsRef<[usize]>>(pairs: &[(S, T)], start_token: usize, end_token: usize) -> Result<Self> {
        const OPERATION: &str = "PairBatch::from_sequences";
        let sources: Vec<&[usize]> = pairs.iter().map(|(source, _)| source.as_ref()).collect();
        let started: Vec<Vec<usize>> = pairs.iter().map(|(_, target)| [&[start_token], target.as_ref()].concat()).collect();
        let ((source, source_mask), (target, target_mask)) = (padded(OPERATION, &sources)?, padded(OPERATION, &started)?);
        let longest = target.ncols();
        let targets = pairs.iter().flat_map(|(_, target)| {
            let own = target.as_ref().iter().copied().chain([end_token]).map(Some);
            own.chain(std::iter::repeat(None)).take(longest)
        });
        Ok(Self {
            targets: targets.collect(),
            source,
            source_mask: Some(source_mask),
            target,
            target_mask: Some(target_mask),
        })
    }

    /// Returns the part of the batch that the model reads.
    pub fn pairs(&self) -> TokenPairs<'_> {
        TokenPairs::new(&self.source, &self.target)
            .with_source_mask(self.source_mask.as_ref())
            .with_target_mask(self.target_mask.as_ref())
    }
}

impl Targets for PairBatch {
    fn targets(&self) -> &[Option<usize>] {
        &self.targets
    }

    fn tokens(&self) -> usize {
        real_positions(self.source_mask.as_ref(), self.source.dim()) + real_positions(self.target_mask.as_ref(), self.target.dim())
    }
}
