//! Softmax-weighted sums over some of a row's keys, to be added up.

use std::ops::Range;

use crate::ops::RowsMut;
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
        for (numbers, size, start) in [
            (&mut self.maxima, rows, A::neg_infinity()),
            (&mut self.sums, rows, A::zero()),
            (&mut self.products, rows * head_dim, A::zero()),
        ] {
            numbers.clear();
            numbers.resize(size, start);
        }
    }

    /// Adds the sums over some more keys.
    pub(super) fn add(&mut self, other: &Self, head_dim: usize) {
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
            for (x, &other) in row.iter_mut().zip(other_row) {
                *x = *x * factor + other * other_factor;
            }
            *sum = *sum * factor + other_sum * other_factor;
            *max = both;
        }
    }

    /// Replaces the sums by what the products are to be multiplied by; a row of no weight at all has no sum to divide by.
    pub(super) fn invert_sums(&mut self) {
        for sum in &mut self.sums {
            *sum = if *sum == A::zero() { A::one() } else { A::one() / *sum };
        }
    }

    /// Writes columns `columns` of the products, times the inverted sums.
    pub(super) fn write_quotients(&self, head_dim: usize, columns: Range<usize>, to: RowsMut<'_, A>) {
        let rows = self.sums.iter().zip(self.products.chunks_exact(head_dim));
        for (to, (&factor, row)) in to.data.chunks_mut(to.stride).zip(rows) {
            for (to, &x) in to.iter_mut().zip(&row[columns.clone()]) {
                *to = x * factor;
            }
        }
    }
}

/// exp(max − larger), which is 1 where both are −∞ or both +∞.
fn relative<A: Scalar>(max: A, larger: A) -> A {
    if max == larger {
        A::one()
    } else {
        A::cast(libm::exp((max - larger).widen()))
    }
}
