use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Wake;

use futures_util::FutureExt;
use futures_util::future::join;

use super::*;
use crate::ipc::limits::Limits;
use crate::ipc::link::Mode;
use crate::rt::local::Local;
use crate::rt::{Driver, run};

const ROOT: u32 = 0;
const GREEDY: u32 = 1000;
const OTHER: u32 = 1001;

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Connected = (Permit, AbortRegistration);

fn connect(rt: &Rt, limiter: &Arc<ConnectionLimiter>, uid: u32, now: Instant) -> Connected {
    let (ours, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let link = Link::new(rt, OwnedFd::from(ours), Mode::PlainServer, Limits::IPC).unwrap();
    let peer = Credentials { pid: 1, uid, gid: uid };
    limiter.admit(&Arc::new(link), peer, Past::default(), now)
}

/// A control socket for four connections.
struct Room {
    limiter: Arc<ConnectionLimiter>,
    driver: Local,
    start: Instant,
    /// Later connections are younger.
    moments: u32,
}

impl Room {
    fn new() -> Self {
        let driver = Local::new().unwrap();
        Self { limiter: ConnectionLimiter::new(4), driver, start: Instant::now(), moments: 0 }
    }

    fn now(&mut self) -> Instant {
        self.moments += 1;
        self.start + IDLE_GRACE * self.moments
    }

    fn enter(&mut self, uid: u32) -> Option<Connected> {
        let now = self.now();
        match self.limiter.decide(uid, now) {
            Admission::Granted => Some(connect(&self.driver.handle(), &self.limiter, uid, now)),
            Admission::Later(..) => panic!("everybody had time to ask"),
            Admission::AllBusy(_) => None,
        }
    }

    fn ask(&mut self, permit: &Permit) {
        let now = self.now();
        permit.asked(now, &mut Vec::new());
    }
}

fn is_out((_, registration): &Connected) -> bool {
    registration.handle().is_aborted()
}

#[test]
fn who_has_most_gives_way_first() {
    let mut room = Room::new();
    // It never asked and is older than all others, but it is the only one of its user.
    let alone = room.enter(OTHER).unwrap();
    let greedy = [(); 3].map(|()| room.enter(GREEDY).unwrap());
    for (permit, _) in &greedy {
        room.ask(permit);
        permit.answered(room.now());
    }
    let root = room.enter(ROOT).unwrap();
    assert_eq!(greedy.each_ref().map(is_out), [true, false, false]);
    let again = room.enter(GREEDY).unwrap();
    assert_eq!(greedy.each_ref().map(is_out), [true, true, false]);
    assert!(!is_out(&alone) && !is_out(&root) && !is_out(&again));
}

#[test]
fn a_newcomer_waits_for_an_answer_when_all_are_busy_and_not_for_long() {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    let limiter = ConnectionLimiter::new(4);
    let busy = [(); 4].map(|()| connect(&rt, &limiter, ROOT, rt.now()));
    busy.iter().for_each(|(permit, _)| drop(permit.asked(rt.now(), &mut Vec::new())));
    run(&driver, async {
        let answering = async {
            rt.sleep(IDLE_GRACE).await;
            busy[0].0.answered(rt.now());
        };
        let (has_room, ()) = join(limiter.make_room(ROOT, &rt), answering).await;
        assert!(has_room && is_out(&busy[0]));
        let last = connect(&rt, &limiter, ROOT, rt.now());
        drop(last.0.asked(rt.now(), &mut Vec::new()));
        let begun = rt.now();
        assert!(!limiter.make_room(ROOT, &rt).await);
        assert!(rt.now() - begun >= BUSY_PATIENCE);
        // The next one does not wait again.
        assert!(!limiter.make_room(ROOT, &rt).now_or_never().unwrap());
    });
}

#[test]
fn a_newcomer_waits_until_the_one_before_has_asked() {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    let (limiter, long_ago) = (ConnectionLimiter::new(4), rt.now() - IDLE_GRACE * 3);
    let old = [(); 4].map(|()| connect(&rt, &limiter, ROOT, long_ago));
    for (permit, _) in &old {
        permit.asked(long_ago, &mut Vec::new());
        permit.answered(long_ago);
    }
    let enter = || {
        Box::pin(async {
            let has_room = limiter.make_room(ROOT, &rt).await;
            has_room.then(|| connect(&rt, &limiter, ROOT, rt.now()))
        })
    };
    let first = enter().now_or_never().unwrap().unwrap();
    let (mut second, woken) = (enter(), Arc::new(Woken::default()));
    let waker = Waker::from(Arc::clone(&woken));
    let polled = second.as_mut().poll(&mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "the first has just come");
    assert_eq!(old.iter().filter(|it| is_out(it)).count(), 1);
    first.0.asked(rt.now(), &mut Vec::new());
    assert!(woken.0.load(Ordering::Relaxed));
    assert!(second.as_mut().now_or_never().unwrap().is_some());
    assert_eq!(old.iter().filter(|it| is_out(it)).count(), 2);
    assert!(!is_out(&first));
}

#[test]
fn requests_without_end_do_not_keep_another_user_out() {
    let mut room = Room::new();
    let greedy = [(); 4].map(|()| room.enter(GREEDY).unwrap());
    for (permit, _) in &greedy {
        room.ask(permit);
    }
    assert!(room.enter(GREEDY).is_none());
    let root = room.enter(ROOT).unwrap();
    // The latest request is lost.
    assert_eq!(greedy.each_ref().map(is_out), [false, false, false, true]);
    room.ask(&root.0);
    assert!(room.enter(GREEDY).is_none());
    let other = room.enter(OTHER).unwrap();
    room.ask(&other.0);
    assert!(room.enter(ROOT).is_none(), "nobody has more than half");
}

#[test]
fn a_request_that_does_not_end_keeps_no_upgrade_out() {
    let mut room = Room::new();
    let [stuck, waiting, late] = [(); 3].map(|()| room.enter(ROOT).unwrap());
    room.ask(&stuck.0);
    let begun = room.now();
    let request = waiting.0.asked(begun, &mut Vec::new());
    let _waiting = request.wait_for_upgrade();
    late.0.asked(begun + BUSY_TIME, &mut Vec::new());
    room.limiter.pause(begun + BUSY_TIME);
    assert_eq!([&stuck, &waiting, &late].map(is_out), [true, false, false]);
    assert_eq!(room.limiter.lock().admitted.len(), 2);
}
