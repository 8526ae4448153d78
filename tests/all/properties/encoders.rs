//! What holds for every configuration.

use crate::common::{bits, difference, encoder_config, linformer_config, scramble, sequence, tensors};
use linformer::ndarray::{Array3, Axis, concatenate, s};
use linformer::{
    Compressor, Encoder, LinformerAttention, LinformerConfig, Order, PaddingMask, Parameters, ProjectionKind, SequenceLengths,
};
use proptest::prelude::*;

fn layer(config: &LinformerConfig, seed: u64) -> LinformerAttention<f64> {
    let mut layer = LinformerAttention::new(config, seed).expect("the strategy makes valid configurations");
    scramble(&mut layer, seed);
    layer
}

/// The compressor, with the lengths where it needs them.
fn with_lengths<'a>(compressor: Compressor<'a, f64>, config: &LinformerConfig, lengths: &[usize]) -> Compressor<'a, f64> {
    match config.projection.kind {
        ProjectionKind::MeanPooling | ProjectionKind::MaxPooling => {
            compressor.with_lengths(SequenceLengths::PerItem(lengths.to_vec())).unwrap()
        }
        _ => compressor,
    }
}

/// A mask with holes of a batch of two, from the bits of `pattern`.
fn mask(pattern: u64, length: usize) -> PaddingMask {
    let real = linformer::ndarray::Array2::from_shape_fn((2, length), |(item, position)| pattern >> ((item * 31 + position) % 64) & 1 == 1);
    PaddingMask::from_bools(&real)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn both_orders_of_multiplication_agree(config in linformer_config(1..=20), pattern: u64, seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let x = sequence((2, config.seq_len, 5), seed);
        let mask = mask(pattern, config.seq_len);
        let Ok(first) = layer.compressor_in_order(2, Order::CompressFirst) else {
            return Ok(()); // this kind has one order only
        };
        let second = layer.compressor_in_order(2, Order::ProjectFirst).unwrap();
        let mut results = Vec::new();
        for compressor in [first, second] {
            let mut compressor = with_lengths(compressor, &config, mask.lengths());
            compressor.push(&x, Some(&mask)).unwrap();
            results.push(compressor.finish().unwrap());
        }
        prop_assert!(difference(results[0].keys(), results[1].keys()) < 1e-10);
        prop_assert!(difference(results[0].values(), results[1].values()) < 1e-10);
        prop_assert_eq!(results[0].slots(), results[1].slots());
    }

    /// Sequences long enough for W_Q and W_O to be multiplied into the keys and values, where there are few of these.
    #[test]
    fn forward_is_attention_to_what_is_compressed(config in linformer_config(40..=70), pattern: u64, seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let x = sequence((2, config.seq_len, 5), seed);
        for mask in [None, Some(mask(pattern, config.seq_len))] {
            let expected = layer.attend(&x, &layer.compress(&x, mask.as_ref()).unwrap()).unwrap();
            let found = layer.forward(&x, mask.as_ref()).unwrap();
            prop_assert!(difference(found.view(), expected.view()) < 1e-10);
        }
    }

    #[test]
    fn chunks_and_parts_give_what_one_call_gives(
        config in linformer_config(1..=30), pattern: u64, cuts in prop::collection::vec(0..30_usize, 0..4), seed in 0..1000_u64,
    ) {
        let layer = layer(&config, seed);
        let n = config.seq_len;
        let x = sequence((2, n, 5), seed);
        let mask = mask(pattern, n);
        let whole = layer.compress(&x, Some(&mask)).unwrap();
        let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(n)).chain([0, n]).collect();
        cuts.sort_unstable();
        let part = |from: usize, to: usize| {
            let real = linformer::ndarray::Array2::from_shape_fn((2, to - from), |(item, position)| mask.is_real(item, from + position));
            (x.slice(s![.., from..to, ..]), PaddingMask::from_bools(&real))
        };
        let new = || with_lengths(layer.compressor(2).unwrap(), &config, mask.lengths());
        let mut streamed = new();
        let mut merged = new();
        for range in cuts.windows(2).rev() {
            let (rows, mask) = part(range[0], range[1]);
            let mut piece = new().starting_at(range[0]).unwrap();
            piece.push(&rows, Some(&mask)).unwrap();
            merged.merge(piece).unwrap();
        }
        for range in cuts.windows(2) {
            let (rows, mask) = part(range[0], range[1]);
            streamed.push(&rows, Some(&mask)).unwrap();
        }
        for pieces in [streamed, merged] {
            let pieces = pieces.finish().unwrap();
            prop_assert_eq!(pieces.slots(), whole.slots());
            prop_assert!(difference(pieces.keys(), whole.keys()) < 1e-12);
            prop_assert!(difference(pieces.values(), whole.values()) < 1e-12);
        }
    }

    #[test]
    fn one_replaced_token_gives_what_compressing_anew_gives(config in linformer_config(2..=20), position in 0..20_usize, seed in 0..1000_u64) {
        prop_assume!(!matches!(config.projection.kind, ProjectionKind::MaxPooling | ProjectionKind::AttentionPooling));
        let layer = layer(&config, seed);
        let position = position.min(config.seq_len - 1);
        let old = sequence((2, config.seq_len, 5), seed);
        let mut new = old.clone();
        new.slice_mut(s![.., position, ..]).mapv_inplace(|x| 3.0 - x);
        let lengths = [config.seq_len; 2];
        let mut edited = with_lengths(layer.compressor(2).unwrap(), &config, &lengths);
        edited.push(&old, None).unwrap();
        edited.replace(position, &old.slice(s![.., position, ..]), &new.slice(s![.., position, ..])).unwrap();
        let (edited, anew) = (edited.finish().unwrap(), layer.compress(&new, None).unwrap());
        prop_assert!(difference(edited.keys(), anew.keys()) < 1e-11);
        prop_assert!(difference(edited.values(), anew.values()) < 1e-11);
    }

    #[test]
    fn query_rows_are_independent(config in linformer_config(1..=20), seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let context = layer.compress(&sequence((1, config.seq_len, 5), seed), None).unwrap();
        let queries = sequence((1, 7, 5), seed + 1);
        let all = layer.attend(&queries, &context).unwrap();
        for row in 0..7 {
            let alone = layer.attend(&queries.slice(s![.., row..=row, ..]), &context).unwrap();
            prop_assert!(difference(alone.view(), all.slice(s![.., row..=row, ..])) < 1e-13);
        }
    }

    #[test]
    fn the_maps_give_the_output(config in linformer_config(1..=20), pattern: u64, seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let (n, heads) = (config.seq_len, config.attention.heads);
        let x = sequence((2, n, 5), seed);
        let mask = mask(pattern, n);
        let context = layer.compress(&x, Some(&mask)).unwrap();
        let queries = sequence((2, 3, 5), seed + 1);
        let map = layer.attention_map(&queries, &context).unwrap();
        for ((item, ..), sum) in map.sum_axis(Axis(3)).indexed_iter() {
            let expected = if context.slots()[item] > 0 { 1.0 } else { 0.0 };
            prop_assert!((sum - expected).abs() < 1e-12);
        }
        let Ok(effective) = layer.effective_map_of(&queries, &x, Some(&mask)) else {
            return Ok(()); // this kind has no such map
        };
        let matrix_has_bias = config.projection.bias || layer.value().bias().is_some();
        prop_assume!(!matrix_has_bias && layer.config().attention.output_rank.is_none());
        // P̄·F·(X·W_Vᵀ), padding left out, must be P̄·V̄.
        let kv_heads = config.attention.kv_heads;
        let head_dim = config.attention.effective_head_dim();
        for item in 0..2 {
            let values = x.index_axis(Axis(0), item).dot(&layer.value().weight().t());
            for head in 0..heads {
                let kv_head = head * kv_heads / heads;
                let through_positions = effective.slice(s![item, head, .., ..])
                    .dot(&values.slice(s![.., kv_head * head_dim..(kv_head + 1) * head_dim]));
                let compressed_head = head * context.values().dim().1 / heads;
                let through_slots = map.slice(s![item, head, .., ..]).dot(&context.values().slice(s![item, compressed_head, .., ..]));
                prop_assert!(difference(through_positions.view(), through_slots.view()) < 1e-10);
            }
        }
    }

    #[test]
    fn any_strides_give_the_same(config in linformer_config(1..=20), seed in 0..1000_u64) {
        let layer = layer(&config, seed);
        let n = config.seq_len;
        let plain = sequence((2, n, 5), seed);
        let expected = layer.forward(&plain, None).unwrap();
        let transposed = plain.view().permuted_axes([2, 0, 1]).as_standard_layout().into_owned();
        let mut wide = Array3::from_elem((2, 2 * n, 9), f64::NAN);
        wide.slice_mut(s![.., ..;2, 2..7]).assign(&plain);
        let mut reversed = plain.clone();
        reversed.invert_axis(Axis(1));
        let reversed = reversed.as_standard_layout().into_owned();
        let mut backwards = reversed.view();
        backwards.invert_axis(Axis(1));
        for view in [transposed.view().permuted_axes([1, 2, 0]), wide.slice(s![.., ..;2, 2..7]), backwards] {
            prop_assert!(difference(layer.forward(&view, None).unwrap().view(), expected.view()) < 1e-12);
        }
    }

    #[test]
    fn padding_of_any_content_changes_nothing_at_any_depth(
        config in encoder_config(3..=20), lengths in (0..=20_usize, 0..=20_usize), garbage in prop::sample::select(vec![0.0, 1e6, f64::NAN, f64::INFINITY]),
        seed in 0..1000_u64,
    ) {
        let mut encoder = Encoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut encoder, seed);
        let n = 20.min(match &config.attention { linformer::AttentionKind::Linformer(attention) => attention.seq_len, _ => 20 });
        let lengths = [lengths.0.min(n), lengths.1.min(n)];
        let mut x = sequence((2, n, 5), seed);
        for (item, &length) in lengths.iter().enumerate() {
            x.slice_mut(s![item, length.., ..]).fill(garbage);
        }
        let together = encoder.forward(&x, Some(&PaddingMask::from_lengths(&lengths, n).unwrap())).unwrap();
        for (item, &length) in lengths.iter().enumerate() {
            let alone = encoder.forward(&x.slice(s![item..=item, ..length, ..]), None).unwrap();
            prop_assert!(difference(alone.view(), together.slice(s![item..=item, ..length, ..])) < 1e-10);
        }
    }

    #[test]
    fn holes_of_any_content_change_nothing(config in encoder_config(3..=20), pattern: u64, seed in 0..1000_u64) {
        let mut encoder = Encoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut encoder, seed);
        let linformer::AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let n = attention.seq_len;
        let mask = mask(pattern, n);
        let x = sequence((2, n, 5), seed);
        let mut spoilt = x.clone();
        for ((item, position, _), value) in spoilt.indexed_iter_mut() {
            if !mask.is_real(item, position) {
                *value = f64::NAN;
            }
        }
        let clean = encoder.forward(&x, Some(&mask)).unwrap();
        let dirty = encoder.forward(&spoilt, Some(&mask)).unwrap();
        for (item, position) in (0..2).flat_map(|item| (0..n).map(move |position| (item, position))).filter(|&(i, p)| mask.is_real(i, p)) {
            let place = s![item..=item, position..=position, ..];
            prop_assert!(difference(clean.slice(place), dirty.slice(place)) == 0.0);
        }
    }

    #[test]
    fn a_batch_is_its_items_and_its_order_does_not_matter(
        config in encoder_config(1..=20), batch in prop::sample::select(vec![3_usize, 21]), seed in 0..1000_u64,
    ) {
        let mut encoder = Encoder::<f64>::new(&config, seed).unwrap();
        scramble(&mut encoder, seed);
        let linformer::AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        let n = attention.seq_len;
        let x = sequence((batch, n, 5), seed);
        let length = |item: usize| item * 7 % (n + 1);
        let masked = |items: &[usize]| PaddingMask::from_lengths(&items.iter().map(|&item| length(item)).collect::<Vec<_>>(), n).unwrap();
        let all: Vec<_> = (0..batch).collect();
        for mask in [None, Some(masked(&all))] {
            let together = encoder.forward(&x, mask.as_ref()).unwrap();
            let alone: Vec<_> = all.iter().map(|&item| {
                encoder.forward(&x.slice(s![item..=item, .., ..]), mask.as_ref().map(|_| masked(&[item])).as_ref()).unwrap()
            }).collect();
            let views: Vec<_> = alone.iter().map(|item| item.view()).collect();
            prop_assert!(bits(&concatenate(Axis(0), &views).unwrap()) == bits(&together));
        }
        let together = encoder.forward(&x, None).unwrap();
        let backwards = encoder.forward(&x.slice(s![..;-1, .., ..]), None).unwrap();
        prop_assert!(difference(backwards.slice(s![..;-1, .., ..]), together.view()) == 0.0);
    }

    #[test]
    fn clones_keep_ties_and_zeros_keep_shapes(config in encoder_config(1..=12), seed in 0..1000_u64) {
        let encoder = Encoder::<f64>::new(&config, seed).unwrap();
        let copy = encoder.clone();
        let names = |encoder: &Encoder<f64>| encoder.named().into_iter().map(|(name, tensor)| (name, tensor.shape().to_vec())).collect::<Vec<_>>();
        prop_assert_eq!(names(&encoder), names(&copy));
        prop_assert_eq!(encoder.parameter_count(), copy.parameter_count());
        let owns = names(&encoder).iter().filter(|(name, _)| name.contains("projections.")).count();
        let linformer::AttentionKind::Linformer(attention) = &config.attention else { unreachable!() };
        if attention.projection.sharing == Some(linformer::Sharing::Layerwise) {
            prop_assert!(owns <= 2, "one matrix and one bias for all layers");
        }
        let mut sum = encoder.zeros_like();
        prop_assert!(tensors(&sum).iter().all(|(_, tensor)| tensor.iter().all(|&value| value == 0.0)));
        sum.scaled_add(2.0, &encoder).unwrap();
        prop_assert_eq!(names(&sum), names(&encoder));
    }
}

