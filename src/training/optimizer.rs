//! Code that all optimizers share: finding their parameters, checking gradients, clipping, and spreading a step over threads.

use ndarray::{ArrayD, ArrayViewD, ArrayViewMutD, Axis};

use super::range::{Magnitudes, leaves_range, magnitude};
use super::rules::{WeightDecay, is_below, is_stepped};
use crate::error::{Error, Result};
use crate::parallel;
use crate::parameters::{Parameters, Role};
use crate::scalar::{Scalar, inverse_power_of_two};

/// About how many elements one task steps.
const PIECE: usize = 1 << 15;

/// About how many multiplications the step of one element takes as long as.
const ELEMENT: usize = 16;

/// An optimizer: [`AdamW`](super::AdamW) or [`Sgd`](super::Sgd).
///
/// It is made for a model and keeps moments for the parameters that it steps: all trainable ones that are not frozen. Buffers are never
/// touched. Steps are spread over the caller's rayon pool and are the same, bit for bit, for any number of threads.
#[allow(private_bounds)] // the bound is the seal
pub trait Optimizer<A: Scalar>: Method<A> {
    /// Changes the parameters of `model` by one step against its `gradients`, at the learning rate `lr`.
    ///
    /// # Errors
    /// Returns an error, and changes nothing, if a gradient is not finite ([`Error::NonFiniteGradient`]), if the step would make a parameter or moment so
    /// ([`Error::NonFiniteStep`]), if the optimizer was made for another configuration, or if the rate, as `A`, is negative or not finite.
    fn step<M: Parameters<A>>(&mut self, model: &mut M, gradients: &M, lr: f64) -> Result<()> {
        if !(A::cast(lr).is_finite() && lr >= 0.0) {
            return Err(Error::argument(
                "Optimizer::step",
                format!("the learning rate is {lr}; it must be finite, as {} too, and not negative", A::NAME),
            ));
        }
        let state = self.state();
        let step = state.steps.saturating_add(1);
        let parameters = state.matched("Optimizer::step", "model", &*model)?;
        let gradients = state.matched("Optimizer::step", "gradients", gradients)?;
        let gradient = state.largest_finite(&gradients)?;
        let rule = self.rule(lr, step);
        let bounds = rule.bounds(&Magnitudes {
            gradient,
            moments: &state.bounds,
            parameters: &|| largest(&parameters),
        });
        let state = self.state_mut();
        let elements = gradients.iter().map(ArrayViewD::len).sum();
        let cost = parallel::cost(&[elements, ELEMENT]);
        let pieces = state.pieces(model, gradients);
        if bounds.is_none()
            && let Some(tensor) = leaves_range(&pieces, &rule, cost)
        {
            return Err(Error::NonFiniteStep { step, tensor });
        }
        parallel::for_each(pieces, cost, |piece| rule.apply(piece));
        match bounds {
            Some(bounds) => state.bounds = bounds,
            None => state.measure(),
        }
        state.steps = step;
        Ok(())
    }

    /// Scales `gradients` down so that their norm, taken over all parameters that are stepped, is at most about `max_norm`; gives the norm they
    /// had.
    ///
    /// As PyTorch's `clip_grad_norm_`: they are multiplied by `max_norm`/(norm + 1e-6) where that is less than 1. The norm is computed in `f64`.
    /// With `max_norm` = ∞ it is computed only.
    ///
    /// # Errors
    /// Returns an error, and changes nothing, as [`step`](Self::step) does, if `max_norm` is NaN or negative, or if the norm exceeds `f64::MAX`.
    fn clip_gradient_norm<M: Parameters<A>>(&self, gradients: &mut M, max_norm: f64) -> Result<f64> {
        if max_norm.is_nan() || max_norm < 0.0 {
            return Err(Error::argument(
                "Optimizer::clip_gradient_norm",
                format!("the largest norm is {max_norm}; it must be a number that is not negative"),
            ));
        }
        let state = self.state();
        let views = state.matched("Optimizer::clip_gradient_norm", "gradients", &*gradients)?;
        let norm = state.norm(&views)?;
        state.scale_down(gradients, norm, max_norm);
        Ok(norm)
    }

    /// The number of steps done.
    fn steps(&self) -> u64 {
        self.state().steps
    }
}

