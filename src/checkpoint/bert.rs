//! Folders of the model hub: BERT and its relatives, as `config.json` and `model.safetensors` describe them.
//!
//! Most sentence encoders are one of these (MiniLM, BGE, E5 and GTE are BERT; multilingual E5 and BGE-M3 are XLM-R). All are post-norm encoders with
//! exact attention, biases, learned positions and a norm after the embeddings. [`Options`] are what `config.json` says.
//!
//! ```no_run
//! use linformer::LanguageModel;
//! use linformer::checkpoint::bert;
//! use linformer::ndarray::array;
//!
//! let json = std::fs::read_to_string("minilm/config.json").unwrap();
//! let options = bert::Options::from_json(&json)?;
//! let model: LanguageModel = bert::load("minilm/model.safetensors", &options)?;
//! // [CLS] hello world [SEP]
//! let features = model.features(&array![[101, 7592, 2088, 102]], None)?;
//! assert_eq!(features.dim(), (1, 4, options.hidden_size));
//! # Ok::<(), linformer::Error>(())
//! ```
//!
//! # What is loaded
//!
//! | `model_type` | prefix | positions | token types | embeddings | head of [`masked_language_model`] | hidden layer of [`classifier`] |
//! |---|---|---|---|---|---|---|
//! | `bert` | `bert.` | counted from 0 | yes | as wide as the blocks | `cls.predictions`, `hidden_act` | `pooler.dense`, tanh |
//! | `roberta`, `xlm-roberta` | `roberta.` | counted after padding | yes | as wide as the blocks | `lm_head`, GELU | `classifier.dense`, tanh |
//! | `distilbert` | `distilbert.` | counted from 0 | none | as wide as the blocks | `vocab_*`, `activation` | `pre_classifier`, ReLU |
//! | `electra` | `electra.` | counted from 0 | yes | `embedding_size`, a product leads in | `generator_*`, GELU | `classifier.dense`, GELU |
//!
//! [`encoder`] takes the names with or without their prefix. A [`classifier`] reads the first token; with one class it is a cross-encoder, which
//! scores a pair of texts. A [`token_classifier`] scores every position (`classifier`).
//!
//! All take [`Tensors`], which [`Tensors::read`] reads from a file or from the index of several
//! (`model.safetensors.index.json`); numbers may be stored as F64, F32, F16 or BF16. [`load`] reads the file of an encoder.
//!
//! # What is left out and what is refused
//!
//! Left out: buffers (`position_ids`, `token_type_ids`), and the heads in a file that a loader does not use, among them the pooler
//! and the heads of question answering, next sentences and ELECTRA's discriminator. Every other tensor must be used. Old files' `LayerNorm.gamma` and
//! `LayerNorm.beta` are `weight` and `bias`. The stored weight of a tied head must be the token embedding.
//!
//! Refused by name, since they change the numbers: other kinds of `model_type`, `position_embedding_type` other than `absolute`, `is_decoder`,
//! `add_cross_attention`, `hidden_act` (`activation`) other than GELU in its exact and its tanh form, ReLU, SiLU and tanh, `pruned_heads`,
//! `quantization_config`, `auto_map` (code in the folder). Ignored, since they change no number of a loaded model: dropout and all else of training,
//! `chunk_size_feed_forward`, `sinusoidal_pos_embds`, `use_cache`, `torch_dtype` and every field that is not known.
//!
//! # Padding
//! With a [`PaddingMask`](crate::PaddingMask) real positions get what PyTorch gives them; rows of padding mean nothing on either side. RoBERTa and XLM-R
//! count positions by the mask here and by the ids in PyTorch, which is the same where padding has the id of padding. A classifier reads the
//! first real token, PyTorch the first of all: the same where padding is on the right.

mod names;
mod options;

pub use options::{ModelType, Options};

use std::borrow::Cow;
use std::path::Path;

use ndarray::ArrayViewD;

use super::foreign;
use super::size::check_extent;
use super::tensors::Tensors;
use crate::config::{ClassifierConfig, HasNorms, HeadKind, Pooling};
use crate::error::{Error, Result};
use crate::initialization::Streams;
use crate::layers::Linear;
use crate::models::{Classifier, LanguageModel};
use crate::ops::Activation;
use crate::scalar::Scalar;
use names::Names;

const PEER: &str = "bert";

/// Loads the encoder of a safetensors file, or of the index of several, as [`encoder`] does.
///
/// # Errors
/// Returns an error as [`Tensors::read`] and [`encoder`] do.
pub fn load<A: Scalar>(path: impl AsRef<Path>, options: &Options) -> Result<LanguageModel<A>> {
    encoder(Tensors::read(path)?, options)
}

/// Loads an encoder: a model without a head, whose [`features`](LanguageModel::features) are the `last_hidden_state`.
///
/// # Errors
/// Returns an error if the options describe no model, or if a tensor is missing, left over or of another shape.
pub fn encoder<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<LanguageModel<A>> {
    let tensors = tensors.into();
    language_model(tensors, options, HeadKind::None, |names| (names.encoder(), names.left_out(&[])))
}

