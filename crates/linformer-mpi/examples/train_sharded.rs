//! Trains a small language model on sequences that are spread over several processes, and checks that its losses are those of one process.
//!
//! `mpirun -n 2 target/release/examples/train_sharded`; `--steps` and `--n` take numbers. Fails where a loss of any step differs by more than 1e-6.

mod support;

use linformer::distributed::{Communicator, Sharded, Shards};
use linformer::ndarray::{Array2, s};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Schedule, Step, TokenBatch, Trainable};
use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig, Result, TrainingPass};
use linformer_mpi::Mpi;
use support::{one_thread, option};

const TEXT: &[u8] = include_bytes!("../README.md");
/// Bytes, and one more token for a hidden one.
const VOCABULARY: usize = 257;
const BATCH: usize = 4;

fn main() -> Result<()> {
    one_thread()?;
    Mpi::run(|world| compare(world))
}

fn compare(world: &dyn Communicator) -> Result<()> {
    let (steps, length) = (option("steps", 50)?, option("n", 250)?);
    let attention = LinformerConfig::new(32, 4, length, 16);
    let config = LanguageModelConfig::new(VOCABULARY, EncoderConfig::new(attention, 2));
    let curve = together(world, &config, length, steps)?;
    if world.rank() > 0 {
        return Ok(());
    }
    let expected = alone(&config, length, steps)?;
    let mut largest: f64 = 0.0;
    for (step, (found, expected)) in curve.iter().zip(&expected).enumerate() {
        largest = largest.max((found - expected).abs());
        if step.is_multiple_of(10) || step + 1 == steps {
            println!("step {step:>3}: {found:.9} over {} processes, {expected:.9} in one", world.size());
        }
    }
    println!("largest difference of {steps} steps: {largest:.1e}");
    assert!(largest < 1e-6);
    Ok(())
}

/// Places of hidden tokens, and what they are.
type Hidden = (Array2<usize>, Vec<Vec<usize>>, Vec<Option<usize>>);

/// Bytes of the text of step `index`, some of them hidden.
fn batch(length: usize, index: usize) -> Hidden {
    let byte = |(item, position): (usize, usize)| usize::from(TEXT[(index * 131 + item * 977 + position) % TEXT.len()]);
    let mut tokens = Array2::from_shape_fn((BATCH, length), byte);
    let (mut positions, mut targets) = (vec![Vec::new(); BATCH], Vec::new());
    for (item, mut row) in tokens.outer_iter_mut().enumerate() {
        for (position, token) in row.iter_mut().enumerate() {
            if (position * 7 + item + index * 3).is_multiple_of(11) {
                positions[item].push(position);
                targets.push(Some(*token));
                *token = VOCABULARY - 1;
            }
        }
    }
    (tokens, positions, targets)
}

fn schedule(steps: usize) -> Schedule {
    Schedule::cosine(3e-3, steps as u64).with_warmup(5)
}

fn alone(config: &LanguageModelConfig, length: usize, steps: usize) -> Result<Vec<f64>> {
    let mut model = LanguageModel::<f64>::new(config, 7)?;
    let mut optimizer = AdamW::new(&model, AdamWConfig::new())?;
    let step = |index| {
        let (tokens, positions, targets) = batch(length, index);
        let pass = TrainingPass::new(Step::new(7, index as u64));
        let (loss, mut gradients) =
            model.loss_and_gradients(&TokenBatch::new(&tokens, &targets).at(&positions), &CrossEntropy::new(), &pass)?;
        optimizer.clip_gradient_norm(&mut gradients, 1.0)?;
        optimizer.step(&mut model, &gradients, schedule(steps).at(index as u64))?;
        Ok(loss)
    };
    (0..steps).map(step).collect()
}

fn together(world: &dyn Communicator, config: &LanguageModelConfig, length: usize, steps: usize) -> Result<Vec<f64>> {
    let mut model = Sharded::<LanguageModel<f64>>::new(config, 7, Shards::even(length, world.size())?, world)?;
    let mut optimizer = AdamW::new(model.model(), AdamWConfig::new())?;
    let own = model.range();
    let step = |index| {
        let (tokens, positions, targets) = batch(length, index);
        // A real program would read its own positions alone.
        let mut all = targets.into_iter();
        let mut own_targets = Vec::new();
        let mut own_positions = vec![Vec::new(); BATCH];
        for (item, positions) in positions.into_iter().enumerate() {
            for (position, target) in positions.into_iter().zip(&mut all).filter(|(position, _)| own.contains(position)) {
                own_positions[item].push(position - own.start);
                own_targets.push(target);
            }
        }
        let tokens = tokens.slice(s![.., own.clone()]).to_owned();
        let pass = TrainingPass::new(Step::new(7, index as u64));
        let (loss, mut gradients) = model.loss_and_gradients(
            &TokenBatch::new(&tokens, &own_targets).at(&own_positions),
            &CrossEntropy::new(),
            &pass,
        )?;
        model.clip_gradient_norm(&optimizer, &mut gradients, 1.0)?;
        optimizer.step(model.model_mut(), &gradients, schedule(steps).at(index as u64))?;
        Ok(loss)
    };
    (0..steps).map(step).collect()
}
