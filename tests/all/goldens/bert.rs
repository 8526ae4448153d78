//! The cases of BERT and its relatives, whose class `architectures` names.

use linformer::checkpoint::{Tensors, bert};
use linformer::ndarray::{Array2, Array3, ArrayD, s};
use linformer::training::Step;
use linformer::{Error, LanguageModel, PaddingMask, Parameters, Result, Scalar, TrainingPass};

use super::case::{Case, Outcome};

/// Our names and the file's, of tensors whose gradients are compared.
const TRAINED: [(&str, &str); 7] = [
    ("embedding.weight", "embeddings.word_embeddings.weight"),
    ("position.weight", "embeddings.position_embeddings.weight"),
    ("token_types.weight", "embeddings.token_type_embeddings.weight"),
    ("embedding_norm.weight", "embeddings.LayerNorm.weight"),
    ("encoder.blocks.0.attention.query.bias", "encoder.layer.0.attention.self.query.bias"),
    (
        "encoder.blocks.1.attention_norm.bias",
        "encoder.layer.1.attention.output.LayerNorm.bias",
    ),
    ("encoder.blocks.1.feed_forward.output.weight", "encoder.layer.1.output.dense.weight"),
];

pub fn run<A: Scalar>(case: &Case) -> Outcome {
    match output::<A>(case) {
        Ok(output) => Outcome::Output(output.mapv(A::widen)),
        Err(error @ Error::Refused { .. }) => Outcome::Refused(error.to_string()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// What the model is given.
struct Input {
    tokens: Array2<usize>,
    types: Option<Array2<usize>>,
    mask: Option<PaddingMask>,
}

impl Input {
    fn of(case: &Case) -> Self {
        Self {
            tokens: case.tokens("tokens"),
            types: case.has_input("types").then(|| case.tokens("types")),
            mask: case.has_input("mask").then(|| case.mask("mask")),
        }
    }

    /// 0 in place of what padding became.
    fn without_padding<A: Scalar>(&self, mut output: Array3<A>) -> Array3<A> {
        for ((item, position), _) in self.tokens.indexed_iter() {
            if self.mask.as_ref().is_some_and(|mask| !mask.is_real(item, position)) {
                output.slice_mut(s![item, position, ..]).fill(A::zero());
            }
        }
        output
    }

    fn forward<A: Scalar>(&self, model: &LanguageModel<A>) -> Result<ArrayD<A>> {
        let output = match &self.types {
            Some(types) => model.forward_with_types(&self.tokens, types, self.mask.as_ref())?,
            None => model.forward(&self.tokens, self.mask.as_ref())?,
        };
        Ok(self.without_padding(output).into_dyn())
    }
}

fn output<A: Scalar>(case: &Case) -> Result<ArrayD<A>> {
    let config = case.config();
    let class = config["architectures"][0].as_str().expect("the name of a class");
    let options = bert::Options::from_json(&config.to_string())?;
    let (tensors, input) = (case.tensors::<A>(), Input::of(case));
    if class.ends_with("ForMaskedLM") {
        return input.forward(&bert::masked_language_model(&tensors, &options)?);
    }
    if class.ends_with("ForTokenClassification") {
        return input.forward(&bert::token_classifier(&tensors, &options)?);
    }
    if class.ends_with("ForSequenceClassification") {
        let model = bert::classifier(&tensors, &options)?;
        let mask = input.mask.as_ref();
        let scores = match &input.types {
            Some(types) => model.forward((&input.tokens, types), mask)?,
            None => model.forward(&input.tokens, mask)?,
        };
        return Ok(scores.into_dyn());
    }
    encoder(case, &tensors, &options, &input)
}

fn encoder<A: Scalar>(case: &Case, tensors: &Tensors<A>, options: &bert::Options, input: &Input) -> Result<ArrayD<A>> {
    let model = bert::encoder(tensors, options)?;
    let features = input.forward(&model)?;
    if case.has("pooled") {
        let first = features.slice_each_axis(|axis| if axis.axis.index() == 1 { (..1).into() } else { (..).into() });
        let first = first.to_owned().into_dimensionality().expect("three axes");
        let pooled = bert::pooler(tensors, options)?.forward(&first)?;
        let pooled = pooled.slice(s![.., 0, ..]).mapv(|value| value.widen().tanh());
        case.also("pooled", pooled.into_dyn());
    }
    if case.has("gradients") {
        let pass = TrainingPass::new(Step::new(0, 0));
        let types = input.types.as_ref().expect("types");
        let (_, cache) = model.forward_train_with_types(&input.tokens, types, None, input.mask.as_ref(), &pass)?;
        let mut gradients = model.zeros_like();
        let dy = input.without_padding(case.output_gradient());
        model.backward(cache, dy, &mut gradients)?;
        let named: std::collections::BTreeMap<_, _> = gradients.named().into_iter().collect();
        for (ours, theirs) in TRAINED {
            let gradient = named[ours].mapv(A::widen);
            if A::NAME == f64::NAME {
                case.also(&format!("gradients/{theirs}"), gradient);
            }
        }
        case.key("gradients");
    }
    Ok(features)
}
