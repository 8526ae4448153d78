//! The summaries of blocks: r rows of each, made of its keys and values by E and F.

use std::ops::Range;

use ndarray::{Array2, Array3, Array4, ArrayView2, ArrayView3, ArrayView4, ArrayViewMut2, ArrayViewMut4, Axis, CowArray, Ix2, s};

use super::super::compressed::Compressed;
use super::super::gradients::KeyValueGradients;
use super::super::mask::PaddingMask;
use super::super::projection::{Projection, Projections};
use crate::config::{BlockWeights, CausalConfig, Sharing};
use crate::error::{Result, checked_len};
use crate::initialization::Streams;
use crate::ops::{StagedSum, gemm};
use crate::parallel::{self, Chunks, along, for_each_part};
use crate::scalar::Scalar;

/// E and F as `config` has them start.
pub(crate) fn draw_projections<A: Scalar>(config: &CausalConfig, streams: &mut Streams) -> Projections<A> {
    let mut draw = || Projection::learned(draw_matrix(config, streams), config.sharing != Sharing::None);
    Projections {
        key: draw(),
        value: (!config.projection().ties_key_value()).then(draw),
    }
}

/// (matrices, rows, blocks·block), each block's part drawn by itself.
fn draw_matrix<A: Scalar>(config: &CausalConfig, streams: &mut Streams) -> Array3<A> {
    let matrices = config.projection().matrices(config.attention.heads);
    let (blocks, rows, block) = (config.own_blocks(), config.rows, config.effective_block());
    let drawn: Array3<A> = streams.projection((matrices * blocks, rows, block), config.initialization);
    Array3::from_shape_fn((matrices, rows, blocks * block), |(matrix, row, column)| {
        drawn[[matrix * blocks + column / block, row, column % block]]
    })
}

/// The column of E and F that weighs `position`.
pub(super) fn column(config: &CausalConfig, position: usize) -> usize {
    match config.block_weights {
        BlockWeights::Shared => position % config.effective_block(),
        BlockWeights::PerBlock => position,
    }
}

/// A complete block with a real position.
struct FilledBlock {
    /// The slots of its keys.
    slots: Range<usize>,
    /// The columns of E and F from the first on.
    columns: Range<usize>,
    /// Which of them have a key, where padding is left out in between.
    real: Option<Vec<usize>>,
}

impl FilledBlock {
    /// The columns of a matrix (rows, columns) that have a key.
    fn of<'m, A: Scalar>(&self, matrix: ArrayView2<'m, A>) -> CowArray<'m, A, Ix2> {
        let columns = matrix.slice_move(s![.., self.columns.clone()]);
        match &self.real {
            None => columns.into(),
            Some(real) => columns.select(Axis(1), real).into(),
        }
    }

    /// Adds a·b to those columns.
    fn add_product<A: Scalar>(&self, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, matrix: &mut ArrayViewMut2<'_, A>) {
        let mut columns = matrix.slice_mut(s![.., self.columns.clone()]);
        let Some(real) = &self.real else {
            return gemm(A::one(), a, b, A::one(), &mut columns);
        };
        let mut product = Array2::zeros((a.nrows(), b.ncols()));
        gemm(A::one(), a, b, A::zero(), &mut product.view_mut());
        for (product, &column) in product.columns().into_iter().zip(real) {
            let mut column = columns.column_mut(column);
            column += &product;
        }
    }
}

/// The blocks of one item that have summaries, in order.
fn filled_blocks(config: &CausalConfig, length: usize, mask: Option<&PaddingMask>, item: usize) -> Vec<FilledBlock> {
    let block = config.effective_block();
    let mut filled = Vec::new();
    let mut slot = 0;
    for index in 0..length / block {
        let real: Vec<usize> = (0..block)
            .filter(|offset| mask.is_none_or(|mask| mask.is_real(item, index * block + offset)))
            .collect();
        let first = column(config, index * block);
        let slots = slot..slot + real.len();
        slot = slots.end;
        if !real.is_empty() {
            filled.push(FilledBlock {
                slots,
                columns: first..first + block,
                real: (real.len() < block).then_some(real),
            });
        }
    }
    filled
}

fn blocks_of_batch(config: &CausalConfig, batch: usize, length: usize, mask: Option<&PaddingMask>) -> Vec<Vec<FilledBlock>> {
    (0..batch).map(|item| filled_blocks(config, length, mask, item)).collect()
}

/// The matrix of E or F that belongs to a head of the summaries.
pub(super) fn matrix_of<'p, A: Scalar>(projection: &'p Projection<A>, head: usize) -> ArrayView2<'p, A> {
    let matrices: ArrayView3<'p, A> = projection.matrix().expect("summaries are made by learned matrices");
    let index = head.min(matrices.dim().0 - 1);
    matrices.index_axis_move(Axis(0), index)
}

