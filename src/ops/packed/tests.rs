//! Packed products against the definition, written out in f64.
#![allow(clippy::needless_pass_by_value)]

use ndarray::Array2;

use super::super::tile::{Runs, Tile};
use super::*;

fn matrix<A: Scalar>(rows: usize, cols: usize, seed: usize) -> Array2<A> {
    Array2::from_shape_fn((rows, cols), |(i, j)| {
        A::cast((((i * cols + j) * 7919 + seed * 104_729) % 2003) as f64 / 1001.5 - 1.0)
    })
}

/// Each element with the sum of the magnitudes that bounds its rounding error.
fn naive<A: Scalar>(a: ArrayView2<'_, A>, b: ArrayView2<'_, A>) -> Array2<(f64, f64)> {
    Array2::from_shape_fn((a.nrows(), b.ncols()), |(i, j)| {
        let products = a.row(i).into_iter().zip(b.column(j)).map(|(x, y)| x.widen() * y.widen());
        products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
    })
}

fn kernels<A: Scalar>() -> [Kernel<A>; 2] {
    [A::kernel(), A::portable()]
}

fn packed<A: Scalar>(kernel: Kernel<A>, matrix: ArrayView2<'_, A>, scale: f64) -> PackedMatrix<A> {
    let mut packed = PackedMatrix::with_kernel(kernel);
    packed.repack(matrix, A::cast(scale));
    packed
}

fn assert_close<A: Scalar>(found: A, expected: f64, size: f64, inner: usize) {
    let unit = if A::NAME == "F32" { f64::from(f32::EPSILON) } else { f64::EPSILON };
    let bound = (inner as f64 + 3.0) * unit * (size + 2.0);
    assert!((found.widen() - expected).abs() <= bound, "{found} for {expected} ± {bound}");
}

/// Every output mode into a tile with NaN around it, which must stay.
fn check<A: Scalar>(kernel: Kernel<A>, m: usize, inner: usize, n: usize) {
    for mode in 0..3 {
        check_mode(kernel, (m, inner, n), mode);
    }
}

/// Overwriting, with a bias, and adding.
fn check_mode<A: Scalar>(kernel: Kernel<A>, (m, inner, n): (usize, usize, usize), mode: usize) {
    let (a, b, old) = (matrix::<A>(m, inner, 1), matrix::<A>(inner, n, 2), matrix::<A>(m, n, 3));
    let bias: Vec<A> = matrix::<A>(1, n, 4).into_iter().collect();
    let truth = naive(a.view(), b.view());
    let packed = packed(kernel, b.view(), 1.0);
    let (stride, left) = (n + 5, 3);
    let mut tile = Array2::from_elem((m + 1, stride), A::nan());
    if mode == 2 {
        tile.slice_mut(s![..m, left..left + n]).assign(&old);
    }
    let output = [Output::Set, Output::SetWithBias(&bias[..]), Output::Add][mode];
    let mut scratch = Scratch::default();
    // What an earlier product left behind must not show.
    scratch.left.resize(kernel.reach(m), A::nan());
    let rows = Rows {
        data: a.as_slice().unwrap(),
        stride: inner,
        count: m,
    };
    let (mut by_columns, mut by_chains) = (tile.clone(), tile.clone());
    let data = &mut tile.as_slice_mut().unwrap()[left..];
    packed.multiply(rows, output, RowsMut { data, stride }, &mut scratch);
    let mut results = vec![tile];
    if (1..=SEGMENT).contains(&inner) {
        let data = &mut by_columns.as_slice_mut().unwrap()[left..];
        let mut columns = PackedColumns::with_kernel(kernel);
        columns.repack(a.t().as_standard_layout().view());
        packed.multiply_columns(&columns, output, RowsMut { data, stride });
        let data = &mut by_chains.as_slice_mut().unwrap()[left..];
        let mut chains = Tile::default();
        chains.fill(a.view(), Runs::of(inner));
        packed.multiply_long_tile(chains.rows(), 0..n, output, RowsMut { data, stride });
        assert!(
            by_chains.iter().zip(&by_columns).all(|(x, y)| x == y || x.is_nan() && y.is_nan()),
            "{m}×{inner}×{n}"
        );
        results.push(by_chains);
    }
    for ((i, j), &c) in results.iter().flat_map(|tile| tile.indexed_iter()) {
        if i == m || j < left || j >= left + n {
            assert!(c.is_nan(), "{m}×{inner}×{n} wrote to {i}, {j}");
            continue;
        }
        let (sum, size) = truth[[i, j - left]];
        let before = [0.0, bias[j - left].widen(), old[[i, j - left]].widen()][mode];
        assert_close(c, sum + before, size, inner);
    }
}

