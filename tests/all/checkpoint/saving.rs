//! Files are replaced whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::directory::Directory;
use crate::common::{model_bits, small_language_model, small_model};
use linformer::checkpoint::{Checkpoint, Tensors};
use linformer::{Error, LanguageModel};

#[test]
fn saving_replaces_a_file_and_leaves_nothing_else() {
    let directory = Directory::new("replace");
    let path = directory.join("model.safetensors");
    fs::write(&path, b"something else").unwrap();
    // What a crash of a process of this number left behind.
    for number in 0..400 {
        fs::write(
            directory.join(&format!(".linformer-{}-{number}.tmp", std::process::id())),
            b"half a model",
        )
        .unwrap();
    }
    let before = directory.files();
    let model = small_model();
    model.save(&path).unwrap();
    assert_eq!(directory.files(), before);
    assert_eq!(fs::read(&path).unwrap(), model.to_bytes().unwrap());
    assert_eq!(model_bits(&LanguageModel::<f64>::load(&path).unwrap()), model_bits(&model));
    Tensors::<f64>::new().write(&path).unwrap();
    assert!(Tensors::<f64>::read(&path).unwrap().is_empty());
}

#[cfg(unix)]
#[test]
fn a_saved_file_has_the_permissions_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new("permissions");
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let (ordinary, saved) = (directory.join("ordinary"), directory.join("saved"));
    fs::write(&ordinary, b"").unwrap();
    small_model().save(&saved).unwrap();
    assert_eq!(mode(&saved), mode(&ordinary));
}

#[test]
fn a_save_that_fails_leaves_the_old_file() {
    let directory = Directory::new("failing");
    let model = small_model();
    let old = directory.join("old");
    fs::write(&old, b"old").unwrap();
    fs::create_dir(directory.join("directory")).unwrap();
    let failing = [
        directory.join("directory"),
        directory.join("missing/model"),
        directory.join("old/model"),
        directory.join(&"x".repeat(300)),
        directory.join(".."),
        PathBuf::new(),
    ];
    for path in failing {
        let error = model.save(&path).unwrap_err();
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert_eq!(directory.files(), ["directory", "old"], "{}", path.display());
    }
    assert_eq!(fs::read(&old).unwrap(), b"old");
}

#[cfg(unix)]
#[test]
fn an_unwritable_directory_keeps_its_file() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new("unwritable");
    let path = directory.join("model");
    fs::write(&path, b"old").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o555)).unwrap();
    // The superuser may write anyway; then there is nothing to see here.
    let may_write = fs::write(directory.join("probe"), b"").is_ok();
    let result = small_model().save(&path);
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    if !may_write {
        assert!(matches!(
            result,
            Err(Error::Io {
                action: "create the temporary file",
                ..
            })
        ));
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(directory.files(), ["model"]);
    }
}

#[test]
fn two_threads_saving_to_one_path_leave_one_whole_file() {
    let directory = Directory::new("threads");
    let path = directory.join("model");
    let models = [1, 2].map(|seed| LanguageModel::<f64>::new(&small_language_model(), seed).unwrap());
    let whole = models.each_ref().map(|model| model.to_bytes().unwrap());
    models[0].save(&path).unwrap();
    std::thread::scope(|scope| {
        let writers = models
            .each_ref()
            .map(|model| scope.spawn(|| (0..25).for_each(|_| model.save(&path).unwrap())));
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            assert!(whole.contains(&fs::read(&path).unwrap()));
        }
    });
    assert!(whole.contains(&fs::read(&path).unwrap()));
    assert_eq!(directory.files(), ["model"]);
}
