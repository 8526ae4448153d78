//! What a `config.json` says of a model, and the native configuration that it describes.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::PEER;
use crate::config::{AttentionConfig, EncoderConfig, FeedForwardConfig, HeadKind, LanguageModelConfig, NormPlacement, PositionKind};
use crate::error::{Error, Result};
use crate::ops::Activation;

/// The architecture that a folder's `model_type` names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ModelType {
    /// `bert`
    Bert,
    /// `roberta`
    Roberta,
    /// `xlm-roberta`
    XlmRoberta,
    /// `distilbert`
    DistilBert,
    /// `electra`
    Electra,
}

impl ModelType {
    const ALL: [Self; 5] = [Self::Bert, Self::Roberta, Self::XlmRoberta, Self::DistilBert, Self::Electra];

    /// Returns the name in a `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bert => "bert",
            Self::Roberta => "roberta",
            Self::XlmRoberta => "xlm-roberta",
            Self::DistilBert => "distilbert",
            Self::Electra => "electra",
        }
    }

    /// Whether positions count from after the padding token.
    fn counts_after_padding(self) -> bool {
        matches!(self, Self::Roberta | Self::XlmRoberta)
    }
}

/// What a `config.json` says of a model's numbers. What it does not say is the default of its `model_type`.
///
/// ```
/// use linformer::checkpoint::bert;
///
/// let options = bert::Options::from_json(
///     r#"{"model_type": "bert", "hidden_size": 384, "num_hidden_layers": 6, "intermediate_size": 1536, "use_cache": true}"#,
/// )?;
/// assert_eq!((options.vocab_size, options.num_attention_heads), (30_522, 12));
/// assert_eq!(options.config()?.encoder.dim(), 384);
/// let error = bert::Options::from_json(r#"{"model_type": "bert", "position_embedding_type": "relative_key"}"#).unwrap_err();
/// assert!(error.to_string().contains("`position_embedding_type` is refused"));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Options {
    /// The architecture.
    pub model_type: ModelType,
    /// The classes that the folder was saved from, such as `BertForSequenceClassification`; empty where it does not say.
    pub architectures: Vec<String>,
    /// The number of token ids.
    pub vocab_size: usize,
    /// The width of the sum of token, type and position vectors; `hidden_size` in all but ELECTRA.
    pub embedding_size: usize,
    /// Model width (DistilBERT: `dim`).
    pub hidden_size: usize,
    /// The number of blocks (DistilBERT: `n_layers`).
    pub num_hidden_layers: usize,
    /// Heads (DistilBERT: `n_heads`).
    pub num_attention_heads: usize,
    /// The width between the products of a feed-forward (DistilBERT: `hidden_dim`).
    pub intermediate_size: usize,
    /// The activation of feed-forwards (`hidden_act`; DistilBERT: `activation`).
    pub activation: Activation,
    /// The rows of the position table; in RoBERTa and XLM-R the first `pad_token_id` + 1 are no positions.
    pub max_position_embeddings: usize,
    /// How many types a token can have; `None` in DistilBERT, which has none.
    pub type_vocab_size: Option<usize>,
    /// The number that norms add to the variance; always 1e-12 in DistilBERT.
    pub layer_norm_eps: f64,
    /// The token id of padding.
    pub pad_token_id: usize,
    /// Whether the weight of a language model's head is the token embedding.
    pub tie_word_embeddings: bool,
    /// The names of the labels in their order (`id2label`); empty where the folder does not name all of them.
    pub labels: Vec<String>,
}

/// The fields as they are, of all architectures together. Those that cannot change a number are not read.
#[derive(Deserialize)]
struct Fields {
    model_type: String,
    architectures: Option<Vec<String>>,
    vocab_size: Option<usize>,
    embedding_size: Option<usize>,
    hidden_size: Option<usize>,
    num_hidden_layers: Option<usize>,
    num_attention_heads: Option<usize>,
    intermediate_size: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: Option<usize>,
    type_vocab_size: Option<usize>,
    layer_norm_eps: Option<f64>,
    pad_token_id: Option<usize>,
    tie_word_embeddings: Option<bool>,
    id2label: Option<Value>,
    // DistilBERT's names.
    dim: Option<usize>,
    n_layers: Option<usize>,
    n_heads: Option<usize>,
    hidden_dim: Option<usize>,
    activation: Option<String>,
    // Refused unless they say nothing.
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    add_cross_attention: Option<bool>,
    pruned_heads: Option<Value>,
    quantization_config: Option<Value>,
    auto_map: Option<Value>,
}

