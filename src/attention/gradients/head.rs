//! The gradients of one head, tile by tile: dV += Pᵀ·dO, dP = dO·Vᵀ, dS = P∘(dP − ⟨P, dP⟩), dq = dS·K/√d, dK += dSᵀ·q/√d,
//! and of the log-masses that were added to the logits: Σ dS.

use ndarray::{Array2, ArrayView1, ArrayView2, ArrayViewMut2};

use super::super::heads::scale;
use super::super::weights::tile;
use super::Dropped;
use crate::ops::{
    Output, PackedColumns, PackedMatrix, RowsMut, SEGMENT, Scratch, gemm, idle_rows, softmax_backward_rows, softmax_rows, without_idle,
};
use crate::scalar::Scalar;

/// The gradients of the keys and values of one key/value head, (count, `head_dim`) each and contiguous.
pub(super) struct OwnGradients<'g, A> {
    pub(super) keys: ArrayViewMut2<'g, A>,
    pub(super) values: ArrayViewMut2<'g, A>,
    /// (count) or more; nothing where nothing is added to the logits.
    pub(super) log_mass: &'g mut [f64],
}

impl<A> OwnGradients<'_, A> {
    /// All numbers of the keys', and of the values'.
    pub(super) fn slices(&mut self) -> [&mut [A]; 2] {
        [&mut self.keys, &mut self.values].map(|own| own.as_slice_mut().expect("one head's are contiguous"))
    }
}

/// One key/value head's keys and values as the products of its tiles want them, and memory for those products.
#[derive(Debug)]
pub(super) struct HeadBackward<A> {
    /// (`head_dim`, count), divided by √`head_dim`.
    keys: PackedMatrix<A>,
    /// (`head_dim`, count), divided by √`head_dim`: dS then is, too, which dq and dK both want.
    values: PackedMatrix<A>,
    /// (count, `head_dim`).
    keys_back: PackedMatrix<A>,
    /// What is added to the logits, (count), or nothing.
    log_mass: Vec<A>,
    /// The same as they are, where there are more than one run of a packed product adds up.
    many_keys: Option<Array2<A>>,
    products: TileProducts<A>,
    scores: Vec<A>,
    dropped: Vec<A>,
    dscores: Vec<A>,
    dqueries: Vec<A>,
}

/// Memory for the products of one tile.
#[derive(Debug)]
struct TileProducts<A> {
    rows: Scratch<A>,
    columns: PackedColumns<A>,
    right: PackedMatrix<A>,
}

impl<A: Scalar> TileProducts<A> {
    /// `sum` += leftᵀ·right over the rows of a tile.
    fn add_transposed(&mut self, left: ArrayView2<'_, A>, right: ArrayView2<'_, A>, sum: &mut ArrayViewMut2<'_, A>) {
        self.columns.repack(left);
        self.right.repack(right, A::one());
        self.right.multiply_columns(&self.columns, Output::Add, RowsMut::of(sum.view_mut()));
    }
}

impl<A: Scalar> Default for HeadBackward<A> {
    fn default() -> Self {
        Self {
            keys: PackedMatrix::default(),
            values: PackedMatrix::default(),
            keys_back: PackedMatrix::default(),
            log_mass: Vec::new(),
            many_keys: None,
            products: TileProducts {
                rows: Scratch::default(),
                columns: PackedColumns::default(),
                right: PackedMatrix::default(),
            },
            scores: Vec::new(),
            dropped: Vec::new(),
            dscores: Vec::new(),
            dqueries: Vec::new(),
        }
    }
}

impl<A: Scalar> HeadBackward<A> {
    /// Takes over the keys and values (count, `head_dim`) that the next tiles attend to, and what is added to their logits.
    pub(super) fn attend_to(&mut self, keys: ArrayView2<'_, A>, values: ArrayView2<'_, A>, log_mass: Option<ArrayView1<'_, A>>) {
        self.log_mass.clear();
        self.log_mass.extend(log_mass.into_iter().flatten());
        let scale = scale(keys.ncols());
        self.keys.repack(keys.t(), scale);
        self.values.repack(values.t(), scale);
        self.many_keys = (keys.nrows() > SEGMENT).then(|| keys.to_owned());
        if self.many_keys.is_none() {
            self.keys_back.repack(keys, A::one());
        }
    }

    /// Fills `dqueries` with the gradient of a tile's queries (rows, `head_dim`), given that of their results, and adds to those of the keys
    /// and values.
    pub(super) fn tile(
        &mut self,
        queries: ArrayView2<'_, A>,
        dout: ArrayView2<'_, A>,
        dropped: Option<&Dropped<'_, A>>,
        dqueries: &mut ArrayViewMut2<'_, A>,
        own: &mut OwnGradients<'_, A>,
    ) {
        let (rows, (head_dim, count)) = (queries.nrows(), self.keys.dim());
        if count == 0 {
            return dqueries.fill(A::zero());
        }
        let log_mass = (!self.log_mass.is_empty()).then_some(&self.log_mass[..]);
        let products = &mut self.products;
        let mut scores = tile(&mut self.scores, rows, count);
        self.keys
            .multiply_view(queries, Output::set(log_mass), RowsMut::of(scores.view_mut()), &mut products.rows);
        let mut dscores = tile(&mut self.dscores, rows, count);
        self.values
            .multiply_view(dout, Output::Set, RowsMut::of(dscores.view_mut()), &mut products.rows);
        softmax_rows(scores.as_slice_mut().expect("a tile is contiguous"), count);
        let idle = idle_rows(dout);
        let queries = without_idle(queries, &idle);
        for row in idle {
            scores.row_mut(row).fill(A::zero());
        }
        if let Some(place) = dropped {
            let mut dropped = tile(&mut self.dropped, rows, count);
            dropped.assign(&scores);
            place.apply(&mut dropped);
            place.apply(&mut dscores);
            products.add_transposed(dropped.view(), dout, &mut own.values);
        } else {
            products.add_transposed(scores.view(), dout, &mut own.values);
        }
        softmax_backward_rows(
            scores.as_slice().expect("a tile is contiguous"),
            dscores.as_slice_mut().expect("a tile is contiguous"),
            count,
        );
        if log_mass.is_some() {
            add_logits(dscores.view(), head_dim, own.log_mass);
        }
        let mut own_dqueries = tile(&mut self.dqueries, rows, head_dim);
        if let Some(keys) = &self.many_keys {
            gemm(A::one(), dscores.view(), keys.view(), A::zero(), &mut own_dqueries);
        } else {
            let to = RowsMut::of(own_dqueries.view_mut());
            self.keys_back.multiply_view(dscores.view(), Output::Set, to, &mut products.rows);
        }
        dqueries.assign(&own_dqueries);
        products.add_transposed(dscores.view(), queries.view(), &mut own.keys);
    }
}

/// sums += Σ dS over the rows of dS/√`head_dim`.
fn add_logits<A: Scalar>(dscores: ArrayView2<'_, A>, head_dim: usize, sums: &mut [f64]) {
    let root = (head_dim as f64).sqrt();
    for row in dscores.outer_iter() {
        for (sum, &dscore) in sums.iter_mut().zip(row) {
            *sum += dscore.widen() * root;
        }
    }
}
