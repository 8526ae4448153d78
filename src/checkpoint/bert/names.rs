//! Names of tensors, and which tensors are left out.

use super::super::foreign::Entry;
use super::super::tensors::Tensors;
use super::options::{ModelType, Options};
use crate::parameters::join;
use crate::scalar::Scalar;

/// Parts of an architecture's names.
struct Parts {
    /// What stands before the names of the encoder where a head is beside it.
    prefix: &'static str,
    blocks: &'static str,
    /// Those of a block: ours, and theirs.
    layers: [(&'static str, &'static str); 6],
    norms: [(&'static str, &'static str); 2],
    /// What the names of the heads begin with.
    heads: &'static [&'static str],
}

const BERT: Parts = Parts {
    prefix: "bert.",
    blocks: "encoder.layer",
    layers: [
        ("attention.query", "attention.self.query"),
        ("attention.key", "attention.self.key"),
        ("attention.value", "attention.self.value"),
        ("attention.output", "attention.output.dense"),
        ("feed_forward.input", "intermediate.dense"),
        ("feed_forward.output", "output.dense"),
    ],
    norms: [
        ("attention_norm", "attention.output.LayerNorm"),
        ("feed_forward.norm", "output.LayerNorm"),
    ],
    heads: &["cls.predictions.", "cls.seq_relationship.", "classifier.", "qa_outputs."],
};

const ROBERTA: Parts = Parts {
    prefix: "roberta.",
    heads: &["lm_head.", "classifier.", "qa_outputs."],
    ..BERT
};

const ELECTRA: Parts = Parts {
    prefix: "electra.",
    heads: &[
        "generator_predictions.",
        "generator_lm_head.",
        "discriminator_predictions.",
        "sequence_summary.",
        "classifier.",
        "qa_outputs.",
    ],
    ..BERT
};

const DISTILBERT: Parts = Parts {
    prefix: "distilbert.",
    blocks: "transformer.layer",
    layers: [
        ("attention.query", "attention.q_lin"),
        ("attention.key", "attention.k_lin"),
        ("attention.value", "attention.v_lin"),
        ("attention.output", "attention.out_lin"),
        ("feed_forward.input", "ffn.lin1"),
        ("feed_forward.output", "ffn.lin2"),
    ],
    norms: [("attention_norm", "sa_layer_norm"), ("feed_forward.norm", "output_layer_norm")],
    heads: &[
        "vocab_transform.",
        "vocab_layer_norm.",
        "vocab_projector.",
        "pre_classifier.",
        "classifier.",
        "qa_outputs.",
    ],
};

/// The names of a file.
pub(super) struct Names<'t, A: Scalar> {
    options: &'t Options,
    tensors: &'t Tensors<A>,
    parts: Parts,
    /// What stands before the names of the encoder in this file.
    prefix: &'static str,
}

impl<'t, A: Scalar> Names<'t, A> {
    pub(super) fn new(options: &'t Options, tensors: &'t Tensors<A>) -> Self {
        let parts = match options.model_type {
            ModelType::Bert => BERT,
            ModelType::Roberta | ModelType::XlmRoberta => ROBERTA,
            ModelType::DistilBert => DISTILBERT,
            ModelType::Electra => ELECTRA,
        };
        let is_prefixed = tensors.names().any(|name| name.starts_with(parts.prefix));
        let prefix = if is_prefixed { parts.prefix } else { "" };
        Self {
            options,
            tensors,
            parts,
            prefix,
        }
    }

