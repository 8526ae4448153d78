//! BERT's tokenizer from its vocabulary.

use std::path::Path;

use serde_json::{Map, Value, json};
use tokenizers::Tokenizer;

use crate::error::{Error, Result};

/// Classes whose `vocab.txt` is BERT's.
const CLASSES: [&str; 6] = [
    "BertTokenizer",
    "BertTokenizerFast",
    "DistilBertTokenizer",
    "DistilBertTokenizerFast",
    "ElectraTokenizer",
    "ElectraTokenizerFast",
];

/// The special tokens: their options, and what they are by default.
const SPECIAL: [(&str, &str); 5] = [
    ("pad_token", "[PAD]"),
    ("unk_token", "[UNK]"),
    ("cls_token", "[CLS]"),
    ("sep_token", "[SEP]"),
    ("mask_token", "[MASK]"),
];

pub(super) fn build(vocabulary: &str, config: &str, config_path: &Path) -> Result<Tokenizer> {
    let config: Value = serde_json::from_str(config).map_err(|error| Error::malformed(config_path, error))?;
    refuse_others(&config, config_path)?;
    let vocabulary = ids_of(vocabulary);
    let special = special_tokens(&config, &vocabulary, config_path)?;
    let flag = |option: &str| config[option].as_bool().unwrap_or(true);
    let [_, unknown, first, separator, _] = &special;
    let description = json!({
        "version": "1.0",
        "added_tokens": special.iter().map(added).collect::<Vec<_>>(),
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": true,
            "handle_chinese_chars": flag("tokenize_chinese_chars"),
            "strip_accents": config["strip_accents"].as_bool(),
            "lowercase": flag("do_lower_case"),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": [separator.0, separator.1], "cls": [first.0, first.1]},
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown.0,
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
    });
    Tokenizer::from_bytes(description.to_string()).map_err(|error| Error::tokenizer("vocab.txt", error))
}

/// The ids of tokens, one a line; of a token that is there twice, the last, as in Python.
fn ids_of(vocabulary: &str) -> Map<String, Value> {
    vocabulary
        .lines()
        .enumerate()
        .map(|(id, token)| (token.to_owned(), id.into()))
        .collect()
}

/// The special tokens with their ids.
fn special_tokens(config: &Value, vocabulary: &Map<String, Value>, config_path: &Path) -> Result<[(String, u64); 5]> {
    let mut special = SPECIAL.map(|(_, token)| (token.to_owned(), 0));
    for ((option, _), (token, id)) in SPECIAL.iter().zip(&mut special) {
        match &config[option] {
            Value::Null => {}
            Value::String(own) => own.clone_into(token),
            Value::Object(own) if own.get("content").is_some_and(Value::is_string) => {
                own["content"].as_str().unwrap_or_default().clone_into(token);
            }
            other => return Err(Error::malformed(config_path, format!("`{option}` must be a token, but is {other}"))),
        }
        let found = vocabulary.get(token).and_then(Value::as_u64);
        *id = found.ok_or_else(|| {
            Error::tokenizer(
                "vocab.txt",
                format!("the special token `{token}` is missing; name another as `{option}` in tokenizer_config.json"),
            )
        })?;
    }
    Ok(special)
}

fn added((token, id): &(String, u64)) -> Value {
    json!({"id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
}

/// Returns an error where the configuration is that of another tokenizer.
fn refuse_others(config: &Value, path: &Path) -> Result<()> {
    let class = &config["tokenizer_class"];
    if class.as_str().is_some_and(|class| !CLASSES.contains(&class)) {
        let reason = "its vocab.txt is not BERT's; save the tokenizer as tokenizer.json (in Python: `tokenizer.save_pretrained` of the fast tokenizer)";
        return Err(Error::refused(path, format!("tokenizer_class: {class}"), reason));
    }
    if config["do_basic_tokenize"] == false {
        return Err(Error::refused(
            path,
            "do_basic_tokenize: false",
            "words are always separated at spaces and punctuation first",
        ));
    }
    if let Some(token) = more_tokens(config) {
        let reason = "vocab.txt is read with BERT's five special tokens only; save the tokenizer as tokenizer.json (in Python: `tokenizer.save_pretrained` of the fast tokenizer)";
        return Err(Error::refused(path, format!("added token {token}"), reason));
    }
    let never = &config["never_split"];
    if !(never.is_null() || never.as_array().is_some_and(Vec::is_empty)) {
        return Err(Error::refused(
            path,
            format!("never_split: {never}"),
            "only special tokens are kept whole",
        ));
    }
    Ok(())
}

/// A token that the configuration adds to BERT's own, if there is one.
fn more_tokens(config: &Value) -> Option<&Value> {
    let names = |token: &Value| -> Option<String> { token.as_str().or(token["content"].as_str()).map(str::to_owned) };
    let own: Vec<_> = SPECIAL
        .iter()
        .map(|&(option, token)| names(&config[option]).unwrap_or_else(|| token.to_owned()))
        .collect();
    let listed = config["additional_special_tokens"].as_array().into_iter().flatten();
    let decoded = config["added_tokens_decoder"].as_object().into_iter().flat_map(Map::values);
    listed
        .chain(decoded)
        .find(|token| names(token).is_none_or(|name| !own.contains(&name)))
}
