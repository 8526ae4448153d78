//! Models whose sequences are spread over ranks.

use std::fmt::Debug;

use super::communicator::Communicator;
use super::shards::Shards;
use super::team::{Header, Team, digest, tell, together};
use crate::attention::PaddingMask;
use crate::blocks::Encoder;
use crate::config::{AttentionKind, ClassifierConfig, ClassifierInput, EncoderConfig, HasNorms, LanguageModelConfig, TrainingPass};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::models::{Classifier, LanguageModel};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// A model, [`Encoder`], [`LanguageModel`] or [`Classifier`], for sequences that are spread over the ranks of a group.
///
/// A rank has the positions of its range of [`Shards`] and the columns of E and F at these positions; all other parameters are on every
/// rank. K̄ = Σ Eₛ·Xₛ over the ranks s: for each layer they add up the compressed keys and values, 2·k·d numbers a batch item whatever n is, and
/// in training their gradients. Everything else is computed row by row, on the rank that has the row. So every kind of projection gives the results of a single
/// process, up to rounding (1e-12 in `f64`): windows of pooling and convolutions may lie across ranks, and padding may be anywhere. So does local-global
/// attention, which has no E and F: [the module](crate::distributed) says what it exchanges.
///
/// All ranks call the same methods in the same order, with batches of the same number of items, and all with a mask or all without. Each call
/// compares the values that must agree before it does anything, and ends on all ranks or on none: a rank that fails returns its error, and all others
/// [`Error::Rank`], which names it. NaN or infinities in a rank's sums, or in its output at real positions, are such a failure.
///
/// ```
/// use linformer::distributed::{Communicator, Shards, Sharded, ThreadGroup};
/// use linformer::ndarray::{Array3, s};
/// use linformer::{Encoder, EncoderConfig, LinformerConfig};
///
/// let config = EncoderConfig::new(LinformerConfig::new(8, 2, 100, 4), 2);
/// let x = Array3::from_shape_fn((1, 100, 8), |(_, t, i)| ((t * 8 + i) as f64).sin());
/// let whole = Encoder::<f64>::new(&config, 0)?.forward(&x, None)?;
/// let parts = ThreadGroup::run(3, |rank| {
///     let encoder = Sharded::<Encoder<f64>>::new(&config, 0, Shards::even(100, rank.size())?, rank)?;
///     let own = encoder.range();
///     let y = encoder.forward(&x.slice(s![.., own.clone(), ..]), None)?;
///     Ok((own, y))
/// });
/// for part in parts {
///     let (own, y) = part?;
///     let difference = &y - &whole.slice(s![.., own, ..]);
///     assert!(difference.iter().all(|difference| difference.abs() < 1e-12));
/// }
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Sharded<'c, M> {
    model: M,
    shards: Shards,
    communicator: &'c dyn Communicator,
    /// The ranks with the same positions of other sequences.
    replicas: Option<&'c dyn Communicator>,
    /// A digest of the configuration and the shards.
    digest: u64,
}

/// The work of replicas.
pub(super) const OVER_REPLICAS: &str = "Sharded over replicas";

/// A model whose sequences can be spread over ranks: [`Encoder`], [`LanguageModel`] and [`Classifier`].
#[allow(private_bounds)] // the bound is the seal
pub trait Shardable<A: Scalar>: Parameters<A> + Clone + Build<Configuration = Self::Config> {
    /// Its configuration.
    type Config: Debug + Clone;
}

/// How a model is made.
pub(crate) trait Build: Sized {
    type Configuration;

    fn configuration(&self) -> &Self::Configuration;

    fn check(config: &Self::Configuration) -> Result<()>;

    fn encoder_config(config: &Self::Configuration) -> &EncoderConfig;

    fn build(config: &Self::Configuration, streams: &mut Streams) -> Self;
}

