//! The cases of fairseq's package.

use linformer::checkpoint::{Tensors, fairseq};
use linformer::ndarray::{Array3, ArrayD};
use linformer::training::Step;
use linformer::{Error, Parameters, Result, Scalar, TrainingPass};

use super::case::{Case, Outcome, assert_written};

pub fn run<A: Scalar>(case: &Case) -> Outcome {
    if case.has_input("attn_mask") {
        return Outcome::Later("a mask of n by k scores, which no model passes on");
    }
    let tensors = case.tensors::<A>();
    let output = if case.has_option("embed_dim") {
        attention(case, &tensors)
    } else {
        model(case, &tensors)
    };
    match output {
        Ok(output) => Outcome::Output(output),
        Err(error @ Error::Refused { .. }) => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// (length, batch, dim) into (batch, length, dim), or back.
fn swapped<A: Scalar>(x: Array3<A>) -> Array3<A> {
    x.permuted_axes([1, 0, 2])
}

fn wide<A: Scalar>(output: &Array3<A>) -> ArrayD<f64> {
    output.mapv(A::widen).into_dyn()
}

fn attention<A: Scalar>(case: &Case, tensors: &Tensors<A>) -> Result<ArrayD<f64>> {
    let mut config = case.config();
    // It describes the inputs and is no option.
    let layout = config.as_object_mut().and_then(|options| options.remove("layout"));
    assert_eq!(layout.as_ref().and_then(|layout| layout.as_str()), Some("T,B,C"), "{}", case.name);
    let options = fairseq::AttentionOptions::from_json(&config.to_string())?;
    let layer = fairseq::attention(tensors, &options)?;
    let written = fairseq::attention_state_dict(&layer)?;
    assert_written(case, &written, tensors, |name| {
        // Weights that were one are written as three.
        tensors.get("in_proj_weight").is_some() && (name.starts_with("in_proj") || name[1..].starts_with("_proj"))
    });
    if case.has_input("key_padding_mask") {
        // fairseq accepts it and ignores it.
        case.input::<A>("key_padding_mask");
    }
    let x = swapped(case.array3("x"));
    if case.has("gradients") {
        let (mut gradients, (_, cache)) = (layer.zeros_like(), layer.forward_train(&x, None)?);
        let dx = layer.backward(cache, swapped(case.output_gradient()), &mut gradients)?;
        case.trained(&fairseq::attention_state_dict(&gradients)?, &[("input_gradient", &swapped(dx))]);
    }
    let output = layer.forward(&x, None)?;
    Ok(wide(&swapped(output)))
}

fn model<A: Scalar>(case: &Case, tensors: &Tensors<A>) -> Result<ArrayD<f64>> {
    let options = fairseq::RobertaOptions::from_json(&case.config().to_string())?;
    let model = fairseq::linformer_roberta(tensors, &options)?;
    let written = fairseq::linformer_roberta_state_dict(&model)?;
    if is_new(tensors) {
        let again = options.shared_layer_kv_compressed == 1;
        assert_written(case, &written, tensors, |name| {
            is_dropped(name) || (again && name.contains(".compress_v."))
        });
    }
    let tokens = case.tokens("tokens");
    if case.has("gradients") {
        let pass = TrainingPass::new(Step::new(0, 0));
        let (mut gradients, (_, cache)) = (model.zeros_like(), model.forward_train(&tokens, None, None, &pass)?);
        model.backward(cache, case.output_gradient(), &mut gradients)?;
        case.trained(&fairseq::linformer_roberta_state_dict(&gradients)?, &[]);
    }
    let output = model.forward(&tokens, None)?;
    if case.has("classification_heads") {
        case.also("features", wide(&model.features(&tokens, None)?));
        for name in case.key("classification_heads").as_object().expect("heads by name").keys() {
            let scores = fairseq::classifier(tensors, &options, name)?.forward(&tokens, None)?;
            case.also(&format!("classification_output.{name}"), scores.mapv(A::widen).into_dyn());
        }
    }
    // What was written is the same model, whichever version was read.
    let again = fairseq::linformer_roberta(&written, &fairseq::RobertaOptions::of(model.config())?)?;
    assert_eq!(again.forward(&tokens, None)?, output, "{}", case.name);
    Ok(wide(&output))
}

/// Whether a state dict has today's names and says so.
fn is_new<A: Scalar>(tensors: &Tensors<A>) -> bool {
    let old = [
        "decoder",
        "emb_layer_norm",
        "layer_norms",
        "self_attn.in_proj",
        "shared_compress_layer",
    ];
    tensors.get("encoder.version").is_some()
        && tensors.get("encoder.sentence_encoder.version").is_some()
        && !tensors.names().any(|name| old.iter().any(|old| name.contains(old)))
}

/// The names that loaders leave out: fused layers' copies, classification heads, biases that are never added.
fn is_dropped(name: &str) -> bool {
    let is_fused = ["in_proj_", "out_proj_", "fc1_", "fc2_"]
        .iter()
        .any(|field| name.contains(&format!(".{field}")));
    let is_unused_bias = name.contains(".compress_") && !name.ends_with("weight");
    is_fused || is_unused_bias || name.starts_with("classification_heads.")
}
