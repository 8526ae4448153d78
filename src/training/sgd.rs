//! Stochastic gradient descent.

use ndarray::Zip;

use super::optimizer::{Method, Optimizer, Piece, Rule, State};
use super::range::{Magnitudes, Range};
use super::rules::WeightDecay;
use crate::config::setters;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// The options of [`Sgd`], except the learning rate.
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct SgdConfig {
    /// How much of the velocity is kept in a step: at least 0 and less than 1. With 0 there is no velocity, and no memory for it.
    pub momentum: f64,
    /// Whether the step looks ahead along the new velocity.
    pub nesterov: bool,
    /// How much of the parameters is added to their gradients.
    pub weight_decay: f64,
    /// The parameters that decay.
    pub decay: WeightDecay,
    /// Paths of parameters that stay as they are: `embedding`, say, or `blocks.0`, with all that is below.
    pub frozen: Vec<String>,
}

impl SgdConfig {
    /// Creates options without momentum, decay or frozen parameters.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// Sets [`SgdConfig::momentum`].
        with_momentum => momentum: f64,
        /// Sets [`SgdConfig::nesterov`].
        with_nesterov => nesterov: bool,
        /// Sets [`SgdConfig::weight_decay`].
        with_weight_decay => weight_decay: f64,
        /// Sets [`SgdConfig::decay`].
        with_decay => decay: WeightDecay,
        /// Sets [`SgdConfig::frozen`].
        with_frozen => frozen: Vec<String>,
    }

    fn check<A: Scalar>(&self) -> Result<()> {
        if !(0.0..1.0).contains(&self.momentum) {
            return Err(Error::config("momentum", self.momentum, "it must be at least 0 and less than 1"));
        }
        if self.nesterov && self.momentum == 0.0 {
            return Err(Error::config("nesterov", true, "there is no momentum to look ahead along"));
        }
        check_decay::<A>(self.weight_decay)
    }
}

pub(super) fn check_decay<A: Scalar>(weight_decay: f64) -> Result<()> {
    if A::cast(weight_decay).is_finite() && weight_decay >= 0.0 {
        return Ok(());
    }
    let reason = format!("it must be finite, as {} too, and not negative", A::NAME);
    Err(Error::config("weight_decay", weight_decay, reason))
}

/// Stochastic gradient descent with momentum (Polyak 1964; Sutskever et al. 2013), as PyTorch's `torch.optim.SGD` computes it without dampening.
///
/// With the gradient g, the velocity u and the parameter p become
///
/// ```text
/// g ← g + weight_decay·p
/// u ← momentum·u + g
/// p ← p − lr·u                     (nesterov: p − lr·(g + momentum·u))
/// ```
///
/// See [`Optimizer`] for `step` and `clip_gradient_norm`.
///
/// ```
/// use linformer::Linear;
/// use linformer::ndarray::array;
/// use linformer::training::{Optimizer, Sgd, SgdConfig};
///
/// let mut model = Linear::<f64>::from_parts(array![[1.0]], None)?;
/// let gradients = Linear::from_parts(array![[2.0]], None)?;
/// let mut optimizer = Sgd::new(&model, SgdConfig::new().with_momentum(0.9))?;
/// optimizer.step(&mut model, &gradients, 0.1)?; // u = 2
/// assert!((model.weight()[[0, 0]] - 0.8).abs() < 1e-12);
/// optimizer.step(&mut model, &gradients, 0.1)?; // u = 0.9·2 + 2
/// assert!((model.weight()[[0, 0]] - 0.42).abs() < 1e-12);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sgd<A = f32> {
    config: SgdConfig,
    state: State<A>,
}

impl<A: Scalar> Sgd<A> {
    /// Creates an optimizer for `model`, with velocities of 0.
    ///
    /// # Errors
    /// Returns an error if the momentum is outside [0, 1), if `nesterov` is set without momentum, if the decay, rounded to the element type, is
    /// negative or not finite, or if the model does not have a frozen path.
    pub fn new(model: &impl Parameters<A>, config: SgdConfig) -> Result<Self> {
        config.check::<A>()?;
        let moments = usize::from(config.momentum > 0.0);
        let state = State::new(model, config.decay, &config.frozen, moments)?;
        Ok(Self { config, state })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &SgdConfig {
        &self.config
    }
}

impl<A: Scalar> Optimizer<A> for Sgd<A> {}

impl<A: Scalar> Method<A> for Sgd<A> {
    type Rule = SgdRule<A>;

