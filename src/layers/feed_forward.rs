//! Two products with a non-linearity in between.

mod training;

pub use training::FeedForwardCache;

use std::ops::Range;

use ndarray::{Array3, ArrayRef3};

use super::{Linear, check_width, map_tiles};
use crate::config::FeedForwardConfig;
use crate::error::Result;
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

impl<A: Scalar> FeedForward<A> {
    /// Makes a layer from `dim` to `out_dim` features.
    ///
    /// # Errors
    /// Returns an error if a width is 0, or the sizes overflow.
    pub fn new(dim: usize, out_dim: usize, config: &FeedForwardConfig, seed: u64) -> Result<Self> {
        config.check(dim, out_dim)?;
        Ok(Self::init(dim, out_dim, config, &mut Streams::new(seed)))
    }

    pub(crate) fn init(dim: usize, out_dim: usize, config: &FeedForwardConfig, streams: &mut Streams) -> Self {
        let hidden = if config.gated { 2 * config.ff_dim } else { config.ff_dim };
        Self {
            input: Linear::init(dim, hidden, config.bias, streams),
            output: Linear::init(config.ff_dim, out_dim, config.bias, streams),
            activation: config.activation,
            gated: config.gated,
        }
    }

    /// Returns the first product, (`ff_dim` or twice that, dim).
    pub fn input(&self) -> &Linear<A> {
        &self.input
    }

    /// Returns the second product, (`out_dim`, `ff_dim`).
    pub fn output(&self) -> &Linear<A> {
        &self.output
    }

    /// The configuration: all but the outer widths.
    pub(crate) fn config(&self) -> FeedForwardConfig {
        FeedForwardConfig {
            ff_dim: self.output.in_dim(),
            activation: self.activation,
            gated: self.gated,
            bias: self.input.bias().is_some(),
        }
    }

    /// Returns the non-linearity in between.
    pub fn activation(&self) -> Activation {
        self.activation
    }

    /// Returns whether half of the first product gates the other.
    pub fn is_gated(&self) -> bool {
        self.gated
    }

    /// Applies the layer: (batch, length, dim) → (batch, length, `out_dim`).
    ///
    /// # Errors
    /// Returns an error if `x` has another width than the layer.
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
