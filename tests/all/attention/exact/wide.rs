//! Layers wider than a run of a tile.

use super::*;

/// Widths, heads and head widths that do not fit into one run of a tile (512 columns): whole heads to a run, of a number that panels do not
/// divide or do, and heads that take several runs.
const WIDE: [(usize, usize, usize); 5] = [(600, 30, 20), (1024, 16, 64), (640, 1, 640), (70, 2, 550), (1100, 11, 100)];

#[test]
fn wide_layers_are_their_definition_and_follow_their_weights() {
    for (dim, heads, head_dim) in WIDE {
        for biased in [false, true] {
            let config = AttentionConfig::new(dim, heads)
                .with_head_dim(Some(head_dim))
                .with_query_bias(biased)
                .with_output_rank(biased.then_some(530));
            let mut layer = ExactAttention::<f64>::new(&config, 1).unwrap();
            let x = sequence((1, 70, dim), 2);
            for _ in 0..2 {
                let stored = layer.forward_materialized(&x, None).unwrap();
                assert!(
                    difference(layer.forward(&x, None).unwrap().view(), stored.view()) < CLOSE,
                    "{config:?}"
                );
                let (trained, _) = layer.forward_train(&x, None).unwrap();
                assert!(difference(trained.view(), stored.view()) < CLOSE, "{config:?}");
                // Whatever was packed must be made anew.
                layer.visit_mut("", &mut |_, _, mut tensor| tensor.mapv_inplace(|value| 1.25 * value));
            }
        }
    }
}

#[test]
fn wide_layers_compress_the_same_in_both_orders() {
    for (dim, heads, head_dim) in WIDE {
        let config = LinformerConfig::new(dim, heads, 80, 40)
            .with_head_dim(Some(head_dim))
            .with_key_value_bias(true, true);
        let layer = LinformerAttention::<f64>::new(&config, 1).unwrap();
        let x = sequence((2, 80, dim), 3);
        let [first, second] = [Order::CompressFirst, Order::ProjectFirst].map(|order| {
            let mut compressor = layer.compressor_in_order(2, order).unwrap();
            compressor.push(&x, None).unwrap();
            layer.attend(&x, &compressor.finish().unwrap()).unwrap()
        });
        assert!(difference(first.view(), second.view()) < CLOSE, "{config:?}");
    }
}
