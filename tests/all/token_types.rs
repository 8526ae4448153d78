//! Tokens of several types, and positions that repeat: what models make of them, alone and over ranks.

use linformer::distributed::{Communicator, Sharded, Shards, ThreadGroup};
use linformer::ndarray::{Array2, Axis, array, s};
use linformer::training::{CrossEntropy, Step, TokenBatch, Trainable};
use linformer::{
    AttentionConfig, Classifier, ClassifierConfig, EncoderConfig, Error, HeadKind, LanguageModel, LanguageModelConfig, LinformerConfig,
    PaddingMask, Parameters, PositionKind, TrainingPass,
};

use crate::common::{difference, scramble};

const VOCABULARY: usize = 9;

fn config(types: Option<usize>) -> LanguageModelConfig {
    LanguageModelConfig::new(VOCABULARY, EncoderConfig::new(AttentionConfig::new(8, 2), 1))
        .with_embedding_norm(true)
        .with_token_types(types)
}

fn model(config: &LanguageModelConfig) -> LanguageModel<f64> {
    let mut model = LanguageModel::new(config, 3).unwrap();
    scramble(&mut model, 3);
    model
}

fn tokens(length: usize) -> Array2<usize> {
    Array2::from_shape_fn((2, length), |(item, position)| (item * 4 + position * position + 2) % VOCABULARY)
}

fn types(length: usize, count: usize) -> Array2<usize> {
    Array2::from_shape_fn((2, length), |(item, position)| (position + item) / 3 % count)
}

#[test]
fn the_vector_of_its_type_is_added_to_each_token() {
    // Without norm and positions it can be seen.
    let config = config(Some(3)).with_embedding_norm(false).with_position(PositionKind::None);
    let model = model(&config);
    let table = model.named().into_iter().find(|(name, _)| name == "token_types.weight").unwrap().1;
    assert_eq!(table.shape(), [3, 8]);
    let (tokens, types) = (tokens(7), types(7, 3));
    let with = model.encoder_input_with_types(&tokens, &types, None).unwrap();
    for ((item, position), &own) in types.indexed_iter() {
        let expected = &model.embedding().weight().row(tokens[[item, position]]) + &table.slice(s![own, ..]);
        assert!(
            (&with.slice(s![item, position, ..]) - &expected)
                .iter()
                .all(|error| error.abs() < 1e-14)
        );
    }
    let without = model.encoder_input(&tokens, None).unwrap();
    assert_eq!(
        without,
        model.encoder_input_with_types(&tokens, &Array2::zeros(types.dim()), None).unwrap()
    );
    assert_ne!(without, with);
}

#[test]
fn a_padded_batch_gives_each_pair_what_it_gets_alone() {
    let model = model(&config(Some(2)));
    let (tokens, types) = (tokens(7), types(7, 2));
    let mask = PaddingMask::from_lengths(&[7, 4], 7).unwrap();
    let together = model.forward_with_types(&tokens, &types, Some(&mask)).unwrap();
    let alone = model
        .forward_with_types(&tokens.slice(s![1.., ..4]), &types.slice(s![1.., ..4]), None)
        .unwrap();
    assert_eq!(together.slice(s![1, ..4, ..]), alone.slice(s![0, .., ..]));
    assert_eq!(together, model.forward_with_types(&tokens, &types, Some(&mask)).unwrap());
}

#[test]
fn models_without_types_have_no_tensor_more_and_the_same_numbers() {
    let (with, without) = (
        LanguageModel::<f64>::new(&config(Some(2)), 3).unwrap(),
        LanguageModel::<f64>::new(&config(None), 3).unwrap(),
    );
    let names = |model: &LanguageModel<f64>| -> Vec<String> { model.named().into_iter().map(|(name, _)| name).collect() };
    assert_eq!(
        names(&with)
            .into_iter()
            .filter(|name| name != "token_types.weight")
            .collect::<Vec<_>>(),
        names(&without)
    );
    assert_eq!(with.parameter_count(), without.parameter_count() + 2 * 8);
}

