//! One block of an encoder.

use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayView3, ArrayViewMut2, ArrayViewMut3, Axis, s};

use super::Attention;
use crate::attention::{Compressed, PaddingMask, Projections, SEGMENT, TileScratch, tile};
use crate::config::{EncoderConfig, NormPlacement, Sharing};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{FeedForward, FeedForwardScratch, LayerNorm, Linear, TILE, check_width};
use crate::ops::Scratch;
use crate::parallel;
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
pub(crate) struct BlockScratch<A> {
    normed: Vec<A>,
    result: Vec<A>,
    feed_forward: FeedForwardScratch<A>,
    products: Scratch<A>,
    attention: TileScratch<A>,
}

impl<A: Scalar> BlockScratch<A> {
    fn new() -> Self {
        Self {
            normed: Vec::new(),
            result: Vec::new(),
            feed_forward: FeedForwardScratch::new(),
            products: Scratch::default(),
            attention: TileScratch::new(),
        }
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
        self.apply(x.to_owned(), None, mask)
    }

    /// The block on the residual stream, in place where the width stays.
    pub(crate) fn apply(&self, mut stream: Array3<A>, shared: Option<&Projections<A>>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        if self.attention.is_causal() {
            return self.apply_around(stream, |x| self.attention.forward(shared, x, mask));
        }
        let context = self.context(stream.view(), shared, mask)?;
        let cost = self.cost(stream.dim(), &context);
        if self.in_dim() == self.out_dim() {
            parallel::for_each_init(tiles(stream.view_mut()), cost, BlockScratch::new, |scratch, (item, mut rows)| {
                self.attend(&mut rows, &context, item, scratch);
                if let Some(feed_forward) = &self.feed_forward {
                    feed_forward.add_in_place(self.placement, &mut rows, scratch);
                }
            });
            return Ok(stream);
        }
        let (batch, length, _) = stream.dim();
        checked_len("EncoderBlock", &[batch, length, self.out_dim()], size_of::<A>())?;
        let mut wider = Array3::zeros((batch, length, self.out_dim()));
        let tasks: Vec<_> = tiles(stream.view_mut()).into_iter().zip(tiles(wider.view_mut())).collect();
        parallel::for_each_init(tasks, cost, BlockScratch::new, |scratch, ((item, mut rows), (_, mut out))| {
            self.attend(&mut rows, &context, item, scratch);
            if let Some(feed_forward) = &self.feed_forward {
                feed_forward.write(self.placement, rows.view(), &mut out, scratch);
            }
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
    ) -> Result<()> {
        if self.attention.is_causal() {
            return self.apply_reversible_around(first, second, |x| self.attention.forward(shared, x, mask));
        }
        let context = self.context(second.view(), shared, mask)?;
        let cost = self.cost(first.dim(), &context);
        let tasks: Vec<_> = tiles(first.view_mut()).into_iter().zip(tiles(second.view_mut())).collect();
        parallel::for_each_init(tasks, cost, BlockScratch::new, |scratch, ((item, mut first), (_, mut second))| {
            let BlockScratch {
                normed, result, attention, ..
            } = scratch;
            let mut normed = tile(normed, second.nrows(), second.ncols());
            self.attention_norm.apply(second.view(), &mut normed);
            let mut result = tile(result, first.nrows(), first.ncols());
            self.attention.attend_rows(normed.view(), &context, item, &mut result, attention);
            first += &result;
            if let Some(feed_forward) = &self.feed_forward {
                feed_forward.norm.apply(first.view(), &mut normed);
                feed_forward.layer.apply(normed.view(), &mut result, &mut scratch.feed_forward);
                second += &result;
            }
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
    fn attend(&self, rows: &mut ArrayViewMut2<'_, A>, context: &Compressed<A>, item: usize, scratch: &mut BlockScratch<A>) {
        let BlockScratch {
            normed, result, attention, ..
        } = scratch;
        let mut result = tile(result, rows.nrows(), rows.ncols());
        match self.placement {
            NormPlacement::Pre => {
                let mut normed = tile(normed, rows.nrows(), rows.ncols());
                self.attention_norm.apply(rows.view(), &mut normed);
                self.attention.attend_rows(normed.view(), context, item, &mut result, attention);
                *rows += &result;
            }
            NormPlacement::Post => {
                self.attention.attend_rows(rows.view(), context, item, &mut result, attention);
                *rows += &result;
                self.attention_norm.apply_in_place(rows);
            }
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

    /// rows ← rows + f(norm(rows)), or norm(rows + f(rows)).
    fn add_in_place(&self, placement: NormPlacement, rows: &mut ArrayViewMut2<'_, A>, scratch: &mut BlockScratch<A>) {
        let BlockScratch {
            normed,
            result,
            feed_forward,
            ..
        } = scratch;
        let mut result = tile(result, rows.nrows(), rows.ncols());
        match placement {
            NormPlacement::Pre => {
                let mut normed = tile(normed, rows.nrows(), rows.ncols());
                self.norm.apply(rows.view(), &mut normed);
                self.layer.apply(normed.view(), &mut result, feed_forward);
                *rows += &result;
            }
            NormPlacement::Post => {
                self.layer.apply(rows.view(), &mut result, feed_forward);
                *rows += &result;
                self.norm.apply_in_place(rows);
            }
        }
    }

    /// The same into rows of another width: the residual goes through a weight of its own.
    fn write(&self, placement: NormPlacement, rows: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>, scratch: &mut BlockScratch<A>) {
        let BlockScratch {
            normed,
            result,
            feed_forward,
            products,
            ..
        } = scratch;
        match placement {
            NormPlacement::Pre => {
                let mut normed = tile(normed, rows.nrows(), rows.ncols());
                self.norm.apply(rows, &mut normed);
                self.layer.apply(normed.view(), out, feed_forward);
            }
            NormPlacement::Post => self.layer.apply(rows, out, feed_forward),
        }
        if let Some(residual) = &self.residual {
            let mut result = tile(result, out.nrows(), out.ncols());
            residual.apply(rows, &mut result, products);
            *out += &result;
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
