//! Vectors of parts of a text.

use linformer::ndarray::{Array2, Axis, s};
use linformer_text::{Error, Pooling, TextEncoder};

use crate::{bare, difference, tiny};

#[test]
fn a_span_has_the_tokens_that_begin_in_it() {
    let folder = tiny("spans");
    let encoder = bare(&folder);
    let text = "Call me Ishmael.  Straße, 大海!";
    let tokens = encoder.tokenize(text).unwrap();
    let ids = Array2::from_shape_vec((1, tokens.len()), tokens.ids().to_vec()).unwrap();
    let features = encoder.model().features(&ids, None).unwrap();
    let starts: Vec<_> = (0..tokens.len())
        .map(|token| tokens.bytes(token).map(|bytes| bytes.start))
        .collect();
    let sea = text.find('大').unwrap();
    let spans = [0..16, 17..text.len(), 0..text.len(), 1..8, 0..3, sea..sea + 3];
    let vectors = encoder.embed_spans(text, &spans).unwrap();
    for (span, found) in spans.iter().zip(vectors.outer_iter()) {
        let rows: Vec<_> = (0..tokens.len())
            .filter(|&row| starts[row].is_some_and(|start| span.contains(&start)))
            .collect();
        let expected = features.slice(s![0, .., ..]).select(Axis(0), &rows).mean_axis(Axis(0)).unwrap();
        assert!(
            difference(&found.insert_axis(Axis(0)), &expected.insert_axis(Axis(0))) < 1e-6,
            "{span:?}"
        );
    }
    assert_eq!(encoder.embed_spans(text, &[]).unwrap().dim(), (0, 32));
    // The context counts: the same words by themselves have another vector.
    let alone = encoder.embed_spans("Call me Ishmael.", &[0..16]).unwrap();
    assert!(difference(&alone, &vectors.slice(s![..1, ..])) > 1e-4);
}

#[test]
fn spans_that_have_no_vector_are_errors() {
    let folder = tiny("span_errors");
    let encoder = TextEncoder::open(&*folder).unwrap();
    let text = "Die Straße  führt";
    let eszett = text.find('ß').unwrap();
    #[allow(clippy::reversed_empty_ranges)]
    let wrong = [
        (4..4, "empty"),
        (9..4, "empty"),
        (0..99, "bytes"),
        (eszett + 1..12, "inside of a character"),
        (11..13, "no token"),
        (99..99, "bytes"),
    ];
    for (span, word) in wrong {
        let error = encoder.embed_spans(text, &[0..3, span.clone()]).unwrap_err();
        assert!(
            matches!(&error, Error::Span { span: 1, range, .. } if *range == span) && error.to_string().contains(word),
            "{error}"
        );
    }
    let error = encoder.embed_spans(&"sea ".repeat(200), &[0..3]).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                tokens: 202,
                limit: 128,
                ..
            }
        ),
        "{error}"
    );
    for pooling in [Pooling::Cls, Pooling::LastToken] {
        let encoder = TextEncoder::new(encoder.model().clone(), encoder.tokenizer().clone(), pooling, true).unwrap();
        assert!(matches!(encoder.embed_spans(text, &[0..3]), Err(Error::Argument { .. })));
    }
}

#[test]
fn a_converted_model_reads_texts_of_any_length() {
    let folder = tiny("spans_converted");
    let encoder = crate::long::converted(&TextEncoder::open(&*folder).unwrap());
    let text = "whale sea ".repeat(200);
    let vectors = encoder.embed_spans(&text, &[0..10, 1000..1010, 1990..1999]).unwrap();
    assert!(vectors.iter().all(|value| value.is_finite()));
    assert!(difference(&vectors.slice(s![..1, ..]), &vectors.slice(s![2.., ..])) > 1e-4);
}