/// Chunks at multiples of the documented length add in the same order as one call: bit for bit, not up to rounding.
#[test]
fn aligned_chunks_are_bit_equal() {
    let chunk = Compressor::<f64>::CHUNK;
    // More than are added in the element type.
    let n = 18 * chunk + 17;
    for kind in [ProjectionKind::Learned, ProjectionKind::MeanPooling] {
        for order in [Order::CompressFirst, Order::ProjectFirst] {
            let config = LinformerConfig::new(12, 3, n, 7).with_kind(kind).with_key_value_bias(true, true);
            let mut layer = LinformerAttention::<f64>::new(&config, 1).unwrap();
            scramble(&mut layer, 3);
            let x = sequence((1, n, 12), 5);
            let mut results = Vec::new();
            for cuts in [vec![0, n], vec![0, chunk, 3 * chunk, 17 * chunk, n], vec![0, 16 * chunk, n]] {
                let mut compressor = layer
                    .compressor_in_order(1, order)
                    .unwrap()
                    .with_lengths(SequenceLengths::Equal(n))
                    .unwrap();
                for range in cuts.windows(2) {
                    compressor.push(&x.slice(s![.., range[0]..range[1], ..]), None).unwrap();
                }
                let finished = compressor.finish().unwrap();
                results.push((bits(&finished.keys().to_owned()), bits(&finished.values().to_owned())));
            }
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]), "{kind:?} {order:?}");
        }
    }
}

