//! Adding a chunk of positions to the sums of keys and values: E·(X·Wᵀ), head by head.

use ndarray::{ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, ArrayViewMut4, Axis, s};

use super::super::projection::{Projection, ProjectionWeights};
use super::super::weights::tile;
use super::Compressor;
use super::accumulate::{Windows, add_segment, segments};
use super::rows::{RealRows, copied, matrix_of};
use super::scratch::SegmentScratch;
use super::sums::larger;
use crate::config::{BiasPlace, ConvolutionKernel};
use crate::layers::Linear;
use crate::ops::{ProductScratch, add_bias};
use crate::parallel::{self, Chunks, Pool, along, for_each_part};
use crate::scalar::Scalar;

impl<A: Scalar> Compressor<'_, A> {
    /// sums += E·(X·Wᵀ), key/value head by key/value head.
    pub(super) fn compress_features(
        &mut self,
        chunk: ArrayView3<'_, A>,
        start: usize,
        rows: &[RealRows<'_>],
        windows: &[Windows],
        is_new: bool,
        spaces: &mut Pool<SegmentScratch<A>>,
    ) {
        let config = self.config;
        let group = config.compressed_heads() / config.attention.kv_heads;
        let head_dim = config.attention.effective_head_dim();
        let shared = config.projection.matrices(config.attention.heads) == 1;
        // Where the two do not commute, the bias is part of what is compressed.
        let with_bias = is_new && !config.projection.commutes() && config.bias_place == BiasPlace::BeforeCompression;
        let sources = [
            (self.projections.key(), &self.weights.key),
            (self.projections.value(), self.weights.value()),
        ];
        let (_, length, dim) = chunk.dim();
        let cost = parallel::cost(&[self.batch, length, dim, config.attention.key_value_dim()]);
        spaces.prepare();
        // Calls `add` with the features of each segment of a key/value head.
        let each_segment = |index: usize, item: usize, kv_head: usize, add: &mut dyn FnMut(Features<'_, '_, A>)| {
            spaces.with(|scratch| {
                let SegmentScratch { features, copy, products } = scratch;
                for (from, to) in segments(start, rows[item].end) {
                    let x = chunk.slice(s![item, from..to, ..]);
                    let x = head_features(sources[index].1, kv_head, head_dim, x, with_bias, features, products);
                    add(Features {
                        x: x.view(),
                        start,
                        from,
                        rows: &rows[item],
                        windows: windows[item],
                        copy,
                        products,
                    });
                }
            });
        };
        let parts = Chunks {
            slice: &mut self.totals.sums,
            size: 1,
        };
        for_each_part(parts, cost, |index, part| {
            let projection = sources[index].0;
            if let Some(sums) = part.slice[0].long() {
                return for_each_group(sums.view_mut(), group, cost, |item, kv_head, mut sums| {
                    each_segment(index, item, kv_head, &mut |mut features| {
                        for (within, mut sums) in sums.outer_iter_mut().enumerate() {
                            let matrix = if shared { 0 } else { kv_head * group + within };
                            features.add_to(projection, matrix, &mut sums);
                        }
                    });
                });
            }
            for_each_group(part.slice[0].values.view_mut(), group, cost, |item, kv_head, mut maxima| {
                each_segment(index, item, kv_head, &mut |features| {
                    maxima.outer_iter_mut().for_each(|mut maxima| features.raise(&mut maxima));
                });
            });
        });
    }
}

/// Calls `work` with an item and a key/value head for each group of heads that share one.
fn for_each_group<T: Send + Sync>(
    sums: ArrayViewMut4<'_, T>,
    group: usize,
    cost: usize,
    work: impl Fn(usize, usize, ArrayViewMut3<'_, T>) + Sync,
) {
    for_each_part(along(sums, 0, 1), cost, |item, part| {
        for_each_part(along(part.view, 1, group), cost, |kv_head, part| {
            work(item, kv_head, part.view.index_axis_move(Axis(0), 0));
        });
    });
}

/// The features of one segment, whose first is row `from` of a chunk that starts at `start`.
struct Features<'f, 'm, A> {
    x: ArrayView2<'f, A>,
    start: usize,
    from: usize,
    rows: &'f RealRows<'m>,
    windows: Windows,
    copy: &'f mut Vec<A>,
    products: &'f mut ProductScratch<A>,
}

impl<A: Scalar> Features<'_, '_, A> {
    fn add_to(&mut self, projection: &Projection<A>, matrix: usize, sums: &mut ArrayViewMut2<'_, f64>) {
        let position = self.start + self.from;
        match &projection.weights {
            ProjectionWeights::Dense { matrix: weights, .. } => {
                let x = matrix_of(copied(self.x, self.from, self.rows, self.copy));
                let weights = weights.slice(s![matrix, .., position..position + x.nrows()]);
                self.products.add_long(weights, x, sums);
            }
            ProjectionWeights::Convolution {
                kernel,
                shape: ConvolutionKernel::ChannelMixing,
            } => {
                let x = matrix_of(copied(self.x, self.from, self.rows, self.copy));
                let kernel = kernel.index_axis(Axis(0), matrix);
                mix_channels(kernel, x, position, self.windows, sums, self.products);
            }
            ProjectionWeights::Mean
            | ProjectionWeights::Max
            | ProjectionWeights::Attention { .. }
            | ProjectionWeights::Convolution { .. } => {
                add_segment(projection, matrix, self.x, self.start, self.from, self.rows, self.windows, sums);
            }
        }
    }

    /// Raises the maxima (slots, columns) to the features.
    fn raise(&self, maxima: &mut ArrayViewMut2<'_, A>) {
        let Self {
            start,
            from,
            rows,
            windows,
            ..
        } = *self;
        for (row, values) in self.x.outer_iter().enumerate().filter(|&(row, _)| rows.is_real(from + row)) {
            let mut most = maxima.row_mut(windows.slot(start + from + row));
            most.zip_mut_with(&values, |most, &value| *most = larger(*most, value));
        }
    }
}

/// X·Wᵀ (+ b) for one key/value head.
pub(super) fn head_features<'s, A: Scalar>(
    linear: &Linear<A>,
    kv_head: usize,
    head_dim: usize,
    x: ArrayView2<'_, A>,
    with_bias: bool,
    space: &'s mut Vec<A>,
    products: &mut ProductScratch<A>,
) -> ArrayViewMut2<'s, A> {
    let mut features = tile(space, x.nrows(), head_dim);
    let first = kv_head * head_dim;
    let rows = s![first..first + head_dim, ..];
    products.multiply(A::one(), x, linear.weight().slice(rows).t(), false, &mut features);
    if let Some(bias) = linear.bias()
        && with_bias
    {
        add_bias(&mut features, bias.slice(s![first..first + head_dim]));
    }
    features
}

/// sums[slot] += W[:, :, offset]·x for the positions of one segment; the positions of one offset are every stride-th row.
fn mix_channels<A: Scalar>(
    kernel: ArrayView3<'_, A>,
    x: ArrayView2<'_, A>,
    position: usize,
    windows: Windows,
    sums: &mut ArrayViewMut2<'_, f64>,
    products: &mut ProductScratch<A>,
) {
    let stride = windows.size;
    for first in 0..stride.min(x.nrows()) {
        let offset = windows.offset(position + first);
        let rows = x.slice(s![first..;stride, ..]);
        let slot = windows.slot(position + first);
        let mut sums = sums.slice_mut(s![slot..slot + rows.nrows(), ..]);
        products.add_long(rows, kernel.slice(s![.., .., offset]).t(), &mut sums);
    }
}
