//! A text in two parts, and the bytes that are hidden in it.

use linformer::LanguageModel;
use linformer::ndarray::Array2;
use linformer::training::{CrossEntropy, Step, TokenBatch, TokenMasking, Trainable};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::baseline::Counts;
use crate::support::AnyError;

/// All bytes, and the token that hides one.
pub(crate) const VOCABULARY: usize = 257;
const HIDDEN: usize = 256;

/// Every tenth stretch of this many bytes is held out.
const STRETCH: usize = 8192;

/// Windows that are evaluated at once.
const WINDOWS: usize = 32;

pub(crate) struct Corpus {
    training: Vec<u8>,
    held_out: Vec<u8>,
    /// Bytes of a window.
    n: usize,
    masking: TokenMasking,
}

impl Corpus {
    /// Cuts a text into what is trained on and what is held out.
    pub(crate) fn new(text: &[u8], n: usize) -> Result<Self, AnyError> {
        let (mut training, mut held_out) = (Vec::new(), Vec::new());
        let stretch = STRETCH.min(text.len() / 10).max(1);
        for (index, bytes) in text.chunks(stretch).enumerate() {
            let part = if index % 10 == 9 { &mut held_out } else { &mut training };
            part.extend_from_slice(bytes);
        }
        if held_out.len() < n || training.len() <= n {
            return Err(format!("a text of {} bytes is too short for windows of {n}", text.len()).into());
        }
        Ok(Self {
            training,
            held_out,
            n,
            // A hidden byte is always hidden: one that stays or is replaced by another would blur what a guess costs.
            masking: TokenMasking::new(VOCABULARY, HIDDEN, &[])?.with_shares(0.15, 1.0, 0.0)?,
        })
    }

    /// The number of bytes held out.
    pub(crate) fn held_out(&self) -> usize {
        self.held_out.len()
    }

    /// Windows from anywhere in the training part.
    pub(crate) fn training_batch(&self, count: usize, step: Step) -> Result<TokenBatch, AnyError> {
        let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
        generator.set_stream(step.index);
        let starts: Vec<usize> = (0..count)
            .map(|_| generator.random_range(0..=self.training.len() - self.n))
            .collect();
        self.hide(&self.training, &starts, step)
    }

    fn hide(&self, text: &[u8], starts: &[usize], step: Step) -> Result<TokenBatch, AnyError> {
        let tokens = Array2::from_shape_fn((starts.len(), self.n), |(item, position)| {
            usize::from(text[starts[item] + position])
        });
        Ok(self.masking.corrupt(&tokens, None, step)?)
    }

    /// The windows of the part held out, with the same bytes hidden for every model: where each window starts, and what it is.
    pub(crate) fn questions(&self) -> impl Iterator<Item = Result<(Vec<usize>, TokenBatch), AnyError>> {
        let starts: Vec<usize> = (0..self.held_out.len() / self.n).map(|window| window * self.n).collect();
        let groups: Vec<Vec<usize>> = starts.chunks(WINDOWS).map(<[usize]>::to_vec).collect();
        groups.into_iter().zip(0..).map(|(starts, index)| {
            let masked = self.hide(&self.held_out, &starts, Step::new(0, index))?;
            Ok((starts, masked))
        })
    }

    /// The bits that a hidden byte costs a model.
    pub(crate) fn bits(&self, model: &LanguageModel<f32>) -> Result<f64, AnyError> {
        let (mut bits, mut count) = (0.0, 0);
        for question in self.questions() {
            let (_, masked) = question?;
            bits += model.evaluate(&masked, &CrossEntropy::new())? * masked.targets.len() as f64 / std::f64::consts::LN_2;
            count += masked.targets.len();
        }
        Ok(bits / f64::from(u32::try_from(count)?))
    }

    /// The bits that the same bytes cost counts of the training part.
    pub(crate) fn bits_of_counts(&self, order: usize) -> Result<f64, AnyError> {
        let counts = Counts::of(&self.training);
        let (mut bits, mut count) = (0.0, 0_u32);
        for question in self.questions() {
            let (starts, masked) = question?;
            for (start, positions) in starts.iter().zip(masked.positions.iter().flatten()) {
                for position in positions {
                    bits += counts.bits(&self.held_out, start + position, order);
                    count += 1;
                }
            }
        }
        Ok(bits / f64::from(count))
    }
}
