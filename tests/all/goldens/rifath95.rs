//! The cases of this peer.

use linformer::checkpoint::rifath95;
use linformer::ndarray::Array3;
use linformer::{Error, Result, Scalar};

use super::case::{Case, Outcome, assert_written};

pub fn run<A: Scalar>(case: &Case) -> Outcome {
    match output::<A>(case) {
        Ok(output) => Outcome::Output(output.mapv(A::widen).into_dyn()),
        Err(error @ Error::Refused { .. }) => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn output<A: Scalar>(case: &Case) -> Result<Array3<A>> {
    let options = rifath95::Options::from_json(&case.config().to_string())?;
    let tensors = case.tensors();
    let model = rifath95::language_model(&tensors, &options)?;
    assert_written(case, &rifath95::language_model_state_dict(&model, &options)?, &tensors, |_| false);
    model.forward(&case.tokens("tokens"), None)
}
