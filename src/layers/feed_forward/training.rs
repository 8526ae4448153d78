//! Training of the feed-forward layer, tile by tile: what is kept of a row is its first product.

use std::ops::Range;

use ndarray::{Array2, Array3, ArrayRef3, ArrayView2, ArrayViewMut2, Axis, s};

use super::{ACTIVATION_COST, FeedForward, FeedForwardScratch};
use crate::buffer_pool::Buffers;
use crate::config::check_alike;
use crate::error::Result;
use crate::layers::linear::{Linear, LongGradients};
use crate::layers::{check_gradient, check_width, contiguous, rows, sequence, tile_rows};
use crate::ops::{Dropout, Output, ROUNDED_ROWS, RowsMut, Runs, Tile, idle_rows};
use crate::parallel::{self, Pool, along, for_each_part};
use crate::scalar::Scalar;

/// Rows whose gradients of the hidden features are made before those of the weights are.
const GROUP: usize = 2048;

/// Scratch space for one tile of rows.
#[derive(Debug)]
struct TrainingScratch<A> {
    tile: Tile<A>,
    hidden: FeedForwardScratch<A>,
    /// The activation of a row that a gate is multiplied with.
    row: Vec<A>,
}

impl<A: Scalar> Default for TrainingScratch<A> {
    fn default() -> Self {
        Self {
            tile: Tile::default(),
            hidden: FeedForwardScratch::default(),
            row: Vec::new(),
        }
    }
}

/// A tile's rows of what the backward pass reads and writes.
struct BackwardTile<'t, A> {
    dx: ArrayViewMut2<'t, A>,
    /// W₁·x + b₁, and in the end its gradient.
    hidden: ArrayViewMut2<'t, A>,
    /// The second product's input, recomputed.
    activated: ArrayViewMut2<'t, A>,
    /// The index of the first row, for dropout.
    first: usize,
}

/// The state that the backward pass of a [`FeedForward`] needs: its input and the first product.
#[derive(Clone, Debug)]
pub struct FeedForwardCache<A = f32> {
    x: Array3<A>,
    hidden: Array2<A>,
}

impl<A: Scalar> FeedForward<A> {
    /// Runs [`forward`](Self::forward); returns the output and what [`backward`](Self::backward) needs.
    ///
    /// # Errors
    /// Returns an error if `x` has another width than the layer.
    pub fn forward_train(&self, x: &ArrayRef3<A>) -> Result<(Array3<A>, FeedForwardCache<A>)> {
        check_width("FeedForward::forward_train", "x", x, self.input.in_dim())?;
        let x = x.as_standard_layout().into_owned();
        let (batch, length, _) = x.dim();
        let (y, hidden) = self.train_rows(rows(&x), None, Buffers::new());
        Ok((sequence(y, batch, length), FeedForwardCache { x, hidden }))
    }

    /// Returns the gradient of x, (batch, length, dim), given `dy` of y, (batch, length, `out_dim`). Those of the weights are added to `gradients`, a
    /// value like the layer's own [`zeros_like`](crate::Parameters::zeros_like).
    ///
    /// ```
    /// use linformer::ndarray::Array3;
    /// use linformer::{FeedForward, FeedForwardConfig, Parameters};
    ///
    /// let layer = FeedForward::<f32>::new(8, 4, &FeedForwardConfig::new(32), 0)?;
    /// let mut gradients = layer.zeros_like();
    /// let (y, cache) = layer.forward_train(&Array3::ones((2, 5, 8)))?;
    /// let dx = layer.backward(cache, Array3::ones(y.dim()), &mut gradients)?;
    /// assert_eq!(dx.dim(), (2, 5, 8));
    /// assert_eq!(gradients.output().bias().unwrap()[0], 10.0); // one for each row
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if `dy` is not of the shape of y, or the cache or the gradients are of a layer of another configuration. The gradients are
    /// then as they were.
    pub fn backward(&self, cache: FeedForwardCache<A>, dy: Array3<A>, gradients: &mut Self) -> Result<Array3<A>> {
        const OPERATION: &str = "FeedForward::backward";
        let shape = |layer: &Self| (layer.input.in_dim(), layer.input.out_dim(), layer.output.out_dim(), layer.config());
        // The cache says widths only, and nothing else of the layer matters.
        let cached = (cache.x.dim().2, cache.hidden.ncols(), self.output.out_dim(), self.config());
        check_alike(OPERATION, &shape(self), &cached, &shape(gradients))?;
        let (batch, length, _) = cache.x.dim();
        check_gradient(OPERATION, &dy, (batch, length, self.output.out_dim()))?;
        let dy = contiguous(dy);
        let dx = self.backward_rows(rows(&cache.x), cache.hidden, rows(&dy), None, gradients, Buffers::new());
        Ok(sequence(dx, batch, length))
    }

