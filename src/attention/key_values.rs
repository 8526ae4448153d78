//! Keys and values packed for the tiles that attend to them.

use ndarray::{ArrayView1, ArrayView2, ArrayView3, ArrayView4, Axis, s};

use super::folded::FoldedKeyValues;
use super::heads::{ItemKeyValues, scale};
use super::partial::{HeadScratch, Partial};
use crate::layers::Linear;
use crate::ops::{Output, PackedMatrix, RowsMut, Runs, Tile, exp_rows, scale_rows};
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;

/// Keys whose scores are held at once. It depends on nothing, so that results do not either.
const KEY_BLOCK: usize = 512;

/// The width of the blocks that `slots` keys are cut into, all of them alike: a last one of a few keys would cost more than its share.
pub(super) fn block_width(slots: usize) -> usize {
    slots.div_ceil(slots.div_ceil(KEY_BLOCK).max(1)).max(1)
}

/// The keys and values of a batch, head by head.
#[derive(Debug)]
pub(crate) struct PackedKeyValues<A> {
    heads: Vec<PackedHead<A>>,
    per_item: usize,
    /// Used instead of all heads where `is_folded`.
    folded: FoldedKeyValues<A>,
    is_folded: bool,
}

/// One head's keys and values, block by block of slots.
#[derive(Debug)]
struct PackedHead<A> {
    blocks: Vec<PackedBlock<A>>,
    /// How many of them are in use; the memory of the others is kept.
    count: usize,
}

#[derive(Debug)]
struct PackedBlock<A> {
    /// (`head_dim`, slots), divided by √`head_dim`.
    keys: PackedMatrix<A>,
    /// (slots, `head_dim`).
    values: PackedMatrix<A>,
    /// What is added to the logits of each slot; nothing where nothing is.
    log_mass: Vec<A>,
}

impl<A: Scalar> Default for PackedBlock<A> {
    fn default() -> Self {
        Self {
            keys: PackedMatrix::default(),
            values: PackedMatrix::default(),
            log_mass: Vec::new(),
        }
    }
}

impl<A: Scalar> Default for PackedKeyValues<A> {
    fn default() -> Self {
        Self {
            heads: Vec::new(),
            per_item: 0,
            folded: FoldedKeyValues::default(),
            is_folded: false,
        }
    }
}

impl<A: Scalar> PackedKeyValues<A> {
    /// Replaces everything by one item, with W_Q and W_O multiplied into its keys and values.
    pub(super) fn refold(&mut self, query: &Linear<A>, output: &Linear<A>, heads: usize, item: ItemKeyValues<'_, A>) {
        self.folded.refold(query, output, heads, item);
        self.is_folded = true;
    }

    /// The weights and the keys and values in one, where that takes fewer multiplications.
    pub(super) fn folded(&self) -> Option<&FoldedKeyValues<A>> {
        self.is_folded.then_some(&self.folded)
    }

    /// Replaces everything by keys and values (batch, heads, slots, `head_dim`), of which an item has the first `slots[item]`, and by what is added to
    /// the logits of each slot; without allocating where the memory suffices.
    pub(crate) fn repack(
        &mut self,
        keys: ArrayView4<'_, A>,
        values: ArrayView4<'_, A>,
        log_mass: Option<ArrayView3<'_, A>>,
        slots: &[usize],
    ) {
        self.is_folded = false;
        let (batch, heads, most, head_dim) = keys.dim();
        self.per_item = heads;
        self.heads.resize_with(batch * heads, || PackedHead {
            blocks: Vec::new(),
            count: 0,
        });
        let parts = Chunks {
            slice: &mut self.heads,
            size: 1,
        };
        // Moving a number costs about as much as some multiplications.
        let cost = parallel::cost(&[batch, heads, most, head_dim, 16]);
        for_each_part(parts, cost, |index, part| {
            let (item, head) = (index / heads, index % heads);
            let own = s![item, head, ..slots[item], ..];
            let log_mass = log_mass.as_ref().map(|log_mass| log_mass.slice(s![item, head, ..slots[item]]));
            part.slice[0].repack(keys.slice(own), values.slice(own), log_mass);
        });
    }

    /// Replaces every head's queries in `queries`, head by head a unit, by softmax(q·kᵀ/√`head_dim` + log-mass)·v.
    ///
    /// Scores are held for one block of keys at a time, whatever the number of slots. Without a slot to attend to the result is 0, the
    /// empty sum.
    pub(crate) fn attend(&self, item: usize, heads: usize, queries: &mut Tile<A>, scratch: &mut HeadScratch<A>) {
        let packed = &self.heads[item * self.per_item..][..self.per_item];
        for head in 0..heads {
            let packed = &packed[head * self.per_item / heads];
            match &packed.blocks[..packed.count] {
                [] => fill_unit(queries, head, A::zero()),
                [block] => block.attend(queries, head, scratch),
                blocks => attend_blocks(blocks, queries, head, scratch),
            }
        }
    }
}

