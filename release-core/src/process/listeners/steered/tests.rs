//! Steered sockets in the kernel: where connections go.

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
        let common = ReusePortAddress { address: "127.0.0.1:0".parse().unwrap(), only_v6: false };
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
        let of = |entry: &SteeredSocket| std::iter::from_fn(|| accept(&entry.socket).ok()).count();
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
            let expected: Vec<_> = world.workers().map(|it| if of(it) { 8 } else { 0 }).collect();
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
