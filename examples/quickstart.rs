//! Encodes a padded batch, then answers queries against a document that was compressed once: `cargo run --release --example quickstart`

use linformer::ndarray::Array3;
use linformer::{Encoder, EncoderConfig, Error, LinformerAttention, LinformerConfig, PaddingMask};

fn main() -> Result<(), Error> {
    // Up to 1,024 positions of 64 numbers, 4 heads, keys and values compressed to 32 rows.
    let attention = LinformerConfig::new(64, 4, 1024, 32);
    let x = Array3::from_shape_fn((2, 1000, 64), |(item, t, i)| ((item + t * i) as f32).sin());
    let mask = PaddingMask::from_lengths(&[1000, 640], 1000)?;

    // Four blocks: the padded batch gives each sequence what it would give alone.
    let encoder = Encoder::<f32>::new(&EncoderConfig::new(attention.clone(), 4), 0)?;
    let encoded = encoder.forward(&x, Some(&mask))?;

    // One layer, its two halves: compress a document once, attend to it as often as you like.
    let layer = LinformerAttention::<f32>::new(&attention, 0)?;
    let document = layer.compress(&encoded, Some(&mask))?;
    let answers = layer.attend(&Array3::ones((2, 3, 64)), &document)?;
    println!(
        "encoded {:?}, compressed to {:?}, answered {:?}",
        encoded.dim(),
        document.keys().dim(),
        answers.dim()
    );
    Ok(())
}
