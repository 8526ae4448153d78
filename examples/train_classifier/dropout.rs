//! What dropout costs.

use linformer::training::{CrossEntropy, Step, TokenBatch, Trainable};
use linformer::{Classifier, TrainingPass};

use crate::support::{AnyError, Clock};

/// Gradients of each kind that are timed.
const ROUNDS: u64 = 100;

/// Prints the processor seconds of a batch's loss and gradients with nothing dropped, with dropout of the residual stream, and with
/// dropout everywhere, by turns.
pub(crate) fn measure(model: &Classifier<f32>, batch: &TokenBatch, rate: f64) -> Result<(), AnyError> {
    let mut seconds = [0.0; 3];
    for round in 0..=ROUNDS {
        for (kind, seconds) in seconds.iter_mut().enumerate() {
            let none = TrainingPass::new(Step::new(0, round));
            let residual = none.with_residual_dropout(rate);
            let everywhere = residual
                .with_attention_dropout(rate)
                .with_activation_dropout(rate)
                .with_embedding_dropout(rate);
            let clock = Clock::start();
            let pass = [none, residual, everywhere][kind];
            model.loss_and_gradients(batch, &CrossEntropy::new(), &pass)?;
            // The first round warms up.
            *seconds += if round > 0 { clock.seconds() } else { 0.0 };
        }
    }
    let [none, residual, everywhere] = seconds.map(|seconds| seconds / ROUNDS as f64);
    println!("processor seconds of a batch's loss and gradients, means of {ROUNDS} by turns:");
    println!("  no dropout {none:.4}");
    for (name, seconds) in [("residual dropout", residual), ("dropout everywhere", everywhere)] {
        println!("  {name} {seconds:.4}: its share is {:.1} %", 100.0 * (seconds - none) / seconds);
    }
    Ok(())
}
