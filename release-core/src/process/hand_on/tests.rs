//! The end of each process at each step, without processes: the test decides what the workers do.

use std::future::Ready;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::state::TAKE_TIME;
use super::*;
use crate::ipc::limits::Limits;
use crate::ipc::link::Mode;
use crate::ipc::serve::{Heard, serve};
use crate::ipc::service::{HandOnRefusal, LONGEST_TYPE, ask};
use crate::ipc::{CallError, Descriptor, Ended, Never, Postcard, Refused};
use crate::rt::local::Local;
use crate::rt::{Driver, Task, give_way, run};

type Asked = Task<Result<ServiceAnswer, CallError>>;

const LIMITS: HandOnLimits = HandOnLimits { connections: 3, bytes: 100 };

fn refuse(never: Never) -> Result<Ready<Result<(), Refused>>, &'static str> {
    match never {}
}

/// A group at the master, and its workers.
struct Group {
    rt: Rt,
    hand_on: Arc<HandOn>,
}

struct Worker {
    rt: Rt,
    key: ProcessKey,
    link: Arc<Link>,
}

impl Group {
    /// Connects a worker of this generation, which has declared its type.
    async fn worker(&self, id: u32, generation: u32) -> Worker {
        let worker = self.stranger(id, generation);
        assert!(matches!(worker.declare(b"type", b"type").await, Ok(ServiceAnswer::Done)));
        worker
    }

    fn stranger(&self, id: u32, generation: u32) -> Worker {
        let (here, there) = UnixStream::pair().unwrap();
        let key = (id, 100 + i32::try_from(id).unwrap());
        let limits = Limits { hands_on: true, ..Limits::IPC };
        let master = Link::new(&self.rt, here.into(), Mode::Calls, limits).unwrap();
        let master = Arc::new(master);
        let (group, rt) = ("group".into(), self.rt.clone());
        let info = WorkerInfo { id, pid: key.1, group, generation, rt };
        let member = self.hand_on.connected(&info, &master);
        let rt = self.rt.clone();
        let at_master = async move {
            let heard = |heard| match heard {
                Heard::Service(number, request) => member.asked(&rt, number, *request),
                Heard::Cancelled(number) => member.cancelled(number),
                _ => {}
            };
            serve::<Never, _, _, _>(master, Postcard, refuse, heard).await;
        };
        self.rt.spawn(at_master).detach();
        let link = Link::new(&self.rt, there.into(), Mode::Calls, Limits::IPC.of_worker());
        let link = Arc::new(link.unwrap());
        let at_worker = serve::<Never, _, _, _>(Arc::clone(&link), Postcard, refuse, |_| {});
        self.rt.spawn(async move { drop(at_worker.await) }).detach();
        Worker { rt: self.rt.clone(), key, link }
    }

    async fn ready(&self, workers: &[&Worker]) {
        let ready = workers.iter().map(|worker| worker.key).collect();
        self.hand_on.ready(&ready, false);
        some_turns().await;
    }
}

impl Worker {
    fn ask(&self, request: ServiceRequest) -> Asked {
        let link = Arc::clone(&self.link);
        self.rt.spawn(async move { ask(&link, &request).await })
    }

    fn declare(&self, gives: &[u8], takes: &[u8]) -> Asked {
        self.ask(ServiceRequest::Declare { gives: gives.into(), takes: takes.into() })
    }

    /// Gives a connection, whose other end is returned.
    async fn give(&self, state: &[u8]) -> (Asked, UnixStream) {
        let (client, server) = UnixStream::pair().unwrap();
        let socket = Descriptor::new(server);
        let asked = self.ask(ServiceRequest::Give { state: state.into(), socket });
        some_turns().await;
        (asked, client)
    }

    async fn take(&self) -> Asked {
        let asked = self.ask(ServiceRequest::Take);
        some_turns().await;
        asked
    }

    fn taken(&self, number: u64) -> Asked {
        self.ask(ServiceRequest::Taken { number })
    }

    async fn die(self) {
        self.link.end(Ended::Here);
        drop(self);
        some_turns().await;
    }
}

async fn some_turns() {
    for _ in 0..50 {
        give_way().await;
    }
}

async fn of(asked: Asked) -> ServiceAnswer {
    asked.await.expect("an answer")
}

