//! Numbers as large and as small as their type has them: norms, encoders, the norm of gradients, and the eps that are added.
#![allow(clippy::cast_possible_truncation, clippy::float_cmp)] // f32 is what is tried, and what is compared so is exact

use crate::common::{scramble, sequence};
use linformer::ndarray::{Array, Array3, Dimension, array};
use linformer::training::{AdamW, AdamWConfig, Optimizer, Step};
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, Encoder, EncoderConfig, LayerNorm, LinformerConfig, LocalGlobalConfig, NormPlacement,
    Parameters, ProjectionKind, Scalar, TrainingPass,
};

/// 10 to this power, a subnormal number where it must be.
fn decimal(exponent: i32) -> f64 {
    format!("1e{exponent}").parse().unwrap()
}

fn normed<A: Scalar>(row: [f64; 2], eps: f64) -> [f64; 2] {
    let norm = LayerNorm::<A>::new(2, eps).unwrap();
    let y = norm
        .forward(&Array3::from_shape_fn((1, 1, 2), |(_, _, i)| A::cast(row[i])))
        .unwrap();
    [y[[0, 0, 0]].widen(), y[[0, 0, 1]].widen()]
}

/// Rows of two opposite numbers become ±1, whatever the numbers are.
#[test]
fn opposite_numbers() {
    for exponent in -44..=38 {
        let size = decimal(exponent);
        let eps = if exponent < 3 { 0.0 } else { 1e-5 };
        let [first, second] = normed::<f32>([size, -size], eps);
        assert!((first - 1.0).abs() < 1e-6 && second == -first, "1e{exponent}: {first} {second}");
    }
    for exponent in -322..=308 {
        let size = decimal(exponent);
        let eps = if exponent < 6 { 0.0 } else { 1e-5 };
        let [first, second] = normed::<f64>([size, -size], eps);
        assert!((first - 1.0).abs() < 1e-14 && second == -first, "1e{exponent}: {first} {second}");
    }
    assert_eq!(normed::<f32>([f64::from(f32::MAX); 2], 1e-5), [0.0; 2]);
    assert_eq!(normed::<f64>([f64::MAX, -f64::MAX], 1e-5), [1.0, -1.0]);
    assert_eq!(normed::<f32>([7.0; 2], 0.0), [0.0; 2]);
    assert!(normed::<f32>([f64::INFINITY, 1.0], 1e-5).iter().all(|y| y.is_nan()));
}

fn encoders(norm: NormPlacement) -> Vec<EncoderConfig> {
    let compressed = |kind| LinformerConfig::new(8, 2, 12, 3).with_kind(kind);
    let kinds: [AttentionKind; 8] = [
        compressed(ProjectionKind::Learned).into(),
        compressed(ProjectionKind::MeanPooling).into(),
        compressed(ProjectionKind::MaxPooling).into(),
        compressed(ProjectionKind::AttentionPooling).into(),
        AttentionConfig::new(8, 2).into(),
        CausalConfig::new(8, 2, 12, 1).into(),
        LocalGlobalConfig::new(8, 2).with_block(2).with_slots(3).into(),
        LocalGlobalConfig::new(8, 2).with_causal(true).with_block(2).with_slots(1).into(),
    ];
    kinds.into_iter().map(|kind| EncoderConfig::new(kind, 2).with_norm(norm)).collect()
}

/// The largest difference of numbers of f32 from those of f64, relative to the largest of these.
fn wrong<D: Dimension>(found: &Array<f32, D>, expected: &Array<f64, D>) -> f64 {
    let scale = expected.iter().fold(f64::MIN_POSITIVE, |most, number| most.max(number.abs()));
    let differences = found
        .iter()
        .zip(expected)
        .map(|(&found, expected)| (f64::from(found) - expected).abs() / scale);
    differences.fold(0.0, |most, difference| {
        if difference > most || difference.is_nan() {
            difference
        } else {
            most
        }
    })
}

/// The errors of f32 against f64: of an encoder's output for inputs of this size, and of its gradients.
fn errors(config: &EncoderConfig, size: f64) -> [f64; 2] {
    let mut wide = Encoder::<f64>::new(config, 3).unwrap();
    scramble(&mut wide, 1);
    let mut narrow = Encoder::<f32>::new(config, 3).unwrap();
    let mut numbers = wide.named().into_iter().map(|(_, tensor)| tensor.to_owned());
    narrow.visit_mut("", &mut |_, _, mut tensor| {
        tensor.zip_mut_with(&numbers.next().unwrap(), |to, &from| *to = from as f32);
    });
    let x: Array3<f64> = sequence((1, 12, 8), 1).mapv(|x| x * size);
    let (x32, pass) = (x.mapv(|x| x as f32), TrainingPass::new(Step::new(0, 0)));
    let output = wrong(&narrow.forward(&x32, None).unwrap(), &wide.forward(&x, None).unwrap());
    let (y, cache) = wide.forward_train(&x, None, &pass).unwrap();
    let dy = sequence(y.dim(), 5);
    let mut expected = wide.zeros_like();
    let dx = wide.backward(cache, dy.clone(), &mut expected).unwrap();
    let (_, cache) = narrow.forward_train(&x32, None, &pass).unwrap();
    let mut found = narrow.zeros_like();
    let dx32 = narrow.backward(cache, dy.mapv(|dy| dy as f32), &mut found).unwrap();
    let tensors = found.named().into_iter().zip(expected.named());
    let gradients = tensors.map(|((_, found), (_, expected))| wrong(&found.to_owned(), &expected.to_owned()));
    [output, gradients.fold(wrong(&dx32, &dx), f64::max)]
}

