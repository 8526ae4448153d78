//! The cases of this peer.

use linformer::checkpoint::{Tensors, tatp22};
use linformer::ndarray::Array3;
use linformer::training::Step;
use linformer::{Attention, Error, PaddingMask, Parameters, Result, Scalar, TrainingPass};

use super::case::{Case, Outcome, assert_written};

pub fn run<A: Scalar>(case: &Case) -> Outcome {
    if case.has_input("Q") {
        return head(case);
    }
    if case.has_input("embeddings_mask") {
        return Outcome::Refused(
            "embeddings_mask: no model takes such an argument, since the package puts it on the wrong side".to_owned(),
        );
    }
    match output::<A>(case) {
        Ok(output) => Outcome::Output(output.mapv(Scalar::widen).into_dyn()),
        Err(error @ Error::Refused { .. }) => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// A head by itself attends from, to and over three sequences that no model gives it: it has no loader.
fn head(case: &Case) -> Outcome {
    if case.has_option("causal") {
        return Outcome::Refused("causal: a head by itself is not loaded, and its triangle leaks the future".to_owned());
    }
    Outcome::Later("heads by themselves")
}

fn output<A: Scalar>(case: &Case) -> Result<Array3<A>> {
    let tensors = tensors::<A>(case);
    let json = case.config().to_string();
    let mask = case.has_input("input_mask").then(|| case.mask("input_mask"));
    let mask = mask.as_ref();
    let trains = case.has("gradients");
    let pass = TrainingPass::new(Step::new(0, 0));
    let written = |state_dict: &Tensors<A>| check_written(case, &tensors, state_dict);
    if is_decoder(case) {
        return decoder(case, &tensors, &json);
    }
    if case.has_option("num_tokens") {
        let options = tatp22::LinformerLMOptions::from_json(&json)?;
        let model = tatp22::language_model(&tensors, &options)?;
        written(&tatp22::language_model_state_dict(&model, &options)?);
        let tokens = case.tokens("tokens");
        if trains {
            let (mut gradients, (_, cache)) = (model.zeros_like(), model.forward_train(&tokens, None, mask, &pass)?);
            model.backward(cache, case.output_gradient(), &mut gradients)?;
            case.trained(&tatp22::language_model_state_dict(&gradients, &options)?, &[]);
        }
        return model.forward(&tokens, mask);
    }
    if case.has_option("ff_dim") {
        let options = tatp22::FeedForwardOptions::from_json(&json)?;
        let layer = tatp22::feed_forward(&tensors, &options)?;
        written(&tatp22::feed_forward_state_dict(&layer, &options)?);
        let x = case.array3("x");
        if trains {
            let (mut gradients, (_, cache)) = (layer.zeros_like(), layer.forward_train(&x)?);
            let dx = layer.backward(cache, case.output_gradient(), &mut gradients)?;
            case.trained(&tatp22::feed_forward_state_dict(&gradients, &options)?, &[("input_gradient", &dx)]);
        }
        return layer.forward(&x);
    }
    if case.has_option("dim") {
        let options = tatp22::MHAttentionOptions::from_json(&json)?;
        let layer = tatp22::attention(&tensors, &options)?;
        written(&tatp22::attention_state_dict(&layer, &options)?);
        return attend(case, &layer, mask);
    }
    let options = tatp22::LinformerOptions::from_json(&json)?;
    let encoder = tatp22::linformer(&tensors, &options)?;
    written(&tatp22::linformer_state_dict(&encoder, &options)?);
    let x = case.array3("x");
    if trains {
        let (mut gradients, (_, cache)) = (encoder.zeros_like(), encoder.forward_train(&x, mask, &pass)?);
        let dx = encoder.backward(cache, case.output_gradient(), &mut gradients)?;
        case.trained(&tatp22::linformer_state_dict(&gradients, &options)?, &[("input_gradient", &dx)]);
    }
    encoder.forward(&x, mask)
}

/// Whether the options are those of a whole decoder.
fn is_decoder(case: &Case) -> bool {
    !case.has_option("dim") && case.config().get("decoder_mode").is_some_and(|mode| mode == true)
}

fn decoder<A: Scalar>(case: &Case, tensors: &Tensors<A>, json: &str) -> Result<Array3<A>> {
    let pass = TrainingPass::new(Step::new(0, 0));
    let written = |state_dict: &Tensors<A>| check_written(case, tensors, state_dict);
    if case.has_option("num_tokens") {
        let options = tatp22::LinformerLMOptions::from_json(json)?;
        let model = tatp22::decoder_language_model(tensors, &options)?;
        written(&tatp22::decoder_language_model_state_dict(&model, &options)?);
        let (tokens, source) = (case.tokens("tokens"), case.array3("embeddings"));
        if case.has("gradients") {
            let (mut gradients, (_, cache)) = (model.zeros_like(), model.forward_train(&tokens, None, source.clone(), None, &pass)?);
            let dsource = model.backward(cache, case.output_gradient(), &mut gradients)?;
            let gradients = tatp22::decoder_language_model_state_dict(&gradients, &options)?;
            case.trained(&gradients, &[("input_gradient", &dsource)]);
        }
        return model.forward(&tokens, None, &source, None);
    }
    let options = tatp22::LinformerOptions::from_json(json)?;
    let decoder = tatp22::decoder(tensors, &options)?;
    written(&tatp22::decoder_state_dict(&decoder, &options)?);
    let (x, source) = (case.array3("x"), case.array3("embeddings"));
    if case.has("gradients") {
        let (mut gradients, (_, cache)) = (decoder.zeros_like(), decoder.forward_train(&x, None, &source, None, &pass)?);
        let (dx, dsource) = decoder.backward(cache, case.output_gradient(), &mut gradients)?;
        let gradients = tatp22::decoder_state_dict(&gradients, &options)?;
        case.trained(&gradients, &[("input_gradient", &dx), ("embeddings_gradient", &dsource)]);
    }
    decoder.forward(&x, None, &source, None)
}

/// Self-attention, or attention to the `embeddings` where there are any.
fn attend<A: Scalar>(case: &Case, layer: &Attention<A>, mask: Option<&PaddingMask>) -> Result<Array3<A>> {
    let x = case.array3("x");
    let context = if case.has_input("embeddings") {
        case.array3("embeddings")
    } else {
        x.clone()
    };
    match layer {
        Attention::Linformer(layer) => layer.attend(&x, &layer.compress(&context, mask)?),
        Attention::Exact(layer) => layer.attend(&x, &context, mask),
        other => panic!("{other:?} is new"),
    }
}

/// The state dict, and the matrices that the peer does not save.
fn tensors<A: Scalar>(case: &Case) -> Tensors<A> {
    let mut tensors = case.tensors();
    for key in case.keys().filter(|key| is_matrix(key)) {
        tensors.insert(key, case.tensor(key)).expect("no state dict has such names");
    }
    tensors
}

/// Whether `key` is `E`, `F`, or one of these with places behind it.
fn is_matrix(key: &str) -> bool {
    key.split('.').next().is_some_and(|first| matches!(first, "E" | "F"))
}

/// What is written must be what was loaded, but for the numbers of the E and F that full attention has and does not use.
fn check_written<A: Scalar>(case: &Case, loaded: &Tensors<A>, written: &Tensors<A>) {
    let full = case.has_option("full_attention");
    assert_written(case, written, loaded, |name| full && (is_matrix(name) || name.contains("heads.")));
    for name in written.names() {
        let shape = |tensors: &Tensors<A>| tensors.get(name).map(|tensor| tensor.shape().to_vec());
        assert_eq!(shape(written), shape(loaded), "{}: the shape of `{name}`", case.name);
    }
}