impl Options {
    /// Reads the contents of a `config.json`. Fields that cannot change a number, such as those of training, are ignored.
    ///
    /// # Errors
    /// Returns [`Error::Refused`] with the name of the first field that changes the numbers in a way that this crate does not reproduce, and an
    /// error if `model_type` is missing or a field has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        const OPERATION: &str = "bert::Options";
        let fields: Fields = serde_json::from_str(json).map_err(|error| Error::argument(OPERATION, error.to_string()))?;
        let found = ModelType::ALL.into_iter().find(|model_type| model_type.name() == fields.model_type);
        let Some(model_type) = found else {
            let known: Vec<&str> = ModelType::ALL.map(ModelType::name).to_vec();
            let reason = format!("it is `{}`; known are {}", fields.model_type, known.join(", "));
            return Err(refused("model_type", reason));
        };
        fields.check()?;
        let labels = labels(fields.id2label.as_ref());
        Ok(match model_type {
            ModelType::DistilBert => fields.distilbert(labels)?,
            _ => fields.bert(model_type, labels)?,
        })
    }

    /// Returns the configuration of the encoder, without a head.
    ///
    /// # Errors
    /// Returns an error if the options describe no model.
    pub fn config(&self) -> Result<LanguageModelConfig> {
        let config = self.unchecked(HeadKind::None)?;
        config.check()?;
        Ok(config)
    }

    /// The configuration with this head, before its sizes are checked.
    pub(super) fn unchecked(&self, head: HeadKind) -> Result<LanguageModelConfig> {
        let attention = AttentionConfig::new(self.hidden_size, self.num_attention_heads)
            .with_query_bias(true)
            .with_key_value_bias(true, true);
        let feed_forward = FeedForwardConfig::new(self.intermediate_size).with_activation(self.activation);
        let encoder = EncoderConfig::new(attention, self.num_hidden_layers)
            .with_feed_forward(feed_forward)
            .with_norm(NormPlacement::Post)
            .with_norm_eps(self.layer_norm_eps)
            .with_final_norm(false);
        let is_narrow = self.embedding_size != self.hidden_size;
        Ok(LanguageModelConfig::new(self.vocab_size, encoder)
            .with_embedding_dim(is_narrow.then_some(self.embedding_size))
            .with_project_out(!is_narrow)
            .with_position(self.position()?)
            .with_token_types(self.type_vocab_size)
            .with_embedding_norm(true)
            .with_head(head))
    }

    fn position(&self) -> Result<PositionKind> {
        let rows = self.max_position_embeddings;
        if !self.model_type.counts_after_padding() {
            return Ok(PositionKind::Learned { max_len: rows });
        }
        let before = self.pad_token_id.saturating_add(1);
        let Some(max_len) = rows.checked_sub(before).filter(|&max_len| max_len > 0) else {
            let reason = format!(
                "{before} of its rows are no positions, since pad_token_id is {}; there must be more",
                self.pad_token_id
            );
            return Err(Error::config("max_position_embeddings", rows, reason));
        };
        Ok(PositionKind::LearnedAfterPadding {
            max_len,
            padding_token: self.pad_token_id,
        })
    }

    /// The activation of the language model's head.
    pub(super) fn head_activation(&self) -> Activation {
        match self.model_type {
            ModelType::Bert | ModelType::DistilBert => self.activation,
            ModelType::Roberta | ModelType::XlmRoberta | ModelType::Electra => Activation::Gelu,
        }
    }

    /// An error where the folder says that it was saved from a model with another head than the one that is asked for.
    pub(super) fn check_saved_from(&self, other: &str, advice: &str) -> Result<()> {
        match self.architectures.iter().find(|class| class.ends_with(other)) {
            Some(class) => Err(refused("architectures", format!("the folder was saved from `{class}`; {advice}"))),
            None => Ok(()),
        }
    }
}