/// In f32 as in f64, whose range the inputs do not leave. Without a norm in front the scores of attention are limited to the range themselves.
#[test]
fn encoders_of_large_inputs() {
    for exponent in 0..=37 {
        for mut config in encoders(NormPlacement::Pre) {
            for final_norm in [true, false] {
                config.final_norm = final_norm;
                let [output, gradients] = errors(&config, decimal(exponent));
                assert!(output < 1e-6, "1e{exponent}: {output:e} {config:?}");
                // Gradients of larger inputs are below the normal numbers.
                assert!(gradients < 1e-4 || exponent > 30, "1e{exponent}: {gradients:e} {config:?}");
            }
        }
    }
    for exponent in 0..=19 {
        for config in encoders(NormPlacement::Post) {
            let [output, _] = errors(&config, decimal(exponent));
            assert!(output < 1e-6, "1e{exponent}: {output:e} {config:?}");
        }
    }
}

/// What attention and feed-forward add to inputs as large as these is nothing: their norm is the output.
#[test]
fn encoders_of_inputs_near_the_largest() {
    for config in encoders(NormPlacement::Pre) {
        let encoder = Encoder::<f64>::new(&config, 3).unwrap();
        for exponent in [20, 100, 150, 160, 200, 307] {
            let x: Array3<f64> = sequence((1, 12, 8), 1).mapv(|x| x * decimal(exponent));
            let expected = LayerNorm::new(8, 0.0).unwrap().forward(&x).unwrap();
            let y = encoder.forward(&x, None).unwrap();
            let (trained, cache) = encoder.forward_train(&x, None, &TrainingPass::new(Step::new(0, 0))).unwrap();
            let difference =
                crate::common::difference(y.view(), expected.view()).max(crate::common::difference(trained.view(), expected.view()));
            assert!(difference < 1e-12, "1e{exponent}: {difference:e} {config:?}");
            let mut gradients = encoder.zeros_like();
            let dx = encoder.backward(cache, sequence(y.dim(), 5), &mut gradients).unwrap();
            assert!(dx.iter().all(|dx| dx.is_finite()) && gradients.named().iter().all(|(_, all)| all.iter().all(|x| x.is_finite())));
        }
    }
}

/// A model of two numbers as gradients, and the norm that they have.
fn clipped<A: Scalar>(gradients: [f64; 2], max_norm: f64) -> linformer::Result<(f64, [f64; 2])> {
    let [first, second] = gradients.map(A::cast);
    let mut gradients = linformer::Linear::from_parts(array![[first, second]], None)?;
    let optimizer = AdamW::new(&gradients, AdamWConfig::new())?;
    let before = gradients.clone();
    let norm = optimizer.clip_gradient_norm(&mut gradients, max_norm).inspect_err(|_| {
        assert_eq!(gradients.weight(), before.weight(), "a failed call changes nothing");
    })?;
    Ok((norm, [gradients.weight()[[0, 0]].widen(), gradients.weight()[[0, 1]].widen()]))
}

#[test]
fn norms_of_gradients() {
    for exponent in -320..=307 {
        let size = decimal(exponent);
        let (norm, _) = clipped::<f64>([3.0 * size, -4.0 * size], f64::INFINITY).unwrap();
        // Subnormal numbers have fewer digits.
        let bound = 1e-14 + 1e-323 / size;
        assert!((norm / (5.0 * size) - 1.0).abs() < bound, "1e{exponent}: {norm}");
    }
    for max_norm in [1e-300, 1e-8, 1.0, 1e30] {
        for (size, bound) in [(1e200, 1e-14), (3e307, 1e-14)] {
            let (_, [first, second]) = clipped::<f64>([3.0 * size, -4.0 * size], max_norm).unwrap();
            assert!((first / (0.6 * max_norm) - 1.0).abs() < bound, "{size} to {max_norm}: {first}");
            assert!((second / (-0.8 * max_norm) - 1.0).abs() < bound, "{size} to {max_norm}: {second}");
        }
    }
    let (norm, [first, _]) = clipped::<f32>([3e37, -4e37], 1e-10).unwrap();
    assert!(
        (norm / 5e37 - 1.0).abs() < 1e-6 && (first / 0.6e-10 - 1.0).abs() < 1e-6,
        "{norm} {first}"
    );
    assert_eq!(clipped::<f64>([0.0; 2], 1.0).unwrap(), (0.0, [0.0; 2]));
    assert_eq!(clipped::<f64>([5e-324, 0.0], 1.0).unwrap().0, 5e-324);
    for max_norm in [1.0, f64::INFINITY] {
        let error = clipped::<f64>([1.5e308, -1.5e308], max_norm).unwrap_err().to_string();
        assert!(error.contains("the norm of the gradients is more than"), "{error}");
    }
}

