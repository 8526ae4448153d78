//! Labeled documents: from folders, or made up.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::support::AnyError;

/// Documents as bytes, each with the number of its class.
pub(crate) struct Documents {
    pub(crate) classes: Vec<String>,
    pub(crate) all: Vec<(Vec<u8>, usize)>,
}

impl Documents {
    /// The files of a folder's folders. A folder's class is the one of `classes` that its name contains, or its name where there are none.
    pub(crate) fn read(folder: &Path, classes: &[&str], extension: &str) -> Result<Self, AnyError> {
        let mut documents = Self {
            classes: classes.iter().map(|&class| class.to_owned()).collect(),
            all: Vec::new(),
        };
        let is_class = |class: &str, name: &str| if classes.is_empty() { name == class } else { name.contains(class) };
        for path in sorted(folder)?.into_iter().filter(|path| path.is_dir()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let class = match documents.classes.iter().position(|class| is_class(class, &name)) {
                Some(class) => class,
                None if classes.is_empty() => {
                    documents.classes.push(name);
                    documents.classes.len() - 1
                }
                None => continue,
            };
            for file in sorted(&path)? {
                let wanted = extension.is_empty() || file.extension().is_some_and(|found| found == extension);
                if wanted && file.is_file() {
                    documents.all.push((fs::read(&file)?, class));
                }
            }
        }
        Ok(documents)
    }

    /// Keeps of each mail what follows its first empty line.
    pub(crate) fn strip_headers(&mut self) {
        for (bytes, _) in &mut self.all {
            *bytes = body(bytes).to_vec();
        }
    }

    /// Drops empty documents and all but the first of those that are alike but for white space.
    pub(crate) fn deduplicate(&mut self) {
        let mut seen = HashSet::new();
        self.all.retain(|(bytes, _)| {
            let words: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            !words.is_empty() && seen.insert(words)
        });
    }

    /// Shuffles, and cuts off a fifth for the test: what is trained on, what is tested on. With `validate`, what is trained on is cut once more instead.
    pub(crate) fn split(mut self, seed: u64, validate: bool) -> [Vec<(Vec<u8>, usize)>; 2] {
        self.all.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
        let mut test = self.all.split_off(self.all.len() - self.all.len() / 5);
        if validate {
            test = self.all.split_off(self.all.len() - self.all.len() / 5);
        }
        [self.all, test]
    }
}

fn sorted(folder: &Path) -> Result<Vec<PathBuf>, AnyError> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>, std::io::Error>>()?;
    paths.sort();
    Ok(paths)
}

fn body(mail: &[u8]) -> &[u8] {
    let mut rest = mail;
    while let Some(end) = rest.iter().position(|&byte| byte == b'\n') {
        let line = &rest[..end];
        rest = &rest[end + 1..];
        if line.is_empty() || line == b"\r" {
            return rest;
        }
    }
    mail
}

const CLASSES: usize = 4;

/// Words that a class prefers.
const PREFERRED: usize = 10;

/// Documents of 40 made-up words. All classes use all words, but three words of ten are drawn from those that the class prefers.
pub(crate) fn made_up(count: usize, words: usize, seed: u64) -> Documents {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    let vocabulary: Vec<String> = (0..CLASSES * PREFERRED).map(|_| made_up_word(&mut generator)).collect();
    let all = (0..count).map(|_| {
        let class = generator.random_range(0..CLASSES);
        let document: Vec<&str> = (0..words)
            .map(|_| {
                let preferred = class * PREFERRED..(class + 1) * PREFERRED;
                let from = if generator.random_bool(0.3) {
                    preferred
                } else {
                    0..vocabulary.len()
                };
                vocabulary[generator.random_range(from)].as_str()
            })
            .collect();
        (document.join(" ").into_bytes(), class)
    });
    Documents {
        all: all.collect(),
        classes: (0..CLASSES).map(|class| format!("made up, {class}")).collect(),
    }
}

fn made_up_word(generator: &mut ChaCha8Rng) -> String {
    let length = generator.random_range(3..=7);
    (0..length).map(|_| char::from(b'a' + generator.random_range(0..26_u8))).collect()
}
