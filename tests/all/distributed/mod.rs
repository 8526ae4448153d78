//! Several ranks as threads: the numbers of a single process, whatever is spread over them.
#![allow(clippy::cast_possible_truncation, clippy::float_cmp)] // small numbers, and what is compared so is exact

mod encoders;
mod exchanges;
mod failures;
#[cfg(feature = "checkpoint")]
mod files;
mod grid;
mod groups;
mod local_global;
mod models;
mod numbers;
mod padding;

use linformer::distributed::{Shards, ThreadGroup, ThreadRank};
use linformer::ndarray::{Array2, ArrayD, Axis};
use linformer::{PaddingMask, Parameters, Result};
use std::ops::Range;

/// What all ranks return, or the first error.
fn ranks<T: Send>(size: usize, work: impl Fn(&ThreadRank) -> Result<T> + Sync) -> Vec<T> {
    ThreadGroup::run(size, work)
        .into_iter()
        .map(|result| result.unwrap_or_else(|error| panic!("{error}")))
        .collect()
}

/// The positions `range` of a mask.
fn cut(mask: &PaddingMask, range: Range<usize>) -> PaddingMask {
    let (batch, _) = mask.dim();
    PaddingMask::from_bools(&Array2::from_shape_fn((batch, range.len()), |(item, position)| {
        mask.is_real(item, range.start + position)
    }))
}

/// Ranges that differ much in size, some of them empty.
fn uneven(total: usize, ranks: usize, seed: u64) -> Shards {
    let mut bounds: Vec<usize> = (1..ranks).map(|rank| (seed as usize * 7 + rank * rank * 5) % (total + 1)).collect();
    bounds.sort_unstable();
    bounds.push(total);
    let mut start = 0;
    let lengths: Vec<usize> = bounds.iter().map(|&end| end - std::mem::replace(&mut start, end)).collect();
    Shards::from_lengths(&lengths).unwrap()
}

/// The largest difference between a part's tensors and those of the whole model, of which it may have some columns.
fn part_difference<M: Parameters<f64>>(part: &M, whole: &M, columns: &Range<usize>) -> f64 {
    let (parts, wholes) = (crate::common::tensors(part), crate::common::tensors(whole));
    assert_eq!(parts.len(), wholes.len());
    let differences = parts.iter().zip(&wholes).map(|((name, part), (same, whole))| {
        assert_eq!(name, same);
        let expected: ArrayD<f64> = if part.shape() == whole.shape() {
            whole.clone()
        } else {
            let last = Axis(whole.ndim() - 1);
            whole.slice_axis(last, columns.clone().into()).to_owned()
        };
        let scale = expected.iter().fold(1.0, |most: f64, value| most.max(value.abs()));
        crate::common::difference(part.view(), expected.view()) / scale
    });
    differences.fold(0.0, f64::max)
}
