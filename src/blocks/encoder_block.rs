//! One block of an encoder.

use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::Attention;
use crate::attention::{AttendScratch, Compressed, PackedKeyValues, PaddingMask, Projections, SEGMENT, tile};
use crate::config::{EncoderConfig, NormPlacement, Sharing};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{FeedForward, FeedForwardScratch, LayerNorm, Linear, TILE, check_width, for_each_tile, for_each_tile_of_two, tile_rows};
use crate::ops::{RowsMut, Runs, Tile};
use crate::parallel::{self, Pool};
use crate::parameters::parameters;
use crate::scalar::Scalar;
use crate::views::{outer, split};

/// Rows that are normalised and compressed together: a few segments, so that every thread has work.
const ROWS_AT_ONCE: usize = 8 * SEGMENT;

/// Attention, then feed-forward, each with a norm and a residual: x + f(norm(x)), or norm(x + f(x)).
#[derive(Clone, Debug)]
pub struct EncoderBlock<A = f32> {
    attention_norm: LayerNorm<A>,
    attention: Attention<A>,
    feed_forward: Option<FeedForwardBlock<A>>,
    placement: NormPlacement,
}

parameters!(EncoderBlock {
    attention_norm,
    attention,
    feed_forward
});

/// A feed-forward with its norm and, where it changes the width, its residual weight.
#[derive(Clone, Debug)]
pub struct FeedForwardBlock<A = f32> {
    norm: LayerNorm<A>,
    layer: FeedForward<A>,
    residual: Option<Linear<A>>,
}

parameters!(FeedForwardBlock { norm, residual } flat { layer });

/// Scratch space for one tile of rows.
#[derive(Debug, Default)]
pub(crate) struct BlockScratch<A: Scalar> {
    normed: Vec<A>,
    x: Tile<A>,
    attention: AttendScratch<A>,
    feed_forward: FeedForwardScratch<A>,
}

impl<A: Scalar> BlockScratch<A> {
    /// Takes over the rows that a product reads: normed where the norm comes first.
    fn take(&mut self, rows: ArrayView2<'_, A>, norm: Option<&LayerNorm<A>>) {
        let runs = Runs::of(rows.ncols());
        match norm {
            None => self.x.fill(rows, runs),
            Some(norm) => {
                let mut normed = tile(&mut self.normed, rows.nrows(), rows.ncols());
                norm.apply(rows, &mut normed);
                self.x.fill(normed.view(), runs);
            }
        }
    }
}

impl NormPlacement {
    /// `norm`, where it comes before what it belongs to.
    fn first<N>(self, norm: &N) -> Option<&N> {
        (self == Self::Pre).then_some(norm)
    }
}

impl<A: Scalar> EncoderBlock<A> {
    /// The one block of an encoder of depth 1 (its reversible form and final norm belong to the encoder and are not part of it).
    ///
    /// # Errors
    /// A configuration that describes no encoder, or layerwise sharing, which belongs to an [`Encoder`](crate::Encoder).
    pub fn new(config: &EncoderConfig, seed: u64) -> Result<Self> {
        let config = config.clone().with_final_norm(false);
        if config.depth != 1 || config.reversible {
            return Err(Error::config(
                "depth",
                config.depth,
                "a block by itself has depth 1 and is not reversible; use Encoder",
            ));
        }
        config.check()?;
        if config.shares_projection() {
            return Err(Error::config(
                "sharing",
                format!("{:?}", Sharing::Layerwise),
                "it belongs to an Encoder; a block by itself takes KeyValue",
            ));
        }
        Ok(Self::draw(&config, 0, &mut Streams::new(seed)))
    }

    pub(crate) fn draw(config: &EncoderConfig, layer: usize, streams: &mut Streams) -> Self {
        let (before, after) = config.widths(layer);
        let norm_width = |placement| match placement {
            NormPlacement::Pre => before,
            NormPlacement::Post => after,
        };
        Self {
            attention_norm: LayerNorm::start(before, config.norm_eps),
            attention: Attention::draw(&config.layer_attention(layer), streams),
            feed_forward: config.feed_forward.as_ref().map(|feed_forward| FeedForwardBlock {
                norm: LayerNorm::start(norm_width(config.norm), config.norm_eps),
                layer: FeedForward::draw(before, after, feed_forward, streams),
                residual: (before != after).then(|| Linear::draw(before, after, true, streams)),
            }),
            placement: config.norm,
        }
    }

    /// The attention.
    pub fn attention(&self) -> &Attention<A> {
        &self.attention
    }

