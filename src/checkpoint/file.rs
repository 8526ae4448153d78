//! Files that are read, and files that are replaced whole or not at all.

use std::collections::hash_map::RandomState;
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::hash::{BuildHasher, Hasher};
use std::io::{self, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::index::ENDING;
use crate::error::{Error, Result};

/// How many names are tried for a temporary file before something else must be wrong.
const ATTEMPTS: usize = 1000;

/// How the names of temporary files end.
const TEMPORARY: &str = ".tmp";

/// How many files of a directory are looked through for one to name.
const LISTED: usize = 10_000;

/// The constants of the hash FNV-1a.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// Puts what `write` writes at `path`, in place of what is there.
///
/// It is written to a temporary file beside it, synced and atomically renamed, so that `path` always holds a complete file:
/// the old one until the new one is complete. Where this fails, the temporary file is removed; where the process is killed, the next
/// call for the same `path` removes it.
pub(crate) fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    let Some(name) = path.file_name() else {
        let source = io::Error::new(io::ErrorKind::InvalidInput, "the path names no file");
        return Err(failed("write", path, source));
    };
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    // Opened first: a directory that cannot be synced is reported while the old file is still there.
    #[cfg(unix)]
    let opened = File::open(directory).map_err(|source| failed("open the directory", directory, source))?;
    let prefix = temporary_prefix(name);
    remove_abandoned(directory, &prefix);
    let (temporary, file) = Temporary::create(directory, &prefix)?;
    let mut out = BufWriter::with_capacity(1 << 16, file);
    write(&mut out).map_err(|source| failed("write", path, source))?;
    let file = out.into_inner().map_err(|error| failed("write", path, error.into_error()))?;
    file.sync_all().map_err(|source| failed("write", path, source))?;
    temporary.rename(path)?;
    // Its lock is held until it has another name: nobody takes it for one that a dead process left.
    drop(file);
    #[cfg(unix)]
    opened
        .sync_all()
        .map_err(|source| failed("synchronize the directory", directory, source))?;
    Ok(())
}

pub(crate) fn failed(action: &'static str, path: &Path, source: io::Error) -> Error {
    Error::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

/// Opens a file to be read: itself, and its length.
pub(super) fn open(path: &Path) -> Result<(BufReader<File>, u64)> {
    let file = File::open(path).map_err(|source| failed("open", path, with_advice(source, path)))?;
    let metadata = file.metadata().map_err(|source| failed("read", path, source))?;
    if metadata.is_dir() {
        let reason = format!("this is a directory: give the path of a file{}", listed(path, |_| true));
        let source = io::Error::new(io::ErrorKind::IsADirectory, reason);
        return Err(failed("read", path, source));
    }
    Ok((BufReader::new(file), metadata.len()))
}

/// The error for a file that is not there, with the name of its index where that is.
fn with_advice(source: io::Error, path: &Path) -> io::Error {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return source;
    };
    if source.kind() != io::ErrorKind::NotFound {
        return source;
    }
    let index = format!("{name}{ENDING}");
    match listed(directory, |other| other == index).as_str() {
        "" => source,
        found => io::Error::new(source.kind(), format!("{source}; give the path of the index of its parts{found}")),
    }
}

/// The first of the indices and, where there is none, of the safetensors files in a directory.
fn listed(directory: &Path, is_meant: impl Fn(&str) -> bool) -> String {
    let directory = if directory == Path::new("") { Path::new(".") } else { directory };
    let entries = fs::read_dir(directory).into_iter().flatten().take(LISTED).flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names.filter(|name| is_meant(name)).collect();
    names.sort();
    let found = [ENDING, ".safetensors"]
        .iter()
        .find_map(|ending| names.iter().find(|name| name.ends_with(ending)));
    found.map_or_else(String::new, |name| format!(", `{name}` perhaps"))
}

