//! The parameters that an optimizer steps, and those that decay.

use crate::parameters::Role;

/// The parameters that weight decay pulls toward 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum WeightDecay {
    /// All that are stepped, as in PyTorch with one parameter group. The default.
    #[default]
    All,
    /// Only those that multiply features: none with fewer than two axes, none whose last name is `bias`, and none that is, or is part of
    /// what is, named `embedding`, `position`, `norm` or `…_norm`.
    OnlyMatrices,
}

impl WeightDecay {
    /// Whether the parameter `name` with `axes` axes decays.
    pub(crate) fn includes(self, name: &str, axes: usize) -> bool {
        let exempt = |part: &str| matches!(part, "embedding" | "position" | "norm") || part.ends_with("_norm");
        let bias = name.rsplit('.').next() == Some("bias");
        self == Self::All || (axes >= 2 && !bias && !name.split('.').any(exempt))
    }
}

/// Whether `name` is the path `prefix`, or a path below it.
pub(crate) fn is_below(name: &str, prefix: &str) -> bool {
    name.strip_prefix(prefix)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// Whether training changes the tensor `name`: it is not a buffer, and none of the `frozen` paths leads to it.
pub(crate) fn is_stepped(name: &str, role: Role, frozen: &[String]) -> bool {
    role == Role::Trainable && !frozen.iter().any(|prefix| is_below(name, prefix))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{EncoderConfig, LanguageModelConfig, LinformerConfig};
    use crate::models::LanguageModel;
    use crate::parameters::Parameters;

    #[test]
    fn only_matrices_decay() {
        let encoder = EncoderConfig::new(LinformerConfig::new(8, 2, 16, 4), 1);
        let model = LanguageModel::<f32>::new(&LanguageModelConfig::new(32, encoder), 0).unwrap();
        for (name, tensor) in model.named() {
            let decays = WeightDecay::OnlyMatrices.includes(&name, tensor.ndim());
            let expected = ["query", "key", "value", "output", "input", "head", "projections"];
            let matrix = expected.iter().any(|part| name.split('.').any(|own| own == *part)) && !name.ends_with("bias");
            assert_eq!(decays, matrix, "{name}");
            assert!(WeightDecay::All.includes(&name, tensor.ndim()));
        }
        assert!(!WeightDecay::OnlyMatrices.includes("projections.key.bias", 2));
        assert!(WeightDecay::OnlyMatrices.includes("normal.weight", 2));
    }

    #[test]
    fn paths_end_at_dots() {
        assert!(is_below("blocks.1.norm.weight", "blocks.1"));
        assert!(is_below("blocks.1", "blocks.1"));
        assert!(!is_below("blocks.10.norm.weight", "blocks.1"));
        assert!(!is_below("blocks", "blocks.1"));
    }
}
