//! Matrix products on views of any strides: the one place that calls `general_mat_mul`.
//!
//! Products are packed for our own kernels, block by block. That is more than the product itself costs where there are few rows or columns,
//! or where the whole product is tiny: those cases have loops of their own.
//!
//! Only processors without a fused multiply-add leave small products to matrixmultiply. Its kernels differ in how they add to what is there,
//! so that it would give other bits on other processors.

use ndarray::linalg::general_mat_mul;
use ndarray::{Array2, Array3, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, s};

use super::level::by_level;
use super::long_product::ROUNDED_ROWS;
use super::packed::{Output, PackedMatrix, RowsMut, Scratch};
use crate::error::{Error, Result, checked_len};
use crate::parallel::{self, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Fewer rows (or columns) than this are multiplied one by one.
const FEW_ROWS: usize = 4;
/// Partial sums of a single row: the inner index p goes to lane p mod 8, whatever the strides.
const LANES: usize = 8;
/// Columns of one strip of partial sums of a single row.
const STRIP: usize = 256;
/// The most rows, inner positions and columns of a tiny product: (m, p, n).
const TINY: (usize, usize, usize) = (16, 16, 16);
/// Rows, inner positions and columns from which on our own kernels without a fused multiply-add are faster than matrixmultiply's.
const PACKED: usize = 48;
/// Columns and inner positions from which on a transposed right operand is worth multiplying from the left.
const WIDE: usize = 256;
/// Inner positions whose products are summed without a pause.
const SHORT: usize = 256;
/// Floating-point operations that are worth a task.
const TASK_FLOPS: usize = 4_000_000;
/// The most tasks that the items of one batch are split into, and the fewest rows or columns of one of them.
const MAX_TASKS: usize = 32;
const MIN_BLOCK: usize = 128;

/// The loops of one element type.
pub(crate) trait MatmulKernels: Sized {
    /// c ← alpha·a·b + beta·c for a row a.
    fn multiply_row(alpha: Self, a: &[Self], b: &ArrayView2<'_, Self>, beta: Self, c: ArrayViewMut1<'_, Self>);
    /// sums ← a·b for rows a of as many elements as b has rows, whose own elements are padded.
    fn multiply_tiny(a: &[Self], b: &[[Self; TINY.2]], sums: &mut [[Self; TINY.2]]);
}

macro_rules! dispatch {
    ($t:ty) => {
        impl MatmulKernels for $t {
            fn multiply_row(alpha: $t, a: &[$t], b: &ArrayView2<'_, $t>, beta: $t, c: ArrayViewMut1<'_, $t>) {
                by_level! {
                    fn run<'v>(alpha: $t, a: &[$t], b: &ArrayView2<'v, $t>, beta: $t, c: ArrayViewMut1<'v, $t>);
                    avx512: row::<$t, true>(alpha, a, b, beta, c),
                    avx2: row::<$t, true>(alpha, a, b, beta, c),
                    neon: row::<$t, true>(alpha, a, b, beta, c),
                    portable: row::<$t, false>(alpha, a, b, beta, c)
                }
                run(alpha, a, b, beta, c);
            }

            fn multiply_tiny(a: &[$t], b: &[[$t; TINY.2]], sums: &mut [[$t; TINY.2]]) {
                by_level! {
                    fn run(a: &[$t], b: &[[$t; TINY.2]], sums: &mut [[$t; TINY.2]]);
                    avx512: tiny::<$t, true>(a, b, sums),
                    avx2: tiny::<$t, true>(a, b, sums),
                    neon: tiny::<$t, true>(a, b, sums),
                    portable: tiny::<$t, false>(a, b, sums)
                }
                run(a, b, sums);
            }
        }
    };
}
dispatch!(f32);
dispatch!(f64);

by_level! {
    fn is_fused() -> bool;
    avx512: true, avx2: true, neon: true, portable: false
}

/// x·y + sum, fused where the processor can: without the instruction `mul_add` is a slow library call.
#[inline(always)]
fn multiply_add<A: Scalar, const FMA: bool>(x: A, y: A, sum: A) -> A {
    if FMA { x.mul_add(y, sum) } else { x * y + sum }
}

/// alpha·sum + beta·c, where `beta` 0 does not read c.
#[inline(always)]
fn store<A: Scalar>(alpha: A, sum: A, beta: A, c: &mut A) {
    *c = if beta == A::zero() { alpha * sum } else { alpha * sum + beta * *c };
}

#[inline(always)]
fn lane_sum<A: Scalar>(lanes: [A; LANES]) -> A {
    let [a, b, c, d, e, f, g, h] = lanes;
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

#[inline(always)]
fn row<A: Scalar, const FMA: bool>(alpha: A, a: &[A], b: &ArrayView2<'_, A>, beta: A, c: ArrayViewMut1<'_, A>) {
    let columns = b.column(0).to_slice().is_some();
    if columns && (b.ncols() == 1 || b.row(0).to_slice().is_none()) {
        row_by_columns::<A, FMA>(alpha, a, b, beta, c);
    } else {
        row_by_rows::<A, FMA>(alpha, a, b, beta, c);
    }
}

/// Reads b row by row.
#[inline(always)]
fn row_by_rows<A: Scalar, const FMA: bool>(alpha: A, a: &[A], b: &ArrayView2<'_, A>, beta: A, mut c: ArrayViewMut1<'_, A>) {
    let mut sums = [[A::zero(); STRIP]; LANES];
    for start in (0..b.ncols()).step_by(STRIP) {
        let end = b.ncols().min(start + STRIP);
        for lane in &mut sums {
            lane[..end - start].fill(A::zero());
        }
        for (p, (&a, row)) in a.iter().zip(b.rows()).enumerate() {
            let Some(row) = row.to_slice() else { return };
            for (sum, &b) in sums[p % LANES].iter_mut().zip(&row[start..end]) {
                *sum = multiply_add::<A, FMA>(a, b, *sum);
            }
        }
        for (j, c) in c.slice_mut(s![start..end]).iter_mut().enumerate() {
            store(alpha, lane_sum(sums.each_ref().map(|lane| lane[j])), beta, c);
        }
    }
}

/// Reads b column by column; the sums have the order of [`row_by_rows`].
#[inline(always)]
fn row_by_columns<A: Scalar, const FMA: bool>(alpha: A, a: &[A], b: &ArrayView2<'_, A>, beta: A, c: ArrayViewMut1<'_, A>) {
    const GROUP: usize = 4;
    let mut c = c.into_iter();
    let last = b.ncols() - 1;
    for start in (0..b.ncols()).step_by(GROUP) {
        let columns: [Option<&[A]>; GROUP] = std::array::from_fn(|j| b.column(last.min(start + j)).to_slice());
        let [Some(w), Some(x), Some(y), Some(z)] = columns else { return };
        let columns = [w, x, y, z];
        let mut sums = [[A::zero(); LANES]; GROUP];
        let (blocks, tail) = a.as_chunks::<LANES>();
        let chunks = columns.map(|column| column.as_chunks::<LANES>());
        for (p, a) in blocks.iter().enumerate() {
            for j in 0..GROUP {
                let b = &chunks[j].0[p];
                for l in 0..LANES {
                    sums[j][l] = multiply_add::<A, FMA>(a[l], b[l], sums[j][l]);
                }
            }
        }
        for (j, sums) in sums.iter_mut().enumerate() {
            for ((&a, &b), sum) in tail.iter().zip(chunks[j].1).zip(sums) {
                *sum = multiply_add::<A, FMA>(a, b, *sum);
            }
        }
        for (sums, c) in sums.into_iter().zip(c.by_ref()) {
            store(alpha, lane_sum(sums), beta, c);
        }
    }
}

#[inline(always)]
fn tiny<A: Scalar, const FMA: bool>(a: &[A], b: &[[A; TINY.2]], sums: &mut [[A; TINY.2]]) {
    for (a, to) in a.chunks_exact(b.len()).zip(sums) {
        let mut sums = [A::zero(); TINY.2];
        for (&a, b) in a.iter().zip(b) {
            for j in 0..TINY.2 {
                sums[j] = multiply_add::<A, FMA>(a, b[j], sums[j]);
            }
        }
        *to = sums;
    }
}

/// A tiny product, on copies on the stack where the operands are not as the loops want them. Zeros pad the columns that are dropped.
fn tiny_product<A: Scalar>(alpha: A, a: &ArrayView2<'_, A>, b: &ArrayView2<'_, A>, beta: A, c: &mut ArrayViewMut2<'_, A>) {
    let ((m, inner), n) = (a.dim(), b.ncols());
    let mut left = [A::zero(); TINY.0 * TINY.1];
    let a = a.to_slice().unwrap_or_else(|| {
        left.iter_mut().zip(a).for_each(|(to, &from)| *to = from);
        &left[..m * inner]
    });
    let mut right = [[A::zero(); TINY.2]; TINY.1];
    if let Some(b) = b.to_slice() {
        for (to, from) in right.iter_mut().zip(b.chunks_exact(n)) {
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
        }
    } else {
        for (to, from) in right.iter_mut().zip(b.rows()) {
            to.iter_mut().zip(from).for_each(|(to, &from)| *to = from);
        }
    }
    let mut sums = [[A::zero(); TINY.2]; TINY.0];
    A::multiply_tiny(a, &right[..inner], &mut sums);
    if let Some(c) = c.as_slice_mut() {
        for (c, sums) in c.chunks_exact_mut(n).zip(&sums) {
            c.iter_mut().zip(sums).for_each(|(c, &sum)| store(alpha, sum, beta, c));
        }
    } else {
        for (c, sums) in c.rows_mut().into_iter().zip(&sums) {
            c.into_iter().zip(sums).for_each(|(c, &sum)| store(alpha, sum, beta, c));
        }
    }
}

/// c ← alpha·a·b + beta·c on views of any strides, on the calling thread.
///
/// With `beta` 0 the old `c` is not read. An inner dimension of 0 gives beta·c. The order of the sums depends on the shapes only.
pub(crate) fn gemm<A: Scalar>(alpha: A, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, beta: A, c: &mut ArrayViewMut2<'_, A>) {
    let ((m, inner), n) = (a.dim(), b.ncols());
    assert_eq!(
        (inner, c.dim()),
        (b.nrows(), (m, n)),
        "gemm: shapes of {m}×{inner} times {inner}×{n}"
    );
    if c.is_empty() {
    } else if inner == 0 {
        c.mapv_inplace(|c| if beta == A::zero() { beta } else { beta * c });
    } else if inner > SHORT {
        long_product(alpha, a, b, beta, c);
    } else if m <= TINY.0 && inner <= TINY.1 && n <= TINY.2 {
        tiny_product(alpha, &a, &b, beta, c);
    } else if m < FEW_ROWS {
        few_rows(alpha, a, b, beta, c);
    } else if n < FEW_ROWS {
        few_rows(alpha, b.reversed_axes(), a.reversed_axes(), beta, &mut c.view_mut().reversed_axes());
    } else if is_fused() || m.min(n).min(inner) >= PACKED {
        if beta != A::zero() && beta != A::one() {
            c.mapv_inplace(|c| beta * c);
        }
        let add = beta != A::zero();
        let mut scratch = A::kept_products().take();
        if alpha == A::one() && m < PACKED && n.min(inner) >= WIDE && b.stride_of(Axis(0)) == 1 {
            // To transpose the right operand would take longer than the product.
            let (a, b, mut c) = (a.reversed_axes(), b.reversed_axes(), c.view_mut().reversed_axes());
            scratch.multiply(alpha, b, a, add, &mut c);
        } else {
            scratch.multiply(alpha, a, b, add, c);
        }
        A::kept_products().set(scratch);
    } else {
        general_mat_mul(alpha, &a, &b, beta, c);
    }
}

/// The product of many inner positions, in short chains; where there are very many of these, in `f64` between them.
fn long_product<A: Scalar>(alpha: A, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, beta: A, c: &mut ArrayViewMut2<'_, A>) {
    let ((m, inner), n) = (a.dim(), b.ncols());
    let is_thin = m.min(n) < FEW_ROWS;
    if !is_thin && inner <= ROUNDED_ROWS {
        if beta != A::zero() && beta != A::one() {
            c.mapv_inplace(|c| beta * c);
        }
        let mut scratch = A::kept_products().take();
        scratch.multiply(alpha, a, b, beta != A::zero(), c);
        return A::kept_products().set(scratch);
    }
    let (mut sums, mut part) = (Array2::<f64>::zeros((m, n)), Array2::zeros((m, n)));
    let size = if is_thin { SHORT } else { ROUNDED_ROWS };
    for (a, b) in a.axis_chunks_iter(Axis(1), size).zip(b.axis_chunks_iter(Axis(0), size)) {
        gemm(A::one(), a, b, A::zero(), &mut part.view_mut());
        sums.zip_mut_with(&part, |sum, part| *sum += part.widen());
    }
    c.zip_mut_with(&sums, |c, &sum| {
        let kept = if beta == A::zero() { 0.0 } else { beta.widen() * c.widen() };
        *c = A::cast(alpha.widen() * sum + kept);
    });
}

/// The product row by row.
fn few_rows<A: Scalar>(alpha: A, a: ArrayView2<'_, A>, b: ArrayView2<'_, A>, beta: A, c: &mut ArrayViewMut2<'_, A>) {
    let copy: Array2<A>;
    let readable = b.column(0).to_slice().is_some() || b.row(0).to_slice().is_some();
    let b = if readable {
        b
    } else {
        copy = b.as_standard_layout().into_owned();
        copy.view()
    };
    for (a, c) in a.rows().into_iter().zip(c.rows_mut()) {
        A::multiply_row(alpha, &contiguous(&a), &b, beta, c);
    }
}

fn contiguous<'a, A: Scalar>(row: &ArrayView1<'a, A>) -> std::borrow::Cow<'a, [A]> {
    row.to_slice().map_or_else(|| row.to_vec().into(), Into::into)
}

