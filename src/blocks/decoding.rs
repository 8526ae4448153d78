//! Token by token: one more row of sequences whose past each block has kept.

use ndarray::{Array3, ArrayRef3};

use super::{Attention, Encoder, EncoderBlock};
use crate::attention::{CausalContext, LayerState, PaddingMask, Projections, StateShape, Summarized, step};
use crate::error::{Error, Result};
use crate::layers::check_width;
use crate::scalar::Scalar;

/// What an encoder keeps of one sequence, layer by layer.
#[derive(Clone, Debug)]
pub(crate) struct EncoderState<A>(Vec<LayerState<A>>);

impl<A: Scalar> EncoderState<A> {
    pub(super) fn of(layers: Vec<LayerState<A>>) -> Self {
        Self(layers)
    }

    /// Whether it belongs to a stack of such layers.
    pub(super) fn fits(&self, shapes: &[StateShape]) -> bool {
        self.0.len() == shapes.len() && self.0.iter().zip(shapes).all(|(layer, &shape)| layer.fits(shape))
    }

    pub(super) fn layer_mut(&mut self, layer: usize) -> Option<&mut LayerState<A>> {
        self.0.get_mut(layer)
    }
}

fn not_causal() -> Error {
    Error::argument("Encoder", "only causal attention can go on token by token")
}

impl<A: Scalar> Attention<A> {
    /// Causal self-attention, and what its rows saw.
    fn forward_causal(
        &self,
        shared: Option<&Projections<A>>,
        x: &ArrayRef3<A>,
        mask: Option<&PaddingMask>,
    ) -> Result<(Array3<A>, CausalContext<A>)> {
        match self {
            Self::Exact(attention) if attention.config().causal => attention.forward_causal(x, mask),
            Self::Causal(attention) => attention.forward_with(shared, x, mask),
            _ => Err(not_causal()),
        }
    }

    /// How its summaries are made, where it has any.
    fn summarized<'l>(&'l self, shared: Option<&'l Projections<A>>) -> Result<Option<Summarized<'l, A>>> {
        match self {
            Self::Causal(attention) => Ok(Some(Summarized {
                config: attention.config(),
                projections: attention.own_or(shared)?,
            })),
            _ => Ok(None),
        }
    }

    /// One more row of each sequence.
    pub(super) fn step(&self, shared: Option<&Projections<A>>, x: &Array3<A>, states: &mut [&mut LayerState<A>]) -> Result<Array3<A>> {
        let summarized = self.summarized(shared)?;
        let (weights, config) = match self {
            Self::Exact(attention) => (attention.weights(), attention.config()),
            Self::Causal(attention) => (attention.weights(), &attention.config().attention),
            Self::Linformer(_) => return Err(not_causal()),
        };
        check_width("Encoder::step", "x", x, config.dim)?;
        Ok(step(weights, summarized, x, states))
    }

    /// What its states are like.
    pub(super) fn state_shape(&self) -> Result<StateShape> {
        match self {
            Self::Exact(attention) if attention.config().causal => Ok(StateShape::new(attention.config(), usize::MAX, None)),
            Self::Causal(attention) => {
                let config = attention.config();
                Ok(StateShape::new(&config.attention, config.effective_window(), Some(config)))
            }
            _ => Err(not_causal()),
        }
    }
}

impl<A: Scalar> EncoderBlock<A> {
    /// The block on one stream, or on two where it is reversible.
    fn around(
        &self,
        streams: (Array3<A>, Option<Array3<A>>),
        attend: impl FnOnce(&ArrayRef3<A>) -> Result<Array3<A>>,
    ) -> Result<(Array3<A>, Option<Array3<A>>)> {
        match streams {
            (stream, None) => Ok((self.apply_around(stream, attend)?, None)),
            (mut first, Some(mut second)) => {
                self.apply_reversible_around(&mut first, &mut second, attend)?;
                Ok((first, Some(second)))
            }
        }
    }
}

impl<A: Scalar> Encoder<A> {
    /// [`forward`](Self::forward) of right-padded sequences of these lengths, and what is kept of each to go on.
    pub(crate) fn prefill(&self, x: Array3<A>, lengths: &[usize], mask: &PaddingMask) -> Result<(Array3<A>, Vec<EncoderState<A>>)> {
        let shared = self.projections();
        let mut states: Vec<_> = lengths
            .iter()
            .map(|_| EncoderState(Vec::with_capacity(self.blocks().len())))
            .collect();
        let mut streams = self.streams(self.checked(x, Some(mask))?);
        for block in self.blocks() {
            let summarized = block.attention().summarized(shared)?;
            let shape = block.attention().state_shape()?;
            streams = block.around(streams, |x| {
                let (y, context) = block.attention().forward_causal(shared, x, Some(mask))?;
                for (item, (state, &length)) in states.iter_mut().zip(lengths).enumerate() {
                    state.0.push(LayerState::after(shape, &context, item, length, summarized));
                }
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
