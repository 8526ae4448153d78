//! Labelled token sequences in batches, and how often a classifier is right about them.

use linformer::ndarray::Array2;
use linformer::{Classifier, PaddingMask};

use super::AnyError;

/// Token sequences, padded on the right, and the class of each.
pub struct Batch {
    pub tokens: Array2<usize>,
    pub mask: PaddingMask,
    pub classes: Vec<Option<usize>>,
}

impl Batch {
    /// Pads sequences with the token 0.
    pub fn new(sequences: &[(&[usize], usize)]) -> Result<Self, AnyError> {
        let lengths: Vec<usize> = sequences.iter().map(|(tokens, _)| tokens.len()).collect();
        let longest = lengths.iter().copied().max().unwrap_or(0);
        Ok(Self {
            tokens: Array2::from_shape_fn((sequences.len(), longest), |(item, position)| {
                sequences[item].0.get(position).copied().unwrap_or(0)
            }),
            mask: PaddingMask::from_lengths(&lengths, longest)?,
            classes: sequences.iter().map(|&(_, class)| Some(class)).collect(),
        })
    }
}

/// All sequences in batches of at most `size`, the shortest first, so that little is padded.
pub fn batches(sequences: &[(Vec<usize>, usize)], size: usize) -> Result<Vec<Batch>, AnyError> {
    let mut sorted: Vec<_> = sequences.iter().map(|(tokens, class)| (tokens.as_slice(), *class)).collect();
    sorted.sort_by_key(|(tokens, _)| tokens.len());
    sorted.chunks(size).map(Batch::new).collect()
}

/// The share of the sequences whose highest score is that of their class.
pub fn accuracy(model: &Classifier<f32>, batches: &[Batch]) -> Result<f64, AnyError> {
    let (mut right, mut all) = (0_usize, 0_usize);
    for batch in batches {
        let scores = model.forward(&batch.tokens, Some(&batch.mask))?;
        for (scores, class) in scores.outer_iter().zip(&batch.classes) {
            let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
            right += usize::from(best == *class);
            all += 1;
        }
    }
    Ok(right as f64 / all.max(1) as f64)
}

/// The share of the commonest of `count` classes.
pub fn majority(batches: &[Batch], count: usize) -> f64 {
    let mut counts = vec![0_usize; count];
    for class in batches.iter().flat_map(|batch| batch.classes.iter().flatten()) {
        counts[*class] += 1;
    }
    let all: usize = counts.iter().sum();
    counts.into_iter().max().unwrap_or(0) as f64 / all.max(1) as f64
}