    /// The feed-forward, if there is one.
    pub fn feed_forward(&self) -> Option<&FeedForwardBlock<A>> {
        self.feed_forward.as_ref()
    }

    pub(crate) fn attention_norm(&self) -> &LayerNorm<A> {
        &self.attention_norm
    }

    pub(crate) fn placement(&self) -> NormPlacement {
        self.placement
    }

    pub(crate) fn parts_mut(&mut self) -> (&mut LayerNorm<A>, &mut Attention<A>, Option<&mut FeedForwardBlock<A>>) {
        (&mut self.attention_norm, &mut self.attention, self.feed_forward.as_mut())
    }

    /// Input features.
    pub fn in_dim(&self) -> usize {
        self.attention_norm.weight().len()
    }

    /// Output features.
    pub fn out_dim(&self) -> usize {
        self.feed_forward
            .as_ref()
            .map_or(self.in_dim(), |feed_forward| feed_forward.layer.output().out_dim())
    }

    /// (batch, n, `in_dim`) → (batch, n, `out_dim`).
    ///
    /// # Errors
    /// Another width, a mask of another shape, n > `seq_len` where the projection has no more columns.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        check_width("EncoderBlock::forward", "x", x, self.in_dim())?;
        PaddingMask::check(mask, "EncoderBlock::forward", x.dim().0, x.dim().1)?;
        let mut pool = Pool::default();
        pool.prepare();
        self.apply(x.as_standard_layout().into_owned(), None, mask, &pool)
    }

    /// The block on the residual stream, in place where the width stays.
    pub(crate) fn apply(
        &self,
        mut stream: Array3<A>,
        shared: Option<&Projections<A>>,
        mask: Option<&PaddingMask>,
        pool: &Pool<BlockScratch<A>>,
    ) -> Result<Array3<A>> {
        let context = self.context(stream.view(), shared, mask)?;
        let cost = self.cost(stream.dim(), &context);
        let context = context.packed();
        let (batch, length, _) = stream.dim();
        if self.in_dim() == self.out_dim() {
            for_each_tile(stream.view_mut(), tile_rows(length), cost, |item, _, mut rows| {
                pool.with(|scratch| {
                    self.attend(&mut rows, (context, item), scratch);
                    if let Some(feed_forward) = &self.feed_forward {
                        feed_forward.add_in_place(self.placement, &mut rows, scratch);
                    }
                });
            });
            return Ok(stream);
        }
        checked_len("EncoderBlock", &[batch, length, self.out_dim()], size_of::<A>())?;
        let mut wider = Array3::zeros((batch, length, self.out_dim()));
        for_each_tile_of_two(stream.view_mut(), wider.view_mut(), cost, |item, mut rows, mut out| {
            pool.with(|scratch| {
                self.attend(&mut rows, (context, item), scratch);
                if let Some(feed_forward) = &self.feed_forward {
                    feed_forward.write(self.placement, rows.view(), &mut out, scratch);
                }
            });
        });
        Ok(wider)
    }

    /// The reversible form on two streams: first += attention(norm(second)), then second += feed-forward(norm(first)).
    pub(crate) fn apply_reversible(
        &self,
        first: &mut Array3<A>,
        second: &mut Array3<A>,
        shared: Option<&Projections<A>>,
        mask: Option<&PaddingMask>,
        pool: &Pool<BlockScratch<A>>,
    ) -> Result<()> {
        let context = self.context(second.view(), shared, mask)?;
        let cost = self.cost(first.dim(), &context);
        let context = context.packed();
        for_each_tile_of_two(first.view_mut(), second.view_mut(), cost, |item, mut first, mut second| {
            pool.with(|scratch| {
                scratch.take(second.view(), Some(&self.attention_norm));
                let BlockScratch { x, attention, .. } = &mut *scratch;
                self.attention
                    .add_tile(x.rows(), (context, item), RowsMut::of(first.view_mut()), attention);
                if let Some(feed_forward) = &self.feed_forward {
                    scratch.take(first.view(), Some(&feed_forward.norm));
                    feed_forward.apply(scratch, true, &mut second);
                }
            });
        });
        Ok(())
    }

    /// Keys and values of the whole stream, normed part by part where the norm comes first.
    fn context(&self, stream: ArrayView3<'_, A>, shared: Option<&Projections<A>>, mask: Option<&PaddingMask>) -> Result<Compressed<A>> {
        let (batch, length, width) = stream.dim();
        let mut collector = self.attention.collector(shared, batch, length, mask)?;
        if self.placement == NormPlacement::Post {
            collector.push(stream, 0, mask)?;
            return collector.finish();
        }
        let mut normed = Array3::zeros((batch, length.min(ROWS_AT_ONCE), width));
        for start in (0..length).step_by(ROWS_AT_ONCE) {
            let end = length.min(start + ROWS_AT_ONCE);
            let part = stream.slice(s![.., start..end, ..]);
            let mut normed = normed.slice_mut(s![.., ..end - start, ..]);
            normed.assign(&part);
            let cost = parallel::cost(&[batch, end - start, width, 4]);
            parallel::for_each(tiles(normed.view_mut()), cost, |(_, mut rows)| {
                self.attention_norm.apply_in_place(&mut rows);
            });
            collector.push(normed.view(), start, mask)?;
        }
        collector.finish()
    }

    /// rows ← rows + attention(norm(rows)), or norm(rows + attention(rows)).
    fn attend(&self, rows: &mut ArrayViewMut2<'_, A>, context: (&PackedKeyValues<A>, usize), scratch: &mut BlockScratch<A>) {
        scratch.take(rows.view(), self.placement.first(&self.attention_norm));
        let BlockScratch { x, attention, .. } = scratch;
        self.attention
            .add_tile(x.rows(), context, RowsMut::of(rows.view_mut()), attention);
        if self.placement == NormPlacement::Post {
            self.attention_norm.apply_in_place(rows);
        }
    }

    /// Multiplications of the block's second, tile-wise half.
    fn cost(&self, (batch, length, _): (usize, usize, usize), context: &Compressed<A>) -> usize {
        let feed_forward = self.feed_forward.as_ref().map_or(0, |feed_forward| {
            feed_forward.layer.input().weight().len() + feed_forward.layer.output().weight().len()
        });
        let attention = self.attention.attend_cost(context.keys().dim().2);
        parallel::cost(&[batch, length, attention.saturating_add(feed_forward)])
    }
}

