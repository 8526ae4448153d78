//! What the examples share: their command line, their text and memory figures, and how they train.
#![allow(dead_code, unreachable_pub, unused_imports)] // each example uses its own part

use std::process::ExitCode;

mod attention;
mod batches;
mod clock;
mod memory;
mod options;
mod text;
mod training;

pub use attention::{BLOCK, Kind, SLOTS, TRAINED_LEN};
pub use batches::{batch, batches, majority};
pub use clock::Clock;
pub use memory::{memory, peak_memory};
pub use options::{FLAG, Options};
pub use text::{novel, own_text, package_folder};
pub use training::{AS_LARGE_AS_POSITIONS, Budget, HeldOut, Plan, Spent, encoder, train, train_and_test};

pub type AnyError = Box<dyn std::error::Error>;

/// Runs an example: an error is told in its own words, and ends it with code 1.
pub fn run(example: fn() -> Result<(), AnyError>) -> ExitCode {
    match example() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The mean of several figures and their standard deviation (that of a sample: over one less than their number).
pub fn mean_and_deviation(figures: &[f64]) -> (f64, f64) {
    let count = figures.len() as f64;
    let mean = figures.iter().sum::<f64>() / count;
    let squares: f64 = figures.iter().map(|figure| (figure - mean).powi(2)).sum();
    (mean, (squares / (count - 1.0).max(1.0)).sqrt())
}
