//! Exact attention, O(n²): the reference.

use ndarray::{Array2, Array3, Array4, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut3, Axis, s};

use super::compressed::Compressed;
use super::linformer::LinformerAttention;
use super::mask::PaddingMask;
use super::weights::AttentionWeights;
use super::workspace::ContextSpace;
use crate::config::AttentionConfig;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, TILE, check_width, for_each_tile, tile_rows};
use crate::ops::{Scratch, gemm};
use crate::parallel;
use crate::parameters::parameters;
use crate::scalar::Scalar;

mod causal;
mod cross;
mod key_values;
mod training;

/// Tiles that share out evenly enough among the threads of a large machine.
const MANY_TILES: usize = 16;

/// Multi-head attention in O(n²): softmax(Q·Kᵀ/√`head_dim`)·V (Vaswani et al., arXiv 1706.03762).
///
/// The reference that Linformer attention approximates, for comparison and for models that mix both. The memory for scores does not grow with n: only
/// [`forward_materialized`](Self::forward_materialized) and [`attention_map`](Self::attention_map) hold all n² of them.
///
/// ```
/// use linformer::{AttentionConfig, ExactAttention, PaddingMask};
/// use linformer::ndarray::Array3;
///
/// let layer = ExactAttention::<f32>::new(&AttentionConfig::new(64, 4), 0)?;
/// let x = Array3::from_elem((2, 100, 64), 0.5);
/// let mask = PaddingMask::from_lengths(&[100, 70], 100)?;
/// assert_eq!(layer.forward(&x, Some(&mask))?.dim(), (2, 100, 64));
///
/// // Three queries that attend to another sequence.
/// let queries = Array3::zeros((2, 3, 64));
/// assert_eq!(layer.attend(&queries, &x, Some(&mask))?.dim(), (2, 3, 64));
///
/// // Each weighs the real positions alike here, and padding not at all.
/// let map = layer.attention_map(&queries, &x, Some(&mask))?;
/// assert!((map[[1, 0, 0, 69]] - 1.0 / 70.0).abs() < 1e-6);
/// assert_eq!(map[[1, 0, 0, 70]], 0.0);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct ExactAttention<A = f32> {
    config: AttentionConfig,
    weights: AttentionWeights<A>,
}

parameters!(ExactAttention { } flat { weights });

impl<A: Scalar> ExactAttention<A> {
    /// Creates a layer with randomly initialized weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no layer.
    pub fn new(config: &AttentionConfig, seed: u64) -> Result<Self> {
        config.check()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    pub(crate) fn init(config: &AttentionConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            weights: AttentionWeights::init(config, streams),
        }
    }

