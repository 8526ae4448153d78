//! AdamW.

use ndarray::Zip;

use super::optimizer::{Method, Optimizer, Piece, Rule, State};
use super::range::{Magnitudes, Range};
use super::rules::WeightDecay;
use super::sgd::check_decay;
use crate::config::setters;
use crate::error::{Error, Result};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// The options of [`AdamW`], except the learning rate.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct AdamWConfig {
    /// β₁ and β₂: how much of the two moments is kept in a step. Each at least 0 and less than 1.
    pub betas: (f64, f64),
    /// The number added to the root of the second moment; at least the smallest normal number of the model's type.
    pub eps: f64,
    /// How strongly parameters are pulled towards 0: by this times the learning rate in a step.
    pub weight_decay: f64,
    /// The parameters that decay.
    pub decay: WeightDecay,
    /// Paths of parameters that stay as they are: `embedding`, say, or `blocks.0`, with all that is below.
    pub frozen: Vec<String>,
}

impl Default for AdamWConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl AdamWConfig {
    /// Creates options with PyTorch's defaults: β = (0.9, 0.999), eps = 1e-8, a decay of 0.01 of all parameters, none frozen.
    pub fn new() -> Self {
        Self {
            betas: (0.9, 0.999),
            eps: 1e-8,
            weight_decay: 0.01,
            decay: WeightDecay::All,
            frozen: Vec::new(),
        }
    }

    setters! {
        /// Sets [`AdamWConfig::betas`].
        with_betas => betas: (f64, f64),
        /// Sets [`AdamWConfig::eps`].
        with_eps => eps: f64,
        /// Sets [`AdamWConfig::weight_decay`].
        with_weight_decay => weight_decay: f64,
        /// Sets [`AdamWConfig::decay`].
        with_decay => decay: WeightDecay,
        /// Sets [`AdamWConfig::frozen`].
        with_frozen => frozen: Vec<String>,
    }

    fn check<A: Scalar>(&self) -> Result<()> {
        for beta in [self.betas.0, self.betas.1] {
            if !(0.0..1.0).contains(&beta) {
                return Err(Error::config("betas", beta, "each must be at least 0 and less than 1"));
            }
        }
        // A parameter that never had a gradient would become 0/0.
        let least = A::min_positive_value();
        let eps = A::cast(self.eps);
        if !(eps.is_finite() && eps >= least) {
            let reason = format!(
                "it must be finite and at least {least:e}, the smallest normal number of {}",
                A::NAME
            );
            return Err(Error::config("eps", self.eps, reason));
        }
        check_decay::<A>(self.weight_decay)
    }
}

/// Adam with decoupled weight decay (Loshchilov and Hutter 2019, arXiv 1711.05101), step for step as PyTorch's `torch.optim.AdamW` computes it.
///
/// With the gradient g in step t, the moments m and v and the parameter p become
///
/// ```text
/// p ← p·(1 − lr·weight_decay)
/// m ← m + (1 − β₁)·(g − m)
/// v ← β₂·v + (1 − β₂)·g²
/// p ← p − lr/(1 − β₁ᵗ) · m / (√v/√(1 − β₂ᵗ) + eps)
/// ```
///
/// See [`Optimizer`] for `step` and `clip_gradient_norm`.
///
/// ```
/// use linformer::{Linear, Parameters};
/// use linformer::training::{AdamW, AdamWConfig, Optimizer, WeightDecay};
///
/// let mut model = Linear::<f32>::new(3, 2, true, 0)?;
/// let config = AdamWConfig::new().with_betas((0.9, 0.98)).with_decay(WeightDecay::OnlyMatrices);
/// let mut optimizer = AdamW::new(&model, config)?;
/// let gradients = model.zeros_like(); // a backward pass adds to them
/// optimizer.step(&mut model, &gradients, 1e-3)?;
/// assert_eq!(optimizer.steps(), 1);
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct AdamW<A = f32> {
    config: AdamWConfig,
    state: State<A>,
}

