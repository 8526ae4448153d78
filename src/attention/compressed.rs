//! A sequence compressed to k rows.

use ndarray::{Array3, Array4, ArrayRef3, ArrayView1, ArrayView3, ArrayView4, Axis};

use super::heads::ItemKeyValues;
use super::key_values::PackedKeyValues;
use crate::derived::Derived;
use crate::error::{Error, Result};
use crate::layers::check_width;
use crate::scalar::Scalar;

/// The compressed keys and values of a batch of sequences: what queries attend to.
///
/// It is small, (batch, heads, k, `head_dim`) twice whatever the sequence's length was, and can be kept to answer any number of queries;
/// [`LinformerAttention`](crate::LinformerAttention) shows how.
#[derive(Clone, Debug)]
pub struct Compressed<A = f32> {
    pub(crate) keys: Array4<A>,
    pub(crate) values: Array4<A>,
    pub(crate) slots: Vec<usize>,
    /// (batch, heads, slots), −∞ for slots that are empty.
    pub(crate) log_mass: Option<Array3<A>>,
    packed: Derived<PackedKeyValues<A>>,
}

impl<A: Scalar> PartialEq for Compressed<A> {
    fn eq(&self, other: &Self) -> bool {
        self.keys == other.keys && self.values == other.values && self.slots == other.slots && self.log_mass == other.log_mass
    }
}

impl<A: Scalar> Compressed<A> {
    /// Nothing, to be filled.
    pub(crate) fn empty() -> Self {
        let nothing = || Array4::zeros((0, 0, 0, 0));
        Self::of(nothing(), nothing(), Vec::new())
    }

    /// The keys and values of a batch, (batch, heads, slots, `head_dim`) each, of which an item has as many as `slots` says.
    pub(crate) fn of(keys: Array4<A>, values: Array4<A>, slots: Vec<usize>) -> Self {
        Self {
            keys,
            values,
            slots,
            log_mass: None,
            packed: Derived::new(),
        }
    }

    pub(crate) fn forget_packed(&mut self) {
        self.packed.forget();
    }

    /// The same, packed when it is first attended to.
    pub(crate) fn packed(&self) -> &PackedKeyValues<A> {
        self.packed.get_or_make_spread(|old| {
            let mut packed = old.unwrap_or_default();
            packed.repack(self.keys.view(), self.values.view(), self.log_mass(), &self.slots);
            packed
        })
    }

    /// Returns the number that attention pooling adds to the logits of each slot, (batch, query heads, slots); `None` for the other kinds of projection.
    ///
    /// It is −∞ where a slot is empty, which then has no influence.
    pub fn log_mass(&self) -> Option<ArrayView3<'_, A>> {
        self.log_mass.as_ref().map(|log_mass| log_mass.view())
    }

    /// Returns K̄, (batch, key/value heads, slots, `head_dim`).
    pub fn keys(&self) -> ArrayView4<'_, A> {
        self.keys.view()
    }

    /// Returns V̄, (batch, key/value heads, slots, `head_dim`).
    pub fn values(&self) -> ArrayView4<'_, A> {
        self.values.view()
    }

    /// Returns how many slots each item has; the rest of its rows are not attended to. Fewer than all only where pooling or a convolution
    /// met a short item; none only where attention pooling met an item without any position.
    pub fn slots(&self) -> &[usize] {
        &self.slots
    }

    /// An error unless `queries` (batch, any length, `dim`) can attend to it with heads of this number and width.
    pub(crate) fn check_queries(&self, operation: &'static str, queries: &ArrayRef3<A>, dim: usize, heads: (usize, usize)) -> Result<()> {
        check_width(operation, "queries", queries, dim)?;
        if queries.dim().0 != self.batch() {
            let expected = format!("({}, any length, {dim}), one item for each compressed sequence", self.batch());
            return Err(Error::shape(operation, "queries", expected, queries.shape()));
        }
        self.check_heads(operation, heads)
    }

    /// An error unless it has heads of this number and width.
    pub(crate) fn check_heads(&self, operation: &'static str, expected: (usize, usize)) -> Result<()> {
        let (_, heads, _, head_dim) = self.keys.dim();
        if (heads, head_dim) == expected {
            return Ok(());
        }
        let expected = format!("(batch, {}, any, {}), as this layer makes it", expected.0, expected.1);
        Err(Error::shape(operation, "context", expected, self.keys.shape()))
    }

    /// Returns the number of sequences.
    pub fn batch(&self) -> usize {
        self.slots.len()
    }

    /// What query head `head` of `heads` adds to the logits of an item's slots.
    pub(crate) fn head_mass(&self, item: usize, head: usize, heads: usize) -> Option<ArrayView1<'_, A>> {
        let masses = self.log_mass.as_ref()?.index_axis(Axis(0), item);
        let head = head * masses.nrows() / heads;
        Some(masses.index_axis_move(Axis(0), head).split_at(Axis(0), self.slots[item]).0)
    }

    pub(crate) fn item(&self, item: usize) -> ItemKeyValues<'_, A> {
        ItemKeyValues {
            keys: self.keys.index_axis(Axis(0), item),
            values: self.values.index_axis(Axis(0), item),
            count: self.slots[item],
        }
    }
}
