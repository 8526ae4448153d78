//! The slots that a query row sees: keys of the positions up to its own, and summaries of the blocks that are complete by then.

use std::ops::Range;

use ndarray::ArrayView1;

use super::super::mask::PaddingMask;

/// How far back rows see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// The positions whose keys a row sees, its own included; all of them where there is no window.
    pub(crate) window: Option<usize>,
    /// The length of a block and the rows of its summary, where there are summaries.
    pub(crate) blocks: Option<(usize, usize)>,
    /// Whether padding keeps its slot.
    pub(crate) padding_stays: bool,
}

/// The slots of one item that its query rows see.
#[derive(Clone, Debug)]
pub(crate) enum Visibility {
    /// Every row sees this many keys and this many summary rows.
    All { keys: usize, summaries: usize },
    /// The slots that a row sees depend on its position.
    ByPosition(SlotsBefore),
}

/// The slots of the positions before each position.
#[derive(Clone, Debug)]
pub(crate) struct SlotsBefore {
    span: Span,
    /// The position of the first query row.
    first: usize,
    /// How many keys the positions before each position have; `None` where each has one.
    keys_before: Option<Vec<usize>>,
    /// How many of the blocks before each block have a summary; `None` where all have.
    summaries_before: Option<Vec<usize>>,
}

impl Visibility {
    /// The visibility of each item of a batch of `length` positions whose query rows are the last `rows`.
    pub(crate) fn of_batch(span: Span, batch: usize, length: usize, rows: usize, mask: Option<&PaddingMask>) -> Vec<Self> {
        (0..batch)
            .map(|item| Self::ByPosition(SlotsBefore::new(span, mask.map(|mask| mask.item(item)), length - rows)))
            .collect()
    }

    /// The slots of the keys that `row` sees.
    pub(crate) fn keys(&self, row: usize) -> Range<usize> {
        match self {
            Self::All { keys, .. } => 0..*keys,
            Self::ByPosition(slots) => slots.keys(row),
        }
    }

    /// The number of summary rows that `row` sees, from the first on.
    pub(crate) fn summaries(&self, row: usize) -> usize {
        match self {
            Self::All { summaries, .. } => *summaries,
            Self::ByPosition(slots) => slots.summaries(row),
        }
    }
}

impl SlotsBefore {
    fn new(span: Span, real: Option<ArrayView1<'_, bool>>, first: usize) -> Self {
        let keys_before = real.filter(|_| !span.padding_stays).map(|real| counts(real.iter().copied()));
        let summaries_before = real
            .zip(span.blocks)
            .map(|(real, (block, _))| counts(real.exact_chunks(block).into_iter().map(|block| block.iter().any(|&real| real))));
        Self {
            span,
            first,
            keys_before,
            summaries_before,
        }
    }

    fn keys(&self, row: usize) -> Range<usize> {
        let end = self.first + row + 1;
        let start = self.span.window.map_or(0, |window| end.saturating_sub(window));
        match &self.keys_before {
            None => start..end,
            Some(before) => before[start]..before[end],
        }
    }

    fn summaries(&self, row: usize) -> usize {
        let Some((block, rows)) = self.span.blocks else {
            return 0;
        };
        let complete = (self.first + row + 1) / block;
        rows * self.summaries_before.as_ref().map_or(complete, |before| before[complete])
    }
}

/// How many of the values before each index, and before the end, are true.
fn counts(values: impl Iterator<Item = bool>) -> Vec<usize> {
    let mut count = 0;
    std::iter::once(0)
        .chain(values.map(|value| {
            count += usize::from(value);
            count
        }))
        .collect()
}
