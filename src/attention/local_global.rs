//! Attention that is exact near by and in summary far away.

use std::ops::Range;

use ndarray::{Array1, Array2, Array3, ArrayRef3, ArrayView1, ArrayView2, Axis, s};

use super::exact::ExactAttention;
use super::mask::{PaddingMask, one_past_last};
use super::weights::AttentionWeights;
use super::workspace::{ContextSpace, TileSpace, Workspace};
use crate::config::{LocalGlobalConfig, PoolingQuery};
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, check_width};
use crate::ops::{RowsMut, Runs, Tile, TileRows};
use crate::parallel;
use crate::parameters::parameters;
use crate::scalar::Scalar;

mod backward;
mod block;
mod conversion;
mod cut;
mod decoding;
mod histogram;
mod item;
mod map;
mod packed;
mod seams;
mod shard;
mod shard_backward;
mod training;

pub(crate) use conversion::MeanInput;
use conversion::zero_query;
use cut::Cut;
pub(crate) use decoding::{SegmentShape, SegmentState};
pub(crate) use item::{ItemContext, ItemScratch};
pub(crate) use packed::{BlockScratch, PackedItem};

/// Multi-head attention in O(n·(3·block + slots)): exact over a window of blocks, joined in one softmax with summaries of what is outside it.
///
/// The sequence is cut into blocks, and into segments as [`LocalGlobalConfig`] describes. A row of block t sees every key of the blocks t − 1 to
/// t + 1, and one slot for each segment s that has positions outside them. With the importance aⱼ = ⟨u, kⱼ⟩/√`head_dim` of position j, and pⱼ its softmax
/// over the segment, the slot is K̄ = Σ pⱼ·kⱼ, V̄ = Σ pⱼ·vⱼ, and its logit
///
/// ⟨q, K̄⟩/√`head_dim` + log Σ exp(aⱼ) − ⟨u, K̄⟩/√`head_dim` + shift,
///
/// where the sum goes over the positions of the segment that are outside the window. The slot so has the mass of its positions, and not that of one: its
/// logit is the tangent, at q = u, of log Σ exp(⟨q, kⱼ⟩/√`head_dim`), which is what the positions would have had together, and is never above it. A segment
/// that the window cuts, of several blocks, keeps the K̄ and V̄ of the whole, so that both hold for it only nearly.
///
/// Without a shift the result is exact attention's up to two blocks (with the window), with one position a segment, and, as far as the window cuts
/// no segment, where all queries are u.
/// Padding has neither keys nor a part in summaries; positions, and with them the blocks' bounds, stay where they are.
///
/// With [`AttentionConfig::causal`](crate::AttentionConfig::causal) a row of block t sees the keys of block t − 1 and of its own block up to itself, and
/// the slots of complete segments before these, whose lengths grow with their distance: see [`LocalGlobalConfig`]. What comes later, NaN or
/// not, then has no influence (a longer sequence may change the rounding), and a [`LanguageModel`](crate::LanguageModel) continues texts with a cache of as many rows as one row sees.
///
/// ```
/// use linformer::{LocalGlobalAttention, LocalGlobalConfig, PaddingMask};
/// use linformer::ndarray::Array3;
///
/// let layer = LocalGlobalAttention::<f32>::new(&LocalGlobalConfig::new(64, 4), 0)?;
/// let x = Array3::from_shape_fn((2, 300, 64), |(_, t, i)| ((t * 64 + i) as f32).sin());
/// let mask = PaddingMask::from_lengths(&[300, 170], 300)?;
/// assert_eq!(layer.forward(&x, Some(&mask))?.dim(), (2, 300, 64));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LocalGlobalAttention<A = f32> {
    config: LocalGlobalConfig,
    layer: ExactAttention<A>,
    /// u, (heads, `head_dim`), or what is added to the mean query; `None` without slots.
    pooling_query: Option<Array2<A>>,
}

parameters!(LocalGlobalAttention { pooling_query } flat { layer });

