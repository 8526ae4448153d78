//! Few keys: W_Q multiplied into them and W_O into their values, so that all heads' scores are one product of the rows, and the result another.
//!
//! softmax((x·W_Q)·K̄ᵀ)·V̄·W_O is softmax(x·(W_Q·K̄ᵀ))·(V̄·W_O), head by head. A row takes 2·heads·k·dim multiplications so, and
//! 2·`head_dim`·heads·(dim + k) otherwise.

use ndarray::ArrayView2;

use super::heads::{ItemKeyValues, scale};
use super::partial::{HeadScratch, Partial};
use crate::layers::Linear;
use crate::ops::{Output, PackedMatrix, RowsMut, Runs, SEGMENT, Tile, TileRows, exp_rows, scale_rows, softmax_groups};
use crate::parallel::{self, Chunks, Pool, for_each_part};
use crate::scalar::Scalar;

/// The extra cost of the softmax of one head over that of all heads at once, in multiplications.
const HEAD_COST: usize = 256;

/// Multiplications, most of them by zero, that take less time than a product for every head.
const TOGETHER: usize = 1 << 15;

/// The keys and values of one item, all heads side by side.
#[derive(Debug)]
pub(super) struct FoldedKeyValues<A> {
    heads: usize,
    slots: usize,
    /// W_Q·K̄ᵀ/√`head_dim`, one for each run of heads: (dim, slots of these heads).
    keys: Vec<PackedMatrix<A>>,
    /// b_Q·K̄ᵀ/√`head_dim`, (heads·slots); nothing without a b_Q.
    biases: Vec<A>,
    /// V̄·W_O, (heads·slots, dim).
    values: PackedMatrix<A>,
    /// Memory for the products.
    product: Vec<A>,
    tiles: Pool<Tile<A>>,
}

impl<A: Scalar> Default for FoldedKeyValues<A> {
    fn default() -> Self {
        Self {
            heads: 0,
            slots: 0,
            keys: Vec::new(),
            biases: Vec::new(),
            values: PackedMatrix::default(),
            product: Vec::new(),
            tiles: Pool::default(),
        }
    }
}

/// Whether it takes fewer multiplications to fold the weights into `slots` keys for `rows` rows, and the scores of a tile take no more
/// memory than its queries would.
pub(super) fn folds<A: Scalar>(query: &Linear<A>, heads: usize, slots: usize, rows: usize) -> bool {
    let (query_dim, dim) = (query.out_dim(), query.in_dim());
    let scores = heads.saturating_mul(slots);
    if slots == 0 || slots > SEGMENT || scores > query_dim.max(dim) {
        return false;
    }
    let (apart, folded) = (query_dim * (dim + slots), scores * dim);
    apart > folded && rows.saturating_mul(apart - folded).saturating_add(heads * HEAD_COST) > query_dim * dim * slots
}

impl<A: Scalar> FoldedKeyValues<A> {
    /// Replaces everything by W_Q and W_O multiplied into the keys and values of `item`, without allocating where the memory suffices.
    pub(super) fn refold(&mut self, query: &Linear<A>, output: &Linear<A>, heads: usize, item: ItemKeyValues<'_, A>) {
        (self.heads, self.slots) = (heads, item.count);
        self.tiles.prepare();
        query.prepare_back();
        output.prepare();
        let dim = query.in_dim();
        let head_dim = item.keys.dim().2;

        self.multiply(
            dim,
            |head| item.head(head, heads).0,
            |keys, head, to| {
                query.back_tile(keys, head * head_dim, 0..dim, Output::Set, to);
            },
        );
        let runs = Runs::of_units(heads, self.slots);
        self.keys.resize_with(runs.count().max(self.keys.len()), PackedMatrix::default);
        for (index, keys) in self.keys.iter_mut().take(runs.count()).enumerate() {
            let range = runs.range(index);
            let rows = &self.product[range.start * dim..range.end * dim];
            let rows = ArrayView2::from_shape((range.len(), dim), rows).expect("the slice has this size");
            keys.repack(rows.t(), scale(head_dim));
        }
        self.biases.clear();
        if let Some(bias) = query.bias() {
            for (head, bias) in bias.exact_chunks(head_dim).into_iter().enumerate() {
                let (keys, _) = item.head(head, heads);
                self.biases
                    .extend(keys.rows().into_iter().map(|key| key.dot(&bias) * scale(head_dim)));
            }
        }

        self.multiply(
            dim,
            |head| item.head(head, heads).1,
            |values, head, to| {
                output.multiply_part(values, head * head_dim, to);
            },
        );
        let rows = &self.product[..heads * self.slots * dim];
        let rows = ArrayView2::from_shape((heads * self.slots, dim), rows).expect("the slice has this size");
        self.values.repack(rows, A::one());
    }

