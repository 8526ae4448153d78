//! A model of one's own: an encoder with a head that predicts a number at each position. It trains, stops and resumes, and trains on two ranks.
//!
//! `cargo run --release --example custom_model`

mod support;

use std::process::ExitCode;

use linformer::checkpoint::{load_parameters, save_parameters};
use linformer::distributed::{Communicator, ThreadGroup, all_reduce_gradients};
use linformer::ndarray::{Array3, s};
use linformer::training::{AdamW, AdamWConfig, MeanSquaredError, Optimizer, Schedule, Step, load_training, save_training};
use linformer::{Encoder, Linear, LinformerConfig, Parameters, Position, PositionKind, Result, TrainingPass, parameters};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{AnyError, Options, encoder};

const ABOUT: &str =
    "Trains a model that is no part of the crate, made of its layers, to remove the noise from waves. Stops halfway, resumes from a
file, and trains again on two ranks. Fails where the resumed model differs in one bit, where two ranks do not train as well as
one, or where the waves keep more than a third of the noise.";

/// Positions of a wave.
const LENGTH: usize = 96;

/// Waves of a step, on all ranks together.
const BATCH: usize = 16;

/// Reads a noisy wave, a number at each position, and says what it was without the noise.
#[derive(Clone)]
struct Denoiser {
    input: Linear,
    position: Position,
    encoder: Encoder,
    output: Linear,
}

// All it takes for optimizers, files and ranks.
parameters!(Denoiser: f32 { input, position, encoder, output });

impl Denoiser {
    fn new(seed: u64) -> Result<Self> {
        let attention = LinformerConfig::new(32, 4, LENGTH, 16);
        Ok(Self {
            input: Linear::new(1, 32, true, seed)?,
            position: Position::new(PositionKind::sinusoidal(), 32, seed)?,
            encoder: Encoder::new(&encoder(attention, 2), seed)?,
            output: Linear::new(32, 1, true, seed + 1)?,
        })
    }

    fn forward(&self, noisy: &Array3<f32>) -> Result<Array3<f32>> {
        let x = self.position.forward(&self.input.forward(noisy)?, None)?;
        self.output.forward(&self.encoder.forward(&x, None)?)
    }

    /// The mean squared error.
    fn error(&self, waves: &Waves) -> Result<f64> {
        MeanSquaredError::new().loss(&self.forward(&waves.noisy)?, &waves.clean)
    }

    /// Forward layer by layer, each with its cache; the loss; then back in the opposite order.
    fn loss_and_gradients(&self, waves: &Waves, pass: &TrainingPass) -> Result<(f64, Self)> {
        let (x, input) = self.input.forward_train(&waves.noisy)?;
        let (x, position) = self.position.forward_train(&x, None)?;
        let (x, encoder) = self.encoder.forward_train(&x, None, pass)?;
        let (y, output) = self.output.forward_train(&x)?;

        let (loss, dy) = MeanSquaredError::new().loss_and_gradient(&y, &waves.clean)?;

        let mut gradients = self.zeros_like();
        let dx = self.output.backward(output, dy, &mut gradients.output)?;
        let dx = self.encoder.backward(encoder, dx, &mut gradients.encoder)?;
        let dx = self.position.backward(position, dx, &mut gradients.position)?;
        self.input.backward(input, dx, &mut gradients.input)?;
        Ok((loss, gradients))
    }
}

/// Waves of random frequency, phase and height, each (batch, n, 1).
struct Waves {
    noisy: Array3<f32>,
    clean: Array3<f32>,
}

impl Waves {
    fn new(batch: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut clean = Array3::zeros((batch, LENGTH, 1));
        for mut wave in clean.outer_iter_mut() {
            let [frequency, phase, height] = [0.05..0.3, 0.0..6.3, 0.5..1.5].map(|range| rng.random_range::<f32, _>(range));
            for (t, mut value) in wave.outer_iter_mut().enumerate() {
                value.fill(height * (frequency * t as f32 + phase).sin());
            }
        }
        let noisy = clean.mapv(|value| value + rng.random_range(-1.0..1.0));
        Self { noisy, clean }
    }