/// The summaries of all complete blocks of `length` positions with these keys and values; a block of nothing but padding has none.
pub(crate) fn summarize<A: Scalar>(
    config: &CausalConfig,
    projections: &Projections<A>,
    keys: &Compressed<A>,
    length: usize,
    mask: Option<&PaddingMask>,
) -> Result<Compressed<A>> {
    let (batch, kv_heads, _, head_dim) = keys.keys.dim();
    let (heads, rows) = (config.summary_heads(), config.rows);
    let blocks = blocks_of_batch(config, batch, length, mask);
    let slots: Vec<usize> = blocks.iter().map(|blocks| blocks.len() * rows).collect();
    let most = slots.iter().copied().max().unwrap_or(0);
    checked_len("BlockwiseCausalAttention", &[batch, heads, most, head_dim], size_of::<A>())?;
    let shape = (batch, heads, most, head_dim);
    let mut summaries = Compressed::of(Array4::zeros(shape), Array4::zeros(shape), slots);
    let cost = parallel::cost(&[2, batch, heads, length, rows, head_dim]);
    let sources = [(&keys.keys, projections.key()), (&keys.values, projections.value())];
    let mut finished = [summaries.keys.view_mut(), summaries.values.view_mut()];
    let parts = Chunks {
        slice: &mut finished,
        size: 1,
    };
    for_each_part(parts, cost, |index, part| {
        let (from, projection) = sources[index];
        for_each_head(part.slice[0].view_mut(), cost, |item, head, mut out| {
            let from = from.slice(s![item, head * kv_heads / heads, .., ..]);
            for (index, block) in blocks[item].iter().enumerate() {
                let mut out = out.slice_mut(s![index * rows..(index + 1) * rows, ..]);
                let from = from.slice(s![block.slots.clone(), ..]);
                gemm(A::one(), block.of(matrix_of(projection, head)).view(), from, A::zero(), &mut out);
            }
        });
    });
    Ok(summaries)
}

/// Adds to the gradients of keys, values and projections what those of the summaries lead to: dK += Eᵀ·dS, dE += dS·Kᵀ.
#[allow(clippy::too_many_arguments)] // all of them vary independently
pub(crate) fn summarize_backward<A: Scalar>(
    config: &CausalConfig,
    projections: &Projections<A>,
    keys: &Compressed<A>,
    length: usize,
    mask: Option<&PaddingMask>,
    summaries: &KeyValueGradients<A>,
    grads: &mut KeyValueGradients<A>,
    own: &mut Projections<A>,
) {
    let blocks = blocks_of_batch(config, keys.batch(), length, mask);
    let sides = [
        (projections.key(), &summaries.keys, &mut grads.keys),
        (projections.value(), &summaries.values, &mut grads.values),
    ];
    for (projection, dsummaries, dkeys) in sides {
        key_gradients(config, projection, &blocks, dsummaries.view(), dkeys);
    }
    matrix_gradients(config, &blocks, keys.keys.view(), summaries.keys.view(), &mut own.key);
    let value = own.value.as_mut().unwrap_or(&mut own.key);
    matrix_gradients(config, &blocks, keys.values.view(), summaries.values.view(), value);
}

/// Calls `work` for each head of each item.
fn for_each_head<A: Scalar>(heads: ArrayViewMut4<'_, A>, cost: usize, work: impl Fn(usize, usize, ArrayViewMut2<'_, A>) + Sync) {
    for_each_part(along(heads, 0, 1), cost, |item, part| {
        for_each_part(along(part.view.index_axis_move(Axis(0), 0), 0, 1), cost, |head, part| {
            work(item, head, part.view.index_axis_move(Axis(0), 0));
        });
    });
}

/// dK += Eᵀ·dS.
fn key_gradients<A: Scalar>(
    config: &CausalConfig,
    projection: &Projection<A>,
    blocks: &[Vec<FilledBlock>],
    dsummaries: ArrayView4<'_, A>,
    dkeys: &mut Array4<A>,
) {
    let (heads, rows) = (config.summary_heads(), config.rows);
    let group = heads / config.attention.kv_heads;
    let cost = parallel::cost(&[dkeys.len(), group, rows]);
    for_each_head(dkeys.view_mut(), cost, |item, kv_head, mut dkeys| {
        for head in kv_head * group..(kv_head + 1) * group {
            let matrix = matrix_of(projection, head);
            for (index, block) in blocks[item].iter().enumerate() {
                let dsummaries = dsummaries.slice(s![item, head, index * rows..(index + 1) * rows, ..]);
                let mut dkeys = dkeys.slice_mut(s![block.slots.clone(), ..]);
                gemm(A::one(), block.of(matrix).t(), dsummaries, A::one(), &mut dkeys);
            }
        }
    });
}

/// dE += dS·Kᵀ, item by item and block by block.
fn matrix_gradients<A: Scalar>(
    config: &CausalConfig,
    blocks: &[Vec<FilledBlock>],
    keys: ArrayView4<'_, A>,
    dsummaries: ArrayView4<'_, A>,
    own: &mut Projection<A>,
) {
    let (heads, rows) = (config.summary_heads(), config.rows);
    let group = heads / config.attention.kv_heads;
    let Some(mut matrices) = own.matrix_mut() else {
        return;
    };
    let last = matrices.dim().0 - 1;
    let mut staged: Vec<StagedSum> = matrices.outer_iter().map(|_| StagedSum::default()).collect();
    for (item, blocks) in blocks.iter().enumerate() {
        for head in 0..heads {
            let mut matrix = matrices.index_axis_mut(Axis(0), head.min(last));
            for (index, block) in blocks.iter().enumerate() {
                let dsummaries = dsummaries.slice(s![item, head, index * rows..(index + 1) * rows, ..]);
                let keys = keys.slice(s![item, head / group, block.slots.clone(), ..]);
                block.add_product(dsummaries, keys.t(), &mut matrix);
                if let Some(matrix) = matrix.as_slice_mut() {
                    staged[head.min(last)].added(matrix);
                }
            }
        }
    }
    for (mut matrix, staged) in matrices.outer_iter_mut().zip(&mut staged) {
        if let Some(matrix) = matrix.as_slice_mut() {
            staged.finish(matrix);
        }
    }
}
