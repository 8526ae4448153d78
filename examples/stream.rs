//! Compresses a file of any size as it is read, chunk by chunk, and asks it queries that cost the same whatever its length.
//!
//! `cargo run --release --example stream -- --file PATH`

mod support;

use std::fs::File;
use std::io::{self, Read};
use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use linformer::ndarray::{Array2, Array3};
use linformer::{Compressed, Compressor, Embedding, LinformerAttention, LinformerConfig, ProjectionKind, SequenceLengths};
use support::{AnyError, Options, peak_memory};

const ABOUT: &str =
    "Compresses a file, byte by byte and chunk by chunk, to the k keys and values of one attention layer with mean pooling; no more
than a chunk of it is ever held. Does so with its first tenth, then with all of it, and prints for both: bytes a second, the peak of the
process's memory by then, and how long a query takes (the median of many). Then compares the stream with a single call, bit for bit, over
the first chunks; a difference is an error.";

const OWN_TEXT: &str = concat!(include_str!("../README.md"), include_str!("../docs/guide.md"));

/// The chunks that are compared with a single call, which has to hold them all.
const COMPARED_CHUNKS: usize = 8;

fn main() -> ExitCode {
    support::run(example)
}

fn example() -> Result<(), AnyError> {
    let chunk = (16 * Compressor::<f32>::CHUNK).to_string();
    let options = Options::parse(
        ABOUT,
        &[
            ("file", "", "what is read; this repository's own text, over and over, if none"),
            ("mib", "16", "how much of its own text it reads, in MiB, if there is no file"),
            ("chunk", &chunk, "bytes read at once"),
            ("dim", "128", "model width"),
            ("heads", "8", "heads"),
            ("k", "128", "rows that keys and values are compressed to"),
            ("queries", "2000", "timed queries"),
        ],
    );
    let queries = options.number("queries");
    let source = Source::of(&options)?;
    let model = Model::of(&options, source.length)?;
    let tenth = source.length / 10;
    if tenth < options.number("k") {
        return Err(format!("{} bytes are too few: a tenth of them must be k or more", source.length).into());
    }
    println!(
        "{} bytes, {} at once; one layer, d {}, {} heads, k {}\n",
        source.length,
        model.chunk,
        options.text("dim"),
        options.text("heads"),
        options.text("k")
    );
    let readings = [model.read(&source, tenth)?, model.read(&source, source.length)?];
    let query_seconds = median_query_seconds(&model, &readings, queries)?;
    println!(
        "{:>12} {:>9} {:>12} {:>9} {:>10}",
        "bytes", "seconds", "bytes/s", "peak MiB", "query µs"
    );
    for (reading, seconds) in readings.iter().zip(query_seconds) {
        reading.print(seconds);
    }
    println!(
        "\na query to the whole took {:.2} times one to its tenth",
        query_seconds[1] / query_seconds[0]
    );
    let compared = model.compare_with_single_call(&source)?;
    println!("the first {compared} bytes, streamed and in a single call: the same, bit for bit");
    Ok(())
}

/// Where the bytes come from.
struct Source {
    file: Option<String>,
    length: usize,
}

impl Source {
    fn of(options: &Options) -> Result<Self, AnyError> {
        let path = options.text("file");
        if path.is_empty() {
            let length = options.number("mib").checked_mul(1 << 20).ok_or("--mib is too large")?;
            return Ok(Self { file: None, length });
        }
        let metadata = std::fs::metadata(path).map_err(|error| format!("{path}: {error}"))?;
        if !metadata.is_file() {
            return Err(format!("{path} is no file, and pooling must know the length first").into());
        }
        Ok(Self {
            file: Some(path.to_owned()),
            length: usize::try_from(metadata.len())?,
        })
    }

    fn open(&self) -> Result<Box<dyn Read>, AnyError> {
        Ok(match &self.file {
            Some(path) => Box::new(File::open(path).map_err(|error| format!("{path}: {error}"))?),
            None => Box::new(OverAndOver::default()),
        })
    }
}

/// This repository's own text without an end.
#[derive(Default)]
struct OverAndOver {
    left: &'static [u8],
}

impl Read for OverAndOver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.left.is_empty() {
            self.left = OWN_TEXT.as_bytes();
        }
        self.left.read(buffer)
    }
}

struct Model {
    embedding: Embedding,
    layer: LinformerAttention,
    chunk: usize,
}

impl Model {
    fn of(options: &Options, length: usize) -> Result<Self, AnyError> {
        let (chunk, multiple) = (options.number("chunk"), Compressor::<f32>::CHUNK);
        if chunk == 0 || !chunk.is_multiple_of(multiple) {
            return Err(format!("--chunk must be a multiple of {multiple}, not {chunk}: other chunks are rounded differently").into());
        }
        let dim = options.number("dim");
        let config =
            LinformerConfig::new(dim, options.number("heads"), length.max(1), options.number("k")).with_kind(ProjectionKind::MeanPooling);
        Ok(Self {
            layer: LinformerAttention::new(&config, 0)?,
            embedding: Embedding::new(256, dim, 1)?,
            chunk,
        })
    }

