//! Exact attention, O(n²): the reference.

use ndarray::{Array2, Array3, Array4, ArrayRef3, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut3, Axis, s};

use super::compressed::Compressed;
use super::linformer::LinformerAttention;
use super::mask::PaddingMask;
use super::weights::{AttentionWeights, tile};
use super::workspace::ContextSpace;
use crate::config::AttentionConfig;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{LayerNorm, Linear, TILE, check_width, for_each_tile, tile_rows};
use crate::ops::{Scratch, gemm};
use crate::parallel;
use crate::parameters::parameters;
use crate::scalar::Scalar;
use crate::views::outer;

mod causal;
mod cross;

/// Tiles that share out evenly enough among the threads of a large machine.
const MANY_TILES: usize = 16;

/// Multi-head attention in O(n²): softmax(Q·Kᵀ/√`head_dim`)·V (Vaswani et al., arXiv 1706.03762).
///
/// What Linformer attention approximates, for comparison and for models that mix both. The memory for scores does not grow with n: only
/// [`forward_materialised`](Self::forward_materialised) and [`attention_map`](Self::attention_map) hold all n² of them.
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
    /// A layer with drawn weights.
    ///
    /// # Errors
    /// A configuration that describes no layer.
    pub fn new(config: &AttentionConfig, seed: u64) -> Result<Self> {
        config.check()?;
        Streams::drawn(seed, |streams| Self::draw(config, streams))
    }

    pub(crate) fn draw(config: &AttentionConfig, streams: &mut Streams) -> Self {
        Self {
            config: config.clone(),
            weights: AttentionWeights::draw(config, streams),
        }
    }

    /// The exact layer with the weights of a Linformer layer, without its projections.
    pub fn from_linformer(layer: &LinformerAttention<A>) -> Self {
        Self {
            config: layer.config().attention.clone(),
            weights: layer.weights().clone(),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &AttentionConfig {
        &self.config
    }

    pub(crate) fn weights(&self) -> &AttentionWeights<A> {
        &self.weights
    }

    /// Self-attention: (batch, n, dim) → (batch, n, dim), with the scores made block by block and never stored.
    ///
    /// An item without a real position gives the output bias everywhere. With [`AttentionConfig::causal`] a row sees nothing after itself.
    ///
    /// # Errors
    /// Another width, a mask of another shape.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.attend(x, x, mask)
    }

    /// Attention of `queries` (batch, m, dim) to `context` (batch, n, dim), whose mask is `mask` (batch, n): (batch, m, dim).
    ///
    /// Scores are made block by block of keys and never stored. An item without a real position to attend to gives the output bias.
    /// With [`AttentionConfig::causal`] the queries are those of the last m of the n positions, and see nothing after their own.
    ///
    /// # Errors
    /// Another width or batch, a mask of another shape; more causal queries than positions.
    pub fn attend(&self, queries: &ArrayRef3<A>, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        const OPERATION: &str = "ExactAttention::attend";
        self.check(OPERATION, queries, context, mask)?;
        let length = context.dim().1;
        let context = self.context(context, mask)?;
        if self.config.causal {
            return self.attend_past(OPERATION, queries, context, length, mask);
        }
        self.attend_to(OPERATION, queries, &context)
    }

    /// [`forward`](Self::forward) in the textbook's form: all scores are stored, then their softmax, which is multiplied by V.
    ///
    /// It takes (batch, heads, n, n) numbers and gives what `forward` gives, to rounding: the reference of the reference.
    ///
    /// # Errors
    /// As [`forward`](Self::forward); scores that memory cannot address.
    pub fn forward_materialised(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        const OPERATION: &str = "ExactAttention::forward_materialised";
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

    /// P = softmax(Q·Kᵀ/√`head_dim`) of `queries` (batch, m, dim) and `context` (batch, n, dim): (batch, heads, m, n).
    ///
    /// Column t belongs to position t of `context`; it is 0 where that is padding. Every row sums to 1, or to 0 where all is padding.
    /// Only with [`AttentionConfig::masked_keys_stay`] padding takes its share.
    ///
    /// # Errors
    /// As [`attend`](Self::attend); a map that memory cannot address.
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
            let past = self.past(operation, context, (rows, length), mask)?;
            return Ok((self.weights.causal_map(operation, &self.config, queries, &past)?, past.keys));
        }
        let map = self.weights.attention_map(operation, &self.config, queries, &context)?;
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
        space.packed.repack(&collected.finish());
        Ok(())
    }

    pub(crate) fn weights_mut(&mut self) -> &mut AttentionWeights<A> {
        &mut self.weights
    }

    /// Multiplications of a query row that attends to `length` keys.
    pub(crate) fn attend_cost(&self, length: usize) -> usize {
        2 * self.config.query_dim().saturating_mul(self.config.dim.saturating_add(length))
    }

    /// Room for the keys and values of `batch` sequences of `length`.
    pub(crate) fn key_values(&self, batch: usize, length: usize) -> Result<KeyValueRows<'_, A>> {
        let shape = (batch, self.config.kv_heads, length, self.config.effective_head_dim());
        checked_len("ExactAttention", &[shape.0, shape.1, shape.2, shape.3], size_of::<A>())?;
        Ok(KeyValueRows {
            layer: self,
            filled: Compressed::of(Array4::zeros(shape), Array4::zeros(shape), vec![0; batch]),
            seen: 0,
        })
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

