//! The same input gives the same bits at every instruction level with a fused multiply-add: hashes of outputs, gradients, three steps of
//! AdamW, initial weights and generated tokens, against `tests/fixtures/fingerprints`.
//!
//! The test runs at the level of this process, and starts itself once more for every other level that the processor has. Without fused
//! multiply-adds (level `portable`) the bits differ, and the norms are compared instead.
//!
//! After a change to the order of sums that is meant, `LINFORMER_BLESS=1 cargo test --release --test fingerprints` writes the file anew.

#![allow(unreachable_pub)] // a test's modules have no users outside

#[path = "fingerprints/attention.rs"]
mod attention;
#[path = "fingerprints/models.rs"]
mod models;
#[path = "fingerprints/pieces.rs"]
mod pieces;
#[path = "fingerprints/record.rs"]
mod record;

use std::process::Command;

use linformer::{Level, Scalar};
use record::Record;

const NAME: &str = "results_are_the_same_bits_at_every_level";

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
    let mut child = Command::new(std::env::current_exe().expect("the path of this test"));
    child.args([NAME, "--exact", "--nocapture"]);
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
