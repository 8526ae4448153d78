//! The way back from summaries to keys, values and the query u.

use super::{HeadRows, Summaries, exp_below, importance};
use crate::scalar::Scalar;

/// The gradients of one segment's K̄ and V̄, and of what its log-mass added to logits.
#[derive(Clone, Copy)]
pub(crate) struct SegmentGradients<'g, A> {
    pub(crate) keys: &'g [A],
    pub(crate) values: &'g [A],
    /// Σ of the gradients of all logits that the segment had a part in.
    pub(crate) logits: A,
}

/// What the gradients of one head's rows are added to.
pub(crate) struct RowGradients<'g, A> {
    /// (real positions, `head_dim`) each.
    pub(crate) keys: &'g mut [A],
    pub(crate) values: &'g mut [A],
    /// Of u: one term for each position.
    pub(crate) query: &'g mut [f64],
}

/// The largest importance of some rows and, relative to it, their mass, and with it their K̄ and V̄.
#[derive(Debug, Default)]
pub(crate) struct Means<A> {
    importances: Vec<A>,
    maximum: A,
    mass: A,
    keys: Vec<A>,
    values: Vec<A>,
}

/// Adds the gradients of the rows `first..first + count` of one segment. `share` gives, for a row, Σ of the gradients of those logits that counted
/// its mass, each over the mass that it counted, relative to exp of the largest importance, which it gets.
pub(crate) fn segment_backward<A: Scalar>(
    rows: &HeadRows<'_, A>,
    range: std::ops::Range<usize>,
    grads: &SegmentGradients<'_, A>,
    share: impl Fn(usize, A) -> A,
    means: &mut Means<A>,
    to: &mut RowGradients<'_, A>,
) {
    if range.is_empty() {
        return;
    }
    means.take(rows, range.clone());
    add_rows(rows, range, grads, share, means, to);
    for (dquery, &mean) in to.query.iter_mut().zip(&means.keys) {
        *dquery -= (rows.scale * grads.logits * mean).widen();
    }
}

/// Adds the gradients of the rows `range` of a segment that may have more, given the summary of all of them, whose whole mass every logit counted.
///
/// −⟨u, K̄⟩ in the log-mass is a function of u itself, too: that is left out of its gradient here, since it is there once for all rows.
pub(crate) fn part_backward<A: Scalar>(
    rows: &HeadRows<'_, A>,
    range: std::ops::Range<usize>,
    grads: &SegmentGradients<'_, A>,
    (summaries, index): (&Summaries<A>, usize),
    means: &mut Means<A>,
    to: &mut RowGradients<'_, A>,
) {
    if range.is_empty() {
        return;
    }
    means.take_importances(rows, range.clone());
    means.take_summary(summaries, index);
    let share = grads.logits / means.mass;
    add_rows(rows, range, grads, |_, _| share, means, to);
}

/// What is known of all rows of a segment.
pub(crate) struct Known<'k, A> {
    /// log Σ exp of their importances.
    pub(crate) log_mass: A,
    pub(crate) keys: &'k [A],
    pub(crate) values: &'k [A],
}

/// [`part_backward`] where logits counted some of the mass: `share` gives, for a row, Σ of the gradients of those that counted its mass, each over the
/// share of the whole mass that it counted.
pub(crate) fn known_backward<A: Scalar>(
    rows: &HeadRows<'_, A>,
    range: std::ops::Range<usize>,
    grads: &SegmentGradients<'_, A>,
    share: impl Fn(usize) -> A,
    known: &Known<'_, A>,
    means: &mut Means<A>,
    to: &mut RowGradients<'_, A>,
) {
    if range.is_empty() {
        return;
    }
    means.take_importances(rows, range.clone());
    means.take_known(known);
    add_rows(rows, range, grads, |row, _| share(row), means, to);
}

/// [`segment_backward`] through the rows only.
fn add_rows<A: Scalar>(
    rows: &HeadRows<'_, A>,
    range: std::ops::Range<usize>,
    grads: &SegmentGradients<'_, A>,
    share: impl Fn(usize, A) -> A,
    means: &Means<A>,
    to: &mut RowGradients<'_, A>,
) {
    let width = rows.query.len();
    // d⟨q, K̄⟩ − d(⟨u, K̄⟩ in the log-mass).
    let through_keys: Vec<A> = grads
        .keys
        .iter()
        .zip(rows.query)
        .map(|(&grad, &query)| grad - rows.scale * query * grads.logits)
        .collect();
    for (row, &importance) in range.zip(&means.importances) {
        let (key, value) = (rows.key(row), rows.value(row));
        let weight = exp_below(importance, means.maximum);
        let part = weight / means.mass;
        let mut through = A::zero();
        for index in 0..width {
            through += through_keys[index] * (key[index] - means.keys[index]) + grads.values[index] * (value[index] - means.values[index]);
        }
        let dimportance = rows.scale * (weight * share(row, means.maximum) + part * through);
        let own = row * width..(row + 1) * width;
        let (dkeys, dvalues) = (&mut to.keys[own.clone()], &mut to.values[own]);
        for index in 0..width {
            dkeys[index] += part * through_keys[index] + dimportance * rows.query[index];
            dvalues[index] += part * grads.values[index];
            to.query[index] += (dimportance * key[index]).widen();
        }
    }
}

impl<A: Scalar> Means<A> {
    fn take_importances(&mut self, rows: &HeadRows<'_, A>, range: std::ops::Range<usize>) {
        self.importances.clear();
        self.importances
            .extend(range.map(|row| importance(rows.query, rows.key(row), rows.scale)));
    }

    /// Takes over what is known of all of a segment's rows.
    fn take_summary(&mut self, summaries: &Summaries<A>, index: usize) {
        (self.maximum, self.mass) = (summaries.maxima[index], summaries.masses[index]);
        self.keys.resize(summaries.head_dim, A::zero());
        self.values.resize(summaries.head_dim, A::zero());
        summaries.write_means(index, &mut self.keys, &mut self.values);
    }

    /// Takes over what is known of all of a segment's rows, relative to its mass.
    fn take_known(&mut self, known: &Known<'_, A>) {
        (self.maximum, self.mass) = (known.log_mass, A::one());
        for (to, from) in [(&mut self.keys, known.keys), (&mut self.values, known.values)] {
            to.clear();
            to.extend_from_slice(from);
        }
    }

    fn take(&mut self, rows: &HeadRows<'_, A>, range: std::ops::Range<usize>) {
        self.take_importances(rows, range.clone());
        self.maximum = self.importances.iter().copied().fold(A::neg_infinity(), A::max);
        let width = rows.query.len();
        let (mut mass, mut keys, mut values) = (0.0, vec![0.0; width], vec![0.0; width]);
        for (row, &importance) in range.zip(&self.importances) {
            let weight = exp_below(importance, self.maximum).widen();
            mass += weight;
            for (sums, from) in [(&mut keys, rows.key(row)), (&mut values, rows.value(row))] {
                for (sum, &number) in sums.iter_mut().zip(from) {
                    *sum += weight * number.widen();
                }
            }
        }
        self.mass = A::cast(mass);
        self.keys.clear();
        self.keys.extend(keys.iter().map(|sum| A::cast(sum / mass)));
        self.values.clear();
        self.values.extend(values.iter().map(|sum| A::cast(sum / mass)));
    }
}
