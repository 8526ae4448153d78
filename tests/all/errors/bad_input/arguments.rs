//! Arrays, tokens, masks and calls that do not fit.

use super::*;

#[test]
fn every_dimension_wrong_by_one() {
    let layer = layer();
    for width in [7, 9] {
        let x = sequence((2, 5, width), 0);
        refused!(layer.forward(&x, None), Error::Shape { .. }, "8", &width.to_string());
        refused!(layer.compressor(2).unwrap().push(&x, None), Error::Shape { .. }, "chunk");
        let context = layer.compress(&sequence((2, 5, 8), 0), None).unwrap();
        refused!(layer.attend(&x, &context), Error::Shape { .. }, "queries");
        refused!(ExactAttention::from_linformer(&layer).forward(&x, None), Error::Shape { .. }, "8");
        refused!(
            Encoder::<f64>::new(&EncoderConfig::new(config(), 1), 0).unwrap().forward(&x, None),
            Error::Shape { .. },
            "8"
        );
        refused!(Linear::<f64>::new(8, 3, true, 0).unwrap().forward(&x), Error::Shape { .. }, "8");
        refused!(LayerNorm::<f64>::new(8, 1e-5).unwrap().forward(&x), Error::Shape { .. }, "8");
        let feed_forward = FeedForward::<f64>::new(8, 8, &FeedForwardConfig::new(4), 0).unwrap();
        refused!(feed_forward.forward(&x), Error::Shape { .. }, "8");
        let classifier = Classifier::<f64>::new(&ClassifierConfig::features(8, EncoderConfig::new(config(), 1), 2), 0).unwrap();
        refused!(classifier.forward(&x, None), Error::Shape { .. }, "8");
    }
    let context = layer.compress(&sequence((2, 5, 8), 0), None).unwrap();
    refused!(
        layer.attend(&sequence((3, 5, 8), 0), &context),
        Error::Shape { .. },
        "one item",
        "2"
    );
    refused!(
        layer.compressor(2).unwrap().push(&sequence((3, 5, 8), 0), None),
        Error::Shape { .. },
        "2"
    );
    let other = LinformerAttention::<f64>::new(&config().with_head_dim(Some(3)), 0).unwrap();
    refused!(other.attend(&sequence((2, 5, 8), 0), &context), Error::Shape { .. }, "context");
    refused!(
        Linear::from_parts(Array2::<f64>::zeros((2, 3)), Some(array![1.0])),
        Error::Shape { .. },
        "bias"
    );
    refused!(
        batched_matmul(&sequence((2, 3, 4), 0), &sequence((2, 5, 4), 0)),
        Error::Shape { .. },
        "4"
    );
    refused!(
        batched_matmul(&sequence((2, 3, 4), 0), &sequence((3, 4, 4), 0)),
        Error::Shape { .. },
        "2"
    );
}

