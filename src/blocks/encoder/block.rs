//! One block of an encoder.

use std::mem;

use ndarray::{Array3, ArrayRef3, ArrayView1, ArrayViewMut2, Axis, s};

use crate::attention::{ContextSpace, PaddingMask, Projections, TileSpace, Workspace, tile};
use crate::blocks::{Attention, FeedForwardBlock};
use crate::config::{EncoderConfig, HasNorms, NormPlacement, Sharing};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, check_width};
use crate::ops::RowsMut;
use crate::parallel;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Attention, then feed-forward, each with a norm and a residual: x + f(norm(x)), or norm(x + f(x)).
///
/// ```
/// use linformer::ndarray::Array3;
/// use linformer::{EncoderBlock, EncoderConfig, LinformerConfig, PaddingMask};
///
/// // A block by itself is an encoder of depth 1, without the norm at its end.
/// let block = EncoderBlock::<f32>::new(&EncoderConfig::new(LinformerConfig::new(16, 2, 64, 8), 1), 0)?;
/// let mask = PaddingMask::from_lengths(&[50, 20], 50)?;
/// let y = block.forward(&Array3::ones((2, 50, 16)), Some(&mask))?;
/// assert_eq!(y.dim(), (2, 50, 16));
/// # Ok::<(), linformer::Error>(())
/// ```
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

impl NormPlacement {
    /// `norm`, where it comes before what it belongs to.
    pub(in crate::blocks) fn first<N>(self, norm: &N) -> Option<&N> {
        (self == Self::Pre).then_some(norm)
    }
}

impl<A: Scalar> EncoderBlock<A> {
    /// Makes the one block of an encoder of depth 1 (its reversible form and final norm belong to the encoder and are not part of it).
    ///
    /// # Errors
    /// Returns an error if the configuration describes no encoder, or asks for layerwise sharing, which belongs to an [`Encoder`](crate::Encoder).
    pub fn new(config: &EncoderConfig, seed: u64) -> Result<Self> {
        let config = config.clone().with_final_norm(false);
        if config.depth != 1 || config.reversible {
            return Err(Error::config(
                "depth",
                config.depth,
                "a block by itself has depth 1 and is not reversible; use Encoder",
            ));
        }
        config.check_for::<A>()?;
        if config.shares_projection() {
            return Err(Error::config(
                "sharing",
                format!("{:?}", Sharing::Layerwise),
                "it belongs to an Encoder; a block by itself takes KeyValue",
            ));
        }
        Streams::drawn(seed, |streams| Self::init(&config, 0, streams))
    }

    pub(crate) fn init(config: &EncoderConfig, layer: usize, streams: &mut Streams) -> Self {
        let (before, after) = config.widths(layer);
        Self {
            attention_norm: LayerNorm::init(before, config.norm_eps),
            attention: Attention::init(&config.layer_attention(layer), streams),
            feed_forward: FeedForwardBlock::init(config, (before, after), streams),
            placement: config.norm,
        }
    }

    /// Returns the attention.
    pub fn attention(&self) -> &Attention<A> {
        &self.attention
    }

    /// Returns the feed-forward, if there is one.
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

    /// Returns the number of input features.
    pub fn in_dim(&self) -> usize {
        self.attention_norm.weight().len()
    }

    /// Returns the number of output features.
    pub fn out_dim(&self) -> usize {
        self.feed_forward
            .as_ref()
            .map_or(self.in_dim(), |feed_forward| feed_forward.layer().output().out_dim())
    }