impl<A: Scalar> FeedForwardBlock<A> {
    pub(crate) fn norm(&self) -> &LayerNorm<A> {
        &self.norm
    }

    pub(crate) fn residual(&self) -> Option<&Linear<A>> {
        self.residual.as_ref()
    }

    pub(crate) fn parts_mut(&mut self) -> (&mut LayerNorm<A>, &mut FeedForward<A>, Option<&mut Linear<A>>) {
        (&mut self.norm, &mut self.layer, self.residual.as_mut())
    }

    /// The feed-forward itself.
    pub fn layer(&self) -> &FeedForward<A> {
        &self.layer
    }

    /// `out` ← or += f of the rows that were taken.
    fn apply(&self, scratch: &mut BlockScratch<A>, adds: bool, out: &mut ArrayViewMut2<'_, A>) {
        let BlockScratch { x, feed_forward, .. } = scratch;
        self.layer
            .apply_tile(x.rows(), adds, RowsMut::of(out.view_mut()), feed_forward);
    }

    /// rows ← rows + f(norm(rows)), or norm(rows + f(rows)).
    fn add_in_place(&self, placement: NormPlacement, rows: &mut ArrayViewMut2<'_, A>, scratch: &mut BlockScratch<A>) {
        scratch.take(rows.view(), placement.first(&self.norm));
        self.apply(scratch, true, rows);
        if placement == NormPlacement::Post {
            self.norm.apply_in_place(rows);
        }
    }

    /// The same into rows of another width: the residual goes through a weight of its own.
    fn write(&self, placement: NormPlacement, rows: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>, scratch: &mut BlockScratch<A>) {
        scratch.take(rows, placement.first(&self.norm));
        self.apply(scratch, false, out);
        if let Some(residual) = &self.residual {
            scratch.take(rows, None);
            residual.apply_tile(scratch.x.rows(), true, RowsMut::of(out.view_mut()));
        }
        if placement == NormPlacement::Post {
            self.norm.apply_in_place(out);
        }
    }
}

/// The rows of every item in groups of [`TILE`], with the item's index.
pub(crate) fn tiles<A>(stream: ArrayViewMut3<'_, A>) -> Vec<(usize, ArrayViewMut2<'_, A>)> {
    let mut tiles = Vec::new();
    for (item, rows) in outer(stream).into_iter().enumerate() {
        tiles.extend(split(rows, Axis(0), TILE).into_iter().map(|rows| (item, rows)));
    }
    tiles
}
