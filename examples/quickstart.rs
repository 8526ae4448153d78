//! Encodes a padded batch, then answers queries against a document that was compressed once.
//!
//! `cargo run --release --example quickstart`

mod support;

use std::process::ExitCode;

use linformer::ndarray::Array3;
use linformer::{Encoder, EncoderConfig, LinformerAttention, LinformerConfig, PaddingMask};
use support::{AnyError, Options};

const ABOUT: &str = "Encodes a padded batch, then answers queries against a document that was compressed once.";

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    Options::parse(ABOUT, &[]);
    // Up to 1,024 positions of 64 numbers, 4 heads, keys and values compressed to 32 rows.
    let attention = LinformerConfig::new(64, 4, 1024, 32);
    let x = Array3::from_shape_fn((2, 1000, 64), |(item, t, i)| ((item + t * i) as f32).sin());
    let mask = PaddingMask::from_lengths(&[1000, 640], 1000)?;

    // Four blocks: the padded batch gives each sequence what it would give alone.
    let encoder = Encoder::<f32>::new(&EncoderConfig::new(attention.clone(), 4), 0)?;
    let encoded = encoder.forward(&x, Some(&mask))?;
    println!("encoded {:?} to {:?}", x.dim(), encoded.dim());

    // One layer, its two halves: compress a document once, attend to it as often as you like.
    let layer = LinformerAttention::<f32>::new(&attention, 0)?;
    let document = layer.compress(&encoded, Some(&mask))?;
    let answers = layer.attend(&Array3::ones((2, 3, 64)), &document)?;
    println!(
        "{:?} queries against {:?} compressed keys: {:?}",
        (2, 3),
        document.keys().dim(),
        answers.dim()
    );
    Ok(())
}
