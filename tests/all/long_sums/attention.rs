//! Attention of every kind, forward and backward.

use linformer::ndarray::{Array3, ArrayD, s};
use linformer::{AttentionConfig, BlockwiseCausalAttention, CausalConfig, ExactAttention, Parameters, ProjectionKind, Scalar, Sharing};

use super::{BOUND, TERMS, assert_near, fill, gradients, inputs, kinds, layer, relative, widened};

fn layer_gradients<A: Scalar>(
    kind: ProjectionKind,
    sharing: Option<Sharing>,
    batch: usize,
    length: usize,
    term: f32,
) -> Vec<(String, ArrayD<f64>)> {
    let layer = layer::<A>(kind, sharing, length, 2);
    let x = Array3::from_elem((batch, length, 2), A::cast(f64::from(term)));
    let mut sums = layer.zeros_like();
    let (y, cache) = layer.forward_train(&x, None).unwrap();
    layer
        .backward(cache, Array3::from_elem(y.dim(), A::cast(f64::from(term))), &mut sums)
        .unwrap();
    gradients(&sums)
}

/// The gradients of every weight, bias, matrix and kernel: over many positions, and over many items.
#[test]
fn gradients_of_attention() {
    for (kind, sharing) in kinds() {
        for (batch, length) in [(1, 50_000), (12_500, 4)] {
            let found = layer_gradients::<f32>(kind, sharing, batch, length, TERMS[0]);
            let expected = layer_gradients::<f64>(kind, sharing, batch, length, TERMS[0]);
            assert_near(&found, &expected, &format!("{kind:?}, {batch} of {length}"));
        }
    }
}

fn causal_output<A: Scalar>(length: usize, block: usize) -> Vec<f64> {
    let config = CausalConfig::new(2, 1, length, 1)
        .with_block(Some(block))
        .with_window(Some(block.min(4)));
    let mut layer = BlockwiseCausalAttention::<A>::new(&config, 1).unwrap();
    fill(&mut layer);
    let x = Array3::from_elem((1, length, 2), A::cast(f64::from(TERMS[0])));
    widened(layer.forward(&x, None).unwrap())
}

/// Long blocks, and many of them.
#[test]
fn causal_attention() {
    for (length, block) in [(60_000, 30_000), (6_000, 2)] {
        let worst = relative(causal_output::<f32>(length, block), causal_output::<f64>(length, block));
        assert!(worst <= BOUND, "blocks of {block} are off by {worst:.1e}");
    }
}

/// One query and very many keys.
#[test]
fn exact_attention() {
    let length = 2_000_000;
    let config = AttentionConfig::new(2, 1).with_key_value_bias(true, true);
    let (mut narrow, mut wide) = (
        ExactAttention::<f32>::new(&config, 1).unwrap(),
        ExactAttention::<f64>::new(&config, 1).unwrap(),
    );
    fill(&mut narrow);
    fill(&mut wide);
    for (what, x) in inputs(length, 2).into_iter().take(3) {
        let found = narrow.attend(&x.slice(s![.., ..1, ..]), &x, None).unwrap();
        let x = x.mapv(f64::from);
        let expected = wide.attend(&x.slice(s![.., ..1, ..]), &x, None).unwrap();
        let worst = relative(widened(found), expected);
        assert!(worst <= BOUND, "{what} is off by {worst:.1e}");
    }
}

#[test]
fn exact_attention_gradients() {
    fn of<A: Scalar>() -> Vec<(String, ArrayD<f64>)> {
        let mut layer = ExactAttention::<A>::new(&AttentionConfig::new(2, 1).with_key_value_bias(true, true), 1).unwrap();
        fill(&mut layer);
        let x = Array3::from_elem((1, 3_000, 2), A::cast(f64::from(TERMS[1])));
        let mut sums = layer.zeros_like();
        let (_, cache) = layer.forward_train(&x, None).unwrap();
        layer.backward(cache, x, &mut sums).unwrap();
        gradients(&sums)
    }
    assert_near(&of::<f32>(), &of::<f64>(), "exact attention");
}
