//! The crate's own files: a model's tensors under their own names, and its configuration.

use std::any::Any;
use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::Tensors;
use super::assign::assign;
use super::contents::Contents;
use super::header::malformed;
use super::metadata::check_key;
use super::size::{FeedForwardFile, StoredConfig, check_size};
use super::unknown::parse;
use crate::attention::{BlockwiseCausalAttention, ExactAttention, LinformerAttention, LocalGlobalAttention};
use crate::blocks::{Decoder, Encoder};
use crate::config::{
    AttentionConfig, CausalConfig, ClassifierConfig, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig,
    HasNorms, LanguageModelConfig, LinformerConfig, LocalGlobalConfig,
};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::FeedForward;
use crate::models::{Classifier, DecoderLanguageModel, EncoderDecoder, LanguageModel};
use crate::parameters::Parameters;
use crate::scalar::Scalar;

/// The key of the metadata.
const KEY: &str = "linformer";

/// The key of what the metadata says of a training run.
pub(crate) const RUN: &str = "linformer_training";

/// How the names of the last and of the best weights begin in the file of a training run.
const MODEL: &str = "model.";
const BEST: &str = "best.";

/// The version of the metadata under this key.
const FORMAT: u64 = 1;

/// Saving and loading of a model with its configuration, as one safetensors file.
///
/// Tensors have the names that [`Parameters::visit`] gives them; tied ones are stored once, and buffers are stored. The configuration
/// is JSON in the file's metadata, under `linformer`. The same model gives the same bytes. Numbers are written as the model has them
/// and read from F32, F64, F16 and BF16, so a model of one element type can be loaded as the other.
///
/// ```
/// use linformer::checkpoint::Checkpoint;
/// use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig, Parameters};
///
/// let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1);
/// let model = LanguageModel::<f32>::new(&LanguageModelConfig::new(32, encoder), 0)?;
/// let bytes = model.to_bytes()?;
///
/// let loaded = LanguageModel::<f32>::from_bytes(&bytes)?;
/// assert_eq!(loaded.config(), model.config());
/// assert_eq!(loaded.named(), model.named());
/// # Ok::<(), linformer::Error>(())
/// ```
#[allow(private_bounds)] // the bound is the seal
pub trait Checkpoint<A: Scalar>: Parameters<A> + Stored<A> {
    /// Writes the model to a file.
    ///
    /// It is written to a temporary file in the same directory, synced and atomically renamed, so that there is always a complete
    /// file at `path`, the old one or the new one. A symbolic link is replaced, not followed.
    ///
    /// # Errors
    /// Returns an error if the file or directory cannot be written, or if the model has more tensors than a header has room for (over a hundred
    /// thousand).
    fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        contents(self)?.save(path.as_ref())
    }

    /// Writes the model to a file as [`save`](Self::save) does, with entries of your own in the file's metadata: the names of classes, how inputs are
    /// scaled, and the like. [`read_metadata`](super::read_metadata) returns them, and [`load`](Self::load) the model.
    ///
    /// ```
    /// use linformer::checkpoint::{Checkpoint, read_metadata};
    /// use linformer::{Classifier, ClassifierConfig, EncoderConfig, LinformerConfig};
    ///
    /// let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1);
    /// let model = Classifier::<f32>::new(&ClassifierConfig::features(1, encoder, 2), 0)?;
    /// let path = std::env::temp_dir().join(format!("linformer-metadata-{}.safetensors", std::process::id()));
    /// model.save_with_metadata(&path, [("classes", "calm,storm"), ("mean", "0.25")])?;
    /// assert_eq!(read_metadata(&path)?["classes"], "calm,storm");
    /// assert_eq!(Classifier::<f32>::load(&path)?.config(), model.config());
    /// # std::fs::remove_file(&path).unwrap();
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error as [`save`](Self::save) does, if this crate uses a key itself, or if the metadata is longer than a header has room for.
    fn save_with_metadata<K, V>(&self, path: impl AsRef<Path>, metadata: impl IntoIterator<Item = (K, V)>) -> Result<()>
    where
        K: Into<String>,
        V: Into<String>,
    {
        let mut entries = description_of(self)?;
        for (key, value) in metadata {
            let key = key.into();
            check_key("Checkpoint::save_with_metadata", &key)?;
            entries.insert(key, value.into());
        }
        Contents::new(self.named(), entries)?.save(path.as_ref())
    }

    /// Returns the bytes that [`save`](Self::save) writes.
    ///
    /// # Errors
    /// Returns an error if the model has more tensors than a header has room for.
    fn to_bytes(&self) -> Result<Vec<u8>> {
        Ok(contents(self)?.to_bytes())
    }

    /// Loads the model in a file that [`save`](Self::save) wrote, or in that of a training run
    /// ([`Trainer::save`](crate::training::Trainer::save), [`save_training`](crate::training::save_training)).
    ///
    /// # Errors
    /// Returns an error if the file cannot be read or is not a valid safetensors file; if it holds another kind of model, has another format number, or
    /// has a configuration with unknown fields or that describes no model; or if tensors are missing, unexpected, of another shape, or of integers,
    /// all of which are listed.
    fn load(path: impl AsRef<Path>) -> Result<Self> {
        restore(Tensors::read(path)?)
    }

    /// Loads a model from the bytes of such a file.
    ///
    /// # Errors
    /// Returns an error as [`load`](Self::load) does.
    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        restore(Tensors::from_bytes(bytes)?)
    }

    /// Gives every parameter and buffer the value of the tensor of its name, wherever the tensors are from; their metadata is not read.
    ///
    /// ```
    /// use linformer::checkpoint::{Checkpoint, Tensors};
    /// use linformer::{AttentionConfig, ExactAttention, Parameters};
    ///
    /// let trained = ExactAttention::<f32>::new(&AttentionConfig::new(8, 2), 0)?;
    /// let mut layer = ExactAttention::<f32>::new(&AttentionConfig::new(8, 2), 1)?;
    /// layer.load_parameters(&Tensors::from_bytes(&trained.to_bytes()?)?)?;
    /// assert_eq!(layer.named(), trained.named());
    /// # Ok::<(), linformer::Error>(())
    /// ```
    ///
    /// # Errors
    /// Returns an error if tensors are missing, unexpected, of another shape, or of integers. All of them are listed, and the model is unchanged.
    fn load_parameters(&mut self, tensors: &Tensors<A>) -> Result<()> {
        assign(self, tensors)
    }
}

