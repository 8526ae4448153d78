//! Documents as tokens: words, or bytes.

use linformer::PositionKind;

use crate::support::{self, AnyError, Options};

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tokens {
    /// Runs of letters and digits, and each other character that is not white space, hashed to a fixed number of ids.
    Words,
    Bytes,
}

/// The ids of words, with that of padding, which is 0.
const WORDS: usize = 1 << 15;

impl Tokens {
    /// Those that the option `tokens` names.
    pub(crate) fn of(options: &Options) -> Result<Self, AnyError> {
        match options.text("tokens") {
            "words" => Ok(Self::Words),
            "" if options.given("documents") => Ok(Self::Words),
            "bytes" | "" => Ok(Self::Bytes),
            other => Err(format!("--tokens is words or bytes, not `{other}`").into()),
        }
    }

    /// What options are where the command line does not say.
    pub(crate) fn defaults(self) -> [(&'static str, &'static str); 7] {
        let values = match self {
            Self::Words => ["512", "1", "32", "1200", "0.003", "0.3", "0.1"],
            Self::Bytes => ["256", "2", "16", "300", "0.002", "0", "0"],
        };
        let names = ["n", "depth", "batch", "steps", "rate", "word-dropout", "label-smoothing"];
        std::array::from_fn(|index| (names[index], values[index]))
    }

    /// All ids, with that of padding.
    pub(crate) fn vocabulary(self) -> usize {
        match self {
            Self::Words => WORDS,
            Self::Bytes => 257,
        }
    }

    /// Which words a document has says more than where they are; a byte says little without its neighbors.
    pub(crate) fn position(self) -> PositionKind {
        match self {
            Self::Words => PositionKind::None,
            Self::Bytes => PositionKind::sinusoidal(),
        }
    }

    /// Positions start far larger than token vectors by default; where there are none, nothing drowns these.
    pub(crate) fn embedding_deviation(self) -> Option<f64> {
        match self {
            Self::Words => None,
            Self::Bytes => Some(support::AS_LARGE_AS_POSITIONS),
        }
    }

    /// All tokens of a document.
    pub(crate) fn read(self, document: &[u8]) -> Vec<usize> {
        match self {
            Self::Words => words(&String::from_utf8_lossy(document)).collect(),
            Self::Bytes => document.iter().map(|&byte| usize::from(byte) + 1).collect(),
        }
    }
}

fn words(text: &str) -> impl Iterator<Item = usize> {
    let mut rest = text.trim_start();
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = match rest.find(|character: char| !character.is_alphanumeric()) {
            Some(0) => first.len_utf8(),
            Some(end) => end,
            None => rest.len(),
        };
        let (word, behind) = rest.split_at(end);
        rest = behind.trim_start();
        Some(id(word))
    })
}

/// FNV-1a of 64 bits, which is the same on every machine.
fn id(word: &str) -> usize {
    let hash = word.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    #[allow(clippy::cast_possible_truncation)] // it is less than WORDS
    let word = (hash % (WORDS as u64 - 1)) as usize;
    1 + word
}
