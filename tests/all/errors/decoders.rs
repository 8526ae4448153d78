//! Decoders, encoder–decoders, and what is asked of them.

use crate::common::decoder::{SOURCE, VOCABULARIES, text};
use crate::common::sequence;
use crate::generation::translation::{row, small};
use linformer::ndarray::Array2;
use linformer::{
    AttentionConfig, CausalConfig, Decoder, DecoderConfig, DecoderLanguageModelConfig, EncoderConfig, EncoderDecoderConfig, Error,
    HeadKind, LanguageModelConfig, LinformerConfig, PaddingMask, Parameters, PositionKind, Sharing, TokenPairs, TranslationConfig,
};

#[test]
fn configurations_that_describe_nothing_are_errors() {
    let own = || CausalConfig::new(8, 2, 16, 1);
    let cross = || LinformerConfig::new(8, 2, 6, 3);
    let layerwise = |n| LinformerConfig::new(8, 2, n, 3).with_sharing(Sharing::Layerwise);
    for (bad, option) in [
        (DecoderConfig::new(own(), own(), 1), "cross_attention"),
        (
            DecoderConfig::new(own(), AttentionConfig::new(8, 2).with_causal(true), 1),
            "cross_attention",
        ),
        (DecoderConfig::new(own(), LinformerConfig::new(6, 2, 6, 3), 1), "cross_attention"),
        (DecoderConfig::new(own(), cross(), 2).with_k_by_layer(Some(vec![3])), "k_by_layer"),
        (
            DecoderConfig::new(own(), AttentionConfig::new(8, 2), 1).with_k_by_layer(Some(vec![3])),
            "k_by_layer",
        ),
        (DecoderConfig::new(own(), cross(), 2).with_norm_eps(-1.0), "norm_eps"),
        (DecoderConfig::new(layerwise(6), layerwise(7), 2), "sharing"),
    ] {
        let error = Decoder::<f32>::new(&bad, 0).unwrap_err();
        assert!(matches!(&error, Error::Config { option: found, .. } if *found == option), "{error}");
    }
    assert!(Decoder::<f32>::new(&DecoderConfig::new(own(), cross(), 2).with_k_by_layer(Some(vec![3, 1])), 0).is_ok());
    let source = || LanguageModelConfig::new(5, EncoderConfig::new(cross(), 1));
    let target = |own: DecoderConfig| DecoderLanguageModelConfig::new(5, own);
    let causal = || target(DecoderConfig::new(own(), cross(), 1));
    let mut with_head = EncoderDecoderConfig::new(source(), causal());
    with_head.source.head = HeadKind::Plain;
    for bad in [
        with_head,
        EncoderDecoderConfig::new(source(), causal().with_head(HeadKind::None)),
        EncoderDecoderConfig::new(source().with_embedding_dim(Some(4)), causal()),
        EncoderDecoderConfig::new(source().with_zeroed_token(Some(1)), causal()),
        EncoderDecoderConfig::new(source(), target(DecoderConfig::new(cross(), cross(), 1))),
        EncoderDecoderConfig::new(source(), target(DecoderConfig::new(AttentionConfig::new(8, 2), cross(), 1))),
        EncoderDecoderConfig::new(
            source(),
            causal().with_position(PositionKind::LearnedAfterPadding {
                max_len: 9,
                padding_token: 1,
            }),
        ),
    ] {
        assert!(matches!(bad.check(), Err(Error::Config { .. })), "{bad:?}");
    }
}

/// A cache or gradients of another configuration are refused, in both directions, and nothing is added.
#[test]
fn foreign_caches_and_gradients_are_refused() {
    let causal = || AttentionConfig::new(8, 2).with_causal(true);
    let open = || AttentionConfig::new(8, 2);
    let configs = [
        DecoderConfig::new(causal(), open(), 1),
        DecoderConfig::new(causal(), open(), 2),
        DecoderConfig::new(causal(), LinformerConfig::new(8, 2, 6, 3), 1),
        DecoderConfig::new(causal(), LinformerConfig::new(8, 2, 6, 2), 1),
        DecoderConfig::new(CausalConfig::new(8, 2, 16, 2), open(), 1),
        DecoderConfig::new(AttentionConfig::new(8, 4).with_causal(true), open(), 1),
    ];
    let (x, source) = (sequence((1, 5, 8), 1), sequence((1, 6, 8), 2));
    let pass = linformer::TrainingPass::new(linformer::training::Step::new(0, 0));
    for (i, one) in configs.iter().enumerate() {
        let decoder = Decoder::<f64>::new(one, 1).unwrap();
        let (y, cache) = decoder.forward_train(&x, None, &source, None, &pass).unwrap();
        assert!(decoder.backward(cache.clone(), y.clone(), &mut decoder.zeros_like()).is_ok());
        for (_, other) in configs.iter().enumerate().filter(|&(j, _)| j != i) {
            let other = Decoder::<f64>::new(other, 1).unwrap();
            let mut foreign = other.zeros_like();
            for gradients in [
                decoder.backward(cache.clone(), y.clone(), &mut foreign),
                other.backward(cache.clone(), y.clone(), &mut foreign),
            ] {
                assert!(matches!(gradients, Err(Error::Argument { .. })));
            }
            assert!(
                foreign
                    .named()
                    .into_iter()
                    .all(|(_, tensor)| tensor.iter().all(|&value| value == 0.0))
            );
        }
    }
}

#[test]
fn translation() {
    let model = small(4, 3);
    let plain = || TranslationConfig::new(0, 1, 3);
    for bad in [
        TranslationConfig::new(3, 1, 3),
        TranslationConfig::new(0, 3, 3),
        plain().with_beams(0),
        plain().with_length_penalty(0.5),
        plain().with_beams(2).with_length_penalty(-0.5),
        plain().with_beams(2).with_length_penalty(f64::NAN),
    ] {
        assert!(matches!(model.translate(&[[1]], &bad), Err(Error::Config { .. })), "{bad:?}");
    }
    let too_long = TranslationConfig::new(0, 1, 5);
    assert!(matches!(model.translate(&[[1]], &too_long), Err(Error::Argument { .. })));
    assert!(matches!(model.translate(&[[9]], &plain()), Err(Error::Token { .. })));
    let error = model.translate(&[text(SOURCE + 1, VOCABULARIES.0, 1)], &plain()).unwrap_err();
    assert!(matches!(error, Error::Argument { .. }), "{error}");
    // More beams than there are targets.
    let many = model.translate(&[[1]], &plain().with_beams(usize::MAX)).unwrap();
    assert_eq!(many[0].len(), 15, "1 + 2 + 4 that end, and 8 that do not");
    let none: [Vec<usize>; 0] = [];
    assert!(model.translate(&none, &plain()).unwrap().is_empty());
    let mut spoilt = model.clone();
    linformer::Parameters::visit_mut(&mut spoilt, "", &mut |_, _, mut tensor| tensor.fill(f64::NAN));
    assert!(matches!(spoilt.translate(&[[1]], &plain()), Err(Error::Argument { .. })));
    let (source, target) = (row(&[1, 2]), row(&[0]));
    let two = Array2::zeros((2, 1));
    assert!(matches!(model.forward(&TokenPairs::new(&source, &two)), Err(Error::Shape { .. })));
    let wrong = PaddingMask::all_real(1, 5).unwrap();
    assert!(
        model
            .forward(&TokenPairs::new(&source, &target).with_target_mask(Some(&wrong)))
            .is_err()
    );
    assert!(
        model
            .forward(&TokenPairs::new(&source, &target).with_source_mask(Some(&wrong)))
            .is_err()
    );
}