/// Every model that has a norm refuses an eps that its numbers cannot add, and takes 0 and the smallest that they can.
#[test]
fn eps_below_the_normal_numbers() {
    use linformer::{
        Classifier, ClassifierConfig, Decoder, DecoderConfig, DecoderLanguageModel, DecoderLanguageModelConfig, EncoderBlock,
        EncoderDecoder, EncoderDecoderConfig, Error, LanguageModel, LanguageModelConfig,
    };
    fn refused<T>(result: linformer::Result<T>, option: &str) -> bool {
        match result {
            Ok(_) => false,
            Err(Error::Config { option: named, .. }) => {
                assert_eq!(named, option);
                true
            }
            Err(error) => panic!("{error}"),
        }
    }
    fn all<A: Scalar>(eps: f64) -> Vec<bool> {
        let attention = || LinformerConfig::new(4, 2, 6, 2);
        let encoder = EncoderConfig::new(attention(), 1).with_norm_eps(eps);
        let causal = EncoderConfig::new(CausalConfig::new(4, 2, 6, 1), 1).with_norm_eps(eps);
        let decoder = DecoderConfig::new(CausalConfig::new(4, 2, 6, 1), attention(), 1).with_norm_eps(eps);
        let model = LanguageModelConfig::new(5, encoder.clone());
        let target = DecoderLanguageModelConfig::new(5, decoder.clone());
        let good = LanguageModelConfig::new(5, EncoderConfig::new(attention(), 1));
        vec![
            refused(LayerNorm::<A>::new(4, eps), "norm_eps"),
            refused(Encoder::<A>::new(&encoder, 0), "norm_eps"),
            refused(EncoderBlock::<A>::new(&encoder, 0), "norm_eps"),
            refused(Decoder::<A>::new(&decoder, 0), "norm_eps"),
            refused(LanguageModel::<A>::new(&model, 0), "norm_eps"),
            refused(LanguageModel::<A>::new(&LanguageModelConfig::new(5, causal), 0), "norm_eps"),
            refused(Classifier::<A>::new(&ClassifierConfig::tokens(model, 3), 0), "norm_eps"),
            refused(Classifier::<A>::new(&ClassifierConfig::features(3, encoder, 3), 0), "norm_eps"),
            refused(DecoderLanguageModel::<A>::new(&target, 0), "norm_eps"),
            refused(EncoderDecoder::<A>::new(&EncoderDecoderConfig::new(good, target), 0), "norm_eps"),
        ]
    }
    for eps in [1e-46, 1e-38, 5e-324, -1.0, f64::NAN, f64::INFINITY, 1e39] {
        assert!(all::<f32>(eps).into_iter().all(|refused| refused), "{eps}");
    }
    for eps in [5e-324, 1e-308, f64::NAN] {
        assert!(
            EncoderConfig::new(LinformerConfig::new(4, 2, 6, 2), 1)
                .with_norm_eps(eps)
                .check()
                .is_err()
        );
        assert!(all::<f64>(eps).into_iter().all(|refused| refused), "{eps}");
    }
    for eps in [0.0, f64::from(f32::MIN_POSITIVE), 1e-5] {
        assert!(all::<f32>(eps).into_iter().all(|refused| !refused), "{eps}");
    }
    for eps in [1e-46, f64::MIN_POSITIVE, 1e39] {
        assert!(all::<f64>(eps).into_iter().all(|refused| !refused), "{eps}");
    }
}

#[test]
fn eps_of_adamw_below_the_normal_numbers() {
    let layer = linformer::Linear::<f32>::new(2, 2, true, 0).unwrap();
    let result = |eps| AdamW::new(&layer, AdamWConfig::new().with_eps(eps));
    for eps in [1e-60, 1e-46, 1e-38] {
        assert!(matches!(result(eps), Err(linformer::Error::Config { option: "eps", .. })), "{eps}");
    }
    assert!(result(f64::from(f32::MIN_POSITIVE)).is_ok());
}

/// A file whose eps f64 can add, read as f32.
#[cfg(feature = "checkpoint")]
#[test]
fn files_of_another_type() {
    use linformer::checkpoint::Checkpoint;
    let config = EncoderConfig::new(LinformerConfig::new(4, 2, 6, 2), 1).with_norm_eps(1e-46);
    let bytes = Encoder::<f64>::new(&config, 0).unwrap().to_bytes().unwrap();
    assert!(Encoder::<f64>::from_bytes(&bytes).is_ok());
    let error = Encoder::<f32>::from_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("norm_eps"), "{error}");
}
