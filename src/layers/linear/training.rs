//! Training of a product: the gradient of its input, row by row, and those of its weight and bias, which are sums over all rows.

use ndarray::{Array1, Array2, Array3, ArrayRef3, ArrayView2, ArrayViewMut2, s};

use super::Linear;
use crate::buffer_pool::Buffers;
use crate::config::check_alike;
use crate::error::Result;
use crate::layers::{check_gradient, contiguous, rows, sequence, tile_rows};
use crate::ops::{LongSum, Output, PackedMatrix, RowsMut, Scratch, add_long_product, add_product_to_long, add_rounded};
use crate::parallel::{self, Parts, Pool, for_each_part};
use crate::scalar::Scalar;

/// The state that the backward pass of a [`Linear`] needs: its input.
#[derive(Clone, Debug)]
pub struct LinearCache<A = f32> {
    x: Array3<A>,
}

impl<A: Scalar> Linear<A> {
    /// Runs [`forward`](Self::forward); returns the output and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error if `x` is not `in_dim` wide.
    pub fn forward_train(&self, x: &ArrayRef3<A>) -> Result<(Array3<A>, LinearCache<A>)> {
        let y = self.forward(x)?;
        let x = x.as_standard_layout().into_owned();
        Ok((y, LinearCache { x }))
    }

    /// Returns the gradient of x, (batch, length, in), given `dy` of y, (batch, length, out): dx = dy·W. Those of W and b are added to
    /// `gradients`, a value like the layer's own [`zeros_like`](crate::Parameters::zeros_like): dW += dyᵀ·x, db += Σ dy.
    ///
    /// ```
    /// use linformer::ndarray::array;
    /// use linformer::{Linear, Parameters};
    ///
    /// let layer = Linear::from_parts(array![[1.0, 2.0]], Some(array![0.5]))?;
    /// let mut gradients = layer.zeros_like();
    /// let (y, cache) = layer.forward_train(&array![[[3.0, 4.0]]])?;
    /// assert_eq!(y, array![[[11.5]]]);
    ///
    /// let dx = layer.backward(cache, array![[[10.0]]], &mut gradients)?;
    /// assert_eq!(dx, array![[[10.0, 20.0]]]);
    /// assert_eq!(gradients.weight(), array![[30.0, 40.0]]);
    /// assert_eq!(gradients.bias().unwrap(), array![10.0]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of y, or the cache or the gradients are of a layer of another shape. The gradients are then
    /// as they were.
    pub fn backward(&self, cache: LinearCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "Linear::backward";
        let shape = |layer: &Self| (layer.in_dim(), layer.out_dim(), layer.bias.is_some());
        let (batch, length, width) = cache.x.dim();
        // The cache says the width of the input only, and nothing else of the layer matters.
        let cached = (width, self.out_dim(), self.bias.is_some());
        check_alike(OPERATION, &shape(self), &cached, &shape(gradients))?;
        check_gradient(OPERATION, &dy, (batch, length, self.out_dim()))?;
        let dy = contiguous(dy);
        Ok(sequence(self.backward_rows(rows(&cache.x), rows(&dy), gradients), batch, length))
    }
}

/// Gradients of a layer whose rows come group by group, in `f64`.
#[derive(Debug)]
pub(crate) struct LongGradients {
    weight: Array2<f64>,
    bias: LongSum,
}

impl LongGradients {
    pub(crate) fn zeros<A: Scalar>(layer: &Linear<A>) -> Self {
        Self {
            weight: Array2::zeros(layer.weight.dim()),
            bias: LongSum::zeros(layer.bias.as_ref().map_or(0, Array1::len)),
        }
    }
}

impl<A: Scalar> Linear<A> {
    /// The gradient of x, given that of y: dx = dy·W. Those of W and b are added to `gradients`: W += dyᵀ·x, b += Σ dy.
    ///
    /// `x` is (rows, in), `dy` (rows, out).
    pub(crate) fn backward_rows(&self, x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>, gradients: &mut Self) -> Array2<A> {
        self.backward_rows_in(Buffers::new(), x, dy, gradients)
    }

    /// [`backward_rows`](Self::backward_rows) in memory of `buffers`.
    pub(crate) fn backward_rows_in(
        &self,
        buffers: Buffers<'_, A>,
        x: ArrayView2<'_, A>,
        dy: ArrayView2<'_, A>,
        gradients: &mut Self,
    ) -> Array2<A> {
        let mut dx = buffers.array2((dy.nrows(), self.in_dim()));
        let cost = parallel::cost(&[dy.nrows(), self.weight.len()]);
        parallel::both(
            cost,
            || gradients.add_gradients(x, dy),
            || {
                self.prepare_back();
                multiply_spread(self.packed_back(), dy, dx.view_mut());
            },
        );
        dx
    }

    /// Adds to gradients: W += dyᵀ·x, b += Σ dy.
    pub(crate) fn add_gradients(&mut self, x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>) {
        weight_gradient(x, dy, self.weight_mut());
        if let Some(bias) = &mut self.bias {
            bias_gradient(dy, bias);
        }
    }

    /// [`add_gradients`](Self::add_gradients) where more rows follow.
    pub(crate) fn add_long_gradients(x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>, gradients: &mut LongGradients) {
        add_product_to_long(dy, x, gradients.weight.view_mut());
        gradients.bias.add_rows_spread(dy);
    }

    /// Adds sums to gradients.
    pub(crate) fn add_rounded(&mut self, sums: &LongGradients) {
        add_rounded(&sums.weight, self.weight_mut());
        if let Some(bias) = &mut self.bias {
            sums.bias.add_to(bias.view_mut());
        }
    }
}

/// b += Σ dy, some columns a task.
pub(crate) fn bias_gradient<A: Scalar>(dy: ArrayView2<'_, A>, bias: &mut Array1<A>) {
    let mut sums = LongSum::zeros(bias.len());
    sums.add_rows_spread(dy);
    sums.add_to(bias.view_mut());
}

/// W += dyᵀ·x, given contiguous rows of both.
pub(crate) fn weight_gradient<A: Scalar>(x: ArrayView2<'_, A>, dy: ArrayView2<'_, A>, weight: ArrayViewMut2<'_, A>) {
    add_long_product(dy, x, weight);
}

/// dx ← dy·W, for contiguous dx.
pub(crate) fn input_gradient<A: Scalar>(dy: ArrayView2<'_, A>, weight: ArrayView2<'_, A>, dx: ArrayViewMut2<'_, A>) {
    multiply_spread(&PackedMatrix::new(weight, A::one()), dy, dx);
}

/// The product of the rows of `a` and a packed matrix, into contiguous rows, spread over threads.
fn multiply_spread<A: Scalar>(packed: &PackedMatrix<A>, a: ArrayView2<'_, A>, c: ArrayViewMut2<'_, A>) {
    let (inner, cols) = packed.dim();
    let cost = parallel::cost(&[a.nrows(), inner, cols]);
    let mut pool = Pool::<Scratch<A>>::default();
    pool.prepare();
    let size = tile_rows(a.nrows());
    let parts = Parts { view: c, axis: 0, size };
    for_each_part(parts, cost, |tile, part| {
        let first = tile * size;
        let a = a.slice(s![first..first + part.view.nrows(), ..]);
        pool.with(|scratch| packed.multiply_view(a, Output::Set, RowsMut::of(part.view), scratch));
    });
}