/// Adds `bias` to every row of `rows`.
pub(crate) fn add_bias<A: Scalar>(rows: &mut ArrayViewMut2<'_, A>, bias: ArrayView1<'_, A>) {
    for mut row in rows.rows_mut() {
        row += &bias;
    }
}

/// Computes the products a\[i\]·b\[i\] of two batches of matrices: (B, m, p)·(B, p, n) → (B, m, n).
///
/// Operands of any strides are read in place: pass `a.view().permuted_axes([0, 2, 1])` to multiply by the transposes, or broadcast one matrix
/// over the batch. With p = 0 the result is zeros. NaN and infinities propagate as in the written-out sums.
///
/// With the feature `rayon`, items, and blocks of rows or columns of large ones, are spread over the caller's pool; the result is the same bit
/// for bit for any number of threads.
///
/// # Errors
/// Returns [`Error::Shape`] if the batch sizes or the inner dimensions differ, and [`Error::Overflow`] if the result cannot be addressed.
///
/// # Examples
/// ```
/// use linformer::batched_matmul;
/// use linformer::ndarray::array;
///
/// let a = array![[[1.0, 2.0], [3.0, 4.0]], [[0.5, 0.0], [0.0, 2.0]]];
/// let b = array![[[1.0], [10.0]], [[6.0], [7.0]]];
/// assert_eq!(batched_matmul(&a, &b)?, array![[[21.0], [43.0]], [[3.0], [14.0]]]);
/// # Ok::<(), linformer::Error>(())
/// ```
pub fn batched_matmul<A: Scalar>(a: &ArrayRef3<A>, b: &ArrayRef3<A>) -> Result<Array3<A>> {
    let ((batch, m, inner), (b_batch, b_inner, n)) = (a.dim(), b.dim());
    if batch != b_batch || inner != b_inner {
        let expected = format!("({batch}, {inner}, n), since `a` has shape {:?}", a.shape());
        return Err(Error::shape("batched_matmul", "b", expected, b.shape()));
    }
    checked_len("batched_matmul", &[batch, m, n], size_of::<A>())?;
    let mut c = Array3::zeros((batch, m, n));
    let flops = 2_usize.saturating_mul(m).saturating_mul(n).saturating_mul(inner);
    if c.is_empty() || flops == 0 {
        return Ok(c);
    }
    let pieces = (flops / TASK_FLOPS).clamp(1, MAX_TASKS.div_ceil(batch));
    if pieces == 1 {
        whole_items(a, b, &mut c, (TASK_FLOPS / flops).max(1));
    } else {
        split_items(a, b, &mut c, pieces);
    }
    Ok(c)
}

