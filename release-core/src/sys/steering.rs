//! Classic BPF programs by which the kernel selects the socket of a group that shares a port. They need
//! no privilege.

use std::io;
use std::os::fd::AsFd;

use libc::{
    BPF_A, BPF_ABS, BPF_ADD, BPF_ALU, BPF_AND, BPF_B, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE,
    BPF_JMP, BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_LEN, BPF_MEM, BPF_MISC, BPF_MOD, BPF_MUL,
    BPF_RET, BPF_RSH, BPF_ST, BPF_STX, BPF_SUB, BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_AD_OFF,
    SKF_AD_RANDOM, sock_filter, sock_fprog,
};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::AttachReusePortCbpf;

mod flows;

pub(crate) use flows::{BUCKET_BITS, BUCKETS, FlowHash, FlowSelection};

/// Length of the connection ids of QUIC servers. Clients choose ids of at least 8 bytes for their first
/// packets, so the length distinguishes both kinds.
pub(crate) const ID: usize = 7;

/// A QUIC packet has at least this many bytes.
const SHORTEST: u32 = 21;

/// Number of slots in one word of a program.
const WORD: usize = 32;

/// The random number of the kernel.
const RANDOM: u32 = (SKF_AD_OFF + SKF_AD_RANDOM).cast_unsigned();

/// Memory of a program: the place of the id, its mixed part, its slot.
const PLACE: u32 = 0;
const MIXED: u32 = 1;
const SLOT: u32 = 2;

/// Makes the kernel distribute new connections or datagrams evenly among the chosen sockets of a group
/// that shares a port. A socket's number is its place in the order in which they were opened.
pub(crate) fn steer(one: &impl AsFd, chosen: &[usize]) -> io::Result<()> {
    let mut program = SteeringProgram::default();
    program.step(BPF_LD | BPF_W | BPF_ABS, RANDOM);
    program.select_fresh(chosen);
    program.attach(one)
}

/// Makes the kernel give QUIC packets to the slots in their connection ids, and all others to fresh
/// ones.
pub(crate) fn steer_by_quic_ids(
    one: &impl AsFd,
    mixer: SlotMixer,
    living: &[usize],
    fresh: &[usize],
) -> io::Result<()> {
    SteeringProgram::by_quic_ids(mixer, living, fresh).attach(one)
}

/// Hides the slot in connection ids. This is obfuscation: classic BPF has no cipher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotMixer {
    one: u32,
    other: u32,
}

impl SlotMixer {
    pub(crate) fn new(key: [u8; 8]) -> Self {
        let [a, b, c, d, e, f, g, h] = key;
        // Multiplication by an odd number is reversible.
        let odd = |bytes| u32::from_be_bytes(bytes) | 1;
        Self { one: odd([a, b, c, d]), other: odd([e, f, g, h]) }
    }

    fn mix(self, number: u32) -> u32 {
        let mixed = number.wrapping_add(self.one).wrapping_mul(self.other);
        let mixed = (mixed ^ (mixed >> 15)).wrapping_mul(self.one);
        mixed ^ (mixed >> 13)
    }

    /// Returns the connection id for a slot and a random number.
    pub(crate) fn id(self, slot: u8, random: [u8; 4]) -> [u8; ID] {
        let mixed = self.mix(u32::from_be_bytes(random)) ^ (u32::from(slot) << 16);
        let ([a, b, c, d], [_, e, f, g]) = (random, mixed.to_be_bytes());
        [a, b, c, d, e, f, g]
    }

    /// Returns the slot in a connection id; `None` for an id that was not made with this key.
    pub(crate) fn slot_of(self, id: &[u8]) -> Option<u8> {
        let [a, b, c, d, e, f, g] = *<&[u8; ID]>::try_from(id).ok()?;
        let found = u32::from_be_bytes([0, e, f, g]) ^ self.mix(u32::from_be_bytes([a, b, c, d]));
        match found.to_be_bytes() {
            [_, slot, 0, 0] => Some(slot),
            _ => None,
        }
    }
}