#[test]
fn sequences_and_tokens_that_do_not_fit() {
    let layer = layer();
    refused!(
        layer.forward(&sequence((1, 7, 8), 0), None),
        Error::TooLong { .. },
        "7",
        "6",
        "extended"
    );
    let mut compressor = layer.compressor(1).unwrap();
    compressor.push(&sequence((1, 5, 8), 0), None).unwrap();
    let before = compressor.clone().finish().unwrap();
    refused!(compressor.push(&sequence((1, 2, 8), 0), None), Error::TooLong { .. }, "7");
    assert_eq!(compressor.finish().unwrap(), before, "a refused chunk changes nothing");

    let model = model();
    refused!(
        model.forward(&array![[0, 11]], None),
        Error::Token { .. },
        "11",
        "position 1",
        "0 to 10"
    );
    refused!(
        model.forward(&Array2::zeros((1, 7)), None),
        Error::Argument { .. } | Error::TooLong { .. },
        "6"
    );
    refused!(
        model.logits_at(&array![[0, 1]], &[vec![2]], None),
        Error::Argument { .. },
        "position 2"
    );
    refused!(model.logits_at(&array![[0, 1]], &[], None), Error::Argument { .. }, "batch");
    let headless = LanguageModelConfig::new(11, EncoderConfig::new(config(), 1)).with_head(HeadKind::None);
    let headless = LanguageModel::<f64>::new(&headless, 0).unwrap();
    refused!(
        headless.logits_at(&array![[0, 1]], &[vec![0]], None),
        Error::Argument { .. },
        "features"
    );
    refused!(
        Embedding::<f64>::new(3, 2, 0).unwrap().forward(&array![[3]]),
        Error::Token { .. },
        "3"
    );
    let x = sequence((2, 5, 8), 0);
    let features = Classifier::<f64>::new(&ClassifierConfig::features(3, EncoderConfig::new(config(), 1), 2), 0).unwrap();
    refused!(features.forward(&array![[0]], None), Error::Argument { .. }, "vectors, not token");
    let tokens = LanguageModelConfig::new(11, EncoderConfig::new(config(), 1));
    let tokens = Classifier::<f64>::new(&ClassifierConfig::tokens(tokens, 2), 0).unwrap();
    refused!(tokens.forward(&x, None), Error::Argument { .. }, "token ids, not vectors");
}

#[test]
fn masks_that_do_not_fit() {
    let (layer, model) = (layer(), model());
    let mask = PaddingMask::all_real(2, 4).unwrap();
    let x = sequence((2, 5, 8), 0);
    refused!(layer.forward(&x, Some(&mask)), Error::Shape { .. }, "mask", "(2, 5)");
    refused!(
        ExactAttention::from_linformer(&layer).forward(&x, Some(&mask)),
        Error::Shape { .. },
        "mask"
    );
    refused!(model.forward(&Array2::zeros((2, 5)), Some(&mask)), Error::Shape { .. }, "mask");
    let context = layer.compress(&x, None).unwrap();
    let other = PaddingMask::all_real(3, 5).unwrap();
    refused!(layer.effective_map(&x, &context, &other), Error::Shape { .. }, "mask");
    let long = PaddingMask::all_real(2, 7).unwrap();
    refused!(layer.effective_map(&x, &context, &long), Error::TooLong { .. }, "7");
    // The map of a context that this layer or this mask did not make.
    let wider = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 6, 5), 0).unwrap();
    let five = PaddingMask::all_real(2, 5).unwrap();
    refused!(
        layer.effective_map(&x, &wider.compress(&x, None).unwrap(), &five),
        Error::Argument { .. },
        "4 slots",
        "5"
    );
    let windows = ProjectionKind::Convolution(Convolution::new(ConvolutionKernel::Scalar));
    let windows = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 6, 6).with_kind(windows), 0).unwrap();
    let longer = PaddingMask::all_real(2, 9).unwrap();
    refused!(
        windows.effective_map(&x, &windows.compress(&x, None).unwrap(), &longer),
        Error::Argument { .. },
        "9 slots",
        "5"
    );
    refused!(PaddingMask::from_lengths(&[3, 5], 4), Error::Argument { .. }, "item 1", "4");
    refused!(PaddingMask::all_real(usize::MAX, 2), Error::Overflow { .. }, "memory");
}

