//! Loads a model that PyTorch saved and prints its scores beside PyTorch's own.
//!
//! `cargo run --release --example pytorch_checkpoint`
//!
//! The checkpoint is a small `LinformerLM` of the Python package `linformer` with drawn weights. To load your own, turn it into
//! safetensors with `tools/export_checkpoint.py`.

mod support;

use std::process::ExitCode;

use linformer::checkpoint::{Tensors, lucidrains};
use linformer::ndarray::Array2;
use serde_json::Value;
use support::{AnyError, Options, package_folder};

const ABOUT: &str = "Loads a LinformerLM saved by PyTorch and compares its scores with those that PyTorch computed.";

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let folder = package_folder().join("examples/data");
    let file = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (tensors, expected) = (file("lucidrains_lm.safetensors"), file("lucidrains_lm.json"));
    let options = Options::parse(
        ABOUT,
        &[
            ("checkpoint", &tensors, "the tensors, as safetensors"),
            (
                "expected",
                &expected,
                "the options of the model, a text, and PyTorch's scores for it, as JSON",
            ),
        ],
    );
    let path = options.text("expected");
    let expected = std::fs::read(path).map_err(|error| format!("{path}: {error}"))?;
    let expected: Value = serde_json::from_slice(&expected)?;
    let peers: lucidrains::Options = serde_json::from_value(expected["config"].clone())?;
    let model = lucidrains::language_model::<f32>(&Tensors::read(options.text("checkpoint"))?, &peers)?;

    let tokens: Vec<usize> = serde_json::from_value(expected["tokens"].clone())?;
    let positions: Vec<usize> = serde_json::from_value(expected["positions"].clone())?;
    let pytorch: Vec<Vec<f32>> = serde_json::from_value(expected["logits"].clone())?;
    let tokens = Array2::from_shape_vec((1, tokens.len()), tokens)?;
    let scores = model.logits_at(&tokens, std::slice::from_ref(&positions), None)?;

    println!("{:>8} {:>6} {:>12} {:>12}", "position", "token", "PyTorch", "here");
    let mut largest = 0_f32;
    for (row, (position, pytorch)) in scores.outer_iter().zip(positions.iter().zip(&pytorch)) {
        for (token, (&here, &pytorch)) in row.iter().zip(pytorch).enumerate() {
            if token < 5 {
                println!("{position:>8} {token:>6} {pytorch:>12.6} {here:>12.6}");
            }
            largest = largest.max((here - pytorch).abs());
        }
    }
    println!("largest difference of {} scores: {largest:.1e}", scores.len());
    if largest > 1e-4 {
        return Err("the scores differ".into());
    }
    Ok(())
}
