//! The modules of a folder that the Python package `sentence-transformers` wrote: modules.json and what it names.

use std::path::{Component, Path};

use linformer::Linear;
use linformer::checkpoint::Tensors;
use linformer::ndarray::{ArrayViewD, Ix1, Ix2};
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::head::{Activation, Module};
use crate::pooling::Pooling;
use crate::source::Source;

const MODULES: &str = "modules.json";
const CONFIG: &str = "config.json";
const PROMPTS: &str = "config_sentence_transformers.json";

/// The options that name how a folder pools, each true or false.
const FLAGS: [(&str, Option<Pooling>); 6] = [
    ("pooling_mode_cls_token", Some(Pooling::Cls)),
    ("pooling_mode_max_tokens", Some(Pooling::Max)),
    ("pooling_mode_mean_tokens", Some(Pooling::Mean)),
    ("pooling_mode_mean_sqrt_len_tokens", Some(Pooling::MeanSqrtLen)),
    ("pooling_mode_lasttoken", Some(Pooling::LastToken)),
    ("pooling_mode_weightedmean_tokens", None),
];

/// The names of newer folders, one of them the value of `pooling_mode`.
const NAMES: [(&str, Pooling); 5] = [
    ("cls", Pooling::Cls),
    ("max", Pooling::Max),
    ("mean", Pooling::Mean),
    ("mean_sqrt_len_tokens", Pooling::MeanSqrtLen),
    ("lasttoken", Pooling::LastToken),
];

/// What becomes of the encoder's vectors, and where the encoder is.
#[derive(Debug)]
pub(crate) struct Modules {
    /// The folder of weights and tokenizer inside the model's.
    pub(crate) transformer: String,
    pub(crate) pooling: Pooling,
    pub(crate) after: Vec<Module>,
    /// The length of the texts that the model was trained on.
    pub(crate) trained_len: Option<usize>,
}

impl Modules {
    /// Reads the modules that modules.json lists. Without that file it is mean pooling without normalization, as in `sentence-transformers`.
    pub(crate) fn read(source: &Source) -> Result<Self> {
        refuse_default_prompt(source)?;
        let Some(list) = source.json::<Vec<Value>>("", MODULES)? else {
            return Ok(Self {
                transformer: String::new(),
                pooling: Pooling::Mean,
                after: Vec::new(),
                trained_len: trained_len(source, "")?,
            });
        };
        let path = source.path_of("", MODULES);
        let kinds = list.iter().map(|module| kind(module, &path)).collect::<Result<Vec<_>>>()?;
        let [("Transformer", transformer), ("Pooling", pooled), ..] = kinds.as_slice() else {
            let names: Vec<_> = kinds.iter().map(|(name, _)| *name).collect();
            let reason = "a Transformer and a Pooling must come first";
            return Err(Error::refused(&path, format!("modules {}", names.join(", ")), reason));
        };
        let after = kinds[2..].iter().map(|(name, folder)| match *name {
            "Normalize" => Ok(Module::Normalize),
            "Dense" => dense(source, folder),
            other => Err(Error::refused(
                &path,
                format!("module {other}"),
                "after pooling, only Dense and Normalize are known",
            )),
        });
        Ok(Self {
            pooling: pooling(source, pooled)?,
            after: after.collect::<Result<_>>()?,
            trained_len: trained_len(source, transformer)?,
            transformer: transformer.clone(),
        })
    }
}

/// A module's class, without the modules of Python that it is in, and its folder.
fn kind<'m>(module: &'m Value, path: &Path) -> Result<(&'m str, String)> {
    let (Some(class), Some(folder)) = (module["type"].as_str(), module["path"].as_str()) else {
        return Err(Error::malformed(path, "every module must have a `type` and a `path`"));
    };
    let inside = Path::new(folder).components().all(|part| matches!(part, Component::Normal(_)));
    if !inside {
        return Err(Error::refused(
            path,
            format!("path: {folder:?}"),
            "modules must be inside the model's folder",
        ));
    }
    Ok((class.rsplit('.').next().unwrap_or(class), folder.to_owned()))
}

