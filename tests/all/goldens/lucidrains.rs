//! The cases of lucidrains' package.

use linformer::checkpoint::{Tensors, lucidrains};
use linformer::ndarray::Array3;
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Step, TokenBatch, Trainable};
use linformer::{Error, LanguageModel, Parameters, Result, Scalar, TrainingPass};

use super::case::{Case, Outcome, assert_written};

pub fn run<A: Scalar>(case: &Case) -> Outcome {
    let output = if case.has("steps") {
        steps::<A>(case)
    } else {
        output::<A>(case, &case.tensors())
    };
    match output {
        Ok(output) => Outcome::Output(output.mapv(A::widen).into_dyn()),
        Err(error @ Error::Refused { .. }) => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn output<A: Scalar>(case: &Case, tensors: &Tensors<A>) -> Result<Array3<A>> {
    let json = case.config().to_string();
    let written = |state_dict: &Tensors<A>| assert_written(case, state_dict, tensors, |_| false);
    let trains = case.has("gradients");
    let pass = TrainingPass::new(Step::new(0, 0));
    // FeedForward has options of its own.
    if !case.has_option("seq_len") {
        let layer = lucidrains::feed_forward(tensors, &lucidrains::FeedForwardOptions::from_json(&json)?)?;
        written(&lucidrains::feed_forward_state_dict(&layer)?);
        let x = case.array3("x");
        if trains {
            let (mut gradients, (_, cache)) = (layer.zeros_like(), layer.forward_train(&x)?);
            let dx = layer.backward(cache, case.output_gradient(), &mut gradients)?;
            case.trained(&lucidrains::feed_forward_state_dict(&gradients)?, &[("input_gradient", &dx)]);
        }
        return layer.forward(&x);
    }
    let options = lucidrains::Options::from_json(&json)?;
    if case.has_option("num_tokens") {
        let model = lucidrains::language_model(tensors, &options)?;
        written(&lucidrains::language_model_state_dict(&model)?);
        let tokens = case.tokens("tokens");
        if trains {
            let (mut gradients, (_, cache)) = (model.zeros_like(), model.forward_train(&tokens, None, None, &pass)?);
            model.backward(cache, case.output_gradient(), &mut gradients)?;
            case.trained(&lucidrains::language_model_state_dict(&gradients)?, &[]);
        }
        return model.forward(&tokens, None);
    }
    let x = case.array3("x");
    if case.has_option("depth") {
        let encoder = lucidrains::linformer(tensors, &options)?;
        written(&lucidrains::linformer_state_dict(&encoder)?);
        if trains {
            let (mut gradients, (_, cache)) = (encoder.zeros_like(), encoder.forward_train(&x, None, &pass)?);
            let dx = encoder.backward(cache, case.output_gradient(), &mut gradients)?;
            case.trained(&lucidrains::linformer_state_dict(&gradients)?, &[("input_gradient", &dx)]);
        }
        return encoder.forward(&x, None);
    }
    let layer = lucidrains::attention(tensors, &options)?;
    written(&lucidrains::attention_state_dict(&layer)?);
    let mut gradients = layer.zeros_like();
    if case.has_input("context") {
        let context = case.array3("context");
        if trains {
            let (_, cache) = layer.forward_train_cross(&x, &context, None)?;
            let (dx, dcontext) = layer.backward_cross(cache, case.output_gradient(), &mut gradients)?;
            let inputs = [("input_gradient", &dx), ("context_gradient", &dcontext)];
            case.trained(&lucidrains::attention_state_dict(&gradients)?, &inputs);
        }
        return layer.attend(&x, &layer.compress(&context, None)?);
    }
    if trains {
        let (_, cache) = layer.forward_train(&x, None)?;
        let dx = layer.backward(cache, case.output_gradient(), &mut gradients)?;
        case.trained(&lucidrains::attention_state_dict(&gradients)?, &[("input_gradient", &dx)]);
    }
    layer.forward(&x, None)
}

/// Steps of clipping and AdamW: losses, norms and weights after each. The output is the losses.
fn steps<A: Scalar>(case: &Case) -> Result<Array3<A>> {
    let options = lucidrains::Options::from_json(&case.config().to_string())?;
    let mut model: LanguageModel<A> = lucidrains::language_model(case.tensors(), &options)?;
    let optimizer = case.key("optimizer").clone();
    let number = |key: &str| optimizer[key].as_f64().unwrap_or_else(|| panic!("{}: no {key}", case.name));
    let beta = |index: usize| optimizer["betas"][index].as_f64().expect("two betas");
    let config = AdamWConfig::default()
        .with_betas((beta(0), beta(1)))
        .with_eps(number("eps"))
        .with_weight_decay(number("weight_decay"));
    let mut adamw = AdamW::new(&model, config)?;
    let ignored = number("ignore_index");
    let count = case.key("steps").as_array().expect("`steps` is a list").len();
    let mut losses = Array3::zeros((1, 1, count));
    for index in 0..count {
        let pass = TrainingPass::new(Step::new(0, index as u64));
        let ids = case.step_tensor(index, "tokens");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // they are small and not negative
        let tokens = ids.mapv(|id| id as usize).into_dimensionality().expect("two axes");
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // they are small, and negative only where ignored
        let targets: Vec<_> = case
            .step_tensor(index, "targets")
            .iter()
            .map(|&target| (target.to_bits() != ignored.to_bits()).then_some(target as usize))
            .collect();
        let (loss, mut gradients) = model.loss_and_gradients(&TokenBatch::new(&tokens, &targets), &CrossEntropy::new(), &pass)?;
        let norm = adamw.clip_gradient_norm(&mut gradients, number("clip_norm"))?;
        adamw.step(&mut model, &gradients, number("lr"))?;
        losses[[0, 0, index]] = A::cast(loss);
        case.stepped(index, loss, norm, &lucidrains::language_model_state_dict(&model)?);
    }
    Ok(losses)
}