#[test]
fn types_that_do_not_fit_are_errors() {
    let (tokens, typed, plain) = (tokens(4), model(&config(Some(2))), model(&config(None)));
    let message = |error: Error| error.to_string();
    let refused = message(plain.features_with_types(&tokens, &Array2::zeros(tokens.dim()), None).unwrap_err());
    assert!(refused.contains("LanguageModelConfig::token_types"), "{refused}");
    let outside = message(
        typed
            .features_with_types(&tokens, &types(4, 3).mapv(|own| own + 1), None)
            .unwrap_err(),
    );
    assert!(outside.contains("type 2") && outside.contains("2 types"), "{outside}");
    for shape in [(2, 3), (1, 4), (4, 2), (0, 0)] {
        let odd = Array2::zeros(shape);
        assert!(matches!(typed.features_with_types(&tokens, &odd, None), Err(Error::Shape { .. })));
        assert!(matches!(typed.forward_with_types(&tokens, &odd, None), Err(Error::Shape { .. })));
        assert!(matches!(
            typed.encoder_input_with_types(&tokens, &odd, None),
            Err(Error::Shape { .. })
        ));
    }
    assert!(matches!(
        LanguageModel::<f32>::new(&config(Some(0)), 1),
        Err(Error::Config { option: "token_types", .. })
    ));
    let narrow = config(None).with_embedding_dim(4).with_project_out(false);
    for (config, option) in [
        (config(None).with_project_out(false), "project_out"),
        (narrow.clone().with_head(HeadKind::Tied), "head"),
        (config(None).with_head(HeadKind::Labels { count: 0 }), "count"),
    ] {
        let error = LanguageModel::<f32>::new(&config, 1).unwrap_err();
        assert!(matches!(error, Error::Config { option: own, .. } if own == option), "{error}");
    }
    let vectors = ClassifierConfig::features(3, EncoderConfig::new(AttentionConfig::new(8, 2), 1), 2);
    let vectors = Classifier::<f64>::new(&vectors, 1).unwrap();
    assert!(vectors.forward((&tokens, &Array2::zeros(tokens.dim())), None).is_err());
}

#[test]
fn features_and_labels_have_the_width_that_the_configuration_says() {
    let tokens = tokens(4);
    let narrow = config(None).with_embedding_dim(4);
    for (config, width) in [
        (narrow.clone().with_head(HeadKind::None), 4),
        (narrow.clone().with_project_out(false).with_head(HeadKind::None), 8),
        (narrow.clone().with_project_out(false), VOCABULARY),
        (narrow.with_project_out(false).with_head(HeadKind::Labels { count: 5 }), 5),
        (config(None).with_head(HeadKind::Labels { count: 5 }), 5),
    ] {
        let model = model(&config);
        assert_eq!(model.features(&tokens, None).unwrap().dim(), (2, 4, config.feature_dim()));
        assert_eq!(model.forward(&tokens, None).unwrap().dim(), (2, 4, width));
    }
}

#[test]
fn batches_with_types_are_trained_on() {
    let (tokens, types) = (tokens(5), types(5, 2));
    let pass = TrainingPass::new(Step::new(1, 0));
    let classifier = ClassifierConfig::tokens(config(Some(2)), 3);
    let classifier = Classifier::<f64>::new(&classifier, 1).unwrap();
    let language = model(&config(Some(2)).with_head(HeadKind::Labels { count: 3 }));
    let table = |named: Vec<(String, linformer::ndarray::ArrayViewD<'_, f64>)>| {
        let found = named.into_iter().find(|(name, _)| name == "token_types.weight");
        found.unwrap().1.to_owned()
    };
    let classes = TokenBatch::new(&tokens, &[Some(0), Some(2)]);
    let labels = TokenBatch::new(&tokens, &[Some(1); 10]);
    let loss = CrossEntropy::new();
    let untyped = [
        table(classifier.loss_and_gradients(&classes, &loss, &pass).unwrap().1.named()),
        table(language.loss_and_gradients(&labels, &loss, &pass).unwrap().1.named()),
    ];
    for gradient in &untyped {
        assert!(gradient.slice(s![1, ..]).iter().all(|&number| number == 0.0));
        assert!(gradient.slice(s![0, ..]).iter().any(|&number| number != 0.0));
    }
    let (classes, labels) = (classes.with_types(&types), labels.with_types(&types));
    let typed = [
        table(classifier.loss_and_gradients(&classes, &loss, &pass).unwrap().1.named()),
        table(language.loss_and_gradients(&labels, &loss, &pass).unwrap().1.named()),
    ];
    for gradient in &typed {
        assert!(gradient.slice(s![1, ..]).iter().any(|&number| number != 0.0));
    }
    let scores = language.forward_with_types(&tokens, &types, None).unwrap();
    let expected = loss.loss(&scores.into_shape_with_order((10, 3)).unwrap(), &labels.targets).unwrap();
    assert!((language.evaluate(&labels, &loss).unwrap() - expected).abs() < 1e-12);
    let at = TokenBatch::new(&tokens, &[Some(1), Some(0)])
        .with_types(&types)
        .at(&[vec![4], vec![0]]);
    assert!(language.evaluate(&at, &loss).unwrap().is_finite());
}

