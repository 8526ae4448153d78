//! y = x·Wᵀ + b.

mod training;

pub use training::LinearCache;

use std::ops::Range;

use ndarray::{Array1, Array2, Array3, ArrayRef3, ArrayView1, ArrayView2, ArrayViewMut1, ArrayViewMut2, Axis, s};

use super::{TILE, check_width, map_tiles};
use crate::buffer_pool::Buffers;
use crate::config::at_least_one;
use crate::derived::Derived;
use crate::error::{Error, Result, checked_len};
use crate::initialization::Streams;
use crate::ops::{Output, PackedMatrix, Rows, RowsMut, Runs, Scratch, Tile, TileRows, add_bias, gemm};
use crate::parallel;
use crate::parameters::parameters;
use crate::scalar::Scalar;

pub(crate) use training::{LongGradients, bias_gradient, input_gradient, weight_gradient};

/// Fewer rows are multiplied without packing the weight.
const PACKED_ROWS: usize = 4;

/// y = x·Wᵀ + b, with W stored as in PyTorch: (out, in).
///
/// ```
/// use linformer::Linear;
/// use linformer::ndarray::array;
///
/// let layer = Linear::from_parts(array![[1.0, 2.0], [0.0, -1.0]], Some(array![0.5, 0.0]))?;
/// assert_eq!(layer.forward(&array![[[1.0, 1.0]]])?, array![[[3.5, -1.0]]]);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Linear<A = f32> {
    weight: Array2<A>,
    bias: Option<Array1<A>>,
    /// Wᵀ, for products with more than a few rows.
    packed: Derived<PackedMatrix<A>>,
    /// Wᵀ, cut into the runs of columns that its only user wants, where they cannot be had from the whole.
    by_runs: Derived<Vec<PackedMatrix<A>>>,
    /// W, for the way back.
    back: Derived<PackedMatrix<A>>,
}

parameters!(Linear { weight, bias } derived { packed, by_runs, back });

impl<A: Scalar> Linear<A> {
    /// Makes a layer from `in_dim` to `out_dim` features whose numbers are uniform in ±1/√`in_dim`, as in PyTorch.
    ///
    /// # Errors
    /// Returns an error if a width is 0, or the sizes overflow.
    pub fn new(in_dim: usize, out_dim: usize, bias: bool, seed: u64) -> Result<Self> {
        at_least_one("in_dim", in_dim)?;
        at_least_one("out_dim", out_dim)?;
        checked_len("Linear", &[in_dim, out_dim], size_of::<A>())?;
        Ok(Self::init(in_dim, out_dim, bias, &mut Streams::new(seed)))
    }

    pub(crate) fn init(in_dim: usize, out_dim: usize, bias: bool, streams: &mut Streams) -> Self {
        let limit = 1.0 / (in_dim as f64).sqrt();
        Self {
            weight: streams.uniform((out_dim, in_dim), limit),
            bias: bias.then(|| streams.uniform(out_dim, limit)),
            packed: Derived::new(),
            by_runs: Derived::new(),
            back: Derived::new(),
        }
    }

    /// Makes a layer of a weight (out, in) and a bias (out).
    ///
    /// # Errors
    /// Returns an error if the bias is not as long as the weight has rows.
    pub fn from_parts(weight: Array2<A>, bias: Option<Array1<A>>) -> Result<Self> {
        if let Some(bias) = &bias
            && bias.len() != weight.nrows()
        {
            return Err(Error::shape(
                "Linear::from_parts",
                "bias",
                format!("({})", weight.nrows()),
                bias.shape(),
            ));
        }
        let bias = bias.map(|bias| bias.as_standard_layout().into_owned());
        let weight = if weight.is_standard_layout() {
            weight
        } else {
            weight.as_standard_layout().into_owned()
        };
        Ok(Self {
            weight,
            bias,
            packed: Derived::new(),
            by_runs: Derived::new(),
            back: Derived::new(),
        })
    }

