//! Attention of rows to what each of them sees.

use std::ops::Range;

use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayViewMut2, s};

use super::super::compressed::Compressed;
use super::super::gradients::{AttendCache, Dropped, sequence_mut};
use super::super::heads::ItemKeyValues;
use super::super::key_values::block_width;
use super::super::weights::{AttentionWeights, tile};
use super::online::{KeyPart, Online};
use super::visibility::{Span, Visibility};
use crate::buffer_pool::Buffers;
use crate::error::{Result, checked_len};
use crate::layers::{TILE, for_each_tile, rows};
use crate::ops::{Dropout, Scratch};
use crate::parallel::{self, Pool};
use crate::scalar::Scalar;

/// Rows below which a tile of queries is not cut, however short the window.
const FEWEST_ROWS: usize = 32;

/// The keys, values and summaries of a batch, and which rows see which.
#[derive(Clone, Debug)]
pub(crate) struct CausalContext<A> {
    pub(crate) keys: Compressed<A>,
    pub(crate) summaries: Option<Compressed<A>>,
    pub(crate) visibility: Vec<Visibility>,
    /// Whether one softmax goes over keys and summaries; otherwise each has its own, and the results are added.
    pub(crate) joint: bool,
    pub(crate) span: Span,
}

/// The same of one item.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ItemContext<'a, A> {
    pub(crate) keys: ItemKeyValues<'a, A>,
    pub(crate) summaries: Option<ItemKeyValues<'a, A>>,
    pub(crate) visibility: &'a Visibility,
    pub(crate) joint: bool,
}

impl<A: Scalar> CausalContext<A> {
    pub(crate) fn item(&self, item: usize) -> ItemContext<'_, A> {
        ItemContext {
            keys: self.keys.item(item),
            summaries: self.summaries.as_ref().map(|summaries| summaries.item(item)),
            visibility: &self.visibility[item],
            joint: self.joint,
        }
    }

    /// The slots of keys and those of summaries.
    pub(super) fn slots(&self) -> (usize, usize) {
        (
            self.keys.keys.dim().2,
            self.summaries.as_ref().map_or(0, |summaries| summaries.keys.dim().2),
        )
    }

    /// The most keys that a row sees.
    pub(super) fn window(&self) -> usize {
        self.span.window.unwrap_or(usize::MAX)
    }

    /// About how many slots a row sees.
    pub(super) fn visible(&self) -> usize {
        let (keys, summaries) = self.slots();
        keys.min(self.window()).saturating_add(summaries)
    }

    /// Rows of queries that are attended together: with a short window a large tile would mostly compute what no row sees.
    pub(super) fn tile_rows(&self) -> usize {
        self.window().clamp(FEWEST_ROWS, TILE)
    }
}

/// The place of a tile of scores among all scores of a layer, for dropout.
#[derive(Clone, Copy)]
pub(super) struct ScorePlace<'d, A> {
    pub(super) dropout: &'d Dropout<A>,
    pub(super) item: usize,
    /// Query rows of an item.
    pub(super) length: usize,
    /// Slots of keys, and of summaries.
    pub(super) slots: (usize, usize),
}

impl<'d, A> ScorePlace<'d, A> {
    /// Returns the dropout of the weights of `head` from `row` on; the first is that of slot `slot`, and the summaries follow the keys.
    pub(super) fn dropped(&self, head: usize, heads: usize, row: usize, slot: usize) -> Dropped<'d, A> {
        let stride = (self.slots.0 + self.slots.1) as u64;
        let rows = (self.item * heads + head) as u64 * self.length as u64 + row as u64;
        Dropped {
            dropout: self.dropout,
            first: rows * stride + slot as u64,
            stride,
        }
    }
}

/// Scratch space for one tile of queries, kept by a thread from tile to tile.
#[derive(Debug)]
pub(crate) struct CausalScratch<A> {
    queries: Vec<A>,
    result: Vec<A>,
    factor: Vec<A>,
    products: Scratch<A>,
    online: Online<A>,
    visible: Vec<Range<usize>>,
}

impl<A: Scalar> Default for CausalScratch<A> {
    fn default() -> Self {
        Self {
            queries: Vec::new(),
            result: Vec::new(),
            factor: Vec::new(),
            products: Scratch::default(),
            online: Online::default(),
            visible: Vec::new(),
        }
    }
}

/// Replaces the queries (rows, heads·`head_dim`) of the rows from `first` on by what they attend to.
fn attend_heads<A: Scalar>(
    queries: &mut ArrayViewMut2<'_, A>,
    first: usize,
    context: ItemContext<'_, A>,
    heads: usize,
    place: Option<ScorePlace<'_, A>>,
    scratch: &mut CausalScratch<A>,
) {
    let head_dim = context.keys.keys.dim().2;
    for head in 0..heads {
        let mut queries = queries.slice_mut(s![.., head * head_dim..(head + 1) * head_dim]);
        attend_head(&mut queries, first, context, (head, heads), place, scratch);
    }
}

