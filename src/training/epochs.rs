//! The order in which examples are trained on.

use super::Step;
use super::masking::below;
use crate::error::{Error, Result};
use crate::initialization::Draws;

/// The last of the sequences that a step draws numbers for, which no batch has.
const SHUFFLE: usize = (1 << 31) - 1;

/// Batches of the indices of examples, epoch after epoch without end: each epoch has every example once, in its own order.
///
/// The order is a function of the seed. Skipping batches, as a run does that is resumed, takes no time.
///
/// ```
/// use linformer::training::Epochs;
///
/// let mut batches = Epochs::new(5, 2, 7)?;
/// assert_eq!(batches.batches_per_epoch(), 3);
/// let mut epoch: Vec<usize> = batches.by_ref().take(3).flatten().collect();
/// epoch.sort_unstable();
/// assert_eq!(epoch, [0, 1, 2, 3, 4]);
/// assert_eq!(batches.next(), Epochs::new(5, 2, 7)?.skip(3).next());
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Epochs {
    count: usize,
    size: usize,
    seed: u64,
    /// Where examples of similar length share a batch.
    lengths: Option<Vec<usize>>,
    /// The index of the next batch of the run.
    next: u64,
    /// An epoch and its batches.
    epoch: Option<(u64, Vec<Vec<usize>>)>,
}

impl Epochs {
    /// Creates batches of `size` of `count` examples. Where `count` is not a multiple of `size`, the last batch of an epoch is smaller.
    ///
    /// # Errors
    /// Returns an error if there are no examples, or if the batches have none.
    pub fn new(count: usize, size: usize, seed: u64) -> Result<Self> {
        for (argument, value) in [("count", count), ("size", size)] {
            if value == 0 {
                return Err(Error::argument("Epochs", format!("`{argument}` is 0; it must be at least 1")));
            }
        }
        Ok(Self {
            count,
            size,
            seed,
            lengths: None,
            next: 0,
            epoch: None,
        })
    }

    /// Creates batches of `size` examples of similar length, given the length of each, so that little is padded. The order of the batches, and
    /// that of examples of one length, is random.
    ///
    /// ```
    /// use linformer::training::Epochs;
    ///
    /// let lengths = [30, 10, 31, 11];
    /// for batch in Epochs::by_length(&lengths, 2, 0)?.take(20) {
    ///     assert_eq!(lengths[batch[0]] / 10, lengths[batch[1]] / 10);
    /// }
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error as [`new`](Self::new) does.
    pub fn by_length(lengths: &[usize], size: usize, seed: u64) -> Result<Self> {
        Ok(Self {
            lengths: Some(lengths.to_vec()),
            ..Self::new(lengths.len(), size, seed)?
        })
    }

    /// Returns the number of batches of an epoch.
    pub fn batches_per_epoch(&self) -> usize {
        self.count.div_ceil(self.size)
    }

    fn batches_of(&self, epoch: u64) -> Vec<Vec<usize>> {
        let mut draws = Step::new(self.seed, epoch).item(SHUFFLE);
        let mut order: Vec<usize> = (0..self.count).collect();
        shuffle(&mut order, &mut draws);
        if let Some(lengths) = &self.lengths {
            order.sort_by_key(|&example| lengths[example]);
        }
        let mut batches: Vec<Vec<usize>> = order.chunks(self.size).map(<[usize]>::to_vec).collect();
        if self.lengths.is_some() {
            shuffle(&mut batches, &mut draws);
        }
        batches
    }
}

impl Iterator for Epochs {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let per_epoch = self.batches_per_epoch() as u64;
        let epoch = self.next / per_epoch;
        if self.epoch.as_ref().is_none_or(|(made, _)| *made != epoch) {
            self.epoch = Some((epoch, self.batches_of(epoch)));
        }
        let place = usize::try_from(self.next % per_epoch).ok()?;
        self.next = self.next.checked_add(1)?;
        let (_, batches) = self.epoch.as_ref()?;
        batches.get(place).cloned()
    }

    fn nth(&mut self, skipped: usize) -> Option<Vec<usize>> {
        self.next = self.next.checked_add(skipped as u64)?;
        self.next()
    }
}

/// Fisher and Yates' shuffle.
fn shuffle<T>(items: &mut [T], draws: &mut Draws) {
    for last in (1..items.len()).rev() {
        items.swap(last, below(last + 1, draws.next()));
    }
}