    /// Without position vectors: `Position` counts from the start of what it is given, which here is a chunk.
    fn embed(&self, bytes: &[u8]) -> Result<Array3<f32>, AnyError> {
        let tokens = Array2::from_shape_fn((1, bytes.len()), |(_, position)| usize::from(bytes[position]));
        Ok(self.embedding.forward(&tokens)?)
    }

    /// Compresses the first `length` bytes while they are read.
    fn stream(&self, mut reader: impl Read, length: usize, progress: &ProgressBar) -> Result<Compressed, AnyError> {
        let mut compressor = self.layer.compressor(1)?.with_lengths(SequenceLengths::Equal(length))?;
        let (mut bytes, mut done) = (Vec::new(), 0);
        while done < length {
            let wanted = self.chunk.min(length - done);
            bytes.clear();
            reader.by_ref().take(wanted as u64).read_to_end(&mut bytes)?;
            if bytes.len() < wanted {
                return Err(format!("the file ended at byte {}, but had {length} when it was opened", done + bytes.len()).into());
            }
            compressor.push(&self.embed(&bytes)?, None)?;
            done += wanted;
            progress.inc(wanted as u64);
        }
        Ok(compressor.finish()?)
    }

    fn read(&self, source: &Source, length: usize) -> Result<Reading, AnyError> {
        let progress = ProgressBar::new(length as u64);
        progress.set_style(ProgressStyle::with_template(
            "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta} left",
        )?);
        let start = Instant::now();
        let compressed = self.stream(source.open()?, length, &progress)?;
        let seconds = start.elapsed().as_secs_f64();
        progress.finish_and_clear();
        Ok(Reading {
            length,
            compressed,
            seconds,
            peak: peak_memory(),
        })
    }

    /// The number of bytes over which streaming and a single call were compared.
    fn compare_with_single_call(&self, source: &Source) -> Result<usize, AnyError> {
        let length = self.chunk.saturating_mul(COMPARED_CHUNKS).min(source.length);
        let mut bytes = Vec::new();
        source.open()?.take(length as u64).read_to_end(&mut bytes)?;
        let streamed = self.stream(bytes.as_slice(), length, &ProgressBar::hidden())?;
        let single = self.layer.compress(&self.embed(&bytes)?, None)?;
        if same_bits(&streamed, &single) {
            Ok(length)
        } else {
            Err(format!("over the first {length} bytes, the stream is not what a single call gives").into())
        }
    }
}

fn same_bits(one: &Compressed, other: &Compressed) -> bool {
    let bits = |compressed: &Compressed| -> Vec<u32> {
        let (keys, values) = (compressed.keys(), compressed.values());
        keys.iter().chain(&values).map(|value| value.to_bits()).collect()
    };
    one.keys().dim() == other.keys().dim() && bits(one) == bits(other)
}

/// What reading one length took.
struct Reading {
    length: usize,
    compressed: Compressed,
    seconds: f64,
    /// The most memory of the process up to then, in bytes.
    peak: Option<u64>,
}

impl Reading {
    fn print(&self, query_seconds: f64) {
        let peak = self
            .peak
            .map_or("-".into(), |bytes| format!("{:.1}", bytes as f64 / f64::from(1 << 20)));
        println!(
            "{:>12} {:>9.3} {:>12.0} {peak:>9} {:>10.2}",
            self.length,
            self.seconds,
            self.length as f64 / self.seconds,
            query_seconds * 1e6
        );
    }
}

/// The median seconds of a query to each reading. They take turns, so that whatever else the machine does falls on both.
fn median_query_seconds(model: &Model, readings: &[Reading; 2], count: usize) -> Result<[f64; 2], AnyError> {
    let mut seconds = [Vec::new(), Vec::new()];
    for reading in readings {
        ask(model, reading, b' ')?; // the first query packs the keys and values
    }
    for byte in (0..=u8::MAX).cycle().take(count.max(1)) {
        for (reading, seconds) in readings.iter().zip(&mut seconds) {
            seconds.push(ask(model, reading, byte)?);
        }
    }
    Ok(seconds.map(|mut seconds| {
        seconds.sort_by(f64::total_cmp);
        seconds[seconds.len() / 2]
    }))
}

/// The seconds that a query of one byte's vector takes.
fn ask(model: &Model, reading: &Reading, byte: u8) -> Result<f64, AnyError> {
    let query = model.embed(&[byte])?;
    let start = Instant::now();
    let answer = model.layer.attend(&query, &reading.compressed)?;
    let seconds = start.elapsed().as_secs_f64();
    if answer.iter().all(|value| value.is_finite()) {
        Ok(seconds)
    } else {
        Err(format!("a query to {} bytes has no finite answer", reading.length).into())
    }
}