macro_rules! shardable {
    ($($model:ident: $config:ty, $encoder:expr;)*) => {
        $(
            impl<A: Scalar> Build for $model<A> {
                type Configuration = $config;

                fn configuration(&self) -> &$config {
                    self.config()
                }

                fn check(config: &$config) -> Result<()> {
                    config.check_for::<A>()
                }

                fn encoder_config(config: &$config) -> &EncoderConfig {
                    let encoder: fn(&$config) -> &EncoderConfig = $encoder;
                    encoder(config)
                }

                fn build(config: &$config, streams: &mut Streams) -> Self {
                    Self::init(config, streams)
                }
            }

            impl<A: Scalar> Shardable<A> for $model<A> {
                type Config = $config;
            }
        )*
    };
}

shardable! {
    Encoder: EncoderConfig, |config| config;
    LanguageModel: LanguageModelConfig, |config| &config.encoder;
    Classifier: ClassifierConfig, |config| match &config.input {
        ClassifierInput::Tokens(model) => &model.encoder,
        ClassifierInput::Features { encoder, .. } => encoder,
    };
}

/// Whether a parameter of this name is a matrix E or F, where the projection has one.
pub(super) fn is_matrix(name: &str) -> bool {
    ["key", "value"].iter().any(|side| {
        name.strip_suffix(".weight")
            .and_then(|name| name.strip_suffix(side))
            .is_some_and(ends_in_projections)
    })
}

