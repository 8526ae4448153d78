//! The cases of lucidrains' package.

use linformer::checkpoint::{Tensors, lucidrains};
use linformer::ndarray::Array3;
use linformer::{Result, Scalar};

use super::case::{Case, Outcome, assert_written};

pub fn run<A: Scalar>(case: &Case) -> Outcome {
    if case.has("steps") && !case.has("inputs") {
        return Outcome::Later("training");
    }
    match output::<A>(case, &case.tensors()) {
        Ok(output) => Outcome::Output(output.mapv(A::widen).into_dyn()),
        Err(error) => Outcome::Refused(error.to_string()),
    }
}

fn output<A: Scalar>(case: &Case, tensors: &Tensors<A>) -> Result<Array3<A>> {
    let json = case.config().to_string();
    let written = |state_dict: &Tensors<A>| assert_written(case, state_dict, tensors, |_| false);
    // FeedForward has options of its own.
    if !case.has_option("seq_len") {
        let layer = lucidrains::feed_forward(tensors, &lucidrains::FeedForwardOptions::from_json(&json)?)?;
        written(&lucidrains::feed_forward_state_dict(&layer)?);
        return layer.forward(&case.array3("x"));
    }
    let options = lucidrains::Options::from_json(&json)?;
    if case.has_option("num_tokens") {
        let model = lucidrains::language_model(tensors, &options)?;
        written(&lucidrains::language_model_state_dict(&model)?);
        return model.forward(&case.tokens("tokens"), None);
    }
    if case.has_option("depth") {
        let encoder = lucidrains::linformer(tensors, &options)?;
        written(&lucidrains::linformer_state_dict(&encoder)?);
        return encoder.forward(&case.array3("x"), None);
    }
    let layer = lucidrains::attention(tensors, &options)?;
    written(&lucidrains::attention_state_dict(&layer)?);
    let x = case.array3("x");
    if case.has_input("context") {
        return layer.attend(&x, &layer.compress(&case.array3("context"), None)?);
    }
    layer.forward(&x, None)
}