    /// The name of one of the encoder's tensors.
    fn own(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn has(&self, name: &str) -> bool {
        self.tensors.stored_name(name).is_some()
    }

    /// The weight and the bias of a norm, which old files call `gamma` and `beta`.
    fn norm(&self, native: &str, foreign: &str) -> [Entry; 2] {
        [("weight", "gamma"), ("bias", "beta")].map(|(field, old)| {
            let (new, old) = (join(foreign, field), join(foreign, old));
            let stored = if self.has(&old) && !self.has(&new) { old } else { new };
            Entry::new(join(native, field), stored)
        })
    }

    /// A tensor that the file may have under any of these names, or all, or none of the later ones.
    fn repeated(&self, native: &str, names: [String; 2]) -> Entry {
        let [first, second] = names;
        match (self.has(&first), self.has(&second)) {
            (true, true) => Entry::tied(native, vec![first, second]),
            (false, true) => Entry::new(native, second),
            _ => Entry::new(native, first),
        }
    }

    /// Everything but heads and token vectors.
    fn body(&self) -> Vec<Entry> {
        let mut entries = vec![Entry::new("position.weight", self.own("embeddings.position_embeddings.weight"))];
        if self.options.type_vocab_size.is_some() {
            entries.push(Entry::new(
                "token_types.weight",
                self.own("embeddings.token_type_embeddings.weight"),
            ));
        }
        entries.extend(self.norm("embedding_norm", &self.own("embeddings.LayerNorm")));
        if self.options.embedding_size != self.options.hidden_size {
            entries.extend(Entry::layer("project_in", &self.own("embeddings_project"), true));
        }
        for index in 0..self.options.num_hidden_layers {
            let native = format!("encoder.blocks.{index}");
            let foreign = self.own(&format!("{}.{index}", self.parts.blocks));
            for (ours, theirs) in self.parts.layers {
                entries.extend(Entry::layer(&join(&native, ours), &join(&foreign, theirs), true));
            }
            for (ours, theirs) in self.parts.norms {
                entries.extend(self.norm(&join(&native, ours), &join(&foreign, theirs)));
            }
        }
        entries
    }

    fn token_vectors(&self) -> String {
        self.own("embeddings.word_embeddings.weight")
    }

    pub(super) fn encoder(&self) -> Vec<Entry> {
        let mut entries = self.body();
        entries.push(Entry::new("embedding.weight", self.token_vectors()));
        entries
    }

    pub(super) fn masked_language_model(&self) -> Vec<Entry> {
        let (dense, norm, weight, bias) = match self.options.model_type {
            ModelType::Bert => (
                "cls.predictions.transform.dense",
                "cls.predictions.transform.LayerNorm",
                "cls.predictions.decoder.weight",
                ["cls.predictions.bias", "cls.predictions.decoder.bias"],
            ),
            ModelType::Roberta | ModelType::XlmRoberta => (
                "lm_head.dense",
                "lm_head.layer_norm",
                "lm_head.decoder.weight",
                ["lm_head.bias", "lm_head.decoder.bias"],
            ),
            ModelType::DistilBert => (
                "vocab_transform",
                "vocab_layer_norm",
                "vocab_projector.weight",
                ["vocab_projector.bias"; 2],
            ),
            ModelType::Electra => (
                "generator_predictions.dense",
                "generator_predictions.LayerNorm",
                "generator_lm_head.weight",
                ["generator_lm_head.bias"; 2],
            ),
        };
        let mut entries = self.body();
        entries.extend(Entry::layer("head.dense", dense, true));
        entries.extend(self.norm("head.norm", norm));
        entries.push(self.repeated("head.bias", bias.map(str::to_owned)));
        if self.options.tie_word_embeddings {
            // Files have the weight of a tied head or leave it out.
            entries.push(self.repeated("embedding.weight", [self.token_vectors(), weight.to_owned()]));
        } else {
            entries.push(Entry::new("embedding.weight", self.token_vectors()));
            entries.push(Entry::new("head.weight", weight));
        }
        entries
    }

    /// The names of the hidden layer and of the output layer of a sequence classifier.
    fn classifier_layers(&self) -> (String, &'static str) {
        match self.options.model_type {
            ModelType::Bert => (self.pooler(), "classifier"),
            ModelType::DistilBert => ("pre_classifier".to_owned(), "classifier"),
            ModelType::Roberta | ModelType::XlmRoberta | ModelType::Electra => ("classifier.dense".to_owned(), "classifier.out_proj"),
        }
    }

    /// The weight whose rows are the classes.
    pub(super) fn classes(&self) -> String {
        join(self.classifier_layers().1, "weight")
    }

    pub(super) fn classifier(&self) -> Vec<Entry> {
        let (hidden, output) = self.classifier_layers();
        let mut entries = self.encoder();
        entries.extend(Entry::layer("hidden", &hidden, true));
        entries.extend(Entry::layer("output", output, true));
        entries
    }

    pub(super) fn token_classifier(&self) -> Vec<Entry> {
        let mut entries = self.encoder();
        entries.extend(Entry::layer("head", "classifier", true));
        entries
    }

    pub(super) fn pooler(&self) -> String {
        self.own("pooler.dense")
    }

    /// Buffers, and the heads of the file other than those whose names begin with one of `used`.
    pub(super) fn left_out(&self, used: &[&str]) -> Vec<String> {
        let buffers = ["embeddings.position_ids", "embeddings.token_type_ids"].map(|name| self.own(name));
        let pooler = self.own("pooler.");
        let heads = self.parts.heads.iter().copied().filter(|head| !used.contains(head));
        let heads: Vec<&str> = heads.chain((!used.contains(&"pooler.")).then_some(pooler.as_str())).collect();
        let names = self.tensors.names().filter(|name| heads.iter().any(|head| name.starts_with(head)));
        names.map(str::to_owned).chain(buffers).collect()
    }

    /// The names of all tensors but these.
    pub(super) fn all_but(&self, used: &str) -> Vec<String> {
        self.tensors
            .names()
            .filter(|name| !name.starts_with(used))
            .map(str::to_owned)
            .collect()
    }
}
