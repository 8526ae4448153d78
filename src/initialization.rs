//! Where the numbers of a new model come from: named initialisers and seeded generator streams. The only file that names rand.

use ndarray::{Array, Array3, Dimension, ShapeBuilder};
use ndarray_rand::RandomExt;
use ndarray_rand::rand_distr::{Distribution, StandardNormal, Uniform};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::scalar::Scalar;

/// How a learned projection E or F of k rows and n columns starts.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum Initialization {
    /// Row j averages the j-th of k equal windows. The default: compressed keys and values then start at the scale of the keys and
    /// values themselves, whatever n and k are, and near the best input-independent E that we know of (a random E mixes
    /// unrelated positions, and its sums grow with √(n/k)).
    #[default]
    MeanPooling,
    /// Uniform in ±1/√k, as lucidrains' implementation has it.
    UniformInverseSqrtK,
    /// Normal with variance 2/(n + k) (Glorot and Bengio 2010), as tatp22's implementation has it.
    XavierNormal,
    /// Normal with this standard deviation; fairseq's effective one is 0.02.
    Normal {
        /// The standard deviation.
        standard_deviation: f64,
    },
}

/// Generator streams from one seed: every tensor that is drawn has a stream of its own.
///
/// Numbers are drawn in `f64` and rounded, so that models of both element types start alike. Uniform draws are the same on every
/// platform; normal ones as far as the platform's `ln` and `exp` are.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    /// `None` where numbers need not be drawn since a checkpoint will bring them.
    seed: Option<u64>,
    next: u64,
}

impl Streams {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed: Some(seed), next: 0 }
    }

    /// Zeros instead of draws, for a model whose numbers a checkpoint brings.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn zeros() -> Self {
        Self { seed: None, next: 0 }
    }

    fn draw<A: Scalar, D: Dimension>(
        &mut self,
        shape: impl ShapeBuilder<Dim = D>,
        scale: f64,
        distribution: impl Distribution<f64>,
    ) -> Array<A, D> {
        let Some(seed) = self.seed else {
            return Array::zeros(shape);
        };
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(self.next);
        self.next += 1;
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

    /// E or F of shape (heads, k, n), initialised as `initialization` says.
    pub(crate) fn projection<A: Scalar>(&mut self, shape: (usize, usize, usize), initialization: Initialization) -> Array3<A> {
        let (_, k, n) = shape;
        match initialization {
            Initialization::MeanPooling => mean_pooling(shape),
            Initialization::UniformInverseSqrtK => self.uniform(shape, 1.0 / (k as f64).sqrt()),
            Initialization::XavierNormal => self.normal(shape, (2.0 / (n + k) as f64).sqrt()),
            Initialization::Normal { standard_deviation } => self.normal(shape, standard_deviation),
        }
    }
}

/// The matrix whose row j averages the positions of the j-th of k equal windows.
fn mean_pooling<A: Scalar>((heads, k, n): (usize, usize, usize)) -> Array3<A> {
    let mut matrix = Array3::zeros((heads, k, n));
    for slot in 0..k {
        let (start, end) = window(slot, k, n);
        let weight = A::cast(1.0 / (end - start).max(1) as f64);
        matrix.slice_mut(ndarray::s![.., slot, start..end]).fill(weight);
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
