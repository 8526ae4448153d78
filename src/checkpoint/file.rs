//! Files that are replaced whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Result};

/// How many names are tried for a temporary file before something else must be wrong.
const ATTEMPTS: usize = 1000;

/// Puts what `write` writes at `path`, in place of what is there.
///
/// It is written to a temporary file beside it, brought to the disk and renamed, so that there is a whole file at `path` at any time:
/// the old one until the new one is complete. Where this fails, the temporary file is removed.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    if path.file_name().is_none() {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        return Err(failed("write", path, source));
    }
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Opened first: a directory that cannot be brought to the disk is reported while the old file is still there.
    #[cfg(unix)]
    let opened = File::open(directory).map_err(|source| failed("open the directory", directory, source))?;
    let (temporary, file) = Temporary::create(directory)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    write(&mut out).map_err(|source| failed("write", path, source))?;
    let file = out.into_inner().map_err(|error| failed("write", path, error.into_error()))?;
    file.sync_all().map_err(|source| failed("write", path, source))?;
    drop(file);
    temporary.rename(path)?;
    #[cfg(unix)]
    opened
        .sync_all()
        .map_err(|source| failed("synchronise the directory", directory, source))?;
    Ok(())
}

pub(crate) fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// A file that is removed unless it is renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    /// A new file in `directory`, with the permissions of any other new file. Names of files that a crash left behind are passed over.
    fn create(directory: &Path) -> Result<(Self, File)> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut attempts = 0;
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = directory.join(format!(".linformer-{}-{number}.tmp", std::process::id()));
            attempts += 1;
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => return Ok((Self { path, renamed: false }, file)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && attempts < ATTEMPTS => {}
                Err(source) => return Err(failed("create the temporary file", &path, source)),
            }
        }
    }

    fn rename(mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(|source| failed("write", path, source))?;
        self.renamed = true;
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.renamed {
            // The error that led here is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}
