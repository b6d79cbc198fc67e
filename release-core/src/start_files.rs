//! What a program finds out to start, the content of files and what the system answers: the next version
//! finds what its trial has found, and the version before, when it is the master again, what it had found
//! itself.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::predecessor::{Left, left};

/// The content of files by their absolute paths, and answers by their questions, which are no such paths.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Files(Vec<Content>);

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

/// The part of a state that is about files, by the names that the whole has for it.
#[derive(Deserialize)]
struct Envelope {
    state: Part,
}

#[derive(Deserialize)]
struct Part {
    summary: Both,
}

/// What the version that has left this had read to start, and what the next one has read in its trial.
#[derive(Deserialize)]
struct Both {
    #[serde(default)]
    files: Files,
    #[serde(default)]
    tried_files: Files,
}

/// What a version before has left for this one, unless it is tried.
fn left_files() -> Option<&'static Files> {
    static FILES: OnceLock<Option<Files>> = OnceLock::new();
    let read = || {
        let Left::State { state, returned } = left().ok()? else { return None };
        let Both { files, tried_files } =
            serde_json::from_slice::<Envelope>(state).ok()?.state.summary;
        Some(if returned.is_some() { files } else { tried_files })
    };
    FILES.get_or_init(read).as_ref()
}

/// What this process is to find in a file, until it is the master.
pub(crate) fn given(path: &Path) -> Option<Vec<u8>> {
    given_as(&absolute(path))
}

fn given_as(key: &Path) -> Option<Vec<u8>> {
    if state().has_started {
        return None;
    }
    let Files(given) = left_files()?;
    given.iter().find(|file| key == Path::new(&file.path)).map(|file| file.bytes.clone())
}

/// The program has read this in a file, and it is good.
pub(crate) fn accepted(path: &Path, bytes: &[u8]) {
    accepted_as(absolute(path), bytes.to_owned());
}

fn accepted_as(key: PathBuf, bytes: Vec<u8>) {
    let mut state = state();
    if !state.has_started || state.read.contains_key(&key) {
        state.read.insert(key, bytes);
    }
}

/// What the system, or another file than the program reads as a whole, answers to a question of this
/// library.
pub(crate) fn looked_up<T, E>(
    question: &str,
    look_up: impl FnOnce() -> Result<T, E>,
) -> Result<T, E>
where
    T: Serialize + DeserializeOwned,
{
    let key = PathBuf::from(question);
    let kept = given_as(&key).and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let answer = match kept {
        Some(answer) => answer,
        None => look_up()?,
    };
    // One that cannot be written down is found out again.
    if let Ok(bytes) = serde_json::to_vec(&answer) {
        accepted_as(key, bytes);
    }
    Ok(answer)
}

/// Looks something up that the program needs to start, so that an upgrade
/// ([`MasterHandle::upgrade`](crate::MasterHandle::upgrade)) never fails because of it: an account, an
/// address, a file that it has to check.
///
/// A new version of the program gets the answer of its trial to the same `question`. When that version
/// cannot start after all, the version before begins `main` again, and gets the answer that it had itself.
/// As soon as the master serves, `look_up` is called each time. See [`read_to_start`] for a file.
///
/// # Errors
///
/// Those of `look_up`, which are not kept.
///
/// # Examples
///
/// ```
/// use std::net::{SocketAddr, ToSocketAddrs};
///
/// let addresses: Vec<SocketAddr> = release_core::look_up_to_start("database", || {
///     ("localhost", 5432).to_socket_addrs().map(Iterator::collect)
/// })?;
/// # let _ = addresses;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn look_up_to_start<T, E>(
    question: &str,
    look_up: impl FnOnce() -> Result<T, E>,
) -> Result<T, E>
where
    T: Serialize + DeserializeOwned,
{
    looked_up(&format!("program:{question}"), look_up)
}

/// This process is the master: from now on files are what they are.
pub(crate) fn started() {
    state().has_started = true;
}

pub(crate) fn read_so_far() -> Files {
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
