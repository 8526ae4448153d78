//! Copies to the layouts that the kernels read.

use crate::scalar::Scalar;

/// Rows are read whole, so that the processor can tell what comes next.
#[inline(always)]
pub(super) fn pack_rows<A: Scalar, const NR: usize, const HALF: usize>(rows: &[A], ld: usize, inner: usize, cols: usize, panels: &mut [A]) {
    let whole = cols - cols % NR;
    let (panels, last) = panels.split_at_mut(whole * inner);
    let width = if (cols - whole) > HALF { NR } else { HALF };
    for p in 0..inner {
        let (chunks, rest) = rows[p * ld..][..cols].as_chunks::<NR>();
        for (chunk, panel) in chunks.iter().zip(panels.chunks_exact_mut(NR * inner)) {
            panel[p * NR..][..NR].copy_from_slice(chunk);
        }
        if !rest.is_empty() {
            let to = &mut last[p * width..][..width];
            to[..rest.len()].copy_from_slice(rest);
            to[rest.len()..].fill(A::zero());
        }
    }
}

#[inline(always)]
pub(super) fn pack_column<A: Scalar, const MR: usize>(column: &[A], inner: usize, panels: &mut [A]) {
    let (chunks, rest) = column.as_chunks::<MR>();
    for (chunk, panel) in chunks.iter().zip(panels.chunks_mut(MR * inner)) {
        panel[..MR].copy_from_slice(chunk);
    }
    if !rest.is_empty() {
        panels[chunks.len() * MR * inner..][..rest.len()].copy_from_slice(rest);
    }
}
