//! The same input gives the same bits at every instruction level with a fused multiply-add: hashes of outputs, gradients, three steps of
//! AdamW, initial weights and generated tokens, against `tests/fixtures/fingerprints`.
//!
//! The test runs at the level of this process, and starts itself once more for every other level that the processor has. Without fused
//! multiply-adds (level `portable`) the bits differ, and the norms are compared instead.
//!
//! After a change to the order of sums that is meant, `LINFORMER_BLESS=1 cargo test --test all fingerprints::` writes the file anew.

mod attention;
mod models;
mod pieces;
mod record;

use std::fs;
use std::path::{Path, PathBuf};

use self::record::Record;
use crate::common::once_more;
use linformer::{Level, Scalar};

fn all<A: Scalar>(record: &mut Record) {
    pieces::record::<A>(record);
    attention::record::<A>(record);
    models::record::<A>(record);
}

/// Compares what this process computes with the file.
fn check(level: Level) {
    let mut record = Record::default();
    all::<f32>(&mut record);
    all::<f64>(&mut record);
    if std::env::var_os("LINFORMER_BLESS").is_some() {
        assert!(level.is_fused(), "only a processor with fused multiply-adds can write the file");
        record.write();
    }
    let wrong = if level.is_fused() {
        record.other_bits()
    } else {
        record.other_norms()
    };
    assert!(
        wrong.is_empty(),
        "level {}: {} differ:\n{}",
        level.name(),
        wrong.len(),
        wrong.join("\n")
    );
    println!("{}", checked(level));
}

/// What a process says that has compared everything at `level`.
fn checked(level: Level) -> String {
    let what = if level.is_fused() { "bits" } else { "norms, tokens aside," };
    format!("level {}: the {what} are those of the file", level.name())
}

/// Runs [`check`] in another process, which is forced to `level`.
fn check_apart(level: Level) {
    let mut child = once_more(module_path!(), "results_are_the_same_bits_at_every_level");
    child.env("LINFORMER_LEVEL", level.name()).env_remove("LINFORMER_BLESS");
    let output = child.output().expect("this test, started once more");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(
        said.contains(&checked(level)),
        "the process for level {} said: {said}",
        level.name()
    );
    println!("{}", checked(level));
}

/// Functions that std takes from the platform's C library, and ndarray's products, whose kernels are those of matrixmultiply.
const OF_THE_PLATFORM: &str =
    "exp exp2 exp_m1 ln ln_1p log log2 log10 powf sin cos tan sin_cos sinh cosh tanh asin acos atan atan2 cbrt hypot";

/// Whether `line` calls the function of this name of a floating-point type.
fn calls(line: &str, name: &str) -> bool {
    [".", "f32::", "f64::", "A::", "T::", "Self::", "Float::"].iter().any(|before| {
        let call = format!("{before}{name}");
        let mut ends = line.match_indices(&call).map(|(start, _)| start + call.len());
        ends.any(|end| line[end..].starts_with(['(', ')', ',']))
    })
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
            found.push(path);
        }
    }
}

/// Tests, which may call anything, end a file.
#[test]
fn no_source_calls_a_function_of_the_platform() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    sources(&root, &mut paths);
    assert!(paths.len() > 100, "only {} sources", paths.len());
    let mut forbidden = Vec::new();
    for path in paths {
        let text = fs::read_to_string(&path).expect("a source");
        let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or("");
        let code = code.split("#[cfg(test)]\n#[allow").next().unwrap_or("");
        let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let found = lines.filter(|line| line.contains("general_mat_mul(") || OF_THE_PLATFORM.split(' ').any(|name| calls(line, name)));
        forbidden.extend(found.map(|line| format!("{}: {}", path.display(), line.trim())));
    }
    // The products of processors without fused multiply-adds, which promise no bits.
    forbidden.retain(|call: &String| !call.ends_with("matmul.rs: general_mat_mul(alpha, &a, &b, beta, c);"));
    assert!(forbidden.is_empty(), "{}", forbidden.join("\n"));
}

#[test]
fn results_are_the_same_bits_at_every_level() {
    check(Level::current());
    if std::env::var_os("LINFORMER_LEVEL").is_some() {
        return;
    }
    for level in Level::ALL {
        if level == Level::current() {
        } else if level.is_available() {
            check_apart(level);
        } else {
            println!("level {}: this processor does not have it", level.name());
        }
    }
}
