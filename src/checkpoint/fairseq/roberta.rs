//! The options of a model, and the native configuration they describe.

use serde::{Deserialize, Serialize};

use super::super::foreign::{check_rate, check_same, number, parse, yes};
use super::PEER;
use super::names::{Layout, Matrices};
use super::options::{Compression, activation, activation_name, explicit, flag, refused};
use crate::config::{
    AttentionKind, EncoderConfig, FeedForwardConfig, HeadKind, LanguageModelConfig, NormPlacement, PositionKind, ProjectionKind, Sharing,
};
use crate::error::{Error, Result};
use crate::ops::Activation;

/// The options of `linformer_roberta`, and the two facts of its dictionary that matter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
#[allow(clippy::struct_excessive_bools)] // they are fairseq's
pub struct RobertaOptions {
    /// The number of tokens of the dictionary.
    pub vocab: usize,
    /// The dictionary's padding token; 1.
    #[serde(default = "number::<1>")]
    pub padding_idx: usize,
    /// The number of blocks; 12.
    #[serde(default = "number::<12>")]
    pub encoder_layers: usize,
    /// Model width; 768.
    #[serde(default = "number::<768>")]
    pub encoder_embed_dim: usize,
    /// Width between the products of a feed-forward; 3072.
    #[serde(default = "number::<3072>")]
    pub encoder_ffn_embed_dim: usize,
    /// Heads; 12.
    #[serde(default = "number::<12>")]
    pub encoder_attention_heads: usize,
    /// The longest sequence, n; `tokens_per_sample`.
    #[serde(default)]
    pub max_positions: Option<usize>,
    /// n where `max_positions` does not say it.
    #[serde(default)]
    pub tokens_per_sample: Option<usize>,
    /// Overwritten by n in fairseq, whatever it is.
    #[serde(default)]
    pub max_source_positions: Option<usize>,
    /// n / k; 4.
    #[serde(default = "number::<4>")]
    pub compressed: usize,
    /// 1 where values are compressed as the keys are; 0.
    #[serde(default)]
    pub shared_kv_compressed: usize,
    /// 1 where all layers compress keys and values alike; 0.
    #[serde(default)]
    pub shared_layer_kv_compressed: usize,
    /// 1 where E and F are never trained; 0.
    #[serde(default)]
    pub freeze_compress: usize,
    /// Dropout in training of embeddings, branches, and also of attention weights; 0.1.
    #[serde(default = "tenth")]
    pub dropout: f64,
    /// Not used by fairseq, which takes `dropout`; 0.1.
    #[serde(default = "tenth")]
    pub attention_dropout: f64,
    /// Dropout in training between the products of a feed-forward; 0.
    #[serde(default)]
    pub activation_dropout: f64,
    /// The old name of `activation_dropout`, which counts where that is 0; 0.
    #[serde(default)]
    pub relu_dropout: f64,
    /// Dropout in training in classification heads; 0.
    #[serde(default)]
    pub pooler_dropout: f64,
    /// The activation of feed-forwards and of the language model's head: `gelu`, `gelu_accurate` (also `gelu_fast`), `relu`, `tanh` or
    /// `linear`; `gelu`.
    #[serde(default = "gelu")]
    pub activation_fn: String,
    /// The activation of classification heads; `tanh`.
    #[serde(default = "tanh")]
    pub pooler_activation_fn: String,
    /// Whether blocks are pre-norm, with a norm after the last; no.
    #[serde(default)]
    pub encoder_normalize_before: bool,
    /// Whether the sum of token and position vectors is normalized; yes.
    #[serde(default = "yes")]
    pub layernorm_embedding: bool,
    /// Whether positions have trained vectors; yes. Refused otherwise.
    #[serde(default = "yes")]
    pub encoder_learned_pos: bool,
    /// Whether token vectors are taken as they are; yes. Refused otherwise.
    #[serde(default = "yes")]
    pub no_scale_embedding: bool,
    /// Whether positions have no vectors; no.
    #[serde(default)]
    pub no_token_positional_embeddings: bool,
    /// Whether the head's weight is another than the token vectors; no.
    #[serde(default)]
    pub untie_weights_roberta: bool,
    /// Whether fairseq keeps the classification heads of a checkpoint; no. Here each is loaded by its name.
    #[serde(default)]
    pub load_checkpoint_heads: bool,
    /// Whether classification heads are normalized spectrally; no. Refused otherwise.
    #[serde(default)]
    pub spectral_norm_classification_head: bool,
    /// Layer dropout in training; 0.
    #[serde(default)]
    pub encoder_layerdrop: f64,
    /// The layers to keep when a checkpoint is pruned; all. Refused otherwise.
    #[serde(default)]
    pub encoder_layers_to_keep: Option<String>,
    /// Product quantization noise; 0. Refused otherwise.
    #[serde(default)]
    pub quant_noise_pq: f64,
    /// The size of that noise's blocks; 8.
    #[serde(default = "number::<8>")]
    pub quant_noise_pq_block_size: usize,
    /// Scalar quantization; 0. Refused otherwise.
    #[serde(default)]
    pub quant_noise_scalar: f64,
    /// Without effect on an encoder but for quantization noise; no.
    #[serde(default)]
    pub adaptive_input: bool,
    /// The weight of a penalty in training; 0.
    #[serde(default)]
    pub mha_reg_scale_factor: f64,
    /// The weight of a penalty in training; 0.
    #[serde(default)]
    pub ffn_reg_scale_factor: f64,
    /// The heads that pruning leaves; −1, all. Refused otherwise.
    #[serde(default = "minus_one")]
    pub mha_heads_to_keep: i64,
    /// The feed-forward blocks that pruning removes; −1, none. Refused otherwise.
    #[serde(default = "minus_one")]
    pub ffn_blocks_to_remove: i64,
    /// How parameters are spread over devices in training.
    #[serde(default)]
    pub min_params_to_wrap: Option<u64>,
    /// Whether training recomputes activations; no.
    #[serde(default)]
    pub checkpoint_activations: bool,
    /// Whether training moves activations to the CPU; no.
    #[serde(default)]
    pub offload_activations: bool,
}

