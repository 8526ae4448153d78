//! Writes a tiny model with random weights, to try programs on without a download. Its vectors mean little: they say which tokens texts have in common.
//!
//! ```sh
//! cargo run --release -p linformer-text --example tiny_model -- FOLDER
//! ```

use std::path::PathBuf;

#[allow(dead_code, unreachable_pub)]
#[path = "../tests/support/tiny.rs"]
mod tiny;

fn main() {
    let folder = std::env::args_os().nth(1).map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from);
    tiny::write_folder(&folder, "BertModel", &[]);
    println!("{}", folder.display());
}

/// Where the example `embed` looks for it.
const DEFAULT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../target/tiny-text-model");
