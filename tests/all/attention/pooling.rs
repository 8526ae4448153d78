//! Attention pooling against its definition and against exact attention.

use crate::common::gradients::{check, pass, weights};
use crate::common::{bits, difference, scramble, sequence, tensors};
use linformer::ndarray::{Array1, Array2, Array3, Array4, Axis, Dimension, concatenate, s};
use linformer::{
    AttentionConfig, Compressed, Compressor, Encoder, EncoderConfig, ExactAttention, LinformerAttention, LinformerConfig, PaddingMask,
    Parameters, ProjectionConfig, ProjectionKind,
};

const POOLING: ProjectionKind = ProjectionKind::AttentionPooling;

fn config(heads: usize, kv_heads: usize, n: usize, k: usize) -> LinformerConfig {
    LinformerConfig::new(8, heads, n, k)
        .with_kind(POOLING)
        .with_kv_heads(kv_heads)
        .with_query_bias(true)
        .with_key_value_bias(true, true)
}

fn layer(config: &LinformerConfig, seed: u64) -> LinformerAttention<f64> {
    let mut layer = LinformerAttention::new(config, seed).unwrap();
    scramble(&mut layer, seed);
    layer
}

/// Sets the tensors of this name, (rows, columns) or (columns).
fn set(model: &mut impl Parameters<f64>, name: &str, value: impl Fn(&[usize]) -> f64) {
    model.visit_mut("", &mut |own, _, mut tensor| {
        if own.ends_with(name) {
            tensor.indexed_iter_mut().for_each(|(at, number)| {
                let at: Vec<usize> = (0..at.ndim()).map(|axis| at[axis]).collect();
                *number = value(&at);
            });
        }
    });
}

/// All bits of what was compressed.
fn all_bits(compressed: &Compressed<f64>) -> [Vec<u64>; 3] {
    let masses = compressed.log_mass().expect("attention pooling has log-masses");
    [
        bits(&compressed.keys().to_owned()),
        bits(&compressed.values().to_owned()),
        bits(&masses.to_owned()),
    ]
}

/// The largest difference of two of the same slots.
fn apart(a: &Compressed<f64>, b: &Compressed<f64>) -> f64 {
    assert_eq!(a.slots(), b.slots());
    let masses = |compressed: &Compressed<f64>| compressed.log_mass().unwrap().mapv(f64::exp);
    difference(a.keys(), b.keys())
        .max(difference(a.values(), b.values()))
        .max(difference(masses(a).view(), masses(b).view()))
}

/// A mask with holes and ends of their own.
fn holes(n: usize) -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_fn((2, n), |(item, t)| {
        (t * 7 + item) % 5 != 2 && t + 3 * item < n.saturating_sub(2)
    }))
}

