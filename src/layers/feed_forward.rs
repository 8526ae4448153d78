//! Two products with a non-linearity in between.

use ndarray::{Array3, ArrayRef3, ArrayView2, ArrayViewMut2};

use super::{Linear, TILE, check_width, map_tiles};
use crate::config::FeedForwardConfig;
use crate::error::Result;
use crate::initialization::Streams;
use crate::ops::Activation;
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// W₂·act(W₁·x + b₁) + b₂; gated: W₂·(act(a) ∘ g) + b₂ with (a, g) = W₁·x + b₁.
///
/// ```
/// use linformer::{FeedForward, FeedForwardConfig};
/// use linformer::ndarray::Array3;
///
/// let layer = FeedForward::<f32>::new(8, 8, &FeedForwardConfig::new(32), 0)?;
/// assert_eq!(layer.forward(&Array3::ones((2, 5, 8)))?.dim(), (2, 5, 8));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct FeedForward<A = f32> {
    input: Linear<A>,
    output: Linear<A>,
    activation: Activation,
    gated: bool,
}

parameters!(FeedForward { input, output });

impl<A: Scalar> FeedForward<A> {
    /// A layer from `dim` to `out_dim` features.
    ///
    /// # Errors
    /// A width of 0, or sizes that overflow.
    pub fn new(dim: usize, out_dim: usize, config: &FeedForwardConfig, seed: u64) -> Result<Self> {
        config.check(dim, out_dim)?;
        Ok(Self::draw(dim, out_dim, config, &mut Streams::new(seed)))
    }

    pub(crate) fn draw(dim: usize, out_dim: usize, config: &FeedForwardConfig, streams: &mut Streams) -> Self {
        let hidden = if config.gated { 2 * config.ff_dim } else { config.ff_dim };
        Self {
            input: Linear::draw(dim, hidden, config.bias, streams),
            output: Linear::draw(config.ff_dim, out_dim, config.bias, streams),
            activation: config.activation,
            gated: config.gated,
        }
    }

    /// The first product, (`ff_dim` or twice that, dim).
    pub fn input(&self) -> &Linear<A> {
        &self.input
    }

    /// The second product, (`out_dim`, `ff_dim`).
    pub fn output(&self) -> &Linear<A> {
        &self.output
    }

    /// What the layer was made of, besides its widths.
    #[cfg(feature = "checkpoint")]
    pub(crate) fn config(&self) -> FeedForwardConfig {
        FeedForwardConfig {
            ff_dim: self.output.in_dim(),
            activation: self.activation,
            gated: self.gated,
            bias: self.input.bias().is_some(),
        }
    }

    /// The non-linearity in between.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Whether half of the first product gates the other.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// (batch, length, dim) → (batch, length, `out_dim`).
    ///
    /// # Errors
    /// Another width.
    pub fn forward(&self, x: &ArrayRef3<A>) -> Result<Array3<A>> {
        check_width("FeedForward::forward", "x", x, self.input.in_dim())?;
        map_tiles(
            "FeedForward::forward",
            x,
            self.output.out_dim(),
            self.input.weight().len() + self.output.weight().len(),
            Vec::new,
            |hidden, _, x, mut out| {
                self.apply(x, &mut out, hidden);
            },
        )
    }

    /// Fills `out` from the rows of `x`, with `hidden` as scratch space.
    pub(crate) fn apply(&self, x: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>, hidden: &mut Vec<A>) {
        let (rows, width) = (x.nrows(), self.input.out_dim());
        let ff_dim = self.output.in_dim();
        hidden.resize(rows.max(TILE) * width, A::zero());
        let hidden = &mut hidden[..rows * width];
        let mut view = ArrayViewMut2::from_shape((rows, width), hidden).expect("the slice has this size");
        self.input.apply(x, &mut view);
        if self.gated {
            for row in hidden.chunks_exact_mut(width) {
                let (value, gate) = row.split_at_mut(ff_dim);
                self.activation.apply(value);
                for (value, gate) in value.iter_mut().zip(gate) {
                    *value *= *gate;
                }
            }
        } else {
            self.activation.apply(hidden);
        }
        let hidden = ArrayView2::from_shape((rows, width), hidden).expect("the slice has this size");
        self.output.apply(hidden.slice_move(ndarray::s![.., ..ff_dim]), out);
    }
}