    /// Returns the exact layer with the weights of a Linformer layer, without its projections.
    pub fn from_linformer(layer: &LinformerAttention<A>) -> Self {
        Self {
            config: layer.config().attention.clone(),
            weights: layer.weights().clone(),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &AttentionConfig {
        &self.config
    }

    pub(crate) fn weights(&self) -> &AttentionWeights<A> {
        &self.weights
    }

    /// Applies self-attention: (batch, n, dim) → (batch, n, dim), with the scores made block by block and never stored.
    ///
    /// An item without a real position gives the output bias everywhere. With [`AttentionConfig::causal`] a row sees nothing after itself.
    ///
    /// # Errors
    /// Returns an error if `x` has another width or the mask another shape.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.attend(x, x, mask)
    }

    /// Returns attention of `queries` (batch, m, dim) to `context` (batch, n, dim), whose mask is `mask` (batch, n): (batch, m, dim).
    ///
    /// Scores are made block by block of keys and never stored. An item without a real position to attend to gives the output bias.
    /// With [`AttentionConfig::causal`] the queries are those of the last m of the n positions, and see nothing after their own.
    ///
    /// # Errors
    /// Returns an error if a sequence has another width or batch, if the mask has another shape, or if there are more causal queries than positions.
    pub fn attend(&self, queries: &ArrayRef3<A>, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        const OPERATION: &str = "ExactAttention::attend";
        self.check(OPERATION, queries, context, mask)?;
        let length = context.dim().1;
        let context = self.context(context, mask)?;
        if self.config.causal {
            return self.attend_causal(OPERATION, queries, context, length, mask);
        }
        self.attend_to(OPERATION, queries, &context)
    }

    /// Computes [`forward`](Self::forward) in the textbook's form: all scores are stored, then their softmax, which is multiplied by V.
    ///
    /// It takes (batch, heads, n, n) numbers and gives what `forward` gives, to rounding: the reference of the reference.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if the scores are larger than memory can address.
    pub fn forward_materialized(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        const OPERATION: &str = "ExactAttention::forward_materialized";
        let (map, context) = self.dense_map(OPERATION, x, x, mask)?;
        let (heads, head_dim) = (self.config.heads, self.config.effective_head_dim());
        let (batch, length, _) = x.dim();
        let cost = parallel::cost(&[batch, length, self.attend_cost(length)]);
        let mut output = Array3::zeros(x.dim());
        for_each_tile(output.view_mut(), TILE, cost, |item, rows, mut out| {
            let context = context.item(item);
            let mut results = Array2::zeros((rows.len(), self.config.query_dim()));
            for head in 0..heads {
                let (_, values) = context.head(head, heads);
                let map = map.slice(s![item, head, rows.clone(), ..context.count]);
                let mut results = results.slice_mut(s![.., head * head_dim..(head + 1) * head_dim]);
                gemm(A::one(), map, values, A::zero(), &mut results);
            }
            self.weights
                .apply_output(results.view(), &mut out, &mut Vec::new(), &mut Scratch::default());
        });
        Ok(output)
    }

    /// Returns P = softmax(Q·Kᵀ/√`head_dim`) of `queries` (batch, m, dim) and `context` (batch, n, dim): (batch, heads, m, n).
    ///
    /// Column t belongs to position t of `context`; it is 0 where that is padding. Every row sums to 1, or to 0 where all is padding.
    /// Only with [`AttentionConfig::masked_keys_stay`] padding takes its share.
    ///
    /// # Errors
    /// Returns an error as [`attend`](Self::attend) does, or if the map is larger than memory can address.
    pub fn attention_map(&self, queries: &ArrayRef3<A>, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array4<A>> {
        let (mut map, context) = self.dense_map("ExactAttention::attention_map", queries, context, mask)?;
        if let Some(mask) = mask {
            for (item, map) in map.outer_iter_mut().enumerate() {
                spread_columns(map, mask.item(item), context.slots[item]);
            }
        }
        Ok(map)
    }

    /// The attention map with the columns of the real positions side by side, and the keys and values in the same order.
    fn dense_map(
        &self,
        operation: &'static str,
        queries: &ArrayRef3<A>,
        context: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<(Array4<A>, Compressed<A>)> {
        self.check(operation, queries, context, mask)?;
        let ((batch, rows, _), (_, length, _)) = (queries.dim(), context.dim());
        // Before keys and values take memory of their own.
        checked_len(operation, &[batch, self.config.heads, rows, length], size_of::<A>())?;
        let context = self.context(context, mask)?;
        if self.config.causal {
            let context = self.causal_context(operation, context, (rows, length), mask)?;
            return Ok((self.weights.causal_map(operation, queries, &context)?, context.keys));
        }
        let map = self.weights.attention_map(operation, queries, &context)?;
        Ok((map, context))
    }

    fn check(&self, operation: &'static str, queries: &ArrayRef3<A>, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<()> {
        let dim = self.config.dim;
        check_width(operation, "queries", queries, dim)?;
        check_width(operation, "context", context, dim)?;
        let (batch, length, _) = context.dim();
        if queries.dim().0 != batch {
            let expected = format!("({batch}, any length, {dim}), one item for each of the context's");
            return Err(Error::shape(operation, "queries", expected, queries.shape()));
        }
        PaddingMask::check(mask, operation, batch, length)
    }

    /// Keys and values of the real positions of `context`.
    pub(super) fn context(&self, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Compressed<A>> {
        let (batch, length, _) = context.dim();
        let mut rows = self.key_values(batch, length)?;
        rows.push(context.view(), |item| mask.map(|mask| mask.item(item)));
        Ok(rows.finish())
    }

    /// Makes the packed keys and values of one item's rows, normed if a norm comes first.
    pub(crate) fn compress_item(
        &self,
        rows: ArrayView2<'_, A>,
        norm: Option<&LayerNorm<A>>,
        real: Option<ArrayView1<'_, bool>>,
        space: &mut ContextSpace<A>,
    ) -> Result<()> {
        let mut collected = self.key_values(1, rows.nrows())?;
        let mut push = |rows: ArrayView2<'_, A>| collected.push(rows.insert_axis(Axis(0)), |_| real);
        match norm {
            None => push(rows),
            Some(norm) => ContextSpace::normed(&mut space.normed, rows, norm, |rows, _| {
                push(rows);
                Ok(())
            })?,
        }
        let Compressed { keys, values, slots, .. } = &collected.finish();
        space.packed.repack(keys.view(), values.view(), None, slots);
        Ok(())
    }

    pub(crate) fn weights_mut(&mut self) -> &mut AttentionWeights<A> {
        &mut self.weights
    }

    /// Multiplications of a query row that attends to `length` keys.
    pub(crate) fn attend_cost(&self, length: usize) -> usize {
        2 * self.config.query_dim().saturating_mul(self.config.dim.saturating_add(length))
    }
}

/// How many of `rows` query rows make a tile. Each tile reads all keys and values, so large ones are faster where enough of them are left
/// to keep many threads busy.
pub(super) fn query_tile(rows: usize) -> usize {
    if rows >= MANY_TILES * 2 * TILE { 2 * TILE } else { tile_rows(rows) }
}

/// Moves the first columns of a map (heads, m, n), those of the real positions, to where these positions are.
fn spread_columns<A: Scalar>(mut map: ArrayViewMut3<'_, A>, real: ArrayView1<'_, bool>, slots: usize) {
    let positions: Vec<usize> = (0..real.len()).filter(|&position| real[position]).collect();
    let in_place = positions.last().is_none_or(|last| last + 1 == positions.len());
    if in_place || positions.len() != slots {
        return;
    }
    for mut row in map.rows_mut() {
        // From the end: a position is never before its slot, so nothing is overwritten that is still to move.
        for (slot, &position) in positions.iter().enumerate().rev() {
            row.swap(slot, position);
        }
    }
}
