//! Sockets that share an address, one for each worker or each process of a group. The master
//! selects the sockets that receive new connections.
//!
//! Before a process is told to stop, it receives no new connections, and handles its queued ones.
//! It needs a socket of its own, because two processes of a worker serve at the same time during a
//! replacement. With one socket for each worker, both processes share it, and only a worker that is
//! scaled away is spared. The next process that starts receives the connections queued in an
//! abandoned socket.

use std::cmp::Reverse;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use super::flows::FlowTable;
use super::ids::SlotIds;
use super::open::{BACKLOG, ReusePortAddress, SHUT_DOWN, listen_again};
use super::slots::{SlotSettings, all_in_use, empty, joins_datagrams};
use crate::Error;
use crate::net::{IdSecret, Socket, SteeredBy, local};
use crate::sys::socket::{accept, is_listening, is_readable};
use crate::sys::steering::{steer, steer_by_quic_ids};
use crate::worker_types::{State, WorkerId};

/// Maximum number of selected sockets. A larger filter program would exceed the long-standing
/// default of `net.core.optmem_max`, 20 KiB.
const MOST: usize = 800;

#[derive(Debug)]
pub(crate) struct Steered {
    pub(super) common: ReusePortAddress,
    /// Whether each process has a socket, instead of each worker.
    pub(super) of_processes: bool,
    /// In the order in which they began to listen, which is the numbering of the kernel. Therefore
    /// none is closed before all are.
    pub(super) sockets: Vec<SteeredSocket>,
    /// The sockets that receive new connections, as last set in the kernel.
    chosen: Vec<usize>,
    /// The settings of sockets for datagrams, all of which are opened at once.
    pub(super) slots: Option<SlotSettings>,
    /// The ids of QUIC connections, if they select the sockets.
    pub(super) ids: Option<SlotIds>,
    /// The flows, if they select the sockets.
    pub(super) flows: Option<FlowTable>,
}

#[derive(Debug)]
pub(super) struct SteeredSocket {
    pub(super) socket: OwnedFd,
    /// The current worker, or the last one.
    pub(super) worker: WorkerId,
    pub(super) owner: Owner,
}

/// The owner of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The master alone, which steers through it; workers have no right to steer.
    Master,
    Nobody,
    /// A process of the worker that is being started.
    Launched,
    /// This process of the worker.
    Process(i32),
    /// All processes of the worker.
    Worker,
}

impl SteeredSocket {
    pub(super) fn process(&self) -> Option<i32> {
        match self.owner {
            Owner::Process(pid) => Some(pid),
            Owner::Master | Owner::Nobody | Owner::Launched | Owner::Worker => None,
        }
    }

    /// Returns the state of the owner; `None` without an owner.
    fn state(&self, of: &impl Fn(WorkerId, Option<i32>) -> Option<State>) -> Option<State> {
        match self.owner {
            Owner::Master | Owner::Nobody => None,
            Owner::Launched => Some(State::Starting),
            Owner::Process(pid) => of(self.worker, Some(pid)),
            Owner::Worker => of(self.worker, None),
        }
    }
}

impl Steered {
    pub(super) fn new(common: ReusePortAddress, of_processes: bool) -> Self {
        Self {
            common,
            of_processes,
            sockets: Vec::new(),
            chosen: Vec::new(),
            slots: None,
            ids: None,
            flows: None,
        }
    }

    pub(super) fn for_datagrams(common: ReusePortAddress, slots: SlotSettings) -> Self {
        Self { slots: Some(slots), ..Self::new(common, true) }
    }

    /// Returns an error if the kernel does not support steering.
    pub(super) fn is_possible(common: &ReusePortAddress) -> Result<(), Error> {
        let socket = Socket::unconnected(&common.address)?.reuse_port(true)?;
        steer(&socket, &[0]).map_err(|error| Error::system("SO_ATTACH_REUSEPORT_CBPF", error))
    }

    /// Takes over the secret of an earlier version: with another one, the ids of living connections
    /// would mean nothing.
    pub(super) fn adopt_secret(&mut self, secret: Option<&[u8]>) {
        let (Some(slots), Some(secret)) = (self.slots, secret) else { return };
        match slots.steered_by() {
            SteeredBy::Chance => {}
            SteeredBy::QuicIds => {
                let secret = secret.try_into().ok();
                self.ids = secret.map(|secret| SlotIds::with(IdSecret::of(secret)));
            }
            SteeredBy::Flows => self.flows = secret.try_into().ok().map(FlowTable::with),
        }
    }