#[test]
fn ranks_make_the_same_scores_of_pairs() {
    const LENGTH: usize = 11;
    let mut config = config(Some(2));
    config.encoder = EncoderConfig::new(LinformerConfig::new(8, 2, LENGTH, 3), 1);
    let mut model = Classifier::<f64>::new(&ClassifierConfig::tokens(config, 3), 1).unwrap();
    scramble(&mut model, 1);
    let (tokens, types) = (tokens(LENGTH), types(LENGTH, 2));
    let whole = model.forward((&tokens, &types), None).unwrap();
    let batch = TokenBatch::new(&tokens, &[Some(0), Some(2)]).with_types(&types);
    let (pass, loss) = (TrainingPass::new(Step::new(1, 0)), CrossEntropy::new());
    let (expected, gradients) = model.loss_and_gradients(&batch, &loss, &pass).unwrap();
    for size in [1, 3] {
        let shards = Shards::even(LENGTH, size).unwrap();
        let results = ThreadGroup::run(size, |rank| {
            let columns = shards.range(Communicator::rank(rank));
            let sharded = Sharded::of(&model, shards.clone(), rank)?;
            let (tokens, types) = (tokens.slice(s![.., columns.clone()]), types.slice(s![.., columns.clone()]));
            let scores = sharded.forward((&tokens, &types), None)?;
            let batch = TokenBatch::new(tokens, &[Some(0), Some(2)]).with_types(types);
            Ok((scores, sharded.loss_and_gradients(&batch, &loss, &pass)?, columns))
        });
        for result in results {
            let (scores, (own, own_gradients), columns) = result.unwrap();
            assert!(difference(scores.view(), whole.view()) < 1e-12);
            assert!((own - expected).abs() < 1e-12);
            for ((name, ours), (_, theirs)) in own_gradients.named().into_iter().zip(gradients.named()) {
                // Of E and F a rank has its own columns.
                let is_part = ours.shape() != theirs.shape();
                assert_eq!(is_part, size > 1 && name.contains("projections"), "{name}");
                let last = Axis(theirs.ndim() - 1);
                let theirs = if is_part {
                    theirs.slice_axis(last, columns.clone().into())
                } else {
                    theirs
                };
                assert!(difference(ours, theirs) < 1e-12, "{name}");
            }
        }
    }
}

#[cfg(feature = "checkpoint")]
#[test]
fn files_have_types_and_positions_that_repeat() {
    use linformer::checkpoint::Checkpoint;

    let config = config(Some(2)).with_position(PositionKind::Learned { max_len: 3 });
    let model = model(&config).with_repeating_positions().unwrap();
    let again = LanguageModel::<f64>::from_bytes(&model.to_bytes().unwrap()).unwrap();
    assert_eq!(again.config(), model.config());
    let (tokens, types) = (tokens(8), types(8, 2));
    assert_eq!(
        again.forward_with_types(&tokens, &types, None).unwrap(),
        model.forward_with_types(&tokens, &types, None).unwrap()
    );
}