/// The part in which optimizers differ.
pub(crate) trait Method<A: Scalar>: Sized {
    /// The rule of one step, with its learning rate.
    type Rule: Rule<A>;

    fn state(&self) -> &State<A>;

    fn state_mut(&mut self) -> &mut State<A>;

    /// The rule of `step`, counted from 1.
    fn rule(&self, lr: f64, step: u64) -> Self::Rule;

    /// The name in a file.
    #[cfg(feature = "checkpoint")]
    const NAME: &'static str;

    /// The configuration as JSON.
    #[cfg(feature = "checkpoint")]
    fn config_json(&self) -> serde_json::Result<serde_json::Value>;

    /// An optimizer for `model` with a configuration from JSON.
    #[cfg(feature = "checkpoint")]
    fn from_json(model: &impl Parameters<A>, config: serde_json::Value) -> Result<Self>;
}

/// Updates a piece of one parameter, independently of the others.
pub(crate) trait Rule<A>: Send + Sync {
    fn apply(&self, piece: Piece<'_, A>);

    /// Bounds of the moments after the step; `None` where some number might leave the element type's range.
    fn bounds(&self, largest: &Magnitudes<'_>) -> Option<Vec<f64>>;
}

/// A part of a parameter with its gradient and moments, all of one shape.
pub(crate) struct Piece<'a, A> {
    pub(crate) name: &'a str,
    pub(crate) parameter: ArrayViewMutD<'a, A>,
    pub(crate) gradient: ArrayViewD<'a, A>,
    pub(crate) moments: Vec<ArrayViewMutD<'a, A>>,
    pub(crate) decays: bool,
}

/// The parameters that an optimizer steps.
#[derive(Clone, Debug)]
pub(crate) struct State<A> {
    /// In the order in which the model visits them.
    pub(crate) slots: Vec<Slot<A>>,
    frozen: Vec<String>,
    /// No number of the first moments, of the second, … is larger.
    bounds: Vec<f64>,
    /// Steps done.
    pub(crate) steps: u64,
}

/// One parameter that is stepped.
#[derive(Clone, Debug)]
pub(crate) struct Slot<A> {
    pub(crate) name: String,
    shape: Vec<usize>,
    decays: bool,
    /// First, second, …, of the parameter's shape.
    pub(crate) moments: Vec<ArrayD<A>>,
}

impl<A: Scalar> State<A> {
    /// The parameters of `model` that none of the `frozen` paths leads to, with this many moments each.
    pub(crate) fn new(model: &impl Parameters<A>, decay: WeightDecay, frozen: &[String], moments: usize) -> Result<Self> {
        let mut slots = Vec::new();
        let mut unused: Vec<&String> = frozen.iter().collect();
        model.visit("", &mut |name, role, tensor| {
            unused.retain(|prefix| !is_below(name, prefix));
            if is_stepped(name, role, frozen) {
                slots.push(Slot {
                    name: name.to_owned(),
                    shape: tensor.shape().to_vec(),
                    decays: decay.includes(name, tensor.ndim()),
                    moments: vec![ArrayD::zeros(tensor.raw_dim()); moments],
                });
            }
        });
        if let Some(prefix) = unused.first() {
            return Err(Error::config(
                "frozen",
                prefix,
                "no parameter of the model has this path; Parameters::named lists them",
            ));
        }
        Ok(Self {
            slots,
            frozen: frozen.to_vec(),
            bounds: vec![0.0; moments],
            steps: 0,
        })
    }

    /// Makes the bounds of the moments those of what they are now.
    pub(crate) fn measure(&mut self) {
        let of = |moment: usize| {
            let views: Vec<_> = self.slots.iter().map(|slot| slot.moments[moment].view()).collect();
            largest(&views)
        };
        self.bounds = (0..self.bounds.len()).map(of).collect();
    }

