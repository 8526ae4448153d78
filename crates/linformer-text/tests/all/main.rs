//! All tests that see the crate as its users do.
// Equal means equal here, and one span is one span.
#![allow(clippy::float_cmp, clippy::single_range_in_vec_init)]

mod bits;
mod convert;
mod folders;
mod heads;
mod long;
mod search;
mod spans;
// Shared with examples and documentation, which include the files.
#[allow(unreachable_pub)]
#[path = "../support/texts.rs"]
mod texts;
#[allow(unreachable_pub)]
#[path = "../support/tiny.rs"]
mod tiny_model;
mod tokenizers;

use std::ops::Deref;
use std::path::{Path, PathBuf};

use linformer_text::ndarray::{ArrayRef2, Zip};
use linformer_text::{Pooling, TextEncoder};

/// A folder that is removed with its last user.
struct Temporary(PathBuf);

impl Deref for Temporary {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tiny(name: &str) -> Temporary {
    Temporary(tiny_model::tiny_folder(name))
}

/// The tiny model without normalization.
fn bare(folder: &Path) -> TextEncoder {
    let encoder = TextEncoder::open(folder).unwrap();
    TextEncoder::new(encoder.model().clone(), encoder.tokenizer().clone(), Pooling::Mean, false).unwrap()
}

fn difference(a: &ArrayRef2<f32>, b: &ArrayRef2<f32>) -> f32 {
    assert_eq!(a.dim(), b.dim());
    Zip::from(a).and(b).fold(0.0, |largest: f32, a, b| {
        let difference = (a - b).abs();
        assert!(difference.is_finite());
        largest.max(difference)
    })
}
