//! The keys and values of sequences that come chunk by chunk.

use ndarray::{Array4, ArrayView1, ArrayView2, ArrayView3, ArrayViewMut3, Axis, s};

use super::super::compressed::Compressed;
use super::super::weights::{AttentionWeights, tile};
use super::ExactAttention;
use crate::error::{Result, checked_len};
use crate::layers::{Linear, TILE};
use crate::ops::Scratch;
use crate::parallel;
use crate::scalar::Scalar;

impl<A: Scalar> ExactAttention<A> {
    /// Allocates the keys and values of `batch` sequences of `length`.
    pub(crate) fn key_values(&self, batch: usize, length: usize) -> Result<KeyValueRows<'_, A>> {
        let shape = (batch, self.config.kv_heads, length, self.config.effective_head_dim());
        checked_len("ExactAttention", &[shape.0, shape.1, shape.2, shape.3], size_of::<A>())?;
        Ok(KeyValueRows {
            layer: self,
            filled: Compressed::of(Array4::zeros(shape), Array4::zeros(shape), vec![0; batch]),
            pushed: 0,
        })
    }
}

/// The keys and values of sequences that come chunk by chunk; padding is left out, or stays as zeros.
#[derive(Debug)]
pub(crate) struct KeyValueRows<'a, A> {
    layer: &'a ExactAttention<A>,
    filled: Compressed<A>,
    pushed: usize,
}

impl<A: Scalar> KeyValueRows<'_, A> {
    /// Adds the next rows; `mask` gives which positions of an item's whole sequence are real.
    pub(crate) fn push<'m>(&mut self, chunk: ArrayView3<'_, A>, mask: impl Fn(usize) -> Option<ArrayView1<'m, bool>>) {
        let (batch, length, dim) = chunk.dim();
        let AttentionWeights { key, value, .. } = &self.layer.weights;
        let stays = self.layer.config.masked_keys_stay;
        let Compressed { keys, values, slots, .. } = &mut self.filled;
        let mut tasks = Vec::new();
        for (item, (keys, values)) in keys.outer_iter_mut().zip(values.outer_iter_mut()).enumerate() {
            let (_, mut keys) = keys.split_at(Axis(1), slots[item]);
            let (_, mut values) = values.split_at(Axis(1), slots[item]);
            for start in (0..length).step_by(TILE) {
                let rows = start..length.min(start + TILE);
                let real = mask(item).and_then(|real| real_rows(real.slice(s![self.pushed + rows.start..self.pushed + rows.end])));
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
        // Idle threads take one product each of a single tile.
        let apart = tasks.len() == 1 && parallel::finds_idle_threads(cost);
        parallel::for_each_with(tasks, cost, |scratch: &mut RowScratch<A>, (x, real, mut keys, mut values)| {
            let mut copies = tile(&mut scratch.real, real.as_ref().map_or(0, Vec::len), dim);
            for (mut copy, &row) in copies.outer_iter_mut().zip(real.iter().flatten()) {
                copy.assign(&x.row(row));
            }
            let x = if real.is_some() { copies.view() } else { x };
            // Rows that stay as zeros are left as they were made.
            let places = real.as_deref().filter(|_| stays);
            let (for_keys, for_values) = &mut scratch.features;
            match value {
                Some(value) if apart => parallel::both(
                    cost,
                    || fill_heads(key, x, places, &mut keys, for_keys),
                    || fill_heads(value, x, places, &mut values, for_values),
                ),
                Some(value) => {
                    fill_heads(key, x, places, &mut keys, for_keys);
                    fill_heads(value, x, places, &mut values, for_keys);
                }
                None => {
                    fill_heads(key, x, places, &mut keys, for_keys);
                    values.assign(&keys);
                }
            }
        });
        self.pushed += length;
    }

    pub(crate) fn finish(self) -> Compressed<A> {
        self.filled
    }
}

/// Scratch space for one tile of keys and values.
struct RowScratch<A> {
    real: Vec<A>,
    /// Of keys and of values.
    features: (FeatureScratch<A>, FeatureScratch<A>),
}

/// The features of a tile before they go to their heads.
type FeatureScratch<A> = (Vec<A>, Scratch<A>);

impl<A: Scalar> Default for RowScratch<A> {
    fn default() -> Self {
        Self {
            real: Vec::new(),
            features: Default::default(),
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