/// The keys and values of sequences that come chunk by chunk; padding is left out, or stays as zeros.
#[derive(Debug)]
pub(crate) struct KeyValueRows<'a, A> {
    layer: &'a ExactAttention<A>,
    filled: Compressed<A>,
    seen: usize,
}

impl<A: Scalar> KeyValueRows<'_, A> {
    /// Adds the next rows; `mask` gives which positions of an item's whole sequence are real.
    pub(crate) fn push<'m>(&mut self, chunk: ArrayView3<'_, A>, mask: impl Fn(usize) -> Option<ArrayView1<'m, bool>>) {
        let (batch, length, dim) = chunk.dim();
        let AttentionWeights { key, value, .. } = &self.layer.weights;
        let stays = self.layer.config.masked_keys_stay;
        let Compressed { keys, values, slots, .. } = &mut self.filled;
        let mut tasks = Vec::new();
        for (item, (keys, values)) in outer(keys.view_mut()).into_iter().zip(outer(values.view_mut())).enumerate() {
            let (_, mut keys) = keys.split_at(Axis(1), slots[item]);
            let (_, mut values) = values.split_at(Axis(1), slots[item]);
            for start in (0..length).step_by(TILE) {
                let rows = start..length.min(start + TILE);
                let real = mask(item).and_then(|real| real_rows(real.slice(s![self.seen + rows.start..self.seen + rows.end])));
                let count = real.as_ref().filter(|_| !stays).map_or(rows.len(), Vec::len);
                let x = chunk.slice(s![item, rows, ..]);
                let (tile_keys, other_keys) = keys.split_at(Axis(1), count);
                let (tile_values, other_values) = values.split_at(Axis(1), count);
                (keys, values) = (other_keys, other_values);
                slots[item] += count;
                tasks.push((x, real, tile_keys, tile_values));
            }
        }
        let cost = parallel::cost(&[batch, length, dim, 2 * key.out_dim()]);
        parallel::for_each_with(tasks, cost, |scratch: &mut RowScratch<A>, (x, real, mut keys, mut values)| {
            let mut copies = tile(&mut scratch.real, real.as_ref().map_or(0, Vec::len), dim);
            for (mut copy, &row) in copies.outer_iter_mut().zip(real.iter().flatten()) {
                copy.assign(&x.row(row));
            }
            let x = if real.is_some() { copies.view() } else { x };
            // What stays as zeros is left as it was made.
            let places = real.as_deref().filter(|_| stays);
            fill_heads(key, x, places, &mut keys, &mut scratch.features);
            match value {
                Some(value) => fill_heads(value, x, places, &mut values, &mut scratch.features),
                None => values.assign(&keys),
            }
        });
        self.seen += length;
    }

    pub(crate) fn finish(self) -> Compressed<A> {
        self.filled
    }
}

/// Scratch space for one tile of keys and values.
struct RowScratch<A> {
    real: Vec<A>,
    features: FeatureScratch<A>,
}

/// The features of a tile before they go to their heads.
type FeatureScratch<A> = (Vec<A>, Scratch<A>);

impl<A: Scalar> Default for RowScratch<A> {
    fn default() -> Self {
        Self {
            real: Vec::new(),
            features: (Vec::new(), Scratch::default()),
        }
    }
}

/// Which rows of a tile are real; `None` where all are.
fn real_rows(real: ArrayView1<'_, bool>) -> Option<Vec<usize>> {
    let rows: Vec<usize> = (0..real.len()).filter(|&row| real[row]).collect();
    (rows.len() < real.len()).then_some(rows)
}

/// Fills `out` (heads, slots, `head_dim`) with the features of the rows of `x`: in order, or each at its place.
fn fill_heads<A: Scalar>(
    linear: &Linear<A>,
    x: ArrayView2<'_, A>,
    places: Option<&[usize]>,
    out: &mut ArrayViewMut3<'_, A>,
    (features, products): &mut FeatureScratch<A>,
) {
    let head_dim = out.dim().2;
    let mut features = tile(features, x.nrows(), linear.out_dim());
    linear.apply(x, &mut features, products);
    for (head, mut out) in out.outer_iter_mut().enumerate() {
        let features = features.slice(s![.., head * head_dim..(head + 1) * head_dim]);
        match places {
            None => out.assign(&features),
            Some(places) => {
                for (row, &place) in features.outer_iter().zip(places) {
                    out.row_mut(place).assign(&row);
                }
            }
        }
    }
}
