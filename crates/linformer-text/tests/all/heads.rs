//! Scores of pairs, of labels and of gaps.

use std::fs;

use linformer::checkpoint::{Tensors, bert};
use linformer::ndarray::{Array2, Axis};
use linformer_text::{EmbedOptions, Error, LongText, MaskedLanguageModel, PairScorer, TextEncoder, TokenClassifier};

use crate::tiny_model;
use crate::{Temporary, difference, tiny};

const QUERY: &str = "Who went to sea?";
const ANSWERS: [&str; 3] = [
    "Call me Ishmael.",
    "The whale!",
    "I thought I would sail about a little and see the watery part of the world.",
];

fn row(numbers: &[usize]) -> Array2<usize> {
    Array2::from_shape_vec((1, numbers.len()), numbers.to_vec()).unwrap()
}

#[test]
fn pairs_are_scored_with_their_types() {
    let folder = Temporary(tiny_model::tiny_scorer("scorer"));
    let scorer = PairScorer::open(&*folder).unwrap();
    let pairs = ANSWERS.map(|answer| (QUERY, answer));
    let logits = scorer.logits(&pairs).unwrap();
    for ((_, answer), logit) in pairs.iter().zip(logits.outer_iter()) {
        let tokens = scorer.tokenizer().encode_pair(QUERY, answer).unwrap();
        let (ids, types) = (row(tokens.ids()), row(tokens.types()));
        let expected = scorer.model().forward((&ids, &types), None).unwrap();
        assert!(difference(&logit.insert_axis(Axis(0)), &expected) < 1e-6);
        assert!(difference(&scorer.model().forward(&ids, None).unwrap(), &expected) > 1e-4);
    }
    let scores = scorer.scores(&pairs).unwrap();
    for (score, logit) in scores.iter().zip(&logits) {
        assert!((f64::from(*score) - 1.0 / (1.0 + (-f64::from(*logit)).exp())).abs() < 1e-6);
    }
    let (order, ranked) = scorer.rank(QUERY, &ANSWERS).unwrap();
    assert!(ranked.windows(2).into_iter().all(|pair| pair[0] >= pair[1]));
    assert!(order.iter().zip(&ranked).all(|(&index, &score)| scores[index] == score));
    assert_eq!(scorer.rank::<&str>(QUERY, &[]).unwrap().0.len(), 0);
}

#[test]
fn long_pairs_are_refused_or_cut() {
    let folder = Temporary(tiny_model::tiny_scorer("long_pairs"));
    let scorer = PairScorer::open(&*folder).unwrap();
    let sea = |count: usize| "sea ".repeat(count);
    let pairs = [(sea(3), sea(4)), (sea(10), sea(200))];
    let error = scorer.logits(&pairs).unwrap_err();
    assert!(
        matches!(
            error,
            Error::TooLong {
                text: 1,
                tokens: 213,
                limit: 128,
                ..
            }
        ),
        "{error}"
    );
    let cut = EmbedOptions::new().with_long(LongText::Cut);
    let found = scorer.logits_with(&pairs, &cut).unwrap();
    assert_eq!(found, scorer.logits(&[(sea(3), sea(4)), (sea(10), sea(115))]).unwrap());
    let both = scorer.logits_with(&[(sea(300), sea(200))], &cut).unwrap();
    assert_eq!(both, scorer.logits(&[(sea(63), sea(62))]).unwrap());
    for long in [LongText::Chunks { overlap: 0 }, LongText::OnePass] {
        let error = scorer.logits_with(&pairs, &EmbedOptions::new().with_long(long)).unwrap_err();
        assert!(matches!(error, Error::Argument { .. }), "{error}");
    }
}

