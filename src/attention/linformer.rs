//! Linformer attention: compress once, attend row by row.

use ndarray::{Array3, ArrayRef3};

use super::compressed::Compressed;
use super::compressor::{Compressor, Order, SequenceLengths};
use super::exact::ExactAttention;
use super::mask::PaddingMask;
use super::projection::Projections;
use super::weights::{AttendScratch, AttentionWeights};
use super::workspace::Workspace;
use crate::config::{LinformerConfig, ProjectionConfig, Sharing};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{Linear, check_width, map_tiles};
use crate::ops::{RowsMut, Runs, Tile};
use crate::parameters::parameters;
use crate::scalar::Scalar;

mod in_place;
mod maps;
mod training;

/// Multi-head attention in O(n·k): softmax(Q(E·K)ᵀ/√`head_dim`)·(F·V) (paper, equation 7).
///
/// ```
/// use linformer::{LinformerAttention, LinformerConfig, PaddingMask};
/// use linformer::ndarray::Array3;
///
/// let layer = LinformerAttention::<f32>::new(&LinformerConfig::new(64, 4, 1024, 32), 0)?;
/// let x = Array3::from_elem((2, 1000, 64), 0.5);
/// let mask = PaddingMask::from_lengths(&[1000, 700], 1000)?;
/// assert_eq!(layer.forward(&x, Some(&mask))?.dim(), (2, 1000, 64));
///
/// // One document, compressed once, answers any number of queries.
/// let document = layer.compress(&x, Some(&mask))?;
/// assert_eq!(layer.attend(&Array3::zeros((2, 3, 64)), &document)?.dim(), (2, 3, 64));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct LinformerAttention<A = f32> {
    config: LinformerConfig,
    weights: AttentionWeights<A>,
    /// `None` where an encoder owns one for all its layers.
    projections: Option<Projections<A>>,
}

parameters!(LinformerAttention { projections } flat { weights });