    /// y of the rows of `x`, and what [`backward_rows`](Self::backward_rows) needs in addition to `x`: W₁·x + b₁.
    pub(crate) fn train_rows(&self, x: ArrayView2<'_, A>, dropout: Option<Dropout<A>>, buffers: Buffers<'_, A>) -> (Array2<A>, Array2<A>) {
        if self.hidden_runs().start_with_panels() {
            self.input.prepare();
        }
        self.output.prepare();
        let rows = x.nrows();
        let mut y = buffers.array2((rows, self.output.out_dim()));
        let mut hidden = buffers.array2((rows, self.input.out_dim()));
        let mut pool = Pool::<TrainingScratch<A>>::default();
        pool.prepare();
        let size = tile_rows(rows);
        let parts = (along(y.view_mut(), 0, size), along(hidden.view_mut(), 0, size));
        for_each_part(parts, self.cost(rows), |index, (y, mut hidden)| {
            pool.with(|scratch| {
                let first = index * size;
                scratch
                    .tile
                    .fill(x.slice(s![first..first + y.view.nrows(), ..]), Runs::of(x.ncols()));
                self.apply_tile_keeping(
                    scratch.tile.rows(),
                    false,
                    RowsMut::of(y.view),
                    &mut scratch.hidden,
                    |columns, run| copy_rows(run, &mut hidden.view.slice_mut(s![.., columns])),
                    |columns, run| self.drop_out(dropout, first, columns, run),
                );
            });
        });
        (y, hidden)
    }

    /// The gradient of x, given that of y: dh = dy·W₂, through the activation (and the gate), dx = dh·W₁. Those of the weights are added to `gradients`.
    #[allow(clippy::too_many_arguments)] // all of them vary independently
    pub(crate) fn backward_rows(
        &self,
        x: ArrayView2<'_, A>,
        mut hidden: Array2<A>,
        dy: ArrayView2<'_, A>,
        dropout: Option<Dropout<A>>,
        gradients: &mut Self,
        buffers: Buffers<'_, A>,
    ) -> Array2<A> {
        self.input.prepare_back();
        self.output.prepare_back();
        let rows = x.nrows();
        let mut dx = buffers.array2((rows, self.input.in_dim()));
        let mut activated = buffers.array2((rows.min(GROUP), self.output.in_dim()));
        let mut pool = Pool::<TrainingScratch<A>>::default();
        pool.prepare();
        let mut long = (rows > ROUNDED_ROWS).then(|| [&self.output, &self.input].map(LongGradients::zeros));
        for first in (0..rows).step_by(GROUP) {
            let group = first..rows.min(first + GROUP);
            let dy = dy.slice(s![group.clone(), ..]);
            let tile = BackwardTile {
                dx: dx.slice_mut(s![group.clone(), ..]),
                hidden: hidden.slice_mut(s![group.clone(), ..]),
                activated: activated.slice_mut(s![..group.len(), ..]),
                first,
            };
            self.backward_group(dy, tile, dropout, &pool);
            let activated = activated.slice(s![..group.len(), ..]);
            let (x, dhidden) = (x.slice(s![group.clone(), ..]), hidden.slice(s![group, ..]));
            let (cost, Self { input, output, .. }) = (self.cost(x.nrows()), &mut *gradients);
            match &mut long {
                None => parallel::both(cost, || output.add_gradients(activated, dy), || input.add_gradients(x, dhidden)),
                Some([for_output, for_input]) => parallel::both(
                    cost,
                    || Linear::add_long_gradients(activated, dy, for_output),
                    || Linear::add_long_gradients(x, dhidden, for_input),
                ),
            }
        }
        if let Some([for_output, for_input]) = &long {
            gradients.output.add_rounded(for_output);
            gradients.input.add_rounded(for_input);
        }
        buffers.recycle(hidden);
        buffers.recycle(activated);
        dx
    }

