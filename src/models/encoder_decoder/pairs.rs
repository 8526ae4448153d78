//! Pairs of a source and a target.

use ndarray::{Array2, ArrayRef2};

use crate::attention::PaddingMask;
use crate::error::Result;
use crate::models::continued::padded;

/// Sources and the targets that belong to them, (batch, n) and (batch, m) token ids, each with the mask of its own padding.
#[derive(Clone, Copy, Debug)]
pub struct TokenPairs<'a> {
    pub(super) source: &'a ArrayRef2<usize>,
    pub(super) source_mask: Option<&'a PaddingMask>,
    pub(super) target: &'a ArrayRef2<usize>,
    pub(super) target_mask: Option<&'a PaddingMask>,
}

impl<'a> TokenPairs<'a> {
    /// Pairs without padding.
    pub fn new(source: &'a ArrayRef2<usize>, target: &'a ArrayRef2<usize>) -> Self {
        Self {
            source,
            source_mask: None,
            target,
            target_mask: None,
        }
    }

    /// Sets which positions of the sources are real.
    #[must_use]
    pub fn with_source_mask(mut self, mask: Option<&'a PaddingMask>) -> Self {
        self.source_mask = mask;
        self
    }

    /// Sets which positions of the targets are real.
    #[must_use]
    pub fn with_target_mask(mut self, mask: Option<&'a PaddingMask>) -> Self {
        self.target_mask = mask;
        self
    }
}

/// A batch for training: sources, targets behind a start token, and what each of their positions is to foretell.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct PairBatch {
    /// (batch, n) token ids, 0 where a source has ended.
    pub source: Array2<usize>,
    /// Which of them are real.
    pub source_mask: PaddingMask,
    /// (batch, m) token ids: the start token and the target, 0 where that has ended.
    pub target: Array2<usize>,
    /// Which of them are real.
    pub target_mask: PaddingMask,
    /// The token after each of them, row after row: the target and the end token, `None` where it has ended.
    pub targets: Vec<Option<usize>>,
}

impl PairBatch {
    /// Pairs of a source and a target of any lengths.
    ///
    /// # Errors
    /// Sizes that overflow.
    pub fn new<S: AsRef<[usize]>, T: AsRef<[usize]>>(pairs: &[(S, T)], start_token: usize, end_token: usize) -> Result<Self> {
        const OPERATION: &str = "PairBatch::new";
        let sources: Vec<&[usize]> = pairs.iter().map(|(source, _)| source.as_ref()).collect();
        let started: Vec<Vec<usize>> = pairs.iter().map(|(_, target)| [&[start_token], target.as_ref()].concat()).collect();
        let ((source, source_mask), (target, target_mask)) = (padded(OPERATION, &sources)?, padded(OPERATION, &started)?);
        let targets = pairs.iter().flat_map(|(_, target)| {
            let own = target.as_ref().iter().copied().chain([end_token]).map(Some);
            own.chain(std::iter::repeat(None)).take(target_mask.dim().1)
        });
        Ok(Self {
            targets: targets.collect(),
            source,
            source_mask,
            target,
            target_mask,
        })
    }

    /// What a model is given of it.
    pub fn pairs(&self) -> TokenPairs<'_> {
        TokenPairs::new(&self.source, &self.target)
            .with_source_mask(Some(&self.source_mask))
            .with_target_mask(Some(&self.target_mask))
    }
}
