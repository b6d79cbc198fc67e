//! Slots in the kernel: where datagrams go.

use std::net::UdpSocket;

use super::*;
use crate::net::{QuicIds, Steer};
use crate::process::listeners::steered::{Owner, Steered};
use crate::sys::socket::{forget_steering, is_readable};
use crate::worker_types::{State, WorkerId};

const NAMES: (&str, &str) = ("dns", "port");

struct World {
    steered: Steered,
    client: UdpSocket,
}

impl World {
    fn at(address: &str, slots: u16) -> Self {
        let common = ReusePortAddress { address: address.parse().unwrap(), only_v6: false };
        Self::with(common, Steer::default(), slots)
    }

    fn with(common: ReusePortAddress, steer: Steer, slots: u16) -> Self {
        let settings = DatagramSettings { receive_buffer: 1 << 20, slots: Some(slots), steer };
        let mut steered = Steered::for_datagrams(common, SlotSettings::new(settings));
        steered.open(NAMES, WorkerId(0), false).unwrap();
        let client = UdpSocket::bind((steered.common.address.ip(), 0)).unwrap();
        Self { steered, client }
    }

    fn new() -> Self {
        Self::at("127.0.0.1:0", 8)
    }

    /// Starts a process of a worker. Returns the number of its slot.
    fn start(&mut self, worker: u32, pid: i32) -> usize {
        let worker = WorkerId(worker);
        let socket = self.steered.take(NAMES, worker, false).unwrap().as_raw_fd();
        self.steered.launched(worker, Some(pid));
        self.steered.sockets.iter().position(|it| it.socket.as_raw_fd() == socket).unwrap()
    }

    /// Steers while these processes are ready, and all others stop.
    fn steer(&mut self, ready: &[i32]) {
        self.steered.steer(NAMES, false, |_, pid| match pid {
            Some(pid) if ready.contains(&pid) => Some(State::Ready),
            _ => Some(State::Stopping),
        });
    }

    fn send(&self, count: usize) {
        for _ in 0..count {
            self.client.send_to(b"?", self.steered.common.address).unwrap();
        }
    }

    /// Reads all queued datagrams. Returns their number for each slot. The master's socket has none.
    fn waiting(&self) -> Vec<usize> {
        let of = |socket: &OwnedFd| {
            let next = || recv(socket.as_raw_fd(), &mut [0; 16], MsgFlags::MSG_DONTWAIT).ok();
            std::iter::from_fn(next).count()
        };
        let all = self.steered.sockets.iter();
        let mut counts: Vec<_> = all.map(|entry| of(&entry.socket)).collect();
        assert_eq!(counts.pop(), Some(0), "the master's");
        counts
    }
}

#[test]
fn new_datagrams_go_to_processes_that_are_ready() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut world = World::at(address, 8);
        assert_eq!([world.start(0, 10), world.start(1, 11), world.start(2, 12)], [0, 1, 2]);
        world.steer(&[10, 12]);
        world.send(64);
        let waiting = world.waiting();
        assert!(waiting[0] > 8 && waiting[1] == 0 && waiting[2] > 8, "{waiting:?}");
        assert_eq!(waiting.iter().sum::<usize>(), 64);
        world.steer(&[11]);
        world.send(16);
        assert_eq!(world.waiting(), [0, 16, 0, 0, 0, 0, 0, 0]);
    }
}

#[test]
fn without_a_process_datagrams_wait_for_the_next_one() {
    let mut world = World::new();
    // Before the first process and the first selection.
    world.send(16);
    assert_eq!(world.start(0, 10), 0);
    world.steer(&[10]);
    assert_eq!(world.waiting().iter().sum::<usize>(), 16);
    world.steered.ended(WorkerId(0), 10);
    world.steer(&[]);
    world.send(16);
    let place = world.start(3, 13);
    let waiting = world.waiting();
    assert_eq!((waiting[place], waiting.iter().sum::<usize>()), (16, 16));
}