#[test]
fn compressors_used_wrongly() {
    let layer = layer();
    let x = sequence((1, 3, 8), 0);
    let new = || layer.compressor(1).unwrap();
    let mut pushed = new();
    pushed.push(&x, None).unwrap();
    refused!(pushed.clone().starting_at(2), Error::Argument { .. }, "already");
    refused!(
        pushed.clone().with_lengths(SequenceLengths::Equal(6)),
        Error::Argument { .. },
        "already"
    );
    refused!(
        new().with_lengths(SequenceLengths::PerItem(vec![1, 2])),
        Error::Argument { .. },
        "batch"
    );
    refused!(new().with_lengths(SequenceLengths::Equal(7)), Error::TooLong { .. }, "7");
    refused!(new().starting_at(7), Error::TooLong { .. }, "7");
    let pooling = LinformerAttention::<f64>::new(&config().with_kind(ProjectionKind::MeanPooling), 0).unwrap();
    let far = pooling
        .compressor(1)
        .unwrap()
        .with_lengths(SequenceLengths::Equal(usize::MAX))
        .unwrap();
    let mut far = far.starting_at(usize::MAX - 3).unwrap();
    far.push(&x, None).unwrap();
    refused!(far.push(&x, None), Error::Overflow { .. }, "memory");
    assert!(far.finish().unwrap().keys().iter().all(|value| value.is_finite()));
    let mut short = new().with_lengths(SequenceLengths::Equal(2)).unwrap();
    refused!(short.push(&x, None), Error::Argument { .. }, "larger length");
    refused!(pushed.clone().merge(pushed.clone()), Error::Argument { .. }, "overlap");
    let other = LinformerAttention::<f64>::new(&config(), 0).unwrap();
    refused!(
        pushed.clone().merge(other.compressor(1).unwrap()),
        Error::Argument { .. },
        "one layer"
    );
    let row = Array2::zeros((1, 8));
    refused!(pushed.clone().replace(3, &row, &row), Error::Argument { .. }, "position 3");
    refused!(pushed.clone().replace(1, &Array2::zeros((1, 7)), &row), Error::Shape { .. }, "old");
    refused!(layer.compressor(usize::MAX), Error::Overflow { .. }, "memory");

    for kind in [ProjectionKind::MeanPooling, ProjectionKind::MaxPooling] {
        let pooling = LinformerAttention::<f64>::new(&config().with_kind(kind), 0).unwrap();
        refused!(
            pooling.compressor(1).unwrap().push(&x, None),
            Error::Argument { .. },
            "with_lengths"
        );
        refused!(pooling.extended(9), Error::Argument { .. }, "learned");
    }
    let max = LinformerAttention::<f64>::new(&config().with_kind(ProjectionKind::MaxPooling), 0).unwrap();
    refused!(
        max.compressor_in_order(1, Order::CompressFirst),
        Error::Argument { .. },
        "weights come first"
    );
    let mut max = max.compressor(1).unwrap().with_lengths(SequenceLengths::Equal(3)).unwrap();
    max.push(&x, None).unwrap();
    refused!(max.replace(0, &row, &row), Error::Argument { .. }, "maximum");
    refused!(layer.extended(0), Error::Config { .. }, "seq_len");
}

#[test]
fn compressors_of_attention_pooling_used_wrongly() {
    let (x, row) = (sequence((1, 3, 8), 0), Array2::zeros((1, 8)));
    let attention = LinformerAttention::<f64>::new(&config().with_kind(ProjectionKind::AttentionPooling), 0).unwrap();
    refused!(
        attention.compressor_in_order(1, Order::CompressFirst),
        Error::Argument { .. },
        "weights come first"
    );
    let mut pushed = attention.compressor(1).unwrap();
    pushed.push(&x, None).unwrap();
    refused!(pushed.replace(0, &row, &row), Error::Argument { .. }, "softmax");
    refused!(attention.extended(9), Error::Argument { .. }, "learned");
    let (context, mask) = (pushed.finish().unwrap(), PaddingMask::all_real(1, 3).unwrap());
    refused!(
        attention.effective_map(&x, &context, &mask),
        Error::Argument { .. },
        "effective_map_of"
    );
    let far = attention.compressor(1).unwrap();
    refused!(far.clone().starting_at(usize::MAX - 3), Error::Argument { .. }, "positions below");
    let most = isize::MAX as usize;
    let mut far = far.starting_at(most - 3).unwrap();
    far.push(&x, None).unwrap();
    refused!(far.push(&x, None), Error::Argument { .. }, "positions below");
    assert!(far.finish().unwrap().keys().iter().all(|value| value.is_finite()));
}
