//! The data that a program reads to start: contents of files and answers of the system. The next
//! version sees the data of its trial. If the previous version becomes master again, it sees its
//! own data.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::kept::{Content, Files};
use crate::path::absolute;
use crate::predecessor::{Left, left};

#[derive(Debug)]
struct ReadFiles {
    read: BTreeMap<PathBuf, Vec<u8>>,
    /// Whether this process is already the master: then only known entries are updated.
    has_started: bool,
}

static STATE: Mutex<ReadFiles> =
    Mutex::new(ReadFiles { read: BTreeMap::new(), has_started: false });

fn state() -> MutexGuard<'static, ReadFiles> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn key(path: &Path) -> PathBuf {
    // Fails only if the working directory is gone; the path is then the best available.
    absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The part of a state that concerns files, under the names used in the whole state.
#[derive(Deserialize)]
struct LeftEnvelope {
    state: LeftState,
}

#[derive(Deserialize)]
struct LeftState {
    summary: LeftFiles,
}

/// The data read by the version that left this at its start, and by the next version in its trial.
#[derive(Deserialize)]
struct LeftFiles {
    #[serde(default)]
    files: Files,
    #[serde(default)]
    tried_files: Files,
}

/// Returns the data left by a previous version for this one, unless this one is on trial.
fn left_files() -> Option<&'static Files> {
    static FILES: OnceLock<Option<Files>> = OnceLock::new();
    let read = || {
        let Left::State { state, returned } = left().ok()? else { return None };
        let LeftFiles { files, tried_files } =
            serde_json::from_slice::<LeftEnvelope>(state).ok()?.state.summary;
        Some(if returned.is_some() { files } else { tried_files })
    };
    FILES.get_or_init(read).as_ref()
}

/// Returns the content that this process sees in a file, until it is the master.
pub(crate) fn given(path: &Path) -> Option<Vec<u8>> {
    given_as(&key(path))
}

fn given_as(key: &Path) -> Option<Vec<u8>> {
    if state().has_started {
        return None;
    }
    let Files(given) = left_files()?;
    given.iter().find(|file| key == Path::new(&file.path)).map(|file| file.bytes.clone())
}

/// Records that the program has read this valid content in a file.
pub(crate) fn accepted(path: &Path, bytes: &[u8]) {
    accepted_as(key(path), bytes.to_owned());
}

fn accepted_as(key: PathBuf, bytes: Vec<u8>) {
    let unkept = ASIDE.with_borrow_mut(|aside| match aside {
        Some(aside) => {
            aside.insert(key, bytes);
            None
        }
        None => Some((key, bytes)),
    });
    let Some((key, bytes)) = unkept else { return };
    let mut state = state();
    if !state.has_started || state.read.contains_key(&key) {
        state.read.insert(key, bytes);
    }
}

thread_local! {
    /// The data that [`aside`] collects on this thread.
    static ASIDE: RefCell<Option<BTreeMap<PathBuf, Vec<u8>>>> = const { RefCell::new(None) };
}

/// Data that a reload has read. A version that comes back sees it only if that reload has succeeded:
/// with the data of a refused one it could not start.
pub(crate) struct ReadAside(BTreeMap<PathBuf, Vec<u8>>);

impl ReadAside {
    /// Keeps the data, also of files that are new: what has just served can start with them.
    pub(crate) fn keep(self) {
        state().read.extend(self.0);
    }
}

/// Runs code that reads on this thread, and returns the data apart.
pub(crate) fn aside<T>(read: impl FnOnce() -> T) -> (T, ReadAside) {
    /// Restores the former state of the thread, also after a panic.
    struct Outer(Option<BTreeMap<PathBuf, Vec<u8>>>);

    impl Drop for Outer {
        fn drop(&mut self) {
            ASIDE.set(self.0.take());
        }
    }

    let outer = Outer(ASIDE.replace(Some(BTreeMap::new())));
    let done = read();
    let data = ASIDE.with_borrow_mut(|aside| aside.as_mut().map(mem::take));
    drop(outer);
    (done, ReadAside(data.unwrap_or_default()))
}

/// Returns the answer of the system, or of a file that the program does not read as a whole, to a
/// question of this library.
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
    // An answer that cannot be serialized is looked up again.
    if let Ok(bytes) = serde_json::to_vec(&answer) {
        accepted_as(key, bytes);
    }
    Ok(answer)
}

/// Looks up a value that the program needs to start, such as an account, an address, or a file to
/// be checked, so that an upgrade ([`MasterHandle::upgrade`](crate::MasterHandle::upgrade)) never
/// fails because of it.
///
/// A new version of the program receives the answer from its trial to the same `question`. If that
/// version then cannot start, the previous version begins `main` again, and receives its own
/// earlier answer. Once the master serves, every call runs `look_up`. For a file, see
/// [`read_to_start`].
///
/// # Errors
///
/// Returns the errors of `look_up`, which are not kept.
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

/// Marks this process as the master: from now on, files are read as they are.
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

/// Reads a file that the program needs to start, like [`std::fs::read`], so that an upgrade
/// ([`MasterHandle::upgrade`](crate::MasterHandle::upgrade)) never fails because of it.
///
/// A new version of the program receives the content from its trial, even if the file has changed
/// or vanished since. If that version then cannot start, the previous version begins `main` again,
/// and receives the content that it had read itself. Once the master serves, every call reads the
/// file. A [`Config`](crate::config::Config) is read in the same way without this function.
///
/// # Errors
///
/// Returns the errors of [`std::fs::read`].
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
