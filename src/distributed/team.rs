//! Work that all ranks do together, and end together: with a result, or with an error that every one of them knows of.
//!
//! Before any numbers go from rank to rank, all of them meet: each brings a status word, and what it is about to do. A rank that failed brings
//! its failure to the next meeting, wherever the others have come to, so that none of them waits for a rank that will not come. Every piece of work
//! begins with a header that must be the same on all ranks, and ends with a last meeting.

use std::cell::Cell;

use super::communicator::{Combine, Communicator, Numbers, numbers};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// The header that ranks exchange before any work.
#[derive(Clone, Debug, Default)]
pub(super) struct Header {
    /// The values that must be the same on all of them: names and numbers.
    same: Vec<(&'static str, u64)>,
    /// The values of each rank.
    own: u64,
}

impl Header {
    pub(super) fn new(same: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        let same = same.into_iter().collect();
        Self { same, own: 0 }
    }

    /// With more that must be the same.
    pub(super) fn and(mut self, same: impl IntoIterator<Item = (&'static str, u64)>) -> Self {
        self.same.extend(same);
        self
    }

    /// With a word that each rank has for itself.
    pub(super) fn with_own(self, own: u64) -> Self {
        Self { own, ..self }
    }
}

/// The purpose of an exchange.
#[derive(Clone, Copy, Debug)]
#[repr(u64)]
enum Purpose {
    Header = 1,
    Reduce,
    Maximum,
    Count,
    #[cfg(feature = "checkpoint")]
    Gather,
    End = 6,
}

impl Purpose {
    const NAMES: [&'static str; 7] = [
        "nothing",
        "a new operation",
        "a sum",
        "a maximum",
        "a count",
        "a gathering",
        "the end of the operation",
    ];

    fn name(word: u64) -> &'static str {
        let index = usize::try_from(word).unwrap_or(0);
        Self::NAMES.get(index).copied().unwrap_or(Self::NAMES[0])
    }
}

/// All ranks at one piece of work.
#[derive(Debug)]
pub(super) struct Team<'c> {
    communicator: &'c dyn Communicator,
    operation: &'static str,
    /// Whether the other ranks know of the failure, or cannot be notified.
    notified: Cell<bool>,
    /// The values of each rank in its header.
    own_words: Vec<u64>,
}

