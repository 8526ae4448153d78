//! Linformer attention in burn on its Flex backend, as lucidrains wrote it for PyTorch: keys and values of all positions, then E and F.

use burn::tensor::activation::softmax;
use burn::tensor::module::linear;
use burn::tensor::{Device, Tensor, TensorData};
use linformer::ndarray::Array3;

use crate::weights::Weights;
use crate::{AnyError, Output};

pub struct Layer {
    heads: usize,
    /// Weights as (in, out), as burn has them.
    query: Tensor<2>,
    key: Tensor<2>,
    value: Tensor<2>,
    output: Tensor<2>,
    bias: Tensor<1>,
    /// (1, k, n).
    e: Tensor<3>,
    f: Tensor<3>,
    x: Tensor<3>,
}

impl Layer {
    pub fn new(weights: &Weights, x: &Array3<f32>) -> Result<Self, AnyError> {
        let device = Device::flex();
        let weight = |values: &[f32]| {
            let transposed = transposed(values, weights.dim);
            Tensor::<2>::from_data(TensorData::new(transposed, [weights.dim, weights.dim]), &device)
        };
        let projection = |values: &[f32]| {
            let shape = [1, weights.k, weights.seq_len];
            Tensor::<3>::from_data(TensorData::new(values.to_vec(), shape), &device)
        };
        let (batch, length, dim) = x.dim();
        let input = x.as_slice().ok_or("the input is not contiguous")?.to_vec();
        Ok(Self {
            heads: weights.heads,
            query: weight(&weights.query),
            key: weight(&weights.key),
            value: weight(&weights.value),
            output: weight(&weights.output),
            bias: Tensor::from_data(TensorData::new(weights.bias.clone(), [weights.dim]), &device),
            e: projection(&weights.e),
            f: projection(&weights.f),
            x: Tensor::from_data(TensorData::new(input, [batch, length, dim]), &device),
        })
    }

    pub fn call(&self) -> Output {
        let output = self.forward(self.x.clone());
        Output::new(move || output.into_data().try_to_vec().map_err(|error| format!("{error:?}").into()))
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, length, dim] = x.dims();
        let queries = self.split(linear(x.clone(), self.query.clone(), None));
        let keys = self.split(self.e.clone().matmul(linear(x.clone(), self.key.clone(), None)));
        let values = self.split(self.f.clone().matmul(linear(x, self.value.clone(), None)));
        let scale = 1.0 / ((dim / self.heads) as f64).sqrt();
        let scores = queries.matmul(keys.transpose()) * scale;
        let attended = softmax(scores, 3).matmul(values);
        let joined = attended.swap_dims(1, 2).reshape([batch, length, dim]);
        linear(joined, self.output.clone(), Some(self.bias.clone()))
    }

    /// (batch, rows, dim) → (batch, heads, rows, width of a head).
    fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, rows, dim] = x.dims();
        x.reshape([batch, rows, self.heads, dim / self.heads]).swap_dims(1, 2)
    }
}

fn transposed(values: &[f32], size: usize) -> Vec<f32> {
    (0..values.len())
        .map(|index| values[(index % size) * size + index / size])
        .collect()
}
