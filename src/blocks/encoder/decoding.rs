//! Token by token: one more row of sequences whose past each block has kept.

use ndarray::Array3;

use super::Encoder;
use crate::attention::{LayerState, PaddingMask, StateShape};
use crate::error::{Error, Result};
use crate::scalar::Scalar;

/// The state of an encoder for one sequence, layer by layer.
#[derive(Clone, Debug)]
pub(crate) struct EncoderState<A>(Vec<LayerState<A>>);

impl<A: Scalar> EncoderState<A> {
    pub(in crate::blocks) fn of(layers: Vec<LayerState<A>>) -> Self {
        Self(layers)
    }

    /// Whether it belongs to a stack of such layers.
    pub(in crate::blocks) fn fits(&self, shapes: &[StateShape]) -> bool {
        self.0.len() == shapes.len() && self.0.iter().zip(shapes).all(|(layer, &shape)| layer.fits(shape))
    }

    pub(in crate::blocks) fn layer_mut(&mut self, layer: usize) -> Option<&mut LayerState<A>> {
        self.0.get_mut(layer)
    }
}

impl<A: Scalar> Encoder<A> {
    /// [`forward`](Self::forward) of right-padded sequences of these lengths, and the state of each to continue from.
    pub(crate) fn prefill(&self, x: Array3<A>, lengths: &[usize], mask: &PaddingMask) -> Result<(Array3<A>, Vec<EncoderState<A>>)> {
        let shared = self.projections();
        let mut states: Vec<_> = lengths
            .iter()
            .map(|_| EncoderState(Vec::with_capacity(self.blocks().len())))
            .collect();
        let mut streams = self.streams(self.checked(x, Some(mask))?);
        for block in self.blocks() {
            streams = block.around(streams, |x| {
                let (y, context) = block.attention().forward_causal(shared, x, Some(mask))?;
                let layer = block.attention().states_after(shared, &context, lengths)?;
                states.iter_mut().zip(layer).for_each(|(state, layer)| state.0.push(layer));
                Ok(y)
            })?;
        }
        Ok((self.finished(streams)?, states))
    }

    /// The next row of each of several sequences, (sequences, 1, dim), given what was kept of each.
    pub(crate) fn step(&self, x: Array3<A>, states: &mut [&mut EncoderState<A>]) -> Result<Array3<A>> {
        let shared = self.projections();
        self.check_states(states)?;
        let mut streams = self.streams(x);
        for (layer, block) in self.blocks().iter().enumerate() {
            let mut own: Vec<&mut LayerState<A>> = states.iter_mut().filter_map(|state| state.layer_mut(layer)).collect();
            streams = block.around(streams, |x| block.attention().step(shared, &x.to_owned(), &mut own))?;
        }
        self.finished(streams)
    }

    fn check_states(&self, states: &[&mut EncoderState<A>]) -> Result<()> {
        let shapes: Vec<StateShape> = self
            .blocks()
            .iter()
            .map(|block| block.attention().state_shape())
            .collect::<Result<_>>()?;
        if states.iter().all(|state| state.fits(&shapes)) {
            return Ok(());
        }
        Err(Error::argument(
            "LanguageModel::step",
            "the state is of a model of another configuration; run the texts through this one with prefill",
        ))
    }

    fn streams(&self, x: Array3<A>) -> (Array3<A>, Option<Array3<A>>) {
        let second = self.config().reversible.then(|| x.clone());
        (x, second)
    }

    fn finished(&self, (mut stream, second): (Array3<A>, Option<Array3<A>>)) -> Result<Array3<A>> {
        if let Some(second) = second {
            stream += &second;
        }
        match self.final_norm() {
            Some(norm) => norm.forward(&stream),
            None => Ok(stream),
        }
    }
}
