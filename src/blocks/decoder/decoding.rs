//! Decoders token by token: one more row of targets whose past each block has kept.

use ndarray::{Array3, s};

use super::{CompressedSource, Decoder};
use crate::attention::LayerState;
use crate::blocks::EncoderState;
use crate::error::{Error, Result};
use crate::layers::check_width;
use crate::scalar::Scalar;

impl<A: Scalar> Decoder<A> {
    /// The state of a target that has not begun.
    pub(crate) fn begin(&self) -> Result<EncoderState<A>> {
        let states = self
            .blocks()
            .iter()
            .map(|block| Ok(LayerState::start(block.self_attention().state_shape()?)));
        Ok(EncoderState::of(states.collect::<Result<_>>()?))
    }

    /// The next row of each of several targets, (targets, 1, dim), given what was kept of each. Target i reads the source `of[i]`, and several may
    /// read the same.
    pub(crate) fn step(
        &self,
        x: Array3<A>,
        states: &mut [&mut EncoderState<A>],
        source: &CompressedSource<A>,
        of: &[usize],
    ) -> Result<Array3<A>> {
        const OPERATION: &str = "EncoderDecoder::step";
        check_width(OPERATION, "x", &x, self.config().dim())?;
        self.check_source(OPERATION, source)?;
        let shapes = self.blocks().iter().map(|block| block.self_attention().state_shape());
        let shapes = shapes.collect::<Result<Vec<_>>>()?;
        if !states.iter().all(|state| state.fits(&shapes)) {
            return Err(Error::argument(
                OPERATION,
                "the state is of a model of another configuration; begin with this one",
            ));
        }
        let places = Places::new(of, source.batch());
        let mut stream = x;
        for (layer, (block, context)) in self.blocks().iter().zip(source.layers()).enumerate() {
            let mut own: Vec<&mut LayerState<A>> = states.iter_mut().filter_map(|state| state.layer_mut(layer)).collect();
            let attention = block.self_attention();
            stream = block
                .halves()
                .0
                .apply_around(stream, |x| attention.step(self.projections(), &x.to_owned(), &mut own))?;
            stream = places.gather(&block.attend(places.spread(&stream), context)?);
        }
        self.finished(stream)
    }
}

/// The place of each of several targets among the queries to its source.
struct Places {
    /// (source, row) of each target.
    rows: Vec<(usize, usize)>,
    sources: usize,
    /// The most targets of a source.
    most: usize,
}

impl Places {
    fn new(of: &[usize], sources: usize) -> Self {
        let mut counts = vec![0; sources];
        let place = |&source: &usize| {
            counts[source] += 1;
            (source, counts[source] - 1)
        };
        let rows = of.iter().map(place).collect();
        Self {
            rows,
            sources,
            most: counts.into_iter().max().unwrap_or(0),
        }
    }

    /// (targets, 1, dim) → (sources, most, dim), with zeros at places without a target.
    fn spread<A: Scalar>(&self, x: &Array3<A>) -> Array3<A> {
        let mut spread = Array3::zeros((self.sources, self.most, x.dim().2));
        for (&(source, row), x) in self.rows.iter().zip(x.outer_iter()) {
            spread.slice_mut(s![source, row, ..]).assign(&x.row(0));
        }
        spread
    }

    /// The way back.
    fn gather<A: Scalar>(&self, spread: &Array3<A>) -> Array3<A> {
        let mut x = Array3::zeros((self.rows.len(), 1, spread.dim().2));
        for (&(source, row), mut x) in self.rows.iter().zip(x.outer_iter_mut()) {
            x.row_mut(0).assign(&spread.slice(s![source, row, ..]));
        }
        x
    }
}
