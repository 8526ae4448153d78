//! Attention pooling: sets of positions, each summarized by its softmax at one query.
//!
//! With the importance aⱼ = ⟨u, kⱼ⟩/√`head_dim` of position j, a set's summary is (m, Z, Σ eⱼ·kⱼ, Σ eⱼ·vⱼ), where m = max aⱼ, eⱼ = exp(aⱼ − m) and
//! Z = Σ eⱼ. Two summaries of disjoint sets merge exactly. So that neither chunks nor threads nor machines change a bit, the summary of an aligned
//! power of two of positions is always the merge of its halves, down to single positions; padding is empty.
//!
//! A query q gives a set the logit ⟨q, K̄⟩/√`head_dim` + log-mass, the tangent at q = u of the convex log Σ exp(⟨q, kⱼ⟩/√`head_dim`).

use crate::ops::softmax_rows;
use crate::scalar::Scalar;

mod backward;

pub(super) use backward::{Known, Means, RowGradients, SegmentGradients, known_backward, part_backward, segment_backward};

/// Summaries of sets of positions, one after the other, of one head.
#[derive(Clone, Debug, Default)]
pub(crate) struct Summaries<A> {
    head_dim: usize,
    maxima: Vec<A>,
    /// Z; 0 for an empty set.
    masses: Vec<A>,
    /// (sets, 2·`head_dim`): Σ e·k and Σ e·v.
    sums: Vec<A>,
}

impl<A: Scalar> Summaries<A> {
    /// No sets, of a head of this width; the memory is kept.
    pub(crate) fn reset(&mut self, head_dim: usize) {
        self.head_dim = head_dim;
        self.maxima.clear();
        self.masses.clear();
        self.sums.clear();
    }

    pub(crate) fn head_dim(&self) -> usize {
        self.head_dim
    }

    pub(crate) fn len(&self) -> usize {
        self.masses.len()
    }

    /// Adds a set of one position.
    pub(crate) fn push_position(&mut self, importance: A, key: &[A], value: &[A]) {
        self.maxima.push(importance);
        self.masses.push(A::one());
        self.sums.extend_from_slice(key);
        self.sums.extend_from_slice(value);
    }

    /// Adds an empty set.
    pub(crate) fn push_empty(&mut self) {
        self.maxima.push(A::neg_infinity());
        self.masses.push(A::zero());
        self.sums.resize(self.masses.len() * 2 * self.head_dim, A::zero());
    }

    /// Adds a copy of set `index` of `other`.
    pub(crate) fn push_copy(&mut self, other: &Self, index: usize) {
        self.maxima.push(other.maxima[index]);
        self.masses.push(other.masses[index]);
        self.sums.extend_from_slice(other.sums(index));
    }

    /// Merges sets 2i and 2i + 1 from set `first` on; a last one without a partner stays.
    pub(crate) fn halve_from(&mut self, first: usize) {
        let width = 2 * self.head_dim;
        let count = self.len() - first;
        for pair in 0..count.div_ceil(2) {
            let (to, left) = (first + pair, first + 2 * pair);
            if to != left {
                self.maxima[to] = self.maxima[left];
                self.masses[to] = self.masses[left];
                self.sums.copy_within(left * width..(left + 1) * width, to * width);
            }
            if left + 1 < first + count {
                self.merge_within(to, left + 1);
            }
        }
        self.truncate(first + count.div_ceil(2));
    }

    /// Merges set `other`, which comes later, into set `to`.
    pub(crate) fn merge_within(&mut self, to: usize, other: usize) {
        let width = 2 * self.head_dim;
        let (ours, theirs) = self.sums.split_at_mut(other * width);
        let merged = merge(
            (self.maxima[to], self.masses[to], &mut ours[to * width..][..width]),
            (self.maxima[other], self.masses[other], &theirs[..width]),
        );
        (self.maxima[to], self.masses[to]) = merged;
    }

    /// Merges the last set into the one before it.
    pub(crate) fn merge_last(&mut self) {
        let last = self.len() - 1;
        self.merge_within(last - 1, last);
        self.truncate(last);
    }