fn check_small_shapes<A: Scalar>(kernel: Kernel<A>) {
    // Miri takes hours for more.
    let sizes = || (0..=40).step_by(if cfg!(miri) { 13 } else { 1 });
    for m in sizes() {
        for inner in sizes() {
            for n in sizes() {
                check_mode(kernel, (m, inner, n), (m + inner + n) % 3);
            }
        }
    }
}

#[test]
fn every_small_shape_is_the_definition() {
    kernels::<f32>().into_iter().for_each(check_small_shapes);
}

#[test]
fn every_small_shape_is_the_definition_in_f64() {
    kernels::<f64>().into_iter().for_each(check_small_shapes);
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn long_inner_dimensions_and_many_rows_go_block_by_block() {
    for (m, inner, n) in [(7, SEGMENT, 9), (5, SEGMENT + 1, 20), (13, 2 * SEGMENT + 77, 35), (401, 30, 10)] {
        for (single, double) in kernels().into_iter().zip(kernels()) {
            check::<f32>(single, m, inner, n);
            check::<f64>(double, m, inner, n);
        }
    }
}

#[test]
fn any_strides_on_both_sides_and_a_scale() {
    for kernel in kernels::<f64>() {
        let (a, b) = (matrix::<f64>(15, 23, 1), matrix::<f64>(23, 21, 2));
        let product = |b: ArrayView2<'_, f64>, a: ArrayView2<'_, f64>| {
            let mut c = Array2::zeros((15, 21));
            let data = c.as_slice_mut().unwrap();
            packed(kernel, b, -0.5).multiply_view(a, Output::Set, RowsMut { data, stride: 21 }, &mut Scratch::default());
            c
        };
        let expected = product(b.view(), a.view());
        for (&c, &(sum, size)) in expected.iter().zip(&naive(a.view(), b.view())) {
            assert_close(c, -0.5 * sum, size, 23);
        }
        let (at, bt) = (a.t().as_standard_layout().into_owned(), b.t().as_standard_layout().into_owned());
        assert_eq!(product(bt.t(), at.t()), expected);
        let (ar, br) = (a.slice(s![..;-1, ..;-1]).to_owned(), b.slice(s![..;-1, ..;-1]).to_owned());
        assert_eq!(product(br.slice(s![..;-1, ..;-1]), ar.slice(s![..;-1, ..;-1])), expected);
        let ones = Array2::from_elem((1, 1), 1.0);
        let sums = product(ones.broadcast((23, 21)).unwrap(), ones.broadcast((15, 23)).unwrap());
        assert_eq!(sums, Array2::from_elem((15, 21), -11.5));
    }
}

#[test]
fn nan_and_infinity_stay_in_their_rows_and_columns() {
    for kernel in kernels::<f32>() {
        for (m, inner, n) in [(5, 7, 3), (13, 20, 33), (12, 600, 17)] {
            let (mut a, mut b) = (matrix::<f32>(m, inner, 1), matrix::<f32>(inner, n, 2));
            a[[1, 2]] = f32::NAN;
            a[[m - 1, 4]] = f32::INFINITY;
            b[[3, n - 1]] = f32::NEG_INFINITY;
            let mut c = Array2::zeros((m, n));
            let data = c.as_slice_mut().unwrap();
            packed(kernel, b.view(), 1.0).multiply_view(a.view(), Output::Set, RowsMut { data, stride: n }, &mut Scratch::default());
            for (c, (sum, _)) in c.iter().zip(naive(a.view(), b.view())) {
                assert_eq!(c.is_nan(), sum.is_nan());
                assert!(sum.is_nan() || sum.is_finite() == c.is_finite());
            }
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn a_tile_is_read_in_place_with_the_same_bits() {
    fn to(data: &mut [f32]) -> RowsMut<'_, f32> {
        RowsMut { data, stride: 70 }
    }
    for (rows, inner) in [(1, 3), (12, 64), (97, SEGMENT), (30, SEGMENT + 3), (7, 2 * SEGMENT)] {
        let (a, b) = (matrix::<f32>(rows, inner, 1), matrix::<f32>(inner, 70, 2));
        let b = PackedMatrix::new(b.view(), 1.0);
        let bias = vec![0.25; 70];
        let mut expected = vec![0.5; rows * 70];
        let whole = Rows {
            data: a.as_slice().unwrap(),
            stride: inner,
            count: rows,
        };
        b.multiply(whole, Output::AddWithBias(&bias), to(&mut expected[..]), &mut Scratch::default());
        let mut tile = Tile::default();
        // What an earlier product left behind must not show.
        tile.fill(Array2::from_elem((rows + 9, inner), f32::NAN).view(), Runs::of(inner));
        tile.fill(a.view(), Runs::of(inner));
        let mut c = vec![0.5; rows * 70];
        b.multiply_tile(tile.rows(), 0, 0..70, Output::AddWithBias(&bias), to(&mut c[..]));
        assert_eq!(c, expected);
        // Some of the columns, and the inner dimension in two parts.
        let mut c = vec![0.5; rows * 70];
        for columns in [0..64, 64..70] {
            let bias = Output::AddWithBias(&bias[columns.clone()]);
            let start = columns.start;
            b.multiply_tile(tile.rows(), 0, columns, bias, to(&mut c[start..]));
        }
        assert_eq!(c, expected);
        if inner > SEGMENT {
            let mut c = vec![0.5; rows * 70];
            for (start, output) in [(0, Output::AddWithBias(&bias[..])), (SEGMENT, Output::Add)] {
                let end = inner.min(start + SEGMENT);
                tile.fill(a.slice(s![.., start..end]), Runs::of(end - start));
                b.multiply_tile(tile.rows(), start, 0..70, output, to(&mut c[..]));
            }
            assert_eq!(c, expected);
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn rows_split_in_any_way_give_the_same_bits() {
    let (a, b) = (matrix::<f32>(100, 700, 1), PackedMatrix::new(matrix::<f32>(700, 45, 2).view(), 1.0));
    let product = |tile: usize| {
        let mut c = vec![0.0; 100 * 45];
        for first in (0..100).step_by(tile) {
            let rows = Rows {
                data: &a.as_slice().unwrap()[first * 700..],
                stride: 700,
                count: tile.min(100 - first),
            };
            let data = &mut c[first * 45..];
            b.multiply(rows, Output::Set, RowsMut { data, stride: 45 }, &mut Scratch::default());
        }
        c
    };
    let whole = product(100);
    for tile in [1, 7, 12, 64] {
        assert_eq!(product(tile), whole);
    }
}

#[test]
fn repacking_and_multiplying_again_allocates_nothing() {
    let mut b = PackedMatrix::new(matrix::<f32>(30, 40, 1).view(), 1.0);
    let mut scratch = Scratch::default();
    let (a, mut c) = (matrix::<f32>(20, 30, 2), vec![0.0; 20 * 40]);
    b.multiply_view(a.view(), Output::Set, RowsMut { data: &mut c, stride: 40 }, &mut scratch);
    let buffers = |b: &PackedMatrix<f32>, scratch: &Scratch<f32>| (b.panels.as_slice().as_ptr(), scratch.left.as_ptr());
    let before = buffers(&b, &scratch);
    b.repack(matrix::<f32>(25, 31, 3).view(), 2.0);
    b.multiply_view(
        a.slice(s![..9, ..25]),
        Output::Set,
        RowsMut { data: &mut c, stride: 40 },
        &mut scratch,
    );
    assert_eq!(buffers(&b, &scratch), before);
    assert_eq!(b.dim(), (25, 31));
    let fresh = PackedMatrix::new(matrix::<f32>(25, 31, 3).view(), 2.0);
    assert_eq!(fresh.panels.as_slice(), b.panels.as_slice());
    assert_eq!(fresh.panels.as_slice().as_ptr().align_offset(64), 0);
}

/// 1 + e·x, the columns of x packed `width` at a time.
fn accumulated<A: Scalar>(kernel: Kernel<A>, e: ArrayView2<'_, A>, x: &Array2<A>, width: usize) -> Array2<A> {
    let mut tile = Tile::default();
    tile.fill(e, Runs::of(e.ncols()));
    let (inner, d) = x.dim();
    let mut c = Array2::from_elem((e.nrows(), d), A::one());
    for first in (0..d).step_by(width) {
        let cols = width.min(d - first);
        let x = Rows {
            data: x.as_slice().unwrap().get(first..).unwrap_or_default(),
            stride: d,
            count: inner,
        };
        let mut panels = vec![A::nan(); kernel.padded(cols) * inner];
        (kernel.pack)(x.data, x.stride, x.count, cols, &mut panels);
        let data = c.as_slice_mut().unwrap().get_mut(first..).unwrap_or_default();
        multiply_by(kernel, tile.rows(), &panels, cols, Output::Add, RowsMut { data, stride: d });
    }
    c
}

#[test]
#[cfg_attr(miri, ignore = "a sweep, too long to interpret")]
fn a_tile_times_packed_rows_is_the_definition_however_columns_are_split() {
    fn all<A: Scalar>(kernel: Kernel<A>) {
        for (k, n, d) in [
            (1, 1, 1),
            (4, 200, 32),
            (13, 40, 17),
            (12, 512, 33),
            (30, 300, 77),
            (5, 5, 64),
            (0, 5, 5),
            (5, 0, 5),
            (5, 5, 0),
        ] {
            let (e, x) = (matrix::<A>(k, n, 1), matrix::<A>(n, d, 2));
            let whole = accumulated(kernel, e.view(), &x, d.max(1));
            for (&c, &(sum, size)) in whole.iter().zip(&naive(e.view(), x.view())) {
                assert_close(c, 1.0 + sum, size, n);
            }
            for width in [5, 16, 40] {
                assert_eq!(accumulated(kernel, e.view(), &x, width), whole);
            }
            let transposed = e.t().as_standard_layout().into_owned();
            assert_eq!(accumulated(kernel, transposed.t(), &x, d.max(1)), whole);
        }
    }
    kernels::<f32>().into_iter().for_each(all);
    kernels::<f64>().into_iter().for_each(all);
}

#[test]
fn what_lies_outside_a_part_of_e_does_not_leak_in() {
    let mut e = matrix::<f32>(5, 40, 1);
    e.column_mut(3).fill(f32::NAN);
    e.column_mut(30).fill(f32::INFINITY);
    let mut x = matrix::<f32>(20, 9, 2);
    x.column_mut(7).fill(f32::NAN);
    for kernel in kernels::<f32>() {
        let c = accumulated(kernel, e.slice(s![.., 5..25]), &x, 9);
        for ((_, j), c) in c.indexed_iter() {
            assert_eq!(c.is_finite(), j != 7);
        }
    }
}
