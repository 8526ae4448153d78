//! Pairs of texts as token ids, and the translation that needs no model.

use std::collections::{BTreeSet, HashSet};
use std::path::Path;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use crate::dates;
use crate::support::AnyError;

/// A source and its target.
pub(crate) type Pair = (String, String);

/// The token before a target, the one after it, and the one for characters that training did not have.
pub(crate) const START: usize = 0;
pub(crate) const END: usize = 1;
const UNKNOWN: usize = 2;

/// What is trained on, and what is held out.
pub(crate) struct Corpus {
    pub(crate) training: Vec<Pair>,
    pub(crate) test: Vec<Pair>,
}

impl Corpus {
    /// `count` made-up dates whose sources all differ, and `test` held out.
    pub(crate) fn of_dates(count: usize, test: usize, seed: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        // There are some hundred thousand.
        for _ in 0..4 * (count + test) {
            let pair = dates::draw(&mut generator);
            if all.len() < count + test && seen.insert(pair.0.clone()) {
                all.push(pair);
            }
        }
        Self::cut(all, test)
    }

    /// The lines of a file, source and target parted by a tab; of equal sources the first counts.
    pub(crate) fn read(path: &Path, test: usize, seed: u64) -> Result<Self, AnyError> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let mut seen = HashSet::new();
        let mut all = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let Some((source, target)) = line.split_once('\t') else {
                return Err(format!("{}: line {} has no tab", path.display(), number + 1).into());
            };
            if seen.insert(source) {
                all.push((source.to_owned(), target.to_owned()));
            }
        }
        all.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let test = test.min(all.len() / 5);
        if test == 0 {
            return Err(format!("{}: there are too few pairs to hold some out", path.display()).into());
        }
        Ok(Self::cut(all, test))
    }

    fn cut(mut training: Vec<Pair>, test: usize) -> Self {
        let test = training.split_off(training.len() - test.min(training.len()));
        Self { training, test }
    }
}

/// The characters of one side, each a token.
pub(crate) struct Alphabet(Vec<char>);

impl Alphabet {
    pub(crate) fn of<'t>(texts: impl Iterator<Item = &'t String>) -> Self {
        Self(texts.flat_map(|text| text.chars()).collect::<BTreeSet<_>>().into_iter().collect())
    }

    /// The number of token ids.
    pub(crate) fn size(&self) -> usize {
        self.0.len() + UNKNOWN + 1
    }

    /// The first `most` characters of a text.
    pub(crate) fn tokens(&self, text: &str, most: usize) -> Vec<usize> {
        let token = |character| self.0.binary_search(&character).map_or(UNKNOWN, |index| index + UNKNOWN + 1);
        text.chars().take(most).map(token).collect()
    }

    pub(crate) fn text(&self, tokens: &[usize]) -> String {
        let character = |&token: &usize| {
            token
                .checked_sub(UNKNOWN + 1)
                .and_then(|index| self.0.get(index).copied())
                .unwrap_or('?')
        };
        tokens.iter().map(character).collect()
    }
}

/// The longest text in characters.
pub(crate) fn longest<'t>(texts: impl Iterator<Item = &'t String>) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or(0).max(1)
}

/// The share of the held-out pairs whose target is that of the training source which has the most runs of three bytes in common with theirs.
pub(crate) fn nearest_neighbour(corpus: &Corpus) -> f64 {
    let known: Vec<(Vec<u32>, &String)> = corpus.training.iter().map(|(source, target)| (trigrams(source), target)).collect();
    let right = corpus.test.iter().filter(|(source, target)| {
        let own = trigrams(source);
        let nearest = known
            .iter()
            .max_by_key(|(theirs, _)| (2 * common(&own, theirs) * 1000) / (own.len() + theirs.len()).max(1));
        nearest.is_some_and(|(_, found)| *found == target)
    });
    right.count() as f64 / corpus.test.len().max(1) as f64
}

fn trigrams(text: &str) -> Vec<u32> {
    let of = |bytes: &[u8]| bytes.iter().fold(0, |number, &byte| number << 8 | u32::from(byte));
    let mut all: Vec<u32> = text.as_bytes().windows(3).map(of).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// How many numbers two rising lists have in common.
fn common(a: &[u32], b: &[u32]) -> usize {
    let (mut i, mut j, mut count) = (0, 0, 0);
    while i < a.len() && j < b.len() {
        count += usize::from(a[i] == b[j]);
        let forward = a[i] <= b[j];
        j += usize::from(b[j] <= a[i]);
        i += usize::from(forward);
    }
    count
}