fn ends_in_projections(path: &str) -> bool {
    path.strip_suffix("projections.")
        .is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

impl<'c, M> Sharded<'c, M> {
    /// Creates a model with random weights: the numbers that a single process has with the same seed.
    ///
    /// # Errors
    /// Returns an error if the configuration describes no model; if its attention is neither Linformer nor bidirectional local-global attention (exact
    /// attention needs all keys on every rank); if `shards` is for another number of ranks, or of another length than E and F have columns; or if the ranks disagree.
    pub fn new<A: Scalar>(config: &M::Config, seed: u64, shards: Shards, communicator: &'c dyn Communicator) -> Result<Self>
    where
        M: Shardable<A>,
    {
        let checked = check_shards::<A, M>(config, &shards, communicator);
        let header = checked.map(|()| Header::new([("the seed", seed)]));
        let streams = Streams::new(seed).with_columns(shards.range(communicator.rank()));
        Self::made(config, shards, communicator, header, |config| {
            let mut streams = streams.clone();
            let built = M::build(config, &mut streams);
            streams.check()?;
            Ok(built)
        })
    }

    /// Takes this rank's part of a model that all ranks have.
    ///
    /// # Errors
    /// Returns an error as [`new`](Self::new) does, or if the parameters differ between ranks.
    pub fn of<A: Scalar>(model: &M, shards: Shards, communicator: &'c dyn Communicator) -> Result<Self>
    where
        M: Shardable<A>,
    {
        let config = model.configuration();
        let checked = check_shards::<A, M>(config, &shards, communicator);
        let header = checked.map(|()| Header::new([("the parameters", parameter_digest(model))]));
        let columns = shards.range(communicator.rank());
        Self::made(config, shards, communicator, header, |config| {
            let mut part = M::build(config, &mut Streams::zeros().with_columns(columns.clone()));
            let mut tensors = model.named().into_iter();
            part.visit_mut("", &mut |_, _, mut own| {
                let Some((_, whole)) = tensors.next() else { return };
                if own.shape() == whole.shape() {
                    own.assign(&whole);
                } else {
                    let last = ndarray::Axis(whole.ndim() - 1);
                    own.assign(&whole.slice_axis(last, columns.clone().into()));
                }
            });
            Ok(part)
        })
    }

    /// A model that `make` makes once all ranks agree.
    pub(super) fn made<A: Scalar>(
        config: &M::Config,
        shards: Shards,
        communicator: &'c dyn Communicator,
        header: Result<Header>,
        make: impl FnOnce(&M::Config) -> Result<M>,
    ) -> Result<Self>
    where
        M: Shardable<A>,
    {
        let digest = digest(format!("{config:?} {}", A::NAME).into_bytes()) ^ shards.digest();
        let header = header.map(|header| header.and([("the configuration and the shards", digest)]));
        let model = together(communicator, "Sharded", header, |_| make(config))?;
        Ok(Self {
            model,
            shards,
            communicator,
            replicas: None,
            digest,
        })
    }

    /// Creates the same over a grid of ranks: `replicas` are the ranks with the same positions of other sequences. Losses and gradients are then
    /// those of all sequences. Each rank is in one group of either kind ([`Communicator::split`] makes them), and all groups of one kind are of one
    /// size.
    ///
    /// ```
    /// use linformer::distributed::{Communicator, Shards, Sharded, ThreadGroup};
    /// use linformer::{Encoder, EncoderConfig, LinformerConfig};
    ///
    /// let config = EncoderConfig::new(LinformerConfig::new(8, 2, 100, 4), 1);
    /// let results = ThreadGroup::run(4, |rank| {
    ///     // Ranks 0 and 1 have one half of the batch, 2 and 3 the other.
    ///     let sequence = rank.split(rank.rank() / 2)?;
    ///     let replicas = rank.split(rank.rank() % 2)?;
    ///     let encoder = Sharded::<Encoder>::new(&config, 0, Shards::even(100, 2)?, &*sequence)?.with_replicas(&*replicas)?;
    ///     Ok(encoder.range())
    /// });
    /// assert_eq!(results.into_iter().collect::<Result<Vec<_>, _>>()?, [0..50, 50..100, 0..50, 50..100]);
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if the replicas differ in configuration or parameters; all ranks of the grid return one.
    pub fn with_replicas<A: Scalar>(self, replicas: &'c dyn Communicator) -> Result<Self>
    where
        M: Shardable<A>,
    {
        let words = [
            ("the configuration and the shards", self.digest),
            ("the positions", self.range().start as u64),
            ("the parameters", parameter_digest(&self.model)),
        ];
        let grid = Self {
            replicas: Some(replicas),
            ..self
        };
        grid.together_on_grid("Sharded::with_replicas", Ok(grid.model_header()), |_| {
            together(replicas, OVER_REPLICAS, Ok(Header::new(words)), |_| Ok(()))
        })?;
        Ok(grid)
    }

    /// Returns the model, whose E and F have this rank's columns. Its own methods would take these columns for the first ones.
    pub fn model(&self) -> &M {
        &self.model
    }

    /// Returns the model for changes, by an optimizer for example. A change on one rank must be made on all, except to E and F.
    pub fn model_mut(&mut self) -> &mut M {
        &mut self.model
    }

    /// Returns how positions are spread over the ranks.
    pub fn shards(&self) -> &Shards {
        &self.shards
    }

    /// Returns this rank's positions, and the columns of E and F that it has.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.shards.range(self.communicator.rank())
    }

    /// Returns the ranks that a sequence is spread over.
    pub fn communicator(&self) -> &'c dyn Communicator {
        self.communicator
    }

    pub(super) fn replicas(&self) -> Option<&'c dyn Communicator> {
        self.replicas
    }

    pub(super) fn together<T>(
        &self,
        operation: &'static str,
        header: Result<Header>,
        work: impl FnOnce(&Team<'_>) -> Result<T>,
    ) -> Result<T> {
        together(self.communicator, operation, header, work)
    }

    /// [`together`](Self::together) for `work` that continues over the replicas, whatever its result. They are notified if it does not even begin.
    pub(super) fn together_on_grid<T>(
        &self,
        operation: &'static str,
        header: Result<Header>,
        work: impl FnOnce(&Team<'_>) -> Result<T>,
    ) -> Result<T> {
        let mut is_begun = false;
        let outcome = self.together(operation, header, |team| {
            is_begun = true;
            work(team)
        });
        if let (Err(error), false, Some(replicas)) = (&outcome, is_begun, self.replicas) {
            tell(replicas, OVER_REPLICAS, error);
        }
        outcome
    }

    /// The values of the model that must agree between ranks.
    pub(super) fn model_header(&self) -> Header {
        Header::new([("the configuration and the shards", self.digest)])
    }

    /// The values that must agree before work on a batch of sequences, `length` positions of which are on this rank.
    pub(super) fn sequence_header(&self, batch: usize, length: usize, mask: Option<&PaddingMask>) -> Result<Header> {
        PaddingMask::check(mask, "Sharded", batch, length)?;
        let words = [
            ("the size of the batch", batch as u64),
            ("whether there is a mask", u64::from(mask.is_some())),
        ];
        Ok(self.model_header().and(words).with_own(length as u64))
    }

    /// The pass with which this rank drops its own elements.
    pub(super) fn own_pass(&self, pass: &TrainingPass) -> TrainingPass {
        let first = self.replicas.map_or(0, Communicator::rank) * self.communicator.size();
        pass.for_shard(first + self.communicator.rank(), first)
    }
}

/// The values of a training pass that must agree between ranks.
pub(super) fn pass_words(pass: &TrainingPass) -> [(&'static str, u64); 1] {
    [("the training pass", digest(format!("{pass:?}").into_bytes()))]
}

pub(super) fn check_shards<A: Scalar, M: Shardable<A>>(config: &M::Config, shards: &Shards, communicator: &dyn Communicator) -> Result<()> {
    M::check(config)?;
    let columns = columns_of(&M::encoder_config(config).attention)?;
    if shards.ranks() != communicator.size() {
        let reason = format!(
            "the shards are for {} ranks, but the group has {}",
            shards.ranks(),
            communicator.size()
        );
        return Err(Error::argument("Sharded", reason));
    }
    if let Some(columns) = columns.filter(|&columns| columns != shards.total()) {
        let reason = format!(
            "the shards have {} positions, but E and F have {columns} columns (seq_len)",
            shards.total(),
        );
        return Err(Error::argument("Sharded", reason));
    }
    Ok(())
}

/// The columns of E and F of an attention that can be sharded, where they are matrices.
fn columns_of(attention: &AttentionKind) -> Result<Option<usize>> {
    let (kind, reason) = match attention {
        AttentionKind::Linformer(attention) => return Ok((!attention.projection.any_length()).then_some(attention.seq_len)),
        AttentionKind::LocalGlobal(attention) if !attention.attention.causal => return Ok(None),
        AttentionKind::LocalGlobal(_) => (
            "causal local-global",
            "its segments are those of a growing sequence, which no rank has; give each rank whole sequences",
        ),
        _ => (
            "exact or causal",
            "its rows need the keys of all positions, which no rank has; take Linformer or bidirectional local-global attention",
        ),
    };
    Err(Error::config("attention", kind, reason))
}

/// A number that tells models of other parameters apart.
fn parameter_digest<A: Scalar>(model: &impl Parameters<A>) -> u64 {
    digest_of(model, |_| true)
}

/// The same of what all ranks have, without the matrices E and F.
#[cfg(feature = "checkpoint")]
pub(super) fn replicated_digest<A: Scalar>(model: &impl Parameters<A>, has_matrices: bool) -> u64 {
    digest_of(model, |name| !(has_matrices && is_matrix(name)))
}

fn digest_of<A: Scalar>(model: &impl Parameters<A>, chosen: impl Fn(&str) -> bool) -> u64 {
    let mut all = 0_u64;
    model.visit("", &mut |name, _, tensor| {
        if !chosen(name) {
            return;
        }
        let numbers = tensor.iter().flat_map(|number| number.widen().to_bits().to_le_bytes());
        all = all.rotate_left(1) ^ digest(name.bytes().chain(numbers));
    });
    all
}
