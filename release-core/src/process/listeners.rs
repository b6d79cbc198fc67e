//! Listening sockets of a group: their settings, and the sockets opened by the master.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

use crate::Error;
use crate::ipc::Descriptor;
use crate::kept;
use crate::net::{AnyAddress, FileIdentity, IN_USE_AT, Inet, ListenOn, Traffic, Unix};
use crate::sys::fds::{duplicate_from, set_blocking, set_cloexec, set_nonblocking};
use crate::sys::socket::{accept_queue, is_listening};
use crate::worker_types::{State, WorkerId};

mod flows;
mod ids;
mod open;
mod shared;
mod slots;
mod steered;
pub(crate) mod stored;
mod watch;

use flows::FlowTable;
use open::{BACKLOG, ReusePortAddress, SHUT_DOWN, SocketFile, listen_again};
use shared::{GivenSocket, OpenSocket, SharedSocket};
use slots::SlotSettings;
use steered::Owner;
pub(crate) use steered::Steered;
pub(crate) use watch::Watch;

/// A named socket for all workers of a group, or one for each worker.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) name: String,
    /// The requested address as text.
    requested: String,
    sockets: Sockets,
    /// Whether accept(2) on the socket blocks, as most programs expect.
    is_blocking: bool,
}

/// A socket for the next version of the program.
pub(crate) type KeptListener = kept::Listener<Descriptor>;

/// The worker id stored for the socket through which the master steers.
const MASTER: u32 = u32::MAX;

#[derive(Debug)]
enum Sockets {
    /// A socket opened by the program.
    Given(GivenSocket),
    /// One for all workers.
    Shared(SharedSocket),
    /// One for each worker, if the kernel does not support steering. The master keeps it while the
    /// worker is restarted, so that queued connections are not lost.
    Each { common: ReusePortAddress, opened: BTreeMap<WorkerId, OwnedFd> },
    /// One for each worker, or for each process of a worker.
    Steered(Steered),
}

impl Listener {
    pub(crate) fn given(name: String, socket: OwnedFd) -> Self {
        Self::new(name, String::new(), Sockets::Given(GivenSocket::new(socket)))
    }

    /// Passes any descriptor on as it is.
    pub(crate) fn inherited(name: String, descriptor: OwnedFd) -> Self {
        Self::new(name, String::new(), Sockets::Given(GivenSocket::untouched(descriptor)))
    }

    pub(crate) fn on(name: String, listen: ListenOn) -> Self {
        let requested = listen.to_string();
        let sockets = match listen.shared_port() {
            Some((address, only_v6)) => {
                let common = ReusePortAddress { address, only_v6 };
                match listen.datagrams() {
                    Some(settings) => Sockets::Steered(Steered::for_datagrams(
                        common,
                        SlotSettings::new(settings),
                    )),
                    None => Sockets::Each { common, opened: BTreeMap::new() },
                }
            }
            None => Sockets::Shared(SharedSocket::new(listen)),
        };
        Self::new(name, requested, sockets)
    }

    fn new(name: String, requested: String, sockets: Sockets) -> Self {
        Self { name, requested, sockets, is_blocking: false }
    }

    /// Makes the listener independent of changes at daemonization. For a command, a socket for each
    /// worker becomes a socket for each process. `size` is the number of workers at the start.
    pub(crate) fn settle(
        &mut self,
        is_blocking: bool,
        is_command: bool,
        size: u32,
    ) -> Result<(), Error> {
        self.is_blocking = is_blocking;
        match &mut self.sockets {
            Sockets::Given(GivenSocket { socket, is_untouched, .. }) => set_cloexec(socket)
                .and_then(|()| match (*is_untouched, is_blocking) {
                    (true, _) => Ok(()),
                    (false, true) => set_blocking(socket),
                    (false, false) => set_nonblocking(socket),
                })
                .map_err(|error| Error::system(format!("listener `{}`", self.name), error)),
            Sockets::Shared(SharedSocket { address, .. }) => {
                if let AnyAddress::Unix(Unix::Path(path)) = &mut address.address {
                    *path = crate::path::absolute(path)?;
                }
                self.requested = address.to_string();
                Ok(())
            }
            Sockets::Each { common, .. } => {
                match Steered::is_possible(common) {
                    Ok(()) => {
                        self.sockets = Sockets::Steered(Steered::new(*common, is_command));
                        self.requested.push_str(if is_command { " steered" } else { "" });
                    }
                    Err(error) => {
                        let (listener, reason) = (&self.name, error.report());
                        let message = "new connections cannot be kept from a worker that stops";
                        log_warning!(listener, reason, "{message}");
                    }
                }
                Ok(())
            }
            Sockets::Steered(steered) => {
                steered.slots.iter_mut().for_each(|slots| slots.set_workers(size));
                Ok(())
            }
        }
    }