#[test]
fn datagrams_that_a_process_leaves_are_those_of_the_next_one() {
    let mut world = World::new();
    assert_eq!([world.start(0, 10), world.start(1, 11)], [0, 1]);
    world.steer(&[11]);
    world.send(3);
    let backlog =
        |world: &World| world.steered.backlog(|_, _| Some(State::Stopping)).collect::<Vec<_>>();
    assert_eq!(backlog(&world), [(WorkerId(1), Some(11))]);
    [(0, 10), (1, 11)].iter().for_each(|(id, pid)| world.steered.ended(WorkerId(*id), *pid));
    assert_eq!(world.start(0, 20), 1);
    assert_eq!(world.waiting()[1], 3);
}

#[test]
fn all_slots_are_opened_at_the_start_and_no_stranger_changes_their_numbers() {
    let mut world = World::new();
    assert_eq!(world.steered.sockets.len(), 9);
    let stranger = unbound(&world.steered.common).unwrap();
    setsockopt(&stranger, ReusePort, &true).unwrap();
    bind_to(&stranger, &world.steered.common).unwrap();
    for pid in 0..8_i32 {
        assert_eq!(world.start(pid.cast_unsigned(), pid), usize::try_from(pid).unwrap());
    }
    let error = world.steered.take(NAMES, WorkerId(9), false).unwrap_err();
    assert!(error.report().contains("all 8 sockets of listener `port`"), "{}", error.report());
    assert_eq!(world.steered.sockets.len(), 9);
    for pid in 0..8 {
        world.steer(&[pid]);
        world.send(8);
        let expected: Vec<_> = (0..8).map(|it| if it == pid { 8 } else { 0 }).collect();
        assert_eq!(world.waiting(), expected);
    }
    drop(stranger);
    world.steer(&[5]);
    world.send(8);
    assert_eq!(world.waiting(), [0, 0, 0, 0, 0, 8, 0, 0]);
}