/// A program under construction.
#[derive(Debug, Default)]
struct SteeringProgram {
    steps: Vec<sock_filter>,
    /// The jumps to the selection of a fresh slot, whose place is not known yet.
    to_fresh: Vec<usize>,
}

impl SteeringProgram {
    fn step(&mut self, code: u32, k: u32) {
        self.branch(code, k, 0, 0);
    }

    /// Adds a comparison that skips `jt` steps if it is true, and `jf` if not.
    fn branch(&mut self, code: u32, k: u32, jt: u8, jf: u8) {
        // All codes of classic BPF have 8 bits.
        let code = u16::try_from(code).unwrap_or(u16::MAX);
        self.steps.push(sock_filter { code, jt, jf, k });
    }

    fn jump_to_fresh(&mut self) {
        self.to_fresh.push(self.steps.len());
        self.step(BPF_JMP | BPF_JA, 0);
    }

    /// Mixes the accumulator.
    fn mix(&mut self, SlotMixer { one, other }: SlotMixer) {
        self.step(BPF_ALU | BPF_ADD | BPF_K, one);
        self.step(BPF_ALU | BPF_MUL | BPF_K, other);
        for (shift, factor) in [(15, Some(one)), (13, None)] {
            self.step(BPF_MISC | BPF_TAX, 0);
            self.step(BPF_ALU | BPF_RSH | BPF_K, shift);
            self.step(BPF_ALU | BPF_XOR | BPF_X, 0);
            factor.into_iter().for_each(|factor| self.step(BPF_ALU | BPF_MUL | BPF_K, factor));
        }
    }

    /// Selects the slot whose number is in the accumulator's upper half, if it is a living one.
    /// Otherwise loads the mixed number again, and goes on.
    fn select_living(&mut self, living: &[usize]) {
        self.step(BPF_ALU | BPF_RSH | BPF_K, 16);
        self.step(BPF_ST, SLOT);
        let words = living.iter().max().map_or(0, |most| most / WORD + 1);
        for word in 0..words {
            let first = word * WORD;
            let bits = living.iter().filter(|slot| **slot / WORD == word);
            let bits = bits.fold(0_u32, |bits, slot| bits | 1 << (slot % WORD));
            self.branch(BPF_JMP | BPF_JGE | BPF_K, number(first + WORD), 9, 0);
            self.step(BPF_ALU | BPF_SUB | BPF_K, number(first));
            self.step(BPF_MISC | BPF_TAX, 0);
            self.step(BPF_LD | BPF_IMM, bits);
            self.step(BPF_ALU | BPF_RSH | BPF_X, 0);
            self.branch(BPF_JMP | BPF_JSET | BPF_K, 1, 2, 0);
            self.step(BPF_LD | BPF_MEM, MIXED);
            self.jump_to_fresh();
            self.step(BPF_LD | BPF_MEM, SLOT);
            self.step(BPF_RET | BPF_A, 0);
        }
        self.step(BPF_LD | BPF_MEM, MIXED);
    }

    /// Selects one of the fresh slots by the accumulator.
    fn select_fresh(&mut self, fresh: &[usize]) {
        self.land_on_fresh();
        self.step(BPF_ALU | BPF_MOD | BPF_K, number(fresh.len()));
        self.select_by_turn(fresh);
    }

    /// Makes the jumps to the selection of a fresh slot end at the next step.
    fn land_on_fresh(&mut self) {
        let here = self.steps.len();
        for jump in std::mem::take(&mut self.to_fresh) {
            self.steps[jump].k = number(here - jump - 1);
        }
    }

    /// Selects the fresh slot whose turn is in the accumulator.
    fn select_by_turn(&mut self, fresh: &[usize]) {
        for (turn, slot) in fresh.iter().enumerate() {
            self.branch(BPF_JMP | BPF_JEQ | BPF_K, number(turn), 0, 1);
            self.step(BPF_RET | BPF_K, number(*slot));
        }
        // Never reached, but a program must end with this.
        self.step(BPF_RET | BPF_K, 0);
    }

