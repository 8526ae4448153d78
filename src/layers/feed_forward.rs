//! Two products with a non-linearity in between.

mod training;

use std::ops::Range;

use ndarray::{Array2, Array3, ArrayRef3};

use super::{Linear, check_width, map_tiles, rows, sequence};
use crate::buffer_pool::Buffers;
use crate::config::{FeedForwardConfig, check_alike};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::ops::{Activation, RowsMut, Runs, Tile, TileRows};
use crate::parameters::parameters;
use crate::scalar::Scalar;

/// Multiplications that an activation costs, roughly.
const ACTIVATION_COST: usize = 16;

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

/// Scratch space for one tile of rows.
#[derive(Debug)]
pub(crate) struct FeedForwardScratch<A> {
    hidden: Tile<A>,
    gate: Tile<A>,
}

impl<A: Scalar> Default for FeedForwardScratch<A> {
    fn default() -> Self {
        Self {
            hidden: Tile::default(),
            gate: Tile::default(),
        }
    }
}

/// What a feed-forward layer's backward pass needs: its input, and the first product.
#[derive(Clone, Debug)]
pub struct FeedForwardCache<A = f32> {
    x: Array3<A>,
    hidden: Array2<A>,
}

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
            |(tile, scratch): &mut (Tile<A>, FeedForwardScratch<A>), _, x, out| {
                tile.fill(x, Runs::of(x.ncols()));
                self.apply_tile(tile.rows(), false, RowsMut::of(out), scratch);
            },
        )
    }

    /// [`forward`](Self::forward), and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// As [`forward`](Self::forward).
    pub fn forward_train(&self, x: &ArrayRef3<A>) -> Result<(Array3<A>, FeedForwardCache<A>)> {
        check_width("FeedForward::forward_train", "x", x, self.input.in_dim())?;
        let x = x.as_standard_layout().into_owned();
        let (batch, length, _) = x.dim();
        let (y, hidden) = self.train_rows(rows(&x), None, Buffers::new());
        Ok((sequence(y, batch, length), FeedForwardCache { x, hidden }))
    }

    /// The gradient of x, given `dy` of y, both (batch, length, width). Those of the weights are added to `gradients`, a value like the layer's
    /// own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// # Errors
    /// `dy` of another shape than y; a cache or gradients of a layer of another configuration.
    pub fn backward(&self, cache: FeedForwardCache<A>, dy: &ArrayRef3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "FeedForward::backward";
        let shape = |layer: &Self| (layer.input.in_dim(), layer.input.out_dim(), layer.output.out_dim(), layer.config());
        // The cache tells widths only, and they are all that it needs to have.
        let cached = (cache.x.dim().2, cache.hidden.ncols(), self.output.out_dim(), self.config());
        check_alike(OPERATION, &shape(self), &cached, &shape(gradients))?;
        let (batch, length, _) = cache.x.dim();
        let expected = (batch, length, self.output.out_dim());
        if dy.dim() != expected {
            return Err(Error::shape(OPERATION, "dy", format!("{expected:?}"), dy.shape()));
        }
        let dy = dy.as_standard_layout().into_owned();
        let dx = self.backward_rows(rows(&cache.x), cache.hidden, rows(&dy), None, gradients, Buffers::new());
        Ok(sequence(dx, batch, length))
    }

    /// `out` ← or += the layer of a tile, some hidden features at a time.
    pub(crate) fn apply_tile(&self, x: TileRows<'_, A>, adds: bool, out: RowsMut<'_, A>, scratch: &mut FeedForwardScratch<A>) {
        self.apply_tile_keeping(x, adds, out, scratch, |_, _| (), |_, _| ());
    }

    /// [`apply_tile`](Self::apply_tile), with what is done with runs of columns of the first product and of the second's input.
    fn apply_tile_keeping(
        &self,
        x: TileRows<'_, A>,
        adds: bool,
        mut out: RowsMut<'_, A>,
        scratch: &mut FeedForwardScratch<A>,
        mut keep: impl FnMut(Range<usize>, &RowsMut<'_, A>),
        mut drop_out: impl FnMut(Range<usize>, RowsMut<'_, A>),
    ) {
        let FeedForwardScratch { hidden, gate } = scratch;
        let rows = x.nrows();
        let runs = self.hidden_runs();
        for part in 0..self.parts() {
            let range = runs.range(part);
            hidden.reshape(rows, Runs::of(range.len()));
            self.input.apply_run(x, runs, part, hidden.run_mut(0));
            keep(range.clone(), &hidden.run_mut(0));
            let RowsMut { data, stride } = hidden.run_mut(0);
            let data = &mut data[..rows * stride];
            self.activation.apply_rows(data, range.len(), stride);
            if self.gated {
                gate.reshape(rows, Runs::of(range.len()));
                let gates = self.parts() + part;
                self.input.apply_run(x, runs, gates, gate.run_mut(0));
                keep(runs.range(gates), &gate.run_mut(0));
                // The numbers between the rows are multiplied too: they may be anything.
                let gates = &*gate.run_mut(0).data;
                data.iter_mut().zip(gates).for_each(|(value, &gate)| *value *= gate);
            }
            drop_out(range.clone(), hidden.run_mut(0));
            self.output.apply_tile_part(hidden.rows(), range.start, adds, out.reborrow());
        }
    }

    /// The columns of the first product that are worked on together.
    fn hidden_runs(&self) -> Runs {
        Runs::separate(1 + usize::from(self.gated), self.output.in_dim())
    }

    /// The runs of the activated half.
    fn parts(&self) -> usize {
        Runs::of(self.output.in_dim()).count()
    }
}
