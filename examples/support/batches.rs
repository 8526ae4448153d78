//! Labeled token sequences in batches.

use linformer::training::TokenBatch;

use super::AnyError;

/// Pads sequences, each with its class.
pub fn batch<'s>(sequences: impl IntoIterator<Item = &'s (Vec<usize>, usize)>) -> Result<TokenBatch, AnyError> {
    let (tokens, classes): (Vec<&[usize]>, Vec<Option<usize>>) = sequences
        .into_iter()
        .map(|(tokens, class)| (tokens.as_slice(), Some(*class)))
        .unzip();
    Ok(TokenBatch::from_sequences(&tokens, classes)?)
}

/// All sequences in batches of at most `size`, the shortest first, so that little is padded.
pub fn batches(sequences: &[(Vec<usize>, usize)], size: usize) -> Result<Vec<TokenBatch>, AnyError> {
    let mut sorted: Vec<_> = sequences.iter().collect();
    sorted.sort_by_key(|(tokens, _)| tokens.len());
    sorted.chunks(size).map(|chunk| batch(chunk.iter().copied())).collect()
}

/// The share of the most frequent of `count` classes.
pub fn majority(batches: &[TokenBatch], count: usize) -> f64 {
    let mut counts = vec![0_usize; count];
    for class in batches.iter().flat_map(|batch| batch.targets.iter().flatten()) {
        counts[*class] += 1;
    }
    let all: usize = counts.iter().sum();
    counts.into_iter().max().unwrap_or(0) as f64 / all.max(1) as f64
}
