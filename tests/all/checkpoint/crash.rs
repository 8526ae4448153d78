//! A process that is killed while it saves leaves the old file or the new one, never half of one and never none.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::common::once_more;
use linformer::checkpoint::Checkpoint;
use linformer::{EncoderConfig, LanguageModel, LanguageModelConfig, LinformerConfig, Parameters};

/// Where the process that is to be killed saves to; only that process has it.
const CHILD: &str = "LINFORMER_TEST_SAVES_TO";

const KILLS: u64 = 100;

/// A model of about a hundred kilobytes.
fn model() -> LanguageModel<f32> {
    let encoder = EncoderConfig::new(LinformerConfig::new(32, 2, 64, 8), 1);
    LanguageModel::new(&LanguageModelConfig::new(400, encoder), 0).unwrap()
}

/// Saves it with all of its numbers the same: half of one file and half of another would show.
fn save(model: &mut LanguageModel<f32>, number: f32, path: &Path) {
    model.visit_mut("", &mut |_, _, mut tensor| tensor.fill(number));
    model.save(path).expect("a file that can be written");
}

/// The number that all of a model's numbers are.
fn number(path: &Path) -> f32 {
    let model = LanguageModel::<f32>::load(path).expect("a whole file, at any time");
    let numbers: Vec<f32> = model.named().iter().flat_map(|(_, tensor)| tensor.iter().copied()).collect();
    assert!(
        numbers.iter().all(|number| number.to_bits() == numbers[0].to_bits()),
        "half of one file and half of another"
    );
    numbers[0]
}

/// Saves models of rising numbers for as long as it lives.
fn save_forever(path: &Path) -> ! {
    let (mut model, mut next) = (model(), number(path));
    println!("ready");
    loop {
        next += 1.0;
        save(&mut model, next, path);
    }
}

fn start(path: &Path) -> std::process::Child {
    let mut child = once_more(module_path!(), "a_process_that_is_killed_while_it_saves_leaves_a_whole_file")
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(
        lines.any(|line| line.is_ok_and(|line| line.contains("ready"))),
        "the process never began to save"
    );
    child
}

#[test]
fn processes_that_save_to_one_path_leave_each_other_alone() {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("together-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("model.safetensors");
    save(&mut model(), 0.0, &path);
    let mut living = [start(&path), start(&path)];
    for kill in 0..KILLS / 5 {
        let mut child = start(&path);
        std::thread::sleep(Duration::from_micros(kill * 7919 % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        number(&path);
    }
    for child in &mut living {
        // A save that failed would have ended it.
        assert!(child.try_wait().unwrap().is_none(), "a process took another's file");
        child.kill().unwrap();
        child.wait().unwrap();
    }
    save(&mut model(), -1.0, &path);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_process_that_is_killed_while_it_saves_leaves_a_whole_file() {
    if let Some(path) = std::env::var_os(CHILD) {
        save_forever(Path::new(&path));
    }
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("crash-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let path = directory.join("model.safetensors");
    save(&mut model(), 0.0, &path);
    let (mut latest, mut new, mut halves) = (0.0, 0, 0);
    for kill in 0..KILLS {
        let mut child = start(&path);
        // Moments that are spread over a few saves.
        std::thread::sleep(Duration::from_micros(kill * 7919 % 30_000));
        child.kill().unwrap();
        child.wait().unwrap();
        let found = number(&path);
        assert!(found >= latest, "the file of before the last one came back");
        new += u64::from(found > latest);
        latest = found;
        // Each process removed, before it saved, what the one before it left.
        let left = fs::read_dir(&directory).unwrap().count() - 1;
        assert!(left <= 2, "{left} temporary files");
        halves += left;
    }
    println!("{new} of {KILLS} processes had saved, {halves} were killed in the middle");
    assert!(halves > 0, "no process was killed while it saved");
    save(&mut model(), -1.0, &path);
    assert!((number(&path) + 1.0).abs() < f32::EPSILON);
    assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "a temporary file was left for good");
    fs::remove_dir_all(&directory).unwrap();
}