impl<A: Scalar> LocalGlobalAttention<A> {
    /// Creates a layer with randomly initialized weights and u = 0.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no layer.
    pub fn new(config: &LocalGlobalConfig, seed: u64) -> Result<Self> {
        config.check()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    pub(crate) fn init(config: &LocalGlobalConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            layer: ExactAttention::init(&config.attention, streams),
            pooling_query: zero_query(config),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &LocalGlobalConfig {
        &self.config
    }

    /// Returns u, (heads, `head_dim`), the query at which segments are summarized, or what is added to the mean query; `None` without slots.
    pub fn pooling_query(&self) -> Option<ArrayView2<'_, A>> {
        self.pooling_query.as_ref().map(|query| query.view())
    }

    pub(crate) fn weights(&self) -> &AttentionWeights<A> {
        self.layer.weights()
    }

    /// Applies self-attention: (batch, n, dim) → (batch, n, dim). Any n.
    ///
    /// An item without a real position gives the output bias everywhere.
    ///
    /// # Errors
    /// Returns an error if `x` has another width or the mask another shape.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        const OPERATION: &str = "LocalGlobalAttention::forward";
        check_width(OPERATION, "x", x, self.config.attention.dim)?;
        checked_len(OPERATION, x.shape(), size_of::<A>())?;
        let mut out = Array3::zeros(x.dim());
        self.forward_items(OPERATION, x, mask, &mut out, &mut Workspace::new())?;
        Ok(out)
    }

    /// Computes [`forward`](Self::forward) into an array of x's shape, in memory that is kept from call to call.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if `out` has another shape or is not in standard layout.
    pub fn forward_into(
        &self,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        out: &mut Array3<A>,
        workspace: &mut Workspace<A>,
    ) -> Result<()> {
        const OPERATION: &str = "LocalGlobalAttention::forward_into";
        let (batch, length, dim) = x.dim();
        check_width(OPERATION, "x", x, self.config.attention.dim)?;
        if out.dim() != x.dim() || !out.is_standard_layout() {
            let expected = format!("({batch}, {length}, {dim}), in standard layout");
            return Err(Error::shape(OPERATION, "out", expected, out.shape()));
        }
        self.forward_items(OPERATION, x, mask, out, workspace)
    }

    fn forward_items(
        &self,
        operation: &'static str,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
        out: &mut Array3<A>,
        workspace: &mut Workspace<A>,
    ) -> Result<()> {
        let (batch, length, _) = x.dim();
        PaddingMask::check(mask, operation, batch, length)?;
        let cost = parallel::cost(&[batch, length, self.attend_cost()]);
        workspace.for_each_item(out.view_mut(), cost, |workspace, item, out| {
            let x = x.index_axis(Axis(0), item);
            self.compress_item(x, None, mask.map(|mask| mask.item(item)), &mut workspace.context)?;
            let context = &workspace.context;
            workspace.for_each_tile(out, cost / batch, |space, rows, out| {
                space.take(x.slice(s![rows.clone(), ..]), None);
                let TileSpace { x, local_global, .. } = space;
                self.attend_tile(x.rows(), (context, rows.start), false, RowsMut::of(out), local_global);
            });
            Ok(())
        })
    }

    /// Makes the packed keys, values and summaries of one item's rows, normed if a norm comes first.
    pub(crate) fn compress_item(
        &self,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        space: &mut ContextSpace<A>,
    ) -> Result<()> {
        let ContextSpace {
            local_global: (item, packed, scratch),
            normed,
            ..
        } = space;
        self.summarize_item(rows, norm, real, (item, scratch), normed)?;
        packed.repack(item);
        Ok(())
    }

    /// Makes the keys, values and summaries of one item's rows.
    fn summarize_item(
        &self,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        (item, scratch): (&mut ItemContext<A>, &mut ItemScratch<A>),
        normed: &mut Vec<A>,
    ) -> Result<()> {
        let length = real.map_or(rows.nrows(), one_past_last);
        let cut = Cut::new(&self.config, length, rows.nrows());
        let own = OwnRows {
            rows,
            norm,
            real,
            first: 0,
            held: 0..length,
        };
        let sums = self.fill_item(&own, cut, (item, scratch), normed)?;
        self.pool_item(item, &sums, scratch);
        Ok(())
    }