/// The definition, position by position.
#[test]
fn slots_are_those_of_the_definition() {
    for (heads, kv_heads, tied, n, k) in [
        (4, 2, false, 29, 5),
        (2, 1, true, 16, 16),
        (2, 2, false, 7, 1),
        (4, 1, false, 40, 9),
    ] {
        let config = config(heads, kv_heads, n, k).with_tied_key_value(tied);
        let layer = layer(&config, 3);
        let (x, mask) = (sequence((2, n, 8), 1), holes(n));
        let found = layer.compress(&x, Some(&mask)).unwrap();
        let (head_dim, query) = (8 / heads, layer.projections().unwrap().key().pooling_query().unwrap().to_owned());
        for item in 0..2 {
            let length = mask.lengths()[item];
            let c = (1..)
                .map(|level| 1 << (level - 1))
                .find(|&c: &usize| length.div_ceil(c) <= k)
                .unwrap();
            assert_eq!(found.slots()[item], length.div_ceil(c));
            let features = |linear: &linformer::Linear<f64>, t: usize, head: usize| -> Array1<f64> {
                let all = linear.weight().dot(&x.slice(s![item, t, ..])) + linear.bias().unwrap();
                let first = head * kv_heads / heads * head_dim;
                all.slice(s![first..first + head_dim]).to_owned()
            };
            for (head, slot) in (0..heads).flat_map(|head| (0..found.slots()[item]).map(move |slot| (head, slot))) {
                let real: Vec<usize> = (slot * c..length.min(slot * c + c)).filter(|&t| mask.is_real(item, t)).collect();
                let u = query.row(head);
                let scale = (head_dim as f64).sqrt();
                let weights: Vec<f64> = real
                    .iter()
                    .map(|&t| (u.dot(&features(layer.key(), t, head)) / scale).exp())
                    .collect();
                let total: f64 = weights.iter().sum();
                let mean = |linear| {
                    let mut mean = Array1::<f64>::zeros(head_dim);
                    for (&t, weight) in real.iter().zip(&weights) {
                        mean += &(features(linear, t, head) * (weight / total));
                    }
                    mean
                };
                let (keys, values) = (mean(layer.key()), mean(layer.value()));
                assert!(difference(found.keys().slice(s![item, head, slot, ..]), keys.view()) < 1e-12);
                assert!(difference(found.values().slice(s![item, head, slot, ..]), values.view()) < 1e-12);
                let mass = found.log_mass().unwrap()[[item, head, slot]];
                let expected = total.ln() - u.dot(&keys) / scale;
                assert!(mass == expected || (mass - expected).abs() < 1e-12, "{mass} {expected}");
            }
        }
    }
}

/// One position a segment: exact attention, forward and backward, where there are as many slots as positions.
#[test]
fn with_a_slot_for_each_position_it_is_exact_attention() {
    for (kv_heads, k) in [(4, 11), (2, 30), (1, 11)] {
        let mut exact = ExactAttention::<f64>::new(&AttentionConfig::new(8, 4).with_kv_heads(kv_heads), 1).unwrap();
        scramble(&mut exact, 2);
        let mut pooled = LinformerAttention::from_exact(&exact, 11, k, ProjectionConfig::new(POOLING), 0).unwrap();
        set(&mut pooled, "pooling_query", |at| (at[0] + 3 * at[1]) as f64 * 0.4 - 1.0);
        let (x, mask) = (sequence((2, 11, 8), 1), holes(11));
        for mask in [None, Some(&mask)] {
            let (expected, found) = (exact.forward(&x, mask).unwrap(), pooled.forward(&x, mask).unwrap());
            assert!(difference(found.view(), expected.view()) < 1e-12);
            let (_, cache) = exact.forward_train(&x, mask).unwrap();
            let (_, pooled_cache) = pooled.forward_train(&x, mask).unwrap();
            let (mut dexact, mut dpooled) = (exact.zeros_like(), pooled.zeros_like());
            let expected = exact.backward(cache, weights(x.dim()), &mut dexact).unwrap();
            let found = pooled.backward(pooled_cache, weights(x.dim()), &mut dpooled).unwrap();
            assert!(difference(found.view(), expected.view()) < 1e-11);
            let dexact = tensors(&dexact);
            for (name, found) in tensors(&dpooled) {
                match dexact.iter().find(|(own, _)| *own == name) {
                    Some((_, expected)) => assert!(difference(found.view(), expected.view()) < 1e-11, "{name}"),
                    None => assert!(found.iter().all(|gradient| gradient.abs() < 1e-11), "{name}"),
                }
            }
        }
    }
}

