//! Every error says what was expected, what came, and what to do: one case of each variant, with the words that say so.

use crate::common::small_model;
use linformer::ndarray::{Array2, Array3, array};
use linformer::training::{AdamW, AdamWConfig, CrossEntropy, Optimizer, Step};
use linformer::{
    AttentionConfig, BlockWeights, BlockwiseCausalAttention, CausalConfig, Encoder, EncoderConfig, Error, ExactAttention,
    LinformerAttention, LinformerConfig, PaddingMask, Parameters, ProjectionKind, Workspace,
};

/// A variant, how it comes about, and what its message must say: what came, what was expected, what to do.
struct Case {
    variant: &'static str,
    error: Error,
    came: &'static str,
    expected: &'static str,
    advice: &'static str,
}

fn case<T>(variant: &'static str, result: linformer::Result<T>, [came, expected, advice]: [&'static str; 3]) -> Case {
    let Err(error) = result else { panic!("{variant}: it is no error") };
    Case {
        variant,
        error,
        came,
        expected,
        advice,
    }
}

fn cases() -> Vec<Case> {
    let layer = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 6, 4), 0).unwrap();
    let model = small_model();
    let optimizer = AdamW::new(&model, AdamWConfig::new()).unwrap();
    let step = |gradient: f64| {
        let mut gradients = model.zeros_like();
        gradients.visit_mut("", &mut |_, _, mut tensor| tensor.fill(gradient));
        optimizer.clone().step(&mut model.clone(), &gradients, 0.1)
    };
    let targets = [Some(9), None];
    vec![
        case(
            "Shape",
            layer.forward(&Array3::zeros((1, 3, 7)), None),
            ["[1, 3, 7]", "any length, 8)", "must have shape"],
        ),
        case(
            "Config",
            ExactAttention::<f32>::new(&AttentionConfig::new(8, 3), 0),
            ["`heads` = 3", "dim = 8", "choose another or set head_dim"],
        ),
        option_case(),
        case(
            "Token",
            model.forward(&array![[1, 9]], None),
            ["token 9", "ids 0 to 6", "use the vocabulary"],
        ),
        case(
            "Class",
            CrossEntropy::new().loss(&Array2::<f64>::zeros((2, 4)), &targets),
            ["target 9 of row 0", "4 classes", "`None` is the target"],
        ),
        case(
            "NonFiniteLoss",
            Step::new(0, 3).finite_loss(f64::NAN),
            ["loss is NaN", "step 3", "lower the learning rate"],
        ),
        case(
            "NonFiniteGradient",
            step(f64::NAN),
            ["embedding.weight", "not finite", "leave this batch out"],
        ),
        case(
            "NonFiniteStep",
            step(1e200),
            ["step 1: `moment2.embedding.weight`", "nothing was changed", "clip the gradients"],
        ),
        case(
            "Argument",
            PaddingMask::from_lengths(&[3, 9], 5),
            ["item 1 has 9", "have only 5", "PaddingMask::from_lengths"],
        ),
        overflow_case(),
    ]
}

fn option_case() -> Case {
    case(
        "Config",
        EncoderConfig::new(AttentionConfig::new(8, 2), 2)
            .with_k_by_layer(Some(vec![4, 4]))
            .check(),
        [
            "`k_by_layer` = [4, 4]",
            "exact attention compresses nothing",
            "leave the option out",
        ],
    )
}

fn overflow_case() -> Case {
    let layer = LinformerAttention::<f64>::new(&LinformerConfig::new(8, 2, 6, 4), 0).unwrap();
    case(
        "Overflow",
        layer.compressor(usize::MAX),
        ["18446744073709551615", "memory can address", "use smaller ones"],
    )
}

/// Too long for E and F, by what they are: each is told what helps there.
fn too_long_cases() -> Vec<Case> {
    let config = || LinformerConfig::new(8, 2, 6, 4);
    let causal = CausalConfig::new(8, 2, 6, 1).with_block_weights(BlockWeights::PerBlock);
    let random = config().with_kind(ProjectionKind::Random);
    let x = Array3::zeros((1, 7, 8));
    let learned = LinformerAttention::<f64>::new(&config(), 0).unwrap();
    let random = LinformerAttention::<f64>::new(&random, 0).unwrap();
    let encoder = Encoder::<f64>::new(&EncoderConfig::new(config(), 1), 0).unwrap();
    let causal = BlockwiseCausalAttention::<f64>::new(&causal, 0).unwrap();
    [
        (learned.forward(&x, None), "`LinformerAttention::extended`"),
        (random.forward(&x, None), "larger `seq_len`, or use a pooling"),
        (
            encoder
                .forward_in_place(&mut x.clone(), None, &mut Workspace::new())
                .map(|()| x.clone()),
            "E and F of a single layer",
        ),
        (causal.forward(&x, None), "larger `seq_len`, or with `BlockWeights::Shared`"),
    ]
    .into_iter()
    .map(|(result, advice)| case("TooLong", result, ["position 7", "6 columns", advice]))
    .collect()
}

