//! The feed-forward's non-linearities.

use crate::scalar::Scalar;

/// A pointwise non-linearity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "checkpoint", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Activation {
    /// x·Φ(x) with the exact normal distribution function (Hendrycks and Gimpel, arXiv 1606.08415).
    #[default]
    Gelu,
    /// The tanh approximation of [`Activation::Gelu`]; it differs by up to 4.7e-4.
    GeluTanh,
    /// max(x, 0).
    Relu,
    /// x·σ(x), also called swish.
    Silu,
    /// tanh(x).
    Tanh,
    /// x itself.
    Identity,
}

/// The activations of one element type.
pub(crate) trait ActivationKernels: Sized {
    /// Applies `activation` to every element of `x`.
    fn activate(activation: Activation, x: &mut [Self]);
}

macro_rules! reference {
    ($t:ty, $erf:path) => {
        impl ActivationKernels for $t {
            fn activate(activation: Activation, x: &mut [Self]) {
                for x in x {
                    *x = match activation {
                        Activation::Gelu => 0.5 * *x * (1.0 + $erf(*x * std::f64::consts::FRAC_1_SQRT_2 as $t)),
                        Activation::GeluTanh => 0.5 * *x * (1.0 + (0.797_884_560_802_865_4 as $t * (*x + 0.044715 * *x * *x * *x)).tanh()),
                        Activation::Relu => {
                            if *x < 0.0 {
                                0.0
                            } else {
                                *x
                            }
                        }
                        Activation::Silu => *x / (1.0 + (-*x).exp()),
                        Activation::Tanh => x.tanh(),
                        Activation::Identity => *x,
                    };
                }
            }
        }
    };
}
reference!(f32, libm::erff);
reference!(f64, libm::erf);

impl Activation {
    /// Applies this activation to every element.
    pub(crate) fn apply<A: Scalar>(self, x: &mut [A]) {
        A::activate(self, x);
    }
}
