//! Decoders: what comes later changes nothing, each side has its own padding, and a source is compressed once.

use crate::common::decoder::{SOURCE, causal_decoder, open_decoder};
use crate::common::gradients::mask;
use crate::common::{bits, difference, scramble, sequence};
use linformer::ndarray::{Array2, Array3, Axis, s};
use linformer::{
    CausalConfig, Decoder, DecoderConfig, Error, ExactAttention, LinformerAttention, LinformerConfig, PaddingMask, Parameters, Sharing,
};
use proptest::prelude::*;
use proptest::sample::select;

const TARGET: usize = 9;

fn decoder(config: &DecoderConfig, seed: u64) -> Decoder<f64> {
    let mut decoder = Decoder::new(config, seed).unwrap();
    scramble(&mut decoder, seed);
    decoder
}

/// Puts `garbage` where `mask` has padding.
fn spoilt(x: &Array3<f64>, mask: &PaddingMask, garbage: f64) -> Array3<f64> {
    let mut spoilt = x.clone();
    for ((item, t, _), value) in spoilt.indexed_iter_mut() {
        if !mask.is_real(item, t) {
            *value = garbage;
        }
    }
    spoilt
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn what_comes_later_changes_no_bit(
        config in causal_decoder(), m in 1..=TARGET, n in 0..=SOURCE, changed in 0..TARGET, pattern: u64, masked: bool, seed in 0..1000_u64,
        what in select(vec![0.7, 1e300, f64::NAN, f64::INFINITY]),
    ) {
        let decoder = decoder(&config, seed);
        let (x, changed) = (sequence((2, m, 5), seed), changed.min(m - 1));
        let (source_mask, own_mask) = (mask(pattern, n), mask(!pattern, m));
        let source = decoder.compress(&sequence((2, n, 5), seed + 1), masked.then_some(&source_mask)).unwrap();
        let mut other = x.clone();
        other.slice_mut(s![.., changed.., ..]).fill(what);
        let before = |x: &Array3<f64>| {
            bits(&decoder.attend(x, masked.then_some(&own_mask), &source).unwrap().slice(s![.., ..changed, ..]).to_owned())
        };
        prop_assert_eq!(before(&x), before(&other));
    }

    #[test]
    fn a_prefix_gives_what_the_whole_gives(
        config in causal_decoder(), m in 1..=TARGET, part in 0..=TARGET, pattern: u64, masked: bool, seed in 0..1000_u64,
    ) {
        let decoder = decoder(&config, seed);
        let (x, part) = (sequence((2, m, 5), seed), part.min(m));
        let (whole_mask, short_mask) = (mask(pattern, m), mask(pattern, part));
        let source = decoder.compress(&sequence((2, 6, 5), seed + 1), None).unwrap();
        let whole = decoder.attend(&x, masked.then_some(&whole_mask), &source).unwrap();
        let prefix = decoder.attend(&x.slice(s![.., ..part, ..]), masked.then_some(&short_mask), &source).unwrap();
        prop_assert!(difference(whole.slice(s![.., ..part, ..]), prefix.view()) < 1e-10);
    }

    #[test]
    fn each_side_has_its_own_padding(
        config in prop_oneof![causal_decoder().boxed(), open_decoder().boxed()], m in 1..=SOURCE, n in 1..=SOURCE, pattern: u64,
        garbage in select(vec![0.0, 1e6, f64::NAN]), seed in 0..1000_u64,
    ) {
        let decoder = decoder(&config, seed);
        let (x, source) = (sequence((2, m, 5), seed), sequence((2, n, 5), seed + 1));
        let (own, other) = (mask(pattern, m), mask(!pattern.rotate_left(7), n));
        let clean = decoder.forward(&x, Some(&own), &source, Some(&other)).unwrap();
        let dirty = decoder.forward(&spoilt(&x, &own, garbage), Some(&own), &spoilt(&source, &other, garbage), Some(&other)).unwrap();
        for (item, t) in (0..2).flat_map(|item| (0..m).map(move |t| (item, t))).filter(|&(item, t)| own.is_real(item, t)) {
            prop_assert!(difference(clean.slice(s![item, t, ..]), dirty.slice(s![item, t, ..])) == 0.0);
        }
    }

    #[test]
    fn a_padded_batch_gives_what_each_pair_gives_alone(
        config in causal_decoder(), lengths in (1..=TARGET, 1..=TARGET), sources in (1..=SOURCE, 1..=SOURCE), seed in 0..1000_u64,
    ) {
        // What keeps its place among the keys takes its share of the weight.
        prop_assume!(!config.self_attention.attention().masked_keys_stay && !config.cross_attention.attention().masked_keys_stay);
        let decoder = decoder(&config, seed);
        let (lengths, sources) = ([lengths.0, lengths.1], [sources.0, sources.1]);
        let (x, source) = (sequence((2, TARGET, 5), seed), sequence((2, SOURCE, 5), seed + 1));
        let own = PaddingMask::from_lengths(&lengths, TARGET).unwrap();
        let other = PaddingMask::from_lengths(&sources, SOURCE).unwrap();
        let together = decoder.forward(&x, Some(&own), &source, Some(&other)).unwrap();
        for item in 0..2 {
            let (m, n) = (lengths[item], sources[item]);
            let alone = decoder
                .forward(&x.slice(s![item..=item, ..m, ..]), None, &source.slice(s![item..=item, ..n, ..]), None)
                .unwrap();
            prop_assert!(difference(alone.view(), together.slice(s![item..=item, ..m, ..])) < 1e-10);
        }
    }

    #[test]
    fn an_all_true_mask_is_none(config in prop_oneof![causal_decoder().boxed(), open_decoder().boxed()], m in 0..=SOURCE, n in 0..=SOURCE, seed in 0..1000_u64) {
        let decoder = decoder(&config, seed);
        let (x, source) = (sequence((2, m, 5), seed), sequence((2, n, 5), seed + 1));
        let (own, other) = (PaddingMask::all_real(2, m).unwrap(), PaddingMask::all_real(2, n).unwrap());
        let masked = decoder.forward(&x, Some(&own), &source, Some(&other)).unwrap();
        prop_assert_eq!(bits(&decoder.forward(&x, None, &source, None).unwrap()), bits(&masked));
    }
}

