//! Where a fixed k loses: tasks in which every position must read one other position exactly.
//!
//! `cargo run --release --example recall`, and `-- --n 256 --batch 16 --k 16,64,128 --steps 1500 --rate 0.003` for a longer sequence.

mod support;

use std::process::ExitCode;

use linformer::ndarray::{Array2, Axis};
use linformer::training::{Step, TokenBatch};
use linformer::{LanguageModel, LanguageModelConfig, Parameters, PositionKind, TrainingPass};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use support::{AnyError, BLOCK, Budget, Kind, Options, Plan, SLOTS, TRAINED_LEN};

const ABOUT: &str =
    "Trains Linformer and exact attention, for as many steps each, on two tasks of recall, and prints how often each is right.

  copy         the first half of a sequence are random symbols; the second half must repeat them
  association  the first half are pairs of a key and a value, each one token, no key twice; the second half are those keys in another
               order, and must give their values

Linformer reads the first half through k rows; local-global attention sees a window exactly, and the rest in summary. Fails where exact attention does not get twice as much right as a guess.";

/// Symbols to copy, and values of a key.
const SYMBOLS: usize = 16;

/// Sequences that are tested on.
const TEST: usize = 64;

#[derive(Clone, Copy)]
enum Task {
    Copy,
    Association,
}

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let options = options();
    let n = options.count("n");
    if n < 4 || n % 2 == 1 {
        return Err("--n must be even and at least 4".into());
    }
    let tasks = match options.text("task") {
        "both" => vec![Task::Copy, Task::Association],
        "copy" => vec![Task::Copy],
        "association" => vec![Task::Association],
        other => return Err(format!("--task is copy, association or both, not `{other}`").into()),
    };
    println!("| task | n | attention | right | steps | processor s |\n|---|---:|---:|---:|---:|---:|");
    let kinds = if options.given("attention") {
        vec![Kind::of(&options)?]
    } else {
        Kind::ALL.to_vec()
    };
    for task in tasks {
        for &kind in &kinds {
            let lengths = if kind == Kind::Linformer { lengths(&options)? } else { vec![0] };
            for k in lengths {
                let right = run(task, &options, kind, k)?;
                if kind == Kind::Exact && right < 2.0 / SYMBOLS as f64 {
                    return Err("exact attention is no better than a guess: it needs more --steps".into());
                }
            }
        }
    }
    println!("\na guess is right in {:.1} %", 100.0 / SYMBOLS as f64);
    Ok(())
}

fn options() -> Options {
    Options::parse(
        ABOUT,
        &[
            ("task", "both", "copy, association or both"),
            ("n", "32", "tokens of a sequence"),
            ("attention", "", "only this one: linformer, local-global or exact; all if none"),
            ("k", "4,16", "rows that keys and values are compressed to, one Linformer for each"),
            BLOCK,
            SLOTS,
            TRAINED_LEN,
            ("dim", "64", "model width"),
            ("heads", "2", "heads"),
            ("depth", "1", "blocks"),
            ("batch", "32", "sequences of a step"),
            ("steps", "400", "training steps"),
            ("rate", "0.005", "the highest learning rate"),
            ("seed", "1", "seed of models, batches and test"),
        ],
    )
}

fn lengths(options: &Options) -> Result<Vec<usize>, AnyError> {
    let text = options.text("k");
    let lengths = text.split(',').map(|k| k.trim().parse::<usize>()).collect::<Result<_, _>>();
    lengths.map_err(|_| format!("--k must be whole numbers with commas between them, not `{text}`").into())
}

/// Trains, tests, prints a row of the table: the share of right answers.
fn run(task: Task, options: &Options, kind: Kind, k: usize) -> Result<f64, AnyError> {
    let n = options.count("n");
    let mut model = model(task, options, kind, k)?;
    let name = match kind {
        Kind::Linformer => format!("linformer, k = {k}"),
        _ => kind.name().into(),
    };
    let plan = Plan {
        name: format!("{} {name}", task.name()),
        budget: Budget::Steps(options.count("steps") as u64),
        rate: options.positive("rate"),
        pass: TrainingPass::new(Step::new(options.seed(), 0)),
        label_smoothing: 0.0,
    };
    let spent = support::train(&mut model, &plan, |step| Ok(task.questions(n, options.count("batch"), step)))?;
    let right = share_of_right(&model, &task.questions(n, TEST, Step::new(!options.seed(), 0)))?;
    println!(
        "| {} | {n} | {name} | {:.1} % | {} | {:.0} |",
        task.name(),
        100.0 * right,
        spent.steps,
        spent.seconds
    );
    Ok(right)
}