    fn backward_group(
        &self,
        dy: ArrayView2<'_, A>,
        group: BackwardTile<'_, A>,
        dropout: Option<Dropout<A>>,
        pool: &Pool<TrainingScratch<A>>,
    ) {
        let size = tile_rows(dy.nrows());
        let parts = (
            (along(group.dx, 0, size), along(group.hidden, 0, size)),
            along(group.activated, 0, size),
        );
        for_each_part(parts, self.cost(dy.nrows()), |index, ((dx, hidden), activated)| {
            let start = index * size;
            let tile = BackwardTile {
                first: group.first + start,
                dx: dx.view,
                hidden: hidden.view,
                activated: activated.view,
            };
            let dy = dy.slice(s![start..start + tile.dx.nrows(), ..]);
            pool.with(|scratch| self.backward_tile(dy, tile, dropout, scratch));
        });
    }

    /// Runs of hidden features one after the other: dact = dy·W₂, dh = dact ∘ act'(h), dx += dh·W₁; gated: da = dact ∘ g ∘ act'(a),
    /// dg = dact ∘ act(a).
    fn backward_tile(
        &self,
        dy: ArrayView2<'_, A>,
        mut tile: BackwardTile<'_, A>,
        dropout: Option<Dropout<A>>,
        scratch: &mut TrainingScratch<A>,
    ) {
        let TrainingScratch {
            tile: dy_tile,
            hidden: FeedForwardScratch { hidden, gate },
            row,
        } = scratch;
        dy_tile.fill(dy, Runs::of(dy.ncols()));
        for row in idle_rows(dy) {
            tile.hidden.row_mut(row).fill(A::zero());
        }
        let runs = self.hidden_runs();
        let mut dx = RowsMut::of(tile.dx);
        for part in 0..self.parts() {
            let range = runs.range(part);
            hidden.reshape(dy.nrows(), Runs::of(range.len()));
            self.output
                .back_tile(dy_tile.rows(), 0, range.clone(), Output::Set, hidden.run_mut(0));
            self.drop_out(dropout, tile.first, range.clone(), hidden.run_mut(0));
            let activated = tile.activated.slice_mut(s![.., range.clone()]);
            let output = if part == 0 { Output::Set } else { Output::Add };
            let (dx, dim) = (dx.reborrow(), 0..self.input.in_dim());
            if self.gated {
                gate.reshape(dy.nrows(), Runs::of(range.len()));
                let gates = runs.range(self.parts() + part);
                let (own, others) = tile.hidden.view_mut().split_at(Axis(1), gates.start);
                let hidden_part = (own.slice_move(s![.., range.clone()]), others.slice_move(s![.., ..range.len()]));
                self.through_gate(hidden_part, activated, hidden.run_mut(0), gate.run_mut(0), row);
                let mut dx = dx;
                self.input.back_tile(hidden.rows(), range.start, dim.clone(), output, dx.reborrow());
                self.input.back_tile(gate.rows(), gates.start, dim, Output::Add, dx);
            } else {
                self.through_activation(tile.hidden.slice_mut(s![.., range.clone()]), activated, hidden.run_mut(0));
                self.input.back_tile(hidden.rows(), range.start, dim, output, dx);
            }
            if let Some(dropout) = dropout {
                let width = self.output.in_dim();
                for (row, mut activated) in tile.activated.slice_mut(s![.., range.clone()]).outer_iter_mut().enumerate() {
                    let activated = contiguous_row(&mut activated);
                    dropout.apply(activated, ((tile.first + row) * width + range.start) as u64);
                }
            }
        }
    }

