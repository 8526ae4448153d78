//! A sequence in, class scores out.

mod pooling;
mod sequences;
mod training;

use ndarray::{Array2, Array3, Axis};

use super::backbone::Backbone;
use super::head::highest;
use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::config::{ClassifierConfig, ClassifierInput, EncoderConfig, HasNorms, LocalGlobalConfig, ProjectionConfig};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::{Linear, Padding, Position, Start, check_width};
use crate::ops::Activation;
use crate::parameters::{Parameters, Visitor, VisitorMut, join, parameters};
use crate::scalar::Scalar;

pub(crate) use pooling::{pool, pool_backward, pool_shard};
pub use sequences::Sequences;
pub use training::ClassifierCache;

/// A sequence of tokens or vectors in, class scores out.
///
/// ```
/// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LinformerConfig, PositionKind};
/// use linformer::ndarray::Array3;
///
/// // 64 particles of 3 numbers each, a set without an order; 5 classes.
/// let encoder = EncoderConfig::new(LinformerConfig::new(16, 4, 64, 4), 1);
/// let config = ClassifierConfig::features(3, encoder, 5).with_position(PositionKind::None);
/// let model = Classifier::<f32>::new(&config, 0)?;
/// assert_eq!(model.forward(&Array3::ones((2, 64, 3)), None)?.dim(), (2, 5));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Classifier<A = f32> {
    config: ClassifierConfig,
    input: Input<A>,
    hidden: Option<Linear<A>>,
    output: Linear<A>,
}

parameters!(Classifier { hidden, output } flat { input });

#[derive(Clone, Debug)]
#[allow(clippy::large_enum_variant)] // one a model
pub(crate) enum Input<A> {
    Tokens(Backbone<A>),
    Features {
        input: Linear<A>,
        position: Position<A>,
        encoder: Encoder<A>,
    },
}

impl<A> Input<A> {
    /// The error where the other kind of sequences came.
    pub(crate) fn mistaken(&self, operation: &'static str) -> Error {
        let reason = match self {
            Self::Tokens(_) => "the model reads (batch, n) token ids, not vectors",
            Self::Features { .. } => "the model reads (batch, n, features) vectors, not token ids",
        };
        Error::argument(operation, reason)
    }
}

impl<A: Scalar> Parameters<A> for Input<A> {
    fn visit<'a>(&'a self, path: &str, visitor: &mut Visitor<'_, 'a, A>) {
        match self {
            Self::Tokens(backbone) => backbone.visit(path, visitor),
            Self::Features { input, position, encoder } => {
                input.visit(&join(path, "input"), visitor);
                position.visit(&join(path, "position"), visitor);
                encoder.visit(&join(path, "encoder"), visitor);
            }
        }
    }

    fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut VisitorMut<'_, 'a, A>) {
        match self {
            Self::Tokens(backbone) => backbone.visit_mut(path, visitor),
            Self::Features { input, position, encoder } => {
                input.visit_mut(&join(path, "input"), visitor);
                position.visit_mut(&join(path, "position"), visitor);
                encoder.visit_mut(&join(path, "encoder"), visitor);
            }
        }
    }
}

impl<A: Scalar> Classifier<A> {
    /// Creates a model with random weights.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no model.
    pub fn new(config: &ClassifierConfig, seed: u64) -> Result<Self> {
        config.check_for::<A>()?;
        Streams::drawn(seed, |streams| Self::init(config, streams))
    }

    /// Creates a model with the weights of one whose encoder has exact attention, and with new projections; see [`Encoder::from_exact`]. Positions
    /// stay as they are.
    ///
    /// # Errors
    /// Returns an error as [`Encoder::from_exact`] does.
    pub fn from_exact(model: &Self, seq_len: usize, k: usize, projection: ProjectionConfig, seed: u64) -> Result<Self> {
        let mut config = model.config.clone();
        let encoder = encoder_config(&mut config);
        *encoder = encoder.compressing(seq_len, k, projection)?;
        let mut own = Self::new(&config, seed)?;
        own.copy_matching(model);
        Ok(own)
    }

