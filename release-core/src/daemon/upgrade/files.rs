//! The files that a program reads to start: the next version reads what its trial has read, and the
//! version before, when it is the master again, what it had read itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::heritage;

/// The content of files by their absolute paths.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Files(Vec<Content>);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Content {
    path: OsString,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct State {
    read: BTreeMap<PathBuf, Vec<u8>>,
    /// Whether this process is the master already: only what it has read before is kept up to date.
    has_started: bool,
}

static STATE: Mutex<State> = Mutex::new(State { read: BTreeMap::new(), has_started: false });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn absolute(path: &Path) -> PathBuf {
    // Fails only when the working directory is gone, and then the path is as good as it gets.
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// What this process is to find in a file, until it is the master.
pub(crate) fn given(path: &Path) -> Option<Vec<u8>> {
    if state().has_started {
        return None;
    }
    let path = absolute(path);
    let Files(given) = heritage().ok()?.files()?;
    given.iter().find(|file| path == Path::new(&file.path)).map(|file| file.bytes.clone())
}

/// The program has read this in a file, and it is good.
pub(crate) fn accepted(path: &Path, bytes: &[u8]) {
    let (path, mut state) = (absolute(path), state());
    if !state.has_started || state.read.contains_key(&path) {
        state.read.insert(path, bytes.to_owned());
    }
}

/// This process is the master: from now on files are what they are.
pub(in crate::daemon) fn started() {
    state().has_started = true;
}

pub(super) fn read_so_far() -> Files {
    let content = |(path, bytes): (&PathBuf, &Vec<u8>)| Content {
        path: path.clone().into_os_string(),
        bytes: bytes.clone(),
    };
    Files(state().read.iter().map(content).collect())
}

/// Reads a file that the program needs to start, as [`std::fs::read`] does, so that an upgrade
/// ([`MasterHandle::upgrade`](crate::MasterHandle::upgrade)) never fails because of it.
///
/// A new version of the program gets what was in the file in its trial, even when it has changed
/// or vanished since. When that version cannot start after all, the version before begins `main`
/// again, and gets what it had read itself. As soon as the master serves, the file is read each time. A
/// [`Config`](crate::config::Config) is read in the same way without this function.
///
/// # Errors
///
/// Those of [`std::fs::read`].
///
/// # Examples
///
/// ```
/// # let directory = tempfile::tempdir().unwrap();
/// # let path = directory.path().join("port");
/// # std::fs::write(&path, "80").unwrap();
/// let port: u16 = String::from_utf8(release_core::read_to_start(&path)?)?.trim().parse()?;
/// # assert_eq!(port, 80);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn read_to_start(path: impl AsRef<Path>) -> io::Result<Vec<u8>> {
    let path = path.as_ref();
    let bytes = match given(path) {
        Some(bytes) => bytes,
        None => std::fs::read(path)?,
    };
    accepted(path, &bytes);
    Ok(bytes)
}
