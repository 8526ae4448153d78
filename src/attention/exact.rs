//! Exact attention, O(n²): the reference.

use ndarray::{Array3, Array4, ArrayRef3, ArrayView3, s};

use super::compressed::Compressed;
use super::heads::TileScratch;
use super::linformer::LinformerAttention;
use super::mask::PaddingMask;
use super::weights::AttentionWeights;
use crate::config::AttentionConfig;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::layers::{check_width, map_tiles};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Multi-head attention in O(n²): softmax(Q·Kᵀ/√`head_dim`)·V (Vaswani et al., arXiv 1706.03762).
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
        Ok(Self::draw(config, &mut Streams::new(seed)))
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

    /// Self-attention: (batch, n, dim) → (batch, n, dim), with the scores made tile by tile and never stored.
    ///
    /// # Errors
    /// Another width, a mask of another shape.
    pub fn forward(&self, x: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        self.attend(x, x, mask)
    }

    /// Attention of `queries` (batch, m, dim) to `context` (batch, n, dim), whose mask is `mask`.
    ///
    /// # Errors
    /// Another width or batch, a mask of another shape.
    pub fn attend(&self, queries: &ArrayRef3<A>, context: &ArrayRef3<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        const OPERATION: &str = "ExactAttention::attend";
        check_width(OPERATION, "queries", queries, self.config.dim)?;
        check_width(OPERATION, "context", context, self.config.dim)?;
        let (batch, length, _) = context.dim();
        PaddingMask::check(mask, OPERATION, batch, length)?;
        if queries.dim().0 != batch {
            return Err(Error::shape(
                OPERATION,
                "queries",
                format!("({batch}, any length, {})", self.config.dim),
                queries.shape(),
            ));
        }
        let mut rows = self.key_values(batch, length)?;
        rows.push(context.view(), mask);
        let context = rows.finish();
        let cost = self.attend_cost(length);
        map_tiles(
            OPERATION,
            queries,
            self.config.dim,
            cost,
            TileScratch::new,
            |scratch, item, x, mut out| {
                self.weights.attend_rows(&self.config, x, context.item(item), &mut out, scratch);
            },
        )
    }

    /// Multiplications of a query row that attends to `length` keys.
    pub(crate) fn attend_cost(&self, length: usize) -> usize {
        2 * self.config.query_dim().saturating_mul(self.config.dim.saturating_add(length))
    }

    /// Room for the keys and values of `batch` sequences of `length`.
    pub(crate) fn key_values(&self, batch: usize, length: usize) -> Result<KeyValueRows<'_, A>> {
        let shape = [batch, self.config.kv_heads, length, self.config.effective_head_dim()];
        checked_len("ExactAttention", &shape, size_of::<A>())?;
        let zeros = Array4::zeros((shape[0], shape[1], shape[2], shape[3]));
        Ok(KeyValueRows {
            layer: self,
            filled: Compressed {
                keys: zeros.clone(),
                values: zeros,
                slots: vec![0; batch],
            },
            seen: 0,
        })
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
    /// Adds the next rows; `mask` is that of the whole sequence.
    pub(crate) fn push(&mut self, chunk: ArrayView3<'_, A>, mask: Option<&PaddingMask>) {
        let (batch, length, _) = chunk.dim();
        let weights = &self.layer.weights;
        let keys = weights.key.forward(&chunk).expect("the width was checked");
        let values = weights.value().forward(&chunk).expect("the width was checked");
        let (kv_heads, head_dim) = (self.filled.keys.dim().1, self.filled.keys.dim().3);
        for item in 0..batch {
            for row in 0..length {
                if mask.is_some_and(|mask| !mask.is_real(item, self.seen + row)) {
                    // A slot that is kept holds the zeros it was made of.
                    self.filled.slots[item] += usize::from(self.layer.config.masked_keys_stay);
                    continue;
                }
                let slot = self.filled.slots[item];
                for head in 0..kv_heads {
                    let columns = head * head_dim..(head + 1) * head_dim;
                    let target = s![item, head, slot, ..];
                    self.filled
                        .keys
                        .slice_mut(target)
                        .assign(&keys.slice(s![item, row, columns.clone()]));
                    self.filled.values.slice_mut(target).assign(&values.slice(s![item, row, columns]));
                }
                self.filled.slots[item] += 1;
            }
        }
        self.seen += length;
    }

    pub(crate) fn finish(self) -> Compressed<A> {
        self.filled
    }
}