    /// Returns W, of shape (out, in).
    pub fn weight(&self) -> ArrayView2<'_, A> {
        self.weight.view()
    }

    /// Returns b, of shape (out), if there is one.
    pub fn bias(&self) -> Option<ArrayView1<'_, A>> {
        self.bias.as_ref().map(|bias| bias.view())
    }

    /// Returns W, of shape (out, in), to be written. The layer repacks it for the next product.
    pub fn weight_mut(&mut self) -> ArrayViewMut2<'_, A> {
        self.packed.forget();
        self.by_runs.forget();
        self.back.forget();
        self.weight.view_mut()
    }

    /// Returns b, of shape (out), to be written, if there is one.
    pub fn bias_mut(&mut self) -> Option<ArrayViewMut1<'_, A>> {
        self.bias.as_mut().map(|bias| bias.view_mut())
    }

    /// Returns the number of input features.
    pub fn in_dim(&self) -> usize {
        self.weight.ncols()
    }

    /// Returns the number of output features.
    pub fn out_dim(&self) -> usize {
        self.weight.nrows()
    }

    /// Applies the layer: (batch, length, in) → (batch, length, out).
    ///
    /// # Errors
    /// Returns an error if `x` is not `in_dim` wide.
    pub fn forward(&self, x: &ArrayRef3<A>) -> Result<Array3<A>> {
        check_width("Linear::forward", "x", x, self.in_dim())?;
        map_tiles("Linear::forward", x, self.out_dim(), self.weight.len(), |scratch, _, x, mut out| {
            self.apply(x, &mut out, scratch);
        })
    }

    /// y of the rows of `x`, spread over threads.
    pub(crate) fn forward_rows(&self, x: ArrayView2<'_, A>) -> Array2<A> {
        self.forward_rows_in(Buffers::new(), x)
    }

    /// [`forward_rows`](Self::forward_rows) in memory of `buffers`.
    pub(crate) fn forward_rows_in(&self, buffers: Buffers<'_, A>, x: ArrayView2<'_, A>) -> Array2<A> {
        if x.nrows() >= PACKED_ROWS {
            self.prepare();
        }
        let mut y = buffers.array2((x.nrows(), self.out_dim()));
        let cost = parallel::cost(&[x.nrows(), self.weight.len()]);
        let tasks = y.axis_chunks_iter_mut(Axis(0), TILE).enumerate().collect();
        parallel::for_each_with(tasks, cost, |scratch: &mut Scratch<A>, (tile, mut y)| {
            let first = tile * TILE;
            self.apply(x.slice(s![first..first + y.nrows(), ..]), &mut y, scratch);
        });
        y
    }

    fn packed_back(&self) -> &PackedMatrix<A> {
        self.back.get_or_make(|old| repacked(old, self.weight.view()))
    }

    /// Columns `columns` of dx = dy·W[start..] of a tile; the first of them is a multiple of a panel's.
    pub(crate) fn back_tile(&self, dy: TileRows<'_, A>, start: usize, columns: Range<usize>, output: Output<'_, A>, dx: RowsMut<'_, A>) {
        self.packed_back().multiply_tile(dy, start, columns, output, dx);
    }

    /// Packs W for the way back by all threads, which otherwise wait for the one that needs it first.
    pub(crate) fn prepare_back(&self) {
        self.back.get_or_make_spread(|old| repacked_spread(old, self.weight.view()));
    }

    /// Packs Wᵀ by all threads.
    pub(crate) fn prepare(&self) {
        self.packed.get_or_make_spread(|old| repacked_spread(old, self.weight.t()));
    }

    fn packed(&self) -> &PackedMatrix<A> {
        self.packed.get_or_make(|old| repacked(old, self.weight.t()))
    }

    pub(crate) fn bias_slice(&self) -> Option<&[A]> {
        let bias = self.bias.as_ref();
        bias.map(|bias| bias.as_slice().expect("every constructor makes it contiguous"))
    }

    /// `out` ← or += the product of a tile.
    pub(crate) fn apply_tile(&self, x: TileRows<'_, A>, adds: bool, out: RowsMut<'_, A>) {
        let output = if adds { Output::add } else { Output::set };
        self.packed().multiply_tile(x, 0, 0..self.out_dim(), output(self.bias_slice()), out);
    }

    /// `out` += the product of a tile with rows start.. of Wᵀ; the first part of several, at 0, comes with the bias, and may overwrite.
    pub(crate) fn apply_tile_part(&self, x: TileRows<'_, A>, start: usize, adds: bool, out: RowsMut<'_, A>) {
        let output = match (start, adds) {
            (0, false) => Output::set(self.bias_slice()),
            (0, true) => Output::add(self.bias_slice()),
            _ => Output::Add,
        };
        self.packed().multiply_tile(x, start, 0..self.out_dim(), output, out);
    }

    /// Fills `out` with the product of a tile with rows start.. of Wᵀ, without the bias.
    pub(crate) fn multiply_part(&self, x: TileRows<'_, A>, start: usize, out: RowsMut<'_, A>) {
        self.packed().multiply_tile(x, start, 0..self.out_dim(), Output::Set, out);
    }

    /// Columns `runs.range(index)` of the product of a tile. All calls must have the same `runs`.
    pub(crate) fn apply_run(&self, x: TileRows<'_, A>, runs: Runs, index: usize, out: RowsMut<'_, A>) {
        let bias = self.bias_slice().map(|bias| &bias[runs.range(index)]);
        self.multiply_run(x, runs, index, Output::set(bias), out);
    }

    /// Fills the tile `out` with the product, without the bias. All calls must have the same runs.
    pub(crate) fn multiply_runs(&self, x: TileRows<'_, A>, runs: Runs, out: &mut Tile<A>) {
        out.reshape(x.nrows(), runs);
        for index in 0..runs.count() {
            self.multiply_run(x, runs, index, Output::Set, out.run_mut(index));
        }
    }

    fn multiply_run(&self, x: TileRows<'_, A>, runs: Runs, index: usize, output: Output<'_, A>, out: RowsMut<'_, A>) {
        let range = runs.range(index);
        if runs.start_with_panels() {
            return self.packed().multiply_tile(x, 0, range, output, out);
        }
        let matrices = self.by_runs.get_or_make(|old| {
            let mut matrices = old.unwrap_or_default();
            matrices.resize_with(runs.count(), PackedMatrix::default);
            for (index, packed) in matrices.iter_mut().enumerate() {
                packed.repack(self.weight.slice(s![runs.range(index), ..]).t(), A::one());
            }
            matrices
        });
        matrices[index].multiply_tile(x, 0, 0..range.len(), output, out);
    }

    /// Fills the tile `out`, run by run. All calls must have the same runs.
    pub(crate) fn apply_runs(&self, x: TileRows<'_, A>, runs: Runs, out: &mut Tile<A>) {
        out.reshape(x.nrows(), runs);
        for index in 0..runs.count() {
            self.apply_run(x, runs, index, out.run_mut(index));
        }
    }

    /// Fills `out` from the rows of `x`.
    pub(crate) fn apply(&self, x: ArrayView2<'_, A>, out: &mut ArrayViewMut2<'_, A>, scratch: &mut Scratch<A>) {
        let (count, width) = out.dim();
        let bias = self.bias_slice();
        match out.as_slice_mut() {
            Some(data) if count >= PACKED_ROWS => {
                let packed = self.packed();
                let output = Output::set(bias);
                let to = RowsMut { data, stride: width };
                match x.as_slice() {
                    Some(data) => packed.multiply(
                        Rows {
                            data,
                            stride: x.ncols(),
                            count,
                        },
                        output,
                        to,
                        scratch,
                    ),
                    None => packed.multiply_view(x, output, to, scratch),
                }
            }
            _ => {
                gemm(A::one(), x, self.weight.t(), A::zero(), out);
                if let Some(bias) = &self.bias {
                    add_bias(out, bias.view());
                }
            }
        }
    }
}