    fn state(&self) -> &State<A> {
        &self.state
    }

    fn state_mut(&mut self) -> &mut State<A> {
        &mut self.state
    }

    fn rule(&self, lr: f64, _step: u64) -> SgdRule<A> {
        SgdRule {
            lr: A::cast(lr),
            momentum: A::cast(self.config.momentum),
            nesterov: self.config.nesterov,
            weight_decay: A::cast(self.config.weight_decay),
        }
    }

    #[cfg(feature = "checkpoint")]
    const NAME: &'static str = "Sgd";

    #[cfg(feature = "checkpoint")]
    fn config_json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(&self.config)
    }

    #[cfg(feature = "checkpoint")]
    fn from_json(model: &impl Parameters<A>, config: serde_json::Value) -> Result<Self> {
        Self::new(model, super::state::parsed(config)?)
    }
}

/// The factors of one step.
#[derive(Debug)]
pub(crate) struct SgdRule<A> {
    lr: A,
    momentum: A,
    nesterov: bool,
    weight_decay: A,
}

impl<A: Scalar> Rule<A> for SgdRule<A> {
    fn apply(&self, piece: Piece<'_, A>) {
        let decay = if piece.decays { self.weight_decay } else { A::zero() };
        let both = Zip::from(piece.parameter).and(piece.gradient);
        let Some(velocity) = piece.moments.into_iter().next() else {
            both.for_each(|parameter, &gradient| *parameter -= self.lr * (gradient + decay * *parameter));
            return;
        };
        both.and(velocity).for_each(|parameter, &gradient, velocity| {
            let gradient = gradient + decay * *parameter;
            *velocity = *velocity * self.momentum + gradient;
            let direction = if self.nesterov {
                gradient + self.momentum * *velocity
            } else {
                *velocity
            };
            *parameter -= self.lr * direction;
        });
    }

    fn bounds(&self, largest: &Magnitudes<'_>) -> Option<Vec<f64>> {
        let range = Range::of::<A>();
        match *largest.moments {
            [] => self.stays_without_velocity(largest.gradient, range).then(Vec::new),
            [velocity] => self.velocity_bound(velocity, largest, range).map(|bound| vec![bound]),
            _ => None,
        }
    }
}

impl<A: Scalar> SgdRule<A> {
    /// Whether parameters of any size stay finite.
    fn stays_without_velocity(&self, gradient: f64, range: Range) -> bool {
        let (lr, decay) = (self.lr.widen(), self.weight_decay.widen());
        // The decay's part takes away from a parameter no more than it has.
        let shrinks = decay <= 0.5 && lr * decay <= 0.5;
        shrinks && gradient < range.safe && 2.0 * lr * gradient < range.negligible
    }

    /// A bound of the velocities after a step; `None` where a number might leave the range.
    fn velocity_bound(&self, velocity: f64, largest: &Magnitudes<'_>, range: Range) -> Option<f64> {
        let Range {
            safe,
            negligible,
            rounding,
        } = range;
        let (lr, momentum, decay) = (self.lr.widen(), self.momentum.widen(), self.weight_decay.widen());
        let parameters = if decay > 0.0 { (largest.parameters)() } else { 0.0 };
        let pull = (largest.gradient + decay * parameters) * rounding;
        let velocity = (momentum * velocity + pull) * rounding;
        let direction = if self.nesterov {
            (pull + momentum * velocity) * rounding
        } else {
            velocity
        };
        let update = lr * direction * rounding;
        let is_safe = [pull, velocity].iter().all(|&number| number < safe);
        let stays = if decay > 0.0 {
            parameters + update < safe
        } else {
            update < negligible
        };
        (is_safe && stays).then_some(velocity)
    }
}