    /// Returns whether its sockets must be watched for a shutdown.
    pub(crate) fn is_watched(&self) -> bool {
        match &self.sockets {
            Sockets::Given(given) => given.listens,
            Sockets::Shared(shared) => shared.address.traffic != Traffic::Datagrams,
            Sockets::Each { .. } => true,
            Sockets::Steered(steered) => steered.slots.is_none(),
        }
    }

    /// Returns whether new connections are kept from a process that will be told to stop, and
    /// whether they are kept from all processes of a worker that is scaled away.
    pub(crate) fn steers(&self) -> (bool, bool) {
        match &self.sockets {
            Sockets::Steered(steered) => (steered.of_processes, true),
            _ => (false, false),
        }
    }

    /// Opens the sockets that a worker needs before its start.
    pub(crate) fn open(&mut self, group: &str, id: WorkerId) -> Result<(), Error> {
        match &mut self.sockets {
            Sockets::Steered(steered) => steered.open((group, &self.name), id, self.is_blocking),
            _ => self.socket(group, id).map(drop),
        }
    }

    /// Returns the socket for a worker's next process. Opens it if it is not open, was shut down,
    /// or has lost its file.
    pub(crate) fn socket(&mut self, group: &str, id: WorkerId) -> Result<&OwnedFd, Error> {
        let (name, is_blocking) = (&self.name, self.is_blocking);
        match &mut self.sockets {
            Sockets::Given(given) => given.look((group, name)).map(|()| &given.socket),
            Sockets::Shared(shared) => shared.socket((group, name), is_blocking),
            Sockets::Each { common, opened } => {
                let is_first = opened.is_empty();
                let socket = match opened.entry(id) {
                    Entry::Occupied(socket) => socket.into_mut(),
                    Entry::Vacant(place) => {
                        place.insert(common.open(group, name, is_first, is_blocking)?)
                    }
                };
                look((group, name), socket, common.address)?;
                Ok(socket)
            }
            Sockets::Steered(steered) => steered.take((group, name), id, is_blocking),
        }
    }

