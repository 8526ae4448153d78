//! Rows that take no part in a backward pass.
//!
//! A row whose incoming gradient is 0 adds nothing to any gradient, whatever it holds: padding may hold NaN or infinities, and a product
//! with 0 would let them through. So such rows are left out by selection.

use ndarray::{Array2, ArrayView1, ArrayView2, CowArray, Ix2};

use crate::scalar::Scalar;

/// Whether a row of gradients is 0 throughout; nearly always its first number decides.
fn is_idle<A: Scalar>(dy: ArrayView1<'_, A>) -> bool {
    dy.iter().all(|&dy| dy == A::zero())
}

/// The rows of `dy` that are 0 throughout.
pub(crate) fn idle_rows<A: Scalar>(dy: ArrayView2<'_, A>) -> Vec<usize> {
    let rows = dy.outer_iter().enumerate();
    rows.filter(|(_, dy)| is_idle(*dy)).map(|(row, _)| row).collect()
}

/// `x` as it is where products of its `idle` rows with 0 are 0, otherwise a copy with zeros in these rows.
pub(crate) fn without_idle<'x, A: Scalar>(x: ArrayView2<'x, A>, idle: &[usize]) -> CowArray<'x, A, Ix2> {
    if idle.iter().all(|&row| x.row(row).iter().all(|x| x.is_finite())) {
        return x.into();
    }
    let mut copy: Array2<A> = x.to_owned();
    for &row in idle {
        copy.row_mut(row).fill(A::zero());
    }
    copy.into()
}