/// Rows that come a few at a time wait for their segment, with what their masks say, across segments, merges and edits; whatever stands where
/// a mask hides it.
#[test]
fn rows_that_wait_are_not_lost() {
    let n = 2 * Compressor::<f64>::CHUNK + 77;
    for kind in [
        ProjectionKind::Learned,
        ProjectionKind::MeanPooling,
        ProjectionKind::MaxPooling,
        ProjectionKind::AttentionPooling,
    ] {
        for order in [Order::CompressFirst, Order::ProjectFirst] {
            let config = LinformerConfig::new(4, 2, n, 3).with_kind(kind).with_key_value_bias(true, true);
            let mut layer = LinformerAttention::<f64>::new(&config, 1).unwrap();
            scramble(&mut layer, 3);
            let real = linformer::ndarray::Array2::from_shape_fn((2, n), |(item, t)| t % (5 + item) != 2 && t < n - 40 * item);
            let mask = PaddingMask::from_bools(&real);
            let mut x = sequence((2, n, 4), 5);
            for ((item, t), _) in real.indexed_iter().filter(|&(_, real)| !real) {
                x.slice_mut(s![item, t, ..]).fill(f64::NAN);
            }
            let new = || {
                layer
                    .compressor_in_order(2, order)
                    .map(|new| new.with_lengths(SequenceLengths::PerItem(mask.lengths().to_vec())).unwrap())
            };
            let Ok(mut whole) = new() else { continue };
            whole.push(&x, Some(&mask)).unwrap();
            let whole = whole.finish().unwrap();
            for chunk in [1, 100, 700] {
                let (mut pushed, mut merged) = (new().unwrap(), new().unwrap());
                for from in (0..n).step_by(chunk) {
                    let range = from..n.min(from + chunk);
                    let rows = x.slice(s![.., range.clone(), ..]);
                    let mask = PaddingMask::from_bools(&real.slice(s![.., range]).to_owned());
                    pushed.push(&rows, Some(&mask)).unwrap();
                    let mut part = new().unwrap().starting_at(from).unwrap();
                    part.push(&rows, Some(&mask)).unwrap();
                    merged.merge(part).unwrap();
                }
                if !matches!(kind, ProjectionKind::MaxPooling | ProjectionKind::AttentionPooling) {
                    // The last row waits still; twice, back and forth.
                    let row = x.slice(s![.., n - 41, ..]).to_owned();
                    let other = row.mapv(|x| x + 1.0);
                    pushed.replace(n - 41, &row, &other).unwrap();
                    pushed.replace(n - 41, &other, &row).unwrap();
                }
                for found in [pushed, merged] {
                    let found = found.clone().finish().unwrap();
                    assert!(difference(found.keys(), whole.keys()) < 1e-12, "{kind:?} {order:?} {chunk}");
                    assert!(difference(found.values(), whole.values()) < 1e-12, "{kind:?} {order:?} {chunk}");
                }
            }
        }
    }
}

/// A learned projection stretched to its own length is itself; stretched further it still compresses a constant to the same rows.
#[test]
fn a_stretched_projection_keeps_row_sums() {
    let config = LinformerConfig::new(8, 2, 10, 4);
    let mut layer = LinformerAttention::<f64>::new(&config, 1).unwrap();
    scramble(&mut layer, 3);
    let same = layer.extended(10).unwrap();
    let x = sequence((1, 10, 8), 0);
    assert!(difference(layer.forward(&x, None).unwrap().view(), same.forward(&x, None).unwrap().view()) < 1e-12);
    let longer = layer.extended(40).unwrap();
    assert_eq!(longer.config().seq_len, 40);
    let mean = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 10, 5), 1).unwrap();
    let constant = |length: usize| Array3::from_elem((1, length, 8), 0.7);
    let (short, long) = (
        mean.compress(&constant(10), None).unwrap(),
        mean.extended(40).unwrap().compress(&constant(40), None).unwrap(),
    );
    assert!(difference(short.keys(), long.keys()) < 1e-12);
}