/// The beginning of the names of temporary files for files of this name.
fn temporary_prefix(name: &OsStr) -> String {
    // A name as long as the system allows leaves no room for more of it.
    let digest = name
        .as_encoded_bytes()
        .iter()
        .fold(FNV_OFFSET, |digest, &byte| (digest ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    format!(".linformer-{digest:016x}-")
}

/// Removes the temporary files that processes left which were killed: nobody has a lock on these. Where this fails, they stay.
fn remove_abandoned(directory: &Path, prefix: &str) {
    let is_meant = |name: &OsStr| {
        name.to_str()
            .is_some_and(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.strip_suffix(TEMPORARY).is_some()))
    };
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if !is_file || !is_meant(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        if let Ok(file) = OpenOptions::new().write(true).open(&path)
            && file.try_lock().is_ok()
        {
            // Removed under the lock: whoever made it and has not locked it yet sees that it is gone.
            let _ = fs::remove_file(&path);
        }
    }
}

/// A file that is removed unless it is renamed.
struct Temporary {
    path: PathBuf,
    renamed: bool,
}

impl Temporary {
    /// A new file in `directory`, with the permissions of any other new file, and locked, where the system can, as long as it is open.
    fn create(directory: &Path, prefix: &str) -> Result<(Self, File)> {
        let mut attempts = 0;
        loop {
            // No other process, on whatever machine, comes by the same name.
            let number = RandomState::new().build_hasher().finish();
            let path = directory.join(format!("{prefix}{number:016x}{TEMPORARY}"));
            attempts += 1;
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) if is_kept(&file, &path) => return Ok((Self { path, renamed: false }, file)),
                Ok(_) if attempts < ATTEMPTS => {}
                Ok(_) => return Err(failed("keep the temporary file", &path, io::ErrorKind::NotFound.into())),
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

/// Locks a new file, and says whether it is still there: before it was locked, another process could take it for an abandoned one.
fn is_kept(file: &File, path: &Path) -> bool {
    match file.try_lock() {
        Ok(()) => path.exists(),
        Err(TryLockError::WouldBlock) => false,
        // Where there are no locks, nobody removes anything either.
        Err(TryLockError::Error(_)) => true,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_or_panics_leaves_the_old_file_alone() {
        let directory = std::env::temp_dir().join(format!("linformer-file-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("file");
        replace(&path, |out| out.write_all(b"old")).unwrap();
        let half = |out: &mut dyn Write| {
            out.write_all(&vec![0; 1 << 20])?;
            Err(io::Error::from(io::ErrorKind::StorageFull))
        };
        let error = replace(&path, half).unwrap_err();
        assert!(matches!(error, Error::Io { action: "write", .. }), "{error}");
        assert!(std::panic::catch_unwind(|| replace(&path, |_| panic!("on purpose"))).is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn only_what_nobody_writes_any_more_for_the_same_file_is_removed() {
        let directory = std::env::temp_dir().join(format!("linformer-abandoned-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let place = |name: &str, end: &str| directory.join(format!("{}{end}", temporary_prefix(OsStr::new(name))));
        let abandoned = [place("model", "1.tmp"), place("model", "0123456789abcdef.tmp")];
        let others = [
            place("other", "1.tmp"),
            place("model", "1.tm"),
            directory.join(".linformer-7-0.tmp"),
            directory.join("model.tmp"),
        ];
        for path in abandoned.iter().chain(&others) {
            fs::write(path, b"half").unwrap();
        }
        fs::create_dir(place("model", "2.tmp")).unwrap();
        let live = Temporary::create(&directory, &temporary_prefix(OsStr::new("model"))).unwrap();
        replace(&directory.join("model"), |out| out.write_all(b"whole")).unwrap();
        let kept = [
            &others[..],
            &[live.0.path.clone(), place("model", "2.tmp"), directory.join("model")],
        ]
        .concat();
        assert!(abandoned.iter().all(|path| !path.exists()) && kept.iter().all(|path| path.exists()));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), kept.len());
        // One that is taken away before it is locked is recreated.
        let file = File::create(place("model", "3.tmp")).unwrap();
        assert!(is_kept(&file, &place("model", "3.tmp")));
        assert!(!is_kept(&File::open(place("model", "3.tmp")).unwrap(), &place("model", "3.tmp")));
        drop(file);
        let file = File::create(place("model", "4.tmp")).unwrap();
        remove_abandoned(&directory, &temporary_prefix(OsStr::new("model")));
        assert!(!is_kept(&file, &place("model", "4.tmp")));
        drop(live);
        fs::remove_dir_all(&directory).unwrap();
    }
}
