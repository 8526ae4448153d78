//! Random numbers: named initializers and seeded generator streams. The only file that names rand.

mod normal;

use std::ops::Range;

use ndarray::{Array, Array3, Dimension, ShapeBuilder};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{Distribution, Uniform};
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// How a learned projection E or F of k rows and n columns starts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum Initialization {
    /// Row j averages the j-th of k equal windows. The default: compressed keys and values then start at the scale of the keys and
    /// values themselves, whatever n and k are, and near the best input-independent E that we know of (a random E mixes
    /// unrelated positions, and its sums grow with √(n/k)).
    #[default]
    MeanPooling,
    /// Uniform in ±1/√k, as in lucidrains' implementation.
    UniformInverseSqrtK,
    /// Normal with variance 2/(n + k) (Glorot and Bengio 2010), as in tatp22's implementation.
    XavierNormal,
    /// Normal with this standard deviation; fairseq's effective one is 0.02.
    Normal {
        /// The standard deviation.
        standard_deviation: f64,
    },
}

/// Generator streams from one seed: every initialized tensor has its own stream.
///
/// Numbers are drawn in `f64` and rounded, so that models of both element types start with the same numbers, up to rounding. Bits are the same on every platform.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    /// `None` if a checkpoint will provide the numbers.
    seed: Option<u64>,
    next: u64,
    /// The columns of projections that are kept; `None` keeps all of them.
    columns: Option<Range<usize>>,
    /// The option that made a number that is not finite, its value, and the element type.
    refused: Option<(&'static str, f64, &'static str)>,
}

impl Streams {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            seed: Some(seed),
            next: 0,
            columns: None,
            refused: None,
        }
    }

    /// Returns the value that `draw` makes from the numbers of `seed`.
    ///
    /// # Errors
    /// Returns an error if one of the numbers is not finite, as with a standard deviation near the end of the element type's range.
    pub(crate) fn drawn<M>(seed: u64, draw: impl FnOnce(&mut Self) -> M) -> Result<M> {
        let mut streams = Self::new(seed);
        let drawn = draw(&mut streams);
        streams.check()?;
        Ok(drawn)
    }

    /// Returns an error if a number drawn so far is not finite.
    pub(crate) fn check(&self) -> Result<()> {
        match self.refused {
            None => Ok(()),
            Some((option, value, element)) => {
                let reason = format!("it makes a number of the model that is not finite as {element}; use one nearer to 1");
                Err(Error::config(option, format!("{value:e}"), reason))
            }
        }
    }

    /// Records `option` as the cause if one of the `numbers` made with it is not finite.
    pub(crate) fn note<'n, A: Scalar>(&mut self, option: &'static str, value: f64, mut numbers: impl Iterator<Item = &'n A>) {
        if !numbers.all(|number| number.is_finite()) {
            self.refused.get_or_insert((option, value, A::NAME));
        }
    }

    /// Zeros instead of draws, for a model whose numbers a checkpoint provides.
    pub(crate) fn zeros() -> Self {
        Self {
            seed: None,
            next: 0,
            columns: None,
            refused: None,
        }
    }

    /// Keeps only these columns of projections, with the numbers that they have in the whole matrix.
    pub(crate) fn with_columns(self, columns: Range<usize>) -> Self {
        let columns = Some(columns);
        Self { columns, ..self }
    }

    /// The next tensor's stream.
    fn generator(&mut self) -> Option<ChaCha8Rng> {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed?);
        generator.set_stream(self.next);
        self.next += 1;
        Some(generator)
    }

    fn draw<A: Scalar, D: Dimension>(
        &mut self,
        shape: impl ShapeBuilder<Dim = D>,
        scale: f64,
        distribution: impl Distribution<f64>,
    ) -> Array<A, D> {
        let Some(mut generator) = self.generator() else {
            return Array::zeros(shape);
        };
        Array::random_using(shape, distribution, &mut generator).mapv(|draw| A::cast(draw * scale))
    }

    /// Uniform in [−limit, limit).
    pub(crate) fn uniform<A: Scalar, D: Dimension>(&mut self, shape: impl ShapeBuilder<Dim = D>, limit: f64) -> Array<A, D> {
        self.draw(shape, limit, Uniform::new(-1.0, 1.0).expect("−1 is less than 1"))
    }

    /// Normal with mean 0.
    pub(crate) fn normal<A: Scalar, D: Dimension>(&mut self, shape: impl ShapeBuilder<Dim = D>, standard_deviation: f64) -> Array<A, D> {
        self.draw(shape, standard_deviation, StandardNormal)
    }

    /// E or F of shape (heads, k, n), initialized as `initialization` says.
    pub(crate) fn projection<A: Scalar>(&mut self, shape: (usize, usize, usize), initialization: Initialization) -> Array3<A> {
        let (_, k, n) = shape;
        let uniform = Uniform::new(-1.0, 1.0).expect("−1 is less than 1");
        match initialization {
            Initialization::MeanPooling => {
                let columns = self.columns.clone().unwrap_or(0..n);
                mean_pooling(shape, columns)
            }
            Initialization::UniformInverseSqrtK => self.columns_of(shape, 1.0 / (k as f64).sqrt(), uniform),
            Initialization::XavierNormal => self.columns_of(shape, (2.0 / (n + k) as f64).sqrt(), StandardNormal),
            Initialization::Normal { standard_deviation } => {
                let matrix = self.columns_of(shape, standard_deviation, StandardNormal);
                self.note("standard_deviation", standard_deviation, matrix.iter());
                matrix
            }
        }
    }

    /// The columns that are kept of a matrix that is drawn row by row.
    fn columns_of<A: Scalar>(&mut self, shape: (usize, usize, usize), scale: f64, distribution: impl Distribution<f64>) -> Array3<A> {
        let Some(columns) = self.columns.clone() else {
            return self.draw(shape, scale, distribution);
        };
        let (heads, k, n) = shape;
        let kept = (heads, k, columns.len());
        let Some(mut generator) = self.generator() else {
            return Array::zeros(kept);
        };
        let mut numbers = Vec::with_capacity(heads * k * columns.len());
        for _ in 0..heads * k {
            for column in 0..n {
                let draw = distribution.sample(&mut generator);
                if columns.contains(&column) {
                    numbers.push(A::cast(draw * scale));
                }
            }
        }
        Array3::from_shape_vec(kept, numbers).expect("a number for each place that is kept")
    }
}

