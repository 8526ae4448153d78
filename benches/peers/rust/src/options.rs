//! The command line.

use crate::AnyError;

pub struct Options {
    /// Sequence lengths.
    pub n: Vec<usize>,
    pub rounds: usize,
    /// Seconds between calls.
    pub pause: f64,
}

impl Options {
    pub fn parse() -> Result<Self, AnyError> {
        let mut options = Self {
            n: vec![512, 4096, 16_384],
            rounds: 9,
            pause: 0.05,
        };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().ok_or_else(|| format!("{name} needs a value"))?;
            match name.as_str() {
                "--n" => options.n = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
                "--rounds" => options.rounds = value.parse()?,
                "--pause" => options.pause = value.parse()?,
                _ => return Err(format!("there is no option `{name}`; there are --n, --rounds and --pause").into()),
            }
        }
        Ok(options)
    }
}