    /// Puts a copy of set `from` in the place of set `to`.
    pub(crate) fn copy_within(&mut self, from: usize, to: usize) {
        let width = 2 * self.head_dim;
        self.maxima[to] = self.maxima[from];
        self.masses[to] = self.masses[from];
        self.sums.copy_within(from * width..(from + 1) * width, to * width);
    }

    /// The largest importance of each set; −∞ of empty ones.
    pub(crate) fn maxima(&self) -> &[A] {
        &self.maxima
    }

    /// Makes masses and sums relative to `maxima`, which are no smaller than their own; for sums over parts of the same sets.
    pub(crate) fn rescale(&mut self, maxima: &[A]) {
        let sums = self.sums.chunks_exact_mut((2 * self.head_dim).max(1));
        for (((own, mass), sums), &maximum) in self.maxima.iter_mut().zip(&mut self.masses).zip(sums).zip(maxima) {
            if *mass != A::zero() {
                let factor = exp_below(*own, maximum);
                *mass *= factor;
                for sum in sums {
                    *sum *= factor;
                }
            }
            *own = maximum;
        }
    }

    /// All masses, and all sums, relative to the maxima.
    pub(crate) fn masses_and_sums(&mut self) -> [&mut [A]; 2] {
        [&mut self.masses, &mut self.sums]
    }

    pub(crate) fn truncate(&mut self, count: usize) {
        self.maxima.truncate(count);
        self.masses.truncate(count);
        self.sums.truncate(count * 2 * self.head_dim);
    }

    /// Removes set `index`.
    pub(crate) fn remove(&mut self, index: usize) {
        let width = 2 * self.head_dim;
        self.maxima.remove(index);
        self.masses.remove(index);
        self.sums.drain(index * width..(index + 1) * width);
    }

    /// log Σ exp(aⱼ) of a set; −∞ of an empty one.
    pub(crate) fn log_mass(&self, index: usize) -> A {
        log_mass(self.maxima[index], self.masses[index])
    }

    /// Writes K̄ and V̄ of a set, zeros of an empty one.
    pub(crate) fn write_means(&self, index: usize, keys: &mut [A], values: &mut [A]) {
        let mass = self.masses[index];
        let (key_sums, value_sums) = self.sums(index).split_at(self.head_dim);
        for (to, from) in [(keys, key_sums), (values, value_sums)] {
            for (to, &sum) in to.iter_mut().zip(from) {
                *to = if mass == A::zero() { A::zero() } else { sum / mass };
            }
        }
    }

    fn sums(&self, index: usize) -> &[A] {
        let width = 2 * self.head_dim;
        &self.sums[index * width..][..width]
    }
}

/// m + log Z; −∞ without mass.
pub(super) fn log_mass<A: Scalar>(maximum: A, mass: A) -> A {
    if mass == A::zero() {
        return A::neg_infinity();
    }
    A::cast(maximum.widen() + libm::log(mass.widen()))
}

/// log Σ exp of log-masses; −∞ of none.
pub(super) fn log_sum<A: Scalar>(masses: impl Iterator<Item = A> + Clone) -> A {
    let maximum = masses
        .clone()
        .fold(A::neg_infinity(), |max, mass| if mass > max || mass.is_nan() { mass } else { max });
    if maximum == A::neg_infinity() {
        return maximum;
    }
    let sum: f64 = masses.map(|mass| libm::exp(mass.widen() - maximum.widen())).sum();
    A::cast(maximum.widen() + libm::log(sum))
}

