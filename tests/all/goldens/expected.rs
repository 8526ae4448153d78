//! What is expected of each file: its output, a refusal, or nothing yet.

use super::case::Case;

/// What is expected of a file.
#[derive(Debug, PartialEq)]
pub enum Expected {
    /// The output in the file.
    Match,
    /// The output in the file, or an error by name: for files that are not this crate's own and do not say.
    MatchOrRefused,
    /// An error by name: the peer computes something else than it says, or something that no model needs.
    Refused,
    /// What the crate does not have yet; the output is checked where it is there already.
    Later,
}

/// Files that say nothing of their own, and whose output is not to be matched.
const REFUSED: &[&str] = &[
    "fairseq_attn_add_bias_kv",
    "fairseq_attn_add_bias_kv_zero",
    "fairseq_attn_add_zero",
    "fairseq_attn_bias_kv_zero_grad",
    "fairseq_attn_encoder_decoder",
    "fairseq_attn_plain",
    "fairseq_attn_shared_kv_bias_kv",
    "fairseq_roberta_scale_embedding",
    "fairseq_roberta_sinusoidal",
    "tat_causal",
    "tat_embeddings_mask",
    "tat_encdec",
];

/// Files that say nothing of their own, or ask for a match, and wait for what the crate does not have yet.
const LATER: &[&str] = &["fairseq_attn_attn_mask"];

pub fn expected(case: &Case, is_own: bool) -> Expected {
    let name = case.name.as_str();
    let own = case
        .has("expect")
        .then(|| case.key("expect").as_str().expect("`expect` is a string"));
    match own {
        _ if REFUSED.contains(&name) => Expected::Refused,
        _ if LATER.contains(&name) => Expected::Later,
        None if !is_own => Expected::MatchOrRefused,
        None | Some("match") => Expected::Match,
        Some("refuse") => Expected::Refused,
        Some("later") => Expected::Later,
        Some(other) => panic!("{name}: `expect` is {other}"),
    }
}
