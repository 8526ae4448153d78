//! Attention pooling, a case without a window, against the same loop.

use linformer::checkpoint::Tensors;
use linformer::ndarray::{Array3, s};
use linformer::{LinformerAttention, LinformerConfig, PaddingMask, Parameters, ProjectionKind, Result, Scalar};

use super::case::{Case, Outcome};
use super::local_global;

/// Both kinds of attention that compute a case without a window, a shift and a mean query; the others have one of these.
pub fn run<A: Scalar>(case: &Case) -> Outcome {
    let config = case.config();
    if config["window"] == false && config["shift"] == 0.0 && config["mean_query"] == false {
        match output::<A>(case) {
            Ok(output) => case.also("output", output.mapv(A::widen).into_dyn()),
            Err(error) => return Outcome::Failed(error.to_string()),
        }
    }
    local_global::run::<A>(case)
}

/// The file's name of a parameter.
fn name(own: &str) -> &str {
    if own == "projections.key.pooling_query" { "u" } else { own }
}

fn output<A: Scalar>(case: &Case) -> Result<Array3<A>> {
    let config = case.config();
    let size = |option: &str| usize::try_from(config[option].as_u64().expect("a size")).expect("a small size");
    let x = case.array3::<A>("x");
    let (_, length, _) = x.dim();
    let tensors: Tensors<A> = case.tensors();
    let has = |name: &str| tensors.get(name).is_some();
    let mut layer_config = LinformerConfig::new(size("dim"), size("heads"), length, size("slots"))
        .with_kind(ProjectionKind::AttentionPooling)
        .with_query_bias(has("query.bias"))
        .with_key_value_bias(has("key.bias"), has("value.bias"));
    layer_config.attention.output_bias = has("output.bias");
    let mut layer = LinformerAttention::<A>::new(&layer_config, 0)?;
    let mut count = 0;
    layer.visit_mut("", &mut |own, _, mut tensor| {
        tensor.assign(&tensors.get(name(own)).expect("a tensor of this name"));
        count += 1;
    });
    assert_eq!(count, tensors.len(), "{}: all tensors are read", case.name);
    let lengths = case.lengths("lengths");
    let mask = PaddingMask::from_lengths(&lengths, length)?;
    let at_padding_zero = |mut x: Array3<A>| {
        for (item, &length) in lengths.iter().enumerate() {
            x.slice_mut(s![item, length.., ..]).fill(A::zero());
        }
        x
    };
    let (mut gradients, (_, cache)) = (layer.zeros_like(), layer.forward_train(&x, Some(&mask))?);
    let dx = layer.backward(cache, at_padding_zero(case.output_gradient()), &mut gradients)?;
    let mut named = Tensors::new();
    for (own, gradient) in gradients.named() {
        named.insert(name(&own), gradient.to_owned())?;
    }
    case.trained(&named, &[("input_gradient", &dx)]);
    Ok(at_padding_zero(layer.forward(&x, Some(&mask))?))
}
