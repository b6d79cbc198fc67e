//! Sockets that share an address, one for each worker or each process of a group. The master
//! selects the sockets that receive new connections.
//!
//! Before a process is told to stop, it receives no new connections, and handles its queued ones.
//! It needs a socket of its own, because two processes of a worker serve at the same time during a
//! replacement. With one socket for each worker, both processes share it, and only a worker that is
//! scaled away is spared. The next process that starts receives the connections queued in an
//! abandoned socket.

use std::cmp::Reverse;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::open::{BACKLOG, ReusePortAddress, SHUT_DOWN, listen_again};
use crate::Error;
use crate::net::Socket;
use crate::sys::socket::{accept, is_listening, is_readable, steer};
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
        Self { common, of_processes, sockets: Vec::new(), chosen: Vec::new() }
    }

    /// Returns an error if the kernel does not support steering.
    pub(super) fn is_possible(common: &ReusePortAddress) -> Result<(), Error> {
        let socket = Socket::unconnected(&common.address)?.reuse_port(true)?;
        steer(&socket, &[0]).map_err(|error| Error::system("SO_ATTACH_REUSEPORT_CBPF", error))
    }

    /// Opens the socket of a worker; if each process has one, only the first socket of the group.
    pub(super) fn open(
        &mut self,
        names: (&str, &str),
        id: WorkerId,
        is_blocking: bool,
    ) -> Result<(), Error> {
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

    /// Returns the socket for the next process of a worker: its own, or preferably one with queued
    /// connections.
    pub(super) fn take(
        &mut self,
        names: (&str, &str),
        id: WorkerId,
        is_blocking: bool,
    ) -> Result<&OwnedFd, Error> {
        let mut found = self.find(id);
        if found.is_some_and(|index| !is_listening(&self.sockets[index].socket)) {
            self.listen_again(names, &[])?;
            found = self.find(id);
        }
        let index = found.map_or_else(|| self.add(names, id, is_blocking), Ok)?;
        let owner = if self.of_processes { Owner::Launched } else { Owner::Worker };
        let entry = &mut self.sockets[index];
        (entry.worker, entry.owner) = (id, owner);
        Ok(&entry.socket)
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
        if accept(&master.socket).is_ok() {
            let message =
                "a worker has told the kernel to give connections to anybody: one is lost";
            log_error!(group, %address, "{message}");
        }
        if chosen.is_empty() {
            return;
        }
        if let Err(error) = steer(&master.socket, &chosen) {
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
mod tests {
    use std::net::TcpStream;

    use super::*;
    use crate::sys::socket::forget_steering;

    const NAMES: (&str, &str) = ("web", "http");

    struct World {
        steered: Steered,
        clients: Vec<TcpStream>,
    }

    impl World {
        fn new() -> Self {
            let common =
                ReusePortAddress { address: "127.0.0.1:0".parse().unwrap(), only_v6: false };
            Steered::is_possible(&common).unwrap();
            Self { steered: Steered::new(common, true), clients: Vec::new() }
        }

        /// Returns the sockets of workers. Asserts that the master's own has no connection.
        fn workers(&self) -> impl Iterator<Item = &SteeredSocket> {
            let master = self.steered.sockets.iter().find(|entry| entry.owner == Owner::Master);
            master.into_iter().for_each(|master| assert!(!is_readable(&master.socket)));
            self.steered.sockets.iter().filter(|entry| entry.owner != Owner::Master)
        }

        /// Starts a process of a worker. Returns the number of its socket.
        fn start(&mut self, worker: u32, pid: i32) -> usize {
            let worker = WorkerId(worker);
            let socket = self.steered.take(NAMES, worker, false).unwrap().as_raw_fd();
            self.steered.launched(worker, Some(pid));
            self.workers().position(|entry| entry.socket.as_raw_fd() == socket).unwrap()
        }

        /// Steers while these processes are ready, these start, and all others stop.
        fn steer(&mut self, ready: &[i32], starting: &[i32]) {
            self.steered.steer(NAMES, false, |_, pid| match pid {
                Some(pid) if ready.contains(&pid) => Some(State::Ready),
                Some(pid) if starting.contains(&pid) => Some(State::Starting),
                _ => Some(State::Stopping),
            });
        }

        fn connect(&mut self, count: usize) {
            for _ in 0..count {
                self.clients.push(TcpStream::connect(self.steered.common.address).unwrap());
            }
        }

        /// Accepts all queued connections. Returns their number for each socket.
        fn waiting(&mut self) -> Vec<usize> {
            let of =
                |entry: &SteeredSocket| std::iter::from_fn(|| accept(&entry.socket).ok()).count();
            self.workers().map(of).collect()
        }
    }

    #[test]
    fn new_connections_go_to_those_that_are_ready() {
        let mut world = World::new();
        assert_eq!([world.start(0, 10), world.start(1, 11), world.start(2, 12)], [0, 1, 2]);
        world.steer(&[10, 12], &[11]);
        world.connect(64);
        let waiting = world.waiting();
        assert!(waiting[0] > 8 && waiting[1] == 0 && waiting[2] > 8, "{waiting:?}");
        world.steer(&[11], &[]);
        world.connect(16);
        assert_eq!(world.waiting(), [0, 16, 0]);
        // Without a ready process, connections wait for a starting one; without any, for the next.
        world.steer(&[], &[12]);
        world.connect(16);
        assert_eq!(world.waiting(), [0, 0, 16]);
        world.steer(&[], &[]);
        world.connect(16);
        world.steer(&[], &[]);
        assert_eq!(world.start(3, 13), 3);
        assert_eq!(world.waiting(), [0, 0, 0, 16]);
    }

    #[test]
    fn the_kernel_can_be_told_of_so_many() {
        let mut world = World::new();
        world.start(0, 10);
        let mut chosen = vec![0];
        chosen.resize(MOST, 0);
        world.steered.select("web", chosen);
        world.connect(16);
        assert_eq!(world.waiting(), [16]);
    }

    #[test]
    fn two_processes_of_a_worker_have_two_and_the_next_has_the_first_again() {
        let mut world = World::new();
        assert_eq!([world.start(0, 10), world.start(0, 11)], [0, 1]);
        world.steered.ended(WorkerId(0), 10);
        assert_eq!([world.start(0, 12), world.start(0, 13)], [0, 2]);
        // A process that could not be started has no socket.
        world.steered.ended(WorkerId(0), 13);
        world.steered.take(NAMES, WorkerId(0), false).unwrap();
        world.steered.launched(WorkerId(0), None);
        assert_eq!(world.start(1, 14), 2);
    }

    #[test]
    fn a_socket_in_which_connections_wait_is_taken_first() {
        let mut world = World::new();
        assert_eq!(
            [(0, 10), (1, 11), (2, 12), (3, 13)].map(|(id, pid)| world.start(id, pid)),
            [0, 1, 2, 3]
        );
        world.steer(&[12], &[]);
        world.connect(1);
        let backlog =
            |world: &World| world.steered.backlog(|_, _| Some(State::Stopping)).collect::<Vec<_>>();
        assert_eq!(backlog(&world), [(WorkerId(2), Some(12))]);
        assert_eq!(world.steered.backlog(|_, _| Some(State::Ready)).count(), 0);
        (0..4).for_each(|worker| world.steered.ended(WorkerId(worker), 10 + worker.cast_signed()));
        assert_eq!(backlog(&world), []);
        assert_eq!(world.start(0, 20), 2);
        // Then its own is taken, and then any.
        assert_eq!([world.start(1, 21), world.start(7, 27)], [1, 0]);
        assert_eq!(world.waiting(), [0, 0, 1, 0]);
    }

    #[test]
    fn a_worker_can_neither_take_the_steering_over_nor_undo_it_for_good() {
        let mut world = World::new();
        assert_eq!([world.start(0, 10), world.start(1, 11)], [0, 1]);
        world.steer(&[10, 11], &[]);
        for entry in world.workers() {
            let refused = steer(&entry.socket, &[0]).unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        }
        let entry = world.workers().next().unwrap();
        forget_steering(&entry.socket).unwrap();
        world.steer(&[11], &[]);
        world.connect(64);
        assert_eq!(world.waiting(), [0, 64]);
    }

    #[test]
    fn those_that_were_shut_down_listen_again_and_are_told_apart() {
        let mut world = World::new();
        for worker in 0..5 {
            world.start(worker, 10 + worker.cast_signed());
        }
        for those in [&[1, 3][..], &[4, 0, 2], &[2], &[0, 1, 2, 3, 4]] {
            let sockets: Vec<_> = world.workers().map(|entry| entry.socket.as_raw_fd()).collect();
            let shut: Vec<_> = those.iter().map(|index| sockets[*index]).collect();
            shut.iter().for_each(|number| {
                nix::sys::socket::shutdown(*number, nix::sys::socket::Shutdown::Both).unwrap();
            });
            world.steered.listen_again(NAMES, &shut).unwrap();
            for pid in 10..15 {
                world.steer(&[pid], &[]);
                world.connect(8);
                let of = |entry: &SteeredSocket| entry.process() == Some(pid);
                let expected: Vec<_> =
                    world.workers().map(|it| if of(it) { 8 } else { 0 }).collect();
                assert_eq!(world.waiting(), expected, "{pid} after {those:?}");
            }
        }
    }

    #[test]
    fn a_worker_keeps_its_socket_and_one_that_is_gone_leaves_it_to_the_next() {
        let mut world = World::new();
        world.steered.of_processes = false;
        let take = |world: &mut World, worker| {
            world.steered.take(NAMES, WorkerId(worker), false).unwrap().as_raw_fd()
        };
        let sockets = [take(&mut world, 0), take(&mut world, 1)];
        assert_eq!([take(&mut world, 0), take(&mut world, 1)], sockets);
        let steer = |world: &mut World, states: [Option<State>; 2]| {
            world.steered.steer(NAMES, false, |id, _| states[id.0 as usize]);
        };
        steer(&mut world, [Some(State::Ready), Some(State::Ready)]);
        world.connect(64);
        assert!(world.waiting().iter().all(|count| *count > 8));
        steer(&mut world, [Some(State::Ready), Some(State::Stopping)]);
        world.connect(16);
        assert_eq!(world.waiting(), [16, 0]);
        // Without a wanted worker, connections wait in a free socket, which the next worker gets.
        steer(&mut world, [Some(State::Stopping), None]);
        world.connect(16);
        steer(&mut world, [None, None]);
        world.connect(16);
        assert_eq!(take(&mut world, 0), sockets[1]);
        assert_eq!(world.waiting(), [0, 32]);
    }
}