/// softmax(q·K̄ᵀ/√d)·V̄·W_Oᵀ with K̄ = E·X·W_Kᵀ of the columns of E that the sequence reaches.
fn by_definition(layer: &LinformerAttention<f64>, queries: &Array2<f64>, context: &Array2<f64>) -> Array2<f64> {
    let (heads, n) = (layer.config().attention.heads, context.nrows());
    let width = layer.config().attention.effective_head_dim();
    let named = |name: &str| {
        let (_, tensor) = layer.named().into_iter().find(|(own, _)| own == name).unwrap();
        tensor.into_dimensionality::<linformer::ndarray::Ix2>().unwrap().to_owned()
    };
    let of = |side: &str, matrix: &str| {
        named(&format!("projections.{side}.weight"))
            .slice(s![.., ..n])
            .dot(&context.dot(&named(matrix).t()))
    };
    let (q, k, v) = (
        queries.dot(&named("query.weight").t()),
        of("key", "key.weight"),
        of("value", "value.weight"),
    );
    let mut results = Array2::zeros(q.dim());
    for head in 0..heads {
        let own = s![.., head * width..(head + 1) * width];
        let mut weights = (q.slice(own).dot(&k.slice(own).t()) / (width as f64).sqrt()).mapv(f64::exp);
        for mut row in weights.rows_mut() {
            let sum = row.sum();
            row /= sum;
        }
        results.slice_mut(own).assign(&weights.dot(&v.slice(own)));
    }
    results.dot(&named("output.weight").t()) + layer.output().bias().unwrap()
}