/// The tangent touches where the query is u.
#[test]
fn queries_equal_to_u_get_exact_attention_for_any_k() {
    for k in [1, 2, 3, 7, 20] {
        let mut pooled = layer(&config(2, 2, 23, k), 5);
        set(&mut pooled, "query.weight", |_| 0.0);
        set(&mut pooled, "query.bias", |at| (at[0] as f64 * 1.3).sin() * 2.0);
        set(&mut pooled, "pooling_query", |at| ((at[0] * 4 + at[1]) as f64 * 1.3).sin() * 2.0);
        let exact = ExactAttention::from_linformer(&pooled);
        let (x, mask) = (sequence((2, 23, 8), 1), holes(23));
        for mask in [None, Some(&mask)] {
            let (expected, found) = (exact.forward(&x, mask).unwrap(), pooled.forward(&x, mask).unwrap());
            assert!(difference(found.view(), expected.view()) < 1e-12, "k = {k}");
        }
    }
}

/// A tangent of a convex function is below it.
#[test]
fn no_slot_weighs_more_than_its_positions_do() {
    let layer = layer(&config(2, 2, 37, 5), 9);
    let x = sequence((1, 37, 8), 1);
    let context = layer.compress(&x, None).unwrap();
    let keys = layer.key().forward(&x).unwrap();
    let mut least = f64::INFINITY;
    for (head, query) in (0..2_usize).flat_map(|head| (0..50).map(move |index| (head, sequence((1, 1, 4), index).mapv(|x| 3.0 * x)))) {
        let query: Array1<f64> = query.slice(s![0, 0, ..]).to_owned();
        for slot in 0..context.slots()[0] {
            let logit = query.dot(&context.keys().slice(s![0, head, slot, ..])) / 2.0 + context.log_mass().unwrap()[[0, head, slot]];
            let logit_of = |t: usize| (0..4).map(|i| query[i] * keys[[0, t, head * 4 + i]]).sum::<f64>() / 2.0;
            let exact = (slot * 8..37.min(slot * 8 + 8)).map(|t| logit_of(t).exp()).sum::<f64>().ln();
            assert!(logit <= exact + 1e-12, "{logit} above {exact}");
            least = least.min(exact - logit);
        }
    }
    assert!(least < 0.1, "near somewhere");
}

#[test]
fn the_order_within_a_segment_does_not_matter() {
    let layer = layer(&config(2, 2, 30, 4), 5);
    let x = sequence((1, 30, 8), 1);
    let mut other = x.clone();
    for (to, from) in (0..8).zip([5, 0, 7, 2, 1, 3, 6, 4]).chain((24..30).zip((24..30).rev())) {
        other.slice_mut(s![0, to, ..]).assign(&x.slice(s![0, from, ..]));
    }
    let (a, b) = (layer.compress(&x, None).unwrap(), layer.compress(&other, None).unwrap());
    assert!(apart(&a, &b) < 1e-12);
}

/// Wherever a stream is cut, and whatever its masks, its bits are those of one call.
#[test]
fn chunks_of_any_length_give_the_bits_of_one_call() {
    let n = 2 * Compressor::<f64>::CHUNK + 301;
    for (kv_heads, k) in [(2, 37), (1, 3), (2, 2000)] {
        let layer = layer(&config(2, kv_heads, 10, k), 5);
        let (mut x, mask) = (sequence((2, n, 8), 1), holes(n));
        for (item, t) in (0..2).flat_map(|item| (0..n).map(move |t| (item, t))) {
            if !mask.is_real(item, t) {
                x.slice_mut(s![item, t, ..]).fill(f64::NAN);
            }
        }
        let whole = all_bits(&layer.compress(&x, Some(&mask)).unwrap());
        for (first, step) in [(0, 1), (0, 100), (3, 129), (511, 513), (700, 700)] {
            let cuts: Vec<usize> = [0].into_iter().chain((first.max(1)..n).step_by(step)).chain([n]).collect();
            let mut stream = layer.compressor(2).unwrap();
            for range in cuts.windows(2) {
                let real = Array2::from_shape_fn((2, range[1] - range[0]), |(item, t)| mask.is_real(item, range[0] + t));
                let rows = x.slice(s![.., range[0]..range[1], ..]);
                stream.push(&rows, Some(&PaddingMask::from_bools(&real))).unwrap();
            }
            assert!(all_bits(&stream.finish().unwrap()) == whole, "cut by {step} after {first}, k = {k}");
        }
    }
}

