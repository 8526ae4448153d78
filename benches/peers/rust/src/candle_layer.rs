//! Linformer attention in candle, as lucidrains wrote it for PyTorch: keys and values of all positions, then E and F.

use candle_core::{Device, Tensor};
use candle_nn::{Linear, Module, ops};
use linformer::ndarray::Array3;

use crate::weights::Weights;
use crate::{AnyError, Output};

pub struct Layer {
    heads: usize,
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    /// (1, k, n).
    e: Tensor,
    f: Tensor,
    x: Tensor,
}

impl Layer {
    pub fn new(weights: &Weights, x: &Array3<f32>) -> Result<Self, AnyError> {
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu);
        let square = [weights.dim, weights.dim];
        let projection = [1, weights.k, weights.seq_len];
        Ok(Self {
            heads: weights.heads,
            query: Linear::new(tensor(&weights.query, &square)?, None),
            key: Linear::new(tensor(&weights.key, &square)?, None),
            value: Linear::new(tensor(&weights.value, &square)?, None),
            output: Linear::new(tensor(&weights.output, &square)?, Some(tensor(&weights.bias, &[weights.dim])?)),
            e: tensor(&weights.e, &projection)?,
            f: tensor(&weights.f, &projection)?,
            x: tensor(x.as_slice().ok_or("the input is not contiguous")?, x.shape())?,
        })
    }

    pub fn call(&self) -> Result<Output, AnyError> {
        let output = self.forward(&self.x)?;
        Ok(Output::new(move || Ok(output.flatten_all()?.to_vec1()?)))
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, length, dim) = x.dims3()?;
        let queries = self.split(&self.query.forward(x)?)?;
        let keys = self.split(&self.e.broadcast_matmul(&self.key.forward(x)?)?)?;
        let values = self.split(&self.f.broadcast_matmul(&self.value.forward(x)?)?)?;
        let scale = 1.0 / ((dim / self.heads) as f64).sqrt();
        let scores = (queries.matmul(&keys.t()?)? * scale)?;
        let attended = ops::softmax_last_dim(&scores)?.matmul(&values)?;
        self.output.forward(&attended.transpose(1, 2)?.reshape((batch, length, dim))?)
    }

    /// (batch, rows, dim) → (batch, heads, rows, width of a head).
    fn split(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (batch, rows, dim) = x.dims3()?;
        x.reshape((batch, rows, self.heads, dim / self.heads))?
            .transpose(1, 2)?
            .contiguous()
    }
}