#[test]
fn the_folder_names_the_function_of_scores() {
    let folder = Temporary(tiny_model::tiny_scorer("functions"));
    let config = fs::read_to_string(folder.join("config.json")).unwrap();
    let with = |entry: &str| fs::write(folder.join("config.json"), config.replacen('{', &format!("{{{entry}, "), 1)).unwrap();
    for entry in [
        r#""sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity""#,
        r#""sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity"}"#,
    ] {
        with(entry);
        let scorer = PairScorer::open(&*folder).unwrap();
        let pairs = [(QUERY, ANSWERS[0])];
        assert_eq!(scorer.scores(&pairs).unwrap()[0], scorer.logits(&pairs).unwrap()[[0, 0]]);
    }
    with(r#""sbert_ce_default_activation_function": "torch.nn.modules.activation.ReLU""#);
    assert!(PairScorer::open(&*folder).unwrap_err().to_string().contains("ReLU"));
}

#[test]
fn folders_without_the_head_are_errors() {
    let plain = tiny("no_head");
    assert!(matches!(PairScorer::open(&*plain), Err(Error::Model(_))));
    assert!(matches!(TokenClassifier::open(&*plain), Err(Error::Model(_))));
    assert!(matches!(MaskedLanguageModel::open(&*plain), Err(Error::Model(_))));
    // The encoder of a model with a head can be had.
    let scorer = Temporary(tiny_model::tiny_scorer("with_head"));
    assert_eq!(TextEncoder::open(&*scorer).unwrap().embed(&["sea"]).unwrap().dim(), (1, 32));
}

#[test]
fn every_token_has_scores_of_labels() {
    let folder = Temporary(tiny_model::tiny_labeler("labeler"));
    let classifier = TokenClassifier::open(&*folder).unwrap();
    assert_eq!(classifier.labels(), ["O", "NAME"]);
    let (tokens, scores) = classifier.scores(ANSWERS[0]).unwrap();
    let tensors = Tensors::<f32>::read(folder.join("model.safetensors")).unwrap();
    let weight = tensors
        .get("classifier.weight")
        .unwrap()
        .to_owned()
        .into_shape_with_order((2, 32))
        .unwrap();
    let bias = tensors.get("classifier.bias").unwrap().to_owned().into_shape_with_order(2).unwrap();
    let encoder = TextEncoder::open(&*folder).unwrap();
    let features = encoder
        .model()
        .features(&row(tokens.ids()), None)
        .unwrap()
        .index_axis_move(Axis(0), 0);
    assert!(difference(&scores, &(features.dot(&weight.t()) + &bias)) < 1e-5);
    assert!(matches!(
        classifier.scores(&"sea ".repeat(200)),
        Err(Error::TooLong {
            tokens: 202,
            limit: 128,
            ..
        })
    ));
}

#[test]
fn gaps_are_filled() {
    let folder = Temporary(tiny_model::tiny_masked("masked"));
    let model = MaskedLanguageModel::open(&*folder).unwrap();
    let text = "Call me [MASK], some [MASK] ago.";
    let (ids, probabilities) = model.fill(text, 4).unwrap();
    assert_eq!((ids.dim(), probabilities.dim()), ((2, 4), (2, 4)));

    let options = bert::Options::from_json(&fs::read_to_string(folder.join("config.json")).unwrap()).unwrap();
    let own = bert::masked_language_model::<f32>(Tensors::read(folder.join("model.safetensors")).unwrap(), &options).unwrap();
    let tokens = model.tokenizer().encode(text).unwrap();
    let mask = model.tokenizer().token_to_id("[MASK]").unwrap();
    let scores = own.forward(&row(tokens.ids()), None).unwrap();
    let gaps: Vec<_> = (0..tokens.len()).filter(|&token| tokens.ids()[token] == mask).collect();
    for (gap, &position) in gaps.iter().enumerate() {
        let scores: Vec<f64> = scores.index_axis(Axis(0), 0).row(position).mapv(f64::from).to_vec();
        let total: f64 = scores.iter().map(|score| score.exp()).sum();
        let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert!((scores[ids[[gap, 0]]] - largest).abs() < 1e-5);
        for rank in 0..4 {
            assert!((f64::from(probabilities[[gap, rank]]) - scores[ids[[gap, rank]]].exp() / total).abs() < 1e-6);
        }
    }
    assert!(matches!(model.fill("no gap", 3), Err(Error::Argument { .. })));
    let all = model.fill("[MASK]", usize::MAX).unwrap().1;
    assert!((all.sum() - 1.0).abs() < 1e-5);
}
