//! The flows of a listener: which process has which senders, as its processes say in files of their
//! slots.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{Mode, fchmod};

use crate::Error;
use crate::net::{FLOW_KEY, FLOWS, FLOWS_AT, IN_USE_AT};
use crate::sys::process::random;
use crate::sys::steering::{BUCKET_BITS, BUCKETS, FlowHash, FlowSelection};

/// Number of slots that are remembered for each bucket: while workers start one after the other, it changes
/// with each of them.
const PAST: usize = 4;

/// With fewer bits, most senders would belong to flows of others.
const FEWEST_BITS: u32 = 8;

/// The owners of the buckets of senders.
#[derive(Debug)]
pub(super) struct FlowTable {
    key: [u8; FLOW_KEY],
    /// The files of the slots that have ever had a process.
    files: BTreeMap<usize, File>,
    /// The slots that receive the datagrams of each bucket, and that did so before: a flow may begin there
    /// with a datagram that was not read yet. `None` where an earlier version has selected.
    owners: Vec<[Option<u16>; PAST]>,
    /// Whether slots hold buckets that otherwise others would have, or may do so without an event.
    pub(super) is_held: bool,
}

impl FlowTable {
    pub(super) fn new() -> Result<Self, Error> {
        let mut key = [0; FLOW_KEY];
        random(&mut key).map_err(|error| Error::system("getrandom", error))?;
        Ok(Self::with(key))
    }

    pub(super) fn with(key: [u8; FLOW_KEY]) -> Self {
        Self { key, files: BTreeMap::new(), owners: vec![[None; PAST]; BUCKETS], is_held: false }
    }

    pub(super) fn key(&self) -> &[u8; FLOW_KEY] {
        &self.key
    }

    /// Makes the file of a slot for its next process, or empties it.
    pub(super) fn prepare(&mut self, slot: usize) -> Result<(), Error> {
        let made = match self.files.get(&slot) {
            // The process before could write all of it.
            Some(file) => file
                .write_all_at(&self.key, 0)
                .and_then(|()| file.write_all_at(&[0; FLOWS], FLOWS_AT))
                .and_then(|()| file.write_all_at(&[1], IN_USE_AT)),
            None => make(&self.key).map(|file| drop(self.files.insert(slot, file))),
        };
        made.map_err(|error| Error::system("cannot make a file for the flows of a slot", error))
    }

    /// Takes over the file of a slot from an earlier version.
    pub(super) fn adopt(&mut self, slot: usize, file: OwnedFd) {
        self.files.insert(slot, file.into());
    }

    /// Returns the file of a slot, for its process.
    pub(super) fn file(&self, slot: usize) -> Option<BorrowedFd<'_>> {
        self.files.get(&slot).map(AsFd::as_fd)
    }

    pub(super) fn files(&self) -> impl Iterator<Item = (usize, &File)> {
        self.files.iter().map(|(slot, file)| (*slot, file))
    }

    /// Makes the kernel give datagrams of flows to their processes, and all others to fresh ones.
    pub(super) fn steer(
        &mut self,
        one: &impl AsFd,
        living: &[usize],
        fresh: &[usize],
    ) -> io::Result<()> {
        let claims = self.claims(living);
        let mut bits = BUCKET_BITS;
        loop {
            let wide = claims.chunks(BUCKETS >> bits).enumerate();
            let claimed = wide
                .filter_map(|(bucket, some)| Some((bucket, some.iter().find_map(|claim| *claim)?)));
            let owner = |bucket| FlowSelection::fresh_slot(fresh, bits, bucket);
            let held: BTreeMap<_, _> =
                claimed.filter(|(bucket, slot)| *slot != owner(*bucket)).collect();
            let hash = FlowHash::new(self.key);
            match (FlowSelection { hash, bits, held: &held, fresh }).attach(one) {
                // Also where the kernel gives less memory to a program.
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory && bits > FEWEST_BITS => {
                    bits -= 1;
                }
                attached => {
                    attached?;
                    let slot = |bucket| held.get(&bucket).copied().unwrap_or_else(|| owner(bucket));
                    self.owned_by(|bucket| slot(bucket >> (BUCKET_BITS - bits)));
                    let is_fresh = |slot| fresh.contains(slot);
                    self.is_held = !held.is_empty() || !living.iter().all(is_fresh);
                    let slots = held.values().chain(fresh).copied().collect();
                    return self.tell(&slots);
                }
            }
        }
    }

    /// Returns the slot of each bucket in which a living process has a flow. A process can hold only
    /// buckets that the master gave it.
    fn claims(&self, living: &[usize]) -> Vec<Option<usize>> {
        let flows: BTreeMap<usize, [u8; FLOWS]> = living
            .iter()
            .filter_map(|slot| {
                let mut flows = [0; FLOWS];
                self.files.get(slot)?.read_exact_at(&mut flows, FLOWS_AT).ok()?;
                Some((*slot, flows))
            })
            .collect();
        let has = |flows: &[u8; FLOWS], bucket: usize| flows[bucket / 8] & 1 << (bucket % 8) != 0;
        let claim = |(bucket, owners): (usize, &[Option<u16>; PAST])| {
            let mut given = owners.iter().flatten().map(|slot| usize::from(*slot));
            let held = given.find(|slot| flows.get(slot).is_some_and(|flows| has(flows, bucket)));
            held.or_else(|| match owners[0] {
                Some(_) => None,
                None => flows.iter().find(|(_, flows)| has(flows, bucket)).map(|(slot, _)| *slot),
            })
        };
        self.owners.iter().enumerate().map(claim).collect()
    }

    /// Tells all processes that new senders are not theirs any more.
    pub(super) fn end(&self) {
        // Their processes end at the stop deadline otherwise.
        let _ = self.tell(&BTreeSet::new());
    }

    /// Tells each process whether it still receives datagrams.
    fn tell(&self, slots: &BTreeSet<usize>) -> io::Result<()> {
        let mut files = self.files.iter();
        files.try_for_each(|(slot, file)| {
            file.write_all_at(&[slots.contains(slot).into()], IN_USE_AT)
        })
    }

    fn owned_by(&mut self, slot: impl Fn(usize) -> usize) {
        for (bucket, owners) in self.owners.iter_mut().enumerate() {
            let slot = u16::try_from(slot(bucket)).ok();
            if owners[0] != slot {
                owners.rotate_right(1);
                owners[0] = slot;
            }
        }
    }
}

