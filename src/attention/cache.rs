//! The values that training keeps of an attention layer.

use ndarray::{Array3, ArrayRef3};

use super::causal::CausalContext;
use super::compressed::Compressed;
use super::compressor::CompressionCache;
use super::gradients::AttendCache;
use super::local_global::ItemContext;
use super::mask::PaddingMask;
use crate::buffer_pool::Buffers;
use crate::config::{AttentionKind, check_alike};
use crate::error::{Error, Result, checked_len};
use crate::layers::add;
use crate::scalar::Scalar;

/// The values that the backward pass of an attention layer needs: O(n·d) numbers, no scores.
#[derive(Clone, Debug)]
pub struct AttentionCache<A = f32> {
    /// The layer that it is of.
    pub(super) layer: AttentionKind,
    /// The sequence of the queries. A block with a norm before takes it out after the forward pass and puts it back before the backward pass.
    pub(super) x: Array3<A>,
    /// The sequence attended to, where it is another.
    pub(super) other: Option<Array3<A>>,
    pub(super) mask: Option<PaddingMask>,
    pub(super) context: CachedContext<A>,
    /// Nothing for exact attention.
    pub(super) compression: Option<CompressionCache<A>>,
    pub(super) attend: AttendCache<A>,
}

/// The keys and values.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(super) enum CachedContext<A> {
    /// Visible to every row.
    Whole(Compressed<A>),
    /// Each row sees only earlier positions and its own.
    Causal(CausalContext<A>),
    /// Each row sees its window and summaries; one for each item.
    LocalGlobal(Vec<ItemContext<A>>),
}

impl<A: Scalar> AttentionCache<A> {
    /// An error unless cache and gradients are of layers like this one.
    pub(super) fn check<C: Into<AttentionKind> + Clone>(&self, operation: &'static str, layer: &C, gradients: &C) -> Result<()> {
        check_alike(operation, &layer.clone().into(), &self.layer, &gradients.clone().into())
    }

    /// Takes out the sequence of the queries, which need not be kept where it can be computed again.
    pub(crate) fn take_x(&mut self) -> Array3<A> {
        std::mem::take(&mut self.x)
    }

    /// Puts back what [`take_x`](Self::take_x) took out.
    pub(crate) fn restore_x(&mut self, x: Array3<A>) {
        self.x = x;
    }

    /// Returns its memory to the pool.
    pub(crate) fn recycle(self, buffers: Buffers<'_, A>) {
        buffers.recycle(self.x);
        self.attend.recycle(buffers);
    }

    pub(super) fn context_input(&self) -> &Array3<A> {
        self.other.as_ref().unwrap_or(&self.x)
    }

    /// The gradient of the queries' sequence, and of the one attended to where it is another.
    pub(super) fn input_gradients(&self, mut dx: Array3<A>, dcontext: Array3<A>) -> (Array3<A>, Option<Array3<A>>) {
        if self.other.is_some() {
            return (dx, Some(dcontext));
        }
        add(&mut dx, &dcontext);
        (dx, None)
    }
}

pub(super) fn check_gradient<A>(operation: &'static str, dy: &ArrayRef3<A>, x: &Array3<A>) -> Result<()> {
    if dy.dim() == x.dim() {
        return Ok(());
    }
    Err(Error::shape(operation, "dy", format!("{:?}", x.dim()), dy.shape()))
}

/// The error of gradients without E and F.
pub(super) fn no_projections(operation: &'static str) -> Error {
    unlike(operation, "the gradients have no E and F to add to")
}

/// The error of a cache or of gradients that have not what this layer needs.
pub(super) fn unlike(operation: &'static str, came: &str) -> Error {
    Error::argument(
        operation,
        format!("expected the cache and the gradients of this layer, but {came}; pass what its forward_train returned, and its zeros_like"),
    )
}

/// A copy, which a broadcast view may be too large for.
pub(super) fn owned<A: Scalar>(operation: &'static str, x: &ArrayRef3<A>) -> Result<Array3<A>> {
    checked_len(operation, x.shape(), size_of::<A>())?;
    Ok(x.as_standard_layout().into_owned())
}