    /// Returns the owner of a socket that this process has, or none.
    pub(super) fn owner(&self, process: Option<i32>) -> Owner {
        match process {
            Some(pid) => Owner::Process(pid),
            None if self.of_processes => Owner::Nobody,
            None => Owner::Worker,
        }
    }

    /// Takes over a socket of an earlier version: that of a process, a worker or the master, with its port.
    pub(super) fn adopt(&mut self, socket: OwnedFd, (id, port): (u32, u16), owner: Owner) {
        self.common.address.set_port(port);
        self.sockets.push(SteeredSocket { socket, worker: WorkerId(id), owner });
    }

    /// Adds the socket of the next slot, or the master's after the last one.
    pub(super) fn adopt_slot(&mut self, socket: OwnedFd) {
        if let Ok(address) = local(&socket) {
            self.common.address = address;
        }
        let is_last = self.slots.is_some_and(|slots| self.sockets.len() + 1 == slots.sockets());
        let owner = if is_last { Owner::Master } else { Owner::Nobody };
        self.sockets.push(SteeredSocket { socket, worker: WorkerId(0), owner });
    }

    /// Opens the socket of a worker; if each process has one, only the first socket of the group.
    pub(super) fn open(
        &mut self,
        names: (&str, &str),
        id: WorkerId,
        is_blocking: bool,
    ) -> Result<(), Error> {
        match self.slots.map(|slots| slots.steered_by()) {
            Some(SteeredBy::QuicIds) if self.ids.is_none() => self.ids = Some(SlotIds::new()?),
            Some(SteeredBy::Flows) if self.flows.is_none() => self.flows = Some(FlowTable::new()?),
            _ => {}
        }
        if !self.of_processes {
            self.take(names, id, is_blocking)?;
        } else if self.sockets.is_empty() {
            self.add(names, id, is_blocking)?;
        }
        Ok(())
    }

    /// Opens another socket. The first one is selected for all connections before it listens, and
    /// the master's socket listens only afterwards: no connection ever arrives there.
    fn add(
        &mut self,
        (group, listener): (&str, &str),
        worker: WorkerId,
        is_blocking: bool,
    ) -> Result<usize, Error> {
        if self.slots.is_some() {
            return self.open_slots((group, listener), worker, is_blocking);
        }
        let is_first = self.sockets.is_empty();
        let socket = self.common.open_steered(group, listener, is_first, is_blocking)?;
        self.sockets.push(SteeredSocket { socket, worker, owner: Owner::Nobody });
        let index = self.sockets.len() - 1;
        if !self.sockets.iter().any(|entry| entry.owner == Owner::Master) {
            let socket = self.common.open_for_master(group, listener)?;
            self.sockets.push(SteeredSocket { socket, worker, owner: Owner::Master });
        }
        Ok(index)
    }

    /// Opens all sockets for datagrams, if none is open. Returns the number of the first.
    fn open_slots(
        &mut self,
        names: (&str, &str),
        worker: WorkerId,
        is_blocking: bool,
    ) -> Result<usize, Error> {
        let Some(slots) = self.slots.filter(|_| self.sockets.is_empty()) else {
            return Err(all_in_use(names, self.sockets.len().saturating_sub(1)));
        };
        let opened = slots.open(&mut self.common, names, is_blocking)?;
        let entry = |socket| SteeredSocket { socket, worker, owner: Owner::Nobody };
        self.sockets = opened.into_iter().map(entry).collect();
        self.sockets.last_mut().into_iter().for_each(|last| last.owner = Owner::Master);
        Ok(0)
    }

    /// Returns the socket for the next process of a worker: its own, or preferably one with queued
    /// connections.
    pub(super) fn take(
        &mut self,
        names: (&str, &str),
        id: WorkerId,
        is_blocking: bool,
    ) -> Result<&OwnedFd, Error> {
        let mut found = self.find(id);
        let is_deaf = |index: usize| !is_listening(&self.sockets[index].socket);
        if self.slots.is_none() && found.is_some_and(is_deaf) {
            self.listen_again(names, &[])?;
            found = self.find(id);
        }
        let index = found.map_or_else(|| self.add(names, id, is_blocking), Ok)?;
        let owner = if self.of_processes { Owner::Launched } else { Owner::Worker };
        let entry = &mut self.sockets[index];
        if let Some(slots) = self.slots {
            slots.prepare(&entry.socket)?;
        }
        if let Some(ids) = &mut self.ids {
            ids.prepare(index)?;
        }
        if let Some(flows) = &mut self.flows {
            flows.prepare(index)?;
        }
        // Of connections and flows of a process that has ended: they are others' now.
        let is_by_sender = self.ids.is_some() || self.flows.is_some();
        if is_by_sender && !self.chosen.contains(&index) {
            empty(&entry.socket);
        }
        (entry.worker, entry.owner) = (id, owner);
        Ok(&entry.socket)
    }