    /// The tensors of `values` that are stepped, one for each slot, or an error where they are not those of the slots.
    fn matched<'a>(
        &self,
        operation: &'static str,
        argument: &'static str,
        values: &'a impl Parameters<A>,
    ) -> Result<Vec<ArrayViewD<'a, A>>> {
        let mut slots = self.slots.iter();
        let mut views = Vec::with_capacity(self.slots.len());
        let mut problem = None;
        values.visit("", &mut |name, role, tensor| {
            if problem.is_some() || !is_stepped(name, role, &self.frozen) {
                return;
            }
            match slots.next() {
                Some(slot) if slot.name == name && slot.shape == tensor.shape() => views.push(tensor),
                Some(slot) => problem = Some(format!("`{}` {:?}, not `{name}` {:?}", slot.name, slot.shape, tensor.shape())),
                None => problem = Some(format!("no more, but there is `{name}`")),
            }
        });
        if let (None, Some(slot)) = (&problem, slots.next()) {
            problem = Some(format!("`{}`, which is missing", slot.name));
        }
        match problem {
            Some(problem) => Err(Error::argument(
                operation,
                format!("the optimizer was made for another model than `{argument}`: the next parameter should be {problem}"),
            )),
            None => Ok(views),
        }
    }

    /// Whether a parameter is stepped.
    pub(crate) fn is_stepped(&self, name: &str, role: Role) -> bool {
        is_stepped(name, role, &self.frozen)
    }

    /// Scales the gradients that are stepped, whose norm is `norm`, down to about `max_norm`.
    pub(crate) fn scale_down(&self, gradients: &mut impl Parameters<A>, norm: f64, max_norm: f64) {
        let factor = max_norm / (norm + 1e-6);
        if factor < 1.0 {
            let rounded = A::cast(factor);
            // Below the normal numbers the factor would lose digits, or be 0.
            let is_normal = rounded >= A::min_positive_value();
            let divided = |gradient: A| A::cast(gradient.widen() / (norm + 1e-6) * max_norm);
            gradients.visit_mut("", &mut |name, role, mut gradient| {
                if self.is_stepped(name, role) {
                    gradient.mapv_inplace(|gradient| if is_normal { gradient * rounded } else { divided(gradient) });
                }
            });
        }
    }

    fn check_finite(&self, gradients: &[ArrayViewD<'_, A>]) -> Result<()> {
        self.largest_finite(gradients).map(|_| ())
    }

    /// The largest magnitude of the gradients; an error where one is not finite.
    fn largest_finite(&self, gradients: &[ArrayViewD<'_, A>]) -> Result<f64> {
        let largest = largest(gradients);
        if largest.is_finite() {
            return Ok(largest);
        }
        let mut slots = self.slots.iter().zip(gradients);
        slots
            .find(|(_, gradient)| magnitude(gradient).is_infinite())
            .map_or(Ok(largest), |(slot, _)| {
                Err(Error::NonFiniteGradient {
                    step: self.steps.saturating_add(1),
                    parameter: slot.name.clone(),
                })
            })
    }

    /// The root of the sum of all squares, in an order that depends on shapes only.
    fn norm(&self, gradients: &[ArrayViewD<'_, A>]) -> Result<f64> {
        let squares = sum_of_squares(gradients, 1.0);
        // Smaller sums may lack squares that vanished.
        if squares.is_finite() && squares >= f64::MIN_POSITIVE / f64::EPSILON {
            return Ok(squares.sqrt());
        }
        self.check_finite(gradients)?;
        let largest = gradients
            .iter()
            .flatten()
            .fold(0.0, |largest: f64, gradient| largest.max(gradient.widen().abs()));
        let factor = inverse_power_of_two(largest);
        checked_norm("Optimizer::clip_gradient_norm", sum_of_squares(gradients, factor).sqrt() / factor)
    }

    /// Cuts every parameter that is stepped into pieces, with what belongs to them. `gradients` are those of the slots.
    fn pieces<'a>(&'a mut self, model: &'a mut impl Parameters<A>, gradients: Vec<ArrayViewD<'a, A>>) -> Vec<Piece<'a, A>> {
        let Self { slots, frozen, .. } = self;
        let mut rest = slots.iter_mut().zip(gradients);
        let mut pieces = Vec::new();
        model.visit_mut("", &mut |name, role, parameter| {
            if is_stepped(name, role, frozen)
                && let Some((slot, gradient)) = rest.next()
            {
                cut(slot, parameter, gradient, &mut pieces);
            }
        });
        pieces
    }
}

