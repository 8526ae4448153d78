//! No option makes a model with a number that is not finite.

use linformer::distributed::{Communicator, Sharded, Shards, ThreadGroup};
use linformer::ndarray::Array3;
use linformer::{
    AttentionConfig, BlockwiseCausalAttention, CausalConfig, Classifier, ClassifierConfig, ClassifierInput, Decoder, DecoderConfig,
    DecoderLanguageModel, DecoderLanguageModelConfig, Encoder, EncoderBlock, EncoderConfig, EncoderDecoder, EncoderDecoderConfig, Error,
    ExactAttention, Initialization, LanguageModel, LanguageModelConfig, LinformerAttention, LinformerConfig, Parameters, Position,
    PositionKind, ProjectionConfig, ProjectionKind, Result, Scalar, Sharing, SinusoidLayout,
};

fn refused<T>(result: Result<T>, expected: &str) {
    match result.err() {
        Some(Error::Config { option, .. }) => assert_eq!(option, expected),
        other => panic!("{other:?}"),
    }
}

/// Checks every constructor that draws projections with this deviation.
fn for_each_model<A: Scalar>(standard_deviation: f64, check: impl Fn(&str, Option<Error>)) {
    let initialization = Initialization::Normal { standard_deviation };
    let layer = LinformerConfig::new(8, 2, 16, 4).with_initialization(initialization);
    let causal = CausalConfig::new(8, 2, 1024, 2).with_initialization(initialization);
    let exact = AttentionConfig::new(8, 2);
    check("layer", LinformerAttention::<A>::new(&layer, 0).err());
    for (kind, sharing) in [
        (ProjectionKind::Learned, Sharing::None),
        (ProjectionKind::Random, Sharing::Headwise),
        (ProjectionKind::Random, Sharing::KeyValue),
    ] {
        check(
            "kind",
            LinformerAttention::<A>::new(&layer.clone().with_kind(kind).with_sharing(sharing), 0).err(),
        );
    }
    check("causal layer", BlockwiseCausalAttention::<A>::new(&causal, 0).err());
    let encoder = EncoderConfig::new(layer.clone(), 2);
    let shared = EncoderConfig::new(layer.clone().with_sharing(Sharing::Layerwise), 2);
    for encoder in [&encoder, &shared] {
        check("encoder", Encoder::<A>::new(encoder, 0).err());
        check(
            "language model",
            LanguageModel::<A>::new(&LanguageModelConfig::new(9, encoder.clone()), 0).err(),
        );
        let model = LanguageModelConfig::new(9, encoder.clone());
        check(
            "classifier of tokens",
            Classifier::<A>::new(&ClassifierConfig::tokens(model, 2), 0).err(),
        );
        check(
            "classifier",
            Classifier::<A>::new(&ClassifierConfig::features(3, encoder.clone(), 2), 0).err(),
        );
        for result in ThreadGroup::run(2, |rank| {
            Ok(Sharded::<Encoder<A>>::new(encoder, 0, Shards::even(16, rank.size())?, rank).err())
        }) {
            check("sharded", result.unwrap());
        }
    }
    check("block", EncoderBlock::<A>::new(&EncoderConfig::new(layer.clone(), 1), 0).err());
    let decoders = [
        DecoderConfig::new(causal.clone(), exact.clone(), 2),
        DecoderConfig::new(exact.clone().with_causal(true), layer.clone(), 2),
    ];
    for decoder in decoders {
        check("decoder", Decoder::<A>::new(&decoder, 0).err());
        let target = DecoderLanguageModelConfig::new(9, decoder);
        check("decoder of tokens", DecoderLanguageModel::<A>::new(&target, 0).err());
        let source = LanguageModelConfig::new(9, EncoderConfig::new(exact.clone(), 1));
        check(
            "pair",
            EncoderDecoder::<A>::new(&EncoderDecoderConfig::new(source, target), 0).err(),
        );
    }
    let model = LanguageModelConfig::new(9, EncoderConfig::new(causal, 2));
    check("causal model", LanguageModel::<A>::new(&model, 0).err());
    let exact = ExactAttention::<A>::new(&exact, 0).unwrap();
    let projection = ProjectionConfig::default().with_initialization(Some(initialization));
    check("from exact", LinformerAttention::from_exact(&exact, 16, 4, projection, 0).err());
}