    /// Returns the descriptors of the process that is being started for a worker.
    pub(super) fn given(&self, id: WorkerId) -> Vec<BorrowedFd<'_>> {
        let is_its = |entry: &SteeredSocket| {
            entry.worker == id && matches!(entry.owner, Owner::Launched | Owner::Worker)
        };
        let Some(index) = self.sockets.iter().position(is_its) else { return Vec::new() };
        let ids = self.ids.as_ref().and_then(|ids| ids.file(index));
        let flows = self.flows.as_ref().and_then(|flows| flows.file(index));
        [self.sockets[index].socket.as_fd()].into_iter().chain(ids).chain(flows).collect()
    }

    /// Tells the processes of a pool that stops that new senders need not be waited for.
    pub(crate) fn end_flows(&mut self) {
        self.flows.iter().for_each(FlowTable::end);
    }

    /// Returns whether processes hold flows that others would otherwise have. They end without an event.
    pub(crate) fn holds_flows(&self) -> bool {
        self.flows.as_ref().is_some_and(|flows| flows.is_held)
    }

    /// Returns whether the kernel joins datagrams for the socket of this process, and gives all of them
    /// to the process of the first one.
    pub(crate) fn joins_datagrams(&self, id: WorkerId, pid: i32) -> bool {
        let is_its = |entry: &&SteeredSocket| entry.worker == id && entry.process() == Some(pid);
        let socket = self.sockets.iter().find(is_its).filter(|_| self.ids.is_some());
        socket.is_some_and(|entry| joins_datagrams(&entry.socket))
    }

    fn find(&self, id: WorkerId) -> Option<usize> {
        let own = self.sockets.iter().position(|it| (it.worker, it.owner) == (id, Owner::Worker));
        own.or_else(|| self.free(id))
    }

    /// Returns the best socket without an owner for this worker.
    fn free(&self, id: WorkerId) -> Option<usize> {
        let free = self.sockets.iter().enumerate().filter(|(_, it)| it.owner == Owner::Nobody);
        let best = free.max_by_key(|(index, entry)| {
            // A selected socket can receive a connection at any moment.
            let is_chosen = self.chosen.contains(index);
            (is_readable(&entry.socket), is_chosen, entry.worker == id, Reverse(*index))
        });
        best.map(|(index, _)| index)
    }

    /// Records the outcome of a launch: this process, or a failure.
    pub(crate) fn launched(&mut self, id: WorkerId, pid: Option<i32>) {
        self.pass_on((id, Owner::Launched), pid.map_or(Owner::Nobody, Owner::Process));
    }

    /// Records the end of a process.
    pub(crate) fn ended(&mut self, id: WorkerId, pid: i32) {
        self.pass_on((id, Owner::Process(pid)), Owner::Nobody);
    }

    fn pass_on(&mut self, from: (WorkerId, Owner), to: Owner) {
        let of_it = self.sockets.iter_mut().filter(|entry| (entry.worker, entry.owner) == from);
        of_it.for_each(|entry| entry.owner = to);
    }

    /// Returns the workers and processes that stop, or are about to, and still have queued
    /// connections.
    pub(crate) fn backlog(
        &self,
        state: impl Fn(WorkerId, Option<i32>) -> Option<State>,
    ) -> impl Iterator<Item = (WorkerId, Option<i32>)> {
        self.sockets.iter().filter_map(move |entry| {
            let is_stopping = entry.state(&state) == Some(State::Stopping);
            (is_stopping && is_readable(&entry.socket)).then(|| (entry.worker, entry.process()))
        })
    }

    /// Selects the sockets for new connections, by their owners: all that are ready; if there are
    /// none, all that start; without any owner, a single socket, in which connections wait for the
    /// next process.
    ///
    /// Sets the selection in the kernel each time: any process with such a socket can remove it.
    pub(crate) fn steer(
        &mut self,
        names: (&str, &str),
        is_blocking: bool,
        state: impl Fn(WorkerId, Option<i32>) -> Option<State>,
    ) {
        let is_gone =
            |entry: &SteeredSocket| entry.owner == Owner::Worker && entry.state(&state).is_none();
        let gone = self.sockets.iter_mut().filter(|entry| is_gone(entry));
        gone.for_each(|entry| entry.owner = Owner::Nobody);
        let those = |wanted| {
            let sockets = self.sockets.iter().enumerate();
            let those = sockets.filter(|(_, entry)| entry.state(&state) == Some(wanted));
            those.map(|(index, _)| index).take(MOST).collect::<Vec<_>>()
        };
        let mut chosen = those(State::Ready);
        if chosen.is_empty() {
            chosen = those(State::Starting);
        }
        if chosen.is_empty() && !self.sockets.is_empty() {
            chosen = self.waiting_room(names, is_blocking).into_iter().collect();
        }
        self.select(names.0, chosen);
    }

    /// Returns the socket in which connections wait while there is no owner. The next process gets
    /// it.
    fn waiting_room(&mut self, names: (&str, &str), is_blocking: bool) -> Option<usize> {
        let worker = self.sockets.first()?.worker;
        let found = self.free(worker).map_or_else(|| self.add(names, worker, is_blocking), Ok);
        let report = |error: &Error| {
            let (group, reason) = (names.0, error.report());
            log_error!(group, reason, "new connections may be lost: nobody is there for them");
        };
        found.inspect_err(report).ok()
    }

    fn select(&mut self, group: &str, chosen: Vec<usize>) {
        let Some(master) = self.sockets.iter().find(|entry| entry.owner == Owner::Master) else {
            return;
        };
        let address = &self.common.address;
        if self.slots.is_none() && accept(&master.socket).is_ok() {
            let message =
                "a worker has told the kernel to give connections to anybody: one is lost";
            log_error!(group, %address, "{message}");
        }
        if chosen.is_empty() {
            return;
        }
        let has_process = |owner| !matches!(owner, Owner::Master | Owner::Nobody);
        let all = self.sockets.iter().enumerate();
        let living = all.filter(|(_, entry)| has_process(entry.owner)).map(|(index, _)| index);
        let steered = match (&mut self.ids, &mut self.flows) {
            (Some(ids), _) => {
                let living: Vec<_> = living.collect();
                ids.set_living(&living).and_then(|()| {
                    steer_by_quic_ids(&master.socket, ids.secret.mixer(), &living, &chosen)
                })
            }
            (None, Some(flows)) => {
                flows.steer(&master.socket, &living.collect::<Vec<_>>(), &chosen)
            }
            (None, None) => steer(&master.socket, &chosen),
        };
        if let Err(error) = steered {
            log_error!(group, %address, %error, "new connections go to all workers");
        }
        self.chosen = chosen;
    }

    /// Makes sockets listen again that were shut down. Those in `shut` were shut down in this
    /// order: each time, the kernel has moved the last socket to the free place.
    ///
    /// # Errors
    ///
    /// Returns an error if a socket cannot listen again.
    pub(super) fn listen_again(
        &mut self,
        (group, listener): (&str, &str),
        shut: &[RawFd],
    ) -> Result<(), Error> {
        if self.slots.is_some() {
            return Ok(());
        }
        let mut deaf = Vec::new();
        for number in shut {
            let is_it = |entry: &SteeredSocket| entry.socket.as_raw_fd() == *number;
            if let Some(index) = self.sockets.iter().position(is_it)
                && !is_listening(&self.sockets[index].socket)
            {
                deaf.push(self.sockets.swap_remove(index));
            }
        }
        while let Some(index) = self.sockets.iter().position(|it| !is_listening(&it.socket)) {
            deaf.push(self.sockets.swap_remove(index));
        }
        if deaf.is_empty() {
            return Ok(());
        }
        let address = self.common.address;
        let (mut outcome, mut lost) = (Ok(()), Vec::new());
        for entry in deaf {
            let is_master = entry.owner == Owner::Master;
            match listen_again(&entry.socket, Some(address), if is_master { 0 } else { BACKLOG }) {
                Ok(()) => self.sockets.push(entry),
                Err(error) => {
                    outcome = Err(error);
                    lost.push(entry);
                }
            }
        }
        self.sockets.append(&mut lost);
        // The numbers belong to other sockets now.
        self.chosen.clear();
        log_warning!(group, listener, %address, "{SHUT_DOWN}");
        outcome
    }
}

#[cfg(test)]
mod tests;