/// The connection that was offered.
async fn offered(asked: Asked) -> (u64, Vec<u8>, UnixStream) {
    match of(asked).await {
        ServiceAnswer::Connection { number, state, socket } => {
            (number, state, std::os::fd::OwnedFd::from(socket).into())
        }
        other => panic!("{other:?}"),
    }
}

fn is_refused(answer: &ServiceAnswer, why: HandOnRefusal) {
    assert!(matches!(answer, ServiceAnswer::Refused(its) if *its == why), "{answer:?}");
}

fn in_group<F: Future<Output = ()>>(test: impl FnOnce(Group) -> F) {
    let driver = Local::new().unwrap();
    let group = Group { rt: driver.handle(), hand_on: Arc::new(HandOn::new(LIMITS)) };
    let rt = group.rt.clone();
    let test = test(group);
    run(&driver, async { rt.timeout(Duration::from_secs(60), test).await.expect("in time") });
}

#[test]
fn a_connection_goes_to_the_newest_generation_and_only_once() {
    in_group(async |group| {
        let (old, other) = (group.worker(0, 1).await, group.worker(1, 1).await);
        let new = group.worker(2, 2).await;
        group.ready(&[&old, &other, &new]).await;
        let (not, take) = (other.take().await, new.take().await);
        let (given, mut client) = old.give(b"state").await;
        let (number, state, mut server) = offered(take).await;
        assert_eq!(state, b"state");
        is_refused(&of(other.taken(number)).await, HandOnRefusal::Gone);
        assert!(matches!(of(new.taken(number)).await, ServiceAnswer::Done));
        assert!(matches!(of(given).await, ServiceAnswer::Done));
        is_refused(&of(new.taken(number)).await, HandOnRefusal::Gone);
        server.write_all(b"hello").unwrap();
        drop(server);
        let mut said = String::new();
        client.read_to_string(&mut said).unwrap();
        assert_eq!((&*said, group.hand_on.counts()), ("hello", (1, 0)));
        // The other one is asked when there is no newer worker.
        group.ready(&[&old, &other]).await;
        let (_given, _client) = old.give(b"").await;
        offered(not).await;
    });
}

#[test]
fn a_taker_that_dies_before_it_has_the_connection_does_not_have_it() {
    in_group(async |group| {
        let old = group.worker(0, 1).await;
        let (first, second) = (group.worker(1, 2).await, group.worker(2, 2).await);
        group.ready(&[&first, &second]).await;
        let (take, (given, _client)) = (first.take().await, old.give(b"1").await);
        let (_, _, received) = offered(take).await;
        drop(received);
        first.die().await;
        group.ready(&[&second]).await;
        let (number, state, _server) = offered(second.take().await).await;
        assert_eq!(state, b"1");
        assert!(matches!(of(second.taken(number)).await, ServiceAnswer::Done));
        assert!(matches!(of(given).await, ServiceAnswer::Done));
        // The last one that could take one.
        let (given, _client) = old.give(b"2").await;
        second.die().await;
        group.ready(&[]).await;
        is_refused(&of(given).await, HandOnRefusal::NoTaker);
        assert_eq!(group.hand_on.counts(), (1, 0));
    });
}

#[test]
fn a_giver_that_dies_leaves_its_connection_or_it_is_closed_and_counted() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        group.ready(&[&new]).await;
        let (given, mut client) = old.give(b"1").await;
        let (again, mut closed) = old.give(b"2").await;
        drop((given, again));
        old.die().await;
        let (number, _, server) = offered(new.take().await).await;
        assert!(matches!(of(new.taken(number)).await, ServiceAnswer::Done));
        new.die().await;
        group.ready(&[]).await;
        assert_eq!(group.hand_on.counts(), (1, 1));
        assert_eq!(closed.read(&mut [0]).unwrap(), 0);
        client.set_nonblocking(true).unwrap();
        assert!(client.read(&mut [0]).is_err(), "it is the taker's");
        drop(server);
    });
}

