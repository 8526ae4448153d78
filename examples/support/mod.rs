//! What the examples share: their command line and their memory figures.
#![allow(dead_code, unreachable_pub)] // each example uses its own part

use std::collections::BTreeMap;
use std::process::exit;

/// The options of an example: `--name VALUE`, each with a default and a line of help.
pub struct Options {
    values: BTreeMap<&'static str, String>,
}

impl Options {
    /// Reads the command line. `--help` prints `about` and the options (name, default, help) and ends; anything unknown is refused.
    pub fn parse(about: &str, options: &[(&'static str, &str, &str)]) -> Self {
        let mut values: BTreeMap<&'static str, String> = options.iter().map(|&(name, default, _)| (name, default.to_owned())).collect();
        let mut arguments = std::env::args().skip(1);
        while let Some(argument) = arguments.next() {
            if argument == "--help" || argument == "-h" {
                println!("{about}\n\nOptions:");
                for (name, default, help) in options {
                    let default = if default.is_empty() { "none" } else { default };
                    println!("  --{name:<14} {help} [default: {default}]");
                }
                exit(0);
            }
            let known = options.iter().find(|(name, ..)| argument.strip_prefix("--") == Some(name));
            match (known, arguments.next()) {
                (Some(&(name, ..)), Some(value)) => {
                    values.insert(name, value);
                }
                (Some((name, ..)), None) => refuse(&format!("--{name} needs a value")),
                (None, _) => refuse(&format!("there is no option `{argument}`")),
            }
        }
        Self { values }
    }

    /// The text of an option.
    pub fn text(&self, name: &str) -> &str {
        &self.values[name]
    }

    /// The number of an option.
    pub fn number(&self, name: &str) -> usize {
        let text = self.text(name);
        text.parse()
            .unwrap_or_else(|_| refuse(&format!("--{name} must be a whole number, not `{text}`")))
    }
}

fn refuse(message: &str) -> ! {
    eprintln!("{message}; --help lists the options");
    exit(2)
}

/// The folder of this package, where its own text lies.
pub fn package_folder() -> std::path::PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), Into::into)
}

/// This repository's own text: its README and its sources, joined in the order of their names.
pub fn own_text() -> Vec<u8> {
    let folder = package_folder();
    let mut files = vec![folder.join("README.md")];
    for part in ["src", "examples", "tests", "docs"] {
        collect(&folder.join(part), &mut files);
    }
    files.iter().filter_map(|file| std::fs::read(file).ok()).flatten().collect()
}

fn collect(folder: &std::path::Path, files: &mut Vec<std::path::PathBuf>) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs" || extension == "md") {
            files.push(path);
        }
    }
}

/// The most memory this process has had resident, in bytes; `None` where the system does not say (it does on Linux).
pub fn peak_memory() -> Option<u64> {
    memory_figure("VmHWM:")
}

/// The memory this process has resident now, in bytes; `None` where the system does not say.
pub fn memory() -> Option<u64> {
    memory_figure("VmRSS:")
}

fn memory_figure(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with(name))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kibibytes| kibibytes * 1024)
}