    /// Returns the descriptors for the process of a worker whose socket was just requested, in the order
    /// of their [names](Self::names).
    pub(crate) fn for_process(&self, id: WorkerId) -> Vec<BorrowedFd<'_>> {
        match &self.sockets {
            Sockets::Each { opened, .. } => opened.get(&id).map(AsFd::as_fd).into_iter().collect(),
            Sockets::Steered(steered) => steered.given(id),
            Sockets::Given(_) | Sockets::Shared(_) => self.all(),
        }
    }

    /// Returns the names of the descriptors that each process gets.
    pub(crate) fn names(&self) -> Vec<String> {
        let slots = match &self.sockets {
            Sockets::Steered(steered) => steered.slots,
            _ => None,
        };
        let companion = slots.and_then(|slots| slots.companion(&self.name));
        [self.name.clone()].into_iter().chain(companion).collect()
    }

    /// Makes all sockets listen again that were shut down: first those in `shut`, in this order,
    /// then the others.
    pub(crate) fn look(&mut self, group: &str, shut: &[RawFd]) -> Result<(), Error> {
        let names = (group, &*self.name);
        match &mut self.sockets {
            Sockets::Given(given) => given.look(names),
            Sockets::Shared(shared) => shared.look(names, self.is_blocking),
            Sockets::Each { common, opened } => {
                opened.values().try_for_each(|socket| look(names, socket, common.address))
            }
            Sockets::Steered(steered) => steered.listen_again(names, shut),
        }
    }

    /// Returns how often a new socket has replaced the workers' socket. Processes started before
    /// such a replacement receive no connections.
    pub(crate) fn replaced(&self) -> u64 {
        match &self.sockets {
            Sockets::Shared(shared) => shared.replaced,
            _ => 0,
        }
    }

    /// Returns all open sockets.
    pub(crate) fn all(&self) -> Vec<BorrowedFd<'_>> {
        match &self.sockets {
            Sockets::Given(given) => vec![given.socket.as_fd()],
            Sockets::Shared(shared) => shared.opened.iter().map(|it| it.socket.as_fd()).collect(),
            Sockets::Each { opened, .. } => opened.values().map(AsFd::as_fd).collect(),
            Sockets::Steered(steered) => {
                steered.sockets.iter().map(|entry| entry.socket.as_fd()).collect()
            }
        }
    }

    /// Returns the number of connections that wait in its TCP sockets, and the maximum, if there are any.
    pub(crate) fn queue(&self) -> Option<(u32, u32)> {
        let sockets = self.all().into_iter().filter_map(|socket| accept_queue(&socket));
        sockets.reduce(|(waiting, limit), (more, further)| {
            (waiting.saturating_add(more), limit.saturating_add(further))
        })
    }

    /// Returns the key by which the next version recognizes the listener. A socket opened by the
    /// program has none.
    pub(crate) fn key(&self, group: &str) -> Option<[String; 3]> {
        let is_given = matches!(self.sockets, Sockets::Given(_));
        (!is_given).then(|| [group.to_owned(), self.name.clone(), self.requested.clone()])
    }

    /// Returns whether any socket is open.
    pub(crate) fn is_open(&self) -> bool {
        !self.all().is_empty()
    }

    /// Returns the open sockets, except for those opened by the program.
    pub(crate) fn opened(&self, group: &str) -> Result<Vec<KeptListener>, Error> {
        let keep = |socket: &OwnedFd, worker, file: Option<FileIdentity>| {
            let file = file.map(Into::into);
            let socket = duplicate_from(socket.as_fd(), 3)
                .map_err(|error| Error::system("cannot duplicate a listener", error))?;
            let key = [group.to_owned(), self.name.clone(), self.requested.clone()];
            Ok(KeptListener {
                key,
                worker,
                process: None,
                socket: socket.into(),
                file,
                secret: None,
            })
        };
        match &self.sockets {
            Sockets::Given(_) => Ok(Vec::new()),
            Sockets::Shared(SharedSocket { opened, .. }) => {
                let file = |it: &OpenSocket| it.file.as_ref().map(|it| it.file);
                opened.iter().map(|it| keep(&it.socket, None, file(it))).collect()
            }
            Sockets::Each { common, opened } => {
                let port = common.address.port();
                opened.iter().map(|(id, socket)| keep(socket, Some((id.0, port)), None)).collect()
            }
            Sockets::Steered(Steered { common, sockets, ids, flows, .. }) => {
                let port = common.address.port();
                let secret = ids.as_ref().map(|ids| ids.secret.bytes());
                let key = flows.as_ref().map(|flows| flows.key().to_vec());
                let secret = secret.or(key);
                let kept = sockets.iter().map(|entry| {
                    let worker = if entry.owner == Owner::Master { MASTER } else { entry.worker.0 };
                    let kept = keep(&entry.socket, Some((worker, port)), None)?;
                    let secret = secret.clone().filter(|_| entry.owner == Owner::Master);
                    Ok(KeptListener { process: entry.process(), secret, ..kept })
                });
                let files = flows.iter().flat_map(FlowTable::files).map(|(slot, file)| {
                    let file = file.try_clone().map(OwnedFd::from);
                    let file = file.map_err(|error| Error::system("cannot keep flows", error))?;
                    let slot = u32::try_from(slot).unwrap_or(MASTER);
                    let mut kept = keep(&file, Some((slot, port)), None)?;
                    kept.key[1] = flows_of(&self.name);
                    Ok(kept)
                });
                kept.chain(files).collect()
            }
        }
    }

    /// Takes over the sockets that an earlier version of the program has opened for this listener.
    /// With `any`, the address may differ: the program is that version, and its configuration has
    /// changed since.
    pub(crate) fn adopt(&mut self, group: &str, kept: &mut Vec<KeptListener>, any: bool) {
        let is_moved = |one: &&KeptListener| {
            any && one.is_of(group, &self.name) && scheme(&one.key[2]) == scheme(&self.requested)
        };
        if let Some(moved) = kept.iter().find(is_moved) {
            self.move_to(&moved.key[2].clone());
        }
        let requested = self.requested.clone();
        let name = &self.name;
        let files = flows_of(name);
        let is_file = |one: &mut KeptListener| one.is_of(group, &files) && one.key[2] == requested;
        let files: Vec<_> = kept.extract_if(.., is_file).collect();
        let is_own = |one: &mut KeptListener| one.is_of(group, name) && one.key[2] == requested;
        for KeptListener { worker, process, socket, file, secret, .. } in
            kept.extract_if(.., is_own)
        {
            match (&mut self.sockets, worker) {
                (Sockets::Shared(shared), None) => {
                    shared.adopt(socket.into(), file.map(Into::into))
                }
                (Sockets::Each { common, opened }, Some((id, port))) => {
                    common.address.set_port(port);
                    opened.insert(WorkerId(id), socket.into());
                }
                (Sockets::Steered(steered), Some((id, port))) => {
                    let is_master = id == MASTER;
                    let owner = if is_master { Owner::Master } else { steered.owner(process) };
                    steered.adopt_secret(secret.as_deref());
                    steered.adopt(socket.into(), (id, port), owner);
                }
                _ => {}
            }
        }
        if let Sockets::Steered(Steered { flows: Some(flows), .. }) = &mut self.sockets {
            for KeptListener { worker, socket, .. } in files {
                if let Some(slot) = worker.and_then(|(slot, _)| usize::try_from(slot).ok()) {
                    flows.adopt(slot, socket.into());
                }
            }
        }
    }

    /// Changes the address without opening it.
    fn move_to(&mut self, requested: &str) {
        if self.requested == requested {
            return;
        }
        let (listener, address) = (&self.name, requested);
        log_warning!(listener, address, wanted = self.requested, "it stays where it was");
        requested.clone_into(&mut self.requested);
        let bare = bare_address(requested);
        let bare = bare.trim_end_matches(" steered").trim_end_matches("?each");
        match (&mut self.sockets, bare.parse::<std::net::SocketAddr>()) {
            (Sockets::Shared(SharedSocket { address, .. }), Ok(inet)) => {
                address.address = inet.into()
            }
            (Sockets::Shared(SharedSocket { address, .. }), Err(_)) => {
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

    /// Closes the sockets of workers that are no longer wanted, or keeps new connections from them.
    /// The last socket stays open while the group exists, to keep the address.
    pub(crate) fn settle_users(
        &mut self,
        group: &str,
        state: impl Fn(WorkerId, Option<i32>) -> Option<State>,
    ) {
        match &mut self.sockets {
            Sockets::Each { opened, .. } => {
                let wanted = |id: &WorkerId| state(*id, None) == Some(State::Ready);
                let last = opened.keys().find(|id| wanted(id)).or_else(|| opened.keys().next());
                let last = last.copied();
                opened.retain(|id, _| wanted(id) || Some(*id) == last);
            }
            Sockets::Steered(steered) => {
                steered.steer((group, &self.name), self.is_blocking, state);
            }
            Sockets::Given(_) | Sockets::Shared(_) => {}
        }
    }

    /// Returns whether a process has its datagrams joined, which its connections do not bear.
    pub(crate) fn joins_datagrams(&self, id: WorkerId, pid: i32) -> bool {
        match &self.sockets {
            Sockets::Steered(steered) => steered.joins_datagrams(id, pid),
            _ => false,
        }
    }

    /// Returns the steered sockets, if the listener has such.
    pub(crate) fn steered(&mut self) -> Option<&mut Steered> {
        match &mut self.sockets {
            Sockets::Steered(steered) => Some(steered),
            _ => None,
        }
    }
}

/// Returns the name under which an upgrade keeps the flows of a listener.
fn flows_of(listener: &str) -> String {
    format!("{listener}.flows")
}

/// Returns the kind of socket in the text of an address; streams have none.
fn scheme(requested: &str) -> &str {
    requested.split_once("://").map_or("", |(scheme, _)| scheme)
}

fn bare_address(requested: &str) -> &str {
    requested.split_once("://").map_or(requested, |(_, address)| address)
}

/// Makes a TCP socket listen again if it was shut down.
fn look((group, listener): (&str, &str), socket: &OwnedFd, address: Inet) -> Result<(), Error> {
    if is_listening(socket) {
        return Ok(());
    }
    listen_again(socket, Some(address), BACKLOG)?;
    log_warning!(group, listener, %address, "{SHUT_DOWN}");
    Ok(())
}

impl KeptListener {
    fn is_of(&self, group: &str, name: &str) -> bool {
        self.key[0] == group && self.key[1] == name
    }

    /// Closes a socket that no listener requests any more.
    ///
    /// Returns the socket if it must stay open for a while: the numbers of slots must not change while old
    /// processes have some of them, and closing one moves another to its place.
    pub(crate) fn give_up(self) -> Option<Descriptor> {
        let [group, listener, address] = &self.key;
        tracing::info!(group, listener, address, "not listening any more");
        if self.worker.is_some() && listener.ends_with(".flows") {
            // Nobody else tells its process that no new senders come.
            let place = i64::try_from(IN_USE_AT).unwrap_or_default();
            let _ = nix::sys::uio::pwrite(&self.socket, &[0], place);
        }
        if let Some(file) = self.file {
            let path = bare_address(address).into();
            drop(SocketFile { path, file: file.into(), stays: false });
        }
        let is_slot = self.worker.is_some() && address.starts_with("udp");
        is_slot.then_some(self.socket)
    }
}