impl<A: Scalar> LinformerAttention<A> {
    /// Creates a layer with randomly initialized weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no layer, or if it has [`Sharing::Layerwise`], which takes an [`Encoder`](crate::Encoder).
    pub fn new(config: &LinformerConfig, seed: u64) -> Result<Self> {
        config.check()?;
        if config.projection.sharing == Some(Sharing::Layerwise) {
            return Err(Error::config(
                "sharing",
                "Layerwise",
                "one projection for all layers belongs to an Encoder; a layer by itself takes KeyValue",
            ));
        }
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    pub(crate) fn init(config: &LinformerConfig, streams: &mut Streams) -> Self {
        let owns_projections = config.projection.sharing != Some(Sharing::Layerwise);
        Self {
            config: config.clone(),
            weights: AttentionWeights::init(&config.attention, streams),
            projections: owns_projections.then(|| Projections::init(config, streams)),
        }
    }

    /// Returns the Linformer layer with the weights of an exact layer and with new projections, which compress up to `seq_len` positions to `k` rows.
    ///
    /// Heads, biases, tied keys and values and the output's rank are the exact layer's; its biases enter before the compression, as they enter every
    /// key and value there. With E = F = 1 and k = n the two layers compute the same. Padding leaves an empty slot then, of the score 0 and the value 0,
    /// as with [`AttentionConfig::masked_keys_stay`](crate::AttentionConfig::masked_keys_stay).
    ///
    /// ```
    /// use linformer::ndarray::Array3;
    /// use linformer::{AttentionConfig, ExactAttention, LinformerAttention, Parameters, ProjectionConfig};
    ///
    /// let exact = ExactAttention::<f64>::new(&AttentionConfig::new(8, 2), 0)?;
    /// let mut layer = LinformerAttention::from_exact(&exact, 5, 5, ProjectionConfig::default(), 1)?;
    /// layer.visit_mut("", &mut |name, _, mut tensor| {
    ///     if name.starts_with("projections") {
    ///         tensor.indexed_iter_mut().for_each(|(at, number)| *number = if at[0] == at[1] { 1.0 } else { 0.0 });
    ///     }
    /// });
    /// let x = Array3::from_shape_fn((1, 5, 8), |(_, t, i)| ((t * 8 + i) as f64).sin());
    /// let difference = layer.forward(&x, None)? - exact.forward(&x, None)?;
    /// assert!(difference.iter().all(|difference| difference.abs() < 1e-12));
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the exact layer is causal, since a compressed row mixes all positions, or if there is no layer with such a projection;
    /// [`Sharing::Layerwise`] takes an [`Encoder`](crate::Encoder).
    pub fn from_exact(layer: &ExactAttention<A>, seq_len: usize, k: usize, projection: ProjectionConfig, seed: u64) -> Result<Self> {
        let mut own = Self::new(&LinformerConfig::compressing(layer.config(), seq_len, k, projection), seed)?;
        own.weights = layer.weights().clone();
        Ok(own)
    }

    /// Returns the configuration.
    pub fn config(&self) -> &LinformerConfig {
        &self.config
    }

    /// Returns the layer's own projections; `None` where it uses its encoder's.
    pub fn projections(&self) -> Option<&Projections<A>> {
        self.projections.as_ref()
    }

    /// Returns W_Q, (heads·`head_dim`, dim).
    pub fn query(&self) -> &Linear<A> {
        &self.weights.query
    }

    /// Returns W_K, (`kv_heads`·`head_dim`, dim).
    pub fn key(&self) -> &Linear<A> {
        &self.weights.key
    }

    /// Returns W_V, (`kv_heads`·`head_dim`, dim); W_K itself where they are tied.
    pub fn value(&self) -> &Linear<A> {
        self.weights.value()
    }

    /// Returns W_O, (dim, heads·`head_dim`), or its second factor.
    pub fn output(&self) -> &Linear<A> {
        &self.weights.output
    }

    pub(crate) fn weights(&self) -> &AttentionWeights<A> {
        &self.weights
    }

    /// The weights, and the layer's own projections where it has them.
    pub(crate) fn parts_mut(&mut self) -> (&mut AttentionWeights<A>, Option<&mut Projections<A>>) {
        (&mut self.weights, self.projections.as_mut())
    }

    /// The layer's own projections, or the shared ones of its encoder.
    pub(crate) fn own_or<'p>(&'p self, shared: Option<&'p Projections<A>>) -> Result<&'p Projections<A>> {
        self.projections.as_ref().or(shared).ok_or_else(|| {
            Error::argument(
                "LinformerAttention",
                "this layer uses its encoder's projection (Sharing::Layerwise); run the encoder, or pass Encoder::projections() to compress_with, \
                 compressor_with or effective_map_with",
            )
        })
    }

    /// Applies self-attention: (batch, n, dim) → (batch, n, dim).
    ///
    /// Returns [`attend`](Self::attend) to the result of [`compress`](Self::compress), up to rounding: with few keys, W_Q and W_O are multiplied into
    /// them first, where that takes fewer multiplications.
    ///
    /// # Errors
    /// Returns an error if `x` has another width, if the mask has another shape, or if the sequence is longer than the projection allows.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        const OPERATION: &str = "LinformerAttention::forward";
        check_width(OPERATION, "x", x, self.config.attention.dim)?;
        let mut out = Array3::zeros(x.dim());
        self.forward_items(OPERATION, x, mask, &mut out, &mut Workspace::new())?;
        Ok(out)
    }

