//! Foreign files in every way that people save them: lent and given away, tied tensors stored once, names with prefixes.

use std::collections::BTreeMap;

use crate::common::small_model;
use linformer::checkpoint::{Checkpoint, Tensors, fairseq, lucidrains, rifath95, tatp22};
use linformer::ndarray::{ArrayD, Axis};
use linformer::{Classifier, Decoder, DecoderLanguageModel, Encoder, Error, FeedForward, LanguageModel, LinformerAttention, Parameters};
use serde_json::json;

type Bits = Vec<(String, Vec<u64>)>;
type Load = Box<dyn Fn(Source) -> Result<Bits, Error>>;

/// Tensors lent or given away to a loader.
enum Source<'t> {
    Lent(&'t Tensors<f64>),
    Given(Tensors<f64>),
}

/// A state dict and the loader of its class.
struct Case {
    name: String,
    tensors: Tensors<f64>,
    load: Load,
}

fn bits(model: &impl Parameters<f64>) -> Bits {
    let named = model.named().into_iter();
    named
        .map(|(name, tensor)| (name, tensor.iter().map(|x| x.to_bits()).collect()))
        .collect()
}

/// A case: its name, its tensors, and what loads them.
macro_rules! case {
    ($name:expr, $tensors:expr, |$given:ident| $load:expr) => {
        Case {
            name: $name.to_string(),
            tensors: $tensors.unwrap(),
            load: Box::new(move |source| match source {
                Source::Lent($given) => $load.map(|model| bits(&model)),
                Source::Given($given) => $load.map(|model| bits(&model)),
            }),
        }
    };
}

fn lucidrains_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for share_kv in [false, true] {
        let json = json!({"dim": 8, "seq_len": 6, "k": 3, "heads": 2, "share_kv": share_kv});
        let options = lucidrains::Options::from_json(&json.to_string()).unwrap();
        let layer = LinformerAttention::new(&options.attention_config().unwrap(), 1).unwrap();
        let given = options.clone();
        cases.push(case!("lucidrains::attention", lucidrains::attention_state_dict(&layer), |t| {
            lucidrains::attention(t, &given)
        }));
        for reversible in [false, true] {
            let mut options = options.clone();
            (options.depth, options.reversible) = (Some(2), reversible);
            let encoder = Encoder::new(&options.encoder_config().unwrap(), 1).unwrap();
            let given = options.clone();
            cases.push(case!("lucidrains::linformer", lucidrains::linformer_state_dict(&encoder), |t| {
                lucidrains::linformer(t, &given)
            }));
            options.num_tokens = Some(9);
            let model = LanguageModel::new(&options.language_model_config().unwrap(), 1).unwrap();
            cases.push(case!(
                "lucidrains::language_model",
                lucidrains::language_model_state_dict(&model),
                |t| { lucidrains::language_model(t, &options) }
            ));
        }
    }
    let options = lucidrains::FeedForwardOptions::from_json(r#"{"dim": 8}"#).unwrap();
    let layer = FeedForward::new(8, 8, &options.config().unwrap(), 1).unwrap();
    cases.push(case!(
        "lucidrains::feed_forward",
        lucidrains::feed_forward_state_dict(&layer),
        |t| { lucidrains::feed_forward(t, &options) }
    ));
    cases
}

fn tatp22_cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let sharings = ["none", "headwise", "kv", "layerwise"];
    let methods = |sharing| ["learnable", "convolution", "no_params"].map(|method| (sharing, method));
    for (sharing, method) in sharings.into_iter().flat_map(methods) {
        for full in [false, true] {
            let json = json!({"input_size": 6, "channels": 8, "dim_k": 3, "nhead": 2, "depth": 2, "parameter_sharing": sharing,
                "method": method, "full_attention": full});
            let mut options = tatp22::LinformerOptions::from_json(&json.to_string()).unwrap();
            let name = |what: &str| format!("tatp22::{what} {sharing} {method} {full}");
            let encoder = Encoder::new(&options.encoder_config().unwrap(), 1).unwrap();
            let given = options.clone();
            cases.push(case!(name("linformer"), tatp22::linformer_state_dict(&encoder, &options), |t| {
                tatp22::linformer(t, &given)
            }));
            options.decoder_mode = true;
            let decoder = Decoder::new(&options.decoder_config().unwrap(), 1).unwrap();
            cases.push(case!(name("decoder"), tatp22::decoder_state_dict(&decoder, &options), |t| {
                tatp22::decoder(t, &options)
            }));
            let mut json = json.clone();
            (json["num_tokens"], json["emb_dim"]) = (json!(9), json!(6));
            let mut options = tatp22::LinformerLMOptions::from_json(&json.to_string()).unwrap();
            let model = LanguageModel::new(&options.language_model_config().unwrap(), 1).unwrap();
            let given = options.clone();
            cases.push(case!(
                name("language_model"),
                tatp22::language_model_state_dict(&model, &options),
                |t| { tatp22::language_model(t, &given) }
            ));
            options.decoder_mode = true;
            let model = DecoderLanguageModel::new(&options.decoder_language_model_config().unwrap(), 1).unwrap();
            cases.push(case!(
                name("decoder_language_model"),
                tatp22::decoder_language_model_state_dict(&model, &options),
                |t| tatp22::decoder_language_model(t, &options)
            ));
        }
    }
    cases
}

