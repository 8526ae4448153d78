//! One block of a result: its sums stay in vector registers until all products are added.

#[cfg(all(target_arch = "x86_64", target_feature = "sse", not(miri)))]
use safe_arch::{prefetch_t0 as prefetch_nearest, prefetch_t1 as prefetch_second_level};

use super::{Output, STRIDE};
use crate::scalar::Scalar;

/// Blocks with a shorter inner dimension find their place in the nearest cache, or end before it is there.
pub(super) const NEAR: usize = 192;
/// Positions after which [`block`] brings some of the next panel near.
const TURN: usize = 16;
/// Parts of the next panel, one for each of the first blocks of a panel.
pub(super) const NEXT_PARTS: usize = 4;

/// Where there is no safe instruction for it, nothing is prefetched.
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse", not(miri))))]
#[inline(always)]
fn no_prefetch<A>(_: &A) {}
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse", not(miri))))]
use no_prefetch as prefetch_nearest;
#[cfg(not(all(target_arch = "x86_64", target_feature = "sse", not(miri))))]
use no_prefetch as prefetch_second_level;

/// Which part of a block counts, and where it goes.
#[derive(Clone, Copy)]
pub(super) struct Place<'a, A> {
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) first: usize,
    pub(super) output: Output<'a, A>,
    pub(super) stride: usize,
}

/// The sums of a block of MR rows of the left operand.
///
/// Some rows of the `next` panel are prefetched meanwhile. Without that the first block of every panel waits for the third-level cache: an
/// eighth of the time for 264 rows.
#[inline(always)]
pub(super) fn block<A: Scalar, const FMA: bool, const MR: usize, const NR: usize, const PAIRED: bool>(
    left: &[[A; STRIDE]],
    panel: &[[A; NR]],
    next: &[[A; NR]],
    place: Place<'_, A>,
    c: &mut [A],
) {
    let Some(left) = left.first_chunk::<MR>() else { return };
    bring_near::<A, MR, NR>(panel.len(), place, c);
    let mut sums = [[A::zero(); NR]; MR];
    if next.is_empty() {
        add_positions::<A, FMA, MR, NR, PAIRED>(left, 0, panel, &mut sums);
        return write(sums, place, c);
    }
    // A length that LLVM does not know: it would unroll the loop over a turn, and then sums leave their registers.
    let turn = std::hint::black_box(TURN);
    let mut next = Next::of(next, turn, panel.len());
    for (index, part) in panel.chunks(turn).enumerate() {
        next.bring_near();
        add_positions::<A, FMA, MR, NR, PAIRED>(left, index * turn, part, &mut sums);
    }
    write(sums, place, c);
}

/// `sums` += the products of the positions from `start` on. `PAIRED` loops take two positions a turn, which is faster where there are
/// registers enough for the sums and for two rows of the panel: elsewhere sums would leave theirs.
#[inline(always)]
fn add_positions<A: Scalar, const FMA: bool, const MR: usize, const NR: usize, const PAIRED: bool>(
    left: &[[A; STRIDE]; MR],
    start: usize,
    panel: &[[A; NR]],
    sums: &mut [[A; NR]; MR],
) {
    let mut single = (start, panel);
    if PAIRED {
        let (pairs, last) = panel.as_chunks::<2>();
        for (p, b) in (start..STRIDE - 1).step_by(2).zip(pairs) {
            add_products::<A, FMA, MR, NR>(|i| left[i][p], &b[0], sums);
            add_products::<A, FMA, MR, NR>(|i| left[i][p + 1], &b[1], sums);
        }
        single = (start + 2 * pairs.len(), last);
    }
    for (p, b) in (single.0..STRIDE).zip(single.1) {
        add_products::<A, FMA, MR, NR>(|i| left[i][p], b, sums);
    }
}

/// Positions that one running sum goes over where rounding must not add up: the sums of these are added in turn. For equal terms in `f32`, a
/// segment is then off by 7.8e-7 at most (with 32 7.6e-7, for half as much again to add up); with 64 it can be 1.04e-6.
pub(super) const CHAIN: usize = 48;

