//! Whether `tokenizer.json` and `tokenizer_config.json` say the same.

use std::path::Path;

use serde_json::Value;

use crate::error::{Error, Result};

/// The options of BERT's normalizer: their names in `tokenizer_config.json` and in `tokenizer.json`.
const OPTIONS: [(&str, &str); 3] = [
    ("do_lower_case", "lowercase"),
    ("strip_accents", "strip_accents"),
    ("tokenize_chinese_chars", "handle_chinese_chars"),
];

/// Returns an error where the configuration asks for another normalization of texts than the tokenizer has: the Python packages `tokenizers` and
/// `transformers` give different ids then.
pub(super) fn check(tokenizer: &str, config: &str, config_path: &Path) -> Result<()> {
    let config: Value = serde_json::from_str(config).map_err(|error| Error::malformed(config_path, error))?;
    // What is no JSON is refused by the tokenizer itself.
    let Ok(tokenizer) = serde_json::from_str::<Value>(tokenizer) else {
        return Ok(());
    };
    let normalizer = &tokenizer["normalizer"];
    if normalizer["type"] != "BertNormalizer" {
        return Ok(());
    }
    for (in_config, in_tokenizer) in OPTIONS {
        let (asked, done) = (&config[in_config], &normalizer[in_tokenizer]);
        if asked.is_boolean() && asked != done {
            let reason = format!(
                "tokenizer.json has `{in_tokenizer}` {done}, so that it is not clear how the model was trained; make both files say the same"
            );
            return Err(Error::refused(config_path, format!("{in_config}: {asked}"), reason));
        }
    }
    Ok(())
}