/// Loads a masked language model: [`forward`](LanguageModel::forward) gives the scores of every token id.
///
/// # Errors
/// Returns an error as [`encoder`] does, or if the weight of a tied head is another than the token embedding.
pub fn masked_language_model<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<LanguageModel<A>> {
    const USED: [&str; 6] = [
        "cls.predictions.",
        "lm_head.",
        "vocab_transform.",
        "vocab_layer_norm.",
        "vocab_projector.",
        "generator_predictions.",
    ];
    let head = HeadKind::Roberta {
        tied: options.tie_word_embeddings,
        activation: options.head_activation(),
    };
    language_model(tensors.into(), options, head, |names| {
        let used = [&USED[..], &["generator_lm_head."]].concat();
        (names.masked_language_model(), names.left_out(&used))
    })
}

/// Loads a classifier of tokens: [`forward`](LanguageModel::forward) gives the scores of the labels at every position.
///
/// # Errors
/// Returns an error as [`encoder`] does, if the file has no such head, or if `architectures` says that its head classifies sequences.
pub fn token_classifier<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<LanguageModel<A>> {
    options.check_saved_from("ForSequenceClassification", "load it with bert::classifier")?;
    let tensors = tensors.into();
    let count = classes(&tensors, options, "classifier.weight")?;
    language_model(tensors, options, HeadKind::Labels { count }, |names| {
        (names.token_classifier(), names.left_out(&["classifier."]))
    })
}

/// Loads a classifier of sequences and of pairs, which reads the features of the first token.
///
/// # Errors
/// Returns an error as [`encoder`] does, if the file has no such head, or if `architectures` says that its head classifies tokens.
pub fn classifier<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<Classifier<A>> {
    options.check_saved_from("ForTokenClassification", "load it with bert::token_classifier")?;
    let tensors = tensors.into();
    let names = Names::new(options, &*tensors);
    let classes = classes(&tensors, options, &names.classes())?;
    let activation = match options.model_type {
        ModelType::Bert | ModelType::Roberta | ModelType::XlmRoberta => Activation::Tanh,
        ModelType::DistilBert => Activation::Relu,
        ModelType::Electra => Activation::Gelu,
    };
    let config = ClassifierConfig::tokens(options.unchecked(HeadKind::None)?, classes)
        .with_pooling(Pooling::First)
        .with_hidden_dim(options.hidden_size)
        .with_activation(activation);
    check_extent(&config, &tensors, HasNorms::check_for::<A>)?;
    let used: &[&str] = match options.model_type {
        ModelType::Bert => &["classifier.", "pooler."],
        _ => &["classifier.", "pre_classifier."],
    };
    let (entries, left_out) = (names.classifier(), names.left_out(used));
    foreign::load(Classifier::init(&config, &mut Streams::zeros()), tensors, &entries, &left_out)
}

/// Loads the pooler of BERT, RoBERTa or XLM-R: the dense layer whose tanh, of the first token's features, is the `pooler_output`.
///
/// # Errors
/// Returns an error if the options describe no model, or if the layer is missing or of another shape.
pub fn pooler<'t, A: Scalar>(tensors: impl Into<Cow<'t, Tensors<A>>>, options: &Options) -> Result<Linear<A>> {
    let tensors = tensors.into();
    check_extent(&options.unchecked(HeadKind::None)?, &tensors, HasNorms::check_for::<A>)?;
    let names = Names::new(options, &*tensors);
    let (name, width) = (names.pooler(), options.hidden_size);
    let entries = foreign::Entry::layer("", &name, true);
    let layer = Linear::init(width, width, true, &mut Streams::zeros());
    let others = names.all_but(&format!("{name}."));
    foreign::load(layer, tensors, &entries, &others)
}

/// The model with this head whose tensors, and those that are left out, are named by `entries`.
fn language_model<A: Scalar>(
    tensors: Cow<'_, Tensors<A>>,
    options: &Options,
    head: HeadKind,
    entries: impl FnOnce(&Names<'_, A>) -> (Vec<foreign::Entry>, Vec<String>),
) -> Result<LanguageModel<A>> {
    let config = options.unchecked(head)?;
    check_extent(&config, &tensors, HasNorms::check_for::<A>)?;
    let (entries, left_out) = entries(&Names::new(options, &*tensors));
    foreign::load(LanguageModel::init(&config, &mut Streams::zeros()), tensors, &entries, &left_out)
}

/// The number of rows of a head's last weight, which must be that of the labels where they are named.
fn classes<A: Scalar>(tensors: &Tensors<A>, options: &Options, name: &str) -> Result<usize> {
    let weight = tensors.get(name);
    let Some(&[classes, _]) = weight.as_ref().map(ArrayViewD::shape) else {
        let problems = vec![format!("`{name}`, a matrix with a row for each class, is missing")];
        return Err(Error::Checkpoint { problems });
    };
    let named = options.labels.len();
    if named > 0 && named != classes {
        let problems = vec![format!("`{name}` has {classes} rows, but `id2label` names {named} labels")];
        return Err(Error::Checkpoint { problems });
    }
    Ok(classes)
}

#[cfg(test)]
mod tests;
