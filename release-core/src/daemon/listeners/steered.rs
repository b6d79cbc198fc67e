//! Sockets with one address, one for each process of a group, among which the master says which ones
//! get the new connections.
//!
//! So a process that is about to be told to stop is left alone before, and takes what it was given. It
//! needs sockets of processes: two of one worker serve at the same time while it is replaced. What still
//! waits in the socket of a process that is gone is for the next one that starts.

use std::cmp::Reverse;
use std::os::fd::OwnedFd;

use super::open::Common;
use crate::Error;
use crate::net::Socket;
use crate::supervise::{State, WorkerId};
use crate::sys::socket::{is_readable, steer};

/// A program for more sockets is larger than what `net.core.optmem_max` has long allowed by default,
/// 20 KiB.
const MOST: usize = 800;

#[derive(Debug)]
pub(in crate::daemon) struct Steered {
    pub(super) common: Common,
    /// In the order in which they began to listen: that is how the kernel counts them. So none is
    /// closed before all are.
    pub(super) places: Vec<Place>,
    /// Those that get the new connections, as the kernel was told.
    chosen: Vec<usize>,
}

#[derive(Debug)]
pub(super) struct Place {
    pub(super) socket: OwnedFd,
    /// Whose it is, or was last.
    pub(super) worker: WorkerId,
    pub(super) user: User,
}

/// The process of the worker that has the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    Nobody,
    /// One that is being started.
    Launched,
    Process(i32),
}

impl Place {
    pub(super) fn process(&self) -> Option<i32> {
        match self.user {
            User::Process(pid) => Some(pid),
            User::Nobody | User::Launched => None,
        }
    }
}

impl Steered {
    pub(super) fn new(common: Common) -> Self {
        Self { common, places: Vec::new(), chosen: Vec::new() }
    }

    /// Whether the kernel can be told at all.
    pub(super) fn is_possible(common: &Common) -> Result<(), Error> {
        let socket = Socket::unconnected(&common.address)?.reuse_port(true)?;
        steer(&socket, &[0]).map_err(|error| Error::system("SO_ATTACH_REUSEPORT_CBPF", error))
    }

    /// Opens the first one, if there is none.
    pub(super) fn open(
        &mut self,
        names: (&str, &str),
        id: WorkerId,
        is_blocking: bool,
    ) -> Result<(), Error> {
        if self.places.is_empty() {
            self.add(names, id, is_blocking)?;
        }
        Ok(())
    }

    fn add(
        &mut self,
        (group, listener): (&str, &str),
        worker: WorkerId,
        is_blocking: bool,
    ) -> Result<usize, Error> {
        let is_first = self.places.is_empty();
        let socket = self.common.open(group, listener, is_first, is_blocking)?;
        self.places.push(Place { socket, worker, user: User::Nobody });
        Ok(self.places.len() - 1)
    }

    /// The socket of the next process of a worker: one in which connections wait, if there is one.
    pub(super) fn take(
        &mut self,
        names: (&str, &str),
        id: WorkerId,
        is_blocking: bool,
    ) -> Result<&OwnedFd, Error> {
        let free = self.places.iter().enumerate().filter(|(_, it)| it.user == User::Nobody);
        let best = free.max_by_key(|(index, place)| {
            // Those chosen for the kernel may get one at any moment.
            let is_chosen = self.chosen.contains(index);
            (is_readable(&place.socket), is_chosen, place.worker == id, Reverse(*index))
        });
        let index = match best {
            Some((index, _)) => index,
            None => self.add(names, id, is_blocking)?,
        };
        let place = &mut self.places[index];
        (place.worker, place.user) = (id, User::Launched);
        Ok(&place.socket)
    }

    /// What was launched is this process, or nothing.
    pub(in crate::daemon) fn launched(&mut self, id: WorkerId, pid: Option<i32>) {
        self.pass_on((id, User::Launched), pid.map_or(User::Nobody, User::Process));
    }

    /// A process has ended.
    pub(in crate::daemon) fn ended(&mut self, id: WorkerId, pid: i32) {
        self.pass_on((id, User::Process(pid)), User::Nobody);
    }

    fn pass_on(&mut self, from: (WorkerId, User), to: User) {
        let of_it = self.places.iter_mut().filter(|place| (place.worker, place.user) == from);
        of_it.for_each(|place| place.user = to);
    }

    /// The processes that stop or are about to, and have not accepted all that they were given.
    pub(in crate::daemon) fn backlog(
        &self,
        state: impl Fn(WorkerId, i32) -> Option<State>,
    ) -> impl Iterator<Item = (WorkerId, i32)> {
        self.places.iter().filter_map(move |place| {
            let pid = place.process()?;
            let is_stopping = state(place.worker, pid) == Some(State::Stopping);
            (is_stopping && is_readable(&place.socket)).then_some((place.worker, pid))
        })
    }