#[test]
fn a_limit_that_is_reached_leaves_the_connection_with_its_giver() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        group.ready(&[&new]).await;
        let large = old.give(&[0; 101]).await;
        is_refused(&of(large.0).await, HandOnRefusal::Full);
        let waiting = [old.give(b"1").await, old.give(b"2").await, old.give(b"3").await];
        is_refused(&of(old.give(b"4").await.0).await, HandOnRefusal::Full);
        let (number, _, _server) = offered(new.take().await).await;
        assert!(matches!(of(new.taken(number)).await, ServiceAnswer::Done));
        let (fifth, _client) = old.give(&[0; 98]).await;
        group.ready(&[]).await;
        is_refused(&of(fifth).await, HandOnRefusal::NoTaker);
        drop(waiting);
        assert!(group.hand_on.lock().given.is_empty() && group.hand_on.lock().bytes == 0);
        let long = vec![0; LONGEST_TYPE + 1];
        is_refused(&of(old.declare(&long, b"")).await, HandOnRefusal::Wrong);
    });
}

#[test]
fn another_type_is_refused_until_its_giver_says_that_it_fits() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.stranger(1, 2));
        let _declared = new.declare(b"other", b"other").await;
        group.ready(&[&new]).await;
        let (given, _client) = old.give(b"").await;
        let answer = of(given).await;
        assert!(matches!(&answer, ServiceAnswer::OtherType(other) if other == b"other"));
        let take = new.take().await;
        let _declared = old.declare(b"other", b"type").await;
        let (_given, _client) = old.give(b"").await;
        offered(take).await;
        // A process that has said nothing has to say it.
        let stranger = group.stranger(2, 2);
        assert!(matches!(of(stranger.take().await).await, ServiceAnswer::Again));
        assert!(matches!(of(stranger.give(b"").await.0).await, ServiceAnswer::Again));
    });
}

#[test]
fn an_upgrade_leaves_each_connection_with_its_giver() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        group.ready(&[&new]).await;
        let (take, next) = (new.take().await, new.take().await);
        let (given, _client) = old.give(b"1").await;
        let (number, _, _server) = offered(take).await;
        group.hand_on.pause();
        assert!(matches!(of(given).await, ServiceAnswer::Again));
        assert!(matches!(of(next).await, ServiceAnswer::Again));
        is_refused(&of(new.taken(number)).await, HandOnRefusal::Gone);
        assert!(matches!(of(new.take().await).await, ServiceAnswer::Again));
        group.hand_on.resume();
        let (take, (given, _client)) = (new.take().await, old.give(b"1").await);
        let (number, _, _server) = offered(take).await;
        assert!(matches!(of(new.taken(number)).await, ServiceAnswer::Done));
        assert!(matches!(of(given).await, ServiceAnswer::Done));
        assert_eq!(group.hand_on.counts(), (1, 0));
    });
}

#[test]
fn a_taker_that_no_longer_waits_or_should_stop_gets_nothing() {
    in_group(async |group| {
        let old = group.worker(0, 1).await;
        let (first, second) = (group.worker(1, 2).await, group.worker(2, 2).await);
        group.ready(&[&first, &second]).await;
        drop(first.take().await);
        some_turns().await;
        let (given, _client) = old.give(b"").await;
        let (number, _, _) = offered(second.take().await).await;
        group.ready(&[&first]).await;
        is_refused(&of(second.taken(number)).await, HandOnRefusal::Gone);
        let (number, _, _server) = offered(first.take().await).await;
        assert!(matches!(of(first.taken(number)).await, ServiceAnswer::Done));
        assert!(matches!(of(given).await, ServiceAnswer::Done));
    });
}

#[test]
fn a_new_version_that_does_not_know_its_workers_yet_refuses_nothing() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        let (take, (given, _client)) = (new.take().await, old.give(b"").await);
        group.ready(&[&new]).await;
        let (number, _, _server) = offered(take).await;
        assert!(matches!(of(new.taken(number)).await, ServiceAnswer::Done));
        assert!(matches!(of(given).await, ServiceAnswer::Done));
    });
}

#[test]
fn a_connection_does_not_wait_for_ever() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        group.ready(&[&new]).await;
        let (given, _client) = old.give(b"").await;
        let look = |after| {
            group.hand_on.change(|state, replies, now| state.look(now + after, replies));
        };
        look(TAKE_TIME / 2);
        assert_eq!(group.hand_on.lock().given.len(), 1);
        // Received, and not said so: it is taken back, and offered again.
        let (number, _, _server) = offered(new.take().await).await;
        look(TAKE_TIME);
        is_refused(&of(new.taken(number)).await, HandOnRefusal::Gone);
        look(TAKE_TIME * 3);
        is_refused(&of(given).await, HandOnRefusal::NoTaker);
    });
}