    /// Returns the model with its exact attention in local-global form, given sequences to measure it on: arrays of (batch, n) token ids or of
    /// (batch, n, features) vectors, whichever the model reads. See [`Encoder::to_local_global`].
    ///
    /// # Errors
    /// Returns an error as [`Encoder::to_local_global`] and [`encoder_input`](Self::encoder_input) do.
    pub fn to_local_global<S>(&self, form: &LocalGlobalConfig, calibration: &[(S, Option<PaddingMask>)]) -> Result<Self>
    where
        for<'s> &'s S: Into<Sequences<'s, A>>,
    {
        let inputs = calibration
            .iter()
            .map(|(sequences, mask)| Ok((self.encoder_input(sequences, mask.as_ref())?, mask.as_ref())));
        let converted = self.encoder().calibrated(form, inputs)?;
        let mut own = self.clone();
        *encoder_config(&mut own.config) = converted.config().clone();
        match &mut own.input {
            Input::Tokens(backbone) => backbone.encoder = converted,
            Input::Features { encoder, .. } => *encoder = converted,
        }
        Ok(own)
    }

    /// Returns the model with learned positions that begin anew behind the last, so that it reads sequences of any length; see
    /// [`LanguageModel::with_repeating_positions`](crate::LanguageModel::with_repeating_positions).
    ///
    /// # Errors
    /// Returns an error if the model's positions are not learned: those read any length already.
    pub fn with_repeating_positions(mut self) -> Result<Self> {
        let own = match &mut self.input {
            Input::Tokens(backbone) => &mut backbone.embeddings.position,
            Input::Features { position, .. } => position,
        };
        own.repeat()?;
        let position = match &mut self.config.input {
            ClassifierInput::Tokens(model) => &mut model.position,
            ClassifierInput::Features { position, .. } => position,
        };
        *position = position.repeating()?;
        Ok(self)
    }

    pub(crate) fn init(config: &ClassifierConfig, streams: &mut Streams) -> Self {
        let (input, width) = match &config.input {
            ClassifierInput::Tokens(model) => (Input::Tokens(Backbone::init(model, streams)), model.feature_dim()),
            ClassifierInput::Features {
                features,
                encoder,
                position,
            } => {
                let dim = encoder.dim();
                let input = Input::Features {
                    input: Linear::init(*features, dim, true, streams),
                    position: Position::init(*position, dim, streams),
                    encoder: Encoder::init(encoder, streams),
                };
                (input, dim)
            }
        };
        Self {
            config: config.clone(),
            input,
            hidden: config.hidden_dim.map(|hidden| Linear::init(width, hidden, true, streams)),
            output: Linear::init(config.hidden_dim.unwrap_or(width), config.classes, true, streams),
        }
    }

    /// Returns the configuration.
    pub fn config(&self) -> &ClassifierConfig {
        &self.config
    }

    /// Returns the blocks.
    pub fn encoder(&self) -> &Encoder<A> {
        match &self.input {
            Input::Tokens(backbone) => &backbone.encoder,
            Input::Features { encoder, .. } => encoder,
        }
    }

    pub(crate) fn input(&self) -> &Input<A> {
        &self.input
    }

    pub(super) fn hidden(&self) -> Option<&Linear<A>> {
        self.hidden.as_ref()
    }

    pub(super) fn output(&self) -> &Linear<A> {
        &self.output
    }

    pub(super) fn parts_mut(&mut self) -> (&mut Input<A>, Option<&mut Linear<A>>, &mut Linear<A>) {
        (&mut self.input, self.hidden.as_mut(), &mut self.output)
    }

