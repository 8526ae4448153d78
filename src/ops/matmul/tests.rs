//! Products against the definition, written out.
#![allow(clippy::needless_pass_by_value, clippy::cast_possible_truncation)]

use super::*;
use ndarray::ShapeBuilder;

fn value(i: usize) -> f64 {
    ((i * 7919 + 104_729) % 2003) as f64 / 1001.5 - 1.0
}

fn matrix<A: Scalar>(rows: usize, cols: usize, seed: usize) -> Array2<A> {
    Array2::from_shape_fn((rows, cols), |(i, j)| A::cast(value((i * cols + j) * 31 + seed)))
}

/// The definition, in f64, with the sum of magnitudes that bounds the rounding error.
fn naive<A: Scalar>(a: ArrayView2<'_, A>, b: ArrayView2<'_, A>) -> Array2<(f64, f64)> {
    Array2::from_shape_fn((a.nrows(), b.ncols()), |(i, j)| {
        let products = a.row(i).into_iter().zip(b.column(j)).map(|(x, y)| x.widen() * y.widen());
        products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
    })
}

fn unit<A: Scalar>() -> f64 {
    if A::NAME == "F32" { f64::from(f32::EPSILON) } else { f64::EPSILON }
}

/// The same numbers in six layouts: row-major, column-major, both reversed, every second row and column.
fn layouts<A: Scalar>(x: &Array2<A>, check: &mut dyn FnMut(ArrayView2<'_, A>)) {
    let dim = x.dim();
    let mut columns = Array2::zeros(dim.f());
    columns.assign(x);
    let mut reversed = x.slice(s![..;-1, ..;-1]).to_owned();
    reversed.invert_axis(Axis(0));
    reversed.invert_axis(Axis(1));
    let mut spread = Array2::from_elem((2 * dim.0, 2 * dim.1), A::nan());
    spread.slice_mut(s![..;2, ..;2]).assign(x);
    let mut inside = Array2::from_elem((dim.0, dim.1 + 3), A::nan());
    inside.slice_mut(s![.., 2..2 + dim.1]).assign(x);
    check(x.view());
    check(columns.view());
    check(reversed.view());
    check(spread.slice(s![..;2, ..;2]));
    check(inside.slice(s![.., 2..2 + dim.1]));
}

fn check_gemm<A: Scalar>(m: usize, inner: usize, n: usize) {
    let (left, right, old) = (matrix::<A>(m, inner, 1), matrix::<A>(inner, n, 2), matrix::<A>(m, n, 3));
    let truth = naive(left.view(), right.view());
    for (alpha, beta) in [(1.0, 0.0), (1.0, 1.0), (0.5, -2.0)] {
        let mut first: Option<Array2<A>> = None;
        layouts(&left, &mut |a| {
            layouts(&right, &mut |b| {
                let mut c = if beta == 0.0 {
                    Array2::from_elem((m, n), A::nan())
                } else {
                    old.clone()
                };
                gemm(A::cast(alpha), a, b, A::cast(beta), &mut c.view_mut());
                for ((&(sum, size), &old), &c) in truth.iter().zip(&old).zip(&c) {
                    let expected = alpha * sum + beta * old.widen();
                    let bound = 4.0 * (inner as f64 + 2.0) * unit::<A>() * (size + 2.0);
                    assert!((c.widen() - expected).abs() <= bound, "{m}×{inner}×{n}: {c} for {expected}");
                }
                // Which order is taken must not depend on the strides.
                assert_eq!(first.get_or_insert_with(|| c.clone()), &c, "{m}×{inner}×{n}");
            });
        });
    }
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn gemm_is_the_definition_for_every_layout() {
    for (m, inner, n) in [
        (1, 1, 1),
        (1, 64, 64),
        (2, 300, 517),
        (3, 9, 40),
        (1, 40, 1),
        (7, 32, 16),
        (8, 8, 8),
        (5, 33, 17),
    ] {
        check_gemm::<f32>(m, inner, n);
        check_gemm::<f64>(m, inner, n);
    }
    for (m, inner, n) in [
        (40, 70, 1),
        (33, 37, 3),
        (17, 5, 4),
        (4, 31, 15),
        (48, 50, 49),
        (60, 520, 48),
        (193, 48, 515),
        (0, 3, 4),
        (3, 0, 4),
        (3, 4, 0),
        (0, 0, 0),
    ] {
        check_gemm::<f32>(m, inner, n);
        check_gemm::<f64>(m, inner, n);
    }
}

#[test]
fn gemm_writes_into_any_layout() {
    for (m, inner, n) in [
        (6, 8, 5),
        (2, 40, 50),
        (50, 40, 2),
        (20, 40, 30),
        (3, 0, 3),
        (50, 48, 70),
        (200, 50, 530),
    ] {
        if cfg!(miri) && m * n > 10_000 {
            continue; // minutes to interpret
        }
        let (a, b) = (matrix::<f64>(m, inner, 1), matrix::<f64>(inner, n, 2));
        let mut plain = Array2::zeros((m, n));
        gemm(1.0, a.view(), b.view(), 0.0, &mut plain.view_mut());
        let mut wide = Array2::from_elem((2 * n, 3 * m), f64::NAN);
        let mut c = wide.slice_mut(s![..;-2, ..;3]).reversed_axes();
        gemm(1.0, a.view(), b.view(), 0.0, &mut c);
        // matrixmultiply may swap the operands for the sake of c, so this is equality to rounding.
        assert!(c.iter().zip(&plain).all(|(c, p)| (c - p).abs() < 1e-12));
    }
}

#[test]
fn an_empty_sum_keeps_beta_c_and_beta_zero_reads_nothing() {
    let (a, b) = (Array2::<f32>::zeros((2, 0)), Array2::zeros((0, 2)));
    let mut c = Array2::from_elem((2, 2), 3.0);
    gemm(1.0, a.view(), b.view(), 0.5, &mut c.view_mut());
    assert_eq!(c, Array2::from_elem((2, 2), 1.5));
    c.fill(f32::NAN);
    gemm(1.0, a.view(), b.view(), 0.0, &mut c.view_mut());
    assert_eq!(c, Array2::<f32>::zeros((2, 2)));
}

#[test]
fn nan_and_infinity_stay_in_their_rows_and_columns() {
    for (m, inner, n) in [(6, 5, 7), (2, 50, 300), (60, 50, 2), (30, 40, 50), (50, 48, 49)] {
        let (mut a, mut b) = (matrix::<f32>(m, inner, 1), matrix::<f32>(inner, n, 2));
        a[[1, 2]] = f32::NAN;
        b[[3, 0]] = f32::INFINITY;
        let mut c = Array2::zeros((m, n));
        gemm(1.0, a.view(), b.view(), 0.0, &mut c.view_mut());
        let truth = naive(a.view(), b.view());
        for ((i, j), c) in c.indexed_iter() {
            let expected = truth[[i, j]].0;
            assert_eq!(c.is_nan(), expected.is_nan(), "{i} {j}");
            assert_eq!(c.is_infinite(), expected.is_infinite(), "{i} {j}");
        }
    }
}

fn batch(batch: usize, rows: usize, cols: usize, seed: usize) -> Array3<f32> {
    Array3::from_shape_fn((batch, rows, cols), |(b, i, j)| {
        value(((b * rows + i) * cols + j) * 17 + seed) as f32
    })
}

#[test]
fn batches_of_any_strides() {
    let (a, b) = (batch(3, 9, 11, 1), batch(3, 11, 10, 2));
    let expected = batched_matmul(&a, &b).unwrap();
    for item in 0..3 {
        for (c, &(sum, _)) in expected
            .index_axis(Axis(0), item)
            .iter()
            .zip(&naive(a.index_axis(Axis(0), item), b.index_axis(Axis(0), item)))
        {
            approx::assert_abs_diff_eq!(f64::from(*c), sum, epsilon = 1e-5);
        }
    }
    let transposed = b.view().permuted_axes([0, 2, 1]).as_standard_layout().into_owned();
    assert_eq!(batched_matmul(&a, &transposed.view().permuted_axes([0, 2, 1])).unwrap(), expected);
    let flipped = a.slice(s![..;-1, .., ..;-1]).as_standard_layout().into_owned();
    assert_eq!(batched_matmul(&flipped.slice(s![..;-1, .., ..;-1]), &b).unwrap(), expected);
    let one = b.slice(s![1..2, .., ..]);
    let broadcast = batched_matmul(&a, &one.broadcast((3, 11, 10)).unwrap()).unwrap();
    assert_eq!(broadcast.index_axis(Axis(0), 1), expected.index_axis(Axis(0), 1));
    let ones = ndarray::arr0(1.0_f32);
    let sums = batched_matmul(&ones.broadcast((3, 2, 11)).unwrap(), &b).unwrap();
    approx::assert_abs_diff_eq!(sums[[2, 1, 4]], b.slice(s![2, .., 4]).sum(), epsilon = 1e-5);
}

#[test]
fn empty_batches_and_wrong_shapes() {
    for (items, m, inner, n) in [(0, 2, 3, 4), (2, 0, 3, 4), (2, 2, 0, 4), (2, 2, 3, 0), (0, 0, 0, 0)] {
        let c = batched_matmul(&batch(items, m, inner, 1), &batch(items, inner, n, 2)).unwrap();
        assert_eq!(c, Array3::<f32>::zeros((items, m, n)));
    }
    let a = batch(2, 3, 4, 1);
    for wrong in [batch(3, 4, 5, 2), batch(2, 3, 5, 2), batch(0, 4, 5, 2)] {
        assert!(matches!(batched_matmul(&a, &wrong), Err(Error::Shape { argument: "b", .. })));
    }
    let one = ndarray::arr0(1.0_f64);
    let huge = one.broadcast((1, 1 << 40, 1)).unwrap();
    assert!(matches!(
        batched_matmul(&huge, &huge.view().permuted_axes([0, 2, 1])),
        Err(Error::Overflow { .. })
    ));
}

#[cfg(feature = "rayon")]
#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn any_number_of_threads_gives_the_same_bits() {
    for (items, m, inner, n) in [
        (1, 700, 130, 140),
        (2, 30_000, 300, 2),
        (1, 9000, 30, 60),
        (1, 60, 300, 900),
        (3, 257, 200, 129),
        (70, 8, 8, 8),
        (5, 90, 90, 90),
    ] {
        let (a, b) = (batch(items, m, inner, 1), batch(items, inner, n, 2));
        let in_pool = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| batched_matmul(&a, &b).unwrap())
        };
        let alone = in_pool(1);
        let expected = naive(a.index_axis(Axis(0), items - 1), b.index_axis(Axis(0), items - 1));
        approx::assert_abs_diff_eq!(
            f64::from(alone[[items - 1, m - 1, n - 1]]),
            expected[[m - 1, n - 1]].0,
            epsilon = 1e-4
        );
        for threads in [2, 5] {
            assert!(alone.iter().zip(&in_pool(threads)).all(|(x, y)| x.to_bits() == y.to_bits()));
        }
    }
}

/// An item's product is the same bits alone, cut into blocks, and in a batch, where it is not.
#[test]
#[cfg_attr(miri, ignore = "products too large to interpret")]
fn an_item_is_the_same_alone_and_in_a_batch() {
    fn check<A: Scalar>() {
        for (m, inner, n) in [
            (512, 128, 128),
            (300, 1000, 60),
            (60, 700, 400),
            (257, 9000, 65),
            (65, 300, 259),
            (1025, 49, 50),
        ] {
            let (a, b) = (matrix::<A>(m, inner, 1), matrix::<A>(inner, n, 2));
            let batch = |count: usize, x: &Array2<A>| x.broadcast((count, x.nrows(), x.ncols())).unwrap().to_owned();
            let alone = batched_matmul(&batch(1, &a), &batch(1, &b)).unwrap();
            let together = batched_matmul(&batch(MAX_TASKS, &a), &batch(MAX_TASKS, &b)).unwrap();
            for item in together.outer_iter() {
                assert!(item == alone.index_axis(Axis(0), 0), "{m}×{inner}×{n}");
            }
        }
    }
    check::<f32>();
    check::<f64>();
}
