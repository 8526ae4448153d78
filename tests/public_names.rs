//! The public names, as the file beside this one lists them: what is added is meant, and what is taken away is noticed.
//!
//! The lint `unreachable_pub` holds a bare `pub` to what can be reached from outside, so that the names can be read off the sources. After a
//! change that is meant, `LINFORMER_BLESS=1 cargo test --test public_names` writes the file anew.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All source files, but those of tests.
fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.file_name().is_some_and(|name| name != "tests.rs") {
            found.push(path);
        }
    }
}

/// The public module that a file's items are reached through.
fn module(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).unwrap().with_extension("");
    let mut parts = inside.iter().map(|part| part.to_string_lossy().into_owned());
    let mut module = "linformer".to_owned();
    match parts.next().as_deref() {
        Some("training") => module += "::training",
        Some("checkpoint") => {
            module += "::checkpoint";
            let peer = parts.next().unwrap_or_default();
            if ["lucidrains", "tatp22", "fairseq", "rifath95"].contains(&peer.as_str()) {
                module = format!("{module}::{peer}");
            }
        }
        _ => {}
    }
    module
}

/// The word after one of these at the beginning of a line.
fn after<'l>(line: &'l str, starts: &[&str]) -> Option<&'l str> {
    let rest = starts.iter().find_map(|start| line.strip_prefix(start))?;
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    (end > 0).then(|| &rest[..end])
}

/// The type that an `impl` line is for.
fn implemented(line: &str) -> Option<&str> {
    let rest = line.strip_prefix("impl")?;
    // Bounds stand before the type, and the trait before `for`.
    let rest = rest.rsplit_once(" for ").map_or(rest, |(_, rest)| rest);
    let rest = if let Some(generic) = rest.strip_prefix('<') {
        generic.split_once("> ")?.1
    } else {
        rest.trim_start()
    };
    after(rest, &[""])
}

/// The public names of one file.
fn names(path: &Path, names: &mut BTreeSet<String>) {
    let text = fs::read_to_string(path).unwrap();
    let module = module(path);
    // Whose members come: of a type, or of an enum or a trait, whose members are public with it.
    let (mut owner, mut opened) = (String::new(), false);
    for line in text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines() {
        if let Some(name) = implemented(line) {
            (owner, opened) = (format!("{module}::{name}"), false);
        } else if let Some(name) = after(line, &["pub enum ", "pub trait "]) {
            (owner, opened) = (format!("{module}::{name}"), true);
            names.insert(owner.clone());
        } else if let Some(name) = after(line, &["pub struct "]) {
            (owner, opened) = (format!("{module}::{name}"), false);
            names.insert(owner.clone());
        } else if let Some(name) = after(line, &["pub fn ", "pub const ", "pub type ", "pub mod "]) {
            names.insert(format!("{module}::{name}"));
        } else if line.starts_with("pub(") || line.starts_with(char::is_alphabetic) {
            opened = false;
        } else if let Some(name) = after(line, &["    pub fn ", "    pub const fn ", "    pub const ", "            pub fn "]) {
            names.insert(format!("{owner}::{name}"));
        } else if let Some(name) = after(line, &["    pub "]).filter(|_| line.contains(": ")) {
            names.insert(format!("{owner}.{name}"));
        } else if let Some(name) = after(line, &["        with_"]).filter(|_| line.contains(" => ")) {
            names.insert(format!("{owner}::with_{name}"));
        } else if let Some(name) = after(line, &["    fn ", "    const "]).filter(|_| opened) {
            names.insert(format!("{owner}::{name}"));
        } else if let Some(name) = after(line, &["    "]).filter(|name| opened && name.starts_with(char::is_uppercase)) {
            names.insert(format!("{owner}::{name}"));
        }
    }
}

#[test]
fn the_public_names_are_those_of_the_list() {
    let mut files = Vec::new();
    sources(&root().join("src"), &mut files);
    let mut found = BTreeSet::new();
    for file in &files {
        names(file, &mut found);
    }
    let path = root().join("tests/public_names.txt");
    if std::env::var_os("LINFORMER_BLESS").is_some() {
        let lines: Vec<&str> = found.iter().map(String::as_str).chain([""]).collect();
        return fs::write(&path, lines.join("\n")).unwrap();
    }
    let listed = fs::read_to_string(&path).unwrap_or_default();
    let listed: BTreeSet<String> = listed.lines().map(str::to_owned).collect();
    let added: Vec<&String> = found.difference(&listed).collect();
    let gone: Vec<&String> = listed.difference(&found).collect();
    assert!(
        added.is_empty() && gone.is_empty(),
        "new names: {added:#?}\nnames that are gone: {gone:#?}\nif that is meant, say so in CHANGELOG.md and run LINFORMER_BLESS=1 cargo test --test public_names"
    );
}