#[test]
fn three_queries_attend_to_five_positions_of_six() {
    let mut layer = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 6, 3), 1).unwrap();
    scramble(&mut layer, 1);
    let (queries, context) = (sequence((1, 3, 8), 1), sequence((1, 5, 8), 2));
    let kept = layer.compress(&context, None).unwrap();
    let found = layer.attend(&queries, &kept).unwrap();
    let expected = by_definition(
        &layer,
        &queries.index_axis(Axis(0), 0).to_owned(),
        &context.index_axis(Axis(0), 0).to_owned(),
    );
    assert!(difference(found.index_axis(Axis(0), 0), expected.view()) < 1e-14);
    let exact = ExactAttention::from_linformer(&layer);
    let all = exact.attend(&queries, &context, None).unwrap();
    for row in 0..3 {
        let query = queries.slice(s![.., row..=row, ..]);
        assert!(difference(found.slice(s![.., row..=row, ..]), layer.attend(&query, &kept).unwrap().view()) < 1e-14);
        assert!(
            difference(
                all.slice(s![.., row..=row, ..]),
                exact.attend(&query, &context, None).unwrap().view()
            ) < 1e-14
        );
    }
}

#[test]
fn sources_of_other_lengths_widths_and_batches() {
    let cross = LinformerConfig::new(8, 2, 6, 3);
    let decoder = Decoder::<f64>::new(&DecoderConfig::new(CausalConfig::new(8, 2, 16, 1), cross, 2), 1).unwrap();
    let source = |batch, n, width| sequence((batch, n, width), 2);
    let (x, none) = (sequence((2, 3, 8), 1), sequence((2, 0, 8), 1));
    assert_eq!(decoder.forward(&x, None, &source(2, 5, 8), None).unwrap().dim(), (2, 3, 8));
    assert_eq!(decoder.forward(&none, None, &source(2, 5, 8), None).unwrap().dim(), (2, 0, 8));
    assert!(
        decoder
            .forward(&x, None, &source(2, 0, 8), None)
            .unwrap()
            .iter()
            .all(|value| value.is_finite())
    );
    assert_eq!(
        decoder
            .forward(&sequence((0, 3, 8), 1), None, &source(0, 5, 8), None)
            .unwrap()
            .dim(),
        (0, 3, 8)
    );
    assert!(matches!(decoder.compress(&source(2, 7, 8), None), Err(Error::TooLong { .. })));
    assert!(matches!(decoder.compress(&source(2, 5, 7), None), Err(Error::Shape { .. })));
    assert!(matches!(
        decoder.forward(&x, None, &source(3, 5, 8), None),
        Err(Error::Shape { .. })
    ));
    let wrong = PaddingMask::all_real(2, 4).unwrap();
    assert!(decoder.compress(&source(2, 5, 8), Some(&wrong)).is_err());
    assert!(decoder.forward(&x, Some(&wrong), &source(2, 5, 8), None).is_err());
    let shallow = DecoderConfig::new(CausalConfig::new(8, 2, 16, 1), LinformerConfig::new(8, 2, 6, 3), 1);
    let shallow = Decoder::<f64>::new(&shallow, 1).unwrap();
    let other = shallow.compress(&source(2, 5, 8), None).unwrap();
    assert!(matches!(decoder.attend(&x, None, &other), Err(Error::Argument { .. })));
    let heads = DecoderConfig::new(CausalConfig::new(8, 2, 16, 1), LinformerConfig::new(8, 4, 6, 3), 2);
    let other = Decoder::<f64>::new(&heads, 1).unwrap().compress(&source(2, 5, 8), None).unwrap();
    assert!(matches!(decoder.attend(&x, None, &other), Err(Error::Shape { .. })));
}

#[test]
fn one_projection_serves_both_attentions() {
    let attention = LinformerConfig::new(8, 2, 6, 3).with_sharing(Sharing::Layerwise);
    let decoder = Decoder::<f64>::new(&DecoderConfig::new(attention.clone(), attention.clone(), 2), 1).unwrap();
    let names: Vec<String> = decoder.named().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names.iter().filter(|name| name.contains("projections")).count(), 1, "{names:?}");
    let own = Decoder::<f64>::new(
        &DecoderConfig::new(CausalConfig::new(8, 2, 6, 1).with_sharing(Sharing::Layerwise), attention, 2),
        1,
    )
    .unwrap();
    let names: Vec<String> = own
        .named()
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.contains("projections"))
        .collect();
    assert_eq!(names, ["projections.key.weight", "cross_projections.key.weight"]);
}
