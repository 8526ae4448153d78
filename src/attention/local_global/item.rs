//! The keys, values and summaries of one item.

use std::ops::Range;

use ndarray::{ArrayView1, ArrayView2, ArrayView3, ArrayViewMut3, s};

use super::super::heads::scale;
use super::super::pooling::{HeadRows, Summaries, log_sum};
use super::cut::Cut;
use super::seams::Seams;
use crate::layers::{Linear, TILE};
use crate::ops::{Runs, Tile};
use crate::parallel::{self, Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// The keys and values of the real positions of one item, and the summaries of its segments.
#[derive(Clone, Debug, Default)]
pub(crate) struct ItemContext<A> {
    pub(super) cut: Cut,
    /// The positions whose keys and values are here: all, or those that the rows of a shard see exactly.
    pub(super) held: Range<usize>,
    /// The seams between shards, where the rows that attend are those of one.
    pub(super) seams: Option<Seams>,
    /// The real positions held, in order, where padding lies between them.
    real: Vec<usize>,
    /// How many real positions are held before each, where padding lies between them.
    before: Vec<usize>,
    /// The number of real positions held.
    pub(super) count: usize,
    /// The number of real positions of the whole item.
    pub(super) total: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    /// (`kv_heads`, real positions, `head_dim`) each.
    pub(super) keys: Vec<A>,
    pub(super) values: Vec<A>,
    /// u of every query head, (heads, `head_dim`).
    pub(super) queries: Vec<A>,
    pub(super) pooled: Vec<PooledHead<A>>,
}

/// The summaries of one query head.
#[derive(Clone, Debug, Default)]
pub(crate) struct PooledHead<A> {
    /// (segments, `head_dim`): K̄ and V̄.
    pub(super) keys: Vec<A>,
    pub(super) values: Vec<A>,
    /// log Σ exp(a) of a segment; −∞ where all of it is padding.
    pub(super) masses: Vec<A>,
    /// What is added to a segment's logits: its log-mass, and the offset.
    pub(super) biases: Vec<A>,
    /// shift − ⟨u, K̄⟩/√`head_dim`.
    offsets: Vec<A>,
    /// log Σ exp(a) of the blocks held, where a segment has more than one of them.
    pub(super) block_masses: Vec<A>,
    /// The same of what each shard holds no blocks of: see [`Seams::far`].
    pub(super) far_masses: Vec<A>,
}

/// Scratch space for the summaries of one head: of the sets of one block, and of all segments.
pub(super) type PoolScratch<A> = (Summaries<A>, Summaries<A>);

/// A tile of rows, and of the features made of it.
type RowScratch<A> = (Tile<A>, Tile<A>);

/// Scratch space in which items are made.
#[derive(Debug)]
pub(crate) struct ItemScratch<A> {
    rows: Pool<RowScratch<A>>,
    pub(super) pooling: Pool<PoolScratch<A>>,
}

impl<A: Scalar> Default for ItemScratch<A> {
    fn default() -> Self {
        Self {
            rows: Pool::default(),
            pooling: Pool::default(),
        }
    }
}

impl<A: Scalar> ItemScratch<A> {
    pub(super) fn prepare(&mut self) {
        self.rows.prepare();
        self.pooling.prepare();
    }
}

impl<A: Scalar> ItemContext<A> {
    /// Begins with the positions `held` of an item, of which those in `real` are, and makes room for their keys and values.
    pub(super) fn begin(&mut self, cut: Cut, held: Range<usize>, real: Option<ArrayView1<'_, bool>>, (kv_heads, head_dim): (usize, usize)) {
        self.cut = cut;
        (self.kv_heads, self.head_dim) = (kv_heads, head_dim);
        self.seams = None;
        self.real.clear();
        self.before.clear();
        self.count = held.len();
        if let Some(real) = real {
            let real = real.slice_move(s![..held.len()]);
            if real.iter().any(|&real| !real) {
                self.real.extend(held.clone().filter(|&position| real[position - held.start]));
                let mut count = 0;
                self.before.push(0);
                self.before.extend(real.iter().map(|&real| {
                    count += usize::from(real);
                    count
                }));
                self.count = count;
            }
        }
        self.total = self.count;
        self.held = held;
        let size = kv_heads * self.count * head_dim;
        self.keys.resize(size, A::zero());
        self.values.resize(size, A::zero());
    }

    /// The rows of the keys that the real ones of `positions` have, as far as they are held.
    pub(super) fn rows_of(&self, positions: &Range<usize>) -> Range<usize> {
        let place = |position: usize| position.saturating_sub(self.held.start).min(self.held.len());
        let (start, end) = (place(positions.start), place(positions.end));
        if self.before.is_empty() {
            return start..end;
        }
        self.before[start]..self.before[end]
    }

    /// The row of the keys that a position has, if it is real and held.
    pub(super) fn row_of(&self, position: usize) -> Option<usize> {
        if !self.held.contains(&position) {
            return None;
        }
        let place = position - self.held.start;
        if self.before.is_empty() {
            return Some(place);
        }
        let row = self.before[place];
        (self.before[place + 1] > row).then_some(row)
    }

    /// The position that a row of the keys has.
    pub(super) fn position_of(&self, row: usize) -> usize {
        self.real.get(row).copied().unwrap_or(self.held.start + row)
    }

    /// Makes the keys and values of the positions `first..` of which `x` holds the rows.
    pub(super) fn add_rows(
        &mut self,
        x: ArrayView2<'_, A>,
        first: usize,
        key: &Linear<A>,
        value: Option<&Linear<A>>,
        scratch: &ItemScratch<A>,
    ) {
        let rows = self.rows_of(&(first..first + x.nrows()));
        let shape = (self.kv_heads, self.count, self.head_dim);
        let (mut keys, mut values) = (std::mem::take(&mut self.keys), std::mem::take(&mut self.values));
        let sides = [(Some(key), &mut keys), (value, &mut values)];
        for (linear, to) in sides {
            let Some(linear) = linear else { continue };
            let to = ArrayViewMut3::from_shape(shape, to).expect("begin made room");
            let to = to.slice_move(s![.., rows.clone(), ..]);
            let cost = parallel::cost(&[rows.len(), linear.weight().len()]);
            for_each_part(along(to, 1, TILE), cost, |tile, part| {
                let start = rows.start + tile * TILE;
                let own = start..start + part.view.dim().1;
                scratch
                    .rows
                    .with(|scratch| self.fill_tile(x, first, own, linear, part.view, scratch));
            });
        }
        if value.is_none() {
            let (to, from) = (ArrayViewMut3::from_shape(shape, &mut values), ArrayView3::from_shape(shape, &keys));
            let part = s![.., rows, ..];
            if let (Ok(mut to), Ok(from)) = (to, from) {
                to.slice_mut(part).assign(&from.slice(part));
            }
        }
        (self.keys, self.values) = (keys, values);
    }

    /// Adds the real ones of the rows of `x`, whose first position is `first`, to `sums`, if those are wanted.
    pub(super) fn add_to_sums(&self, x: ArrayView2<'_, A>, first: usize, sums: &mut [f64]) {
        if sums.is_empty() {
            return;
        }
        for (offset, row) in x.outer_iter().enumerate() {
            if self.row_of(first + offset).is_some() {
                sums.iter_mut().zip(row).for_each(|(sum, &number)| *sum += number.widen());
            }
        }
    }

    /// Fills the heads' rows `rows` from the rows of `x`, whose first position is `first`.
    fn fill_tile(
        &self,
        x: ArrayView2<'_, A>,
        first: usize,
        rows: Range<usize>,
        linear: &Linear<A>,
        mut to: ArrayViewMut3<'_, A>,
        (input, features): &mut RowScratch<A>,
    ) {
        let runs = Runs::of(x.ncols());
        if self.real.is_empty() {
            let start = self.held.start + rows.start - first;
            input.fill(x.slice(s![start..start + rows.len(), ..]), runs);
        } else {
            input.fill_rows(rows.len(), runs, |row| x.row(self.real[rows.start + row] - first));
        }
        linear.apply_runs(input.rows(), Runs::of_units(self.kv_heads, self.head_dim), features);
        for (head, mut to) in to.outer_iter_mut().enumerate() {
            features.copy_unit_to(head, &mut to);
        }
    }

    /// The rows of query head `head`, of `heads`.
    pub(super) fn head_rows(&self, head: usize, heads: usize) -> HeadRows<'_, A> {
        let size = self.count * self.head_dim;
        let kv_head = head * self.kv_heads / heads;
        let own = kv_head * size..(kv_head + 1) * size;
        HeadRows {
            keys: &self.keys[own.clone()],
            values: &self.values[own],
            query: &self.queries[head * self.head_dim..][..self.head_dim],
            scale: scale(self.head_dim),
        }
    }

    /// Summarizes the segments of every query head at `queries` (heads, `head_dim`), which takes `shift` into every slot's logit.
    pub(super) fn pool(&mut self, queries: impl Iterator<Item = A>, shift: A, scratch: &ItemScratch<A>) {
        self.queries.clear();
        self.queries.extend(queries);
        let heads = self.queries.len() / self.head_dim;
        let mut pooled = std::mem::take(&mut self.pooled);
        pooled.resize_with(heads, PooledHead::default);
        let cost = parallel::cost(&[heads, self.count, self.head_dim, 8]);
        let parts = Chunks {
            slice: &mut pooled,
            size: 1,
        };
        for_each_part(parts, cost, |head, part| {
            scratch
                .pooling
                .with(|scratch| self.pool_head(&self.head_rows(head, heads), shift, &mut part.slice[0], scratch));
        });
        self.pooled = pooled;
    }

    fn pool_head(&self, rows: &HeadRows<'_, A>, shift: A, to: &mut PooledHead<A>, scratch: &mut PoolScratch<A>) {
        to.block_masses.clear();
        self.push_blocks(rows, (0..self.cut.pooled_blocks(), &self.held), &mut to.block_masses, scratch);
        let (block_sets, segments) = scratch;
        if self.cut.is_causal() {
            self.push_tree(segments, block_sets);
            return to.take(rows, block_sets, shift);
        }
        self.merge_blocks(segments);
        to.take(rows, segments, shift);
    }

    /// Summarizes the positions `own` of some blocks: sets of a segment each, or of a block where that is shorter, whose log-masses are then added to
    /// `masses`.
    pub(super) fn push_blocks(
        &self,
        rows: &HeadRows<'_, A>,
        (blocks, own): (Range<usize>, &Range<usize>),
        masses: &mut Vec<A>,
        (block_sets, sets): &mut PoolScratch<A>,
    ) {
        let Cut { block, segment, .. } = self.cut;
        sets.reset(self.head_dim);
        for index in blocks {
            block_sets.reset(self.head_dim);
            let row = |position| if own.contains(&position) { self.row_of(position) } else { None };
            rows.push_segments(self.cut.block(index).map(row), segment.min(block), block_sets);
            if block_sets.len() == 0 {
                block_sets.push_empty();
            }
            if segment > block {
                masses.push(block_sets.log_mass(0));
            }
            for set in 0..block_sets.len() {
                sets.push_copy(block_sets, set);
            }
        }
    }

    /// Merges the sets of blocks into those of segments, where these have several blocks.
    pub(super) fn merge_blocks(&self, sets: &mut Summaries<A>) {
        for _ in 0..(self.cut.segment / self.cut.block).max(1).ilog2() {
            sets.halve_from(0);
        }
    }

    /// Writes the nodes of the tree above the blocks of a causal sequence, length by length; all of `blocks` is used up.
    fn push_tree(&self, blocks: &mut Summaries<A>, nodes: &mut Summaries<A>) {
        nodes.reset(self.head_dim);
        for (level, made) in self.cut.levels().enumerate() {
            if level == 0 {
                blocks.truncate(made);
            } else {
                blocks.truncate(2 * made);
                blocks.halve_from(0);
            }
            for node in 0..made {
                nodes.push_copy(blocks, node);
            }
        }
    }

    /// Adds to the slots' logits of the rows of block `block` what the window has in common with their segments: a slot counts the mass outside.
    pub(super) fn write_biases(&self, head: usize, block: usize, biases: &mut Vec<A>) {
        let own = &self.pooled[head];
        biases.clear();
        biases.extend_from_slice(&own.biases);
        let window = self.cut.window(block);
        for segment in self.cut.touched(&window) {
            biases[segment] = self.outside_mass(head, segment, &window) + own.offsets[segment];
        }
    }

    /// log Σ exp(a) of the positions of a segment that are outside the window.
    pub(super) fn outside_mass(&self, head: usize, segment: usize, window: &Range<usize>) -> A {
        let pooled = &self.pooled[head];
        let blocks = self.blocks_outside(segment, window).map(|block| pooled.block_masses[block]);
        let far = self.far_of(segment).map(|place| pooled.far_masses[place]);
        log_sum(blocks.chain(far))
    }
}

impl<A: Scalar> PooledHead<A> {
    pub(super) fn take(&mut self, rows: &HeadRows<'_, A>, segments: &Summaries<A>, shift: A) {
        let (count, width) = (segments.len(), rows.query.len());
        for numbers in [&mut self.keys, &mut self.values] {
            numbers.resize(count * width, A::zero());
        }
        self.biases.clear();
        self.masses.clear();
        self.offsets.clear();
        for index in 0..count {
            let own = index * width..(index + 1) * width;
            segments.write_means(index, &mut self.keys[own.clone()], &mut self.values[own.clone()]);
            let offset = shift - rows.importance(&self.keys[own]);
            self.offsets.push(offset);
            self.masses.push(segments.log_mass(index));
            self.biases.push(segments.log_mass(index) + offset);
        }
    }
}
