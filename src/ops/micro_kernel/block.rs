//! One block of a result: its sums stay in vector registers until all products are added.

use super::{Output, STRIDE};
use crate::scalar::Scalar;

/// Blocks with a shorter inner dimension find their place in the nearest cache, or end before it is there.
pub(super) const NEAR: usize = 192;
/// Positions after which [`block_ahead`] reads a row of the next panel.
pub(super) const TURN: usize = 8;

/// Which part of a block counts, and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Place<'a, A> {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) first: usize,
    pub(super) output: Output<'a, A>,
    pub(super) stride: usize,
}

/// `PAIRED` blocks take two positions a turn, which is faster where there are many.
#[inline(always)]
pub(super) fn block<A: Scalar, const FMA: bool, const MR: usize, const NR: usize, const PAIRED: bool>(
    left: &[[A; STRIDE]],
    panel: &[[A; NR]],
    place: Place<'_, A>,
    c: &mut [A],
) {
    let Some(left) = left.first_chunk::<MR>() else { return };
    let mut sums = [[A::zero(); NR]; MR];
    if PAIRED {
        bring_near::<A, MR, NR>(panel.len(), place, c);
        let (pairs, last) = panel.as_chunks::<2>();
        for (pair, b) in (0..STRIDE / 2).zip(pairs) {
            add_products::<A, FMA, MR, NR>(|i| left[i][2 * pair], &b[0], &mut sums);
            add_products::<A, FMA, MR, NR>(|i| left[i][2 * pair + 1], &b[1], &mut sums);
        }
        let p = 2 * pairs.len();
        if let ([b], true) = (last, p < STRIDE) {
            add_products::<A, FMA, MR, NR>(|i| left[i][p], b, &mut sums);
        }
    } else {
        for (p, b) in (0..STRIDE).zip(panel) {
            add_products::<A, FMA, MR, NR>(|i| left[i][p], b, &mut sums);
        }
    }
    write(sums, place, c);
}

/// A block that reads some rows of the `next` panel meanwhile, so that those who multiply it find it in a near cache; what is read is not
/// used. Without that the first block of every panel waits for the third-level cache: an eighth of the time for 264 rows.
#[inline(always)]
pub(super) fn block_ahead<A: Scalar, const FMA: bool, const MR: usize, const NR: usize>(
    left: &[[A; STRIDE]],
    panel: &[[A; NR]],
    next: &[[A; NR]],
    place: Place<'_, A>,
    c: &mut [A],
) {
    let Some(left) = left.first_chunk::<MR>() else { return };
    bring_near::<A, MR, NR>(panel.len(), place, c);
    let mut sums = [[A::zero(); NR]; MR];
    let mut largest = [A::zero(); 2];
    let (turns, rest) = panel.as_chunks::<TURN>();
    for (turn, b) in (0..STRIDE / TURN).zip(turns) {
        for pair in 0..TURN / 2 {
            let p = 2 * (turn * (TURN / 2) + pair);
            add_products::<A, FMA, MR, NR>(|i| left[i][p], &b[2 * pair], &mut sums);
            add_products::<A, FMA, MR, NR>(|i| left[i][p + 1], &b[2 * pair + 1], &mut sums);
        }
        if let Some(next) = next.get(turn) {
            // One number of each line of 64 bytes, or two. A maximum cannot be left out as long as somebody may see it.
            for (largest, value) in largest.iter_mut().zip([next[0], next[NR / 2]]) {
                *largest = if value > *largest { value } else { *largest };
            }
        }
    }
    for (p, b) in (turns.len() * TURN..STRIDE).zip(rest) {
        add_products::<A, FMA, MR, NR>(|i| left[i][p], b, &mut sums);
    }
    std::hint::black_box(largest);
    write(sums, place, c);
}