/// The normal distribution with mean 0 and variance 1.
struct StandardNormal;

impl Distribution<f64> for StandardNormal {
    fn sample<R: Rng + ?Sized>(&self, generator: &mut R) -> f64 {
        normal::standard_normal(|| generator.next_u64())
    }
}

/// The random numbers of one training step: everything that a step draws is a function of these two numbers and of the place where it is
/// drawn. A run that is stopped after any step continues with the same numbers.
///
/// The `index` counts the batches that gradients are taken of, from 0; where several batches make one optimizer step, each has its own.
///
/// ```
/// use linformer::training::Step;
///
/// let mut step = Step::new(7, 0);
/// step.index += 1;
/// assert_eq!(step, Step::new(7, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
pub struct Step {
    /// The seed of the whole run.
    pub seed: u64,
    /// The index of the step in the run.
    pub index: u64,
}

/// Where in a layer random numbers are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Dropout of the embedded tokens.
    Embedding,
    /// Dropout of the attention's weights.
    AttentionWeights,
    /// Dropout of attention's residual branch.
    AttentionOutput,
    /// Dropout between the two halves of the feed-forward layer.
    Activation,
    /// Dropout of the feed-forward's residual branch.
    FeedForwardOutput,
    /// Whether the whole layer is left out.
    Layer,
}

/// At least the number of places.
const PLACES: u128 = 8;

/// Room for the draws of all layers of one part of a batch, in words of 32 bits.
const PART: u128 = 1 << 36;

/// Where in a step's stream the draws of whole sequences begin, beyond those of any layer's places.
const ITEMS: u128 = 1 << 67;

/// Room for the draws of one sequence, in words of 32 bits.
const ITEM: u128 = 1 << 36;

impl Step {
    /// Creates step `index` of the run with this `seed`.
    pub fn new(seed: u64, index: u64) -> Self {
        Self { seed, index }
    }

    /// Returns `loss`, or an error that names this step where it is not finite.
    ///
    /// # Errors
    /// Returns an error if the loss is NaN or infinite.
    pub fn finite_loss(self, loss: f64) -> Result<f64> {
        if loss.is_finite() {
            Ok(loss)
        } else {
            Err(Error::NonFiniteLoss { step: self.index, loss })
        }
    }

