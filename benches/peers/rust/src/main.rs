//! One attention layer in this crate, in candle and in burn, timed in turn on the same weights and input.
//!
//! `cargo run --release -- --n 512,4096 --rounds 9`, and again with `--features x86-v4`. Threads are those of rayon's global pool, which all
//! three share: set `RAYON_NUM_THREADS`. Prints a line of JSON for each n; `run.py` makes a table of them.

mod burn_layer;
mod candle_layer;
mod options;
mod weights;

use std::error::Error;
use std::hint::black_box;
use std::thread::sleep;
use std::time::{Duration, Instant};

use linformer::ndarray::Array3;
use linformer::{LinformerAttention, LinformerConfig};
use options::Options;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use serde_json::{Map, Value, json};
use weights::Weights;

type AnyError = Box<dyn Error>;

/// A layer with the input that it is timed on; its output is what a call returns.
type Call<'a> = Box<dyn Fn() -> Result<Output, AnyError> + 'a>;

/// What a layer returned, in its own type, so that reading it is not timed.
struct Output(Box<dyn FnOnce() -> Result<Vec<f32>, AnyError>>);

impl Output {
    fn new(read: impl FnOnce() -> Result<Vec<f32>, AnyError> + 'static) -> Self {
        Self(Box::new(read))
    }
}

const DIM: usize = 512;
const HEADS: usize = 8;
const K: usize = 128;

/// How far an output may be from ours: the largest difference over the root mean square.
const TOLERANCE: f64 = 1e-4;

/// A call shorter than `LONG` is preceded in every turn by untimed ones that take as long as `WARM` together.
const WARM: f64 = 0.05;
const LONG: f64 = 0.5;

fn main() -> Result<(), AnyError> {
    let options = Options::parse()?;
    for &n in &options.n {
        println!("{}", compare(n, &options)?);
    }
    Ok(())
}

fn compare(n: usize, options: &Options) -> Result<Value, AnyError> {
    let layer = LinformerAttention::<f32>::new(&LinformerConfig::new(DIM, HEADS, n, K), 1)?;
    let x = Array3::from_shape_fn((1, n, DIM), |(_, t, i)| ((t * DIM + i) as f32 * 0.734).sin() * 1.4);
    let weights = Weights::of(&layer)?;
    let candle = candle_layer::Layer::new(&weights, &x)?;
    let burn = burn_layer::Layer::new(&weights, &x)?;
    let contenders: [(&str, Call<'_>); 3] = [
        ("linformer", Box::new(|| ours(&layer, &x))),
        ("candle", Box::new(|| candle.call())),
        ("burn", Box::new(|| Ok(burn.call()))),
    ];
    let errors = check(&contenders)?;
    let seconds = rounds(&contenders, options)?;
    Ok(json!({ "n": n, "x86-v4": cfg!(feature = "x86-v4"), "errors": errors, "seconds": seconds }))
}

fn ours(layer: &LinformerAttention<f32>, x: &Array3<f32>) -> Result<Output, AnyError> {
    let output = layer.forward(x, None)?;
    Ok(Output::new(|| Ok(output.into_raw_vec_and_offset().0)))
}

/// Compares all outputs with the first contender's.
fn check(contenders: &[(&str, Call<'_>)]) -> Result<Value, AnyError> {
    let read = |call: &Call<'_>| call().and_then(|Output(read)| read());
    let expected = read(&contenders[0].1)?;
    let mut errors = Map::new();
    for (name, call) in &contenders[1..] {
        let error = difference(&expected, &read(call)?);
        // NaN must not pass.
        if error.is_nan() || error > TOLERANCE {
            return Err(format!("the output of {name} differs by {error:.1e}, at most {TOLERANCE:.0e} is allowed").into());
        }
        errors.insert((*name).to_owned(), error.into());
    }
    Ok(errors.into())
}

/// The largest difference over the root mean square of the first.
fn difference(expected: &[f32], output: &[f32]) -> f64 {
    if expected.len() != output.len() {
        return f64::NAN;
    }
    let square: f64 = expected.iter().map(|&value| f64::from(value).powi(2)).sum();
    let largest = expected.iter().zip(output).fold(0.0, |largest: f64, (&a, &b)| {
        let difference = (f64::from(a) - f64::from(b)).abs();
        if difference > largest || difference.is_nan() {
            difference
        } else {
            largest
        }
    });
    largest / (square / expected.len() as f64).sqrt()
}

/// Seconds of each contender, one turn each in every round, in random order.
fn rounds(contenders: &[(&str, Call<'_>)], options: &Options) -> Result<Value, AnyError> {
    let mut warm = Vec::new();
    for (_, call) in contenders {
        let seconds = time(call)?.min(time(call)?);
        warm.push(if seconds < LONG { (WARM / seconds).ceil() } else { 0.0 });
    }
    let mut seconds = vec![Vec::new(); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let mut generator = SmallRng::seed_from_u64(0);
    for _ in 0..options.rounds {
        order.shuffle(&mut generator);
        for &index in &order {
            sleep(Duration::from_secs_f64(options.pause));
            let mut calls = 0.0;
            while calls < warm[index] {
                time(&contenders[index].1)?;
                calls += 1.0;
            }
            seconds[index].push(time(&contenders[index].1)?);
        }
    }
    let by_name = contenders
        .iter()
        .zip(seconds)
        .map(|((name, _), seconds)| ((*name).to_owned(), json!(seconds)));
    Ok(by_name.collect::<Map<_, _>>().into())
}

/// The output is dropped after the clock was read.
fn time(call: &Call<'_>) -> Result<f64, AnyError> {
    let start = Instant::now();
    let output = call()?;
    let seconds = start.elapsed().as_secs_f64();
    black_box(output);
    Ok(seconds)
}