#[test]
fn repeated_positions_are_those_of_a_longer_table_with_copies() {
    for padding_token in [None, Some(1)] {
        let kind = |max_len| match padding_token {
            None => PositionKind::Learned { max_len },
            Some(padding_token) => PositionKind::LearnedAfterPadding { max_len, padding_token },
        };
        let short = model(&config(None).with_position(kind(4)));
        let mut long = model(&config(None).with_position(kind(12)));
        long.copy_matching(&short);
        let table = short
            .named()
            .into_iter()
            .find(|(name, _)| name == "position.weight")
            .unwrap()
            .1
            .to_owned();
        let before = padding_token.map_or(0, |token| token + 1);
        for (name, mut tensor) in long.named_mut() {
            if name == "position.weight" {
                for row in 0..tensor.shape()[0] {
                    let from = if row < before { row } else { before + (row - before) % 4 };
                    tensor.slice_mut(s![row, ..]).assign(&table.slice(s![from, ..]));
                }
            }
        }
        let repeating = short.clone().with_repeating_positions().unwrap();
        assert_eq!((short.max_context(), repeating.max_context()), (Some(4), None));
        let four = tokens(4);
        assert_eq!(repeating.forward(&four, None).unwrap(), short.forward(&four, None).unwrap());
        let twelve = tokens(11).mapv(|token| if token == 1 { 2 } else { token });
        assert!(short.forward(&twelve, None).is_err());
        assert_eq!(repeating.forward(&twelve, None).unwrap(), long.forward(&twelve, None).unwrap());
        let mask = PaddingMask::from_lengths(&[11, 6], 11).unwrap();
        assert_eq!(
            repeating.forward(&twelve, Some(&mask)).unwrap(),
            long.forward(&twelve, Some(&mask)).unwrap()
        );
        // Once more changes nothing.
        let twice = repeating.clone().with_repeating_positions().unwrap();
        assert_eq!(twice.config(), repeating.config());
    }
    let sinusoidal = model(&config(None));
    assert!(matches!(
        sinusoidal.with_repeating_positions(),
        Err(Error::Config { option: "position", .. })
    ));
}

#[test]
fn classifiers_repeat_positions_too() {
    let tokens = array![[1, 2, 3, 4, 5]];
    let learned = PositionKind::Learned { max_len: 3 };
    let model = ClassifierConfig::tokens(config(None), 2).with_position(learned);
    let model = Classifier::<f64>::new(&model, 1).unwrap();
    assert!(model.forward(&tokens, None).is_err());
    let short = model.forward(&tokens.slice(s![.., ..3]), None).unwrap();
    let model = model.with_repeating_positions().unwrap();
    assert_eq!(model.forward(&tokens.slice(s![.., ..3]), None).unwrap(), short);
    assert!(model.forward(&tokens, None).is_ok());

    let encoder = EncoderConfig::new(AttentionConfig::new(8, 2), 1);
    let vectors = ClassifierConfig::features(3, encoder, 2).with_position(learned);
    let vectors = Classifier::<f64>::new(&vectors, 1).unwrap();
    let x = linformer::ndarray::Array3::ones((1, 5, 3));
    assert!(vectors.forward(&x, None).is_err());
    assert!(vectors.with_repeating_positions().unwrap().forward(&x, None).is_ok());
}

#[test]
fn repeating_positions_reach_texts_that_are_generated() {
    let encoder = EncoderConfig::new(AttentionConfig::new(8, 2).with_causal(true), 1);
    let config = LanguageModelConfig::new(VOCABULARY, encoder)
        .with_position(PositionKind::Learned { max_len: 3 })
        .with_token_types(2);
    let model = model(&config).with_repeating_positions().unwrap();
    let generation = linformer::GenerationConfig::new(6).with_temperature(0.0);
    let text: Vec<usize> = model
        .generate_one(&[1, 2], &generation)
        .unwrap()
        .map(|token| token.unwrap())
        .collect();
    let mut expected = vec![1, 2];
    for _ in 0..6 {
        let scores = model
            .forward(&Array2::from_shape_vec((1, expected.len()), expected.clone()).unwrap(), None)
            .unwrap();
        let last = scores.slice(s![0, -1, ..]);
        expected.push((0..VOCABULARY).fold(0, |best, token| if last[token] > last[best] { token } else { best }));
    }
    assert_eq!(text, expected[2..]);
}