/// `weight` packed, in the memory of an earlier one.
fn repacked<A: Scalar>(old: Option<PackedMatrix<A>>, weight: ArrayView2<'_, A>) -> PackedMatrix<A> {
    let mut packed = old.unwrap_or_default();
    packed.repack(weight, A::one());
    packed
}

/// [`repacked`] by all threads.
fn repacked_spread<A: Scalar>(old: Option<PackedMatrix<A>>, weight: ArrayView2<'_, A>) -> PackedMatrix<A> {
    let mut packed = old.unwrap_or_default();
    packed.repack_spread(weight);
    packed
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Parameters;
    use ndarray::Array3;

    /// Whatever writes a weight, the next product is of what was written: packed weights are remade.
    #[test]
    fn packed_weights_follow_the_parameters() {
        let x = Array3::from_shape_fn((1, 9, 5), |(_, t, i)| f64::from(u32::try_from(t * 5 + i).unwrap_or(0)).sin());
        let doubled = |layer: &Linear<f64>, before: &Array3<f64>| {
            let after = layer.forward(&x).expect("it fits");
            after.iter().zip(before).all(|(after, before)| (after - 2.0 * before).abs() < 1e-12)
        };
        let mut layer = Linear::<f64>::new(5, 7, false, 1).expect("valid sizes");
        let mut before = layer.forward(&x).expect("it fits");
        layer.visit_mut("", &mut |_, _, mut weight| weight.mapv_inplace(|value| 2.0 * value));
        assert!(doubled(&layer, &before));
        before = layer.forward(&x).expect("it fits");
        layer.weight_mut().mapv_inplace(|value| 2.0 * value);
        assert!(doubled(&layer, &before));
        before = layer.forward(&x).expect("it fits");
        let copy = layer.clone();
        layer.scaled_add(1.0, &copy).expect("one shape");
        assert!(doubled(&layer, &before));
        let mut other = copy.clone();
        other.visit_mut("", &mut |_, _, mut weight| weight.mapv_inplace(|value| 2.0 * value));
        assert!(doubled(&other, &before));
        assert_eq!(copy.forward(&x).expect("it fits"), before, "a copy does not follow");
    }
}
