//! Runs and times the models of the crate for `run.py`: one command a line on standard input, one answer a line on standard output,
//! both JSON.
//!
//! Threads are those of rayon's global pool: start it with `RAYON_NUM_THREADS`.

mod model;
mod training;
#[path = "../../../support/peak.rs"]
mod peak;

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use linformer::{Workspace, batched_matmul};
use linformer::ndarray::Array3;
use model::{Kind, Model};
use training::Training;
use serde::Deserialize;
use serde_json::{Value, json};

type AnyError = Box<dyn Error>;

/// What `run.py` may ask for.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Makes a model and its input ready under a name.
    Load {
        id: String,
        model: Kind,
        /// The constructor's options, in the peer's own names.
        options: Value,
        weights: PathBuf,
        input: PathBuf,
        shape: [usize; 3],
    },
    /// Writes the model's output, as little-endian f32.
    Write { id: String, path: PathBuf },
    /// `warm` calls, then `calls` timed ones, every one after `idle` seconds of sleep: seconds of each. The calling thread is this
    /// process's main one, as it is in most programs, and none of rayon's pool.
    Time {
        id: String,
        warm: usize,
        calls: usize,
        #[serde(default)]
        idle: f64,
    },
    /// Makes an encoder ready to be trained towards a target of the input's shape.
    TrainLoad {
        options: Value,
        weights: PathBuf,
        input: PathBuf,
        target: PathBuf,
        shape: [usize; 3],
    },
    /// One training step: its loss and seconds.
    TrainStep {},
    /// Forgets a model.
    Drop { id: String },
    /// The machine's multiply-adds a second in registers, times two.
    Peak { threads: usize, seconds: f64 },
    /// Seconds of a product of two square matrices.
    Gemm { size: usize },
}

/// A model with the input that it is timed on, and what repeated calls use again.
struct Loaded {
    model: Model,
    input: Array3<f32>,
    output: Array3<f32>,
    workspace: Workspace<f32>,
}

impl Loaded {
    fn call(&mut self) -> Result<(), AnyError> {
        Ok(self.model.call(black_box(&self.input), &mut self.output, &mut self.workspace)?)
    }
}

fn main() -> Result<(), AnyError> {
    let mut loaded = HashMap::new();
    let mut training = None;
    for line in stdin().lock().lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(AnyError::from)
            .and_then(|command| answer(command, &mut loaded, &mut training))
            .unwrap_or_else(|error| json!({ "failed": error.to_string() }));
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}

fn answer(command: Command, loaded: &mut HashMap<String, Loaded>, training: &mut Option<Training>) -> Result<Value, AnyError> {
    match command {
        Command::Load {
            id,
            model,
            options,
            weights,
            input,
            shape,
        } => {
            let model = Model::read(model, &options, &weights)?;
            let input = read_input(&input, shape)?;
            let output = Array3::zeros(input.dim());
            let workspace = Workspace::new();
            loaded.insert(
                id,
                Loaded {
                    model,
                    input,
                    output,
                    workspace,
                },
            );
            Ok(json!({}))
        }
        Command::Write { id, path } => {
            let loaded = find(loaded, &id)?;
            loaded.call()?;
            let bytes: Vec<u8> = loaded.output.iter().flat_map(|value| value.to_le_bytes()).collect();
            std::fs::write(path, bytes)?;
            Ok(json!({}))
        }
        Command::TrainLoad {
            options,
            weights,
            input,
            target,
            shape,
        } => {
            let encoder = Model::read(Kind::Encoder, &options, &weights)?.into_encoder()?;
            *training = Some(Training::new(encoder, read_input(&input, shape)?, read_input(&target, shape)?)?);
            Ok(json!({}))
        }
        Command::TrainStep {} => training.as_mut().ok_or("nothing is loaded to be trained")?.step(),
        Command::Time { id, warm, calls, idle } => time(find(loaded, &id)?, warm, calls, Duration::try_from_secs_f64(idle)?),
        Command::Drop { id } => {
            loaded.remove(&id);
            Ok(json!({}))
        }
        Command::Peak { threads, seconds } => Ok(json!({ "flops": peak::measure(&peak::WIDEST, threads, seconds) })),
        Command::Gemm { size } => gemm(size),
    }
}

fn find<'l>(loaded: &'l mut HashMap<String, Loaded>, id: &str) -> Result<&'l mut Loaded, AnyError> {
    loaded.get_mut(id).ok_or_else(|| format!("nothing is loaded as `{id}`").into())
}

fn time(loaded: &mut Loaded, warm: usize, calls: usize, idle: Duration) -> Result<Value, AnyError> {
    for _ in 0..warm {
        loaded.call()?;
    }
    let mut seconds = Vec::with_capacity(calls);
    for _ in 0..calls {
        if !idle.is_zero() {
            sleep(idle);
        }
        let start = Instant::now();
        loaded.call()?;
        seconds.push(start.elapsed().as_secs_f64());
        black_box(&loaded.output);
    }
    Ok(json!({ "seconds": seconds }))
}

fn gemm(size: usize) -> Result<Value, AnyError> {
    let a = Array3::<f32>::from_shape_fn((1, size, size), |(_, i, j)| ((i * size + j) as f32 * 0.734).sin());
    let mut best = f64::INFINITY;
    for _ in 0..3 {
        let start = Instant::now();
        black_box(batched_matmul(black_box(&a), black_box(&a))?);
        best = best.min(start.elapsed().as_secs_f64());
    }
    Ok(json!({ "seconds": best }))
}

fn read_input(path: &Path, shape: [usize; 3]) -> Result<Array3<f32>, AnyError> {
    let bytes = std::fs::read(path)?;
    let (values, rest) = bytes.as_chunks::<4>();
    if !rest.is_empty() {
        return Err("the input is no whole number of f32".into());
    }
    let values = values.iter().map(|&value| f32::from_le_bytes(value)).collect();
    Ok(Array3::from_shape_vec(shape, values)?)
}