/// The products of whole items, `items` to a task.
fn whole_items<A: Scalar>(a: &ArrayRef3<A>, b: &ArrayRef3<A>, c: &mut Array3<A>, items: usize) {
    let tasks = c.axis_chunks_iter_mut(Axis(0), items).enumerate().collect();
    let cost = parallel::cost(&[a.len(), b.dim().2]);
    parallel::for_each(tasks, cost, |(task, mut c)| {
        for (i, mut c) in c.outer_iter_mut().enumerate() {
            let item = task * items + i;
            gemm(
                A::one(),
                a.index_axis(Axis(0), item),
                b.index_axis(Axis(0), item),
                A::zero(),
                &mut c,
            );
        }
    });
}

/// The products of items that are each cut into at most `pieces` blocks along the longer axis of the result.
fn split_items<A: Scalar>(a: &ArrayRef3<A>, b: &ArrayRef3<A>, c: &mut Array3<A>, pieces: usize) {
    let (_, m, n) = c.dim();
    let inner = a.dim().2;
    let longer = m.max(n);
    let mut block = longer.div_ceil(pieces).next_multiple_of(16).max(MIN_BLOCK);
    // A last block of a few rows would be summed in an order of its own.
    while (1..FEW_ROWS).contains(&(longer % block)) {
        block += 16;
    }
    let cost = parallel::cost(&[a.len(), n]);
    let mut scratch = Pool::<Scratch<A>>::default();
    scratch.prepare();
    let packs = n <= m && n.min(inner) >= PACKED && inner <= ROUNDED_ROWS;
    let mut packed = PackedMatrix::default();
    for ((a, b), c) in a.outer_iter().zip(b.outer_iter()).zip(c.outer_iter_mut()) {
        if packs {
            // Once for all blocks of rows.
            packed.repack_spread(b);
        }
        let axis = usize::from(n > m);
        for_each_part(along(c, axis, block), cost, |index, mut part| {
            let start = index * block;
            let (rows, cols) = part.view.dim();
            if packs {
                let a = a.slice(s![start..start + rows, ..]);
                scratch.with(|scratch| packed.multiply_long_view(a, Output::Set, RowsMut::of(part.view), scratch));
            } else if axis == 0 {
                gemm(A::one(), a.slice(s![start..start + rows, ..]), b, A::zero(), &mut part.view);
            } else {
                gemm(A::one(), a, b.slice(s![.., start..start + cols]), A::zero(), &mut part.view);
            }
        });
    }
}

#[cfg(test)]
mod tests;