/// Makes a file that its process can write, but not truncate.
fn make(key: &[u8; FLOW_KEY]) -> io::Result<File> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let file = File::from(memfd_create(c"release-flows", flags)?);
    // No other user can open it again.
    fchmod(&file, Mode::S_IRUSR | Mode::S_IWUSR)?;
    file.write_all_at(&[0; FLOWS], FLOWS_AT)?;
    file.write_all_at(key, 0)?;
    file.write_all_at(&[1], IN_USE_AT)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::net::Flows;
    use crate::rt::{Driver, local::Local};

    /// Ten sockets at one port, the last of which is the master's.
    struct Port(Vec<UdpSocket>);

    impl Port {
        fn new() -> Self {
            use nix::sys::socket::{
                AddressFamily, SockFlag, SockType, SockaddrStorage, bind, setsockopt, socket,
                sockopt::ReusePort,
            };
            use std::os::fd::AsRawFd;

            let mut address: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
            let sockets = (0..10).map(|_| {
                let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
                let one = socket(AddressFamily::Inet, SockType::Datagram, flags, None).unwrap();
                setsockopt(&one, ReusePort, &true).unwrap();
                bind(one.as_raw_fd(), &SockaddrStorage::from(address)).unwrap();
                let one = UdpSocket::from(one);
                address = one.local_addr().unwrap();
                one
            });
            Self(sockets.collect())
        }

        /// Returns the slot that receives the client's datagram.
        fn slot_of(&self, client: &UdpSocket) -> usize {
            client.send_to(b"?", self.0[0].local_addr().unwrap()).unwrap();
            let has = |one: &&UdpSocket| one.recv(&mut [0; 8]).is_ok();
            let slots: Vec<_> = self.0.iter().enumerate().filter(|(_, it)| has(it)).collect();
            assert_eq!(slots.len(), 1);
            slots[0].0
        }
    }

    fn clients(count: usize) -> Vec<UdpSocket> {
        (0..count).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect()
    }

    fn flows(table: &FlowTable, slot: usize) -> Flows {
        let driver = Local::new().unwrap();
        Flows::inherited(&driver.handle(), table.file(slot).unwrap().try_clone_to_owned().unwrap())
            .unwrap()
    }

    fn table() -> FlowTable {
        let mut table = FlowTable::new().unwrap();
        (0..9).for_each(|slot| table.prepare(slot).unwrap());
        table
    }

    #[test]
    fn flows_stay_with_their_process_until_they_end() {
        let (port, mut table) = (Port::new(), table());
        let anchor = &port.0[9];
        table.steer(anchor, &[0, 1, 2], &[0, 1, 2]).unwrap();
        let old = clients(300);
        let placed: Vec<_> = old.iter().map(|client| port.slot_of(client)).collect();
        assert!((0..3).all(|slot| placed.iter().filter(|it| **it == slot).count() > 30));
        let processes: Vec<_> = (0..3).map(|slot| flows(&table, slot)).collect();
        let begun = old.iter().zip(&placed);
        let begun =
            begun.map(|(client, slot)| processes[*slot].begin(client.local_addr().unwrap()));
        let mut begun: Vec<_> = begun.collect();
        // A flow that begins in an old process at the last moment comes back.
        let late = begun.pop().unwrap();
        drop(late);
        table.steer(anchor, &[0, 1, 2, 3, 4], &[3, 4]).unwrap();
        begun.push(processes[placed[299]].begin(old[299].local_addr().unwrap()));
        table.steer(anchor, &[0, 1, 2, 3, 4], &[3, 4]).unwrap();
        let now: Vec<_> = old.iter().map(|client| port.slot_of(client)).collect();
        assert_eq!(now, placed);
        assert!(table.is_held);
        let new = clients(100);
        let fresh = new.iter().filter(|client| [3, 4].contains(&port.slot_of(client))).count();
        assert!(fresh > 80, "{fresh}");
        // A further generation, and an end of a process and of the flows of another one.
        drop(begun);
        drop(processes[2].begin(old[0].local_addr().unwrap()));
        let kept = processes[1]
            .begin(old[placed.iter().position(|it| *it == 1).unwrap()].local_addr().unwrap());
        table.steer(anchor, &[0, 1, 3, 4, 5], &[5]).unwrap();
        let now: Vec<_> = old.iter().map(|client| port.slot_of(client)).collect();
        assert!(now.iter().filter(|slot| **slot == 1).count() >= 1);
        assert!(now.iter().all(|slot| [1, 5].contains(slot)));
        drop(kept);
        table.steer(anchor, &[5], &[5]).unwrap();
        assert!(!table.is_held);
        table.steer(anchor, &[1, 5], &[5]).unwrap();
        assert!(table.is_held, "it may begin a flow with what it has not read");
    }

    #[test]
    fn a_process_holds_no_bucket_that_it_was_not_given() {
        let (port, mut table) = (Port::new(), table());
        let anchor = &port.0[9];
        table.steer(anchor, &[0, 1], &[0, 1]).unwrap();
        let old = clients(100);
        let placed: Vec<_> = old.iter().map(|client| port.slot_of(client)).collect();
        let all = table.files[&0].try_clone().unwrap();
        all.write_all_at(&[0xff; FLOWS], FLOWS_AT).unwrap();
        table.steer(anchor, &[0, 1], &[1]).unwrap();
        assert_eq!(old.iter().map(|client| port.slot_of(client)).collect::<Vec<_>>(), placed);
        // Nor does it take the file away.
        assert!(all.set_len(0).is_err());
        assert!(all.write_all_at(b"more", FLOWS_AT + FLOWS as u64).is_err());
        table.steer(anchor, &[1], &[1]).unwrap();
        assert!(old.iter().all(|client| port.slot_of(client) == 1));
    }

    #[test]
    fn another_version_knows_them_from_the_files() {
        let (port, mut before) = (Port::new(), table());
        let anchor = &port.0[9];
        before.steer(anchor, &[0, 1], &[0, 1]).unwrap();
        let old = clients(100);
        let placed: Vec<_> = old.iter().map(|client| port.slot_of(client)).collect();
        let processes: Vec<_> = (0..2).map(|slot| flows(&before, slot)).collect();
        let begun = old.iter().zip(&placed);
        let _begun: Vec<_> = begun
            .map(|(client, slot)| processes[*slot].begin(client.local_addr().unwrap()))
            .collect();
        let mut after = FlowTable::with(*before.key());
        for (slot, file) in before.files() {
            after.adopt(slot, file.try_clone().unwrap().into());
        }
        drop(before);
        after.prepare(2).unwrap();
        after.steer(anchor, &[0, 1, 2], &[2]).unwrap();
        assert_eq!(old.iter().map(|client| port.slot_of(client)).collect::<Vec<_>>(), placed);
        // The next process of a slot has none.
        after.prepare(0).unwrap();
        after.steer(anchor, &[0, 1, 2], &[2]).unwrap();
        let now = old.iter().map(|client| port.slot_of(client));
        assert!(now.zip(placed).all(|(now, before)| now == if before == 0 { 2 } else { 1 }));
    }

    #[test]
    fn more_flows_than_a_program_can_name_share_wider_buckets() {
        let (port, mut table) = (Port::new(), table());
        let anchor = &port.0[9];
        table.steer(anchor, &[0, 1, 2, 3], &[0, 1, 2, 3]).unwrap();
        // After many generations, neighbouring buckets belong to different slots.
        table.owned_by(|bucket| bucket % 8);
        for slot in 0..8 {
            table.files[&slot].write_all_at(&[0xff; FLOWS], FLOWS_AT).unwrap();
        }
        table.steer(anchor, &(0..9).collect::<Vec<_>>(), &[8]).unwrap();
        assert!(clients(50).iter().all(|client| port.slot_of(client) < 8));
    }
}