    /// Applies the block: (batch, n, `in_dim`) → (batch, n, `out_dim`).
    ///
    /// # Errors
    /// Returns an error if `x` has the wrong width, `mask` the wrong shape, or the sequences are longer than `seq_len` where the projection has no
    /// more columns.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        check_width("EncoderBlock::forward", "x", x, self.in_dim())?;
        PaddingMask::check(mask, "EncoderBlock::forward", x.dim().0, x.dim().1)?;
        self.apply(x.as_standard_layout().into_owned(), None, mask, &mut Workspace::new())
    }

    /// The block on the residual stream, in place where the width stays.
    pub(crate) fn apply(
        &self,
        mut stream: Array3<A>,
        shared: Option<&Projections<A>>,
        mask: Option<&PaddingMask>,
        workspace: &mut Workspace<A>,
    ) -> Result<Array3<A>> {
        if self.attention.is_causal() {
            return self.apply_around(stream, |x| self.attention.forward(shared, x, mask));
        }
        let (batch, length, _) = stream.dim();
        let real = |item| mask.map(|mask| mask.item(item));
        if self.in_dim() == self.out_dim() {
            workspace.for_each_item(
                stream.view_mut(),
                parallel::cost(&[batch, self.cost(length)]),
                |workspace, item, rows| self.apply_item(rows, shared, real(item), workspace),
            )?;
            return Ok(stream);
        }
        checked_len("EncoderBlock", &[batch, length, self.out_dim()], size_of::<A>())?;
        let mut wider = Array3::zeros((batch, length, self.out_dim()));
        workspace.tiles.prepare();
        for (item, mut rows) in stream.outer_iter_mut().enumerate() {
            self.attention
                .compress_item(shared, rows.view(), self.first_norm(), real(item), &mut workspace.context)?;
            self.attend_item_into(rows.view_mut(), wider.index_axis_mut(Axis(0), item), workspace);
        }
        Ok(wider)
    }

    /// The block's second half on one item's rows, into rows of its output's width; keys and values are those in the workspace.
    pub(crate) fn attend_item_into(&self, rows: ArrayViewMut2<'_, A>, wider: ArrayViewMut2<'_, A>, workspace: &Workspace<A>) {
        let context = &workspace.context;
        let cost = self.cost(rows.nrows());
        workspace.for_each_tile_of_two(rows, wider, cost, |space, first, mut rows, mut out| {
            self.attend(&mut rows, (context, first), space);
            if let Some(feed_forward) = &self.feed_forward {
                feed_forward.write(self.placement, rows.view(), &mut out, space);
            }
        });
    }

    /// The block on one item's rows, in place; `real` says which of them are.
    pub(crate) fn apply_item(
        &self,
        rows: ArrayViewMut2<'_, A>,
        shared: Option<&Projections<A>>,
        real: Option<ArrayView1<'_, bool>>,
        workspace: &mut Workspace<A>,
    ) -> Result<()> {
        self.attention
            .compress_item(shared, rows.view(), self.first_norm(), real, &mut workspace.context)?;
        self.attend_item(rows, workspace);
        Ok(())
    }

    /// The block on several short items of these `lengths`, one below the other, whose rows go through the feed-forward together.
    pub(crate) fn apply_items<'m>(
        &self,
        mut items: ArrayViewMut2<'_, A>,
        lengths: impl Iterator<Item = usize>,
        shared: Option<&Projections<A>>,
        real: impl Fn(usize) -> Option<ArrayView1<'m, bool>>,
        workspace: &mut Workspace<A>,
    ) -> Result<()> {
        // Made once for the keys and for the queries.
        let mut kept = mem::take(&mut workspace.context.normed);
        let normed = self.first_norm().map(|norm| {
            let mut normed = tile(&mut kept, items.nrows(), items.ncols());
            norm.apply(items.view(), &mut normed);
            normed
        });
        let (mut first, mut all_cost) = (0, 0_usize);
        for (item, length) in lengths.enumerate() {
            let own = s![first..first + length, ..];
            let normed = normed.as_ref().map(|normed| normed.slice(own));
            let rows = items.slice_mut(own);
            let input = normed.unwrap_or(rows.view());
            self.attention
                .compress_item(shared, input, None, real(item), &mut workspace.context)?;
            let context = &workspace.context;
            let cost = self.cost(length);
            workspace.for_each_tile(rows, cost, |space, range, mut rows| match &normed {
                Some(normed) => {
                    let first = range.start;
                    space.take(normed.slice(s![range, ..]), None);
                    self.attend_taken(&mut rows, (context, first), space);
                }
                None => self.attend(&mut rows, (context, range.start), space),
            });
            first += length;
            all_cost = all_cost.saturating_add(cost);
        }
        workspace.context.normed = kept;
        if let Some(feed_forward) = &self.feed_forward {
            workspace.for_each_tile(items, all_cost, |space, _, mut rows| {
                feed_forward.add_in_place(self.placement, &mut rows, space);
            });
        }
        Ok(())
    }

    /// The block's second half on one item's rows, in place; keys and values are those in the workspace.
    pub(crate) fn attend_item(&self, mut rows: ArrayViewMut2<'_, A>, workspace: &Workspace<A>) {
        let context = &workspace.context;
        let cost = self.cost(rows.nrows());
        workspace.for_each_tile(rows.view_mut(), cost, |space, range, mut rows| {
            self.attend(&mut rows, (context, range.start), space);
            if let Some(feed_forward) = &self.feed_forward {
                feed_forward.add_in_place(self.placement, &mut rows, space);
            }
        });
    }

    /// The reversible form on one item's rows of two streams: first += attention(norm(second)), then second += feed-forward(norm(first)).
    pub(crate) fn apply_reversible(
        &self,
        first: ArrayViewMut2<'_, A>,
        second: ArrayViewMut2<'_, A>,
        shared: Option<&Projections<A>>,
        real: Option<ArrayView1<'_, bool>>,
        workspace: &mut Workspace<A>,
    ) -> Result<()> {
        let norm = Some(&self.attention_norm);
        self.attention
            .compress_item(shared, second.view(), norm, real, &mut workspace.context)?;
        self.attend_reversible(first, second, workspace);
        Ok(())
    }

    /// The second half of the reversible form; keys and values are those in the workspace.
    pub(crate) fn attend_reversible(&self, first: ArrayViewMut2<'_, A>, mut second: ArrayViewMut2<'_, A>, workspace: &Workspace<A>) {
        let norm = Some(&self.attention_norm);
        let context = &workspace.context;
        let cost = self.cost(first.nrows());
        workspace.for_each_tile_of_two(first, second.view_mut(), cost, |space, start, mut first, mut second| {
            space.take(second.view(), norm);
            self.attention.add_tile((context, start), RowsMut::of(first.view_mut()), space);
            if let Some(feed_forward) = &self.feed_forward {
                space.take(first.view(), Some(feed_forward.norm()));
                feed_forward.apply(space, true, &mut second);
            }
        });
    }

    /// The attention's norm, where it comes first.
    pub(crate) fn first_norm(&self) -> Option<&LayerNorm<A>> {
        self.placement.first(&self.attention_norm)
    }

    /// rows ← rows + attention(norm(rows)), or norm(rows + attention(rows)).
    fn attend(&self, rows: &mut ArrayViewMut2<'_, A>, context: (&ContextSpace<A>, usize), space: &mut TileSpace<A>) {
        space.take(rows.view(), self.first_norm());
        self.attend_taken(rows, context, space);
    }

    /// [`attend`](Self::attend), given the rows that the attention reads.
    fn attend_taken(&self, rows: &mut ArrayViewMut2<'_, A>, context: (&ContextSpace<A>, usize), space: &mut TileSpace<A>) {
        self.attention.add_tile(context, RowsMut::of(rows.view_mut()), space);
        if self.placement == NormPlacement::Post {
            self.attention_norm.apply_in_place(rows);
        }
    }

    /// Multiplications of the block's second, tile-wise half on an item of `length` rows.
    pub(crate) fn cost(&self, length: usize) -> usize {
        let feed_forward = self.feed_forward.as_ref().map_or(0, |feed_forward| {
            feed_forward.layer().input().weight().len() + feed_forward.layer().output().weight().len()
        });
        parallel::cost(&[length, self.attention.attend_cost(length).saturating_add(feed_forward)])
    }
}

