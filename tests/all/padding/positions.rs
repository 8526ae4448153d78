//! Positions after padding: with a mask, padding is what the mask says, wherever such positions are counted.

use crate::common::{bits, scramble};
use linformer::ndarray::{Array2, Array3, array, s};
use linformer::training::Step;
use linformer::{
    AttentionConfig, AttentionKind, CausalConfig, Classifier, ClassifierConfig, DecoderConfig, DecoderLanguageModel,
    DecoderLanguageModelConfig, EncoderConfig, EncoderDecoder, EncoderDecoderConfig, HeadKind, LanguageModel, LanguageModelConfig,
    LinformerConfig, PaddingMask, Parameters, PositionKind, TokenPairs, TrainingPass,
};

const PADDING: usize = 1;

fn position(max_len: usize) -> PositionKind {
    PositionKind::LearnedAfterPadding {
        max_len,
        padding_token: PADDING,
    }
}

fn kinds() -> [AttentionKind; 2] {
    [LinformerConfig::new(6, 2, 5, 3).into(), AttentionConfig::new(6, 2).into()]
}

fn config(attention: AttentionKind, depth: usize, max_len: usize) -> LanguageModelConfig {
    let encoder = EncoderConfig::new(attention, depth).with_final_norm(depth > 0);
    LanguageModelConfig::new(9, encoder).with_position(position(max_len))
}

fn scrambled<M: Parameters<f64>>(mut model: M) -> M {
    scramble(&mut model, 3);
    model
}

/// Without blocks and head, features are token vectors and position vectors.
fn bare(max_len: usize) -> LanguageModel<f64> {
    let config = config(AttentionConfig::new(6, 2).into(), 0, max_len).with_head(HeadKind::None);
    scrambled(LanguageModel::new(&config, 0).unwrap())
}

fn holes(real: &[bool]) -> PaddingMask {
    PaddingMask::from_bools(&Array2::from_shape_vec((1, real.len()), real.to_vec()).unwrap())
}

/// The rows of the position's weight that were added to `tokens`.
fn rows_of(model: &LanguageModel<f64>, tokens: &Array2<usize>, mask: Option<&PaddingMask>) -> Vec<usize> {
    let features = model.features(tokens, mask).unwrap();
    let named = model.named();
    let (_, weight) = named.iter().find(|(name, _)| name == "position.weight").unwrap();
    let embedding = model.embedding().weight();
    let row = |(place, &token): (usize, &usize)| {
        let added = &features.slice(s![0, place, ..]) - &embedding.row(token);
        let is_added = |row: &linformer::ndarray::ArrayViewD<'_, f64>| row.iter().zip(&added).all(|(a, b)| (a - b).abs() < 1e-12);
        weight.outer_iter().position(|row| is_added(&row)).unwrap()
    };
    tokens.iter().enumerate().map(row).collect()
}

#[test]
fn the_mask_alone_says_what_counts() {
    let model = bare(4);
    let all = holes(&[true; 4]);
    for (tokens, mask, expected) in [
        // Without a mask, the padding's id does.
        (array![[3, 1, 5, 7]], None, [2, 1, 3, 4]),
        (array![[3, 1, 5, 7]], Some(&all), [2, 3, 4, 5]),
        (array![[3, 1, 5, 7]], Some(&holes(&[true, false, true, true])), [2, 1, 3, 4]),
        (array![[3, 7, 5, 7]], Some(&holes(&[true, false, true, true])), [2, 1, 3, 4]),
        (array![[1, 7, 1, 7]], Some(&holes(&[false, true, true, false])), [1, 2, 3, 1]),
        (array![[3, 7, 5, 7]], Some(&holes(&[false; 4])), [1; 4]),
    ] {
        assert_eq!(rows_of(&model, &tokens, mask), expected, "{tokens} {mask:?}");
    }
}

