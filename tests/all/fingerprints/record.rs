//! Hashes and norms by name, and the file that they are compared with.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

use linformer::ndarray::{Array, Dimension};
use linformer::{Parameters, Scalar};

/// The bits of some numbers and how large they are.
#[derive(Clone, Debug, PartialEq)]
struct Fingerprint {
    hash: u64,
    norm: f64,
}

#[derive(Debug, Default)]
pub struct Record {
    found: BTreeMap<String, Fingerprint>,
}

const START: u64 = 0xcbf2_9ce4_8422_2325;

/// FNV-1a.
fn hash(start: u64, word: u64) -> u64 {
    let add = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    word.to_le_bytes().into_iter().fold(start, add)
}

fn path() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/fingerprints")
}

impl Record {
    fn insert(&mut self, name: String, fingerprint: Fingerprint) {
        assert!(!self.found.contains_key(&name), "{name} is there twice");
        self.found.insert(name, fingerprint);
    }

    /// Numbers that must all be finite; the bits of a NaN may differ.
    pub fn numbers<A: Scalar>(&mut self, name: &str, numbers: impl IntoIterator<Item = A>) {
        let name = format!("{} {name}", A::NAME);
        let (mut bits, mut squares) = (START, 0.0);
        for number in numbers {
            let number = number.widen();
            assert!(number.is_finite(), "{name} holds {number}");
            bits = hash(bits, number.to_bits());
            squares += number * number;
        }
        let norm = f64::sqrt(squares);
        self.insert(name, Fingerprint { hash: bits, norm });
    }

    pub fn array<A: Scalar, D: Dimension>(&mut self, name: &str, array: &Array<A, D>) {
        self.numbers(name, array.iter().copied());
    }

    /// All tensors of a model, or of its gradients.
    pub fn tensors<A: Scalar>(&mut self, name: &str, model: &impl Parameters<A>) {
        let tensors = model.named();
        self.numbers(name, tensors.iter().flat_map(|(_, tensor)| tensor.iter().copied()));
    }

    /// Token ids, which have no norm: one that is drawn differently changes all that follow.
    pub fn tokens<'t, A: Scalar>(&mut self, name: &str, texts: impl IntoIterator<Item = &'t [usize]>) {
        let words = texts.into_iter().flat_map(|text| text.iter().copied().chain([usize::MAX >> 32]));
        let hash = words.fold(START, |bits, token| hash(bits, token as u64));
        self.insert(format!("{} {name}", A::NAME), Fingerprint { hash, norm: f64::NAN });
    }

    pub fn write(&self) {
        let mut text = String::from(
            "# Hashes (FNV-1a, 64 bits) and norms of results; see tests/all/fingerprints. Written by\n\
             #   LINFORMER_BLESS=1 cargo test --test all fingerprints::\n",
        );
        for (name, Fingerprint { hash, norm }) in &self.found {
            writeln!(text, "{hash:016x} {norm:<19.12e} {name}").expect("a string takes all");
        }
        fs::write(path(), text).expect("tests/fixtures can be written");
    }

    /// What the file says.
    fn expected() -> BTreeMap<String, Fingerprint> {
        let text = fs::read_to_string(path()).expect("tests/fixtures/fingerprints");
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let parsed = lines.map(|line| {
            let (hash, rest) = line.split_once(' ').expect("a hash");
            let (norm, name) = rest.split_at(20);
            let hash = u64::from_str_radix(hash, 16).expect("a hash");
            let norm = norm.trim().parse().expect("a norm");
            (name.to_owned(), Fingerprint { hash, norm })
        });
        parsed.collect()
    }

    /// The names of which this record and the file do not hold the same.
    fn differing(&self, same: impl Fn(&str, &Fingerprint, &Fingerprint) -> bool) -> Vec<String> {
        let expected = Self::expected();
        let mut wrong = Vec::new();
        for (name, found) in &self.found {
            match expected.get(name) {
                None => wrong.push(format!("{name} is not in the file")),
                Some(expected) if same(name, found, expected) => {}
                Some(expected) => wrong.push(format!("{name}: {found:x?}, not {expected:x?}")),
            }
        }
        let missing = expected.keys().filter(|&name| !self.found.contains_key(name));
        wrong.extend(missing.map(|name| format!("{name} is in the file only")));
        wrong
    }

    pub fn other_bits(&self) -> Vec<String> {
        self.differing(|_, found, expected| found.hash == expected.hash)
    }

    /// Those whose norms differ by more than rounding explains; tokens have none.
    pub fn other_norms(&self) -> Vec<String> {
        self.differing(|name, found, expected| {
            let tolerance = if name.starts_with("F32") { 1e-5 } else { 1e-10 };
            expected.norm.is_nan() || (found.norm - expected.norm).abs() <= tolerance * expected.norm
        })
    }
}