    /// `dact` ← dh, which `hidden` keeps too; `activated` ← act(h).
    fn through_activation(&self, mut hidden: ArrayViewMut2<'_, A>, mut activated: ArrayViewMut2<'_, A>, dact: RowsMut<'_, A>) {
        let rows = hidden.outer_iter_mut().zip(activated.outer_iter_mut());
        for ((mut hidden, mut activated), dact) in rows.zip(dact.data.chunks_mut(dact.stride)) {
            let (hidden, activated) = (contiguous_row(&mut hidden), contiguous_row(&mut activated));
            self.activation.apply_and_differentiate(hidden, activated);
            for (hidden, dact) in hidden.iter_mut().zip(dact) {
                *hidden *= *dact;
                *dact = *hidden;
            }
        }
    }

    /// `dact` ← da and `dgate` ← dg, which `hidden` keeps too; `activated` ← act(a) ∘ g.
    fn through_gate(
        &self,
        (mut own, mut gates): (ArrayViewMut2<'_, A>, ArrayViewMut2<'_, A>),
        mut activated: ArrayViewMut2<'_, A>,
        dact: RowsMut<'_, A>,
        dgate: RowsMut<'_, A>,
        act: &mut Vec<A>,
    ) {
        let hidden = own.outer_iter_mut().zip(gates.outer_iter_mut()).zip(activated.outer_iter_mut());
        let scratch = dact.data.chunks_mut(dact.stride).zip(dgate.data.chunks_mut(dgate.stride));
        for (((mut own, mut gates), mut activated), (dact, dgate)) in hidden.zip(scratch) {
            let (own, gates, activated) = (contiguous_row(&mut own), contiguous_row(&mut gates), contiguous_row(&mut activated));
            act.resize(own.len(), A::zero());
            self.activation.apply_and_differentiate(own, act);
            let inputs = own.iter_mut().zip(gates).zip(act.iter());
            for ((((own, gate), &act), activated), (dact, dgate)) in inputs.zip(activated).zip(dact.iter_mut().zip(dgate)) {
                *activated = act * *gate;
                (*own, *gate) = (*own * *gate * *dact, act * *dact);
                (*dact, *dgate) = (*own, *gate);
            }
        }
    }

    /// Drops out of a run of hidden features of the rows from `first` on.
    fn drop_out(&self, dropout: Option<Dropout<A>>, first: usize, columns: Range<usize>, run: RowsMut<'_, A>) {
        let Some(dropout) = dropout else { return };
        let width = self.output.in_dim();
        for (row, values) in run.data.chunks_mut(run.stride).enumerate() {
            let place = ((first + row) * width + columns.start) as u64;
            let count = columns.len().min(values.len());
            dropout.apply(&mut values[..count], place);
        }
    }

    fn cost(&self, rows: usize) -> usize {
        let weights = self.input.weight().len() + self.output.weight().len();
        parallel::cost(&[rows, weights + ACTIVATION_COST * self.input.out_dim()])
    }
}

/// Fills `to` from the first columns of a run.
fn copy_rows<A: Scalar>(run: &RowsMut<'_, A>, to: &mut ArrayViewMut2<'_, A>) {
    for (from, mut to) in run.data.chunks(run.stride).zip(to.outer_iter_mut()) {
        let to = contiguous_row(&mut to);
        to.copy_from_slice(&from[..to.len()]);
    }
}

fn contiguous_row<'r, A>(row: &'r mut ndarray::ArrayViewMut1<'_, A>) -> &'r mut [A] {
    row.as_slice_mut().expect("rows of an owned array are contiguous")
}