/// What ranks tell one another: the last one's error of two, or the first one's.
fn rank_cases() -> Vec<Case> {
    use linformer::distributed::{Communicator, Numbers, Sharded, Shards, SingleProcess, ThreadGroup, ThreadRank};
    let make = |rank: &ThreadRank, heads: usize| {
        let config = EncoderConfig::new(LinformerConfig::new(4, heads, 20, 3), 1);
        Sharded::<Encoder<f64>>::new(&config, 0, Shards::even(20, rank.size())?, rank).map(|_| ())
    };
    let first = |results: Vec<linformer::Result<()>>| results.into_iter().next().unwrap();
    let last = |results: Vec<linformer::Result<()>>| results.into_iter().next_back().unwrap();
    vec![
        case(
            "Argument",
            SingleProcess.broadcast(Numbers::U64(&mut [7]), 3),
            ["but is 3", "one of the ranks 0 to 0", "let all ranks name the same"],
        ),
        case(
            "Rank",
            first(ThreadGroup::run(2, |rank| make(rank, 2 + rank.rank()))),
            ["rank 1 failed", "dim = 4", "choose another or set head_dim"],
        ),
        case(
            "Disagreement",
            last(ThreadGroup::run(2, |rank| make(rank, 1 + rank.rank()))),
            ["rank 1 has", "rank 0 has", "give all ranks the same"],
        ),
        case(
            "Communication",
            last(ThreadGroup::run(2, |rank| if rank.rank() == 0 { Ok(()) } else { make(rank, 2) })),
            ["rank 0", "left the group", "let all ranks make the same calls"],
        ),
    ]
}

#[cfg(feature = "checkpoint")]
fn file_cases() -> Vec<Case> {
    use linformer::checkpoint::{Checkpoint, Tensors, tatp22};
    let mut model = small_model();
    let causal = tatp22::LinformerOptions::from_json(r#"{"input_size": 4, "channels": 4, "dim_k": 2, "causal": true}"#).unwrap();
    let foreign = Tensors::<f64>::new().to_bytes().unwrap();
    vec![
        case(
            "Refused",
            causal.encoder_config(),
            ["`causal`", "hides slots, not positions", "leaks into"],
        ),
        case(
            "Checkpoint",
            model.load_parameters(&Tensors::new()),
            ["is missing", "embedding.weight", "does not fit the model"],
        ),
        case(
            "Malformed",
            linformer::LanguageModel::<f64>::from_bytes(&foreign),
            ["no `linformer`", "not a valid checkpoint", "give its tensors to load_parameters"],
        ),
        case(
            "Io",
            Tensors::<f32>::read("no such folder/file"),
            ["no such folder/file", "cannot open", "No such file"],
        ),
    ]
}

#[cfg(not(feature = "checkpoint"))]
fn file_cases() -> Vec<Case> {
    Vec::new()
}

fn all_cases() -> Vec<Case> {
    cases()
        .into_iter()
        .chain(too_long_cases())
        .chain(rank_cases())
        .chain(file_cases())
        .collect()
}

#[test]
fn every_error_says_what_came_what_was_expected_and_what_to_do() {
    for case in all_cases() {
        let message = case.error.to_string();
        let debug = format!("{:?}", case.error);
        assert!(debug.starts_with(case.variant), "{debug} is no {}", case.variant);
        for words in [case.came, case.expected, case.advice] {
            assert!(message.contains(words), "{}: `{message}` does not say `{words}`", case.variant);
        }
        assert!(
            !message.contains('\n') && !message.contains("  "),
            "{}: `{message}` is not one line",
            case.variant
        );
    }
}

/// A new variant gets a line in the table.
#[cfg(feature = "checkpoint")]
#[test]
fn the_table_has_every_variant() {
    let all: std::collections::BTreeSet<&str> = include_str!("../../public_names.txt")
        .lines()
        .filter_map(|line| line.strip_prefix("linformer::Error::"))
        .filter(|name| name.starts_with(char::is_uppercase) && !name.contains('.'))
        .collect();
    let tested: std::collections::BTreeSet<&str> = all_cases().iter().map(|case| case.variant).collect();
    assert_eq!(tested, all);
}
