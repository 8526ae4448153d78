//! Texts with more tokens than the model reads at once.

use linformer::LocalGlobalConfig;
use linformer::ndarray::{Array2, s};
use linformer_text::{EmbedOptions, Error, LongText, TextEncoder};

use crate::{bare, difference, tiny};

/// A word of one token, in many.
fn words(count: usize) -> String {
    (0..count).map(|index| ["sea ", "whale ", "the "][index % 3]).collect()
}

/// The encoder in local-global form, with positions without end.
pub(crate) fn converted(encoder: &TextEncoder) -> TextEncoder {
    let tokens = encoder.tokenize(&words(100)).unwrap();
    let ids = Array2::from_shape_vec((1, tokens.len()), tokens.ids().to_vec()).unwrap();
    let attention = encoder.model().config().encoder.attention.attention().clone();
    let form = LocalGlobalConfig::of(&attention).with_block(16).with_slots(8);
    let model = encoder.model().to_local_global(&form, &[(ids, None)]).unwrap();
    encoder.with_model(model.with_repeating_positions().unwrap()).unwrap()
}

#[test]
fn words_are_of_one_token() {
    let folder = tiny("words");
    let encoder = TextEncoder::open(&*folder).unwrap();
    assert_eq!(encoder.count_tokens(&words(50)).unwrap(), 52);
    assert_eq!((encoder.max_len(), encoder.trained_len()), (Some(128), Some(64)));
}

#[test]
fn are_refused_unless_asked_otherwise() {
    let folder = tiny("refused");
    let encoder = TextEncoder::open(&*folder).unwrap();
    let texts = [words(126), words(3), words(127), words(200)];
    let mut calls = 0;
    let error = encoder
        .embed_with_progress(&texts, &EmbedOptions::new(), |_| calls += 1)
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                text: 2,
                tokens: 129,
                limit: 128,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(calls, 0);
    assert_eq!(encoder.embed(&texts[..2]).unwrap().nrows(), 2);
    let error = encoder
        .embed_with(&texts[..2], &EmbedOptions::new().with_max_len(Some(64)))
        .unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                text: 0,
                tokens: 128,
                limit: 64,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn cut_ones_are_their_beginnings() {
    let folder = tiny("cut");
    let encoder = TextEncoder::open(&*folder).unwrap();
    let cut = EmbedOptions::new().with_long(LongText::Cut);
    let vectors = encoder.embed_with(&[words(300), words(126)], &cut).unwrap();
    assert_eq!(vectors.row(0), vectors.row(1));
    let shorter = encoder.embed_with(&[words(300), words(30)], &cut.with_max_len(Some(32))).unwrap();
    assert_eq!(shorter.row(0), shorter.row(1));
}

#[test]
fn chunks_are_averaged_by_their_tokens() {
    let folder = tiny("chunks");
    let encoder = bare(&folder);
    let all: Vec<_> = (0..95).map(|index| ["sea", "whale", "the"][index % 3]).collect();
    // Of 30 tokens besides two special ones, and the rest.
    for (overlap, starts) in [(0, vec![0, 30, 60, 90]), (10, vec![0, 20, 40, 60, 80]), (29, (0..=65).collect())] {
        let chunks: Vec<_> = starts.iter().map(|&start| all[start..(start + 30).min(95)].join(" ")).collect();
        let weights: Vec<f32> = starts.iter().map(|&start| ((start + 30).min(95) - start) as f32).collect();
        let of_chunks = encoder.embed(&chunks).unwrap();
        let weights = Array2::from_shape_vec((1, weights.len()), weights).unwrap();
        let expected = weights.dot(&of_chunks) / weights.sum();
        let options = EmbedOptions::new().with_long(LongText::Chunks { overlap }).with_max_len(Some(32));
        let found = encoder.embed_with(&[all.join(" "), all[..5].join(" ")], &options).unwrap();
        assert!(difference(&found.slice(s![..1, ..]), &expected) < 1e-5, "overlap {overlap}");
        // A short text in the same call is as without options.
        assert_eq!(found.slice(s![1.., ..]), encoder.embed(&[all[..5].join(" ")]).unwrap());
        assert!(difference(&found.slice(s![..1, ..]), &encoder.embed(&[all[..30].join(" ")]).unwrap()) > 1e-4);
    }
    // Lengths that end where a chunk does have no chunk more.
    let options = EmbedOptions::new()
        .with_long(LongText::Chunks { overlap: 10 })
        .with_max_len(Some(32));
    let mut tokens = 0;
    encoder
        .embed_with_progress(&[all[..50].join(" ")], &options, |progress| tokens = progress.all_tokens)
        .unwrap();
    assert_eq!(tokens, 64);
}

#[test]
fn averages_are_normalized() {
    let folder = tiny("normalized");
    let encoder = TextEncoder::open(&*folder).unwrap();
    let options = EmbedOptions::new().with_long(LongText::Chunks { overlap: 4 });
    let vectors = encoder.embed_with(&[words(400), words(2)], &options).unwrap();
    for row in vectors.outer_iter() {
        assert!((row.dot(&row) - 1.0).abs() < 1e-6);
    }
}

#[test]
fn one_pass_is_for_converted_models() {
    let folder = tiny("one_pass");
    let encoder = TextEncoder::open(&*folder).unwrap();
    let one_pass = EmbedOptions::new().with_long(LongText::OnePass);
    let error = encoder.embed_with(&["short"], &one_pass).unwrap_err();
    assert!(error.to_string().contains("local-global"), "{error}");

    let converted = converted(&encoder);
    assert!(converted.reads_any_length() && !encoder.reads_any_length());
    assert_eq!(converted.max_len(), Some(128));
    let long = words(500);
    assert!(matches!(converted.embed(&[&long]), Err(Error::TooLong { limit: 128, .. })));
    let vectors = converted.embed_with(&[&long], &one_pass).unwrap();
    let cut = converted
        .embed_with(&[&long], &EmbedOptions::new().with_long(LongText::Cut))
        .unwrap();
    assert!(difference(&vectors, &cut) > 1e-4);
    // Up to two blocks the form is exact.
    let short = [words(28)];
    assert!(difference(&converted.embed(&short).unwrap(), &encoder.embed(&short).unwrap()) < 1e-5);

    let path = crate::tiny_model::temporary("one_pass_file").with_extension("safetensors");
    converted.save(&path).unwrap();
    let opened = TextEncoder::open(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(opened.embed_with(&[&long], &one_pass).unwrap(), vectors);
    assert_eq!(
        (opened.trained_len(), opened.normalizes(), opened.pooling()),
        (Some(64), true, encoder.pooling())
    );
}

#[test]
fn options_without_effect_are_errors() {
    let folder = tiny("options");
    let encoder = TextEncoder::open(&*folder).unwrap();
    let refused = |encoder: &TextEncoder, options: EmbedOptions, word: &str| {
        let error = encoder.embed_with(&["sea"], &options).unwrap_err();
        assert!(
            matches!(&error, Error::Argument { .. }) && error.to_string().contains(word),
            "{error}"
        );
    };
    let options = EmbedOptions::new;
    refused(&encoder, options().with_batch_tokens(0), "batch_tokens");
    refused(&encoder, options().with_max_len(Some(129)), "128");
    refused(&encoder, options().with_max_len(Some(2)), "special");
    refused(&encoder, options().with_long(LongText::Chunks { overlap: 126 }), "126");
    refused(
        &converted(&encoder),
        options().with_long(LongText::OnePass).with_max_len(Some(64)),
        "max_len",
    );
}