/// Parts merged in any order give the bits of one call, wherever they meet: what is not whole waits for the rest of it.
#[test]
fn parts_merge_in_any_order() {
    let (n, k) = (333, 10);
    let layer = layer(&config(2, 1, 10, k), 5);
    let x = sequence((1, n, 8), 1);
    let whole = all_bits(&layer.compress(&x, None).unwrap());
    let cuts = [0, 5, 64, 100, 101, 192, 300, n];
    let part = |index: usize| {
        let mut part = layer.compressor(1).unwrap().starting_at(cuts[index]).unwrap();
        part.push(&x.slice(s![.., cuts[index]..cuts[index + 1], ..]), None).unwrap();
        part
    };
    for order in [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0], [3, 0, 6, 2, 4, 1, 5]] {
        let mut all = layer.compressor(1).unwrap();
        for index in order {
            all.merge(part(index)).unwrap();
        }
        assert!(all_bits(&all.finish().unwrap()) == whole, "{order:?}");
        // (a·b)·(c·d), too.
        let (mut left, mut right) = (part(order[0]), part(order[3]));
        left.merge(part(order[1])).unwrap();
        left.merge(part(order[2])).unwrap();
        (4..7).for_each(|index| right.merge(part(order[index])).unwrap());
        right.merge(left).unwrap();
        assert!(all_bits(&right.finish().unwrap()) == whole, "{order:?}");
    }
}

/// Positions that nobody pushed are as good as padding.
#[test]
fn what_is_missing_is_padding() {
    let layer = layer(&config(2, 2, 10, 4), 5);
    let x = sequence((1, 50, 8), 1);
    let real = Array2::from_shape_fn((1, 50), |(_, t)| !(9..33).contains(&t));
    let expected = layer.compress(&x, Some(&PaddingMask::from_bools(&real))).unwrap();
    let mut first = layer.compressor(1).unwrap();
    first.push(&x.slice(s![.., ..9, ..]), None).unwrap();
    let mut last = layer.compressor(1).unwrap().starting_at(33).unwrap();
    last.push(&x.slice(s![.., 33.., ..]), None).unwrap();
    last.merge(first).unwrap();
    let found = last.finish().unwrap();
    assert_eq!(all_bits(&found), all_bits(&expected));
    assert_eq!(
        found.log_mass().unwrap()[[0, 0, 1]],
        f64::NEG_INFINITY,
        "nothing of 16..32 is there"
    );
}

/// A padded item is what it is alone, in gradients, too, whatever stands behind the mask.
#[test]
fn a_padded_item_is_what_it_is_alone() {
    let lengths = [13, 4, 0];
    for k in [1, 3, 20] {
        let encoder_config = EncoderConfig::new(config(4, 2, 10, k), 2);
        let mut encoder = Encoder::<f64>::new(&encoder_config, 1).unwrap();
        scramble(&mut encoder, 4);
        let clean = sequence((3, 13, 8), 1);
        let dy = weights(clean.dim());
        let (mut x, mut own_dy) = (clean.clone(), dy.clone());
        for (item, &length) in lengths.iter().enumerate() {
            x.slice_mut(s![item, length.., ..]).fill(f64::NAN);
            own_dy.slice_mut(s![item, length.., ..]).fill(0.0);
        }
        let mask = PaddingMask::from_lengths(&lengths, 13).unwrap();
        let pass = pass(1, false);
        let mut together = encoder.zeros_like();
        let (y, cache) = encoder.forward_train(&x, Some(&mask), &pass).unwrap();
        let dx = encoder.backward(cache, own_dy, &mut together).unwrap();
        let mut apart = encoder.zeros_like();
        for (item, &length) in lengths.iter().enumerate() {
            let at = s![item..=item, ..length, ..];
            let (alone, cache) = encoder.forward_train(&clean.slice(at), None, &pass).unwrap();
            let dalone = encoder.backward(cache, dy.slice(at).to_owned(), &mut apart).unwrap();
            assert!(difference(alone.view(), y.slice(at)) < 1e-12);
            assert!(difference(dalone.view(), dx.slice(at)) < 1e-12);
        }
        for ((name, together), (_, apart)) in tensors(&together).into_iter().zip(tensors(&apart)) {
            assert!(difference(together.view(), apart.view()) < 1e-10, "{name}");
        }
    }
}

