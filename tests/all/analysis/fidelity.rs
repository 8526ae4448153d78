//! How near a converted encoder is, and which form it needs.

use crate::attention::to_local_global::encoders;
use crate::common::{difference, scramble, sequence};
use linformer::analysis::{Bound, attention_inputs, fidelity, plan};
use linformer::ndarray::{Array2, Array3, Ix1, Ix2};
use linformer::{
    Attention, AttentionConfig, Encoder, EncoderConfig, Error, ExactAttention, LocalGlobalConfig, PaddingMask, Parameters,
    ProjectionConfig, ProjectionKind,
};

type Batches = Vec<(Array3<f64>, Option<PaddingMask>)>;

fn scrambled(config: &EncoderConfig) -> Encoder<f64> {
    let mut encoder = Encoder::new(config, 0).unwrap();
    scramble(&mut encoder, 5);
    encoder
}

/// A batch with padding and one without.
fn batches(length: usize, seed: u64) -> Batches {
    let mask = PaddingMask::from_lengths(&[length, length / 2, 0], length).unwrap();
    vec![
        (sequence((3, length, 8), seed), Some(mask)),
        (sequence((2, length - 1, 8), seed + 1), None),
    ]
}

fn is_real(mask: Option<&PaddingMask>, item: usize, position: usize) -> bool {
    mask.is_none_or(|mask| mask.is_real(item, position))
}

fn exact_layer(encoder: &Encoder<f64>, layer: usize) -> &ExactAttention<f64> {
    match encoder.blocks()[layer].attention() {
        Attention::Exact(exact) => exact,
        other => panic!("it is exact: {other:?}"),
    }
}

/// u of each head of each layer is the mean of W_Q·x + b over all real rows of all batches, x being what the exact model's layer reads.
#[test]
fn u_is_the_mean_query_of_each_layer() {
    let attentions = [
        AttentionConfig::new(8, 4).with_kv_heads(2).with_query_bias(true),
        AttentionConfig::new(8, 2).with_head_dim(Some(3)).with_causal(true),
    ];
    for config in attentions.iter().flat_map(encoders) {
        let exact = scrambled(&config);
        let batches = batches(14, 2);
        let form = LocalGlobalConfig::of(config.attention.attention()).with_block(4).with_slots(4);
        let converted = exact.to_local_global(&form, &batches).unwrap();
        for (layer, block) in converted.blocks().iter().enumerate() {
            let named: std::collections::HashMap<_, _> = exact_layer(&exact, layer).named().into_iter().collect();
            let weight = named["query.weight"].view().into_dimensionality::<Ix2>().unwrap();
            let (mut sum, mut count) = (linformer::ndarray::Array1::<f64>::zeros(weight.nrows()), 0.0);
            for (x, mask) in &batches {
                let input = &attention_inputs(&exact, x, mask.as_ref()).unwrap()[layer];
                for (item, rows) in input.outer_iter().enumerate() {
                    for (_, row) in rows.outer_iter().enumerate().filter(|&(t, _)| is_real(mask.as_ref(), item, t)) {
                        sum += &weight.dot(&row);
                        if let Some(bias) = named.get("query.bias") {
                            sum += &bias.view().into_dimensionality::<Ix1>().unwrap();
                        }
                        count += 1.0;
                    }
                }
            }
            let Attention::LocalGlobal(attention) = block.attention() else {
                panic!("it is converted")
            };
            let u = attention.pooling_query().unwrap();
            let expected: Array2<f64> = (sum / count).into_shape_with_order(u.dim()).unwrap();
            assert!(difference(u, expected.view()) < 1e-12, "{config:?}");
            assert_eq!(attention.config().attention.causal, config.attention.is_causal());
        }
    }
}

#[test]
fn an_encoder_is_faithful_to_itself() {
    for config in encoders(&AttentionConfig::new(8, 2)) {
        let encoder = scrambled(&config);
        let same = fidelity(&encoder, &encoder, &batches(14, 2)).unwrap();
        assert_eq!(same.layers, vec![0.0; 3]);
        assert_eq!(same.output.error.to_bits(), 0.0_f64.to_bits());
        for cosine in [same.output.mean_cosine, same.output.low_cosine, same.output.least_cosine] {
            assert_eq!(cosine.to_bits(), 1.0_f64.to_bits());
        }
    }
}

