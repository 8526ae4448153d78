//! Matrix products: the one place that multiplies matrices.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayViewMut2, Axis};

use crate::error::{Error, Result, checked_len};
use crate::parallel;
use crate::scalar::Scalar;

/// c ← alpha·a·b + beta·c on views of any strides, on the calling thread. With `beta` 0 the old `c` is not read.
pub(crate) fn gemm<A: Scalar>(alpha: A, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, beta: A, c: &mut ArrayViewMut2<'_, A>) {
    general_mat_mul(alpha, &a, &b, beta, c);
}

/// Adds `bias` to every row of `rows`.
pub(crate) fn add_bias<A: Scalar>(rows: &mut ArrayViewMut2<'_, A>, bias: ndarray::ArrayView1<'_, A>) {
    for mut row in rows.rows_mut() {
        row += &bias;
    }
}

/// The products a[i]·b[i] of two batches of matrices: (B, m, p)·(B, p, n) → (B, m, n).
pub fn batched_matmul<A: Scalar>(a: &ArrayRef3<A>, b: &ArrayRef3<A>) -> Result<Array3<A>> {
    let ((batch, m, inner), (b_batch, b_inner, n)) = (a.dim(), b.dim());
    if batch != b_batch || inner != b_inner {
        return Err(Error::shape(
            "batched_matmul",
            "b",
            format!("(batch {batch}, {inner}, any)"),
            b.shape(),
        ));
    }
    checked_len("batched_matmul", &[batch, m, n], size_of::<A>())?;
    let mut c = Array3::zeros((batch, m, n));
    let tasks = c.outer_iter_mut().enumerate().collect();
    let cost = parallel::cost(&[batch, m, inner, n]);
    parallel::for_each(tasks, cost, |(item, mut c)| {
        gemm(
            A::one(),
            a.index_axis(Axis(0), item),
            b.index_axis(Axis(0), item),
            A::zero(),
            &mut c,
        );
    });
    Ok(c)
}