#[test]
fn initial_deviations() {
    let is_refused = |name: &str, error: Option<Error>| match error {
        Some(Error::Config { option, .. }) => assert_eq!(option, "standard_deviation", "{name}"),
        // All ranks fail, whichever was first.
        Some(Error::Rank { .. }) if name == "sharded" => {}
        other => panic!("{name}: {other:?}"),
    };
    // With 2e38 it is some of the draws that are too large.
    for deviation in [1e39, 2e38, f64::MAX] {
        for_each_model::<f32>(deviation, is_refused);
    }
    for_each_model::<f64>(f64::MAX, is_refused);
    for (deviation, is_single) in [(1e39, false), (1e37, true), (1e-60, true), (0.0, true)] {
        let is_made = |name: &str, error: Option<Error>| assert!(error.is_none(), "{name} {deviation}: {error:?}");
        for_each_model::<f64>(deviation, is_made);
        if is_single {
            for_each_model::<f32>(deviation, is_made);
        }
    }
}

fn sinusoid(base: f64, stored: bool) -> PositionKind {
    PositionKind::Sinusoidal {
        base,
        layout: SinusoidLayout::Halves,
        stored,
    }
}

fn bases<A: Scalar>() {
    for stored in [false, true] {
        for dim in [1, 2, 3, 8, 100, 1001] {
            for base in [
                1e-320,
                5e-324,
                f64::MIN_POSITIVE,
                1e-200,
                1e-60,
                1e-30,
                0.5,
                1.0,
                1e4,
                1e200,
                f64::MAX,
            ] {
                let made = Position::<A>::new(sinusoid(base, stored), dim, 0);
                if base < f64::MIN_POSITIVE {
                    refused(made, "base");
                    continue;
                }
                let position = match made {
                    Ok(position) => position,
                    Err(error) => {
                        assert!(matches!(error, Error::Config { option: "base", .. }), "{error}");
                        assert!(base < 1e-29, "{base:e}");
                        continue;
                    }
                };
                position.visit("", &mut |_, _, tensor| assert!(tensor.iter().all(|number| number.is_finite())));
                let placed = position.forward(&Array3::zeros((1, 50, dim)), None).unwrap();
                assert!(placed.iter().all(|number| number.abs() <= A::one()), "{base:e} {dim} {stored}");
            }
        }
    }
}

#[test]
fn bases_of_sinusoids() {
    bases::<f32>();
    bases::<f64>();
    // 1e-60^(−6/8) = 1e45: too large for a stored f32, and for nothing else.
    refused(Position::<f32>::new(sinusoid(1e-60, true), 8, 0), "base");
    assert!(Position::<f32>::new(sinusoid(1e-60, false), 8, 0).is_ok());
    assert!(Position::<f64>::new(sinusoid(1e-60, true), 8, 0).is_ok());
    for base in [1e-320, f64::NAN, f64::INFINITY, 0.0, -1.0] {
        let model = LanguageModelConfig::new(9, EncoderConfig::new(AttentionConfig::new(8, 2), 1)).with_position(sinusoid(base, false));
        refused(model.check(), "base");
        refused(LanguageModel::<f32>::new(&model, 0), "base");
        let input = ClassifierInput::Features {
            features: 3,
            encoder: EncoderConfig::new(AttentionConfig::new(8, 2), 1),
            position: sinusoid(base, true),
        };
        refused(ClassifierConfig::new(input, 2).check(), "base");
    }
    let model = LanguageModelConfig::new(9, EncoderConfig::new(AttentionConfig::new(8, 2), 1)).with_position(sinusoid(1e-60, true));
    refused(LanguageModel::<f32>::new(&model, 0), "base");
}

#[test]
fn stretched_projections() {
    let mut layer = LinformerAttention::<f32>::new(&LinformerConfig::new(8, 2, 16, 4), 0).unwrap();
    layer.visit_mut("", &mut |name, _, mut tensor| {
        if name.starts_with("projections") {
            tensor.fill(1e38);
        }
    });
    assert!(layer.extended(16).is_ok());
    assert!(matches!(layer.extended(2), Err(Error::Argument { .. })));
}
