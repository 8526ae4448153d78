//! Softmax-weighted sums over some of a row's keys, to be added up.

use std::ops::Range;

use crate::ops::{RowsMut, Tile, rescale_and_add};
use crate::scalar::Scalar;

/// Σ exp(x − max)·v over some of a row's keys, with the maxima and the sums of the exponentials.
#[derive(Debug, Default)]
pub(super) struct Partial<A> {
    pub(super) maxima: Vec<A>,
    pub(super) sums: Vec<A>,
    /// (rows, `head_dim`).
    pub(super) products: Vec<A>,
}

impl<A: Scalar> Partial<A> {
    /// The empty sum of `rows` rows.
    pub(super) fn reset(&mut self, rows: usize, head_dim: usize) {
        refill(&mut self.maxima, rows, A::neg_infinity());
        refill(&mut self.sums, rows, A::zero());
        refill(&mut self.products, rows * head_dim, A::zero());
    }

    /// Replaces the sums by what the products are to be multiplied by; a row of no weight at all has no sum to divide by.
    pub(super) fn invert_sums(&mut self) {
        for sum in &mut self.sums {
            *sum = if *sum == A::zero() { A::one() } else { A::one() / *sum };
        }
    }
}

/// [`Partial`] sums over any number of keys, in `f64`: there may be millions.
#[derive(Debug, Default)]
pub(super) struct Total<A> {
    maxima: Vec<A>,
    sums: Vec<f64>,
    /// (rows, `head_dim`).
    products: Vec<f64>,
}

impl<A: Scalar> Total<A> {
    /// The empty sum of `rows` rows.
    pub(super) fn reset(&mut self, rows: usize, head_dim: usize) {
        refill(&mut self.maxima, rows, A::neg_infinity());
        refill(&mut self.sums, rows, 0.0);
        refill(&mut self.products, rows * head_dim, 0.0);
    }

    /// Adds the sums over some more keys.
    pub(super) fn add(&mut self, other: &Partial<A>, head_dim: usize) {
        let ours = self
            .maxima
            .iter_mut()
            .zip(&mut self.sums)
            .zip(self.products.chunks_exact_mut(head_dim));
        let theirs = other.maxima.iter().zip(&other.sums).zip(other.products.chunks_exact(head_dim));
        for (((max, sum), row), ((&other_max, &other_sum), other_row)) in ours.zip(theirs) {
            // A NaN becomes the maximum and stays it, so that it reaches the result as it does without blocks.
            let both = if other_max > *max || other_max.is_nan() { other_max } else { *max };
            let (factor, other_factor) = (relative(*max, both), relative(other_max, both));
            rescale_and_add(row, factor, other_row, other_factor);
            *sum = *sum * factor + other_sum.widen() * other_factor;
            *max = both;
        }
    }

    /// Calls `put` with each row's products, and what makes quotients of them; a row of no weight at all has no sum to divide by.
    pub(super) fn for_each_row(&self, head_dim: usize, mut put: impl FnMut(usize, &[f64], f64)) {
        for (row, (&sum, products)) in self.sums.iter().zip(self.products.chunks_exact(head_dim)).enumerate() {
            put(row, products, if sum == 0.0 { 1.0 } else { 1.0 / sum });
        }
    }

    /// Writes columns `columns` of the quotients.
    pub(super) fn write_quotients(&self, head_dim: usize, columns: Range<usize>, to: RowsMut<'_, A>) {
        self.for_each_row(head_dim, |row, products, factor| {
            let to = &mut to.data[row * to.stride..];
            for (to, product) in to.iter_mut().zip(&products[columns.clone()]) {
                *to = A::cast(product * factor);
            }
        });
    }
}

/// Scratch space for one head of a tile.
#[derive(Debug)]
pub(crate) struct HeadScratch<A> {
    pub(super) scores: Tile<A>,
    /// The sums of the latest block, and those of all blocks so far.
    pub(super) latest: Partial<A>,
    pub(super) total: Total<A>,
}

impl<A: Scalar> Default for HeadScratch<A> {
    fn default() -> Self {
        Self {
            scores: Tile::default(),
            latest: Partial::default(),
            total: Total::default(),
        }
    }
}

fn refill<T: Clone>(numbers: &mut Vec<T>, size: usize, start: T) {
    numbers.clear();
    numbers.resize(size, start);
}

/// exp(max − larger), which is 1 where both are −∞ or both +∞.
fn relative<A: Scalar>(max: A, larger: A) -> f64 {
    if max == larger {
        1.0
    } else {
        libm::exp(max.widen() - larger.widen())
    }
}
