//! A control socket on its way from one process image to the next.

use std::ffi::OsString;
use std::fs::remove_file;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::seats::Seats;
use super::{BoundControlSocket, ControlSocket, SocketFile};
use crate::Error;
use crate::ipc::Descriptor;
use crate::ipc::link::frozen::Frozen;
use crate::net::{Credentials, FileIdentity};

/// A control socket as its master sees it, which may hand it over.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    place: SocketFile,
    file: Arc<Mutex<FileIdentity>>,
    seats: Arc<Seats>,
    /// Whether the log has reported the missing file.
    is_told: Arc<AtomicBool>,
}

/// A control socket and its connections, as a value.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FrozenControl {
    path: OsString,
    file: FileIdentity,
    listener: Descriptor,
    connections: Vec<FrozenConnection>,
    /// Whether it was in place in the version before.
    #[serde(skip)]
    pub(crate) is_to_stay: bool,
}

/// A connection. A request that waits for the end of the upgrade is the first of its input.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FrozenConnection {
    pub(super) link: Frozen,
    peer: (i32, u32, u32),
    pub(super) asked: bool,
    /// Whether its first request waits for the end of the upgrade.
    pub(super) waits: bool,
}

impl FrozenConnection {
    pub(super) fn new(link: Frozen, peer: Credentials, asked: bool, waits: bool) -> Self {
        Self { link, peer: (peer.pid, peer.uid, peer.gid), asked, waits }
    }

    pub(super) fn credentials(&self) -> Credentials {
        let (pid, uid, gid) = self.peer;
        Credentials { pid, uid, gid }
    }
}

impl Served {
    pub(crate) fn path(&self) -> &Path {
        self.place.path()
    }

    /// Creates the socket again if its file was removed; connections stay open. A foreign file at the
    /// path stays.
    pub(crate) fn look(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.place.path();
        if FileIdentity::of(path).is_ok_and(|there| there == *file) || self.seats.is_paused() {
            return;
        }
        let made = match self.place.is_missing() {
            true => self.place.make().map_err(|error| error.report()),
            false => Err("something else is there".to_owned()),
        };
        match made {
            Ok((socket, made)) => {
                *file = made;
                self.seats.listen_on(socket);
                self.is_told.store(false, Ordering::Relaxed);
                tracing::warn!(path = %path.display(), "the control socket was removed: it is there again");
            }
            Err(reason) => {
                if !self.is_told.swap(true, Ordering::Relaxed) {
                    let message = "the control socket was removed: nobody can connect";
                    tracing::error!(path = %path.display(), reason, "{message}");
                }
            }
        }
    }

    /// Accepts no connection and begins no request from now on. Requests in flight are answered; a
    /// request that waits for the upgrade keeps waiting, and one without an answer for a minute is
    /// cancelled.
    pub(crate) fn pause(&self, now: Instant) {
        self.seats.pause(now);
    }

    /// Waits until only requests that wait for the upgrade are in flight. One task at a time may wait.
    pub(crate) fn poll_at_rest(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.seats.poll_at_rest(cx)
    }

    /// Returns the number of connections with requests in flight.
    pub(crate) fn unfinished(&self) -> usize {
        self.seats.unfinished()
    }

    /// Takes the state out, while the socket is paused and at rest. It stands still then until
    /// [`Served::resume`], which must be called after an error as well.
    ///
    /// # Errors
    ///
    /// Returns an error if a request is in flight, or no descriptors are left.
    pub(crate) fn freeze(&self) -> Result<FrozenControl, Error> {
        let (listener, connections) = self.seats.freeze().map_err(|error| {
            let path = self.place.path().display();
            let message = format!("cannot hand over the control socket {path}");
            Error::new(error.kind(), message).caused_by(error)
        })?;
        let path = self.place.path().as_os_str().to_owned();
        let file = *self.file.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(FrozenControl { path, file, listener, connections, is_to_stay: false })
    }

    /// Returns the state for a trial, without a pause and without the socket itself.
    pub(crate) fn sample(&self) -> Result<FrozenControl, Error> {
        let nothing = std::fs::File::open("/dev/null")
            .map_err(|error| Error::system("cannot open /dev/null", error))?;
        let path = self.place.path().as_os_str().to_owned();
        let file = *self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let (listener, connections) = (Descriptor::new(nothing), self.seats.sample()?);
        Ok(FrozenControl { path, file, listener, connections, is_to_stay: false })
    }

    /// Continues as if there had been no pause.
    pub(crate) fn resume(&self) {
        self.seats.resume();
    }
}

impl FrozenControl {
    /// Of its connections.
    pub(crate) fn links(self) -> impl Iterator<Item = Frozen> {
        self.connections.into_iter().map(|connection| connection.link)
    }

    fn is_at_its_path(&self) -> bool {
        FileIdentity::of(Path::new(&self.path)).is_ok_and(|file| file == self.file)
    }

    /// Removes the file, if it is still the socket's own, and closes the connections.
    pub(crate) fn give_up(self) {
        if self.is_at_its_path() {
            let _ = remove_file(&self.path);
        }
    }
}

/// Returns the earlier control socket that each of these follows: the one at its path, or else the
/// first one whose path no longer has a socket. The rest have no successor, and must be given up.
pub(crate) fn successors(
    paths: &[&Path],
    mut earlier: Vec<FrozenControl>,
) -> (Vec<Option<FrozenControl>>, Vec<FrozenControl>) {
    let mut take = |path: &Path| {
        let at = earlier.iter().position(|control| Path::new(&control.path) == path)?;
        Some(earlier.remove(at))
    };
    let mut found: Vec<_> = paths.iter().map(|path| take(path)).collect();
    let mut left = earlier.into_iter();
    for none in found.iter_mut().filter(|found| found.is_none()) {
        *none = left.next();
    }
    (found, left.collect())
}

impl<C> ControlSocket<C> {
    /// Takes the place of an earlier socket: its connections stay open, and it keeps listening if its
    /// path is the same. Otherwise this one is bound before the other is removed.
    pub(crate) fn follow(self, earlier: FrozenControl) -> Result<BoundControlSocket<C>, Error> {
        let mut bound = if earlier.is_to_stay {
            let at = Self { path: earlier.path.into(), ..self };
            BoundControlSocket::new(earlier.listener.into(), earlier.file, at)
        } else if Path::new(&earlier.path) == self.path && earlier.is_at_its_path() {
            self.file().set_mode()?;
            self.file().set_owner()?;
            BoundControlSocket::new(earlier.listener.into(), earlier.file, self)
        } else {
            let bound = self.bind()?;
            if earlier.is_at_its_path() {
                let _ = remove_file(&earlier.path);
            }
            bound
        };
        bound.kept = earlier.connections;
        Ok(bound)
    }
}

impl<C> BoundControlSocket<C> {
    /// Returns the socket as its master sees it.
    pub(crate) fn served(&self) -> Served {
        let (place, file) = (self.settings.file(), Arc::clone(&self.file));
        Served { place, file, seats: Arc::clone(&self.seats), is_told: Arc::default() }
    }
}