    /// Has the kernel give new connections to those that are ready; where nobody is, to those that
    /// start; and where there is nobody at all, they wait where they would have gone.
    pub(in crate::daemon) fn steer(
        &mut self,
        group: &str,
        state: impl Fn(WorkerId, i32) -> Option<State>,
    ) {
        let state = |place: &Place| match place.user {
            User::Nobody => None,
            User::Launched => Some(State::Starting),
            User::Process(pid) => state(place.worker, pid),
        };
        let those = |wanted| {
            let places = self.places.iter().enumerate();
            let those = places.filter(|(_, place)| state(place) == Some(wanted));
            those.map(|(index, _)| index).take(MOST).collect::<Vec<_>>()
        };
        let mut chosen = those(State::Ready);
        if chosen.is_empty() {
            chosen = those(State::Starting);
        }
        let Some(any) = self.places.first().filter(|_| !chosen.is_empty() && chosen != self.chosen)
        else {
            return;
        };
        if let Err(error) = steer(&any.socket, &chosen) {
            let address = &self.common.address;
            tracing::error!(group, %address, %error, "new connections go to all workers");
        }
        self.chosen = chosen;
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::fd::AsRawFd;

    use super::*;
    use crate::sys::socket::accept;

    const NAMES: (&str, &str) = ("web", "http");

    struct World {
        steered: Steered,
        clients: Vec<TcpStream>,
    }

    impl World {
        fn new() -> Self {
            let common = Common { address: "127.0.0.1:0".parse().unwrap(), only_v6: false };
            Steered::is_possible(&common).unwrap();
            Self { steered: Steered::new(common), clients: Vec::new() }
        }

        /// A process of a worker is started: the number of its socket.
        fn start(&mut self, worker: u32, pid: i32) -> usize {
            let worker = WorkerId(worker);
            let socket = self.steered.take(NAMES, worker, false).unwrap().as_raw_fd();
            self.steered.launched(worker, Some(pid));
            let mut places = self.steered.places.iter();
            places.position(|place| place.socket.as_raw_fd() == socket).unwrap()
        }

        /// Those processes are ready, others start, and others stop.
        fn steer(&mut self, ready: &[i32], starting: &[i32]) {
            self.steered.steer("web", |_, pid| match pid {
                _ if ready.contains(&pid) => Some(State::Ready),
                _ if starting.contains(&pid) => Some(State::Starting),
                _ => Some(State::Stopping),
            });
        }

        fn connect(&mut self, count: usize) {
            for _ in 0..count {
                self.clients.push(TcpStream::connect(self.steered.common.address).unwrap());
            }
        }

        /// How many connections wait in each socket; they do not any more.
        fn waiting(&mut self) -> Vec<usize> {
            let of = |place: &Place| std::iter::from_fn(|| accept(&place.socket).ok()).count();
            self.steered.places.iter().map(of).collect()
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
        // Where nobody is ready, they wait for those that start; where nobody is, where they were.
        world.steer(&[], &[12]);
        world.connect(16);
        assert_eq!(world.waiting(), [0, 0, 16]);
        world.steer(&[], &[]);
        world.connect(16);
        assert_eq!(world.waiting(), [0, 0, 16]);
    }

    #[test]
    fn the_kernel_can_be_told_of_so_many() {
        let mut world = World::new();
        world.start(0, 10);
        let all: Vec<_> = (0..MOST).collect();
        steer(&world.steered.places[0].socket, &all).unwrap();
        // A number that no socket has: the kernel chooses.
        world.connect(16);
        assert_eq!(world.waiting(), [16]);
    }

    #[test]
    fn two_processes_of_a_worker_have_two_and_the_next_has_the_first_again() {
        let mut world = World::new();
        assert_eq!([world.start(0, 10), world.start(0, 11)], [0, 1]);
        world.steered.ended(WorkerId(0), 10);
        assert_eq!([world.start(0, 12), world.start(0, 13)], [0, 2]);
        // One that could not be started has none.
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
        assert_eq!(backlog(&world), [(WorkerId(2), 12)]);
        assert_eq!(world.steered.backlog(|_, _| Some(State::Ready)).count(), 0);
        (0..4).for_each(|worker| world.steered.ended(WorkerId(worker), 10 + worker.cast_signed()));
        assert_eq!(backlog(&world), []);
        assert_eq!(world.start(0, 20), 2);
        // Then its own, and then any.
        assert_eq!([world.start(1, 21), world.start(7, 27)], [1, 0]);
        assert_eq!(world.waiting(), [0, 0, 1, 0]);
    }
}