#[test]
fn a_connection_that_cannot_be_sent_leaves_its_taker_waiting() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        group.ready(&[&new]).await;
        let link = group.hand_on.lock().processes[&new.key].link.upgrade();
        // Room for a connection with a short state.
        link.expect("a connection").set_send_limit(40);
        let take = new.take().await;
        let (given, _client) = old.give(&[0; 50]).await;
        group.hand_on.change(|state, replies, now| state.look(now + TAKE_TIME, replies));
        is_refused(&of(given).await, HandOnRefusal::NoTaker);
        let (_given, _client) = old.give(b"1").await;
        let (_, state, _server) = offered(take).await;
        assert_eq!(state, b"1");
    });
}

#[test]
fn without_a_taker_the_answer_is_immediate() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        group.ready(&[&new]).await;
        // It may ask yet.
        let (given, _client) = old.give(b"1").await;
        assert_eq!(group.hand_on.lock().given.len(), 1);
        let silent = |time| {
            let mut state = group.hand_on.lock();
            state.processes.get_mut(&new.key).unwrap().heard -= time;
        };
        silent(TAKE_TIME);
        group.hand_on.change(|state, replies, now| state.look(now, replies));
        is_refused(&of(given).await, HandOnRefusal::NoTaker);
        is_refused(&of(old.give(b"2").await.0).await, HandOnRefusal::NoTaker);
        // One that asks is one again.
        let take = new.take().await;
        silent(TAKE_TIME * 2);
        let (_given, _client) = old.give(b"3").await;
        assert_eq!(offered(take).await.1, b"3");
        // It has until now asked again each time.
        let (_given, _client) = old.give(b"4").await;
        assert_eq!(offered(new.take().await).await.1, b"4");
    });
}

#[test]
fn what_did_not_arrive_or_is_no_connection_stays_with_its_giver() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        group.ready(&[&new]).await;
        let socket = Descriptor::new(std::io::pipe().unwrap().0);
        let give = ServiceRequest::Give { state: Vec::new(), socket };
        is_refused(&of(old.ask(give)).await, HandOnRefusal::Wrong);
        let answer = group.hand_on.lock().not_arrived(Instant::now());
        is_refused(&answer, HandOnRefusal::Full);
    });
}

#[test]
fn many_that_wait_for_many_workers_cost_their_sum() {
    in_group(async |group| {
        let (old, new) = (group.worker(0, 1).await, group.worker(1, 2).await);
        let link = group.hand_on.lock().processes[&new.key].link.upgrade().unwrap();
        let keys: BTreeSet<_> = (10..1010).map(|id| (id, 1)).collect();
        let mut state = group.hand_on.lock();
        let gives: Arc<[u8]> = b"type".as_slice().into();
        for key in &keys {
            let mut member = Member::new(&link, 2);
            let (gives, takes) = (Arc::clone(&gives), b"other".as_slice().into());
            (member.types, member.takes) = (Some(Declared { gives, takes }), [1].into());
            state.processes.insert(*key, member);
        }
        for number in 0..20_000 {
            let (giver, gives, since) = (old.key, Arc::clone(&gives), Instant::now());
            let (request, offered, bytes) = (Some(1), Some(old.key), 0);
            let connection = ServiceAnswer::Done;
            let given = Given { giver, request, gives, connection, bytes, offered, since };
            state.given.insert(number, given);
        }
        state.ready = Some(keys);
        let start = Instant::now();
        for turn in 0..5 {
            state.given.values_mut().for_each(|given| given.offered = None);
            let mut replies = Vec::new();
            match turn {
                4 => state.settle_all(&mut replies, Instant::now()),
                _ => state.settle(&mut replies, Instant::now()),
            }
            assert_eq!(replies.len(), if turn == 4 { 20_000 } else { 0 });
        }
        let took = start.elapsed();
        drop(state);
        // Seconds for each turn, if each of them asked each worker.
        assert!(took < Duration::from_secs(5), "{took:?}");
    });
}
