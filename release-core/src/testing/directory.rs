//! The directory of a test: made for it, compared at its end, and removed.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, Permissions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A directory that is removed when this is dropped. The program works in `files`; beside it are the
/// files of the test kit.
#[derive(Debug)]
pub(super) struct Directory {
    root: PathBuf,
    created: io::Result<()>,
}

impl Directory {
    pub(super) fn new() -> Self {
        let random = RandomState::new().hash_one(std::process::id());
        let parent = std::env::temp_dir();
        // As /proc shows it.
        let parent = parent.canonicalize().unwrap_or(parent);
        let root = parent.join(format!("release-test-{random:016x}"));
        let created = create(&root);
        Self { root, created }
    }

    /// Fails if the directory could not be created.
    pub(super) fn check(&self) -> io::Result<()> {
        match &self.created {
            Ok(()) => Ok(()),
            Err(error) => Err(io::Error::new(
                error.kind(),
                format!("cannot create the directory {}: {error}", self.root.display()),
            )),
        }
    }

    /// The program's working directory.
    pub(super) fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    pub(super) fn log(&self) -> PathBuf {
        self.root.join("log")
    }

    pub(super) fn notify_socket(&self) -> PathBuf {
        self.root.join("notify")
    }

    /// Everything in the program's directory.
    pub(super) fn entries(&self) -> BTreeSet<PathBuf> {
        let mut all = BTreeSet::new();
        collect(&self.files(), &mut all);
        all
    }
}

/// Fails if the name exists: another user may have made it.
fn create(root: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(root)?;
    fs::create_dir(root.join("files"))?;
    // Workers under another account reach the files whose names they know.
    fs::set_permissions(root, Permissions::from_mode(0o711))
}

fn collect(directory: &Path, all: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let is_directory = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_directory {
            collect(&entry.path(), all);
        }
        all.insert(entry.path());
    }
}

/// Returns the kind of a file, in words.
pub(super) fn kind(path: &Path) -> &'static str {
    let Ok(kind) = path.symlink_metadata().map(|metadata| metadata.file_type()) else {
        return "file";
    };
    match () {
        () if kind.is_socket() => "socket",
        () if kind.is_fifo() => "named pipe",
        () if kind.is_symlink() => "link",
        () if kind.is_dir() => "directory",
        () => "file",
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        if self.created.is_ok() {
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}