impl<A: Scalar> AdamW<A> {
    /// Creates an optimizer for `model`, with moments of 0.
    ///
    /// # Errors
    /// Returns an error if a β is outside [0, 1), if eps is below the smallest normal number of `A`, if the decay, rounded to the element type, is
    /// negative or not finite, or if the model does not have a frozen path.
    pub fn new(model: &impl Parameters<A>, config: AdamWConfig) -> Result<Self> {
        config.check::<A>()?;
        let state = State::new(model, config.decay, &config.frozen, 2)?;
        Ok(Self { config, state })
    }

    /// Returns the configuration.
    pub fn config(&self) -> &AdamWConfig {
        &self.config
    }
}

impl<A: Scalar> Optimizer<A> for AdamW<A> {}

impl<A: Scalar> Method<A> for AdamW<A> {
    type Rule = AdamWRule<A>;

    fn state(&self) -> &State<A> {
        &self.state
    }

    fn state_mut(&mut self) -> &mut State<A> {
        &mut self.state
    }

    fn rule(&self, lr: f64, step: u64) -> AdamWRule<A> {
        let (beta1, beta2) = self.config.betas;
        let correction = |beta: f64| 1.0 - libm::pow(beta, step as f64);
        AdamWRule {
            shrink: A::cast(1.0 - lr * self.config.weight_decay),
            towards: A::cast(1.0 - beta1),
            beta1: A::cast(beta1),
            beta2: A::cast(beta2),
            new_square: A::cast(1.0 - beta2),
            size: A::cast(lr / correction(beta1)),
            root: A::cast(correction(beta2).sqrt()),
            eps: A::cast(self.config.eps),
        }
    }

    #[cfg(feature = "checkpoint")]
    const NAME: &'static str = "AdamW";

    #[cfg(feature = "checkpoint")]
    fn config_json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(&self.config)
    }

    #[cfg(feature = "checkpoint")]
    fn from_json(model: &impl Parameters<A>, config: serde_json::Value) -> Result<Self> {
        Self::new(model, super::state::parsed(config)?)
    }
}

/// The factors of one step, each rounded once.
#[derive(Debug)]
pub(crate) struct AdamWRule<A> {
    shrink: A,
    towards: A,
    beta1: A,
    beta2: A,
    new_square: A,
    size: A,
    root: A,
    eps: A,
}

impl<A: Scalar> AdamWRule<A> {
    /// PyTorch's `lerp`, which takes the nearer end as its origin.
    fn first(&self, moment: A, gradient: A) -> A {
        if self.towards < self.beta1 {
            moment + self.towards * (gradient - moment)
        } else {
            gradient - (gradient - moment) * self.beta1
        }
    }
}

impl<A: Scalar> Rule<A> for AdamWRule<A> {
    fn apply(&self, piece: Piece<'_, A>) {
        let [first, second] = <[_; 2]>::try_from(piece.moments).expect("AdamW has two moments");
        let shrink = if piece.decays { self.shrink } else { A::one() };
        Zip::from(piece.parameter)
            .and(piece.gradient)
            .and(first)
            .and(second)
            .for_each(|parameter, &gradient, first, second| {
                *first = self.first(*first, gradient);
                *second = *second * self.beta2 + self.new_square * gradient * gradient;
                let denominator = second.sqrt() / self.root + self.eps;
                *parameter = *parameter * shrink - self.size * *first / denominator;
            });
    }

    fn bounds(&self, largest: &Magnitudes<'_>) -> Option<Vec<f64>> {
        let Range {
            safe,
            negligible,
            rounding,
        } = Range::of::<A>();
        let &[first, second] = largest.moments else { return None };
        let gradient = largest.gradient;
        // By rounding, the difference of two numbers can be off by a share of the larger.
        let off = (rounding - 1.0) * (first + gradient);
        let first = self.beta1.widen() * first + self.towards.widen() * gradient + off;
        let second = (self.beta2.widen() * second + self.new_square.widen() * gradient * gradient) * rounding;
        let size = self.size.widen() * first;
        let update = size / self.eps.widen() * rounding;
        let root = second.sqrt() / self.root.widen();
        let is_safe = [gradient + first, second, size, root].iter().all(|&number| number < safe);
        // A parameter of any size stays finite.
        let stays = self.shrink.abs() <= A::one() && update < negligible;
        (is_safe && stays).then(|| vec![first, second])
    }
}
