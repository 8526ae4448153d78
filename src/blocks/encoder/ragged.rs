//! Sequences of different lengths, one after the other.

use ndarray::{Array2, ArrayRef2, ArrayView2, ArrayViewMut2, Axis, s};

use super::{Encoder, EncoderBlock, SHORT, TASKS_A_THREAD};
use crate::attention::Workspace;
use crate::error::{Error, Result, checked_len};
use crate::layers::{TILE, row_ranges};
use crate::parallel::{self, Divide};
use crate::scalar::Scalar;

impl<A: Scalar> Encoder<A> {
    /// Applies the blocks to sequences of different lengths, whose rows are one after the other: (sum of `lengths`, dim) → as many rows. Nothing is
    /// padded, so that short sequences beside long ones cost what they cost alone.
    ///
    /// The rows of a sequence are, bit for bit, those that [`forward`](Self::forward) computes of it alone. Where there are many, put the longest first.
    /// Encoders that are causal or reversible, or that change the width, take the sequences one at a time.
    ///
    /// ```
    /// use linformer::{Encoder, EncoderConfig, LinformerConfig};
    /// use linformer::ndarray::{Array2, Array3, s};
    ///
    /// let encoder = Encoder::<f32>::new(&EncoderConfig::new(LinformerConfig::new(16, 4, 32, 4), 1), 0)?;
    /// let y = encoder.forward_ragged(&Array2::ones((30, 16)), &[20, 7, 3])?;
    /// let alone = encoder.forward(&Array3::ones((1, 7, 16)), None)?;
    /// assert_eq!(y.slice(s![20..27, ..]), alone.slice(s![0, .., ..]));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `x` has the wrong width or another number of rows than the sum of `lengths`, or if a sequence is longer than `seq_len`
    /// where the projections have no more columns.
    pub fn forward_ragged(&self, x: &ArrayRef2<A>, lengths: &[usize]) -> Result<Array2<A>> {
        const OPERATION: &str = "Encoder::forward_ragged";
        let rows = lengths.iter().try_fold(0_usize, |sum, &length| sum.checked_add(length));
        if rows != Some(x.nrows()) || x.ncols() != self.config.dim() {
            let rows = rows.map_or_else(|| "more rows than can be counted".to_owned(), |rows| rows.to_string());
            let expected = format!("({rows}, {}), the sum of the lengths and the encoder's width", self.config.dim());
            return Err(Error::shape(OPERATION, "x", expected, x.shape()));
        }
        checked_len(OPERATION, &[x.nrows(), x.ncols()], size_of::<A>())?;
        lengths.iter().try_for_each(|&length| self.check_length(OPERATION, length))?;
        self.apply_ragged(x.as_standard_layout().into_owned(), lengths)
    }

    /// [`forward_ragged`](Self::forward_ragged) in the memory of its input, which fits.
    pub(crate) fn apply_ragged(&self, mut stream: Array2<A>, lengths: &[usize]) -> Result<Array2<A>> {
        if !self.keeps_width() || self.config.reversible || self.is_causal() {
            return self.one_by_one(stream.view(), lengths);
        }
        self.run_ragged(stream.view_mut(), lengths)?;
        Ok(stream)
    }

    fn one_by_one(&self, x: ArrayView2<'_, A>, lengths: &[usize]) -> Result<Array2<A>> {
        let width = self.blocks.last().map_or(self.config.dim(), EncoderBlock::out_dim);
        checked_len("Encoder", &[x.nrows(), width], size_of::<A>())?;
        let mut y = Array2::zeros((x.nrows(), width));
        for rows in row_ranges(lengths) {
            let own = x.slice(s![rows.clone(), ..]).to_owned().insert_axis(Axis(0));
            y.slice_mut(s![rows, ..])
                .assign(&self.forward_owned(own, None)?.index_axis(Axis(0), 0));
        }
        Ok(y)
    }

    /// All blocks, group by group, on a thread of the pool.
    fn run_ragged(&self, stream: ArrayViewMut2<'_, A>, lengths: &[usize]) -> Result<()> {
        let threads = parallel::threads();
        let groups = groups(lengths, (stream.nrows() / (TASKS_A_THREAD * threads)).min(TILE));
        let costs = groups.iter().map(|lengths| self.cost(lengths.iter().copied()));
        let cost = costs.clone().fold(0, usize::saturating_add);
        let largest = costs.max().unwrap_or(0);
        // Threads share the rows of each group where one takes longer than all others together would.
        let apart = if parallel::cost(&[largest, threads]) <= cost { cost } else { 0 };
        let parts = Groups {
            rows: stream,
            lengths: &groups,
        };
        parallel::within(cost, || {
            Workspace::new().for_each_part(parts, apart, |workspace, _, part| self.run_group(part, workspace))
        })
    }

    fn run_group(&self, part: Groups<'_, A>, workspace: &mut Workspace<A>) -> Result<()> {
        let (mut rows, lengths) = (part.rows, part.lengths.concat());
        let shared = self.projections.as_ref();
        for block in &self.blocks {
            match lengths.as_slice() {
                [length] if length * self.config.dim() > SHORT => block.apply_item(rows.view_mut(), shared, None, workspace)?,
                lengths => block.apply_items(rows.view_mut(), lengths.iter().copied(), shared, |_| None, workspace)?,
            }
        }
        self.finish_item(rows);
        Ok(())
    }
}

/// The lengths of sequences that go through a block together: one, or as many as have no more than so many rows.
fn groups(mut lengths: &[usize], rows: usize) -> Vec<&[usize]> {
    let mut groups = Vec::new();
    while !lengths.is_empty() {
        let mut sum = 0_usize;
        let fitting = lengths.iter().take_while(|&&length| {
            sum += length;
            sum <= rows
        });
        let (group, others) = lengths.split_at(fitting.count().max(1));
        groups.push(group);
        lengths = others;
    }
    groups
}

/// The rows of groups of sequences, cut between groups.
struct Groups<'g, A> {
    rows: ArrayViewMut2<'g, A>,
    lengths: &'g [&'g [usize]],
}

impl<A: Scalar> Divide for Groups<'_, A> {
    fn count(&self) -> usize {
        self.lengths.len()
    }

    fn divide(self, at: usize) -> (Self, Self) {
        let (first, others) = self.lengths.split_at(at);
        let (rows, other_rows) = self.rows.split_at(Axis(0), first.iter().copied().flatten().sum());
        let part = |rows, lengths| Self { rows, lengths };
        (part(rows, first), part(other_rows, others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_have_all_sequences_in_order() {
        let lengths = [300, 100, 100, 65, 64, 0, 30, 5, 5, 264];
        let found = groups(&lengths, 264);
        assert_eq!(found, [&[300][..], &[100, 100], &[65, 64, 0, 30, 5, 5], &[264]]);
        assert_eq!(groups(&lengths, 0).len(), lengths.len());
        assert!(groups(&[], 264).is_empty());
    }
}
