//! Both sides send all they can while one of them is handed over again and again.

use std::collections::HashMap;
use std::io::{PipeReader, Read, Write, pipe};
use std::os::fd::OwnedFd;
use std::sync::Mutex;

use nix::sys::socket::{setsockopt, sockopt::SndBuf};
use proptest::prelude::*;

use super::*;
use crate::rt::give_way;
use crate::sys::fds::set_nonblocking;

#[derive(Clone, Debug)]
enum Step {
    Turns(u32),
    WorkerCalls {
        filling: usize,
        descriptors: usize,
    },
    WorkerGivesUp(prop::sample::Index),
    WorkerTells {
        filling: usize,
    },
    MasterCalls {
        filling: usize,
    },
    MasterTells {
        filling: usize,
    },
    /// Another image of the process takes over.
    HandOver {
        turns: u32,
    },
    /// Exec fails.
    GoOn {
        turns: u32,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let filling = || prop_oneof![3 => 0_usize..20, 1 => 0_usize..30_000];
    let step = prop_oneof![
        4 => (0_u32..10).prop_map(Step::Turns),
        6 => (filling(), 0_usize..3)
            .prop_map(|(filling, descriptors)| Step::WorkerCalls { filling, descriptors }),
        1 => any::<prop::sample::Index>().prop_map(Step::WorkerGivesUp),
        4 => filling().prop_map(|filling| Step::WorkerTells { filling }),
        4 => filling().prop_map(|filling| Step::MasterCalls { filling }),
        4 => filling().prop_map(|filling| Step::MasterTells { filling }),
        2 => (0_u32..10).prop_map(|turns| Step::HandOver { turns }),
        1 => (0_u32..10).prop_map(|turns| Step::GoOn { turns }),
    ];
    prop::collection::vec(step, 1..60)
}

/// What one side was asked and told.
type Seen = Arc<Mutex<Vec<u32>>>;

/// Numbers from here on are of messages that want no answer.
const TOLD: u32 = 1_000_000;

/// Numbers from here on are of the requests that the master's handlers make.
const NESTED: u32 = 2_000_000;

/// The worker, and the images of the master, one after the other.
struct World {
    rt: Rt,
    worker: Side,
    master: Side,
    /// For the handlers of the master.
    peer: Arc<Mutex<Option<Peer<Ask>>>>,
    by_master: Seen,
    by_worker: Seen,
    last: u32,
    /// Calls of the worker, and where their handlers write to.
    calls: HashMap<u32, (Task<u32>, PipeReader, usize)>,
    given_up: Vec<u32>,
    /// Calls of this image of the master.
    masters_calls: HashMap<u32, Task<u32>>,
    told_master: Vec<u32>,
    told_worker: Vec<u32>,
}

fn master(rt: &Rt, link: Link, peer: &Arc<Mutex<Option<Peer<Ask>>>>, seen: &Seen) -> Side {
    let (handlers, seen) = (Arc::clone(peer), Arc::clone(seen));
    let side = Side::new(rt, link, move |ask| {
        seen.lock().unwrap().push(ask.number);
        let peer = handlers.lock().unwrap().clone();
        async move {
            for _ in 0..ask.number % 4 {
                give_way().await;
            }
            if let Some(peer) = peer.filter(|_| ask.number % 5 == 0) {
                let nested = NESTED + ask.number;
                assert_eq!(peer.call(&Ask::new(nested)).await.unwrap(), nested);
            }
            for descriptor in ask.descriptors {
                let mut file = std::fs::File::from(OwnedFd::from(descriptor));
                file.write_all(&ask.number.to_be_bytes()).unwrap();
            }
            Ok(ask.number)
        }
    });
    *peer.lock().unwrap() = Some(side.peer.clone());
    side
}

impl World {
    fn new(rt: &Rt, ring: Option<u32>) -> Self {
        let (here, there) = UnixStream::pair().unwrap();
        for socket in [&here, &there] {
            setsockopt(socket, SndBuf, &4608).unwrap();
        }
        let (by_master, by_worker, peer) = (Seen::default(), Seen::default(), Arc::default());
        let seen = Arc::clone(&by_worker);
        let link = |socket| match ring {
            Some(bytes) => ringed(rt, socket, bytes),
            None => link(rt, socket),
        };
        let worker = Side::new(rt, link(there), move |ask| {
            seen.lock().unwrap().push(ask.number);
            async move {
                for _ in 0..ask.number % 3 {
                    give_way().await;
                }
                Ok(ask.number)
            }
        });
        Self {
            rt: rt.clone(),
            worker,
            master: master(rt, link(here), &peer, &by_master),
            peer,
            by_master,
            by_worker,
            last: 0,
            calls: HashMap::new(),
            given_up: Vec::new(),
            masters_calls: HashMap::new(),
            told_master: Vec::new(),
            told_worker: Vec::new(),
        }
    }

