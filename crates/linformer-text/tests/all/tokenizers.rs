//! The same tokens as in Python.

use std::path::PathBuf;

use linformer_text::{Error, Tokenizer, Tokens};

use crate::texts::{COUNT, texts};

const WORD_PIECE: &str = include_str!("../fixtures/word_piece.json");
const IDS: &str = include_str!("../fixtures/ids.txt");

/// FNV-1a of numbers of four bytes, as tools/make_tokenizers.py computes it.
fn digest(numbers: impl IntoIterator<Item = usize>) -> String {
    let bytes = numbers.into_iter().flat_map(|number| u32::try_from(number).unwrap().to_le_bytes());
    let step = |value: u64, byte: u8| (value ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    format!("{:08x}", bytes.fold(0xcbf2_9ce4_8422_2325, step) & 0xffff_ffff)
}

fn of_single(tokens: &Tokens) -> String {
    let places = (0..tokens.len())
        .filter_map(|token| tokens.bytes(token))
        .flat_map(|bytes| [bytes.start, bytes.end]);
    digest(tokens.ids().iter().chain(tokens.types()).copied().chain(places))
}

fn of_pair(tokens: &Tokens) -> String {
    digest(tokens.ids().iter().chain(tokens.types()).copied())
}

/// Compares with the digests in the columns after that of the text, of which `tokenizer` is the one at `index`.
fn check(tokenizer: &Tokenizer, ids: &str, index: usize) {
    let texts = texts();
    let lines: Vec<Vec<&str>> = ids.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.len(), COUNT);
    let mut wrong = Vec::new();
    for (number, (text, line)) in texts.iter().zip(&lines).enumerate() {
        assert_eq!(
            digest(text.bytes().map(usize::from)),
            line[0],
            "text {number} is generated differently: {text:?}"
        );
        let single = of_single(&tokenizer.encode(text).unwrap());
        let pair = of_pair(&tokenizer.encode_pair(text, &texts[(number + 1) % COUNT]).unwrap());
        if single != line[1 + 2 * index] || pair != line[2 + 2 * index] {
            wrong.push(format!("{number}: {text:?}: {:?}", tokenizer.encode(text).unwrap()));
        }
        assert_eq!(tokenizer.count(text).unwrap(), tokenizer.encode(text).unwrap().len());
    }
    assert!(
        wrong.is_empty(),
        "{} of {COUNT} texts have other tokens:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
fn word_pieces_are_those_of_python() {
    check(&Tokenizer::from_json(WORD_PIECE).unwrap(), IDS, 0);
}

#[test]
fn byte_level_tokens_are_those_of_python() {
    check(&Tokenizer::from_json(include_str!("../fixtures/byte_level.json")).unwrap(), IDS, 1);
}

#[test]
fn unigrams_are_those_of_python() {
    check(&Tokenizer::from_json(include_str!("../fixtures/unigram.json")).unwrap(), IDS, 2);
}

#[test]
fn a_vocabulary_alone_gives_the_same_tokens() {
    check(&Tokenizer::from_vocabulary(&vocabulary(), "{}").unwrap(), IDS, 0);
}

#[test]
fn truncation_and_padding_of_the_file_are_off() {
    let tokenizer = Tokenizer::from_json(WORD_PIECE).unwrap();
    assert_eq!(tokenizer.truncation(), Some(16));
    assert_eq!(tokenizer.encode(&"sea ".repeat(100)).unwrap().len(), 102);
    assert_eq!(tokenizer.encode("").unwrap().len(), 2);
    let again = Tokenizer::from_json(&tokenizer.to_json().unwrap()).unwrap();
    assert_eq!(again.truncation(), None);
    check(&again, IDS, 0);
}

/// The vocabulary of the fixture, one token a line.
fn vocabulary() -> String {
    let tokenizer = Tokenizer::from_json(WORD_PIECE).unwrap();
    let tokens = (0..tokenizer.vocab_size()).map(|id| tokenizer.id_to_token(id).unwrap() + "\n");
    tokens.collect()
}

#[test]
fn options_of_vocabularies_are_followed_or_refused() {
    let vocabulary = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nsea\nSea\n海\n<eos>\n";
    let ids = |config: &str| {
        Tokenizer::from_vocabulary(vocabulary, config)
            .unwrap()
            .encode("Sea 海海")
            .unwrap()
            .ids()
            .to_vec()
    };
    assert_eq!(ids("{}"), [2, 5, 7, 7, 3]);
    assert_eq!(ids(r#"{"do_lower_case": false}"#), [2, 6, 7, 7, 3]);
    assert_eq!(ids(r#"{"tokenize_chinese_chars": false}"#), [2, 5, 1, 3]);
    assert_eq!(ids(r#"{"sep_token": {"content": "<eos>"}}"#), [2, 5, 7, 7, 8]);
    for (config, option) in [
        (r#"{"tokenizer_class": "MPNetTokenizer"}"#, "tokenizer_class"),
        (r#"{"do_basic_tokenize": false}"#, "do_basic_tokenize"),
        (r#"{"never_split": ["sea"]}"#, "never_split"),
        (r#"{"additional_special_tokens": ["<eos>"]}"#, "<eos>"),
        (
            r#"{"added_tokens_decoder": {"0": {"content": "[PAD]"}, "8": {"content": "<eos>"}}}"#,
            "<eos>",
        ),
    ] {
        let error = Tokenizer::from_vocabulary(vocabulary, config).unwrap_err();
        assert!(
            matches!(&error, Error::Refused { option: found, .. } if found.contains(option)),
            "{error}"
        );
    }
    let error = Tokenizer::from_vocabulary(vocabulary, r#"{"cls_token": "<cls>"}"#).unwrap_err();
    assert!(error.to_string().contains("`<cls>` is missing"), "{error}");
    assert!(Tokenizer::from_vocabulary(vocabulary, r#"{"cls_token": 3}"#).is_err());
    assert!(Tokenizer::from_json("{}").is_err());
}

/// With LINFORMER_TEXT_MODEL, a model's folder, and LINFORMER_TEXT_IDS, what `tools/make_tokenizers.py --ids-of FOLDER` printed.
#[test]
fn a_real_tokenizer_has_the_tokens_of_python() {
    let (Some(folder), Some(ids)) = (std::env::var_os("LINFORMER_TEXT_MODEL"), std::env::var_os("LINFORMER_TEXT_IDS")) else {
        println!("left out: set LINFORMER_TEXT_MODEL and LINFORMER_TEXT_IDS");
        return;
    };
    let folder = PathBuf::from(folder);
    let ids = std::fs::read_to_string(ids).unwrap();
    check(&Tokenizer::open(&folder).unwrap(), &ids, 0);
    if let Ok(vocabulary) = std::fs::read_to_string(folder.join("vocab.txt")) {
        let config = std::fs::read_to_string(folder.join("tokenizer_config.json")).unwrap_or_else(|_| "{}".into());
        check(&Tokenizer::from_vocabulary(&vocabulary, &config).unwrap(), &ids, 0);
    }
}