/// A norm of finite gradients, or an error where it is more than a number can be.
pub(crate) fn checked_norm(operation: &'static str, norm: f64) -> Result<f64> {
    if norm.is_finite() {
        return Ok(norm);
    }
    let reason = format!(
        "the norm of the gradients is more than {:e}, the largest number of F64, so that nothing can be scaled by it; divide the loss by a constant",
        f64::MAX
    );
    Err(Error::argument(operation, reason))
}

/// The axis that a tensor of `shape` is cut along, and the size of its parts there.
fn cuts(shape: &[usize]) -> (Axis, usize) {
    let axis = shape.iter().position(|&size| size > 1).unwrap_or(0);
    let size = shape.get(axis).copied().unwrap_or(1);
    let below: usize = shape.iter().skip(axis + 1).product();
    (Axis(axis), (PIECE / below.max(1)).clamp(1, size.max(1)))
}

fn cut<'a, A: Scalar>(slot: &'a mut Slot<A>, parameter: ArrayViewMutD<'a, A>, gradient: ArrayViewD<'a, A>, pieces: &mut Vec<Piece<'a, A>>) {
    let (name, decays) = (slot.name.as_str(), slot.decays);
    let moments = slot.moments.iter_mut().map(|moment| moment.view_mut());
    if parameter.len() <= PIECE {
        pieces.push(Piece {
            name,
            parameter,
            gradient,
            moments: moments.collect(),
            decays,
        });
        return;
    }
    let (axis, size) = cuts(parameter.shape());
    let (mut parameter, mut gradient, mut moments) = (parameter, gradient, moments.collect::<Vec<_>>());
    while parameter.len_of(axis) > 0 {
        let at = size.min(parameter.len_of(axis));
        let (own, rest) = parameter.split_at(axis, at);
        let (own_gradient, gradient_rest) = gradient.split_at(axis, at);
        let (own_moments, moments_rest) = moments.into_iter().map(|moment| moment.split_at(axis, at)).unzip();
        (parameter, gradient, moments) = (rest, gradient_rest, moments_rest);
        pieces.push(Piece {
            name,
            parameter: own,
            gradient: own_gradient,
            moments: own_moments,
            decays,
        });
    }
}

/// The largest magnitude of all of `tensors`, ∞ where a number is not finite.
fn largest<A: Scalar>(tensors: &[ArrayViewD<'_, A>]) -> f64 {
    over_parts(tensors, magnitude).into_iter().fold(0.0, f64::max)
}

/// Σ (factor·x)² over all of `tensors`, in `f64`.
fn sum_of_squares<A: Scalar>(tensors: &[ArrayViewD<'_, A>], factor: f64) -> f64 {
    over_parts(tensors, |part| sum_of_part(part, factor)).into_iter().sum()
}

/// Returns the results of `work` for the parts of `tensors`, in order.
fn over_parts<A: Scalar, R: Clone + Default + Send>(
    tensors: &[ArrayViewD<'_, A>],
    work: impl Fn(&ArrayViewD<'_, A>) -> R + Send + Sync,
) -> Vec<R> {
    let mut parts = Vec::new();
    for tensor in tensors.iter().filter(|tensor| !tensor.is_empty()) {
        let (axis, size) = cuts(tensor.shape());
        if tensor.ndim() == 0 {
            parts.push(tensor.view());
        } else {
            parts.extend(tensor.axis_chunks_iter(axis, size));
        }
    }
    let elements = tensors.iter().map(ArrayViewD::len).sum();
    let mut results = vec![R::default(); parts.len()];
    let tasks = results.iter_mut().zip(parts).collect();
    parallel::for_each(tasks, elements, |(result, part)| *result = work(&part));
    results
}

fn sum_of_part<A: Scalar>(part: &ArrayViewD<'_, A>, factor: f64) -> f64 {
    /// Independent sums hide the latency of an addition.
    const LANES: usize = 8;
    let square = |x: A| (factor * x.widen()).powi(2);
    let Some(values) = part.as_slice() else {
        return part.iter().map(|&x| square(x)).sum();
    };
    let (chunks, rest) = values.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for chunk in chunks {
        for (lane, &x) in lanes.iter_mut().zip(chunk) {
            *lane += square(x);
        }
    }
    lanes.iter().sum::<f64>() + rest.iter().map(|&x| square(x)).sum::<f64>()
}