impl Fields {
    /// An error for fields that change the numbers and are not reproduced.
    fn check(&self) -> Result<()> {
        let has = |value: &Option<Value>| match value {
            None | Some(Value::Null) => false,
            Some(Value::Object(map)) => !map.is_empty(),
            Some(Value::Array(list)) => !list.is_empty(),
            Some(_) => true,
        };
        if let Some(kind) = self.position_embedding_type.as_deref().filter(|&kind| kind != "absolute") {
            let reason = format!("it is `{kind}`, and this crate has absolute positions in these models");
            return Err(refused("position_embedding_type", reason));
        }
        for (option, is_refused, reason) in [
            (
                "is_decoder",
                self.is_decoder == Some(true),
                "its attention is causal, and only encoders are read; export a decoder's weights under the names of another peer",
            ),
            (
                "add_cross_attention",
                self.add_cross_attention == Some(true),
                "its blocks attend to a second sequence, and only encoders are read",
            ),
            (
                "pruned_heads",
                has(&self.pruned_heads),
                "pruned blocks differ in their number of heads",
            ),
            (
                "quantization_config",
                has(&self.quantization_config),
                "only weights of floating-point numbers are read; save the model without quantization",
            ),
            (
                "auto_map",
                has(&self.auto_map),
                "the folder brings code of its own, which may compute something else; remove the field if the model is a plain one",
            ),
        ] {
            if is_refused {
                return Err(refused(option, reason));
            }
        }
        Ok(())
    }

    fn bert(self, model_type: ModelType, labels: Vec<String>) -> Result<Options> {
        let is_electra = model_type == ModelType::Electra;
        let default = |electra: usize, others: usize| if is_electra { electra } else { others };
        let hidden_size = self.hidden_size.unwrap_or(default(256, 768));
        let embedding_size = if is_electra {
            self.embedding_size.unwrap_or(128)
        } else {
            hidden_size
        };
        Ok(Options {
            model_type,
            architectures: self.architectures.unwrap_or_default(),
            vocab_size: self.vocab_size.unwrap_or(match model_type {
                ModelType::Roberta => 50_265,
                _ => 30_522,
            }),
            embedding_size,
            hidden_size,
            num_hidden_layers: self.num_hidden_layers.unwrap_or(12),
            num_attention_heads: self.num_attention_heads.unwrap_or(default(4, 12)),
            intermediate_size: self.intermediate_size.unwrap_or(default(1024, 3072)),
            activation: activation("hidden_act", self.hidden_act.as_deref())?,
            max_position_embeddings: self.max_position_embeddings.unwrap_or(512),
            type_vocab_size: Some(self.type_vocab_size.unwrap_or(2)),
            layer_norm_eps: self.layer_norm_eps.unwrap_or(1e-12),
            pad_token_id: self.pad_token_id.unwrap_or(model_type.counts_after_padding().into()),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(true),
            labels,
        })
    }

    fn distilbert(self, labels: Vec<String>) -> Result<Options> {
        let hidden_size = self.dim.or(self.hidden_size).unwrap_or(768);
        Ok(Options {
            model_type: ModelType::DistilBert,
            architectures: self.architectures.unwrap_or_default(),
            vocab_size: self.vocab_size.unwrap_or(30_522),
            embedding_size: hidden_size,
            hidden_size,
            num_hidden_layers: self.n_layers.or(self.num_hidden_layers).unwrap_or(6),
            num_attention_heads: self.n_heads.or(self.num_attention_heads).unwrap_or(12),
            intermediate_size: self.hidden_dim.unwrap_or(3072),
            activation: activation("activation", self.activation.as_deref())?,
            max_position_embeddings: self.max_position_embeddings.unwrap_or(512),
            type_vocab_size: None,
            layer_norm_eps: 1e-12,
            pad_token_id: self.pad_token_id.unwrap_or(0),
            tie_word_embeddings: self.tie_word_embeddings.unwrap_or(true),
            labels,
        })
    }
}

/// The names of the labels where their ids are 0, 1, 2 and so on; none otherwise, since no number depends on them.
fn labels(id2label: Option<&Value>) -> Vec<String> {
    let by_id: Option<BTreeMap<usize, &str>> = id2label
        .and_then(Value::as_object)
        .and_then(|map| map.iter().map(|(id, name)| Some((id.parse().ok()?, name.as_str()?))).collect());
    let by_id = by_id.unwrap_or_default();
    let is_complete = by_id.keys().copied().eq(0..by_id.len());
    by_id.into_values().filter(|_| is_complete).map(str::to_owned).collect()
}

fn activation(option: &'static str, name: Option<&str>) -> Result<Activation> {
    Ok(match name.unwrap_or("gelu") {
        "gelu" | "gelu_python" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        "silu" | "swish" => Activation::Silu,
        "tanh" => Activation::Tanh,
        other => {
            let reason = format!("it is `{other}`; known are gelu, gelu_python, gelu_new, gelu_pytorch_tanh, relu, silu, swish and tanh");
            return Err(refused(option, reason));
        }
    })
}

fn refused(option: &'static str, reason: impl Into<String>) -> Error {
    Error::Refused {
        peer: PEER,
        option: option.to_owned(),
        reason: reason.into(),
    }
}