impl<A: Scalar> PackedHead<A> {
    fn repack(&mut self, keys: ArrayView2<'_, A>, values: ArrayView2<'_, A>, log_mass: Option<ArrayView1<'_, A>>) {
        let (slots, head_dim) = keys.dim();
        self.count = slots.div_ceil(KEY_BLOCK);
        if self.blocks.len() < self.count {
            self.blocks.resize_with(self.count, PackedBlock::default);
        }
        let width = block_width(slots);
        let parts = keys.axis_chunks_iter(Axis(0), width).zip(values.axis_chunks_iter(Axis(0), width));
        for (index, (block, (keys, values))) in self.blocks.iter_mut().zip(parts).enumerate() {
            block.log_mass.clear();
            if let Some(log_mass) = log_mass {
                let first = index * width;
                block.log_mass.extend(log_mass.slice(s![first..first + keys.nrows()]));
            }
            block.keys.repack(keys.t(), scale(head_dim));
            block.values.repack(values, A::one());
        }
    }
}

impl<A: Scalar> PackedBlock<A> {
    /// Fills `scores` with exp(q·kᵀ/√`head_dim` + log-mass − maximum) of one head's queries, and the rows' maxima and sums.
    fn exponentials(&self, queries: &Tile<A>, head: usize, scores: &mut Tile<A>, partial: &mut Partial<A>) {
        let (rows, (_, slots)) = (queries.nrows(), self.keys.dim());
        scores.reshape(rows, Runs::of(slots));
        let to = scores.run_mut(0);
        let log_mass = (!self.log_mass.is_empty()).then_some(&self.log_mass[..]);
        self.keys.multiply_tile(queries.unit(head), 0, 0..slots, Output::set(log_mass), to);
        let RowsMut { data, stride } = scores.run_mut(0);
        exp_rows(&mut data[..rows * stride], slots, stride, &mut partial.maxima, &mut partial.sums);
    }

    /// All keys in one block: 1/Σ goes into the result.
    fn attend(&self, queries: &mut Tile<A>, head: usize, scratch: &mut HeadScratch<A>) {
        let HeadScratch { scores, latest, .. } = scratch;
        let rows = queries.nrows();
        latest.reset(rows, 0);
        self.exponentials(queries, head, scores, latest);
        latest.invert_sums();
        // The head's queries have been read: its result takes their place.
        queries.unit_runs_mut(head, |columns, to| {
            let RowsMut { data, stride } = to;
            let width = columns.len();
            self.values
                .multiply_long_tile(scores.rows(), columns, Output::Set, RowsMut { data, stride });
            scale_rows(data, width, stride, &latest.sums);
        });
    }
}

/// Each block gives a softmax relative to its own maxima, without the division; blocks are added up relative to the maxima so far, and
/// divided once at the end (online softmax: Milakov and Gimelshein, arXiv 1805.02867; Rabe and Staats, arXiv 2112.05682).
fn attend_blocks<A: Scalar>(blocks: &[PackedBlock<A>], queries: &mut Tile<A>, head: usize, scratch: &mut HeadScratch<A>) {
    let HeadScratch { scores, latest, total } = scratch;
    let rows = queries.nrows();
    let head_dim = blocks[0].values.dim().1;
    total.reset(rows, head_dim);
    latest.reset(rows, head_dim);
    for block in blocks {
        block.exponentials(queries, head, scores, latest);
        for index in 0..Runs::of(head_dim).count() {
            let columns = Runs::of(head_dim).range(index);
            let to = RowsMut {
                data: &mut latest.products[columns.start..],
                stride: head_dim,
            };
            block.values.multiply_long_tile(scores.rows(), columns, Output::Set, to);
        }
        total.add(latest, head_dim);
    }
    queries.unit_runs_mut(head, |columns, to| {
        total.write_quotients(head_dim, columns, to);
    });
}

fn fill_unit<A: Scalar>(queries: &mut Tile<A>, head: usize, value: A) {
    let rows = queries.nrows();
    queries.unit_runs_mut(head, |columns, to| {
        for row in to.data.chunks_mut(to.stride).take(rows) {
            row[..columns.len()].fill(value);
        }
    });
}