    /// The generator of this step, `word` words of 32 bits from its start. Models take the streams of a seed from 0 upwards, steps from
    /// the last downwards: a run may have its model's seed.
    fn draws(self, word: u128) -> Draws {
        let mut generator = ChaCha8Rng::seed_from_u64(self.seed);
        generator.set_stream(u64::MAX - self.index);
        generator.set_word_pos(word);
        Draws(generator)
    }

    /// Returns the key of the counter-based stream at `place` of `layer`.
    pub(crate) fn key(self, layer: usize, place: Place) -> [u64; 2] {
        self.key_of_part(0, layer, place)
    }

    /// [`key`](Self::key) for one of several parts of a batch, each of which draws its own numbers.
    pub(crate) fn key_of_part(self, part: u32, layer: usize, place: Place) -> [u64; 2] {
        let layers = (layer as u128 * PLACES + place as u128) * 4 % PART;
        let mut draws = self.draws((u128::from(part) * PART + layers) % ITEMS);
        [draws.next(), draws.next()]
    }

    /// Decides at `place` of `layer` an event of this `probability`.
    pub(crate) fn chance(self, probability: f64, layer: usize, place: Place) -> bool {
        unit(self.key(layer, place)[0]) < probability
    }

    /// Draws for the positions of one sequence of a batch.
    pub(crate) fn item(self, item: usize) -> Draws {
        // Wraps around after 2^31 sequences, since a stream has 2^68 words.
        self.draws(ITEMS + (item as u128 * ITEM) % ITEMS)
    }
}

/// Numbers from one place of a stream on.
#[derive(Clone, Debug)]
pub(crate) struct Draws(ChaCha8Rng);

impl Draws {
    pub(crate) fn next(&mut self) -> u64 {
        self.0.next_u64()
    }
}

/// A number in [0, 1) of 53 of the bits of `draw`.
pub(crate) fn unit(draw: u64) -> f64 {
    (draw >> 11) as f64 * (0.5_f64).powi(53)
}

/// The matrix whose row j averages the positions of the j-th of k equal windows.
fn mean_pooling<A: Scalar>((heads, k, n): (usize, usize, usize), columns: Range<usize>) -> Array3<A> {
    let mut matrix = Array3::zeros((heads, k, columns.len()));
    for slot in 0..k {
        let (start, end) = window(slot, k, n);
        let weight = A::cast(1.0 / (end - start).max(1) as f64);
        let within = |position: usize| position.clamp(columns.start, columns.end) - columns.start;
        matrix.slice_mut(ndarray::s![.., slot, within(start)..within(end)]).fill(weight);
    }
    matrix
}

/// The positions start..end of the `slot`-th of `slots` windows over `length` positions; they differ in size by one at most.
pub(crate) fn window(slot: usize, slots: usize, length: usize) -> (usize, usize) {
    let bound = |slot: usize| (slot as u128 * length as u128 / slots as u128) as usize;
    (bound(slot), bound(slot + 1))
}

/// Whether `value` can be a standard deviation.
pub(crate) fn is_standard_deviation(value: f64) -> bool {
    value >= 0.0 && value.is_finite()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_place_has_its_own_key() {
        let places = [
            Place::Embedding,
            Place::AttentionWeights,
            Place::AttentionOutput,
            Place::Activation,
            Place::FeedForwardOutput,
            Place::Layer,
        ];
        let mut halves = std::collections::BTreeSet::new();
        for (seed, index) in [(0, 0), (0, 1), (1, 0), (0, u64::MAX)] {
            for layer in [0, 1, 2, 100] {
                for place in places {
                    let key = Step::new(seed, index).key(layer, place);
                    assert_eq!(key, Step::new(seed, index).key(layer, place));
                    halves.extend(key);
                }
            }
        }
        assert_eq!(halves.len(), 2 * 4 * 4 * 6);
    }

    #[test]
    fn chances() {
        let step = Step::new(3, 0);
        let hits = (0..4000).filter(|&layer| step.chance(0.3, layer, Place::Layer)).count();
        // Five standard deviations.
        assert!((1055..=1345).contains(&hits), "{hits}");
        assert!((0..100).all(|layer| step.chance(1.0, layer, Place::Layer) && !step.chance(0.0, layer, Place::Layer)));
    }

    #[test]
    fn items_draw_apart() {
        let step = Step::new(3, 5);
        let first = |item| step.item(item).next();
        assert_eq!(first(2), first(2));
        assert_ne!(first(0), first(1));
        assert_ne!(first(0), Step::new(3, 6).item(0).next());
        // No item is out of range.
        first(usize::MAX);
    }
}