/// Does `work` on all ranks. A `header` that could not be made is reported like any failure.
///
/// # Errors
/// Returns its own error on the rank that failed and [`Error::Rank`], which names it, on all others. Returns [`Error::Disagreement`] if headers
/// differ.
pub(super) fn together<T>(
    communicator: &dyn Communicator,
    operation: &'static str,
    header: Result<Header>,
    work: impl FnOnce(&Team<'_>) -> Result<T>,
) -> Result<T> {
    together_with(communicator, operation, header.map(|header| (header, ())), |team, ()| work(team))
}

/// [`together`] with what was made along with the header.
pub(super) fn together_with<P, T>(
    communicator: &dyn Communicator,
    operation: &'static str,
    prepared: Result<(Header, P)>,
    work: impl FnOnce(&Team<'_>, P) -> Result<T>,
) -> Result<T> {
    let mut team = Team {
        communicator,
        operation,
        notified: Cell::new(communicator.size() == 1),
        own_words: Vec::new(),
    };
    let compared = prepared.and_then(|(header, prepared)| Ok((team.compare(&header)?, prepared)));
    let outcome = compared.and_then(|(own_words, prepared)| {
        team.own_words = own_words;
        work(&team, prepared)
    });
    match outcome {
        Ok(result) => {
            team.meet(Purpose::End, 0)?;
            Ok(result)
        }
        Err(error) => {
            team.report(&error);
            Err(error)
        }
    }
}

/// Notifies the ranks of another group that they cannot continue.
pub(super) fn tell(communicator: &dyn Communicator, operation: &'static str, error: &Error) {
    let team = Team {
        communicator,
        operation,
        notified: Cell::new(communicator.size() == 1),
        own_words: Vec::new(),
    };
    team.report(error);
}

impl Team<'_> {
    pub(super) fn rank(&self) -> usize {
        self.communicator.rank()
    }

    pub(super) fn size(&self) -> usize {
        self.communicator.size()
    }

    /// Tells the others of a failure, once, at their next meeting.
    fn report(&self, error: &Error) {
        if self.notified.replace(true) {
            return;
        }
        let mut words = [(self.size() - self.rank()) as u64, 0, 0, 0, 0];
        // Whatever fails now, the first failure is the one to return.
        if self.communicator.all_reduce(Numbers::U64(&mut words), Combine::Maximum).is_ok() {
            let text = match error {
                // Its own name would be said twice.
                Error::Rank { rank, reason } if *rank == self.rank() => reason.clone(),
                _ => error.to_string(),
            };
            let _ = self.reason(self.failed(words[0]), Some(&text));
        }
    }

    /// The rank that the largest of all status words names: the lowest that failed.
    fn failed(&self, word: u64) -> usize {
        self.size() - usize::try_from(word).unwrap_or(1).clamp(1, self.size())
    }

    /// The message of the failed rank.
    fn reason(&self, failed: usize, own: Option<&str>) -> Result<String> {
        let text = own.filter(|_| failed == self.rank()).unwrap_or_default();
        let mut length = [text.len() as u64];
        self.communicator.broadcast(Numbers::U64(&mut length), failed)?;
        let mut letters: Vec<u64> = text.bytes().map(u64::from).collect();
        letters.resize(usize::try_from(length[0]).unwrap_or(0), 0);
        self.communicator.broadcast(Numbers::U64(&mut letters), failed)?;
        let bytes = letters.into_iter().map(|letter| u8::try_from(letter).unwrap_or(b'?')).collect();
        Ok(String::from_utf8(bytes).unwrap_or_default())
    }

    /// Learns whether all ranks have come to the same place.
    fn meet(&self, purpose: Purpose, length: u64) -> Result<()> {
        if self.size() == 1 {
            return Ok(());
        }
        let purpose = purpose as u64;
        // The largest and the smallest of all, both as maxima.
        let mut words = [0, purpose, !purpose, length, !length];
        let known = |error| {
            self.notified.set(true);
            error
        };
        self.communicator
            .all_reduce(Numbers::U64(&mut words), Combine::Maximum)
            .map_err(known)?;
        if words[0] > 0 {
            let rank = self.failed(words[0]);
            let reason = self.reason(rank, None).map_err(known)?;
            return Err(known(Error::Rank { rank, reason }));
        }
        if words[1] == !words[2] && words[3] == !words[4] {
            return Ok(());
        }
        let all = self.gathered(&[purpose, length]).map_err(known)?;
        let differs = |rank: &usize| all[2 * rank..2 * rank + 2] != all[..2];
        let rank = (0..self.size()).find(differs).unwrap_or(0);
        let said = |rank: usize| format!("{} of {} numbers", Purpose::name(all[2 * rank]), all[2 * rank + 1]);
        Err(known(self.disagreement("what comes next", rank, said(0), said(rank))))
    }

    fn disagreement(&self, what: &'static str, rank: usize, expected: String, found: String) -> Error {
        Error::Disagreement {
            operation: self.operation,
            what,
            rank,
            expected,
            found,
        }
    }

    /// The words of all ranks, rank by rank, of which each brings as many.
    fn gathered(&self, own: &[u64]) -> Result<Vec<u64>> {
        let mut all = vec![0; own.len() * self.size()];
        all[own.len() * self.rank()..][..own.len()].copy_from_slice(own);
        self.communicator.all_reduce(Numbers::U64(&mut all), Combine::Maximum)?;
        Ok(all)
    }

    /// An error, the same on all ranks, where any of them has another header than the first; else the words that each has for itself.
    fn compare(&self, header: &Header) -> Result<Vec<u64>> {
        if self.size() == 1 {
            return Ok(vec![header.own]);
        }
        self.meet(Purpose::Header, header.same.len() as u64)?;
        let operation = ("the operation", digest(self.operation.bytes()));
        let (names, mut words): (Vec<_>, Vec<_>) = std::iter::once(operation).chain(header.same.iter().copied()).unzip();
        words.push(header.own);
        let all = self.gathered(&words).inspect_err(|_| self.notified.set(true))?;
        let ranks: Vec<&[u64]> = all.chunks(words.len()).collect();
        for (rank, words) in ranks.iter().enumerate() {
            if let Some(index) = (0..names.len()).find(|&index| words[index] != ranks[0][index]) {
                self.notified.set(true);
                let [expected, found] = [ranks[0][index], words[index]].map(|word| word.to_string());
                return Err(self.disagreement(names[index], rank, expected, found));
            }
        }
        Ok(ranks.iter().map(|words| words[names.len()]).collect())
    }

    /// The word that each rank had for itself in its header.
    pub(super) fn own_words(&self) -> &[u64] {
        &self.own_words
    }

    /// An error that all ranks find for themselves, in what all of them know.
    pub(super) fn known_to_all(&self, error: Error) -> Error {
        self.notified.set(true);
        error
    }

    /// The error where rank `rank` has something else than `expected`; all ranks find it for themselves.
    pub(super) fn differs(&self, what: &'static str, rank: usize, expected: String, found: String) -> Error {
        self.known_to_all(self.disagreement(what, rank, expected, found))
    }

    /// Replaces every number by the sum, or the largest, of all ranks.
    pub(super) fn combine<A: Scalar>(&self, values: &mut Vec<A>, by: Combine) -> Result<()> {
        let purpose = match by {
            Combine::Sum => Purpose::Reduce,
            Combine::Maximum => Purpose::Maximum,
        };
        self.meet(purpose, values.len() as u64)?;
        self.transfer(|communicator| communicator.all_reduce(numbers(values), by))
    }

    /// Replaces every word by the sum, or the largest, of all ranks.
    pub(super) fn combine_words(&self, words: &mut [u64], by: Combine) -> Result<()> {
        self.meet(Purpose::Count, words.len() as u64)?;
        self.transfer(|communicator| communicator.all_reduce(Numbers::U64(words), by))
    }

    /// Replaces every number by the sum of all ranks.
    pub(super) fn add_up(&self, values: &mut [f64]) -> Result<()> {
        self.meet(Purpose::Reduce, values.len() as u64)?;
        self.transfer(|communicator| communicator.all_reduce(Numbers::F64(values), Combine::Sum))
    }

    /// The bytes of all ranks at the first.
    #[cfg(feature = "checkpoint")]
    pub(super) fn gather(&self, bytes: &[u8]) -> Result<Option<Vec<Vec<u8>>>> {
        self.meet(Purpose::Gather, 0)?;
        self.transfer(|communicator| communicator.gather(bytes, 0))
    }

    /// A call that all ranks have agreed to make. If it fails, the others cannot be notified.
    fn transfer<T>(&self, call: impl FnOnce(&dyn Communicator) -> Result<T>) -> Result<T> {
        if self.size() == 1 {
            // One rank's numbers are what comes of them, and gathering them is done at once.
            return call(self.communicator);
        }
        call(self.communicator).inspect_err(|_| self.notified.set(true))
    }
}

/// A number that tells texts apart (FNV-1a).
pub(super) fn digest(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
