//! Attention maps, and many slots.

use super::{config, holes, layer};
use crate::common::{difference, sequence};
use linformer::ndarray::{Array3, Array4, Axis, s};
use linformer::{LinformerAttention, LinformerConfig};

/// More slots than are held at once, and a packed context of several items.
#[test]
fn many_slots() {
    let layer = layer(&config(2, 2, 10, 1500), 5);
    let (x, mask) = (sequence((2, 2500, 8), 1), holes(2500));
    let context = layer.compress(&x, Some(&mask)).unwrap();
    let queries = sequence((2, 3, 8), 4);
    let map = layer.attention_map(&queries, &context).unwrap();
    let values: Array4<f64> = context.values().to_owned();
    let mut heads = Array3::zeros((2, 3, 8));
    for (item, head) in [(0_usize, 0_usize), (0, 1), (1, 0), (1, 1)] {
        let own = map.slice(s![item, head, .., ..]).dot(&values.slice(s![item, head, .., ..]));
        heads.slice_mut(s![item, .., head * 4..head * 4 + 4]).assign(&own);
    }
    let expected = layer.output().forward(&heads).unwrap();
    assert!(difference(layer.attend(&queries, &context).unwrap().view(), expected.view()) < 1e-12);
}

/// The map over positions has rows that sum to 1 and gives the output.
#[test]
fn the_effective_map_of_a_sequence() {
    let layer = layer(&config(4, 2, 21, 3), 5);
    let (x, mask) = (sequence((2, 21, 8), 1), holes(21));
    let queries = sequence((2, 3, 8), 4);
    for mask in [None, Some(&mask)] {
        let map = layer.effective_map_of(&queries, &x, mask).unwrap();
        assert_eq!(map.dim(), (2, 4, 3, 21));
        assert!(map.sum_axis(Axis(3)).iter().all(|sum| (sum - 1.0).abs() < 1e-12));
        let values = layer.value().forward(&x).unwrap();
        let mut heads = Array3::zeros((2, 3, 8));
        for (item, head) in (0..2_usize).flat_map(|item| (0..4_usize).map(move |head| (item, head))) {
            let first = head / 2 * 2;
            let own = map.slice(s![item, head, .., ..]).dot(&values.slice(s![item, .., first..first + 2]));
            heads.slice_mut(s![item, .., head * 2..head * 2 + 2]).assign(&own);
        }
        let expected = layer.attend(&queries, &layer.compress(&x, mask).unwrap()).unwrap();
        assert!(difference(layer.output().forward(&heads).unwrap().view(), expected.view()) < 1e-12);
    }
    let learned = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 21, 4), 0).unwrap();
    let expected = learned
        .effective_map(&queries, &learned.compress(&x, Some(&mask)).unwrap(), &mask)
        .unwrap();
    assert_eq!(learned.effective_map_of(&queries, &x, Some(&mask)).unwrap(), expected);
}