#[test]
fn a_process_can_neither_take_the_steering_over_nor_undo_it_for_good() {
    let mut world = World::new();
    assert_eq!([world.start(0, 10), world.start(1, 11)], [0, 1]);
    world.steer(&[10, 11]);
    let slots = world.steered.sockets.iter().filter(|entry| entry.owner != Owner::Master);
    for entry in slots {
        let refused = steer(&entry.socket, &[0]).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
    }
    forget_steering(&world.steered.sockets[0].socket).unwrap();
    world.steer(&[11]);
    world.send(64);
    assert_eq!(world.waiting(), [0, 64, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn options_that_a_process_has_set_are_gone_for_the_next_one() {
    let mut world = World::new();
    world.start(0, 10);
    let socket = &world.steered.sockets[0].socket;
    let buffer = getsockopt(socket, RcvBuf).unwrap();
    let untouched = getsockopt(&world.steered.sockets[1].socket, RcvBuf).unwrap();
    assert!(buffer > untouched, "{buffer} and {untouched}");
    setsockopt(socket, UdpGroSegment, &true).unwrap();
    setsockopt(socket, RcvBuf, &4096).unwrap();
    world.steered.ended(WorkerId(0), 10);
    assert_eq!(world.start(0, 11), 0);
    let socket = &world.steered.sockets[0].socket;
    assert_eq!(getsockopt(socket, RcvBuf), Ok(buffer));
    assert_eq!(getsockopt(socket, UdpGroSegment), Ok(false));
}

#[test]
fn an_address_that_another_program_shares_is_refused() {
    let world = World::new();
    let mut common = world.steered.common;
    let steer = Steer::default();
    let settings = DatagramSettings { receive_buffer: 1 << 20, slots: None, steer };
    let error = SlotSettings::new(settings).open(&mut common, NAMES, false).unwrap_err();
    let report = error.report();
    assert!(report.contains("another program has the address"), "{report}");
    assert!(!is_readable(&world.steered.sockets[0].socket));
}

#[test]
fn the_number_of_slots_follows_that_of_the_workers() {
    let count = |slots, workers| {
        let steer = Steer::default();
        let mut settings = SlotSettings::new(DatagramSettings { receive_buffer: 1, slots, steer });
        settings.set_workers(workers);
        settings.count()
    };
    assert_eq!([count(None, 0), count(None, 4), count(None, 10_000)], [8, 16, 256]);
    assert_eq!(count(Some(5), 100), 5);
}

/// Returns a packet with a short header, and one with a long header.
fn packets(id: &[u8]) -> [Vec<u8>; 2] {
    let filled = |begin: &[u8]| {
        let mut packet = [begin, id].concat();
        packet.resize(1200, 0);
        packet
    };
    let length = u8::try_from(id.len()).unwrap();
    [filled(&[0x40]), filled(&[0xc0, 0, 0, 0, 1, length])]
}

fn quic() -> World {
    let common = ReusePortAddress { address: "127.0.0.1:0".parse().unwrap(), only_v6: false };
    World::with(common, Steer::quic(), 8)
}

impl World {
    /// Returns what the process in a slot knows of the ids.
    fn ids(&self, slot: usize) -> QuicIds {
        let file = self.steered.ids.as_ref().unwrap().file(slot).unwrap();
        QuicIds::inherited(file.try_clone_to_owned().unwrap()).unwrap()
    }

    fn send_packet(&self, packet: &[u8]) {
        self.client.send_to(packet, self.steered.common.address).unwrap();
    }
}

#[test]
fn packets_of_a_connection_reach_its_process_while_it_lives() {
    let mut world = quic();
    assert_eq!([world.start(0, 10), world.start(1, 11)], [0, 1]);
    world.steer(&[10]);
    let id = world.ids(1).generate();
    packets(&id).iter().for_each(|packet| world.send_packet(packet));
    assert_eq!(world.waiting(), [0, 2, 0, 0, 0, 0, 0, 0]);
    assert!(!world.ids(0).may_reset(&id) && world.ids(1).may_reset(&id));
    assert_eq!(world.ids(0).slot_of(&id), Some(1));
    // The client has chosen the id of its first packets.
    world.send_packet(&packets(&[7; 8])[1]);
    assert_eq!(world.waiting(), [1, 0, 0, 0, 0, 0, 0, 0]);
    // Those of a dead process go to one that can say so.
    world.steered.ended(WorkerId(1), 11);
    world.steer(&[10]);
    packets(&id).iter().for_each(|packet| world.send_packet(packet));
    assert_eq!(world.waiting(), [2, 0, 0, 0, 0, 0, 0, 0]);
    assert!(world.ids(0).may_reset(&id));
    assert_eq!(world.ids(0).reset_key(), world.ids(1).reset_key());
    assert_ne!(world.ids(0).reset_key(), world.ids(0).token_key());
}

#[test]
fn stale_packets_are_not_for_the_next_process() {
    let mut world = quic();
    world.start(0, 10);
    world.start(1, 11);
    world.steer(&[10]);
    let id = world.ids(1).generate();
    world.send_packet(&packets(&id)[0]);
    world.steered.ended(WorkerId(1), 11);
    world.steer(&[10]);
    assert_eq!(world.start(1, 12), 1);
    assert_eq!(world.waiting(), [0; 8]);
}

#[test]
fn no_process_can_change_what_others_know_of_the_slots() {
    let mut world = quic();
    world.start(0, 10);
    let file = world.steered.ids.as_ref().unwrap().file(0).unwrap();
    assert_eq!(nix::unistd::write(file, b"x"), Err(nix::errno::Errno::EBADF));
    let mode = nix::sys::stat::fstat(file).unwrap().st_mode & 0o777;
    assert_eq!(mode, 0o400, "no other user may open it again");
}

#[test]
fn a_process_that_has_datagrams_joined_is_found() {
    let mut world = quic();
    world.start(0, 10);
    assert!(!world.steered.joins_datagrams(WorkerId(0), 10));
    setsockopt(&world.steered.sockets[0].socket, UdpGroSegment, &true).unwrap();
    assert!(world.steered.joins_datagrams(WorkerId(0), 10));
}
