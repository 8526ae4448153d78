//! Encodes up to a million bytes as one sequence, in place: memory is the sequence itself, the weights, and a few MiB.
//!
//! `cargo run --release --example million_tokens -- --n 1048576`

mod support;

use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use linformer::ndarray::{Array2, Array3};
use linformer::{
    Embedding, Encoder, EncoderConfig, FeedForwardConfig, LinformerConfig, Parameters, Position, PositionKind, Sharing, SinusoidLayout,
    Workspace,
};
use support::{AnyError, Options, memory, peak_memory};

const ABOUT: &str =
    "Encodes the first n bytes of a text (repeated where it is shorter) with four blocks of d 256 and k 128 whose layers share one
projection, with sinusoidal positions and no logits; prints the time and the peak of the process's memory.";

const OWN_TEXT: &[u8] = include_bytes!("../README.md");

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = Options::parse(
        ABOUT,
        &[
            ("file", "", "a text instead of this repository's own"),
            ("n", "65536", "bytes; 1048576 takes about a minute and 2 GiB"),
            ("dim", "256", "width d"),
            ("heads", "4", "attention heads"),
            ("depth", "4", "blocks"),
            ("k", "128", "rows that keys and values are compressed to"),
        ],
    );
    let (n, dim, depth) = (options.count("n"), options.count("dim"), options.count("depth"));
    let attention = LinformerConfig::new(dim, options.count("heads"), n, options.count("k")).with_sharing(Sharing::Layerwise);
    let config = EncoderConfig::new(attention, depth).with_feed_forward(Some(FeedForwardConfig::new(4 * dim)));
    let encoder = Encoder::<f32>::new(&config, 0)?;
    println!(
        "{} parameters, of which E = F has {}",
        encoder.parameter_count(),
        n * options.count("k")
    );
    let mut x = sequence(&text(&options, n)?, dim)?;
    println!("the sequence takes {} MiB", mib((x.len() * size_of::<f32>()) as u64));
    let before = memory();
    let start = Instant::now();
    encode(&encoder, &mut x)?;
    let seconds = start.elapsed().as_secs_f64();
    println!("{n} bytes in {seconds:.1} s, {:.0} a second", n as f64 / seconds);
    if let (Some(before), Some(peak)) = (before, peak_memory()) {
        println!(
            "memory before the blocks {} MiB, peak of the whole run {} MiB",
            mib(before),
            mib(peak)
        );
    }
    if x.iter().all(|value| value.is_finite()) {
        Ok(())
    } else {
        Err("the result is not finite".into())
    }
}

/// The first n bytes of the text, from its start again where it ends.
fn text(options: &Options, n: usize) -> Result<Vec<u8>, AnyError> {
    let file = options.text("file");
    let bytes = if file.is_empty() {
        OWN_TEXT.to_vec()
    } else {
        std::fs::read(file).map_err(|error| format!("{file}: {error}"))?
    };
    if bytes.is_empty() {
        return Err(format!("{file} is empty").into());
    }
    Ok(bytes.into_iter().cycle().take(n).collect())
}

/// The vectors of the bytes, (1, n, dim), with their positions'.
fn sequence(bytes: &[u8], dim: usize) -> Result<Array3<f32>, AnyError> {
    let tokens = Array2::from_shape_fn((1, bytes.len()), |(_, t)| usize::from(bytes[t]));
    let vectors = Embedding::<f32>::new(256, dim, 1)?.forward(&tokens)?;
    let kind = PositionKind::Sinusoidal {
        base: 10_000.0,
        layout: SinusoidLayout::Halves,
        stored: false,
    };
    Ok(Position::<f32>::new(kind, dim, 2)?.forward(&vectors, None)?)
}

fn encode(encoder: &Encoder<f32>, x: &mut Array3<f32>) -> Result<(), AnyError> {
    let rows = x.dim().1 * encoder.config().depth;
    let style = ProgressStyle::with_template("{bar:40} {percent} % {elapsed} of about {duration}")?;
    let bar = ProgressBar::new(rows as u64).with_style(style);
    let seen = bar.clone();
    let mut workspace = Workspace::new().with_progress(move |rows| seen.inc(rows as u64));
    encoder.forward_in_place(x, None, &mut workspace)?;
    bar.finish_and_clear();
    Ok(())
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
