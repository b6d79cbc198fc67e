//! The program for protocols without connection ids: the sender of a datagram selects the socket.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::fd::AsFd;

use libc::{
    BPF_ABS, BPF_ALU, BPF_AND, BPF_B, BPF_H, BPF_IMM, BPF_IND, BPF_JA, BPF_JEQ, BPF_JGE, BPF_JMP,
    BPF_JSET, BPF_K, BPF_LD, BPF_LDX, BPF_MEM, BPF_MISC, BPF_MSH, BPF_MUL, BPF_RET, BPF_RSH,
    BPF_ST, BPF_TAX, BPF_W, BPF_X, BPF_XOR, SKF_NET_OFF,
};

use super::{MIXED, SlotMixer, SteeringProgram, WORD, number};

/// Number of the bits that select the bucket of a sender.
pub(crate) const BUCKET_BITS: u32 = 15;

/// Number of buckets. Each holds the flows of some senders, which one process serves.
pub(crate) const BUCKETS: usize = 1 << BUCKET_BITS;

/// The kernel takes no longer program.
const MOST_STEPS: usize = 4096;

/// Memory of a program: the bucket.
const BUCKET: u32 = 3;

/// The longest jump of a comparison.
const FAR: usize = u8::MAX as usize;

/// The header of IP.
const IP: u32 = SKF_NET_OFF.cast_unsigned();

/// Distributes senders among the buckets, in a way that they cannot foresee.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FlowHash(SlotMixer);

impl FlowHash {
    pub(crate) fn new(key: [u8; 8]) -> Self {
        Self(SlotMixer::new(key))
    }

    /// Returns the bucket of a sender.
    pub(crate) fn bucket(self, sender: SocketAddr) -> usize {
        let port = u32::from(sender.port());
        // A socket for both versions sees senders of version 4 as a part of version 6.
        let mixed = match sender.ip().to_canonical() {
            IpAddr::V4(ip) => self.0.mix(u32::from(ip)),
            IpAddr::V6(ip) => {
                let octets = ip.octets();
                let (words, _) = octets.as_chunks();
                let words = words.iter().map(|word| u32::from_be_bytes(*word));
                words.fold(0, |mixed, word| self.0.mix(mixed ^ word))
            }
        };
        (self.0.mix(mixed ^ port) >> (u32::BITS - BUCKET_BITS)) as usize
    }
}

/// The selection of slots by buckets of `bits` bits: some are held by a slot, and the fresh slots share
/// all others evenly.
#[derive(Debug)]
pub(crate) struct FlowSelection<'a> {
    pub(crate) hash: FlowHash,
    pub(crate) bits: u32,
    /// The slots of held buckets.
    pub(crate) held: &'a BTreeMap<usize, usize>,
    pub(crate) fresh: &'a [usize],
}

impl FlowSelection<'_> {
    /// Returns the fresh slot of a bucket.
    pub(crate) fn fresh_slot(fresh: &[usize], bits: u32, bucket: usize) -> usize {
        fresh[(bucket * fresh.len()) >> bits]
    }

    /// Makes the kernel give datagrams to the slots of their senders' buckets.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::OutOfMemory`] if the program would be too long for this kernel. With fewer
    /// bits it is shorter.
    pub(crate) fn attach(&self, one: &impl AsFd) -> io::Result<()> {
        let program = self.program();
        if program.steps.len() > MOST_STEPS {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        program.attach(one)
    }

    fn program(&self) -> SteeringProgram {
        let mut program = SteeringProgram::default();
        program.load_bucket(self.hash.0, self.bits);
        program.step(BPF_ALU | BPF_AND | BPF_K, number(WORD - 1));
        program.step(BPF_MISC | BPF_TAX, 0);
        program.step(BPF_LD | BPF_MEM, BUCKET);
        program.step(BPF_ALU | BPF_RSH | BPF_K, WORD.ilog2());
        let words = self.words();
        let mut tests = BTreeMap::<usize, Vec<usize>>::new();
        if !words.is_empty() {
            program.find(&words, 0..(1 << self.bits) / WORD, &mut tests);
        }
        for (slot, jumps) in tests {
            jumps.into_iter().for_each(|jump| program.land(jump));
            program.step(BPF_ALU | BPF_RSH | BPF_X, 0);
            program.branch(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 1);
            program.step(BPF_RET | BPF_K, number(slot));
            program.jump_to_fresh();
        }
        program.land_on_fresh();
        program.step(BPF_LD | BPF_MEM, BUCKET);
        program.step(BPF_ALU | BPF_MUL | BPF_K, number(self.fresh.len()));
        program.step(BPF_ALU | BPF_RSH | BPF_K, self.bits);
        program.select_by_turn(self.fresh);
        program
    }

    /// Returns the held buckets by words, with the bits of each slot.
    fn words(&self) -> Vec<BucketWord> {
        let mut words = BTreeMap::<usize, BTreeMap<usize, u32>>::new();
        for (bucket, slot) in self.held {
            let slots = words.entry(bucket / WORD).or_default();
            *slots.entry(*slot).or_default() |= 1 << (bucket % WORD);
        }
        let word = |(index, slots): (usize, BTreeMap<_, _>)| (index, slots.into_iter().collect());
        words.into_iter().map(word).collect()
    }
}