/// The same of one head, (rows, `head_dim`).
pub(super) fn attend_head<A: Scalar>(
    queries: &mut ArrayViewMut2<'_, A>,
    first: usize,
    context: ItemContext<'_, A>,
    (head, heads): (usize, usize),
    place: Option<ScorePlace<'_, A>>,
    scratch: &mut CausalScratch<A>,
) {
    let CausalScratch {
        result, online, visible, ..
    } = scratch;
    let (rows, head_dim) = queries.dim();
    let mut result = tile(result, rows, head_dim);
    result.fill(A::zero());
    online.reset(rows, head_dim);
    let last = first + rows - 1;
    let keys = context.visibility.keys(first).start..context.visibility.keys(last).end;
    let own = |row: usize| context.visibility.keys(first + row);
    let mut add =
        |from: ItemKeyValues<'_, A>, slots: Range<usize>, own: &dyn Fn(usize) -> Range<usize>, offset: usize, online: &mut Online<A>| {
            let (keys, values) = from.head(head, heads);
            for block in even_blocks(slots) {
                visible.clear();
                visible.extend((0..rows).map(|row| clip(&own(row), &block)));
                let part = KeyPart {
                    keys: keys.slice(s![block.clone(), ..]),
                    values: values.slice(s![block.clone(), ..]),
                    visible,
                };
                let dropped = place.map(|place| place.dropped(head, heads, first, offset + block.start));
                online.add(queries.view(), &part, dropped.as_ref());
            }
        };
    add(context.keys, keys, &own, 0, online);
    if let Some(summaries) = context.summaries {
        if !context.joint {
            online.add_quotients(&mut result);
            online.reset(rows, head_dim);
        }
        let offset = place.map_or(0, |place| place.slots.0);
        let own = |row: usize| 0..context.visibility.summaries(first + row);
        add(summaries, 0..context.visibility.summaries(last), &own, offset, online);
    }
    online.add_quotients(&mut result);
    queries.assign(&result);
}

/// `slots` in blocks whose scores are held at once.
fn even_blocks(slots: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let width = block_width(slots.len());
    let end = slots.end;
    slots.step_by(width).map(move |start| start..end.min(start + width))
}

/// The part of `range` that lies in `block`, counted from the block's start.
pub(super) fn clip(range: &Range<usize>, block: &Range<usize>) -> Range<usize> {
    let clipped = |slot: usize| slot.clamp(block.start, block.end) - block.start;
    clipped(range.start)..clipped(range.end)
}

impl<A: Scalar> AttentionWeights<A> {
    /// Attention of `x` (batch, rows, dim) to what each row sees.
    pub(crate) fn attend_causal(&self, operation: &'static str, x: &ArrayRef3<A>, context: &CausalContext<A>) -> Result<Array3<A>> {
        let (batch, length, _) = x.dim();
        checked_len(operation, &[batch, length, self.dim()], size_of::<A>())?;
        let mut output = Array3::zeros((batch, length, self.dim()));
        let cost = parallel::cost(&[batch, length, 2, self.query.out_dim(), self.dim().saturating_add(context.visible())]);
        let mut pool = Pool::<CausalScratch<A>>::default();
        pool.prepare();
        for_each_tile(output.view_mut(), context.tile_rows(), cost, |item, rows, mut out| {
            let (first, x) = (rows.start, x.slice(s![item, rows, ..]));
            pool.with(|scratch| self.attend_causal_rows(x, first, context.item(item), &mut out, scratch));
        });
        Ok(output)
    }

    /// Fills `out` with the attention of the rows of `x`, the first of which is row `first` of its item.
    fn attend_causal_rows(
        &self,
        x: ArrayView2<'_, A>,
        first: usize,
        context: ItemContext<'_, A>,
        out: &mut ArrayViewMut2<'_, A>,
        scratch: &mut CausalScratch<A>,
    ) {
        let mut space = std::mem::take(&mut scratch.queries);
        let mut queries = tile(&mut space, x.nrows(), self.query.out_dim());
        self.query.apply(x, &mut queries, &mut scratch.products);
        attend_heads(&mut queries, first, context, self.heads, None, scratch);
        self.apply_output(queries.view(), out, &mut scratch.factor, &mut scratch.products);
        scratch.queries = space;
    }

    /// [`attend_causal`](Self::attend_causal), and what the backward pass needs.
    pub(crate) fn attend_causal_train(
        &self,
        x: &Array3<A>,
        context: &CausalContext<A>,
        dropout: Option<Dropout<A>>,
    ) -> (Array3<A>, AttendCache<A>) {
        let (batch, length, _) = x.dim();
        let queries = self.query.forward_rows(rows(x));
        let mut concat = queries.clone();
        let cost = parallel::cost(&[concat.len(), 2, context.visible()]);
        let mut pool = Pool::<CausalScratch<A>>::default();
        pool.prepare();
        for_each_tile(
            sequence_mut(&mut concat, batch, length),
            context.tile_rows(),
            cost,
            |item, rows, mut queries| {
                let place = dropout.as_ref().map(|dropout| ScorePlace {
                    dropout,
                    item,
                    length,
                    slots: context.slots(),
                });
                pool.with(|scratch| attend_heads(&mut queries, rows.start, context.item(item), self.heads, place, scratch));
            },
        );
        self.concat_output(queries, concat, (batch, length), Buffers::new())
    }
}
