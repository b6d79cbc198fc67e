//! Listening sockets of a group: what the program asks for, and what the master opens (row P7).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::ipc::Descriptor;
use crate::net::{AnyAddress, FileIdentity, ListenOn, Unix};
use crate::supervise::WorkerId;
use crate::sys::fds::{duplicate_from, set_blocking, set_cloexec, set_nonblocking};

mod open;
mod steered;
pub(super) mod stored;

use open::{Common, open};
pub(super) use steered::Steered;
use steered::{Place, User};

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
    /// The process of the worker that has it for itself, where processes have.
    process: Option<i32>,
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
    Each { common: Common, opened: BTreeMap<WorkerId, OwnedFd> },
    /// One for each process.
    Steered(Steered),
}

impl Listener {
    pub(super) fn given(name: String, socket: OwnedFd) -> Self {
        Self::new(name, String::new(), Sockets::Given(socket))
    }

    pub(super) fn on(name: String, listen: ListenOn) -> Self {
        let requested = listen.to_string();
        let sockets = match listen.shared_port() {
            Some((address, only_v6)) => {
                let common = Common { address, only_v6 };
                Sockets::Each { common, opened: BTreeMap::new() }
            }
            None => Sockets::Shared { address: listen, opened: None },
        };
        Self::new(name, requested, sockets)
    }

    fn new(name: String, requested: String, sockets: Sockets) -> Self {
        Self { name, requested, sockets, is_blocking: false }
    }