    /// Returns the compressed keys and values of `context` (batch, n, dim).
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn compress(&self, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Compressed<A>> {
        self.compress_with(self.own_or(None)?, context, mask)
    }

    /// Returns [`compress`](Self::compress) with the projections of an encoder that shares them among its layers.
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does.
    pub fn compress_with(&self, projections: &Projections<A>, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Compressed<A>> {
        let (batch, length, _) = context.dim();
        PaddingMask::check(mask, "LinformerAttention::compress", batch, length)?;
        let mut compressor = self.compressor_for(projections, batch, length, mask)?;
        compressor.push_last(context, mask)?;
        compressor.finish()
    }

    /// Returns a compressor of `batch` sequences, for streams and parts.
    ///
    /// # Errors
    /// Returns an error if the sizes overflow.
    pub fn compressor(&self, batch: usize) -> Result<Compressor<'_, A>> {
        self.compressor_with(self.own_or(None)?, batch)
    }

    /// Returns [`compressor`](Self::compressor) with the projections of an encoder that shares them among its layers.
    ///
    /// # Errors
    /// Returns an error if the sizes overflow.
    pub fn compressor_with<'a>(&'a self, projections: &'a Projections<A>, batch: usize) -> Result<Compressor<'a, A>> {
        projections.check("LinformerAttention::compressor_with", &self.config)?;
        Compressor::new(&self.config, &self.weights, projections, batch, Order::of(&self.config))
    }

    /// Returns [`compressor`](Self::compressor) with the order of multiplication given: tests compare the two.
    ///
    /// # Errors
    /// Returns an error if [`Order::CompressFirst`] is asked of a kind that does not commute with the weights (max pooling,
    /// convolutions over channels).
    #[doc(hidden)]
    pub fn compressor_in_order(&self, batch: usize, order: Order) -> Result<Compressor<'_, A>> {
        if order == Order::CompressFirst && !self.config.projection.commutes() {
            return Err(Error::argument(
                "LinformerAttention::compressor_in_order",
                "this kind of projection acts on keys and values, so the weights come first",
            ));
        }
        Compressor::new(&self.config, &self.weights, self.own_or(None)?, batch, order)
    }

    /// A compressor with the lengths of a batch.
    pub(crate) fn compressor_for<'a>(
        &'a self,
        projections: &'a Projections<A>,
        batch: usize,
        length: usize,
        mask: Option<&PaddingMask>,
    ) -> Result<Compressor<'a, A>> {
        self.with_lengths(self.compressor_with(projections, batch)?, length, mask)
    }

    /// `compressor` with the lengths of a batch, where its windows depend on them.
    pub(crate) fn with_lengths<'a>(
        &self,
        compressor: Compressor<'a, A>,
        length: usize,
        mask: Option<&PaddingMask>,
    ) -> Result<Compressor<'a, A>> {
        if !self.config.projection.pools() {
            return Ok(compressor);
        }
        compressor.with_lengths(match mask {
            None => SequenceLengths::Equal(length),
            Some(mask) => SequenceLengths::PerItem(mask.lengths().to_vec()),
        })
    }

    /// Returns attention of `queries` (batch, m, dim) to a compressed sequence: (batch, m, dim). Any m; each row by itself.
    ///
    /// # Errors
    /// Returns an error if `queries` has another width or another batch than `context`, or if `context` has the shape of another layer.
    pub fn attend(&self, queries: &ArrayRef3<A>, context: &Compressed<A>) -> Result<Array3<A>> {
        self.check_context("LinformerAttention::attend", queries, context)?;
        let packed = context.packed();
        map_tiles(
            "LinformerAttention::attend",
            queries,
            self.config.attention.dim,
            self.attend_cost(context.keys.dim().2),
            |(tile, scratch): &mut (Tile<A>, AttendScratch<A>), item, x, out| {
                tile.fill(x, Runs::of(x.ncols()));
                self.weights
                    .attend_tile(tile.rows(), (packed, item), false, RowsMut::of(out), scratch);
            },
        )
    }

    /// Multiplications of a query row that attends to `slots` slots.
    pub(crate) fn attend_cost(&self, slots: usize) -> usize {
        2 * self
            .config
            .attention
            .query_dim()
            .saturating_mul(self.config.attention.dim.saturating_add(slots))
    }

    /// Returns this layer for sequences of up to `new_len` positions: its learned E and F are interpolated linearly along the sequence, and each row
    /// keeps its sum.
    ///
    /// The result is another model: measure it before you rely on it.
    ///
    /// # Errors
    /// Returns an error if the projection is not learned or not the layer's own, or if the length is 0.
    pub fn extended(&self, new_len: usize) -> Result<Self> {
        let projections = self.own_or(None)?.extended(new_len)?;
        let mut config = self.config.clone();
        config.seq_len = new_len;
        Ok(Self {
            config,
            weights: self.weights.clone(),
            projections: Some(projections),
        })
    }

    fn check_context(&self, operation: &'static str, queries: &ArrayRef3<A>, context: &Compressed<A>) -> Result<()> {
        let attention = &self.config.attention;
        let heads = (self.config.compressed_heads(), attention.effective_head_dim());
        context.check_queries(operation, queries, attention.dim, heads)
    }
}
