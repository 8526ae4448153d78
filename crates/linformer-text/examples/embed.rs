//! Finds the passages of a folder of text files that are nearest to a query.
//!
//! ```sh
//! cargo run --release -p linformer-text --example embed -- --model FOLDER --query "What is a whale?"
//! ```
//!
//! `--model FOLDER` is a model as it comes from the model hub; without it the tiny random model is taken that the example `tiny_model` writes, if it is there.
//! `--texts FOLDER` has files that end with .txt or .md (default: this repository's data, the beginning of *Moby-Dick*), which are cut into paragraphs.
//! `--top N` (default 5) is how many are printed. Paragraphs that the model cannot read at once are read in chunks.

mod support;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use linformer_text::{EmbedOptions, LongText, TextEncoder, top_k};

const HELP: &str = "Finds the paragraphs of a folder's text files that are nearest to a query.

    --model FOLDER   a model as it comes from the model hub (default: the tiny one that the example tiny_model writes)
    --texts FOLDER   files that end with .txt or .md (default: the data of this repository's examples)
    --query TEXT     (default: What is a whale?)
    --top N          how many are printed (default: 5)";

struct Options {
    model: PathBuf,
    texts: PathBuf,
    query: String,
    top: usize,
}

impl Options {
    /// Reads the command line; `None` if it asks for help.
    fn from_arguments() -> Result<Option<Self>, Box<dyn Error>> {
        let mut options = Self {
            model: PathBuf::from(support::TINY),
            texts: PathBuf::from(support::TEXTS),
            query: "What is a whale?".into(),
            top: 5,
        };
        let is_help = support::arguments(|name, value| {
            match name {
                "--model" => options.model = value.into(),
                "--texts" => options.texts = value.into(),
                "--query" => options.query = value,
                "--top" => options.top = value.parse()?,
                _ => return Ok(false),
            }
            Ok(true)
        })?;
        if is_help {
            return Ok(None);
        }
        support::check_model(&options.model)?;
        Ok(Some(options))
    }
}

fn main() -> ExitCode {
    support::run(Options::from_arguments(), HELP, example)
}

fn example(options: Options) -> Result<(), Box<dyn Error>> {
    let encoder = TextEncoder::open(&options.model)?;
    let paragraphs = support::paragraphs(&options.texts)?;
    let texts: Vec<&str> = paragraphs.iter().map(|(_, paragraph)| paragraph.as_str()).collect();

    let start = Instant::now();
    let mut tokens = 0;
    let chunks = EmbedOptions::new().with_long(LongText::Chunks { overlap: 16 });
    let corpus = encoder.embed_with_progress(&texts, &chunks, |progress| tokens = progress.tokens)?;
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} paragraphs, {tokens} tokens, {seconds:.1} s, {:.0} tokens a second",
        texts.len(),
        tokens as f64 / seconds
    );

    println!("\n{}", options.query);
    let (indices, cosines) = top_k(&encoder.embed(&[&options.query])?, &corpus, options.top)?;
    for (&index, cosine) in indices.iter().zip(&cosines) {
        let (file, paragraph) = &paragraphs[index];
        let beginning: String = paragraph.chars().take(100).collect();
        println!("{cosine:.3}  {file}: {beginning}");
    }
    Ok(())
}