    /// Makes it independent of what a start in the background changes. Where each worker has a
    /// socket, each process of a command has.
    pub(super) fn settle(&mut self, is_blocking: bool, is_command: bool) -> Result<(), Error> {
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
            Sockets::Each { common, .. } if is_command => {
                match Steered::is_possible(common) {
                    Ok(()) => {
                        self.sockets = Sockets::Steered(Steered::new(*common));
                        self.requested.push_str(" steered");
                    }
                    Err(error) => {
                        let (listener, reason) = (&self.name, error.report());
                        let message = "new connections cannot be kept from a worker that stops";
                        tracing::warn!(listener, reason, "{message}");
                    }
                }
                Ok(())
            }
            Sockets::Each { .. } | Sockets::Steered(_) => Ok(()),
        }
    }

    /// Whether the master says which processes get new connections.
    pub(super) fn is_steered(&self) -> bool {
        matches!(self.sockets, Sockets::Steered(_))
    }

    /// Opens what has to be open for a worker before it is started.
    pub(super) fn open(&mut self, group: &str, id: WorkerId) -> Result<(), Error> {
        match &mut self.sockets {
            Sockets::Steered(steered) => steered.open((group, &self.name), id, self.is_blocking),
            _ => self.socket(group, id).map(drop),
        }
    }

    /// The socket of a worker's next process; opened, unless it is.
    pub(super) fn socket(&mut self, group: &str, id: WorkerId) -> Result<&OwnedFd, Error> {
        let (name, is_blocking) = (&self.name, self.is_blocking);
        match &mut self.sockets {
            Sockets::Given(socket) => Ok(socket),
            Sockets::Shared { address, opened } => {
                let opened = match opened {
                    Some(opened) => opened,
                    none => {
                        let (socket, file) = open(group, name, address)?;
                        let socket = settle(socket, is_blocking)?;
                        none.insert((socket, file))
                    }
                };
                Ok(&opened.0)
            }
            Sockets::Each { common, opened } => {
                let is_first = opened.is_empty();
                match opened.entry(id) {
                    Entry::Occupied(socket) => Ok(socket.into_mut()),
                    Entry::Vacant(place) => {
                        Ok(place.insert(common.open(group, name, is_first, is_blocking)?))
                    }
                }
            }
            Sockets::Steered(steered) => steered.take((group, name), id, is_blocking),
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
            Ok(KeptListener { key, worker, process: None, socket: socket.into(), file })
        };
        match &self.sockets {
            Sockets::Given(_) => Ok(Vec::new()),
            Sockets::Shared { opened, .. } => {
                let opened = opened.iter();
                opened.map(|(it, file)| keep(it, None, file.as_ref().map(|it| it.file))).collect()
            }
            Sockets::Each { common, opened } => {
                let port = common.address.port();
                opened.iter().map(|(id, socket)| keep(socket, Some((id.0, port)), None)).collect()
            }
            Sockets::Steered(Steered { common, places, .. }) => {
                let port = common.address.port();
                let kept = places.iter().map(|place| {
                    let kept = keep(&place.socket, Some((place.worker.0, port)), None)?;
                    Ok(KeptListener { process: place.process(), ..kept })
                });
                kept.collect()
            }
        }
    }

    /// Takes over what an earlier version of the program has opened for this listener; at `any`
    /// address, where the program is that version and would ask for another one by now.
    pub(super) fn adopt(&mut self, group: &str, kept: &mut Vec<KeptListener>, any: bool) {
        if let Some(moved) = kept.iter().find(|one| any && one.is_of(group, &self.name)) {
            self.move_to(&moved.key[2].clone());
        }
        let requested = self.requested.clone();
        let name = &self.name;
        let is_own = |one: &mut KeptListener| one.is_of(group, name) && one.key[2] == requested;
        for KeptListener { worker, process, socket, file, .. } in kept.extract_if(.., is_own) {
            match (&mut self.sockets, worker) {
                (Sockets::Shared { address, opened }, None) => {
                    let file = file.and_then(|file| SocketFile::of(&address.address, file));
                    *opened = Some((socket.into(), file));
                }
                (Sockets::Each { common, opened }, Some((id, port))) => {
                    common.address.set_port(port);
                    opened.insert(WorkerId(id), socket.into());
                }
                (Sockets::Steered(Steered { common, places, .. }), Some((id, port))) => {
                    common.address.set_port(port);
                    let (worker, user) =
                        (WorkerId(id), process.map_or(User::Nobody, User::Process));
                    places.push(Place { socket: socket.into(), worker, user });
                }
                _ => {}
            }
        }
    }

    /// Has it be at another address, which is not opened.
    fn move_to(&mut self, requested: &str) {
        if self.requested == requested {
            return;
        }
        let (listener, address) = (&self.name, requested);
        tracing::warn!(listener, address, wanted = self.requested, "it stays where it was");
        requested.clone_into(&mut self.requested);
        let bare = requested.trim_end_matches(" steered").trim_end_matches("?each");
        match (&mut self.sockets, bare.parse::<std::net::SocketAddr>()) {
            (Sockets::Shared { address, .. }, Ok(inet)) => address.address = inet.into(),
            (Sockets::Shared { address, .. }, Err(_)) => {
                address.address = bare.strip_prefix('@').map_or_else(
                    || Unix::path(bare).into(),
                    |name| Unix::Abstract(name.into()).into(),
                );
            }
            (Sockets::Each { common, .. }, Ok(inet))
            | (Sockets::Steered(Steered { common, .. }), Ok(inet)) => common.address = inet,
            _ => {}
        }
    }

    /// Closes the sockets of workers that are not wanted any more: nobody would accept on them.
    pub(super) fn keep(&mut self, is_wanted: impl Fn(WorkerId) -> bool) {
        if let Sockets::Each { opened, .. } = &mut self.sockets {
            opened.retain(|id, _| is_wanted(*id));
        }
    }

    /// The sockets that processes have for themselves.
    pub(super) fn steered(&mut self) -> Option<&mut Steered> {
        match &mut self.sockets {
            Sockets::Steered(steered) => Some(steered),
            _ => None,
        }
    }
}

impl KeptListener {
    fn is_of(&self, group: &str, name: &str) -> bool {
        self.key[0] == group && self.key[1] == name
    }

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