/// Merges the second set into the sums of the first; returns the maximum and the mass of both.
fn merge<A: Scalar>((max, mass, sums): (A, A, &mut [A]), (other_max, other_mass, other_sums): (A, A, &[A])) -> (A, A) {
    if other_mass == A::zero() {
        return (max, mass);
    }
    if mass == A::zero() {
        sums.copy_from_slice(other_sums);
        return (other_max, other_mass);
    }
    // A NaN becomes the maximum and stays it.
    let both = if other_max > max || other_max.is_nan() { other_max } else { max };
    let (factor, other_factor) = (exp_below(max, both), exp_below(other_max, both));
    for (sum, &other) in sums.iter_mut().zip(other_sums) {
        *sum = *sum * factor + other * other_factor;
    }
    (both, mass * factor + other_mass * other_factor)
}

/// exp(x − larger), which is 1 where both are the same infinity.
pub(super) fn exp_below<A: Scalar>(x: A, larger: A) -> A {
    if x == larger {
        A::one()
    } else {
        A::cast(libm::exp(x.widen() - larger.widen()))
    }
}

/// ⟨u, k⟩·`scale`, summed in lanes whose number depends on nothing.
pub(super) fn importance<A: Scalar>(query: &[A], key: &[A], scale: A) -> A {
    const LANES: usize = 8;
    let mut lanes = [A::zero(); LANES];
    let ((queries, query_rest), (keys, key_rest)) = (query.as_chunks::<LANES>(), key.as_chunks::<LANES>());
    for (query, key) in queries.iter().zip(keys) {
        for lane in 0..LANES {
            lanes[lane] += query[lane] * key[lane];
        }
    }
    for (lane, (&query, &key)) in lanes.iter_mut().zip(query_rest.iter().zip(key_rest)) {
        *lane += query * key;
    }
    let [a, b, c, d, e, f, g, h] = lanes;
    (((a + e) + (c + g)) + ((b + f) + (d + h))) * scale
}

/// The positions of one head whose sets are to be made: row j of the keys, (real positions, `head_dim`), is that of the j-th real position.
#[derive(Clone, Copy)]
pub(super) struct HeadRows<'a, A> {
    pub(super) keys: &'a [A],
    pub(super) values: &'a [A],
    /// u.
    pub(super) query: &'a [A],
    pub(super) scale: A,
}

impl<A: Scalar> HeadRows<'_, A> {
    pub(super) fn key(&self, row: usize) -> &[A] {
        let width = self.query.len();
        &self.keys[row * width..][..width]
    }

    pub(super) fn value(&self, row: usize) -> &[A] {
        let width = self.query.len();
        &self.values[row * width..][..width]
    }

    /// ⟨u, k⟩·`scale`.
    pub(super) fn importance(&self, key: &[A]) -> A {
        importance(self.query, key, self.scale)
    }

    /// Adds one set of as many positions as `rows` has, a power of two: [`push_segments`](Self::push_segments) in less memory.
    pub(super) fn push_set(&self, rows: impl Iterator<Item = Option<usize>>, to: &mut Summaries<A>) {
        for (index, row) in rows.enumerate() {
            match row {
                Some(row) => to.push_position(self.importance(self.key(row)), self.key(row), self.value(row)),
                None => to.push_empty(),
            }
            // As many sets as the position ends.
            for _ in 0..(index + 1).trailing_zeros() {
                to.merge_last();
            }
        }
    }

    /// Adds the sets of `segment` positions each, a power of two, that `rows` makes up; it gives the row of each position in turn, `None` for padding.
    pub(super) fn push_segments(&self, rows: impl ExactSizeIterator<Item = Option<usize>>, segment: usize, to: &mut Summaries<A>) {
        let first = to.len();
        for row in rows {
            match row {
                Some(row) => to.push_position(self.importance(self.key(row)), self.key(row), self.value(row)),
                None => to.push_empty(),
            }
        }
        for _ in 0..segment.ilog2() {
            to.halve_from(first);
        }
    }
}

/// The softmax over some rows of their importance: how much of V̄ comes from each.
pub(super) fn position_shares<A: Scalar>(rows: &HeadRows<'_, A>, range: std::ops::Range<usize>) -> Vec<A> {
    let mut shares: Vec<A> = range.map(|row| rows.importance(rows.key(row))).collect();
    let count = shares.len();
    softmax_rows(&mut shares, count);
    shares
}