    /// The waves that a rank trains on.
    fn share(&self, rank: &dyn Communicator) -> Self {
        let count = BATCH / rank.size();
        let own = rank.rank() * count..(rank.rank() + 1) * count;
        let cut = |x: &Array3<f32>| x.slice(s![own.clone(), .., ..]).to_owned();
        Self {
            noisy: cut(&self.noisy),
            clean: cut(&self.clean),
        }
    }
}

/// A model in training.
struct Run {
    model: Denoiser,
    optimizer: AdamW,
    next: Step,
}

impl Run {
    fn new(seed: u64) -> Result<Self> {
        let model = Denoiser::new(seed)?;
        let optimizer = AdamW::new(&model, AdamWConfig::new())?;
        let next = Step::new(seed, 0);
        Ok(Self { model, optimizer, next })
    }

    /// Trains until the step `until` of `all`, on this rank's share of each batch.
    fn train(&mut self, until: u64, all: u64, rank: &dyn Communicator) -> Result<()> {
        let schedule = Schedule::cosine(5e-3, all).with_warmup(all / 10);
        while self.next.index < until {
            let batch = Waves::new(BATCH, self.next.index).share(rank);
            let pass = TrainingPass::new(self.next);
            let (loss, mut gradients) = self.model.loss_and_gradients(&batch, &pass)?;
            all_reduce_gradients(rank, loss, &mut gradients, 1.0)?;
            self.optimizer.clip_gradient_norm(&mut gradients, 1.0)?;
            self.optimizer.step(&mut self.model, &gradients, schedule.at(self.next.index))?;
            self.next.index += 1;
        }
        Ok(())
    }
}

/// Does the same on each of `count` ranks, which are threads here, and returns what the first one has made.
fn on_ranks(count: usize, work: impl Fn(&dyn Communicator) -> Result<Run> + Sync) -> Result<Run> {
    ThreadGroup::run(count, |rank| work(rank)).swap_remove(0)
}

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = Options::parse(ABOUT, &[("steps", "200", "training steps"), ("seed", "1", "seed of the models")]);
    let (steps, seed) = (options.count("steps") as u64, options.seed());
    let file = std::env::temp_dir().join(format!("linformer-custom-model-{}.safetensors", std::process::id()));

    let whole = on_ranks(1, |rank| {
        let mut run = Run::new(seed)?;
        run.train(steps / 2, steps, rank)?;
        save_training(&file, &run.model, &run.optimizer, run.next)?;
        run.train(steps, steps, rank)?;
        Ok(run)
    })?;
    let resumed = on_ranks(1, |rank| {
        // Another seed: everything comes from the file.
        let mut run = Run::new(seed + 1)?;
        run.next = load_training(&file, &mut run.model, &mut run.optimizer)?;
        run.train(steps, steps, rank)?;
        Ok(run)
    })?;
    let two = on_ranks(2, |rank| {
        let mut run = Run::new(seed)?;
        run.train(steps, steps, rank)?;
        Ok(run)
    })?;
    // The model without its training, for whoever only uses it.
    save_parameters(&file, &whole.model)?;
    let mut loaded = Denoiser::new(seed + 2)?;
    load_parameters(&file, &mut loaded)?;
    std::fs::remove_file(&file)?;

    let test = Waves::new(64, u64::MAX);
    let noise = MeanSquaredError::new().loss(&test.noisy, &test.clean)?;
    let [one, two] = [whole.model.error(&test)?, two.model.error(&test)?];
    let is_same = [&resumed.model, &loaded].iter().all(|model| model.named() == whole.model.named());
    println!("mean squared error of noisy waves        {noise:.4}");
    println!("of a model of {} parameters           {one:.4}", whole.model.parameter_count());
    println!(
        "resumed from a file, and loaded          {}",
        if is_same { "the same, bit for bit" } else { "not the same" }
    );
    println!("trained on two ranks                     {two:.4}");
    if is_same && (two / one - 1.0).abs() < 0.1 && one < noise / 3.0 {
        return Ok(());
    }
    Err("the model does not resume, load or train as it should".into())
}