/// An exact encoder, and the local-global and the Linformer encoder made of it.
fn exact_and_converted() -> (Encoder<f64>, [Encoder<f64>; 2]) {
    let exact = scrambled(&EncoderConfig::new(AttentionConfig::new(8, 2), 2));
    let form = LocalGlobalConfig::of(&AttentionConfig::new(8, 2)).with_block(4).with_slots(4);
    let pooling = ProjectionConfig::new(ProjectionKind::MeanPooling);
    let converted = [
        exact.to_local_global(&form, &batches(40, 2)).unwrap(),
        Encoder::from_exact(&exact, 40, 4, pooling, 0).unwrap(),
    ];
    (exact, converted)
}

/// The error of each layer against its definition, for local-global attention and for a Linformer.
#[test]
fn errors_of_layers_are_their_definition() {
    let (exact, converted) = exact_and_converted();
    let held_out = batches(40, 7);
    for converted in converted {
        let found = fidelity(&exact, &converted, &held_out).unwrap();
        for (layer, error) in found.layers.iter().enumerate() {
            let (mut above, mut below) = (0.0, 0.0);
            let named: std::collections::HashMap<_, _> = exact_layer(&exact, layer).named().into_iter().collect();
            for (x, mask) in &held_out {
                let mask = mask.as_ref();
                let input = &attention_inputs(&exact, x, mask).unwrap()[layer];
                let of_exact = exact_layer(&exact, layer).forward(input, mask).unwrap();
                let other = match converted.blocks()[layer].attention() {
                    Attention::LocalGlobal(attention) => attention.forward(input, mask),
                    Attention::Linformer(attention) => attention.forward(input, mask),
                    other => panic!("it is converted: {other:?}"),
                }
                .unwrap();
                for ((item, position, feature), number) in of_exact.indexed_iter().filter(|((b, t, _), _)| is_real(mask, *b, *t)) {
                    above += (other[[item, position, feature]] - number).powi(2);
                    below += (number - named["output.bias"][[feature]]).powi(2);
                }
            }
            let expected = (above / below).sqrt();
            assert!(expected > 1e-3 && (error - expected).abs() < 1e-9, "{error} {expected}");
        }
    }
}

/// Error and cosines of the output against their definitions, for the same.
#[test]
fn figures_of_the_output_are_their_definitions() {
    let (exact, converted) = exact_and_converted();
    let held_out = batches(40, 7);
    for converted in converted {
        let found = fidelity(&exact, &converted, &held_out).unwrap();
        let (mut above, mut below, mut cosines) = (0.0, 0.0, Vec::new());
        for (x, mask) in &held_out {
            let mask = mask.as_ref();
            let [a, b] = [&exact, &converted].map(|encoder| encoder.forward(x, mask).unwrap());
            for item in 0..x.dim().0 {
                let (mut sums, mut any) = (
                    [linformer::ndarray::Array1::<f64>::zeros(8), linformer::ndarray::Array1::zeros(8)],
                    false,
                );
                for position in (0..x.dim().1).filter(|&position| is_real(mask, item, position)) {
                    let rows = [&a, &b].map(|y| y.slice(linformer::ndarray::s![item, position, ..]));
                    above += (&rows[1] - &rows[0]).mapv(|number| number * number).sum();
                    below += rows[0].mapv(|number| number * number).sum();
                    (sums[0], sums[1], any) = (&sums[0] + &rows[0], &sums[1] + &rows[1], true);
                }
                if any {
                    let [a, b] = &sums;
                    cosines.push(a.dot(b) / (a.dot(a) * b.dot(b)).sqrt());
                }
            }
        }
        assert_eq!(cosines.len(), 4);
        cosines.sort_by(f64::total_cmp);
        let expected = [(above / below).sqrt(), cosines.iter().sum::<f64>() / 4.0, cosines[0], cosines[0]];
        let output = found.output;
        for (found, expected) in [output.error, output.mean_cosine, output.low_cosine, output.least_cosine]
            .iter()
            .zip(expected)
        {
            assert!((found - expected).abs() < 1e-9, "{found} {expected}");
        }
        assert!(found.to_string().ends_with(&output.to_string()));
    }
}

/// Finer segments and wider windows: never much worse, and exact in the end.
#[test]
fn more_of_either_is_hardly_ever_worse() {
    let length = 64;
    let mut exact = scrambled(&EncoderConfig::new(AttentionConfig::new(8, 2), 2));
    // Queries that tell positions apart, as those of trained models do.
    exact.visit_mut("", &mut |name, _, mut tensor| {
        if name.ends_with("query.weight") {
            tensor *= 8.0;
        }
    });
    let form = LocalGlobalConfig::of(&AttentionConfig::new(8, 2));
    let error = |block: usize, slots: usize| {
        let form = form.clone().with_block(block).with_slots(slots);
        let converted = exact.to_local_global(&form, &batches(length, 2)).unwrap();
        fidelity(&exact, &converted, &batches(length, 7)).unwrap().output.error
    };
    let by_slots: Vec<f64> = [2, 4, 8, 16, 32, 64].map(|slots| error(2, slots)).to_vec();
    let by_block: Vec<f64> = [1, 2, 4, 8, 16, 32].map(|block| error(block, 4)).to_vec();
    for errors in [by_slots, by_block] {
        assert!(errors.windows(2).all(|pair| pair[1] <= 1.5 * pair[0]), "{errors:?}");
        assert!(errors[0] > 1e-5 && errors[5] < 1e-10, "{errors:?}");
    }
}

