//! The public names, as `tests/public_names.txt` lists them: what is added is meant, and what is taken away is noticed.
//!
//! The lint `unreachable_pub` holds a bare `pub` to what can be reached from outside, so that the names can be read off the sources. After a
//! change that is meant, `LINFORMER_BLESS=1 cargo test --test all public_names::` writes the file anew.

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

/// A module that can be reached from outside.
struct Module {
    name: String,
    /// What its files lie in; its own may lie beside it.
    folder: PathBuf,
    /// What it declares and re-exports.
    text: String,
}

impl Module {
    /// The module of `file` and all public ones below it.
    fn open(name: &str, file: &Path, folder: PathBuf, found: &mut Vec<Self>) {
        let text = fs::read_to_string(file).unwrap();
        for inner in text.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
            let folder = folder.join(inner);
            let (beside, within) = (folder.with_extension("rs"), folder.join("mod.rs"));
            let file = if beside.is_file() { beside } else { within };
            Self::open(&format!("{name}::{inner}"), &file, folder, found);
        }
        found.push(Self {
            name: name.to_owned(),
            folder,
            text,
        });
    }

    /// Whether its own file declares or re-exports `item`.
    fn offers(&self, item: &str) -> bool {
        if self.text.lines().any(|line| after(line, &DECLARATIONS) == Some(item)) {
            return true;
        }
        let statements = self.text.split("\npub use ").skip(1).filter_map(|rest| rest.split(';').next());
        statements
            .flat_map(|names| names.split(['{', '}', ',', ':']))
            .any(|name| name.trim() == item)
    }
}

const DECLARATIONS: [&str; 6] = ["pub struct ", "pub enum ", "pub trait ", "pub fn ", "pub const ", "pub type "];

/// All public modules, inner ones before those around them.
fn modules() -> Vec<Module> {
    let (src, mut found) = (root().join("src"), Vec::new());
    Module::open("linformer", &src.join("lib.rs"), src, &mut found);
    found
}

/// The public module that `item` of the file at `path` is reached through: the file's own, or the one that re-exports it.
fn module<'m>(modules: &'m [Module], path: &Path, item: &str) -> &'m str {
    let own = modules
        .iter()
        .find(|module| path.with_extension("").starts_with(&module.folder))
        .unwrap();
    let others = modules.iter().filter(|_| !own.offers(item));
    &others.rev().find(|module| module.offers(item)).unwrap_or(own).name
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
fn names(modules: &[Module], path: &Path, names: &mut BTreeSet<String>) {
    let text = fs::read_to_string(path).unwrap();
    let reached = |name: &str| format!("{}::{name}", module(modules, path, name));
    // Whose members come: of a type, or of an enum or a trait, whose members are public with it.
    let (mut owner, mut opened) = (String::new(), false);
    for line in text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines() {
        opened &= line != "}";
        if let Some(name) = implemented(line) {
            (owner, opened) = (reached(name), false);
        } else if let Some(name) = after(line, &["pub enum ", "pub trait "]) {
            (owner, opened) = (reached(name), true);
            names.insert(owner.clone());
        } else if let Some(name) = after(line, &["pub struct "]) {
            (owner, opened) = (reached(name), false);
            names.insert(owner.clone());
        } else if let Some(name) = after(line, &["pub fn ", "pub const ", "pub type ", "pub mod "]) {
            names.insert(reached(name));
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
    let (modules, mut found) = (modules(), BTreeSet::new());
    for file in &files {
        names(&modules, file, &mut found);
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
        "new names: {added:#?}\nnames that are gone: {gone:#?}\nif that is meant, say so in CHANGELOG.md and run LINFORMER_BLESS=1 cargo test --test all public_names"
    );
}
