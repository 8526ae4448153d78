//! Cases that were made by running the PyTorch implementations: their checkpoints are loaded through the public loaders, run on the
//! same inputs and compared with the outputs.
//!
//! The files are those of `tests/fixtures/goldens`, and of the folder that the environment variable `LINFORMER_GOLDENS` names, if it is
//! set. `cargo test --test all goldens:: -- --nocapture` prints a line for each.

mod bert;
mod case;
mod expected;
mod fairseq;
mod local_global;
mod lucidrains;
mod rifath95;
mod tangent;
mod tatp22;

use std::path::{Path, PathBuf};

use self::case::{Case, Outcome};
use self::expected::{Expected, expected};
use linformer::Scalar;
use linformer::ndarray::ArrayD;

/// Keys that need not be read: what is said about a case, and inputs, which are looked at one by one.
const NOT_READ: &[&str] = &["inputs", "note", "output", "output_f64", "tied"];

#[test]
fn every_golden_is_reproduced_or_refused_by_name() {
    let own = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/goldens");
    let mut folders = vec![own.clone()];
    folders.extend(std::env::var_os("LINFORMER_GOLDENS").map(PathBuf::from));
    let mut failures = Vec::new();
    let mut count = 0;
    for path in folders.iter().flat_map(|folder| files(folder)) {
        count += 1;
        match check(&Case::open(&path), path.starts_with(&own)) {
            Ok(line) => println!("{line}"),
            Err(line) => {
                println!("{line}");
                failures.push(line);
            }
        }
    }
    assert!(count > 0, "there are no goldens");
    assert!(
        failures.is_empty(),
        "{} of {count} failed:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("a folder's entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    files
}

fn run<A: Scalar>(case: &Case) -> Outcome {
    match case.peer() {
        "lucidrains" => lucidrains::run::<A>(case),
        "tatp22" => tatp22::run::<A>(case),
        "fairseq" => fairseq::run::<A>(case),
        "rifath95" => rifath95::run::<A>(case),
        "tangent" => tangent::run::<A>(case),
        "bert" => bert::run::<A>(case),
        other => panic!("{}: no loader for the peer {other}", case.name),
    }
}

/// A line about a case: name, what was expected, and how far the numbers are apart.
fn check(case: &Case, is_own: bool) -> Result<String, String> {
    let (name, expected) = (&case.name, expected(case, is_own));
    match (run::<f64>(case), &expected) {
        (Outcome::Failed(error), _) => Err(format!("{name}: {expected:?} was expected, but: {error}")),
        (Outcome::Output(output), Expected::Match | Expected::MatchOrRefused | Expected::Later) => {
            let difference = compare(case, output)?;
            let single = single_precision(case)?;
            Ok(format!("{name}: match, {difference:.1e} (f32: {single:.1e})"))
        }
        (Outcome::Refused(reason), Expected::Refused | Expected::MatchOrRefused) => Ok(format!("{name}: refused: {reason}")),
        (Outcome::Later(what), Expected::Later | Expected::MatchOrRefused) => Ok(format!("{name}: later: {what}")),
        (Outcome::Output(_), _) => Err(format!("{name}: {expected:?} was expected, but the model ran")),
        (Outcome::Refused(reason), _) => Err(format!("{name}: {expected:?} was expected, but it is refused: {reason}")),
        (Outcome::Later(what), _) => Err(format!("{name}: {expected:?} was expected, but it waits for {what}")),
    }
}

/// The largest absolute difference between the double-precision run and the file, or which of them is too large.
fn compare(case: &Case, output: ArrayD<f64>) -> Result<f64, String> {
    let mut outputs = case.take_further();
    let casts = case.peer() == "fairseq";
    if case.has("output_f64") {
        near(case, "output", &output, 3e-6)?;
        outputs.push(("output_f64".to_owned(), output));
    } else if case.has("output") {
        outputs.push(("output".to_owned(), output));
    }
    let mut largest = 0.0_f64;
    for (key, output) in outputs {
        // fairseq's softmax and GELU are computed in f32; `output_f64` is the same run without that.
        let bound = if casts && key == "output" { 1e-6 } else { 1e-10 };
        largest = near(case, &key, &output, bound)?.max(largest);
    }
    let unread = case.unread(NOT_READ);
    if !unread.is_empty() {
        return Err(format!("{}: {unread:?} was not read", case.name));
    }
    Ok(largest)
}

/// The largest absolute difference between the single-precision run and the file.
fn single_precision(case: &Case) -> Result<f64, String> {
    let Outcome::Output(output) = run::<f32>(case) else {
        return Err(format!("{}: it runs in f64 only", case.name));
    };
    for (key, output) in case.take_further() {
        near(case, &key, &output, 1e-4)?;
    }
    // Steps of training have been looked at one by one.
    if case.has("output") {
        near(case, "output", &output, 1e-4)
    } else {
        Ok(0.0)
    }
}

/// The largest absolute difference between `output` and the tensor under `key`; an error where it is above `bound`, or above that
/// many times the largest number where one exceeds 1.
fn near(case: &Case, key: &str, output: &ArrayD<f64>, bound: f64) -> Result<f64, String> {
    let expected = case.tensor::<f64>(key);
    if output.shape() != expected.shape() {
        return Err(format!(
            "{}: {key} has shape {:?}, expected {:?}",
            case.name,
            output.shape(),
            expected.shape()
        ));
    }
    let bound = bound * largest(expected.iter().map(|value| value.abs())).max(1.0);
    let difference = largest(output.iter().zip(&expected).map(|(a, b)| (a - b).abs()));
    if difference <= bound {
        return Ok(difference);
    }
    Err(format!("{}: {key} is {difference:.1e} off, more than {bound:.1e}", case.name))
}

/// The largest number; NaN where there is one, and 0 where there is none.
fn largest(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.fold(0.0, |most, number| if number.is_nan() || number > most { number } else { most })
}