/// The number of a word of buckets, and the buckets of each slot in it.
type BucketWord = (usize, Vec<(usize, u32)>);

impl SteeringProgram {
    /// Loads the bucket of the sender, and keeps it.
    fn load_bucket(&mut self, mixer: SlotMixer, bits: u32) {
        self.step(BPF_LD | BPF_B | BPF_ABS, IP);
        self.step(BPF_ALU | BPF_RSH | BPF_K, 4);
        let version = self.steps.len();
        self.branch(BPF_JMP | BPF_JEQ | BPF_K, 6, 0, 0);
        self.step(BPF_LD | BPF_W | BPF_ABS, IP + 12);
        self.mix(mixer);
        self.step(BPF_ST, MIXED);
        // The header has options, rarely.
        self.step(BPF_LDX | BPF_B | BPF_MSH, IP);
        self.step(BPF_LD | BPF_H | BPF_IND, IP);
        let to_port = self.steps.len();
        self.step(BPF_JMP | BPF_JA, 0);
        let distance = self.steps.len() - version - 1;
        self.steps[version].jt = u8::try_from(distance).unwrap_or(u8::MAX);
        for word in 0..4 {
            self.step(BPF_LD | BPF_W | BPF_ABS, IP + 8 + 4 * word);
            if word > 0 {
                self.step(BPF_LDX | BPF_W | BPF_MEM, MIXED);
                self.step(BPF_ALU | BPF_XOR | BPF_X, 0);
            }
            self.mix(mixer);
            self.step(BPF_ST, MIXED);
        }
        self.step(BPF_LD | BPF_H | BPF_ABS, IP + 40);
        self.land(to_port);
        self.step(BPF_LDX | BPF_W | BPF_MEM, MIXED);
        self.step(BPF_ALU | BPF_XOR | BPF_X, 0);
        self.mix(mixer);
        self.step(BPF_ALU | BPF_RSH | BPF_K, u32::BITS - bits);
        self.step(BPF_ST, BUCKET);
    }

    /// Finds the word whose number is in the accumulator, which is in `bounds`, and tests the bit whose
    /// number is in the other register.
    fn find(
        &mut self,
        words: &[BucketWord],
        bounds: Range<usize>,
        tests: &mut BTreeMap<usize, Vec<usize>>,
    ) {
        if let [word] = words {
            return self.test(word, bounds.len() == 1, tests);
        }
        let (left, right) = words.split_at(words.len() / 2);
        let middle = right[0].0;
        let length = length(left, bounds.start..middle);
        match u8::try_from(length) {
            Ok(length) => self.branch(BPF_JMP | BPF_JGE | BPF_K, number(middle), length, 0),
            Err(_) => {
                self.branch(BPF_JMP | BPF_JGE | BPF_K, number(middle), 0, 1);
                self.step(BPF_JMP | BPF_JA, number(length));
            }
        }
        self.find(left, bounds.start..middle, tests);
        self.find(right, middle..bounds.end, tests);
    }

    fn test(
        &mut self,
        (index, slots): &BucketWord,
        is_known: bool,
        tests: &mut BTreeMap<usize, Vec<usize>>,
    ) {
        if !is_known {
            // Over the jump that follows.
            self.branch(BPF_JMP | BPF_JEQ | BPF_K, number(*index), 1, 0);
            self.jump_to_fresh();
        }
        let Some(((last, bits), others)) = slots.split_last() else { return };
        for (slot, bits) in others {
            self.step(BPF_LD | BPF_IMM, *bits);
            self.step(BPF_ALU | BPF_RSH | BPF_X, 0);
            self.branch(BPF_JMP | BPF_JSET | BPF_K, 1, 0, 1);
            self.step(BPF_RET | BPF_K, number(*slot));
        }
        self.step(BPF_LD | BPF_IMM, *bits);
        tests.entry(*last).or_default().push(self.steps.len());
        self.step(BPF_JMP | BPF_JA, 0);
    }

    /// Makes a jump end at the next step.
    fn land(&mut self, jump: usize) {
        self.steps[jump].k = number(self.steps.len() - jump - 1);
    }
}