    /// Fills the products, `dim` wide, of every head's `operand`, (slots, `head_dim`).
    fn multiply<'c>(
        &mut self,
        dim: usize,
        operand: impl Fn(usize) -> ArrayView2<'c, A> + Sync,
        product: impl Fn(TileRows<'_, A>, usize, RowsMut<'_, A>) + Sync,
    ) {
        let len = self.heads * self.slots * dim;
        if self.product.len() < len {
            self.product.resize(len, A::zero());
        }
        let features = self.heads * operand(0).ncols();
        if features <= SEGMENT && parallel::cost(&[len, features]) <= TOGETHER {
            let (heads, data) = (self.heads, &mut self.product[..len]);
            self.tiles.with(|tile| {
                tile.fill_diagonal(heads, &operand);
                product(tile.rows(), 0, RowsMut { data, stride: dim });
            });
            // 0·∞ is NaN: the infinite weight of one head must not reach the others.
            if self.product[..len].iter().all(|x| x.is_finite()) {
                return;
            }
        }
        let parts = Chunks {
            slice: &mut self.product[..len],
            size: self.slots * dim,
        };
        let cost = parallel::cost(&[len, operand(0).ncols()]);
        for_each_part(parts, cost, |head, part| {
            self.tiles.with(|tile| {
                let operand = operand(head);
                tile.fill(operand, Runs::of(operand.ncols()));
                let to = RowsMut {
                    data: part.slice,
                    stride: dim,
                };
                product(tile.rows(), head, to);
            });
        });
    }

    /// `out` ← or += the attention of the rows of `x`, with the output's bias.
    pub(super) fn attend(&self, x: TileRows<'_, A>, output: Output<'_, A>, out: RowsMut<'_, A>, scratch: &mut HeadScratch<A>) {
        let HeadScratch {
            scores, latest: partial, ..
        } = scratch;
        let runs = Runs::of_units(self.heads, self.slots);
        scores.reshape(x.nrows(), runs);
        for (index, keys) in self.keys.iter().take(runs.count()).enumerate() {
            let range = runs.range(index);
            let bias = self.biases.get(range.clone());
            keys.multiply_tile(x, 0, 0..range.len(), Output::set(bias), scores.run_mut(index));
        }
        if !self.softmax_of_all(scores) {
            self.softmax_by_heads(scores, partial);
        }
        self.values.multiply_tile(scores.rows(), 0, 0..self.values.dim().1, output, out);
    }

    /// The softmax of all heads' scores at once; whether they are made for it.
    fn softmax_of_all(&self, scores: &mut Tile<A>) -> bool {
        let rows = scores.nrows();
        let mut done = true;
        for index in 0..scores.runs().count() {
            let cols = scores.runs().range(index).len();
            let RowsMut { data, stride } = scores.run_mut(index);
            done &= softmax_groups(&mut data[..rows * stride], cols, self.slots, stride);
        }
        done
    }

    fn softmax_by_heads(&self, scores: &mut Tile<A>, partial: &mut Partial<A>) {
        partial.reset(scores.nrows(), 0);
        for head in 0..self.heads {
            scores.unit_runs_mut(head, |columns, RowsMut { data, stride }| {
                exp_rows(data, columns.len(), stride, &mut partial.maxima, &mut partial.sums);
                partial.invert_sums();
                scale_rows(data, columns.len(), stride, &partial.sums);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::key_values::PackedKeyValues;
    use super::*;
    use crate::config::{AttentionConfig, LinformerConfig};
    use crate::{LinformerAttention, PaddingMask, Parameters};
    use ndarray::Array3;

    fn layer(attention: AttentionConfig, k: usize) -> LinformerAttention<f64> {
        let mut config = LinformerConfig::new(attention.dim, attention.heads, 700, k);
        config.attention = attention;
        let mut layer = LinformerAttention::new(&config, 3).unwrap();
        let mut count = 0.0;
        layer.visit_mut("", &mut |_, _, mut weight| {
            weight.mapv_inplace(|value| {
                count += 1.0;
                value + 0.1 * f64::sin(count)
            });
        });
        layer
    }

    /// Runs of several heads and of one, biases, heads that share keys, heads wider than dim / heads; masked, too.
    #[test]
    fn folded_weights_give_what_they_give_apart() {
        let biased = |dim, heads| {
            AttentionConfig::new(dim, heads)
                .with_query_bias(true)
                .with_key_value_bias(true, true)
        };
        let few = biased(12, 3);
        for (attention, k) in [
            (few.clone(), 4),
            (few.clone().with_kv_heads(1), 3),
            (few.clone().with_head_dim(Some(20)), 1),
            (few.with_output_bias(false), 2),
            (biased(640, 5), 128),
            (biased(64, 4).with_kv_heads(2), 8),
            (AttentionConfig::new(16, 1), 11),
        ] {
            let (heads, dim) = (attention.heads, attention.dim);
            let layer = layer(attention, k);
            for length in [41, 700] {
                let x = Array3::from_shape_fn((1, length, dim), |(_, t, i)| ((t * dim + i) as f64 * 0.7).sin());
                let mask = PaddingMask::from_lengths(&[length - 9], length).unwrap();
                let worth_it = folds(layer.query(), heads, k, length);
                assert!(worth_it || length == 41 && dim == 640, "{heads} heads, k {k}, n {length}");
                for mask in [None, Some(&mask)] {
                    let expected = layer.attend(&x, &layer.compress(&x, mask).unwrap()).unwrap();
                    let found = layer.forward(&x, mask).unwrap();
                    let furthest = (&found - &expected).iter().fold(0.0, |most: f64, x| most.max(x.abs()));
                    assert!(furthest < 1e-12, "{heads} heads, k {k}, n {length}: {furthest}");
                }
            }
        }
    }

    /// All heads in one product multiply by zeros in the places of the other heads.
    #[test]
    fn an_infinite_weight_stays_in_its_head() {
        let mut layer = layer(AttentionConfig::new(4, 2), 1);
        layer.visit_mut("", &mut |name, _, mut weight| {
            if name == "output.weight" {
                weight[[1, 3]] = f64::INFINITY;
            }
        });
        let x = Array3::from_shape_fn((1, 300, 4), |(_, t, i)| ((t * 4 + i) as f64 * 0.7).sin());
        let found = layer.forward(&x, None).unwrap();
        assert!(folds(layer.query(), 2, 1, 300));
        assert!(found.iter().all(|value| !value.is_nan()));
        assert!(found.iter().any(|value| value.is_infinite()));
    }

    #[test]
    fn weights_stay_apart_where_folding_would_cost_more() {
        let layer = layer(AttentionConfig::new(64, 8), 8);
        for (slots, rows, expected) in [(8, 1000, true), (8, 8, false), (9, 1000, false), (0, 1000, false)] {
            assert_eq!(folds(layer.query(), 8, slots, rows), expected, "{slots} slots, {rows} rows");
        }
        // The packed operands follow it, and nothing folded outlives the next item.
        let context = layer.compress(&Array3::ones((1, 9, 64)), None).unwrap();
        let mut packed = PackedKeyValues::default();
        for rows in [1000, 8, 1000] {
            layer.weights().repack_for(rows, &context, &mut packed);
            assert_eq!(packed.folded().is_some(), rows == 1000);
        }
        packed.repack(context.keys(), context.values(), None, context.slots());
        assert!(packed.folded().is_none());
    }
}
