//! Texts that come with this package.

/// The folder of this package, where its texts lie.
pub fn package_folder() -> std::path::PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| ".".into(), Into::into)
}

/// Eighteen chapters of a novel, the same bytes in every version, so that figures can be repeated; `examples/data/README.md` says which.
pub fn novel() -> Result<Vec<u8>, super::AnyError> {
    let path = package_folder().join("examples/data/moby_dick.txt");
    std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()).into())
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