/// A kind of model, as its files describe it.
pub(crate) trait Stored<A: Scalar>: Parameters<A> + Sized {
    /// The name of the kind.
    const KIND: &'static str;

    /// Other names that files may give it.
    const OTHER_KINDS: &'static [&'static str] = &[];

    type Config: StoredConfig;

    fn stored_config(&self) -> Self::Config;

    /// An error where a configuration describes no model of this kind.
    fn check(config: &Self::Config) -> Result<()> {
        config.check()
    }

    /// A model of a checked configuration, whose numbers are yet to come.
    fn build(config: &Self::Config) -> Self;
}

/// Implements [`Checkpoint`] for types that keep their configuration.
macro_rules! checkpoint {
    ($($model:ident $(| $other:ident)*: $config:ty $(=> $check:ident)?),* $(,)?) => {
        $(
            impl<A: Scalar> Stored<A> for $model<A> {
                const KIND: &'static str = stringify!($model);

                const OTHER_KINDS: &'static [&'static str] = &[$(stringify!($other)),*];

                type Config = $config;

                fn stored_config(&self) -> $config {
                    self.config().clone()
                }

                $(
                    fn check(config: &$config) -> Result<()> {
                        config.$check::<A>()
                    }
                )?

                fn build(config: &$config) -> Self {
                    Self::init(config, &mut Streams::zeros())
                }
            }

            impl<A: Scalar> Checkpoint<A> for $model<A> {}
        )*

        /// Describes a model of any type from a file's metadata; `None` if it has no configuration that this crate knows.
        pub(crate) fn description_of_any<A: Scalar>(model: &dyn Any) -> Result<BTreeMap<String, String>> {
            $(
                if let Some(model) = model.downcast_ref::<$model<A>>() {
                    return description_of(model);
                }
            )*
            model.downcast_ref::<FeedForward<A>>().map_or_else(|| Ok(BTreeMap::new()), description_of)
        }
    };
}

checkpoint! {
    LinformerAttention: LinformerConfig,
    ExactAttention: AttentionConfig,
    BlockwiseCausalAttention: CausalConfig,
    LocalGlobalAttention: LocalGlobalConfig,
    Encoder: EncoderConfig => check_for,
    // Causal ones were a kind of their own.
    LanguageModel | CausalLanguageModel: LanguageModelConfig => check_for,
    Classifier: ClassifierConfig => check_for,
    Decoder: DecoderConfig => check_for,
    DecoderLanguageModel: DecoderLanguageModelConfig => check_for,
    EncoderDecoder: EncoderDecoderConfig => check_for,
}

impl<A: Scalar> Stored<A> for FeedForward<A> {
    const KIND: &'static str = "FeedForward";

    type Config = FeedForwardFile;