/// [`block`] for long sums: chain by chain, so that an element's roundings do not all add up.
#[inline(always)]
pub(super) fn block_of_chains<A: Scalar, const FMA: bool, const MR: usize, const NR: usize, const PAIRED: bool>(
    left: &[[A; STRIDE]],
    panel: &[[A; NR]],
    next: &[[A; NR]],
    place: Place<'_, A>,
    c: &mut [A],
) {
    let Some(left) = left.first_chunk::<MR>() else { return };
    bring_near::<A, MR, NR>(panel.len(), place, c);
    let mut totals = [[A::zero(); NR]; MR];
    // A length that LLVM does not know, as in `block`.
    let chain = std::hint::black_box(CHAIN);
    let mut next = Next::of(next, chain, panel.len());
    for (index, part) in panel.chunks(chain).enumerate() {
        next.bring_near();
        let mut sums = [[A::zero(); NR]; MR];
        add_positions::<A, FMA, MR, NR, PAIRED>(left, index * chain, part, &mut sums);
        add_chain(sums, std::hint::black_box(&mut totals));
    }
    write(totals, place, c);
}

#[inline(always)]
fn add_chain<A: Scalar, const MR: usize, const NR: usize>(sums: [[A; NR]; MR], totals: &mut [[A; NR]; MR]) {
    #[allow(clippy::needless_range_loop)] // LLVM keeps sums in memory that it does not see indexed
    for i in 0..MR {
        for j in 0..NR {
            totals[i][j] += sums[i][j];
        }
    }
}

/// The sums of one panel of the left operand, chain by chain, in `HALVES` blocks of ROWS rows: LLVM keeps one block of 12 rows of 16 numbers in memory, but not
/// two of 6.
#[inline(always)]
pub(super) fn block_of_panels<A: Scalar, const FMA: bool, const MR: usize, const ROWS: usize, const HALVES: usize, const NR: usize>(
    left: &[[A; MR]],
    panel: &[[A; NR]],
    next: &[[A; NR]],
    place: Place<'_, A>,
    c: &mut [A],
) {
    debug_assert_eq!(left.len(), panel.len(), "the same positions of both operands");
    bring_near::<A, MR, NR>(panel.len(), place, c);
    let mut totals = [[[A::zero(); NR]; ROWS]; HALVES];
    let chain = std::hint::black_box(CHAIN);
    let mut next = Next::of(next, chain, panel.len());
    for (left, panel) in left.chunks(chain).zip(panel.chunks(chain)) {
        next.bring_near();
        let mut sums = [[[A::zero(); NR]; ROWS]; HALVES];
        for (a, b) in left.iter().zip(panel) {
            for (part, sums) in sums.iter_mut().enumerate() {
                add_products::<A, FMA, ROWS, NR>(|i| a[part * ROWS + i], b, sums);
            }
        }
        for (part, totals) in totals.iter_mut().enumerate() {
            add_chain(sums[part], std::hint::black_box(totals));
        }
    }
    for (part, sums) in totals.into_iter().enumerate() {
        let first = part * ROWS;
        let place = Place {
            rows: place.rows.saturating_sub(first).min(ROWS),
            ..place
        };
        write(sums, place, c.get_mut(first * place.stride..).unwrap_or_default());
    }
}

/// The rows of a panel that are prefetched while another is multiplied, a few each turn.
struct Next<'p, A, const NR: usize>(std::slice::Chunks<'p, [A; NR]>);

impl<'p, A: Scalar, const NR: usize> Next<'p, A, NR> {
    /// All of `rows` while `positions` are gone through, `turn` of them at a time.
    #[inline(always)]
    fn of(rows: &'p [[A; NR]], turn: usize, positions: usize) -> Self {
        let a_turn = if rows.is_empty() {
            1
        } else {
            (rows.len() * turn).div_ceil(positions)
        };
        Self(rows.chunks(a_turn))
    }

    #[inline(always)]
    fn bring_near(&mut self) {
        for row in self.0.next().unwrap_or(&[]) {
            // One number of each line of 64 bytes.
            row.chunks(64 / size_of::<A>()).for_each(|line| prefetch_second_level(&line[0]));
        }
    }
}

/// Brings near where the sums will go, so that it is in the nearest cache when they are there.
#[inline(always)]
fn bring_near<A: Scalar, const MR: usize, const NR: usize>(inner: usize, place: Place<'_, A>, c: &[A]) {
    // At such a distance all rows fall into the same few places of the cache and drive one another out.
    let conflicting = (place.stride * size_of::<A>()).is_multiple_of(4096);
    if inner < NEAR || conflicting {
        return;
    }
    for row in 0..MR.min(place.rows) {
        let Some(c) = c.get(row * place.stride..).and_then(|c| c.first_chunk::<NR>()) else {
            return;
        };
        c.chunks(64 / size_of::<A>()).for_each(|line| prefetch_nearest(&line[0]));
    }
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
    // Written to memory whole and at once, the sums are what LLVM recognizes as vectors; used one by one below, some would be scalars.
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
