//! Causal attention token by token: what a layer keeps of a growing sequence.

use ndarray::{Array2, Array3, ArrayView1, ArrayView2, ArrayViewMut2, Axis};

use super::causal::{CausalContext, KeyShape, KeyState};
use super::local_global::{ItemContext, SegmentShape, SegmentState};
use super::weights::AttentionWeights;
use crate::layers::rows;
use crate::parallel::{self, along, for_each_part};
use crate::scalar::Scalar;

/// The shape of the layer that a state belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StateShape {
    Keys(KeyShape),
    Segments(SegmentShape),
}

/// The state of one layer for one sequence.
#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a layer
pub(crate) enum LayerState<A> {
    /// Keys and values, and the summaries of blocks.
    Keys(KeyState<A>),
    /// Keys and values of a window, and the summaries of segments.
    Segments(SegmentState<A>),
}

/// What the rows of whole sequences saw.
#[allow(clippy::large_enum_variant)] // one at a time
pub(crate) enum PastContext<A> {
    Keys(CausalContext<A>),
    /// One for each item.
    Segments(Vec<ItemContext<A>>),
}

impl<A: Scalar> LayerState<A> {
    /// The state of a sequence that has not begun.
    pub(crate) fn start(shape: StateShape) -> Self {
        match shape {
            StateShape::Keys(shape) => Self::Keys(KeyState::start(shape)),
            StateShape::Segments(shape) => Self::Segments(SegmentState::start(shape)),
        }
    }

    /// Whether it belongs to a layer like this.
    pub(crate) fn fits(&self, shape: StateShape) -> bool {
        match (self, shape) {
            (Self::Keys(state), StateShape::Keys(shape)) => state.fits(shape),
            (Self::Segments(state), StateShape::Segments(shape)) => state.fits(shape),
            _ => false,
        }
    }

    pub(crate) fn keys_mut(&mut self) -> Option<&mut KeyState<A>> {
        match self {
            Self::Keys(state) => Some(state),
            Self::Segments(_) => None,
        }
    }

    pub(crate) fn segments_mut(&mut self) -> Option<&mut SegmentState<A>> {
        match self {
            Self::Keys(_) => None,
            Self::Segments(state) => Some(state),
        }
    }
}

/// One more row of each of several sequences, (sequences, 1, dim): `push` takes its key and value into its state, then `attend` replaces each of
/// its heads' queries, (1, `head_dim`), by what that attends to. `visible` tells how many rows it sees.
pub(super) fn step_rows<A: Scalar, S: Sync>(
    weights: &AttentionWeights<A>,
    x: &Array3<A>,
    states: &mut [&mut S],
    mut push: impl FnMut(&mut S, ArrayView1<'_, A>, ArrayView1<'_, A>),
    visible: impl Fn(&S) -> usize,
    attend: impl Fn(&S, usize, &mut ArrayViewMut2<'_, A>) + Sync,
) -> Array3<A> {
    let x = rows(x);
    let keys = weights.key.forward_rows(x);
    let values = weights.value.as_ref().map(|value| value.forward_rows(x));
    let values = values.as_ref().unwrap_or(&keys);
    let mut concat = weights.query.forward_rows(x);
    for ((state, keys), values) in states.iter_mut().zip(keys.rows()).zip(values.rows()) {
        push(state, keys, values);
    }
    let visible: usize = states.iter().map(|state| visible(state)).sum();
    let cost = parallel::cost(&[visible, 2, weights.query.out_dim()]);
    let states: &[&mut S] = states;
    for_each_part(along(concat.view_mut(), 0, 1), cost, |item, part| {
        for_each_part(along(part.view, 1, weights.head_dim()), cost, |head, mut part| {
            attend(states[item], head, &mut part.view);
        });
    });
    output_rows(weights, concat.view()).insert_axis(Axis(1))
}

fn output_rows<A: Scalar>(weights: &AttentionWeights<A>, concat: ArrayView2<'_, A>) -> Array2<A> {
    match &weights.output_factor {
        None => weights.output.forward_rows(concat),
        Some(factor) => weights.output.forward_rows(factor.forward_rows(concat).view()),
    }
}