#[test]
fn the_plan_is_the_cheapest_form_within_the_bound() {
    let exact = scrambled(&EncoderConfig::new(AttentionConfig::new(8, 2), 2));
    let calibration = batches(20, 2);
    // Two blocks of 32 hold all positions; so do segments of one, and of two that cost the same the larger block comes first.
    let held_out = batches(40, 7);
    let found = plan(&exact, &calibration, &held_out, Bound::Error(1e-9)).unwrap();
    let sizes: Vec<_> = found
        .trials
        .iter()
        .map(|trial| (trial.form.block, trial.form.slots, trial.rows()))
        .collect();
    assert_eq!(sizes, [(16, 16, 64), (16, 32, 80), (32, 16, 112)]);
    let chosen = found.chosen().unwrap();
    assert_eq!((chosen.form.block, chosen.form.slots), (32, 16));
    assert!(found.trials[..2].iter().all(|trial| trial.output.error > 1e-9));
    for trial in &found.trials {
        let converted = exact.to_local_global(&trial.form, &calibration).unwrap();
        assert_eq!(fidelity(&exact, &converted, &held_out).unwrap().output, trial.output);
    }
    assert!(found.to_string().ends_with("chosen: block 32, 16 slots"));

    // A bound that all keep to.
    for bound in [Bound::Cosine(-1.0), Bound::Error(f64::MAX)] {
        assert_eq!(plan(&exact, &calibration, &held_out, bound).unwrap().trials.len(), 1);
    }
    // And one that none keeps to.
    let none = plan(&exact, &calibration, &batches(300, 7), Bound::Error(0.0)).unwrap();
    assert!(none.chosen().is_none());
    assert_eq!(none.trials.len(), 16);
    assert!(none.trials.is_sorted_by_key(linformer::analysis::Trial::rows));
    assert!(none.to_string().ends_with("none is within the bound, Error(0.0)"));
}

#[test]
fn refusals() {
    let encoder = |depth: usize| scrambled(&EncoderConfig::new(AttentionConfig::new(8, 2), depth));
    let (exact, batches) = (encoder(2), batches(10, 2));
    let argument = |result: Result<(), Error>, part: &str| match result {
        Err(Error::Argument { reason, .. }) => assert!(reason.contains(part), "{reason}"),
        other => panic!("{other:?}"),
    };
    argument(fidelity(&exact, &encoder(3), &batches).map(drop), "the same width, depth");
    argument(fidelity(&exact, &exact, &[]).map(drop), "no position is real");
    let padding = vec![(sequence((1, 4, 8), 1), Some(PaddingMask::from_lengths(&[0], 4).unwrap()))];
    argument(fidelity(&exact, &exact, &padding).map(drop), "no position is real");
    let mut bad = sequence((1, 4, 8), 1);
    bad[[0, 1, 2]] = f64::NAN;
    argument(fidelity(&exact, &exact, &[(bad, None)]).map(drop), "not finite");
    let narrow = vec![(sequence((1, 4, 7), 1), None)];
    assert!(matches!(fidelity(&exact, &exact, &narrow), Err(Error::Shape { .. })));

    for bound in [
        Bound::Error(-0.1),
        Bound::Error(f64::NAN),
        Bound::Error(f64::INFINITY),
        Bound::Cosine(1.1),
        Bound::Cosine(f64::NAN),
    ] {
        argument(plan(&exact, &batches, &batches, bound).map(drop), "the bound on the");
    }
    let bound = Bound::Error(0.1);
    argument(plan(&exact, &[], &batches, bound).map(drop), "no position is real");
    argument(plan(&exact, &batches, &[], bound).map(drop), "no position is real");
    assert!(matches!(plan(&exact, &narrow, &batches, bound), Err(Error::Shape { .. })));
    assert!(matches!(plan(&exact, &batches, &narrow, bound), Err(Error::Shape { .. })));
    let linformer = Encoder::from_exact(&exact, 10, 4, ProjectionConfig::default(), 0).unwrap();
    assert!(matches!(
        plan(&linformer, &batches, &batches, bound),
        Err(Error::Config { option: "attention", .. })
    ));
}