    fn number(&mut self) -> u32 {
        self.last += 1;
        self.last
    }

    async fn turns(&self, count: u32) {
        for _ in 0..count {
            give_way().await;
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Turns(count) => self.turns(count).await,
            Step::WorkerCalls { filling, descriptors } => {
                let (number, (reader, writer)) = (self.number(), pipe().unwrap());
                let copies = (0..descriptors).map(|_| writer.try_clone().unwrap().into());
                let descriptors = copies.collect::<Vec<_>>();
                let (peer, count) = (self.worker.peer.clone(), descriptors.len());
                let ask = Ask { number, filling: vec![7; filling], descriptors: from(descriptors) };
                let call = self.rt.spawn(async move { peer.call(&ask).await.unwrap() });
                self.calls.insert(number, (call, reader, count));
            }
            Step::WorkerGivesUp(which) => {
                let mut numbers: Vec<_> = self.calls.keys().copied().collect();
                numbers.sort_unstable();
                if !numbers.is_empty() {
                    let number = *which.get(&numbers);
                    self.calls.remove(&number);
                    self.given_up.push(number);
                }
            }
            Step::WorkerTells { filling } => {
                let number = TOLD + self.number();
                if tell(&self.worker, number, filling) {
                    self.told_master.push(number);
                }
            }
            Step::MasterCalls { filling } => {
                let (number, peer) = (self.number(), self.master.peer.clone());
                let ask = Ask { filling: vec![7; filling], ..Ask::new(number) };
                let call = self.rt.spawn(async move { peer.call(&ask).await.unwrap() });
                self.masters_calls.insert(number, call);
            }
            Step::MasterTells { filling } => {
                let number = TOLD + self.number();
                if tell(&self.master, number, filling) {
                    self.told_worker.push(number);
                }
            }
            Step::HandOver { turns } => {
                let frozen = self.master.freeze(&self.rt).await;
                self.turns(turns).await;
                self.masters_calls.clear();
                let new = Link::thaw(&self.rt, passed_on(frozen)).unwrap();
                self.master = master(&self.rt, new, &self.peer, &self.by_master);
            }
            Step::GoOn { turns } => {
                let frozen = self.master.freeze(&self.rt).await;
                self.turns(turns).await;
                self.master.link.resume();
                drop(frozen);
            }
        }
    }

    /// Waits for everything that was begun, and looks at what has happened.
    async fn check(mut self) {
        let rt = self.rt.clone();
        let mut readers = Vec::new();
        for (number, (call, reader, count)) in std::mem::take(&mut self.calls) {
            assert_eq!(within(&rt, call).await, number);
            readers.push((number, reader, count));
        }
        for (number, call) in std::mem::take(&mut self.masters_calls) {
            assert_eq!(within(&rt, call).await, number);
        }
        let all_told = async {
            while told(&self.by_master).len() < self.told_master.len()
                || told(&self.by_worker).len() < self.told_worker.len()
            {
                give_way().await;
            }
        };
        within(&rt, all_told).await;
        assert_eq!(told(&self.by_master), self.told_master);
        assert_eq!(told(&self.by_worker), self.told_worker);
        for seen in [&self.by_master, &self.by_worker] {
            let mut numbers = seen.lock().unwrap().clone();
            let all = numbers.len();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), all, "nothing is begun twice");
        }
        assert!(self.master.link.ended().is_none() && self.worker.link.ended().is_none());
        self.peer.lock().unwrap().take();
        drop(self);
        // Tasks that were dropped are gone after their next turn.
        for _ in 0..10 {
            give_way().await;
        }
        for (number, mut reader, count) in readers {
            set_nonblocking(&reader).unwrap();
            let mut written = Vec::new();
            reader.read_to_end(&mut written).expect("all descriptors are closed");
            assert_eq!(written, number.to_be_bytes().repeat(count));
        }
    }
}

fn from(descriptors: Vec<OwnedFd>) -> Vec<Descriptor> {
    descriptors.into_iter().map(Descriptor::from).collect()
}

fn tell(side: &Side, number: u32, filling: usize) -> bool {
    side.peer.notify(Ask { filling: vec![7; filling], ..Ask::new(number) }).is_ok()
}

fn told(seen: &Seen) -> Vec<u32> {
    let is_told = |number: &u32| (TOLD..NESTED).contains(number);
    seen.lock().unwrap().iter().copied().filter(is_told).collect()
}

proptest! {
    #![proptest_config(crate::cases::cases(200))]

    #[test]
    fn nothing_is_lost_and_nothing_comes_twice(
        steps in steps(),
        ring in prop::sample::select(vec![None, Some(4096), Some(65_536)]),
    ) {
        on_local(async |rt| {
            let mut world = World::new(&rt, ring);
            for step in steps {
                world.step(step).await;
            }
            world.check().await;
        });
    }
}