/// At u = 0 all positions of a segment weigh alike: the rows of mean pooling, and the logarithm of their number.
#[test]
fn at_zero_it_is_mean_pooling_with_the_logarithm_of_the_count() {
    let (n, k) = (32, 4);
    let base = LinformerConfig::new(8, 2, n, k).with_key_value_bias(true, true);
    let mut mean = LinformerAttention::<f64>::new(&base.clone().with_kind(ProjectionKind::MeanPooling), 1).unwrap();
    scramble(&mut mean, 1);
    let mut pooled = LinformerAttention::<f64>::new(&base.with_kind(POOLING), 1).unwrap();
    assert!(
        pooled
            .projections()
            .unwrap()
            .key()
            .pooling_query()
            .unwrap()
            .iter()
            .all(|&u| u == 0.0)
    );
    let weights = tensors(&mean);
    pooled.visit_mut("", &mut |name, _, mut tensor| {
        if let Some((_, weight)) = weights.iter().find(|(own, _)| own == name) {
            tensor.assign(weight);
        }
    });
    let x = sequence((2, n, 8), 1);
    let (expected, found) = (mean.compress(&x, None).unwrap(), pooled.compress(&x, None).unwrap());
    assert!(difference(found.keys(), expected.keys()) < 1e-13);
    assert!(difference(found.values(), expected.values()) < 1e-13);
    assert!(found.log_mass().unwrap().iter().all(|mass| (mass - 8.0_f64.ln()).abs() < 1e-14));
    assert!(expected.log_mass().is_none() && found != expected);
    // Equal masses cancel.
    let (expected, found) = (mean.forward(&x, None).unwrap(), pooled.forward(&x, None).unwrap());
    assert!(difference(found.view(), expected.view()) < 1e-12);
}

/// Every gradient, with shared keys, ties and dropout; of segments of one position and of many.
#[test]
fn gradients_match_central_differences() {
    for (heads, kv_heads, tied, k) in [(4, 2, false, 3), (2, 1, true, 2), (2, 2, false, 9), (1, 1, false, 1)] {
        let attention = config(heads, kv_heads, 9, k).with_tied_key_value(tied);
        let own = layer(&attention, 7);
        let (x, mask) = (sequence((2, 9, 8), 1), holes(9));
        let mut gradients = own.zeros_like();
        let (y, cache) = own.forward_train(&x, Some(&mask)).unwrap();
        assert!(difference(y.view(), own.forward(&x, Some(&mask)).unwrap().view()) < 1e-12);
        let dx = own.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        assert!(
            gradients
                .projections()
                .unwrap()
                .key()
                .pooling_query()
                .unwrap()
                .iter()
                .any(|&du| du.abs() > 1e-4)
                || k == 9
        );
        check(&own, &x, &dx, &gradients, |layer, x| layer.forward(x, Some(&mask)).unwrap());

        let mut encoder = Encoder::<f64>::new(&EncoderConfig::new(attention, 1).with_feed_forward(None), 1).unwrap();
        scramble(&mut encoder, 2);
        let pass = pass(3, false).with_attention_dropout(0.3);
        let mut gradients = encoder.zeros_like();
        let (y, cache) = encoder.forward_train(&x, Some(&mask), &pass).unwrap();
        let dx = encoder.backward(cache, weights(y.dim()), &mut gradients).unwrap();
        check(&encoder, &x, &dx, &gradients, |encoder, x| {
            encoder.forward_train(x, Some(&mask), &pass).unwrap().0
        });
    }
}

