//! Classifiers.

use super::{EncoderConfig, HeadKind, LanguageModelConfig, PositionKind, at_least_one, check_position, setters};
use crate::error::{Error, Result, checked_len};
use crate::ops::Activation;

/// How a classifier makes one vector of a sequence. Padding takes no part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Pooling {
    /// The mean over the real positions; 0 where there is none. The default.
    #[default]
    Mean,
    /// The maximum over the real positions, feature by feature; 0 where there is none.
    Max,
    /// The first real position; 0 where there is none.
    First,
}

/// The input of a classifier.
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub enum ClassifierInput {
    /// Token ids; see [`LanguageModelConfig`] (its head must be [`HeadKind::None`]).
    Tokens(LanguageModelConfig),
    /// Vectors of numbers (points, detector hits, samples), led into the encoder by one product.
    Features {
        /// How many numbers a position has.
        features: usize,
        /// The blocks.
        encoder: EncoderConfig,
        /// The encoding of positions; [`PositionKind::None`] for sets, whose order means nothing.
        position: PositionKind,
    },
}

/// A sequence in, class scores out.
///
/// ```
/// use linformer::ndarray::Array3;
/// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LinformerConfig, Pooling};
///
/// // Series of up to 64 vectors of 3 numbers, in 4 classes.
/// let encoder = EncoderConfig::new(LinformerConfig::new(16, 2, 64, 8), 1);
/// let config = ClassifierConfig::features(3, encoder, 4).with_pooling(Pooling::Max).with_hidden_dim(8);
/// let model = Classifier::<f32>::new(&config, 0)?;
/// assert_eq!(model.forward(&Array3::ones((2, 50, 3)), None)?.dim(), (2, 4));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct ClassifierConfig {
    /// The input.
    pub input: ClassifierInput,
    /// The number of classes.
    pub classes: usize,
    /// How one vector is made of the sequence.
    pub pooling: Pooling,
    /// The width of a hidden layer before the scores, if there is one.
    pub hidden_dim: Option<usize>,
    /// Its non-linearity.
    pub activation: Activation,
}

impl ClassifierConfig {
    /// Creates a configuration with token input, mean pooling and no hidden layer.
    pub fn tokens(model: LanguageModelConfig, classes: usize) -> Self {
        Self::new(ClassifierInput::Tokens(model.with_head(HeadKind::None)), classes)
    }

    /// Creates a configuration with vectors of `features` numbers as input, sinusoidal positions, mean pooling and no hidden layer.
    ///
    /// The positions are there because most vectors come in an order, as those of a series do, and without positions attention and mean pooling hardly see
    /// it. Sinusoidal ones are of the size of the product with vectors of variance 1, need no training, and fit any length. The points of a set have
    /// no order: give [`with_position`](Self::with_position) [`PositionKind::None`] for these.
    pub fn features(features: usize, encoder: EncoderConfig, classes: usize) -> Self {
        let input = ClassifierInput::Features {
            features,
            encoder,
            position: PositionKind::sinusoidal(),
        };
        Self::new(input, classes)
    }

    /// Creates a configuration with mean pooling and no hidden layer.
    pub fn new(input: ClassifierInput, classes: usize) -> Self {
        Self {
            input,
            classes,
            pooling: Pooling::Mean,
            hidden_dim: None,
            activation: Activation::Gelu,
        }
    }

    setters! {
        /// Sets [`ClassifierConfig::pooling`].
        with_pooling => pooling: Pooling,
        /// Sets [`ClassifierConfig::hidden_dim`].
        with_hidden_dim => hidden_dim: Option<usize>,
        /// Sets [`ClassifierConfig::activation`].
        with_activation => activation: Activation,
    }

    /// Sets the positions of the input, tokens or features.
    #[must_use]
    pub fn with_position(mut self, value: PositionKind) -> Self {
        match &mut self.input {
            ClassifierInput::Tokens(model) => model.position = value,
            ClassifierInput::Features { position, .. } => *position = value,
        }
        self
    }

    /// Checks that this describes a model.
    ///
    /// # Errors
    /// Returns an error that names the first size that is 0, does not divide or overflows, or the first option without effect.
    pub fn check(&self) -> Result<()> {
        at_least_one("classes", self.classes)?;
        let width = match &self.input {
            ClassifierInput::Tokens(model) => {
                model.check()?;
                if model.head != HeadKind::None {
                    return Err(Error::config(
                        "head",
                        format!("{:?}", model.head),
                        "a classifier makes no token scores: use HeadKind::None",
                    ));
                }
                model.feature_dim()
            }
            ClassifierInput::Features {
                features,
                encoder,
                position,
            } => {
                at_least_one("features", *features)?;
                encoder.check()?;
                if position.learned().is_some_and(|learned| learned.padding_token.is_some()) {
                    let reason = "it counts token ids, and features have none";
                    return Err(Error::config("position", format!("{position:?}"), reason));
                }
                check_position(*position, encoder.dim(), 1)?;
                checked_len("ClassifierConfig", &[*features, encoder.dim()], 8)?;
                encoder.dim()
            }
        };
        if let Some(hidden_dim) = self.hidden_dim {
            at_least_one("hidden_dim", hidden_dim)?;
        } else if self.activation != Activation::Gelu {
            return Err(Error::config(
                "activation",
                format!("{:?}", self.activation),
                "it has no effect without hidden_dim",
            ));
        }
        let widest = width.max(self.hidden_dim.unwrap_or(0));
        checked_len("ClassifierConfig", &[widest, self.classes.max(self.hidden_dim.unwrap_or(0))], 8).map(|_| ())
    }
}
