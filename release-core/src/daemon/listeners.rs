//! Listening sockets of a group: what the program asks for, and what the master opens (row P7).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::ipc::Descriptor;
use crate::net::{AnyAddress, FileIdentity, Inet, ListenOn, Unix};
use crate::supervise::WorkerId;
use crate::sys::fds::{duplicate_from, set_blocking, set_cloexec, set_nonblocking};

mod open;
pub(super) mod stored;

use open::{open, open_one_of_many};

/// A socket that workers find by its name, or one for each of them.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) name: String,
    /// The address that was asked for, in words.
    requested: String,
    sockets: Sockets,
    /// Whether an accept waits: what programs expect that were not told otherwise.
    is_blocking: bool,
}

/// A socket that the next version of the program gets.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeptListener {
    /// Of which group, by which name, and where: the next version asks for the same, or gets none.
    key: [String; 3],
    /// The worker that has it for itself, and the port that it shares with others.
    worker: Option<(u32, u16)>,
    socket: Descriptor,
    file: Option<FileIdentity>,
}

#[derive(Debug)]
enum Sockets {
    /// The program has opened it.
    Given(OwnedFd),
    /// One for all workers.
    Shared { address: ListenOn, opened: Option<(OwnedFd, Option<SocketFile>)> },
    /// One for each worker. The master keeps it while the worker is started again: connections that
    /// wait in it are not lost.
    Each { address: Inet, opened: BTreeMap<WorkerId, OwnedFd> },
}

impl Listener {
    pub(super) fn given(name: String, socket: OwnedFd) -> Self {
        Self::new(name, String::new(), Sockets::Given(socket))
    }

    pub(super) fn shared(name: String, address: ListenOn) -> Self {
        Self::new(name, String::new(), Sockets::Shared { address, opened: None })
    }

    pub(super) fn each(name: String, address: Inet) -> Self {
        let requested = address.to_string();
        Self::new(name, requested, Sockets::Each { address, opened: BTreeMap::new() })
    }

    fn new(name: String, requested: String, sockets: Sockets) -> Self {
        Self { name, requested, sockets, is_blocking: false }
    }

    /// Makes it independent of what a start in the background changes.
    pub(super) fn settle(&mut self, is_blocking: bool) -> Result<(), Error> {
        self.is_blocking = is_blocking;
        match &mut self.sockets {
            Sockets::Given(socket) => set_cloexec(socket)
                .and_then(
                    |()| if is_blocking { set_blocking(socket) } else { set_nonblocking(socket) },
                )
                .map_err(|error| Error::system(format!("listener `{}`", self.name), error)),
            Sockets::Shared { address, .. } => {
                if let AnyAddress::Unix(Unix::Path(path)) = &mut address.address {
                    *path = super::control::absolute(path)?;
                }
                self.requested = address.to_string();
                Ok(())
            }
            Sockets::Each { .. } => Ok(()),
        }
    }

    /// The socket of a worker; opened, unless it is.
    pub(super) fn socket(&mut self, group: &str, id: WorkerId) -> Result<&OwnedFd, Error> {
        let name = &self.name;
        match &mut self.sockets {
            Sockets::Given(socket) => Ok(socket),
            Sockets::Shared { address, opened } => {
                let opened = match opened {
                    Some(opened) => opened,
                    none => {
                        let (socket, file) = open(group, name, address)?;
                        let socket = settle(socket, self.is_blocking)?;
                        none.insert((socket, file))
                    }
                };
                Ok(&opened.0)
            }
            Sockets::Each { address, opened } => {
                let is_first = opened.is_empty();
                match opened.entry(id) {
                    Entry::Occupied(socket) => Ok(socket.into_mut()),
                    Entry::Vacant(place) => {
                        let (socket, local) = open_one_of_many(group, name, address, is_first)?;
                        let socket = settle(socket, self.is_blocking)?;
                        // The others get the port that the system chose for the first.
                        *address = local;
                        Ok(place.insert(socket))
                    }
                }
            }
        }
    }

    /// By which the next version knows it again; a socket of the program's own making has none.
    pub(super) fn key(&self, group: &str) -> Option<[String; 3]> {
        let is_given = matches!(self.sockets, Sockets::Given(_));
        (!is_given).then(|| [group.to_owned(), self.name.clone(), self.requested.clone()])
    }

    /// The sockets that are open; a socket of the program's own making is not among them.
    pub(super) fn opened(&self, group: &str) -> Result<Vec<KeptListener>, Error> {
        let keep = |socket: &OwnedFd, worker, file| {
            let socket = duplicate_from(socket.as_fd(), 3)
                .map_err(|error| Error::system("cannot duplicate a listener", error))?;
            let key = [group.to_owned(), self.name.clone(), self.requested.clone()];
            Ok(KeptListener { key, worker, socket: socket.into(), file })
        };
        match &self.sockets {
            Sockets::Given(_) => Ok(Vec::new()),
            Sockets::Shared { opened, .. } => {
                let opened = opened.iter();
                opened.map(|(it, file)| keep(it, None, file.as_ref().map(|it| it.file))).collect()
            }
            Sockets::Each { address, opened } => {
                let port = address.port();
                opened.iter().map(|(id, socket)| keep(socket, Some((id.0, port)), None)).collect()
            }
        }
    }

    /// Takes over what an earlier version of the program has opened for this listener.
    pub(super) fn adopt(&mut self, group: &str, kept: &mut Vec<KeptListener>) {
        let key = [group, &self.name, &self.requested];
        let is_own = |one: &mut KeptListener| one.key.iter().eq(&key);
        for KeptListener { worker, socket, file, .. } in kept.extract_if(.., is_own) {
            match (&mut self.sockets, worker) {
                (Sockets::Shared { address, opened }, None) => {
                    let file = file.and_then(|file| SocketFile::of(&address.address, file));
                    *opened = Some((socket.into(), file));
                }
                (Sockets::Each { address, opened }, Some((id, port))) => {
                    address.set_port(port);
                    opened.insert(WorkerId(id), socket.into());
                }
                _ => {}
            }
        }
    }

    /// Closes the sockets of workers that are not wanted any more: nobody would accept on them.
    pub(super) fn keep(&mut self, is_wanted: impl Fn(WorkerId) -> bool) {
        if let Sockets::Each { opened, .. } = &mut self.sockets {
            opened.retain(|id, _| is_wanted(*id));
        }
    }
}

impl KeptListener {
    /// Nobody asks for it any more.
    pub(super) fn give_up(self) {
        let [group, listener, address] = &self.key;
        tracing::info!(group, listener, address, "not listening any more");
        if let Some(file) = self.file {
            drop(SocketFile { path: address.into(), file, stays: false });
        }
    }
}

/// The socket file that this process has made. Dropping it removes the file, if it is still its own.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    file: FileIdentity,
    /// Whether systemd keeps its socket for the next process.
    stays: bool,
}

impl SocketFile {
    fn of(address: &AnyAddress, file: FileIdentity) -> Option<Self> {
        match address {
            AnyAddress::Unix(Unix::Path(path)) => {
                Some(Self { path: path.clone(), file, stays: false })
            }
            _ => None,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.stays && FileIdentity::of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn settle(socket: OwnedFd, is_blocking: bool) -> Result<OwnedFd, Error> {
    let settled = if is_blocking { set_blocking(&socket) } else { set_nonblocking(&socket) };
    settled.map_err(|error| Error::system("a listening socket", error))?;
    Ok(socket)
}
