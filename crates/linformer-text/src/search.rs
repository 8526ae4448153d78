//! Which vectors are near which.

use std::cmp::Ordering;

use linformer::batched_matmul;
use linformer::ndarray::{Array2, ArrayRef2, Axis, s};

use crate::error::{Error, Result};
use crate::pooling::rounded;

/// The vectors of a corpus that are compared at a time.
const TILE: usize = 4096;

/// Computes the cosine of each row of `a` with each of `b`: (rows of a, rows of b). That with a row of zeros is 0.
///
/// ```
/// use linformer_text::similarity;
/// use linformer::ndarray::array;
///
/// let cosines = similarity(&array![[2.0, 0.0]], &array![[1.0, 0.0], [0.0, 5.0], [-3.0, 0.0]])?;
/// assert_eq!(cosines, array![[1.0, 0.0, -1.0]]);
/// # Ok::<(), linformer_text::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the rows differ in length.
pub fn similarity(a: &ArrayRef2<f32>, b: &ArrayRef2<f32>) -> Result<Array2<f32>> {
    check_widths("similarity", a, b)?;
    products(&normalized_rows(a), &normalized_rows(b))
}

/// Finds the `k` rows of `corpus` with the largest cosines to each row of `queries`, or all where there are fewer: their indices and cosines,
/// (queries, k) each, the largest first; of equal ones, the first.
///
/// ```
/// use linformer_text::top_k;
/// use linformer::ndarray::array;
///
/// let corpus = array![[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]];
/// let (indices, cosines) = top_k(&array![[0.0, 2.0]], &corpus, 2)?;
/// assert_eq!(indices, array![[1, 2]]);
/// assert!((cosines[[0, 1]] - 0.5_f32.sqrt()).abs() < 1e-6);
/// # Ok::<(), linformer_text::Error>(())
/// ```
///
/// # Errors
/// Returns an error if the rows differ in length.
pub fn top_k(queries: &ArrayRef2<f32>, corpus: &ArrayRef2<f32>, k: usize) -> Result<(Array2<usize>, Array2<f32>)> {
    check_widths("top_k", queries, corpus)?;
    let k = k.min(corpus.nrows());
    let queries = normalized_rows(queries);
    let mut best: Vec<Vec<(usize, f32)>> = vec![Vec::new(); queries.nrows()];
    for start in (0..corpus.nrows()).step_by(TILE) {
        let end = (start + TILE).min(corpus.nrows());
        let cosines = products(&queries, &normalized_rows(&corpus.slice(s![start..end, ..])))?;
        for (best, cosines) in best.iter_mut().zip(cosines.outer_iter()) {
            best.extend(cosines.iter().enumerate().map(|(index, &cosine)| (start + index, cosine)));
            keep_best(best, k);
        }
    }
    let indices = Array2::from_shape_fn((queries.nrows(), k), |(query, rank)| best[query][rank].0);
    let cosines = Array2::from_shape_fn((queries.nrows(), k), |(query, rank)| best[query][rank].1);
    Ok((indices, cosines))
}

/// Keeps the `k` largest, sorted; NaN is below all numbers.
fn keep_best(scored: &mut Vec<(usize, f32)>, k: usize) {
    if k > 0 && k < scored.len() {
        scored.select_nth_unstable_by(k - 1, larger_first);
    }
    scored.truncate(k);
    scored.sort_unstable_by(larger_first);
}

pub(crate) fn larger_first(a: &(usize, f32), b: &(usize, f32)) -> Ordering {
    let number = |value: f32| if value.is_nan() { f32::NEG_INFINITY } else { value };
    number(b.1).total_cmp(&number(a.1)).then(a.0.cmp(&b.0))
}

fn check_widths(operation: &'static str, a: &ArrayRef2<f32>, b: &ArrayRef2<f32>) -> Result<()> {
    if a.ncols() == b.ncols() {
        return Ok(());
    }
    let reason = format!(
        "vectors of {} and of {} numbers cannot be compared; take both from the same model",
        a.ncols(),
        b.ncols()
    );
    Err(Error::argument(operation, reason))
}

fn normalized_rows(vectors: &ArrayRef2<f32>) -> Array2<f32> {
    let mut rows = vectors.to_owned();
    for mut row in rows.outer_iter_mut() {
        let squares: f64 = row.iter().map(|&value| f64::from(value) * f64::from(value)).sum();
        if squares != 0.0 {
            row.mapv_inplace(|value| rounded(f64::from(value) / squares.sqrt()));
        }
    }
    rows
}

/// a·bᵀ.
fn products(a: &Array2<f32>, b: &Array2<f32>) -> Result<Array2<f32>> {
    let product = batched_matmul(&a.view().insert_axis(Axis(0)), &b.t().insert_axis(Axis(0)))?;
    Ok(product.index_axis_move(Axis(0), 0))
}