/// Rows `first`.. of a panel of the left operand.
#[inline(always)]
pub(super) fn block_of_panels<A: Scalar, const FMA: bool, const MR: usize, const ROWS: usize, const NR: usize>(
    left: &[[A; MR]],
    first: usize,
    panel: &[[A; NR]],
    place: Place<'_, A>,
    c: &mut [A],
) {
    debug_assert_eq!(left.len(), panel.len(), "the same positions of both operands");
    bring_near::<A, ROWS, NR>(panel.len(), place, c);
    let mut sums = [[A::zero(); NR]; ROWS];
    let (left_pairs, left_last) = left.as_chunks::<2>();
    let (pairs, last) = panel.as_chunks::<2>();
    for (a, b) in left_pairs.iter().zip(pairs) {
        let (Some(a0), Some(a1)) = (a[0][first..].first_chunk::<ROWS>(), a[1][first..].first_chunk::<ROWS>()) else {
            return;
        };
        add_products::<A, FMA, ROWS, NR>(|i| a0[i], &b[0], &mut sums);
        add_products::<A, FMA, ROWS, NR>(|i| a1[i], &b[1], &mut sums);
    }
    if let ([a], [b]) = (left_last, last) {
        let Some(a) = a[first..].first_chunk::<ROWS>() else { return };
        add_products::<A, FMA, ROWS, NR>(|i| a[i], b, &mut sums);
    }
    write(sums, place, c);
}

/// Reads where the sums will go, so that it is in the nearest cache when they are there; what is read is not used.
#[inline(always)]
fn bring_near<A: Scalar, const MR: usize, const NR: usize>(inner: usize, place: Place<'_, A>, c: &[A]) {
    // At such a distance all rows fall into the same few places of the cache and drive one another out.
    let conflicting = (place.stride * size_of::<A>()).is_multiple_of(4096);
    if inner < NEAR || conflicting || place.rows < MR {
        return;
    }
    let mut largest = [A::zero(); NR];
    for row in 0..MR {
        let Some(c) = c.get(row * place.stride..).and_then(|c| c.first_chunk::<NR>()) else {
            return;
        };
        for j in 0..NR {
            largest[j] = if c[j] > largest[j] { c[j] } else { largest[j] };
        }
    }
    std::hint::black_box(largest);
}

/// `sums` += the products of the elements of a column and those of a row.
#[inline(always)]
fn add_products<A: Scalar, const FMA: bool, const MR: usize, const NR: usize>(
    column: impl Fn(usize) -> A,
    row: &[A; NR],
    sums: &mut [[A; NR]; MR],
) {
    #[allow(clippy::needless_range_loop)] // LLVM keeps sums in memory that it does not see indexed
    for i in 0..MR {
        for j in 0..NR {
            sums[i][j] = if FMA {
                column(i).mul_add(row[j], sums[i][j])
            } else {
                column(i) * row[j] + sums[i][j]
            };
        }
    }
}

#[inline(always)]
fn write<A: Scalar, const MR: usize, const NR: usize>(sums: [[A; NR]; MR], place: Place<'_, A>, c: &mut [A]) {
    // Written to memory whole and at once, the sums are what LLVM recognises as vectors; used one by one below, some would be scalars.
    let copy = sums;
    let sums = std::hint::black_box(&copy);
    for (i, sums) in sums.iter().take(place.rows).enumerate() {
        let c = &mut c[i * place.stride..][..place.width];
        if let Some(c) = c.first_chunk_mut::<NR>() {
            store(sums, place, c);
        } else {
            let mut whole = [A::zero(); NR];
            whole[..place.width].copy_from_slice(c);
            store(sums, place, &mut whole);
            c.copy_from_slice(&whole[..place.width]);
        }
    }
}

#[inline(always)]
fn store<A: Scalar, const NR: usize>(sums: &[A; NR], place: Place<'_, A>, c: &mut [A; NR]) {
    let mut result = *sums;
    if let Output::Add | Output::AddWithBias(_) = place.output {
        for j in 0..NR {
            result[j] += c[j];
        }
    }
    if let Output::SetWithBias(bias) | Output::AddWithBias(bias) = place.output {
        let bias = &bias[place.first..][..place.width];
        match bias.first_chunk::<NR>() {
            Some(bias) => (0..NR).for_each(|j| result[j] += bias[j]),
            None => result.iter_mut().zip(bias).for_each(|(result, &bias)| *result += bias),
        }
    }
    *c = result;
}