    /// Makes the keys and values of some rows of an item, and returns the sums of the real ones where the mean query counts.
    fn fill_item(
        &self,
        own: &OwnRows<'_, A>,
        cut: Cut,
        (item, scratch): (&mut ItemContext<A>, &mut ItemScratch<A>),
        normed: &mut Vec<A>,
    ) -> Result<Vec<f64>> {
        let attention = &self.config.attention;
        let held = own.held.clone();
        checked_len("LocalGlobalAttention", &[held.len(), attention.key_value_dim()], size_of::<A>())?;
        item.begin(cut, held.clone(), own.real, (attention.kv_heads, attention.effective_head_dim()));
        scratch.prepare();
        let AttentionWeights { key, value, .. } = self.weights();
        let mut sums = match self.config.pooling_query {
            PoolingQuery::Fixed => Vec::new(),
            PoolingQuery::MeanOfItem => vec![0.0; attention.dim],
        };
        let mut add = |rows: ArrayView2<'_, A>, first: usize| {
            let rows = rows.slice(s![..rows.nrows().min(held.len().saturating_sub(first)), ..]);
            item.add_rows(rows, own.first + first, key, value.as_ref(), scratch);
            item.add_to_sums(rows, own.first + first, &mut sums);
        };
        match own.norm {
            None => add(own.rows, 0),
            Some(norm) => ContextSpace::normed(normed, own.rows, norm, |rows, range| {
                add(rows, range.start);
                Ok(())
            })?,
        }
        Ok(sums)
    }

    /// Summarizes the segments of an item, given the sums of its rows where the mean query counts.
    #[allow(clippy::cast_precision_loss)] // a length
    fn pool_item(&self, item: &mut ItemContext<A>, sums: &[f64], scratch: &ItemScratch<A>) {
        let is_fixed = self.config.pooling_query == PoolingQuery::Fixed || item.count == 0;
        let mean = (!is_fixed).then(|| sums.iter().map(|sum| A::cast(sum / item.count as f64)).collect());
        let shift = A::cast(self.config.shift_of(item.count));
        item.pool(self.pooling_queries(mean), shift, scratch);
    }

    /// u of every query head, given the mean row where its query counts; nothing without slots.
    fn pooling_queries(&self, mean: Option<Array1<A>>) -> impl Iterator<Item = A> {
        let mean = mean.map(|mean| self.weights().query.forward_rows(mean.view().insert_axis(Axis(0))));
        let own = self.pooling_query.iter().flatten().copied().enumerate();
        own.map(move |(index, own)| match &mean {
            Some(mean) => own + mean[[0, index]],
            None => own,
        })
    }

    /// `out` ← or += the attention of the rows of `x`, the first of which is row `first` of the item in `context`.
    pub(crate) fn attend_tile(
        &self,
        x: TileRows<'_, A>,
        (context, first): (&ContextSpace<A>, usize),
        adds: bool,
        out: RowsMut<'_, A>,
        scratch: &mut LocalGlobalScratch<A>,
    ) {
        let LocalGlobalScratch { queries, factor, block } = scratch;
        let weights = self.weights();
        let heads = weights.heads;
        weights.query.apply_runs(x, Runs::of_units(heads, weights.head_dim()), queries);
        let (item, packed, _) = &context.local_global;
        packed.attend(item, first, heads, queries, block);
        match &weights.output_factor {
            None => weights.output.apply_tile(queries.rows(), adds, out),
            Some(first) => {
                first.apply_runs(queries.rows(), Runs::of(first.out_dim()), factor);
                weights.output.apply_tile(factor.rows(), adds, out);
            }
        }
    }

    /// Multiplications of a row, with the weights of queries and outputs.
    pub(crate) fn attend_cost(&self) -> usize {
        let attention = &self.config.attention;
        let seen = self.config.rows_seen(0).saturating_add(attention.dim);
        attention.query_dim().saturating_mul(seen).saturating_mul(2)
    }
}

impl<A: Scalar> ContextSpace<A> {
    /// Takes over what the rows of an item see.
    pub(crate) fn take_item(&mut self, context: ItemContext<A>) {
        let (item, packed, _) = &mut self.local_global;
        packed.repack(&context);
        *item = context;
    }
}

/// Rows of which the keys and values of an item are made.
struct OwnRows<'r, A> {
    rows: ArrayView2<'r, A>,
    /// The norm that comes first, if one does.
    norm: Option<&'r LayerNorm<A>>,
    real: Option<ArrayView1<'r, bool>>,
    /// The position of the first.
    first: usize,
    /// The positions up to the last real one of the item.
    held: Range<usize>,
}

/// Scratch space for one tile of rows.
#[derive(Debug)]
pub(crate) struct LocalGlobalScratch<A> {
    queries: Tile<A>,
    factor: Tile<A>,
    block: BlockScratch<A>,
}

impl<A: Scalar> Default for LocalGlobalScratch<A> {
    fn default() -> Self {
        Self {
            queries: Tile::default(),
            factor: Tile::default(),
            block: BlockScratch::default(),
        }
    }
}