fn tenth() -> f64 {
    0.1
}

fn minus_one() -> i64 {
    -1
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn tanh() -> String {
    "tanh".to_owned()
}

impl RobertaOptions {
    /// Creates the default options of `linformer_roberta_base` for a dictionary of this size and sequences of `max_positions`.
    ///
    /// # Panics
    /// Never: every other option has a default.
    pub fn new(vocab: usize, max_positions: usize) -> Self {
        Self::from_json(&format!(r#"{{"vocab": {vocab}, "max_positions": {max_positions}}}"#)).expect("every other option has a default")
    }

    /// Creates the default options of `linformer_roberta_large`.
    pub fn large(vocab: usize, max_positions: usize) -> Self {
        Self {
            encoder_layers: 24,
            encoder_embed_dim: 1024,
            encoder_ffn_embed_dim: 4096,
            encoder_attention_heads: 16,
            ..Self::new(vocab, max_positions)
        }
    }

    /// Reads options from a JSON object in the names of fairseq's arguments, in addition to `vocab` and `padding_idx`, which describe the dictionary.
    ///
    /// # Errors
    /// Returns an error if an option is unknown (those of the task, the optimizer and the data do not belong to the model) or has the wrong type.
    pub fn from_json(json: &str) -> Result<Self> {
        parse("fairseq::RobertaOptions", json)
    }

    /// Returns the configuration of the language model that these options describe, of the current version.
    ///
    /// # Errors
    /// Returns an error if the options describe no model or are refused.
    pub fn config(&self) -> Result<LanguageModelConfig> {
        self.check()?;
        self.config_in(Layout::new(self, self.encoder_normalize_before))
    }

    /// Returns the options of the model that computes what one of `config` does.
    ///
    /// # Errors
    /// Returns an error if this class cannot express the model; the error names the option that it lacks.
    pub fn of(config: &LanguageModelConfig) -> Result<Self> {
        let AttentionKind::Linformer(attention) = &config.encoder.attention else {
            return Err(refused(
                "attention",
                "the model's is exact or causal, which this class does not have",
            ));
        };
        let Some(feed_forward) = &config.encoder.feed_forward else {
            return Err(refused("feed_forward", "the model has none, and this class always has"));
        };
        // All layers may share E = F, so that it does not matter what `shared_kv_compressed` says then.
        let sharing = attention.projection.effective_sharing();
        let is_pre = config.encoder.norm == NormPlacement::Pre;
        let options = Self {
            padding_idx: config.zeroed_token.unwrap_or(1),
            encoder_layers: config.encoder.depth,
            encoder_embed_dim: attention.attention.dim,
            encoder_ffn_embed_dim: feed_forward.ff_dim,
            encoder_attention_heads: attention.attention.heads,
            compressed: attention.seq_len / attention.k.max(1),
            shared_kv_compressed: usize::from(matches!(sharing, Sharing::KeyValue | Sharing::Layerwise)),
            shared_layer_kv_compressed: usize::from(sharing == Sharing::Layerwise),
            freeze_compress: usize::from(attention.projection.kind == ProjectionKind::Random),
            activation_fn: activation_name(feed_forward.activation)?.to_owned(),
            encoder_normalize_before: is_pre,
            layernorm_embedding: config.embedding_norm,
            no_token_positional_embeddings: config.position == PositionKind::None,
            untie_weights_roberta: matches!(config.head, HeadKind::Roberta { tied: false, .. }),
            ..Self::new(config.vocab_size, attention.seq_len)
        };
        let mut spelled_out = config.clone();
        spelled_out.encoder.attention = explicit(attention).into();
        let layout = Layout::new(&options, is_pre && config.encoder.final_norm);
        options.check()?;
        check_same(PEER, &spelled_out, &options.config_in(layout)?)?;
        Ok(options)
    }

    /// The longest sequence.
    fn seq_len(&self) -> Result<usize> {
        self.max_positions.or(self.tokens_per_sample).ok_or_else(|| {
            Error::argument(
                "fairseq",
                "neither `max_positions` nor `tokens_per_sample` says how long the sequences may be",
            )
        })
    }

    fn compression(&self) -> Result<Compression> {
        Ok(Compression {
            dim: self.encoder_embed_dim,
            heads: self.encoder_attention_heads,
            seq_len: self.seq_len()?,
            compressed: self.compressed,
            bias: true,
            frozen: flag("freeze_compress", self.freeze_compress)?,
        })
    }

    pub(super) fn k(&self) -> Result<usize> {
        self.compression()?.k()
    }

    pub(super) fn pooler_activation(&self) -> Result<Activation> {
        activation("pooler_activation_fn", &self.pooler_activation_fn)
    }

    /// The language model of a state dict that is laid out like this.
    pub(super) fn config_in(&self, layout: Layout) -> Result<LanguageModelConfig> {
        let activation = activation("activation_fn", &self.activation_fn)?;
        let sharing = match layout.matrices {
            Matrices::Two => Sharing::Headwise,
            Matrices::One | Matrices::OneTwice => Sharing::KeyValue,
            Matrices::Encoders => Sharing::Layerwise,
        };
        let norm = if self.encoder_normalize_before {
            NormPlacement::Pre
        } else {
            NormPlacement::Post
        };
        let feed_forward = FeedForwardConfig::new(self.encoder_ffn_embed_dim).with_activation(activation);
        let encoder = EncoderConfig::new(self.compression()?.config(sharing)?, self.encoder_layers)
            .with_feed_forward(Some(feed_forward))
            .with_norm(norm)
            .with_final_norm(layout.final_norm);
        let position = if self.no_token_positional_embeddings {
            PositionKind::None
        } else {
            PositionKind::LearnedAfterPadding {
                max_len: self.seq_len()?,
                padding_token: self.padding_idx,
            }
        };
        let head = HeadKind::Roberta {
            tied: layout.tied_head,
            activation,
        };
        let config = LanguageModelConfig::new(self.vocab, encoder)
            .with_position(position)
            .with_embedding_norm(self.layernorm_embedding)
            .with_zeroed_token(Some(self.padding_idx))
            .with_head(head);
        config.check()?;
        Ok(config)
    }

    /// An error for options that change what is computed and are not reproduced.
    pub(super) fn check(&self) -> Result<()> {
        for (option, is_refused, reason) in [
            (
                "encoder_learned_pos",
                !self.encoder_learned_pos && !self.no_token_positional_embeddings,
                "no command line sets it to false, and this crate does not have fairseq's sinusoids (in f32, counted from the padding token on)",
            ),
            (
                "no_scale_embedding",
                !self.no_scale_embedding,
                "no command line sets it to false, and this crate does not scale token vectors",
            ),
            (
                "spectral_norm_classification_head",
                self.spectral_norm_classification_head,
                "classification heads are not normalized here",
            ),
            (
                "encoder_layers_to_keep",
                self.encoder_layers_to_keep.is_some(),
                "it prunes the checkpoint; save the pruned model and give the number of its layers as encoder_layers",
            ),
            (
                "quant_noise_pq",
                self.quant_noise_pq != 0.0,
                "fairseq then has another product after the token vectors, which this crate does not have",
            ),
            (
                "quant_noise_scalar",
                self.quant_noise_scalar != 0.0,
                "fairseq then computes with weights rounded to eight bits",
            ),
            (
                "mha_heads_to_keep",
                self.mha_heads_to_keep != -1,
                "pruned layers differ in their number of heads",
            ),
            (
                "ffn_blocks_to_remove",
                self.ffn_blocks_to_remove != -1,
                "pruned layers differ in the width of their feed-forwards",
            ),
        ] {
            if is_refused {
                return Err(refused(option, reason));
            }
        }
        flag("shared_kv_compressed", self.shared_kv_compressed)?;
        flag("shared_layer_kv_compressed", self.shared_layer_kv_compressed)?;
        self.check_rates()?;
        self.pooler_activation().map(|_| ())
    }

    fn check_rates(&self) -> Result<()> {
        for (option, rate) in [
            ("dropout", self.dropout),
            ("attention_dropout", self.attention_dropout),
            ("activation_dropout", self.activation_dropout),
            ("relu_dropout", self.relu_dropout),
            ("pooler_dropout", self.pooler_dropout),
            ("encoder_layerdrop", self.encoder_layerdrop),
        ] {
            check_rate(option, rate)?;
        }
        Ok(())
    }
}