/// The tensors of a new fairseq state dict under its old names, queries, keys and values in one.
fn old(tensors: &Tensors<f64>) -> Tensors<f64> {
    let mut old = Tensors::new();
    for name in tensors.names() {
        let tensor = tensors.get(name).unwrap();
        let renamed = name
            .replacen("encoder.", "decoder.", 1)
            .replace(".layernorm_embedding.", ".emb_layer_norm.");
        if name.contains("q_proj") {
            let parts = ["q_proj", "k_proj", "v_proj"].map(|part| tensors.get(&name.replace("q_proj", part)).unwrap());
            let joined = linformer::ndarray::concatenate(Axis(0), &parts).unwrap();
            old.insert(renamed.replace("q_proj.", "in_proj_"), joined).unwrap();
        } else if !name.contains("k_proj") && !name.contains("v_proj") {
            old.insert(renamed, tensor.to_owned()).unwrap();
        }
    }
    old
}

fn fairseq_cases() -> Vec<Case> {
    let options = fairseq::AttentionOptions::from_json(
        r#"{"embed_dim": 8, "num_heads": 2, "max_seq_len": 6, "compressed": 2, "self_attention": true}"#,
    )
    .unwrap();
    let layer = LinformerAttention::new(&options.config().unwrap(), 1).unwrap();
    let mut cases = vec![case!("fairseq::attention", fairseq::attention_state_dict(&layer), |t| {
        fairseq::attention(t, &options)
    })];
    for shared in [0, 1] {
        let json = json!({"vocab": 9, "max_positions": 6, "encoder_layers": 2, "encoder_embed_dim": 8, "encoder_ffn_embed_dim": 5,
            "encoder_attention_heads": 2, "compressed": 2, "shared_layer_kv_compressed": shared, "shared_kv_compressed": shared});
        let options = fairseq::RobertaOptions::from_json(&json.to_string()).unwrap();
        let model = LanguageModel::new(&options.config().unwrap(), 1).unwrap();
        let state = fairseq::linformer_roberta_state_dict(&model).unwrap();
        let given = options.clone();
        cases.push(case!("fairseq old", Ok::<_, Error>(old(&state)), |t| fairseq::linformer_roberta(
            t, &given
        )));
        let mut headed = state.clone();
        for (name, shape) in [
            ("dense.weight", vec![4, 8]),
            ("dense.bias", vec![4]),
            ("out_proj.weight", vec![3, 4]),
            ("out_proj.bias", vec![3]),
        ] {
            headed
                .insert(format!("classification_heads.x.{name}"), ArrayD::from_elem(shape, 0.5))
                .unwrap();
        }
        let given = options.clone();
        cases.push(case!("fairseq::classifier", Ok::<_, Error>(headed), |t| fairseq::classifier(
            t, &given, "x"
        )));
        cases.push(case!("fairseq::linformer_roberta", Ok::<_, Error>(state), |t| {
            fairseq::linformer_roberta(t, &options)
        }));
    }
    cases
}

fn cases() -> Vec<Case> {
    let mut cases = lucidrains_cases();
    cases.extend(tatp22_cases());
    cases.extend(fairseq_cases());
    for share in [false, true] {
        let json = json!({"vocab": 9, "d_hidden": 8, "n_heads": 2, "n_layers": 2, "block_size": 8, "num_global_blocks": 2,
            "share_E_F_across_heads": share});
        let options = rifath95::Options::from_json(&json.to_string()).unwrap();
        let model = LanguageModel::new(&options.config().unwrap(), 1).unwrap();
        cases.push(case!("rifath95", rifath95::language_model_state_dict(&model, &options), |t| {
            rifath95::language_model(t, &options)
        }));
    }
    let native = Tensors::from_bytes(&small_model().to_bytes().unwrap());
    cases.push(case!("native", native, |t| {
        #[allow(clippy::redundant_clone)] // one of the two ways has it by reference
        let tensors: Tensors<f64> = t.clone();
        let mut model = small_model();
        model.visit_mut("", &mut |_, _, mut tensor| tensor.fill(f64::NAN));
        model.load_parameters(&tensors).map(|()| model)
    }));
    cases
}

impl Case {
    fn lent(&self, tensors: &Tensors<f64>) -> Result<Bits, Error> {
        (self.load)(Source::Lent(tensors))
    }

    /// The sentence that comes before the list.
    fn first_problem(&self, tensors: &Tensors<f64>) -> String {
        match self.lent(tensors) {
            Err(Error::Checkpoint { problems }) => problems[0].clone(),
            other => panic!(
                "{}: expected a checkpoint that does not fit, got {:?}",
                self.name,
                other.map(|_| ())
            ),
        }
    }

