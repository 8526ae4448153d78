//! Softmax of groups of neighbors, a few elements each, whole vectors of them at a time.

use super::super::elementary::{Elementary, LANES};
use crate::scalar::Scalar;

/// Replaces every group of `group` neighbors in the first `cols` of every `stride` elements by its softmax, as
/// [`softmax_rows`](super::softmax_rows) would; `cols` is a multiple of `group`. Whether that was done: only groups of 2, 4, 8 or 16 fill vectors.
///
/// In f32 the error of an exponential is that of [`exp_rows`](super::exp_rows); sums are taken in pairs.
pub(crate) fn softmax_groups<A: Scalar>(tile: &mut [A], cols: usize, group: usize, stride: usize) -> bool {
    let fits = group > 1 && LANES.is_multiple_of(group);
    if fits && cols > 0 {
        A::softmax_groups(tile, cols, group, stride);
    }
    fits
}

#[inline(always)]
pub(super) fn softmax_groups_body<T: Elementary, const FMA: bool>(tile: &mut [T], cols: usize, group: usize, stride: usize) {
    match group {
        2 => rows::<T, FMA, 2>(tile, cols, stride),
        4 => rows::<T, FMA, 4>(tile, cols, stride),
        8 => rows::<T, FMA, 8>(tile, cols, stride),
        _ => rows::<T, FMA, LANES>(tile, cols, stride),
    }
}

#[inline(always)]
fn rows<T: Elementary, const FMA: bool, const GROUP: usize>(tile: &mut [T], cols: usize, stride: usize) {
    for row in tile.chunks_mut(stride) {
        let (chunks, rest) = row[..cols].as_chunks_mut::<LANES>();
        for chunk in chunks {
            *chunk = softmax_lanes::<T, FMA, GROUP>(*chunk);
        }
        if !rest.is_empty() {
            let mut chunk = [T::zero(); LANES];
            chunk[..rest.len()].copy_from_slice(rest);
            rest.copy_from_slice(&softmax_lanes::<T, FMA, GROUP>(chunk)[..rest.len()]);
        }
    }
}

/// Every lane folded with all others of its group.
#[inline(always)]
fn fold_groups<T: Elementary, const GROUP: usize>(mut lanes: [T; LANES], fold: impl Fn(T, T) -> T) -> [T; LANES] {
    let mut step = 1;
    while step < GROUP {
        let before = lanes;
        for i in 0..LANES {
            lanes[i] = fold(before[i], before[i ^ step]);
        }
        step *= 2;
    }
    lanes
}

#[inline(always)]
fn softmax_lanes<T: Elementary, const FMA: bool, const GROUP: usize>(mut x: [T; LANES]) -> [T; LANES] {
    let maxima = fold_groups::<T, GROUP>(x, |max, x| if x > max { x } else { max });
    for i in 0..LANES {
        // −∞ − −∞ would be NaN.
        let shift = if maxima[i] == T::neg_infinity() { T::zero() } else { maxima[i] };
        x[i] = T::exp_of_negative::<FMA>(x[i] - shift);
    }
    let sums = fold_groups::<T, GROUP>(x, |sum, x| sum + x);
    for i in 0..LANES {
        let factor = if sums[i] == T::zero() { T::zero() } else { T::one() / sums[i] };
        x[i] *= factor;
    }
    x
}

#[cfg(test)]
mod tests {
    use super::super::super::elementary::tests::spread;
    use super::super::{SoftmaxKernels, softmax_rows};
    use super::*;

    type Groups = fn(&mut [f32], usize, usize, usize);
    const VERSIONS: [Groups; 2] = [f32::softmax_groups, softmax_groups_body::<f32, false>];

    /// Infinities and NaN, groups at the end of a row that fill no vector, and what lies between the rows stays.
    #[test]
    fn every_group_is_a_row_of_softmax() {
        for version in VERSIONS {
            for group in [2, 4, 8, 16] {
                for groups in [1, 3, 8, 11] {
                    let (cols, rows) = (group * groups, 7);
                    let stride = cols + 3;
                    let mut tile: Vec<f32> = spread(rows * stride, 40.0).into_iter().map(f32::of).collect();
                    tile[..group].fill(f32::NEG_INFINITY);
                    tile[stride..stride + group - 1].fill(f32::NEG_INFINITY);
                    tile[2 * stride + group / 2] = f32::NAN;
                    tile[3 * stride] = f32::INFINITY;
                    let mut expected = tile.clone();
                    for row in expected.chunks_mut(stride) {
                        softmax_rows(&mut row[..cols], group);
                    }
                    version(&mut tile, cols, group, stride);
                    for (found, expected) in tile.iter().zip(&expected) {
                        let same = (found - expected).abs() <= 4e-7 * expected.abs() || found.is_nan() && expected.is_nan();
                        assert!(same, "{groups} of {group}: {found} for {expected}");
                    }
                }
            }
        }
    }

    #[test]
    fn other_groups_are_left_alone() {
        for group in [0, 1, 3, 5, 12, 32] {
            let mut tile = [1.0f64; 96];
            assert!(!softmax_groups(&mut tile, group * 3, group, 96));
            assert!(tile.iter().all(|x| x.to_bits() == 1.0f64.to_bits()));
        }
    }
}
