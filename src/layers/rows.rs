//! Sequences as rows, and what is done to them number by number.

use std::borrow::Cow;

use ndarray::{Array, Array2, Array3, ArrayRef3, ArrayView2, Dimension};

use crate::error::{Error, Result, checked_len};
use crate::ops::Dropout;
use crate::parallel::{self, Chunks, for_each_part};
use crate::scalar::Scalar;

/// Returns an error unless the last axis of the sequence `x` is `dim` wide, and x is small enough to be copied: a broadcast view need not be.
pub(crate) fn check_width<A>(operation: &'static str, argument: &'static str, x: &ArrayRef3<A>, dim: usize) -> Result<()> {
    if x.dim().2 == dim {
        return checked_len(operation, x.shape(), size_of::<A>()).map(drop);
    }
    Err(Error::shape(
        operation,
        argument,
        format!("(any batch, any length, {dim})"),
        x.shape(),
    ))
}

/// Returns an error unless `dy` is of the `expected` shape, that of the output.
pub(crate) fn check_gradient<A>(operation: &'static str, dy: &ArrayRef3<A>, expected: (usize, usize, usize)) -> Result<()> {
    if dy.dim() == expected {
        return Ok(());
    }
    Err(Error::shape(
        operation,
        "dy",
        format!("{expected:?}, that of the output"),
        dy.shape(),
    ))
}

/// (batch, length, width) as rows.
pub(crate) fn rows<A: Scalar>(x: &ArrayRef3<A>) -> ArrayView2<'_, A> {
    let (batch, length, width) = x.dim();
    x.view()
        .into_shape_with_order((batch * length, width))
        .expect("training keeps its sequences contiguous")
}

/// Rows as (batch, length, width).
pub(crate) fn sequence<A: Scalar>(rows: Array2<A>, batch: usize, length: usize) -> Array3<A> {
    let width = rows.ncols();
    rows.into_shape_with_order((batch, length, width))
        .expect("there are batch · length rows")
}

/// (batch, length, width) turned into rows.
pub(crate) fn flat<A: Scalar>(x: Array3<A>) -> Array2<A> {
    let (batch, length, width) = x.dim();
    x.into_shape_with_order((batch * length, width))
        .expect("training keeps its sequences contiguous")
}

/// Elements that one task drops out of, or adds.
const TASK_ELEMENTS: usize = 1 << 15;

/// `sum` += `x`, two contiguous arrays of one shape.
pub(crate) fn add<A: Scalar, D: Dimension>(sum: &mut Array<A, D>, x: &Array<A, D>) {
    let (Some(sum), Some(x)) = (sum.as_slice_mut(), x.as_slice()) else {
        unreachable!("training keeps its sequences contiguous");
    };
    let cost = parallel::cost(&[x.len(), 4]);
    let parts = Chunks {
        slice: sum,
        size: TASK_ELEMENTS,
    };
    for_each_part(parts, cost, |task, part| {
        let x = &x[task * TASK_ELEMENTS..];
        part.slice.iter_mut().zip(x).for_each(|(sum, &x)| *sum += x);
    });
}

/// Drops out of a contiguous array, or of its gradient.
pub(crate) fn drop_out<A: Scalar, D: Dimension>(x: &mut Array<A, D>, dropout: Option<Dropout<A>>) {
    let (Some(dropout), Some(x)) = (dropout, x.as_slice_mut()) else {
        return;
    };
    let cost = parallel::cost(&[x.len(), 4]);
    let parts = Chunks {
        slice: x,
        size: TASK_ELEMENTS,
    };
    for_each_part(parts, cost, |task, part| dropout.apply(part.slice, (task * TASK_ELEMENTS) as u64));
}

/// The gradient of the input of a dropout, given that of its output.
pub(crate) fn dropped<A: Scalar>(dy: &Array3<A>, dropout: Option<Dropout<A>>) -> Cow<'_, Array3<A>> {
    let mut dy = Cow::Borrowed(dy);
    if dropout.is_some() {
        drop_out(dy.to_mut(), dropout);
    }
    dy
}

/// `x`, row after row in memory.
pub(crate) fn contiguous<A: Scalar>(x: Array3<A>) -> Array3<A> {
    if x.is_standard_layout() {
        x
    } else {
        x.as_standard_layout().into_owned()
    }
}
