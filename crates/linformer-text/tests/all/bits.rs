//! A text has the same vector, bit for bit, whatever is computed beside it.

use std::path::PathBuf;

use linformer_text::ndarray::{Array2, s};
use linformer_text::{EmbedOptions, LongText, PairScorer, TextEncoder};

use crate::texts::texts;
use crate::{Temporary, tiny};

fn pools() -> [rayon::ThreadPool; 3] {
    [1, 2, 5].map(|threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap())
}

/// Checks batches of 1 to 32 of the texts, in several cuts of the work, on 1, 2 and 5 threads; returns the number of vectors compared.
fn check(encoder: &TextEncoder, texts: &[String]) -> usize {
    let options = EmbedOptions::new().with_long(LongText::Cut);
    let mut alone = Array2::zeros((texts.len(), encoder.dimension()));
    for (text, mut row) in texts.iter().zip(alone.outer_iter_mut()) {
        row.assign(&encoder.embed_with(&[text], &options).unwrap().row(0));
    }
    let mut compared = 0;
    for pool in pools() {
        for batch_tokens in [1, 300, 4096] {
            let options = options.clone().with_batch_tokens(batch_tokens);
            let (mut start, mut size) = (0, 1);
            while start < texts.len() {
                let end = (start + size).min(texts.len());
                let together = pool.install(|| encoder.embed_with(&texts[start..end], &options)).unwrap();
                for (index, row) in together.outer_iter().enumerate() {
                    assert_eq!(
                        row,
                        alone.row(start + index),
                        "text {} of {start} to {end}, {batch_tokens}",
                        start + index
                    );
                }
                compared += end - start;
                (start, size) = (end, size % 32 + 1);
            }
        }
        let all = pool.install(|| encoder.embed_with(texts, &options)).unwrap();
        assert_eq!(all, alone);
    }
    compared
}

#[test]
fn any_batch_and_any_number_of_threads_give_the_same_bits() {
    let folder = tiny("bits");
    let encoder = TextEncoder::open(&*folder).unwrap();
    assert_eq!(check(&encoder, &texts()), 9 * 600);
    // What it is compared with differs from text to text.
    let vectors = encoder.embed(&["The whale.", "The sea."]).unwrap();
    assert_ne!(vectors.row(0), vectors.row(1));
}

#[test]
fn converted_models_too() {
    let folder = tiny("bits_converted");
    let encoder = crate::long::converted(&TextEncoder::open(&*folder).unwrap());
    let long = [
        "whale sea ".repeat(200),
        "Call me Ishmael. ".repeat(33),
        "sea ".repeat(301),
        "whale".into(),
    ];
    let options = EmbedOptions::new().with_long(LongText::OnePass);
    let alone: Vec<_> = long.iter().map(|text| encoder.embed_with(&[text], &options).unwrap()).collect();
    for pool in pools() {
        let together = pool
            .install(|| encoder.embed_with(&long, &options.clone().with_batch_tokens(8192)))
            .unwrap();
        for (index, alone) in alone.iter().enumerate() {
            assert_eq!(together.slice(s![index..=index, ..]), alone, "text {index}");
        }
    }
}

#[test]
fn pairs_too() {
    let folder = Temporary(crate::tiny_model::tiny_scorer("bits_pairs"));
    let scorer = PairScorer::open(&*folder).unwrap();
    let texts = texts();
    let pairs: Vec<_> = texts.iter().zip(texts.iter().skip(7)).take(100).collect();
    let options = EmbedOptions::new().with_long(LongText::Cut);
    let alone: Vec<f32> = pairs
        .iter()
        .map(|&pair| scorer.logits_with(&[pair], &options).unwrap()[[0, 0]])
        .collect();
    for pool in pools() {
        for size in [1, 2, 3, 8, 32, 100] {
            let together = pairs
                .chunks(size)
                .map(|pairs| pool.install(|| scorer.logits_with(pairs, &options)).unwrap());
            let together: Vec<f32> = together.flatten().collect();
            assert_eq!(together, alone, "in batches of {size}");
        }
    }
}

/// With LINFORMER_TEXT_MODEL, a model's folder.
#[test]
fn a_real_model_too() {
    let Some(folder) = std::env::var_os("LINFORMER_TEXT_MODEL").map(PathBuf::from) else {
        println!("left out: set LINFORMER_TEXT_MODEL");
        return;
    };
    let encoder = TextEncoder::open(folder).unwrap();
    println!("{} vectors have the same bits", check(&encoder, &texts()[..100]));
}
