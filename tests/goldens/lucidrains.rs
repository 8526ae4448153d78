//! The cases of lucidrains' package.

use linformer::checkpoint::{Tensors, lucidrains};
use linformer::ndarray::Array3;
use linformer::{Result, Scalar};

use super::case::{Case, Outcome};

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
    // FeedForward has options of its own.
    if !case.has_option("seq_len") {
        let options = lucidrains::FeedForwardOptions::from_json(&json)?;
        return lucidrains::feed_forward(tensors, &options)?.forward(&case.array3("x"));
    }
    let options = lucidrains::Options::from_json(&json)?;
    if case.has_option("num_tokens") {
        return lucidrains::language_model(tensors, &options)?.forward(&case.tokens("tokens"), None);
    }
    if case.has_option("depth") {
        return lucidrains::linformer(tensors, &options)?.forward(&case.array3("x"), None);
    }
    let layer = lucidrains::attention(tensors, &options)?;
    let x = case.array3("x");
    if case.has_input("context") {
        return layer.attend(&x, &layer.compress(&case.array3("context"), None)?);
    }
    layer.forward(&x, None)
}
