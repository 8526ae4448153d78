//! One training step as PyTorch's part takes it: forward, mean squared error, backward, AdamW.

use std::time::Instant;

use linformer::ndarray::Array3;
use linformer::training::{AdamW, AdamWConfig, MeanSquaredError, Optimizer, Step};
use linformer::{Encoder, Parameters, TrainingPass};
use serde_json::{Value, json};

use crate::AnyError;

/// Both sides' rate; the rest of AdamW is as PyTorch has it by default.
const RATE: f64 = 1e-4;

pub struct Training {
    encoder: Encoder<f32>,
    optimizer: AdamW<f32>,
    gradients: Encoder<f32>,
    input: Array3<f32>,
    target: Array3<f32>,
}

impl Training {
    pub fn new(encoder: Encoder<f32>, input: Array3<f32>, target: Array3<f32>) -> Result<Self, AnyError> {
        Ok(Self {
            optimizer: AdamW::new(&encoder, AdamWConfig::new())?,
            gradients: encoder.zeros_like(),
            encoder,
            input,
            target,
        })
    }

    /// One step: its loss and its seconds.
    pub fn step(&mut self) -> Result<Value, AnyError> {
        let start = Instant::now();
        self.gradients.set_zero();
        let (output, cache) = self.encoder.forward_train(&self.input, None, &TrainingPass::new(Step::new(0, 0)))?;
        let (loss, dy) = MeanSquaredError::new().loss_and_gradient(&output, &self.target)?;
        self.encoder.backward(cache, dy, &mut self.gradients)?;
        self.optimizer.step(&mut self.encoder, &self.gradients, RATE)?;
        Ok(json!({ "loss": loss, "seconds": start.elapsed().as_secs_f64() }))
    }
}
