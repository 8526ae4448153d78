//! Slots against their definition, and against exact attention where the two meet.

use super::{POOLING, apart, config, holes, layer, set};
use crate::common::gradients::weights;
use crate::common::{difference, scramble, sequence, tensors};
use linformer::ndarray::{Array1, s};
use linformer::{AttentionConfig, ExactAttention, LinformerAttention, LinformerConfig, Parameters, ProjectionConfig, ProjectionKind};

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
            let c = (0..usize::BITS)
                .map(|level| 1 << level)
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
                assert!(
                    mass.to_bits() == expected.to_bits() || (mass - expected).abs() < 1e-12,
                    "{mass} {expected}"
                );
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