/// Of queries and context apart, with the gradients of both.
#[test]
fn cross_attention() {
    let layer = layer(&config(2, 2, 9, 3), 7);
    let (queries, context, mask) = (sequence((2, 4, 8), 5), sequence((2, 9, 8), 1), holes(9));
    let mut gradients = layer.zeros_like();
    let (y, cache) = layer.forward_train_cross(&queries, &context, Some(&mask)).unwrap();
    let expected = layer.attend(&queries, &layer.compress(&context, Some(&mask)).unwrap()).unwrap();
    assert!(difference(y.view(), expected.view()) < 1e-12);
    let (dqueries, dcontext) = layer.backward_cross(cache, weights(y.dim()), &mut gradients).unwrap();
    let of = |layer: &LinformerAttention<f64>, queries: &Array3<f64>, context: &Array3<f64>| {
        layer.forward_train_cross(queries, context, Some(&mask)).unwrap().0
    };
    check(&layer, &queries, &dqueries, &gradients, |layer, x| of(layer, x, &context));
    check(&layer, &context, &dcontext, &gradients, |layer, x| of(layer, &queries, x));
}

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

/// A sequence that is empty, or padding only, has no slot, and queries get the output's bias.
#[test]
fn nothing_has_no_slots() {
    let layer = layer(&config(2, 2, 9, 3), 7);
    let x = concatenate![Axis(0), sequence((1, 5, 8), 1), Array3::from_elem((1, 5, 8), f64::NAN)];
    let mask = PaddingMask::from_lengths(&[5, 0], 5).unwrap();
    let context = layer.compress(&x, Some(&mask)).unwrap();
    assert_eq!(context.slots(), [3, 0]);
    let y = layer.attend(&sequence((2, 2, 8), 4), &context).unwrap();
    for row in y.index_axis(Axis(0), 1).outer_iter() {
        assert!(difference(row, layer.output().bias().unwrap()) < 1e-15);
    }
    let empty = layer.compressor(1).unwrap().finish().unwrap();
    assert_eq!((empty.slots(), empty.keys().dim()), (&[0][..], (1, 2, 1, 4)));
    let y = layer.attend(&sequence((1, 2, 8), 4), &empty).unwrap();
    assert!(y.iter().all(|number| number.is_finite()));
}

/// f32 against f64, over many positions.
#[test]
fn single_precision_keeps_up() {
    let config = config(2, 2, 10, 3);
    let wide = layer(&config, 5);
    let numbers = tensors(&wide);
    let mut narrow = LinformerAttention::<f32>::new(&config, 0).unwrap();
    narrow.visit_mut("", &mut |name, _, mut tensor| {
        let (_, from) = numbers.iter().find(|(own, _)| own == name).unwrap();
        #[allow(clippy::cast_possible_truncation)] // rounding is what is asked for
        tensor.zip_mut_with(from, |to, &from| *to = from as f32);
    });
    let x = sequence((1, 20_000, 8), 1);
    #[allow(clippy::cast_possible_truncation)]
    let found = narrow.compress(&x.mapv(|x| x as f32), None).unwrap();
    let expected = wide.compress(&x, None).unwrap();
    let close = |found: f32, expected: f64| (f64::from(found) - expected).abs() < 2e-6 * expected.abs().max(1.0);
    assert!(found.keys().iter().zip(expected.keys()).all(|(&a, &b)| close(a, b)));
    assert!(found.values().iter().zip(expected.values()).all(|(&a, &b)| close(a, b)));
    let masses = (found.log_mass().unwrap(), expected.log_mass().unwrap());
    assert!(masses.0.iter().zip(masses.1).all(|(&a, &b)| close(a, b)));
}
