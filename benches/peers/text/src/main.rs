//! Embeds texts for `text.py`: one command a line on standard input, one answer a line on standard output, both JSON.
//!
//! Threads are those of rayon's global pool: start it with `RAYON_NUM_THREADS`.

use std::collections::HashMap;
use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, Write, stdin, stdout};
use std::path::{Path, PathBuf};
use std::time::Instant;

use linformer_text::ndarray::Array2;
use linformer_text::{EmbedOptions, LongText, TextEncoder};
use serde::Deserialize;
use serde_json::{Value, json};

type AnyError = Box<dyn Error>;

/// What `text.py` may ask for.
#[derive(Deserialize)]
#[serde(tag = "op", rename_all = "snake_case", deny_unknown_fields)]
enum Command {
    /// Opens a folder of the model hub.
    Open { model: PathBuf },
    /// Keeps the texts of a JSON list under a name. `batch` texts are embedded at a time, all of them if it is null.
    Load {
        id: String,
        texts: PathBuf,
        batch: Option<usize>,
        batch_tokens: Option<usize>,
        #[serde(default)]
        long: Long,
    },
    /// `warm` calls, then `calls` timed ones: seconds of each.
    Time { id: String, warm: usize, calls: usize },
    /// Writes the vectors, as little-endian f32: the seconds that they took.
    Write { id: String, path: PathBuf },
    /// The most memory that the process has had, in bytes.
    Memory {},
}

/// [`LongText`], by name.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Long {
    #[default]
    Refuse,
    Cut,
    Chunks,
    OnePass,
}

impl From<Long> for LongText {
    fn from(long: Long) -> Self {
        match long {
            Long::Refuse => Self::Refuse,
            Long::Cut => Self::Cut,
            Long::Chunks => Self::Chunks { overlap: 0 },
            Long::OnePass => Self::OnePass,
        }
    }
}

struct Texts {
    texts: Vec<String>,
    batch: usize,
    options: EmbedOptions,
}

#[derive(Default)]
struct Loaded {
    encoder: Option<TextEncoder>,
    texts: HashMap<String, Texts>,
}

impl Loaded {
    fn embed(&self, id: &str) -> Result<Vec<Array2<f32>>, AnyError> {
        let encoder = self.encoder.as_ref().ok_or("no model is open")?;
        let texts = self.texts.get(id).ok_or_else(|| format!("nothing is loaded as `{id}`"))?;
        let batches = texts.texts.chunks(texts.batch);
        batches.map(|batch| Ok(encoder.embed_with(batch, &texts.options)?)).collect()
    }

    fn answer(&mut self, command: Command) -> Result<Value, AnyError> {
        match command {
            Command::Open { model } => self.encoder = Some(TextEncoder::open(model)?),
            Command::Load {
                id,
                texts,
                batch,
                batch_tokens,
                long,
            } => {
                let texts: Vec<String> = serde_json::from_slice(&std::fs::read(texts)?)?;
                let batch = batch.unwrap_or(texts.len()).max(1);
                let mut options = EmbedOptions::new().with_long(long.into());
                options.batch_tokens = batch_tokens.unwrap_or(options.batch_tokens);
                self.texts.insert(id, Texts { texts, batch, options });
            }
            Command::Time { id, warm, calls } => return self.time(&id, warm, calls),
            Command::Write { id, path } => {
                let start = Instant::now();
                let vectors = self.embed(&id)?;
                let seconds = start.elapsed().as_secs_f64();
                write(&vectors, &path)?;
                return Ok(json!({ "seconds": seconds }));
            }
            Command::Memory {} => return memory(),
        }
        Ok(json!({}))
    }

    fn time(&self, id: &str, warm: usize, calls: usize) -> Result<Value, AnyError> {
        for _ in 0..warm {
            self.embed(id)?;
        }
        let mut seconds = Vec::with_capacity(calls);
        for _ in 0..calls {
            let start = Instant::now();
            black_box(self.embed(id)?);
            seconds.push(start.elapsed().as_secs_f64());
        }
        Ok(json!({ "seconds": seconds }))
    }
}

fn write(vectors: &[Array2<f32>], path: &Path) -> Result<(), AnyError> {
    let numbers = vectors.iter().flatten();
    std::fs::write(path, numbers.flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}

fn memory() -> Result<Value, AnyError> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes: u64 = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmHWM")?.parse()?;
    Ok(json!({ "bytes": kibibytes * 1024 }))
}

fn main() -> Result<(), AnyError> {
    let mut loaded = Loaded::default();
    for line in stdin().lock().lines() {
        let answer = serde_json::from_str(&line?)
            .map_err(AnyError::from)
            .and_then(|command| loaded.answer(command))
            .unwrap_or_else(|error| json!({ "failed": error.to_string() }));
        let mut out = stdout().lock();
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(())
}
