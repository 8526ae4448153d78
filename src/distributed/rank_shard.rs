//! One rank's shard of a batch of sequences.

use ndarray::{Array3, ArrayView1};

use super::communicator::Combine;
use super::shards::Shards;
use super::team::Team;
use crate::attention::{PaddingMask, SequenceShard};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// One rank's shard of a batch of sequences, which the team completes.
#[derive(Debug)]
pub(super) struct RankShard<'t> {
    team: &'t Team<'t>,
    bounds: Vec<usize>,
    lengths: Vec<usize>,
    tokens_before: Vec<usize>,
}

impl<'t> RankShard<'t> {
    /// The shard of a rank whose sequences of `batch` items have the length in its header.
    ///
    /// # Errors
    /// Returns the same error on all ranks if no sequence spread over them has these lengths.
    pub(super) fn new(team: &'t Team<'t>, shards: &Shards, batch: usize, mask: Option<&PaddingMask>) -> Result<Self> {
        let own = usize::try_from(team.own_words()[team.rank()]).unwrap_or(usize::MAX);
        let total = check_lengths(team, shards)?;
        let mut bounds: Vec<usize> = (0..team.size()).map(|rank| shards.part(rank, total).start).collect();
        let offset = bounds[team.rank()];
        bounds.push(total);
        let end = |item: usize| mask.map_or(own, |mask| mask.lengths()[item]);
        let mut ends: Vec<u64> = (0..batch)
            .map(|item| if end(item) == 0 { 0 } else { (offset + end(item)) as u64 })
            .collect();
        team.combine_words(&mut ends, Combine::Maximum)?;
        Ok(Self {
            team,
            bounds,
            lengths: ends.into_iter().map(|end| usize::try_from(end).unwrap_or(usize::MAX)).collect(),
            tokens_before: Vec::new(),
        })
    }

    /// Learns how many tokens each item has in earlier shards, given those in this one.
    pub(super) fn count_tokens(&mut self, own: &[usize]) -> Result<()> {
        let mut words = vec![0; own.len() * self.team.size()];
        for (word, &count) in words[own.len() * self.team.rank()..].iter_mut().zip(own) {
            *word = count as u64;
        }
        self.team.combine_words(&mut words, Combine::Sum)?;
        let before = |item: usize| (0..self.team.rank()).map(|rank| words[own.len() * rank + item]).sum::<u64>();
        self.tokens_before = (0..own.len())
            .map(|item| usize::try_from(before(item)).unwrap_or(usize::MAX))
            .collect();
        Ok(())
    }

    fn combine<A: Scalar>(&self, numbers: &mut [&mut [A]], by: Combine) -> Result<()> {
        let mut all: Vec<A> = numbers.iter().flat_map(|numbers| numbers.iter().copied()).collect();
        // −∞ is the maximum of nothing.
        let is_bad = |number: &A| !number.is_finite() && (by == Combine::Sum || *number != A::neg_infinity());
        if all.iter().any(is_bad) {
            return Err(not_finite(self.team.rank(), "what it adds to the sums of all ranks"));
        }
        self.team.combine(&mut all, by)?;
        let mut rest = all.as_slice();
        for numbers in numbers {
            let (own, others) = rest.split_at(numbers.len());
            numbers.copy_from_slice(own);
            rest = others;
        }
        Ok(())
    }
}

/// The rows of `x` (batch, own n, width) at real positions.
pub(super) fn real_rows<'x, A>(x: &'x Array3<A>, mask: Option<&PaddingMask>) -> impl Iterator<Item = ArrayView1<'x, A>> {
    x.outer_iter().enumerate().flat_map(move |(item, rows)| {
        let is_real = move |position: usize| mask.is_none_or(|mask| mask.is_real(item, position));
        let rows = rows.into_outer_iter();
        rows.enumerate().filter(move |&(position, _)| is_real(position)).map(|(_, row)| row)
    })
}

/// An error where one of the rows that rank `rank` puts out is not finite: no sum of all ranks would tell the others.
pub(super) fn check_output<'r, A: Scalar>(rank: usize, mut rows: impl Iterator<Item = ArrayView1<'r, A>>) -> Result<()> {
    if rows.all(|row| row.iter().fold(true, |finite, number| finite & number.is_finite())) {
        return Ok(());
    }
    Err(not_finite(rank, "what it puts out"))
}

/// The error of a rank that has bad numbers.
pub(super) fn not_finite(rank: usize, what: &str) -> Error {
    Error::Rank {
        rank,
        reason: format!("{what} is not finite; look for NaN and infinities in its part of the batch, and in its parameters"),
    }
}

/// The length of the sequences, from the lengths that all ranks have reported.
fn check_lengths(team: &Team<'_>, shards: &Shards) -> Result<usize> {
    let own = |rank: usize| usize::try_from(team.own_words()[rank]).unwrap_or(usize::MAX);
    let total = (0..team.size()).fold(0, |total: usize, rank| total.saturating_add(own(rank)));
    for rank in 0..team.size() {
        let expected = shards.part(rank, total).len();
        if own(rank) != expected {
            let sequence = format!("{expected} of the {total} positions of all ranks, as in the shards");
            return Err(team.differs("the length of the sequences", rank, sequence, own(rank).to_string()));
        }
    }
    Ok(total)
}

impl<A: Scalar> SequenceShard<A> for RankShard<'_> {
    fn is_first(&self) -> bool {
        self.team.rank() == 0
    }

    fn offset(&self) -> usize {
        self.bounds[self.team.rank()]
    }

    fn index(&self) -> usize {
        self.team.rank()
    }

    fn bounds(&self) -> &[usize] {
        &self.bounds
    }

    fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    fn tokens_before(&self) -> &[usize] {
        &self.tokens_before
    }

    fn sum(&self, numbers: &mut [&mut [A]]) -> Result<()> {
        self.combine(numbers, Combine::Sum)
    }

    fn maximum(&self, numbers: &mut [&mut [A]]) -> Result<()> {
        self.combine(numbers, Combine::Maximum)
    }

    fn count(&self, counts: &mut [usize]) -> Result<()> {
        let mut words: Vec<u64> = counts.iter().map(|&count| count as u64).collect();
        self.team.combine_words(&mut words, Combine::Sum)?;
        for (count, word) in counts.iter_mut().zip(words) {
            *count = usize::try_from(word).unwrap_or(usize::MAX);
        }
        Ok(())
    }

    fn first_of(&self, has: &mut [bool]) -> Result<()> {
        // The lowest rank has the largest word.
        let own = (self.team.size() - self.team.rank()) as u64;
        let mut words: Vec<u64> = has.iter().map(|&has| if has { own } else { 0 }).collect();
        self.team.combine_words(&mut words, Combine::Maximum)?;
        for (has, word) in has.iter_mut().zip(words) {
            *has = *has && word == own;
        }
        Ok(())
    }
}
