//! Tables of what a model is made of.

use std::fmt;

use crate::parameters::{Parameters, Role};
use crate::scalar::Scalar;

/// The layers of a model with the shapes of their tensors and their parameter counts, as [`Parameters::summary`] returns it. It is displayed as a
/// table.
///
/// ```
/// use linformer::{Encoder, EncoderConfig, LinformerConfig, Parameters};
///
/// let encoder = Encoder::<f32>::new(&EncoderConfig::new(LinformerConfig::new(16, 2, 64, 8), 1), 0)?;
/// let summary = encoder.summary();
/// assert_eq!(summary.trainable, encoder.parameter_count());
/// let table = summary.to_string();
/// assert!(table.starts_with("layer"));
/// assert!(table.contains("blocks.0.attention.query"));
/// # Ok::<(), linformer::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The layers in the order of the model.
    pub layers: Vec<LayerSummary>,
    /// The number of trainable elements.
    pub trainable: usize,
    /// The number of elements of buffers, which are saved but not trained.
    pub fixed: usize,
}

/// A layer of a [`Summary`]: tensors whose names differ only after the last dot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LayerSummary {
    /// The path of the layer; empty for tensors of the model itself.
    pub name: String,
    /// The name within the layer, the role and the shape of each tensor.
    pub tensors: Vec<(String, Role, Vec<usize>)>,
    /// The number of trainable elements.
    pub trainable: usize,
}

impl Summary {
    /// Summarizes any tree of tensors.
    pub(crate) fn of<A: Scalar>(model: &(impl Parameters<A> + ?Sized)) -> Self {
        let mut summary = Self::default();
        model.visit("", &mut |path, role, tensor| summary.add(path, role, tensor.shape()));
        summary
    }

    fn add(&mut self, path: &str, role: Role, shape: &[usize]) {
        let (layer, tensor) = path.rsplit_once('.').unwrap_or(("", path));
        if self.layers.last().is_none_or(|last| last.name != layer) {
            self.layers.push(LayerSummary {
                name: layer.to_owned(),
                tensors: Vec::new(),
                trainable: 0,
            });
        }
        let count = shape.iter().product();
        if let Some(last) = self.layers.last_mut() {
            last.tensors.push((tensor.to_owned(), role, shape.to_vec()));
            last.trainable += if role == Role::Trainable { count } else { 0 };
        }
        match role {
            Role::Trainable => self.trainable += count,
            Role::Buffer => self.fixed += count,
        }
    }
}

impl LayerSummary {
    /// Returns the tensors as text: "weight 16×64, bias 16".
    fn shapes(&self) -> String {
        let tensors = self.tensors.iter().map(|(name, role, shape)| {
            let shape = shape.iter().map(usize::to_string).collect::<Vec<_>>().join("×");
            let fixed = if *role == Role::Buffer { " (fixed)" } else { "" };
            format!("{name} {shape}{fixed}").trim().to_owned()
        });
        tensors.collect::<Vec<_>>().join(", ")
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rows = vec![["layer".to_owned(), "tensors".to_owned(), "parameters".to_owned()]];
        rows.extend(self.layers.iter().map(|layer| {
            let name = if layer.name.is_empty() { "." } else { &layer.name };
            [name.to_owned(), layer.shapes(), grouped(layer.trainable)]
        }));
        rows.push(["total".to_owned(), String::new(), grouped(self.trainable)]);
        if self.fixed > 0 {
            rows.push(["fixed, not trained".to_owned(), String::new(), grouped(self.fixed)]);
        }
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let (first, second, third) = (width(0), width(1), width(2));
        for (index, [layer, tensors, count]) in rows.iter().enumerate() {
            if index > 0 {
                writeln!(formatter)?;
            }
            write!(formatter, "{layer:<first$}  {tensors:<second$}  {count:>third$}")?;
        }
        Ok(())
    }
}

/// A number with a comma between its thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::Array2;

    /// A user's own model, with a tensor of its own and a layer that holds others.
    struct Mine {
        scale: Array2<f64>,
        head: crate::Linear<f64>,
    }

    impl Parameters<f64> for Mine {
        fn visit<'a>(&'a self, path: &str, visitor: &mut crate::parameters::Visitor<'_, 'a, f64>) {
            visitor("table", Role::Buffer, self.scale.view().into_dyn());
            self.head.visit(&crate::parameters::join(path, "head"), visitor);
        }

        fn visit_mut<'a>(&'a mut self, path: &str, visitor: &mut crate::parameters::VisitorMut<'_, 'a, f64>) {
            visitor("table", Role::Buffer, self.scale.view_mut().into_dyn());
            self.head.visit_mut(&crate::parameters::join(path, "head"), visitor);
        }
    }

    #[test]
    fn a_model_of_ones_own_is_a_table_of_its_layers() {
        let model = Mine {
            scale: Array2::zeros((3, 5)),
            head: crate::Linear::new(40, 30, true, 0).unwrap(),
        };
        let expected = "\
layer               tensors                parameters
.                   table 3×5 (fixed)               0
head                weight 30×40, bias 30       1,230
total                                           1,230
fixed, not trained                                 15";
        assert_eq!(model.summary().to_string(), expected);
    }

    #[test]
    fn thousands_are_set_apart() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (123_456, "123,456"),
            (12_345_678, "12,345,678"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