    fn stored_config(&self) -> FeedForwardFile {
        FeedForwardFile {
            dim: self.input().in_dim(),
            out_dim: self.output().out_dim(),
            layer: self.config(),
        }
    }

    fn build(config: &FeedForwardFile) -> Self {
        Self::init(config.dim, config.out_dim, &config.layer, &mut Streams::zeros())
    }
}

impl<A: Scalar> Checkpoint<A> for FeedForward<A> {}

/// The metadata without the configuration: all that is known of a file before it is clear that this crate saved it.
#[derive(Deserialize)]
struct Kind {
    format: u64,
    model: String,
}

/// The metadata.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Description<C> {
    format: u64,
    model: String,
    config: C,
}

fn contents<A: Scalar, M: Stored<A>>(model: &M) -> Result<Contents<'_, A>> {
    Contents::new(model.named(), description_of(model)?)
}

/// Reads the description of a model from a file's metadata.
pub(crate) fn description_of<A: Scalar, M: Stored<A>>(model: &M) -> Result<BTreeMap<String, String>> {
    let description = Description {
        format: FORMAT,
        model: M::KIND.to_owned(),
        config: model.stored_config(),
    };
    let json = serde_json::to_string(&description).map_err(|error| malformed(format!("configuration: {error}")))?;
    Ok(BTreeMap::from([(KEY.to_owned(), json)]))
}

fn restore<A: Scalar, M: Stored<A>>(mut tensors: Tensors<A>) -> Result<M> {
    if is_run(tensors.metadata()) {
        tensors = weights_of_run(tensors)?;
    }
    let config = described::<A, M>(tensors.metadata(), tensors.len(), tensors.number_count())?;
    let mut model = M::build(&config);
    debug_assert_eq!(count(&model), config.numbers());
    assign(&mut model, tensors)?;
    Ok(model)
}

pub(super) fn is_run(metadata: &BTreeMap<String, String>) -> bool {
    metadata.contains_key(RUN)
}

/// The weights in the file of a training run: the best ones, where they are kept, or else the last.
pub(super) fn weights_of_run<A: Scalar>(tensors: Tensors<A>) -> Result<Tensors<A>> {
    let metadata = tensors.metadata().clone();
    let prefix = if tensors.names().any(|name| name.starts_with(BEST)) {
        BEST
    } else {
        MODEL
    };
    let mut weights = Tensors::new();
    for (name, dtype, values) in Tensors::into_shared(tensors.into()) {
        if let Some(name) = name.strip_prefix(prefix) {
            weights.insert_as(name.to_owned(), dtype, values)?;
        }
    }
    weights.take_metadata(metadata);
    Ok(weights)
}

/// The checked configuration of a file of so many tensors and numbers.
pub(crate) fn described<A: Scalar, M: Stored<A>>(metadata: &BTreeMap<String, String>, tensors: usize, numbers: usize) -> Result<M::Config> {
    let config = read_config::<A, M>(metadata)?;
    check_size(&config, (tensors, numbers), M::check)?;
    Ok(config)
}

/// The number of elements of all tensors, buffers too.
fn count<A: Scalar>(model: &impl Parameters<A>) -> usize {
    let mut count = 0;
    model.visit("", &mut |_, _, tensor| count += tensor.len());
    count
}

fn read_config<A: Scalar, M: Stored<A>>(metadata: &BTreeMap<String, String>) -> Result<M::Config> {
    let Some(json) = metadata.get(KEY) else {
        if is_run(metadata) {
            return Err(malformed(
                "it holds a training run of a model that this crate has no configuration of; build the model, and read the run with \
                 `load_training` or `Trainer::load`",
            ));
        }
        return Err(malformed(format!(
            "its metadata has no `{KEY}`, so it was not saved by this crate; give its tensors to load_parameters, or use the module of the \
             implementation it is from"
        )));
    };
    let in_metadata = |error: serde_json::Error| malformed(format!("metadata `{KEY}`: {error}"));
    let kind: Kind = serde_json::from_str(json).map_err(in_metadata)?;
    if kind.format != FORMAT {
        return Err(malformed(format!(
            "it has the format {}, and this version of the crate reads {FORMAT}",
            kind.format
        )));
    }
    if kind.model != M::KIND && !M::OTHER_KINDS.contains(&kind.model.as_str()) {
        let problem = format!("the file holds `{}`, expected `{}`", kind.model, M::KIND);
        return Err(Error::Checkpoint { problems: vec![problem] });
    }
    let description: Description<M::Config> = parse(json).map_err(|reason| malformed(format!("metadata `{KEY}`: {reason}")))?;
    Ok(description.config)
}
