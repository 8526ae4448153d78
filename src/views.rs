//! Cutting mutable views into parts that tasks can own.

use ndarray::{ArrayViewMut, Axis, Dimension, RemoveAxis};

/// `view` cut along `axis` into parts of `size`; the last may be shorter.
pub(crate) fn split<A, D: Dimension>(view: ArrayViewMut<'_, A, D>, axis: Axis, size: usize) -> Vec<ArrayViewMut<'_, A, D>> {
    let mut parts = Vec::with_capacity(view.len_of(axis).div_ceil(size));
    let mut rest = view;
    while rest.len_of(axis) > size {
        let (part, after) = rest.split_at(axis, size);
        parts.push(part);
        rest = after;
    }
    if rest.len_of(axis) > 0 {
        parts.push(rest);
    }
    parts
}

/// The entries of `view` along its first axis.
pub(crate) fn outer<A, D: RemoveAxis>(view: ArrayViewMut<'_, A, D>) -> Vec<ArrayViewMut<'_, A, D::Smaller>> {
    split(view, Axis(0), 1)
        .into_iter()
        .map(|part| part.index_axis_move(Axis(0), 0))
        .collect()
}