    /// Selects the slot in the connection id of a QUIC packet. Packets without an id of a living slot go
    /// to fresh ones.
    fn by_quic_ids(mixer: SlotMixer, living: &[usize], fresh: &[usize]) -> Self {
        let mut program = Self::default();
        program.step(BPF_LD | BPF_W | BPF_LEN, 0);
        program.branch(BPF_JMP | BPF_JGE | BPF_K, SHORTEST, 2, 0);
        program.step(BPF_LD | BPF_W | BPF_ABS, RANDOM);
        program.jump_to_fresh();
        program.step(BPF_LD | BPF_B | BPF_ABS, 0);
        program.branch(BPF_JMP | BPF_JSET | BPF_K, 0x80, 2, 0);
        // A short header: the id is at byte 1, and the server has chosen it.
        program.step(BPF_LDX | BPF_W | BPF_IMM, 1);
        let to_id = program.steps.len();
        program.step(BPF_JMP | BPF_JA, 0);
        // A long header, in all versions of QUIC: the length of the id is byte 5.
        program.step(BPF_LD | BPF_B | BPF_ABS, 5);
        let is_ours = program.steps.len();
        program.branch(BPF_JMP | BPF_JEQ | BPF_K, number(ID), 0, 0);
        // The client has chosen it: all its first packets go to one process.
        program.step(BPF_LD | BPF_W | BPF_ABS, 6);
        program.mix(mixer);
        program.jump_to_fresh();
        let here = program.steps.len();
        program.steps[is_ours].jt = u8::try_from(here - is_ours - 1).unwrap_or(u8::MAX);
        program.step(BPF_LDX | BPF_W | BPF_IMM, 6);
        let here = program.steps.len();
        program.steps[to_id].k = number(here - to_id - 1);
        // The id.
        program.step(BPF_STX, PLACE);
        program.step(BPF_LD | BPF_W | BPF_IND, 0);
        program.mix(mixer);
        program.step(BPF_ST, MIXED);
        program.step(BPF_LDX | BPF_W | BPF_MEM, PLACE);
        program.step(BPF_LD | BPF_W | BPF_IND, 3);
        program.step(BPF_LDX | BPF_W | BPF_MEM, MIXED);
        program.step(BPF_ALU | BPF_XOR | BPF_X, 0);
        program.step(BPF_ALU | BPF_AND | BPF_K, 0x00ff_ffff);
        // An id of another key.
        program.branch(BPF_JMP | BPF_JSET | BPF_K, 0xffff, 0, 2);
        program.step(BPF_LD | BPF_MEM, MIXED);
        program.jump_to_fresh();
        program.select_living(living);
        program.select_fresh(fresh);
        program
    }

    fn attach(mut self, one: &impl AsFd) -> io::Result<()> {
        let len = u16::try_from(self.steps.len()).map_err(io::Error::other)?;
        let program = sock_fprog { len, filter: self.steps.as_mut_ptr() };
        Ok(setsockopt(one, AttachReusePortCbpf, &program)?)
    }
}

fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::{AsRawFd, OwnedFd};

    use nix::sys::socket::sockopt::ReusePort;
    use nix::sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, recv, socket,
    };

    use super::*;

    const SLOTS: usize = 70;
    const FRESH: [usize; 3] = [4, 33, 66];
    const MIXER: [u8; 8] = *b"\x9e7y\xb0\x85\xeb\xcaj";

    /// All slots but each sixth one have a process.
    fn living() -> Vec<usize> {
        (0..SLOTS).filter(|slot| slot % 6 != 5).collect()
    }

    pub(super) struct Slots {
        pub(super) sockets: Vec<OwnedFd>,
        client: UdpSocket,
        pub(super) address: SocketAddr,
    }

    impl Slots {
        pub(super) fn at(address: &str) -> Self {
            let mut address: SocketAddr = address.parse().unwrap();
            let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
            let mut sockets = Vec::new();
            for _ in 0..SLOTS {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                let one = socket(family, SockType::Datagram, flags, None).unwrap();
                setsockopt(&one, ReusePort, &true).unwrap();
                bind(one.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
                address = UdpSocket::from(one.try_clone().unwrap()).local_addr().unwrap();
                sockets.push(one);
            }
            Self { sockets, client: UdpSocket::bind((address.ip(), 0)).unwrap(), address }
        }

        /// Returns the slots that have received the packet.
        fn receivers(&self, packet: &[u8]) -> Vec<usize> {
            self.client.send_to(packet, self.address).unwrap();
            self.received()
        }

        /// Returns the slots that have received a datagram.
        pub(super) fn received(&self) -> Vec<usize> {
            let has = |one: &OwnedFd| recv(one.as_raw_fd(), &mut [0], MsgFlags::empty()).is_ok();
            let all = self.sockets.iter().enumerate();
            all.filter(|(_, one)| has(one)).map(|(slot, _)| slot).collect()
        }

        #[track_caller]
        fn goes_to_a_fresh_one(&self, packet: &[u8]) -> usize {
            let receivers = self.receivers(packet);
            assert!(receivers.len() == 1 && FRESH.contains(&receivers[0]), "{receivers:?}");
            receivers[0]
        }
    }

    fn short(id: &[u8]) -> Vec<u8> {
        let mut packet = [&[0x40], id].concat();
        packet.resize(40, 0);
        packet
    }

    fn long(id: &[u8]) -> Vec<u8> {
        let length = u8::try_from(id.len()).unwrap();
        let mut packet = [&[0xc0, 0, 0, 0, 1, length], id].concat();
        packet.resize(1200, 0);
        packet
    }

    #[test]
    fn each_packet_goes_where_its_id_says_or_to_a_fresh_slot() {
        let mixer = SlotMixer::new(MIXER);
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let slots = Slots::at(address);
            steer_by_quic_ids(&slots.sockets[0], mixer, &living(), &FRESH).unwrap();
            for slot in 0..SLOTS {
                let random = u32::try_from(slot * 7919).unwrap().to_be_bytes();
                let id = mixer.id(u8::try_from(slot).unwrap(), random);
                for packet in [short(&id), long(&id)] {
                    if living().contains(&slot) {
                        assert_eq!(slots.receivers(&packet), [slot]);
                    } else {
                        slots.goes_to_a_fresh_one(&packet);
                    }
                }
            }
            // Beyond all slots, and with another key.
            for id in [mixer.id(200, [1; 4]), SlotMixer::new([3; 8]).id(2, [4; 4])] {
                slots.goes_to_a_fresh_one(&short(&id));
            }
            for length in [0, 8, 9, 20] {
                let packet = long(&vec![length; usize::from(length)]);
                let first = slots.goes_to_a_fresh_one(&packet);
                // All packets with an id of the client's go to one process.
                assert_eq!(slots.goes_to_a_fresh_one(&packet), first);
            }
            for length in 0..=21 {
                slots.goes_to_a_fresh_one(&long(&[])[..length]);
                slots.goes_to_a_fresh_one(&short(&[])[..length]);
            }
        }
    }

    #[test]
    fn a_slot_is_found_in_its_ids_and_nowhere_else() {
        let (mixer, other) = (SlotMixer::new(MIXER), SlotMixer::new([1; 8]));
        let mut foreign = 0;
        for number in 0..10_000_u32 {
            let [.., slot] = number.to_be_bytes();
            let random = number.wrapping_mul(0x9e37_79b1);
            let id = mixer.id(slot, random.to_be_bytes());
            assert_eq!(mixer.slot_of(&id), Some(slot));
            foreign += u32::from(other.slot_of(&id).is_some());
        }
        // 16 bits of check.
        assert!(foreign < 4, "{foreign}");
        assert_eq!(mixer.slot_of(&[]), None);
        assert_eq!(mixer.slot_of(&[0; 8]), None);
    }

    #[test]
    fn the_largest_program_fits() {
        let all: Vec<_> = (0..256).collect();
        let program = SteeringProgram::by_quic_ids(SlotMixer::new(MIXER), &all, &all);
        assert!(program.steps.len() < 1600, "{}", program.steps.len());
        program.attach(&Slots::at("127.0.0.1:0").sockets[0]).unwrap();
    }
}
