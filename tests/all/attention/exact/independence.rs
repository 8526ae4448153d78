//! What must not matter: padding, neighbors, order, strides, threads.

use super::*;

#[test]
fn what_stands_at_padding_changes_nothing() {
    let layer = layer(&AttentionConfig::new(6, 2).with_key_value_bias(true, true));
    for length in [7, 300, 600] {
        for mask in masks(length).into_iter().flatten() {
            let clean = sequence((2, length, 6), 3);
            let mut dirty = clean.clone();
            for ((item, position, _), value) in dirty.indexed_iter_mut() {
                if !mask.is_real(item, position) {
                    *value = if position % 2 == 0 { f64::NAN } else { f64::INFINITY };
                }
            }
            let queries = sequence((2, 5, 6), 4);
            let [ours, other] = [&clean, &dirty].map(|context| layer.attend(&queries, context, Some(&mask)).unwrap());
            assert_eq!(bits(&ours), bits(&other));
            let [ours, other] = [&clean, &dirty].map(|context| layer.attention_map(&queries, context, Some(&mask)).unwrap());
            assert_eq!(bits(&ours), bits(&other));
            for forward in [ExactAttention::forward, ExactAttention::forward_materialized] {
                let [ours, other] = [&clean, &dirty].map(|x| forward(&layer, x, Some(&mask)).unwrap());
                for ((item, position, feature), value) in ours.indexed_iter() {
                    if mask.is_real(item, position) {
                        assert_eq!(value.to_bits(), other[[item, position, feature]].to_bits());
                    }
                }
            }
        }
    }
}

#[test]
fn padded_sequences_give_what_they_give_alone() {
    let layer = layer(&AttentionConfig::new(6, 2).with_key_value_bias(true, true));
    let lengths = [700, 1, 512, 193];
    let x = sequence((4, 700, 6), 9);
    let mask = PaddingMask::from_lengths(&lengths, 700).unwrap();
    let together = layer.forward(&x, Some(&mask)).unwrap();
    for (item, length) in lengths.into_iter().enumerate() {
        let range = s![item..=item, ..length, ..];
        let alone = layer.forward(&x.slice(range), None).unwrap();
        assert!(difference(together.slice(range), alone.view()) < CLOSE, "length {length}");
    }
}

#[test]
fn items_of_a_batch_do_not_meet() {
    let layer = layer(&AttentionConfig::new(6, 3).with_kv_heads(1));
    let (queries, context) = (sequence((3, 201, 6), 1), sequence((3, 600, 6), 2));
    let mask = PaddingMask::from_lengths(&[600, 599, 20], 600).unwrap();
    let together = layer.attend(&queries, &context, Some(&mask)).unwrap();
    for item in 0..3 {
        let range = s![item..=item, .., ..];
        let own = PaddingMask::from_lengths(&[mask.lengths()[item]], 600).unwrap();
        let alone = layer.attend(&queries.slice(range), &context.slice(range), Some(&own)).unwrap();
        assert_eq!(bits(&together.slice(range).to_owned()), bits(&alone));
    }
}

/// A set of keys and values has no order.
#[test]
fn the_order_of_the_context_does_not_matter() {
    let layer = layer(&AttentionConfig::new(6, 2));
    let queries = sequence((1, 9, 6), 1);
    let context = sequence((1, 1025, 6), 2);
    let order: Vec<usize> = (0..1025).map(|index| index * 387 % 1025).collect();
    let shuffled = context.select(Axis(1), &order);
    let real = Array2::from_shape_fn((1, 1025), |(_, t)| t % 5 != 2);
    let masks = [
        (None, None),
        (
            Some(PaddingMask::from_bools(&real)),
            Some(PaddingMask::from_bools(&real.select(Axis(1), &order))),
        ),
    ];
    for (mask, shuffled_mask) in &masks {
        let ours = layer.attend(&queries, &context, mask.as_ref()).unwrap();
        let other = layer.attend(&queries, &shuffled, shuffled_mask.as_ref()).unwrap();
        assert!(difference(ours.view(), other.view()) < CLOSE);
    }
}

/// Every query row stands by itself: rows may come in any number of calls, which tile them differently.
#[test]
fn queries_do_not_meet() {
    let layer = layer(&AttentionConfig::new(6, 2));
    for (rows, length) in [(500, 600), (6200, 20)] {
        let (queries, context) = (sequence((2, rows, 6), 1), sequence((2, length, 6), 2));
        let whole = layer.attend(&queries, &context, None).unwrap();
        let parts: Vec<_> = [0..1, 1..250, 250..rows]
            .map(|rows| layer.attend(&queries.slice(s![.., rows, ..]), &context, None).unwrap())
            .into();
        let parts = concatenate(Axis(1), &parts.iter().map(|part| part.view()).collect::<Vec<_>>()).unwrap();
        assert!(difference(whole.view(), parts.view()) < CLOSE, "{rows} on {length}");
    }
}

#[test]
fn strides_do_not_matter() {
    let layer = layer(&AttentionConfig::new(6, 2));
    let x = sequence((2, 600, 6), 1);
    let mut wide = Array3::from_elem((6, 600, 4), f64::NAN);
    wide.slice_mut(s![.., .., ..;2]).assign(&x.view().permuted_axes([2, 1, 0]));
    let strided = wide.slice(s![.., .., ..;2]).permuted_axes([2, 1, 0]);
    let mask = PaddingMask::from_bools(&Array2::from_shape_fn((2, 600), |(_, t)| t % 7 != 0));
    for mask in [None, Some(&mask)] {
        let expected = layer.forward(&x, mask).unwrap();
        assert!(difference(layer.forward(&strided, mask).unwrap().view(), expected.view()) < CLOSE);
        assert!(difference(layer.forward_materialized(&strided, mask).unwrap().view(), expected.view()) < CLOSE);
    }
}