fn pooling(source: &Source, folder: &str) -> Result<Pooling> {
    let path = source.path_of(folder, CONFIG);
    let Some(config) = source.json::<Map<String, Value>>(folder, CONFIG)? else {
        return Err(Error::missing(&path, "it would say how to pool, but is not there"));
    };
    if let Some(name) = config.get("pooling_mode") {
        let name = name.as_array().filter(|names| names.len() == 1).map_or(name, |names| &names[0]);
        let found = NAMES.iter().find(|(known, _)| name == known);
        return found
            .map(|(_, pooling)| *pooling)
            .ok_or_else(|| refused(&path, &format!("pooling_mode: {name}")));
    }
    if config.get("include_prompt").is_some_and(|value| value != true) {
        let reason = "prompts are written before the text and count as its tokens; pooling that leaves them out is not reproduced";
        return Err(Error::refused(&path, "include_prompt: false", reason));
    }
    let flags = || config.iter().filter(|(option, _)| option.starts_with("pooling_mode_"));
    if let Some((option, value)) = flags().find(|(_, value)| !value.is_boolean()) {
        return Err(Error::malformed(&path, format!("`{option}` must be true or false, but is {value}")));
    }
    let is_on = |option: &str| config.get(option).is_some_and(|value| value == true);
    let known = |option: &String| FLAGS.iter().any(|(known, _)| known == option);
    if let Some((option, _)) = config
        .iter()
        .find(|(option, _)| option.starts_with("pooling_mode_") && !known(option))
    {
        return Err(refused(&path, option));
    }
    let chosen: Vec<_> = FLAGS.iter().filter(|(option, _)| is_on(option)).collect();
    match chosen.as_slice() {
        [] if flags().next().is_none() && config.contains_key("word_embedding_dimension") => Ok(Pooling::Mean),
        [] => Err(refused(&path, "no pooling_mode_… is true")),
        [(_, Some(pooling))] => Ok(*pooling),
        [(option, None)] => Err(refused(&path, option)),
        several => {
            let names: Vec<_> = several.iter().map(|(option, _)| *option).collect();
            Err(Error::refused(
                &path,
                names.join(" and "),
                "vectors pooled in several ways are not joined; one way is possible",
            ))
        }
    }
}

fn refused(path: &Path, option: &str) -> Error {
    Error::refused(path, option, "the ways to pool are cls, max, mean, mean_sqrt_len and lasttoken")
}

fn dense(source: &Source, folder: &str) -> Result<Module> {
    let path = source.path_of(folder, CONFIG);
    let Some(config) = source.json::<Value>(folder, CONFIG)? else {
        return Err(Error::missing(&path, "it would describe a Dense module, but is not there"));
    };
    let function = config["activation_function"].as_str().unwrap_or("torch.nn.modules.activation.Tanh");
    let activation = match function.rsplit('.').next() {
        Some("Identity") => Activation::Identity,
        Some("Tanh") => Activation::Tanh,
        _ => {
            return Err(Error::refused(
                &path,
                format!("activation_function: {function}"),
                "Identity and Tanh are known",
            ));
        }
    };
    let weights = source.weights(folder)?;
    let tensors = Tensors::<f32>::read(&weights)?;
    let weight = tensors
        .get("linear.weight")
        .and_then(|weight| weight.into_dimensionality::<Ix2>().ok());
    let Some(weight) = weight else {
        return Err(Error::malformed(&weights, "a Dense module must have a matrix `linear.weight`"));
    };
    let bias = match tensors.get("linear.bias").map(ArrayViewD::into_dimensionality::<Ix1>) {
        None => None,
        Some(Ok(bias)) => Some(bias.to_owned()),
        Some(Err(_)) => return Err(Error::malformed(&weights, "`linear.bias` must be a vector")),
    };
    Ok(Module::dense(Linear::from_parts(weight.to_owned(), bias)?, activation))
}

/// The length that texts were cut to in training, which older folders have in a file named after the kind of model.
fn trained_len(source: &Source, folder: &str) -> Result<Option<usize>> {
    for kind in ["bert", "roberta", "distilbert", "xlm-roberta", "electra"] {
        let name = format!("sentence_{kind}_config.json");
        let Some(config) = source.json::<Value>(folder, &name)? else {
            continue;
        };
        if config["do_lower_case"] == true {
            let reason = "texts are made lower case by the tokenizer alone; set it to false where the tokenizer does it anyway";
            return Err(Error::refused(&source.path_of(folder, &name), "do_lower_case: true", reason));
        }
        return Ok(config["max_seq_length"].as_u64().and_then(|length| usize::try_from(length).ok()));
    }
    Ok(None)
}

/// Prompts that Python puts before every text unasked are refused: without them vectors would differ from Python's.
fn refuse_default_prompt(source: &Source) -> Result<()> {
    let config = source.json::<Value>("", PROMPTS)?.unwrap_or_default();
    let name = &config["default_prompt_name"];
    let prompt = name.as_str().map(|name| &config["prompts"][name]);
    if prompt.is_some_and(|prompt| prompt != "") {
        let reason = "no text is put before yours unasked; write the prompt before each text yourself, and set this to null";
        return Err(Error::refused(
            &source.path_of("", PROMPTS),
            format!("default_prompt_name: {name}"),
            reason,
        ));
    }
    Ok(())
}