/// Whole sequences instead of tiles, with the attention that the caller gives: causal attention, where a row's place decides what it sees,
/// and attention to another sequence.
impl<A: Scalar> EncoderBlock<A> {
    /// The block on the residual stream, with `attend` for its attention.
    pub(crate) fn apply_around(&self, stream: Array3<A>, attend: impl FnOnce(&ArrayRef3<A>) -> Result<Array3<A>>) -> Result<Array3<A>> {
        let placement = self.placement();
        let mut sum = match placement {
            NormPlacement::Pre => attend(&self.attention_norm().forward(&stream)?)?,
            NormPlacement::Post => attend(&stream)?,
        };
        sum += &stream;
        drop(stream);
        if placement == NormPlacement::Post {
            sum = self.attention_norm().forward(&sum)?;
        }
        match self.feed_forward() {
            Some(feed_forward) => feed_forward.apply_whole(placement, sum),
            None => Ok(sum),
        }
    }

    /// The reversible form on two streams: first += attention(norm(second)), then second += feed-forward(norm(first)).
    pub(crate) fn apply_reversible_around(
        &self,
        first: &mut Array3<A>,
        second: &mut Array3<A>,
        attend: impl FnOnce(&ArrayRef3<A>) -> Result<Array3<A>>,
    ) -> Result<()> {
        *first += &attend(&self.attention_norm().forward(second)?)?;
        if let Some(feed_forward) = self.feed_forward() {
            *second += &feed_forward.layer().forward(&feed_forward.norm().forward(first)?)?;
        }
        Ok(())
    }

    /// The block on one stream, or on two where it is reversible.
    pub(in crate::blocks) fn around(
        &self,
        streams: (Array3<A>, Option<Array3<A>>),
        attend: impl FnOnce(&ArrayRef3<A>) -> Result<Array3<A>>,
    ) -> Result<(Array3<A>, Option<Array3<A>>)> {
        match streams {
            (stream, None) => Ok((self.apply_around(stream, attend)?, None)),
            (mut first, Some(mut second)) => {
                self.apply_reversible_around(&mut first, &mut second, attend)?;
                Ok((first, Some(second)))
            }
        }
    }
}
