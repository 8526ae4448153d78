//! The cases of attention to a window and to summaries: a plain loop over the queries, written from the definition.

use linformer::checkpoint::Tensors;
use linformer::ndarray::{Array3, ArrayD, s};
use linformer::{LocalGlobalAttention, LocalGlobalConfig, PaddingMask, Parameters, PoolingQuery, Result, Scalar};

use super::case::{Case, Outcome};

pub fn run<A: Scalar>(case: &Case) -> Outcome {
    match output::<A>(case) {
        Ok(output) => Outcome::Output(output.mapv(A::widen).into_dyn()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn output<A: Scalar>(case: &Case) -> Result<Array3<A>> {
    let tensors = case.tensors::<A>();
    let mut layer = LocalGlobalAttention::<A>::new(&config(case, &tensors), 0)?;
    layer.visit_mut("", &mut |name, _, mut tensor| {
        let theirs = tensors.get(peer_name(name)).unwrap_or_else(|| panic!("{}: no `{name}`", case.name));
        tensor.assign(&theirs);
    });
    let (x, lengths) = (case.array3::<A>("x"), case.lengths("lengths"));
    let mask = PaddingMask::from_lengths(&lengths, x.dim().1)?;
    let mut gradients = layer.zeros_like();
    let (trained, cache) = layer.forward_train(&x, Some(&mask))?;
    let dx = layer.backward(cache, case.output_gradient(), &mut gradients)?;
    let mut named = Tensors::new();
    for (name, gradient) in gradients.named() {
        named.insert(peer_name(&name), gradient.to_owned()).expect("names differ");
    }
    if layer.pooling_query().is_none() {
        // Without slots the peer's u has no part in anything.
        named
            .insert("u", ArrayD::zeros(tensors.get("u").expect("u").raw_dim()))
            .expect("one u");
    }
    case.trained(&named, &[("input_gradient", &dx)]);
    case.also("output", real_rows(trained, &lengths).mapv(A::widen).into_dyn());
    // The peer has zeros at padding.
    Ok(real_rows(layer.forward(&x, Some(&mask))?, &lengths))
}

fn config<A: Scalar>(case: &Case, tensors: &Tensors<A>) -> LocalGlobalConfig {
    let options = case.config();
    let size = |name: &str| usize::try_from(options[name].as_u64().expect("a size")).expect("a small size");
    let is_set = |name: &str| options[name].as_bool().expect("true or false");
    let has = |name: &str| tensors.get(name).is_some();
    let config = LocalGlobalConfig::new(size("dim"), size("heads"))
        .with_block(size("block"))
        .with_slots(size("slots"))
        .with_window(is_set("window"))
        .with_mass_shift(options["shift"].as_f64().expect("a number"))
        .with_query_bias(has("query.bias"))
        .with_key_value_bias(has("key.bias"), has("value.bias"))
        .with_output_bias(has("output.bias"));
    if is_set("mean_query") {
        return config.with_pooling_query(PoolingQuery::MeanOfItem);
    }
    config
}

fn peer_name(name: &str) -> &str {
    if name == "pooling_query" { "u" } else { name }
}

fn real_rows<A: Scalar>(mut rows: Array3<A>, lengths: &[usize]) -> Array3<A> {
    for (item, &length) in lengths.iter().enumerate() {
        rows.slice_mut(s![item, length.., ..]).fill(A::zero());
    }
    rows
}
