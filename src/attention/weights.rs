//! The weights that all kinds of attention have in common.

use ndarray::{Array4, ArrayRef3, ArrayView2, ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::compressed::Compressed;
use super::folded::folds;
use super::heads::head_scores;
use super::key_values::PackedKeyValues;
use super::partial::HeadScratch;
use crate::config::AttentionConfig;
use crate::error::{Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{Linear, TILE};
use crate::ops::{Output, RowsMut, Runs, Scratch, Tile, TileRows};
use crate::parallel::{self, Pool, along, for_each_part};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// The four weights, of queries, keys, values and the output, with their biases.
#[derive(Clone, Debug)]
pub(crate) struct AttentionWeights<A> {
    /// Query heads.
    pub(super) heads: usize,
    pub(crate) query: Linear<A>,
    pub(crate) key: Linear<A>,
    /// `None` where values are tied to keys.
    pub(crate) value: Option<Linear<A>>,
    /// The first factor of the output weight, where it has two.
    pub(crate) output_factor: Option<Linear<A>>,
    pub(crate) output: Linear<A>,
}

parameters!(AttentionWeights {
    query,
    key,
    value,
    output_factor,
    output
});

impl<A: Scalar> AttentionWeights<A> {
    pub(crate) fn init(config: &AttentionConfig, streams: &mut Streams) -> Self {
        let (dim, query_dim, key_value_dim) = (config.dim, config.query_dim(), config.key_value_dim());
        Self {
            heads: config.heads,
            query: Linear::init(dim, query_dim, config.query_bias, streams),
            key: Linear::init(dim, key_value_dim, config.key_bias, streams),
            value: (!config.tie_key_value).then(|| Linear::init(dim, key_value_dim, config.value_bias, streams)),
            output_factor: config
                .output_rank
                .map(|rank| Linear::init(query_dim, rank, config.output_bias, streams)),
            output: Linear::init(config.output_rank.unwrap_or(query_dim), dim, config.output_bias, streams),
        }
    }

    /// Width of the input and of the output.
    pub(super) fn dim(&self) -> usize {
        self.output.out_dim()
    }

    pub(super) fn head_dim(&self) -> usize {
        self.query.out_dim() / self.heads
    }

    pub(crate) fn value(&self) -> &Linear<A> {
        self.value.as_ref().unwrap_or(&self.key)
    }

    /// The weight of the keys, or of the values; the same where they are tied.
    pub(crate) fn source_mut(&mut self, is_value: bool) -> &mut Linear<A> {
        match (&mut self.value, is_value) {
            (Some(value), true) => value,
            _ => &mut self.key,
        }
    }

    /// Replaces what is packed by the one item of `context`, which `rows` rows are to attend to; without allocating where the memory suffices.
    pub(super) fn repack_for(&self, rows: usize, context: &Compressed<A>, packed: &mut PackedKeyValues<A>) {
        let can_fold = self.output_factor.is_none() && context.log_mass.is_none();
        if can_fold && folds(&self.query, self.heads, context.slots[0], rows) {
            packed.refold(&self.query, &self.output, self.heads, context.item(0));
        } else {
            packed.repack(context.keys.view(), context.values.view(), context.log_mass(), &context.slots);
        }
    }

    /// `out` ← or += the attention of the rows of `x` to one item's keys and values.
    pub(crate) fn attend_tile(
        &self,
        x: TileRows<'_, A>,
        (context, item): (&PackedKeyValues<A>, usize),
        adds: bool,
        out: RowsMut<'_, A>,
        scratch: &mut AttendScratch<A>,
    ) {
        let AttendScratch { queries, factor, heads } = scratch;
        if let Some(folded) = context.folded() {
            let output = if adds { Output::add } else { Output::set };
            return folded.attend(x, output(self.output.bias_slice()), out, heads);
        }
        self.query.apply_runs(x, Runs::of_units(self.heads, self.head_dim()), queries);
        context.attend(item, self.heads, queries, heads);
        match &self.output_factor {
            None => self.output.apply_tile(queries.rows(), adds, out),
            Some(first) => {
                first.apply_runs(queries.rows(), Runs::of(first.out_dim()), factor);
                self.output.apply_tile(factor.rows(), adds, out);
            }
        }
    }

    /// softmax(Q·Kᵀ/√`head_dim` + log-mass) of `queries` (batch, m, dim): (batch, heads, m, slots), 0 for slots that an item does not have.
    pub(crate) fn attention_map(&self, operation: &'static str, queries: &ArrayRef3<A>, context: &Compressed<A>) -> Result<Array4<A>> {
        self.map_of(operation, queries, context.keys.dim().2, |item, _, projected, map| {
            for (head, mut scores) in map.outer_iter_mut().enumerate() {
                let log_mass = context.head_mass(item, head, self.heads);
                head_scores(projected, context.item(item), log_mass, head, self.heads, &mut scores);
            }
        })
    }

    /// A map (batch, heads, m, slots) of zeros, whose tiles (heads, rows, slots) `fill` fills, given the item, the first row, and the
    /// projected queries of the rows.
    pub(super) fn map_of(
        &self,
        operation: &'static str,
        queries: &ArrayRef3<A>,
        slots: usize,
        fill: impl Fn(usize, usize, ArrayView2<'_, A>, &mut ArrayViewMut3<'_, A>) + Send + Sync,
    ) -> Result<Array4<A>> {
        let (batch, rows, dim) = queries.dim();
        checked_len(operation, &[batch, self.heads, rows, slots], size_of::<A>())?;
        let mut map = Array4::zeros((batch, self.heads, rows, slots));
        let cost = parallel::cost(&[batch, rows, self.query.out_dim(), dim.saturating_add(slots)]);
        let mut pool = Pool::<(Vec<A>, Scratch<A>)>::default();
        pool.prepare();
        for_each_part(along(map.view_mut(), 0, 1), cost, |item, part| {
            for_each_part(along(part.view.index_axis_move(Axis(0), 0), 1, TILE), cost, |index, mut part| {
                let first = index * TILE;
                let x = queries.slice(s![item, first..first + part.view.dim().1, ..]);
                pool.with(|(space, products)| {
                    let mut projected = tile(space, x.nrows(), self.query.out_dim());
                    self.query.apply(x, &mut projected, products);
                    fill(item, first, projected.view(), &mut part.view);
                });
            });
        });
        Ok(map)
    }

    /// Fills `out` from the heads' results side by side, (rows, heads·`head_dim`).
    pub(crate) fn apply_output(
        &self,
        heads: ArrayView2<'_, A>,
        out: &mut ArrayViewMut2<'_, A>,
        factor: &mut Vec<A>,
        products: &mut Scratch<A>,
    ) {
        match &self.output_factor {
            None => self.output.apply(heads, out, products),
            Some(first) => {
                let mut factored = tile(factor, heads.nrows(), first.out_dim());
                first.apply(heads, &mut factored, products);
                self.output.apply(factored.view(), out, products);
            }
        }
    }
}

/// Scratch space for one tile of queries.
#[derive(Debug)]
pub(crate) struct AttendScratch<A> {
    queries: Tile<A>,
    factor: Tile<A>,
    heads: HeadScratch<A>,
}

impl<A: Scalar> Default for AttendScratch<A> {
    fn default() -> Self {
        Self {
            queries: Tile::default(),
            factor: Tile::default(),
            heads: HeadScratch::default(),
        }
    }
}

/// A (rows, columns) view of scratch space, enlarged where it is too small.
pub(crate) fn tile<A: Scalar>(space: &mut Vec<A>, rows: usize, columns: usize) -> ArrayViewMut2<'_, A> {
    let size = rows * columns;
    if space.len() < size {
        space.resize(size, A::zero());
    }
    ArrayViewMut2::from_shape((rows, columns), &mut space[..size]).expect("the slice has this size")
}