    fn renamed(&self, rename: impl Fn(&str) -> String) -> Tensors<f64> {
        let mut renamed = Tensors::new();
        for name in self.tensors.names() {
            renamed.insert(rename(name), self.tensors.get(name).unwrap().to_owned()).unwrap();
        }
        renamed
    }
}

#[test]
fn tensors_given_away_make_the_same_model() {
    for case in cases() {
        let lent = case.lent(&case.tensors).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let given = (case.load)(Source::Given(case.tensors.clone())).unwrap();
        assert_eq!(lent, given, "{}", case.name);
        assert!(lent.iter().flat_map(|(_, bits)| bits).any(|&bits| bits != 0));
    }
}

#[test]
fn tensors_stored_once_with_other_names_load_as_all_of_them() {
    let mut pairs = 0;
    for case in cases() {
        // All tensors of a shape are made one, so that every pair of names is tried; versions are none.
        let mut first_of: BTreeMap<Vec<usize>, String> = BTreeMap::new();
        let (mut all, mut once) = (Tensors::new(), Tensors::new());
        // Of any two names either may be the one that is kept.
        let mut names: Vec<&str> = case.tensors.names().collect();
        if case.name.len().is_multiple_of(2) {
            names.reverse();
        }
        for name in names {
            let tensor = case.tensors.get(name).unwrap().to_owned();
            if name.ends_with("version") {
                all.insert(name, tensor.clone()).unwrap();
                once.insert(name, tensor).unwrap();
                continue;
            }
            let first = first_of.entry(tensor.shape().to_vec()).or_insert_with(|| name.to_owned());
            all.insert(name, case.tensors.get(first).unwrap().to_owned()).unwrap();
            if first == name {
                once.insert(name, tensor).unwrap();
            } else {
                once.set_metadata(name, first.as_str());
            }
        }
        once.set_metadata("format", "pt");
        pairs += all.len() - once.len();
        let once = Tensors::from_bytes(&once.to_bytes().unwrap()).unwrap();
        let expected = case.lent(&all).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        let loaded = case.lent(&once).unwrap_or_else(|error| panic!("{}: {error}", case.name));
        assert_eq!(loaded, expected, "{}", case.name);
        assert_eq!((case.load)(Source::Given(once)).unwrap(), expected, "{}", case.name);
    }
    assert!(pairs > 1000, "{pairs}");
}

#[test]
fn a_name_for_a_tensor_that_is_not_there_is_none() {
    let mut tensors = Tensors::<f64>::new();
    tensors.insert("a", ArrayD::zeros(vec![2])).unwrap();
    for (key, value) in [("b", "c"), ("c", "b"), ("d", "d"), ("a", "c"), ("e", "a")] {
        tensors.set_metadata(key, value);
    }
    let found = ["a", "b", "c", "d", "e"].map(|name| tensors.get(name).is_some());
    assert_eq!(found, [true, false, false, false, true]);
    assert_eq!((tensors.len(), tensors.dtype("e")), (1, Some("F64")));
    assert_eq!(Tensors::<f64>::from_bytes(&tensors.to_bytes().unwrap()).unwrap().len(), 1);
}

#[test]
fn known_prefixes_are_named() {
    // fairseq's old names are made today's by how they begin, so that with a prefix they are other names.
    for case in cases().into_iter().filter(|case| case.name != "fairseq old") {
        for prefix in ["module.", "_orig_mod.", "model.", "model.module.", "any.thing."] {
            let sentence = case.first_problem(&case.renamed(|name| format!("{prefix}{name}")));
            let part = if prefix == "model.module." { "module." } else { prefix };
            assert!(
                sentence.contains(&format!("`{part}`")) && sentence.contains("would fit"),
                "{}: {sentence}",
                case.name
            );
        }
        if case.tensors.names().all(|name| name.contains('.')) {
            let sentence = case.first_problem(&case.renamed(|name| name.replacen('.', "._orig_mod.", 1)));
            assert!(
                sentence.contains("`_orig_mod.` in them (torch.compile"),
                "{}: {sentence}",
                case.name
            );
        }
        let sentence = case.first_problem(&case.renamed(|name| format!("{name}x")));
        assert!(!sentence.contains("would fit"), "{}: {sentence}", case.name);
    }
}

#[test]
fn a_classifier_takes_only_its_own_head() {
    let case = fairseq_cases().into_iter().find(|case| case.name == "fairseq::classifier").unwrap();
    let options = r#"{"vocab": 9, "max_positions": 6, "encoder_layers": 2, "encoder_embed_dim": 8, "encoder_ffn_embed_dim": 5,
        "encoder_attention_heads": 2, "compressed": 2}"#;
    let options = fairseq::RobertaOptions::from_json(options).unwrap();
    let model: Classifier<f64> = fairseq::classifier(case.tensors, &options, "x").unwrap();
    assert_eq!(model.config().classes, 3);
}