/// Returns the number of steps of [`SteeringProgram::find`].
fn length(words: &[BucketWord], bounds: Range<usize>) -> usize {
    if let [(_, slots)] = words {
        let comparison = if bounds.len() == 1 { 0 } else { 2 };
        return comparison + 4 * slots.len() - 2;
    }
    let (left, right) = words.split_at(words.len() / 2);
    let middle = right[0].0;
    let to_left = length(left, bounds.start..middle);
    let comparison = if to_left > FAR { 2 } else { 1 };
    comparison + to_left + length(right, middle..bounds.end)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::super::tests::Slots;
    use super::*;

    const KEY: [u8; 8] = *b"\x9e7y\xb0\x85\xeb\xcaj";

    fn clients(count: usize, address: &str) -> Vec<UdpSocket> {
        (0..count).map(|_| UdpSocket::bind(address).unwrap()).collect()
    }

    /// Sends a datagram, and returns the slots that have received one.
    fn receivers(slots: &Slots, client: &UdpSocket) -> Vec<usize> {
        client.send_to(b"?", slots.address).unwrap();
        slots.received()
    }

    #[test]
    fn each_sender_reaches_the_slot_that_holds_its_bucket_and_others_a_fresh_one() {
        let hash = FlowHash::new(KEY);
        let fresh = [4, 33, 66];
        for (address, from) in
            [("127.0.0.1:0", "127.0.0.1:0"), ("[::1]:0", "[::1]:0"), ("[::]:0", "127.0.0.1:0")]
        {
            let mut slots = Slots::at(address);
            if address == "[::]:0" {
                slots.address.set_ip([127, 0, 0, 1].into());
            }
            let clients = clients(200, from);
            for bits in [BUCKET_BITS, 8] {
                let bucket = |client: &UdpSocket| {
                    hash.bucket(client.local_addr().unwrap()) >> (BUCKET_BITS - bits)
                };
                let old = clients.iter().take(100).enumerate();
                let held: BTreeMap<_, _> =
                    old.map(|(number, client)| (bucket(client), number % 3)).collect();
                let selection = FlowSelection { hash, bits, held: &held, fresh: &fresh };
                selection.attach(&slots.sockets[0]).unwrap();
                for client in &clients {
                    let bucket = bucket(client);
                    let expected = held.get(&bucket).copied();
                    let expected =
                        expected.unwrap_or_else(|| FlowSelection::fresh_slot(&fresh, bits, bucket));
                    assert_eq!(receivers(&slots, client), [expected], "{address} {bits}");
                }
            }
        }
    }

    #[test]
    fn the_length_is_known_beforehand() {
        for step in [1, 2, 7, 32, 33, 64, 1000, 20_000] {
            for slots in [1, 3] {
                let held = (0..BUCKETS).step_by(step).map(|bucket| (bucket, bucket % slots));
                let held: BTreeMap<_, _> = held.collect();
                let selection = FlowSelection {
                    hash: FlowHash::new(KEY),
                    bits: BUCKET_BITS,
                    held: &held,
                    fresh: &[0],
                };
                let words = selection.words();
                let mut program = SteeringProgram::default();
                program.find(&words, 0..BUCKETS / WORD, &mut BTreeMap::new());
                assert_eq!(program.steps.len(), length(&words, 0..BUCKETS / WORD), "{step}");
            }
        }
    }

    #[test]
    fn nine_thousand_flows_fit_and_more_fit_with_fewer_bits() {
        let slots = Slots::at("127.0.0.1:0");
        let hash = FlowHash::new(KEY);
        let sender = |number: u32| {
            SocketAddr::from((
                (number / 60_000 + 0x7f00_0001).to_be_bytes(),
                (number % 60_000) as u16,
            ))
        };
        let attach = |flows: u32, bits: u32| {
            let held = (0..flows).map(|number| {
                let bucket = hash.bucket(sender(number)) >> (BUCKET_BITS - bits);
                (bucket, FlowSelection::fresh_slot(&[0, 1, 2, 3], bits, bucket))
            });
            let held: BTreeMap<_, _> = held.collect();
            FlowSelection { hash, bits, held: &held, fresh: &[4, 5, 6, 7] }
                .attach(&slots.sockets[0])
        };
        attach(9000, BUCKET_BITS).unwrap();
        attach(100_000, BUCKET_BITS).unwrap();
        // Each bucket with another slot than its neighbours.
        let held: BTreeMap<_, _> = (0..BUCKETS).map(|bucket| (bucket, bucket % 8)).collect();
        let too_many = FlowSelection { hash, bits: BUCKET_BITS, held: &held, fresh: &[9] }
            .attach(&slots.sockets[0]);
        assert_eq!(too_many.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        let held: BTreeMap<_, _> = (0..1 << 10).map(|bucket| (bucket, bucket % 8)).collect();
        FlowSelection { hash, bits: 10, held: &held, fresh: &[9] }
            .attach(&slots.sockets[0])
            .unwrap();
    }
}
