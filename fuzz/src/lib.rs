//! What the targets have in common: options beside tensors, small choices out of bytes, and small models.

use linformer::checkpoint::Tensors;
use linformer::ndarray::{Array2, Array3};
use linformer::{
    Convolution, ConvolutionKernel, ConvolutionTail, Encoder, GenerationConfig, LanguageModel, LinformerConfig, LocalGlobalConfig, Parameters,
    PoolingQuery, ProjectionKind, Sharing,
};
use serde_json::Value;

/// The largest number in options or a configuration that a model is made of: what describes a large model is right to take its memory.
const LARGEST: f64 = 40.0;

/// An input of a foreign loader: two bytes of length, so many bytes of JSON, and a safetensors file.
pub fn parts(data: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = data.split_first_chunk::<2>()?;
    let (json, file) = rest.split_at_checked(u16::from_le_bytes(*length).into())?;
    Some((std::str::from_utf8(json).ok()?, file))
}

/// Such an input.
pub fn join(json: &str, file: &[u8]) -> Vec<u8> {
    let length = u16::try_from(json.len()).expect("short options");
    [&length.to_le_bytes(), json.as_bytes(), file].concat()
}

/// Options and the tensors that a file holds, where there is one.
pub fn options_and_tensors(data: &[u8]) -> Option<(&str, Tensors<f32>)> {
    let (json, file) = parts(data)?;
    Some((json, Tensors::from_bytes(file).ok()?))
}

/// Whether every number in the JSON is small.
pub fn is_small(json: &str) -> bool {
    fn small(value: &Value) -> bool {
        match value {
            Value::Number(number) => number.as_f64().is_none_or(|number| number <= LARGEST),
            Value::Array(values) => values.len() <= 8 && values.iter().all(small),
            Value::Object(fields) => fields.values().all(small),
            _ => true,
        }
    }
    serde_json::from_str(json).is_ok_and(|value| small(&value))
}

/// Runs a loaded encoder on a few short sequences.
pub fn run_encoder(encoder: &Encoder<f32>) {
    for length in [0, 1, 3] {
        let _ = encoder.forward(&Array3::zeros((2, length, encoder.config().dim())), None);
    }
}

/// Runs a loaded language model on a few tokens, and continues them where it is causal.
pub fn run_language_model(model: &LanguageModel<f32>) {
    for length in [0, 1, 3] {
        let _ = model.forward(&Array2::zeros((2, length)), None);
    }
    if let Ok(steps) = model.generate_one(&[0], &GenerationConfig::new(4)) {
        steps.for_each(drop);
    }
}

/// Choices out of the bytes of an input; 0 after their end.
pub struct Choices<'d>(std::slice::Iter<'d, u8>);

impl<'d> Choices<'d> {
    pub fn new(data: &'d [u8]) -> Self {
        Self(data.iter())
    }

    /// A number from 0 to `most`.
    pub fn up_to(&mut self, most: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % (most + 1)
    }

    pub fn coin(&mut self) -> bool {
        self.up_to(1) == 1
    }

    /// A layer of up to `seq_len` positions of 6 numbers.
    pub fn layer(&mut self, seq_len: usize) -> LinformerConfig {
        let kernel = [
            ConvolutionKernel::Scalar,
            ConvolutionKernel::Depthwise,
            ConvolutionKernel::ChannelMixing,
        ][self.up_to(2)];
        let tail = if self.coin() { ConvolutionTail::ZeroPadded } else { ConvolutionTail::Dropped };
        let convolution = Convolution::new(kernel).with_tail(tail).with_all_windows(self.coin());
        let kind = [
            ProjectionKind::Learned,
            ProjectionKind::MeanPooling,
            ProjectionKind::MaxPooling,
            ProjectionKind::Convolution(convolution),
            ProjectionKind::Random,
            ProjectionKind::AttentionPooling,
        ][self.up_to(5)];
        let (key, value) = (self.coin(), self.coin());
        let k = 1 + self.up_to(seq_len.min(7) - 1);
        let config = LinformerConfig::new(6, 2, seq_len, k)
            .with_kind(kind)
            .with_key_value_bias(key, value);
        if matches!(
            kind,
            ProjectionKind::MeanPooling | ProjectionKind::MaxPooling | ProjectionKind::AttentionPooling
        ) {
            return config;
        }
        let sharing = [Sharing::Headwise, Sharing::None, Sharing::KeyValue][self.up_to(2)];
        let config = config.with_sharing(sharing);
        if kind == ProjectionKind::Random {
            config
        } else {
            config.with_projection_bias(self.coin())
        }
    }

    /// Attention to a window and to summaries, of 6 numbers a position.
    pub fn local_global(&mut self, causal: bool) -> LocalGlobalConfig {
        let slots = self.up_to(9);
        let (key, value) = (self.coin(), self.coin());
        let config = LocalGlobalConfig::new(6, 2)
            .with_block(1 << self.up_to(4))
            .with_slots(slots)
            .with_kv_heads(1 + self.up_to(1))
            .with_key_value_bias(key, value)
            .with_causal(causal);
        if slots == 0 {
            return config;
        }
        let config = config.with_mass_shift(self.up_to(4) as f64 - 2.0);
        if causal {
            return config;
        }
        let query = [PoolingQuery::Fixed, PoolingQuery::MeanOfItem][self.up_to(1)];
        let trained_len = self.coin().then(|| 1 + self.up_to(30));
        config
            .with_window(self.coin())
            .with_pooling_query(query)
            .with_trained_len(trained_len)
    }

    /// A sequence of small whole and broken numbers.
    pub fn sequence(&mut self, shape: (usize, usize, usize)) -> Array3<f64> {
        let offset = self.up_to(255) as f64;
        Array3::from_shape_fn(shape, |(item, position, feature)| {
            ((item * 97 + position * 7 + feature) as f64 * 0.734 + offset).sin()
        })
    }
}

/// Gives every u numbers, which is 0 at first.
pub fn fill_pooling_queries(model: &mut impl Parameters<f64>) {
    let mut index = 0.0;
    model.visit_mut("", &mut |name, _, mut tensor| {
        if name.ends_with("pooling_query") {
            tensor.mapv_inplace(|_| {
                index += 1.0;
                f64::sin(index * 2.4)
            });
        }
    });
}

/// Whether all numbers of two arrays are near each other.
pub fn are_near<'a>(a: impl IntoIterator<Item = &'a f64>, b: impl IntoIterator<Item = &'a f64>) -> bool {
    a.into_iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9)
}