    /// Returns the (batch, classes) scores of sequences: of (batch, n) token ids or of (batch, n, features) vectors, whichever the model reads.
    ///
    /// # Errors
    /// Returns an error if the model reads the other kind of sequences, if a token is outside the vocabulary or vectors have another number of
    /// features, if the mask has another shape, or if the sequences are longer than the positions or projections allow.
    pub fn forward<'s>(&self, sequences: impl Into<Sequences<'s, A>>, mask: Option<&PaddingMask>) -> Result<Array2<A>>
    where
        A: 's,
    {
        let x = self.input_of("Classifier::forward", sequences.into(), mask)?;
        let features = match &self.input {
            Input::Tokens(backbone) => backbone.encode(x, mask)?,
            Input::Features { encoder, .. } => encoder.forward_owned(x, mask)?,
        };
        self.scores(&features, mask)
    }

    /// Returns what the encoder reads, (batch, n, dim), of (batch, n) token ids or of (batch, n, features) vectors, whichever the model reads.
    ///
    /// # Errors
    /// Returns an error if the model reads the other kind of sequences, if a token is outside the vocabulary or vectors have another number of
    /// features, if the mask has another shape, or if the sequences are longer than the positions allow.
    pub fn encoder_input<'s>(&self, sequences: impl Into<Sequences<'s, A>>, mask: Option<&PaddingMask>) -> Result<Array3<A>>
    where
        A: 's,
    {
        self.input_of("Classifier::encoder_input", sequences.into(), mask)
    }

    fn input_of(&self, operation: &'static str, sequences: Sequences<'_, A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
        match (&self.input, sequences.tokens(), sequences.vectors()) {
            (Input::Tokens(backbone), Some(tokens), _) => backbone.embed(tokens, mask, None),
            (Input::Features { input, position, .. }, _, Some(x)) => {
                check_width(operation, "x", x, input.in_dim())?;
                PaddingMask::check(mask, operation, x.dim().0, x.dim().1)?;
                let mut x = input.forward(x)?;
                position.add_from(Start::default(), &mut x.view_mut(), Padding::None)?;
                Ok(x)
            }
            (input, ..) => Err(input.mistaken(operation)),
        }
    }

    /// Returns the class with the highest score of each sequence, the first of equal ones.
    ///
    /// ```
    /// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LinformerConfig};
    /// use linformer::ndarray::Array3;
    ///
    /// let encoder = EncoderConfig::new(LinformerConfig::new(16, 4, 64, 4), 1);
    /// let model = Classifier::<f32>::new(&ClassifierConfig::features(3, encoder, 5), 0)?;
    /// let classes = model.predict(&Array3::ones((2, 64, 3)), None)?;
    /// assert_eq!(classes.len(), 2);
    /// assert!(classes[0] < 5);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error as [`forward`](Self::forward) does, or if a score is NaN.
    pub fn predict<'s>(&self, sequences: impl Into<Sequences<'s, A>>, mask: Option<&PaddingMask>) -> Result<Vec<usize>>
    where
        A: 's,
    {
        highest("Classifier::predict", &self.forward(sequences, mask)?)
    }

    fn scores(&self, features: &Array3<A>, mask: Option<&PaddingMask>) -> Result<Array2<A>> {
        self.scores_of(pool(features, self.config.pooling, mask))
    }

    /// The scores of pooled features (batch, width).
    pub(crate) fn scores_of(&self, pooled: Array2<A>) -> Result<Array2<A>> {
        let mut pooled = pooled.insert_axis(Axis(1));
        if let Some(hidden) = &self.hidden {
            pooled = hidden.forward(&pooled)?;
            if let Some(values) = pooled.as_slice_mut() {
                Activation::apply(self.config.activation, values);
            }
        }
        Ok(self.output.forward(&pooled)?.index_axis_move(Axis(1), 0))
    }
}

/// The configuration of a classifier's blocks.
fn encoder_config(config: &mut ClassifierConfig) -> &mut EncoderConfig {
    match &mut config.input {
        ClassifierInput::Tokens(model) => &mut model.encoder,
        ClassifierInput::Features { encoder, .. } => encoder,
    }
}