fn model(task: Task, options: &Options, kind: Kind, k: usize) -> Result<LanguageModel<f32>, AnyError> {
    let n = options.count("n");
    let attention = kind.config(options, n, k);
    let config = LanguageModelConfig::new(task.vocabulary(n), support::encoder(attention, options.count("depth")))
        .with_position(task.position())
        .with_embedding_deviation(support::AS_LARGE_AS_POSITIONS);
    let mut model = LanguageModel::new(&config, options.seed())?;
    if let Task::Association = task {
        add_up_pairs(&mut model, n / 2);
    }
    Ok(model)
}

/// Starts the vector of each pair as that of its key and that of its value together, without which exact attention needs long to find out
/// which pairs have to do with a key.
fn add_up_pairs(model: &mut LanguageModel<f32>, keys: usize) {
    model.visit_mut("", &mut |name, _, mut parameter| {
        if name == "embedding.weight" {
            for key in 0..keys {
                for value in 0..SYMBOLS {
                    let sum = &parameter.index_axis(Axis(0), value) + &parameter.index_axis(Axis(0), SYMBOLS + keys * SYMBOLS + key);
                    parameter.index_axis_mut(Axis(0), SYMBOLS + key * SYMBOLS + value).assign(&sum);
                }
            }
        }
    });
}

fn share_of_right(model: &LanguageModel<f32>, questions: &TokenBatch) -> Result<f64, AnyError> {
    let positions = questions.positions.as_deref().unwrap_or_default();
    let scores = model.logits_at(&questions.tokens, positions, None)?;
    let right = scores.outer_iter().zip(&questions.targets).filter(|(scores, answer)| {
        let best = (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b]));
        best == **answer
    });
    Ok(right.count() as f64 / questions.targets.len() as f64)
}

impl Task {
    fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Association => "association",
        }
    }

    /// Symbols and a blank; or the values, which are answers only, then all pairs, then all keys.
    fn vocabulary(self, n: usize) -> usize {
        match self {
            Self::Copy => SYMBOLS + 1,
            Self::Association => SYMBOLS + (n / 2) * (SYMBOLS + 1),
        }
    }

    /// Where a pair stands has no meaning.
    fn position(self) -> PositionKind {
        match self {
            Self::Copy => PositionKind::sinusoidal(),
            Self::Association => PositionKind::None,
        }
    }

    /// Sequences, and what must be said at each position of their second halves.
    fn questions(self, n: usize, count: usize, step: Step) -> TokenBatch {
        let mut generator = ChaCha8Rng::seed_from_u64(step.seed);
        generator.set_stream(step.index);
        let (mut tokens, mut answers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let symbols: Vec<usize> = (0..n / 2).map(|_| generator.random_range(0..SYMBOLS)).collect();
            match self {
                Self::Copy => {
                    tokens.extend_from_slice(&symbols);
                    tokens.extend(std::iter::repeat_n(SYMBOLS, n / 2));
                    answers.extend(symbols.into_iter().map(Some));
                }
                Self::Association => {
                    let mut keys: Vec<usize> = (0..n / 2).collect();
                    keys.shuffle(&mut generator);
                    tokens.extend(keys.iter().map(|&key| SYMBOLS + key * SYMBOLS + symbols[key]));
                    keys.shuffle(&mut generator);
                    tokens.extend(keys.iter().map(|&key| SYMBOLS + (n / 2) * SYMBOLS + key));
                    answers.extend(keys.iter().map(|&key| Some(symbols[key])));
                }
            }
        }
        let tokens = Array2::from_shape_fn((count, n), |(item, position)| tokens[item * n + position]);
        TokenBatch::new(tokens, answers).at(vec![(n / 2..n).collect(); count])
    }
}