#[test]
fn padding_of_any_id_takes_no_position() {
    let mask = PaddingMask::from_lengths(&[3], 5).unwrap();
    let hole = holes(&[true, false, true]);
    for attention in kinds() {
        let model = scrambled(LanguageModel::<f64>::new(&config(attention.clone(), 2, 3), 0).unwrap());
        let classifier = ClassifierConfig::tokens(config(attention, 2, 3), 4);
        let classifier = scrambled(Classifier::<f64>::new(&classifier, 0).unwrap());
        let pass = TrainingPass::new(Step::new(0, 0));
        // More places than there are position vectors.
        let expected = model
            .forward(&array![[3, 4, 5, 1, 1]], Some(&mask))
            .unwrap()
            .slice_move(s![.., ..3, ..]);
        let scores = classifier.forward(&array![[3, 4, 5, 1, 1]], Some(&mask)).unwrap();
        for tokens in [array![[3, 4, 5, 7, 7]], array![[3, 4, 5, 0, 8]]] {
            let found = model.forward(&tokens, Some(&mask)).unwrap().slice_move(s![.., ..3, ..]);
            assert_eq!(bits(&found), bits(&expected));
            let (trained, _) = model.forward_train(&tokens, None, Some(&mask), &pass).unwrap();
            assert!(
                (&trained.slice(s![.., ..3, ..]) - &expected)
                    .iter()
                    .all(|difference| difference.abs() < 1e-12)
            );
            let chosen = model.logits_at(&tokens, &[vec![2]], Some(&mask)).unwrap();
            assert!(
                (&chosen.row(0) - &expected.slice(s![0, 2, ..]))
                    .iter()
                    .all(|difference| difference.abs() < 1e-12)
            );
            assert_eq!(bits(&classifier.forward(&tokens, Some(&mask)).unwrap()), bits(&scores));
        }
        // In the middle.
        let real = |tokens: Array2<usize>| {
            let all = model.forward(&tokens, Some(&hole)).unwrap();
            [0, 2].map(|row| bits(&all.slice(s![0, row, ..]).to_owned()))
        };
        assert_eq!(real(array![[3, 7, 5]]), real(array![[3, 0, 5]]));
        assert_eq!(real(array![[3, 7, 5]]), real(array![[3, PADDING, 5]]));
        // Without a mask, there are too many tokens.
        assert!(model.forward(&array![[3, 4, 5, 7, 7]], None).is_err());
    }
}

#[test]
fn gradients_go_to_the_vectors_that_were_added() {
    let model = bare(3);
    let mask = holes(&[true, false, true, false, true]);
    let (y, cache) = model
        .forward_train(
            &array![[PADDING, 7, 5, 4, 3]],
            None,
            Some(&mask),
            &TrainingPass::new(Step::new(0, 0)),
        )
        .unwrap();
    let mut gradients = model.zeros_like();
    model.backward(cache, Array3::ones(y.dim()), &mut gradients).unwrap();
    let named = gradients.named();
    let (_, weight) = named.iter().find(|(name, _)| name == "position.weight").unwrap();
    let sums: Vec<f64> = weight.outer_iter().map(|row| row.sum()).collect();
    assert_eq!(sums, [0.0, 12.0, 6.0, 6.0, 6.0]);
}

#[test]
fn decoders_and_sources() {
    let decoder = DecoderConfig::new(CausalConfig::new(6, 2, 8, 1).with_block(Some(2)), AttentionConfig::new(6, 2), 2);
    let target = DecoderLanguageModelConfig::new(9, decoder.clone()).with_position(position(3));
    let model = scrambled(DecoderLanguageModel::<f64>::new(&target, 0).unwrap());
    let source = crate::common::sequence((1, 4, 6), 1);
    let mask = holes(&[true, false, true, true]);
    let real = |tokens: Array2<usize>| {
        let all = model.forward(&tokens, Some(&mask), &source, None).unwrap();
        let pass = TrainingPass::new(Step::new(0, 0));
        let (trained, _) = model.forward_train(&tokens, Some(&mask), source.clone(), None, &pass).unwrap();
        assert!((&trained - &all).iter().all(|difference| difference.abs() < 1e-12));
        [0, 2, 3].map(|row| bits(&all.slice(s![0, row, ..]).to_owned()))
    };
    assert_eq!(real(array![[3, 7, 5, 4]]), real(array![[3, PADDING, 5, 4]]));
    // A mask of another shape is an error.
    for mask in [holes(&[true; 3]), holes(&[true; 5])] {
        assert!(model.forward(&array![[3, 7, 5, 4]], Some(&mask), &source, None).is_err());
        let pass = TrainingPass::new(Step::new(0, 0));
        assert!(
            model
                .forward_train(&array![[3, 7, 5, 4]], Some(&mask), source.clone(), None, &pass)
                .is_err()
        );
    }

    let target = DecoderLanguageModelConfig::new(9, decoder);
    let both = EncoderDecoderConfig::new(config(kinds()[0].clone(), 1, 4), target);
    let model = scrambled(EncoderDecoder::<f64>::new(&both, 0).unwrap());
    let targets = array![[2, 3]];
    let scores = |source: Array2<usize>| {
        let pairs = TokenPairs::new(&source, &targets).with_source_mask(Some(&mask));
        bits(&model.forward(&pairs).unwrap())
    };
    assert_eq!(scores(array![[3, 7, 5, 4]]), scores(array![[3, PADDING, 5, 4]]));
    // Sources of any lengths are masked, so that a prompt of the padding's id has a position.
    let mut alone = model.begin(&[vec![PADDING, 4]]).unwrap();
    let mut beside = model.begin(&[vec![PADDING, 4], vec![3, 4, 5, 6]]).unwrap();
    let alone = model.step(&mut alone, &[Some(2)]).unwrap();
    let beside = model.step(&mut beside, &[Some(2), Some(2)]).unwrap();
    assert_eq!(bits(&alone.row(0).to_owned()), bits(&beside.row(0).to_owned()));
}
