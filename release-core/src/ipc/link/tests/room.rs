//! Callers that wait for room.

use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::*;
use crate::ipc::CallError;
use crate::ipc::limits::MAX_IN_FLIGHT;

/// Counts how often it is woken.
#[derive(Default)]
pub(super) struct Counter(pub(super) AtomicUsize);

impl Wake for Counter {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

type Call<'a> = Pin<Box<dyn Future<Output = Result<u32, CallError>> + 'a>>;

fn poll(call: &mut Call<'_>, waker: &Waker) -> Poll<Result<u32, CallError>> {
    call.as_mut().poll(&mut Context::from_waker(waker))
}

/// A connection whose peer reads nothing, and as many calls as there may be.
fn full<'a>(peer: &'a Peer<Ask>, ask: &'a Ask) -> Vec<Call<'a>> {
    let mut calls: Vec<Call<'a>> =
        (0..MAX_IN_FLIGHT).map(|_| Box::pin(peer.call(ask)) as Call<'a>).collect();
    for call in &mut calls {
        assert!(poll(call, Waker::noop()).is_pending());
    }
    calls
}

#[test]
fn a_caller_waits_once_however_often_it_is_polled_and_not_when_it_has_gone() {
    on_local(|rt| async move {
        let (here, _there) = UnixStream::pair().unwrap();
        let link = Arc::new(link(&rt, here));
        let (peer, ask) = (Peer::new(Arc::clone(&link), Postcard), Ask::new(1));
        let _calls = full(&peer, &ask);
        let mut one: Call<'_> = Box::pin(peer.call(&ask));
        for _ in 0..1000 {
            assert!(poll(&mut one, Waker::noop()).is_pending());
        }
        assert_eq!(link.lock().room.len(), 1);
        drop(one);
        for _ in 0..1000 {
            let mut short: Call<'_> = Box::pin(peer.call(&ask));
            assert!(poll(&mut short, Waker::noop()).is_pending());
        }
        assert_eq!(link.lock().room.len(), 0);
    });
}

#[test]
fn as_many_are_woken_as_there_is_room_for() {
    on_local(|rt| async move {
        let (here, _there) = UnixStream::pair().unwrap();
        let link = Arc::new(link(&rt, here));
        let (peer, ask) = (Peer::new(Arc::clone(&link), Postcard), Ask::new(1));
        let mut calls = full(&peer, &ask);
        let counters: Vec<_> = (0..100).map(|_| Arc::<Counter>::default()).collect();
        let mut waiting: Vec<Call<'_>> = (0..100).map(|_| Box::pin(peer.call(&ask)) as _).collect();
        for (call, counter) in waiting.iter_mut().zip(&counters) {
            assert!(poll(call, &Waker::from(Arc::clone(counter))).is_pending());
        }
        let woken = || counters.iter().map(|one| one.0.load(Ordering::Relaxed)).collect::<Vec<_>>();
        calls.truncate(MAX_IN_FLIGHT - 3);
        let mut expected = vec![0; 100];
        expected[..3].fill(1);
        assert_eq!(woken(), expected, "the first three, once");
        // One of them takes its place, one goes: its room is the next one's.
        assert!(poll(&mut waiting[0], Waker::noop()).is_pending());
        drop(waiting.remove(1));
        expected[3] = 1;
        assert_eq!(woken(), expected);
        assert_eq!(link.lock().room.len(), 98);
    });
}

#[test]
fn what_needs_fewer_descriptors_goes_on() {
    on_local(|rt| async move {
        let (here, _there) = UnixStream::pair().unwrap();
        let peer = Peer::new(Arc::new(link(&rt, here)), Postcard);
        let with = |count| {
            let descriptors =
                (0..count).map(|_| Descriptor::new(std::io::pipe().unwrap().0)).collect();
            Ask { descriptors, ..Ask::new(1) }
        };
        let (most, many, few) = (with(6), with(5), with(2));
        let mut first: Call<'_> = Box::pin(peer.call(&most));
        assert!(poll(&mut first, Waker::noop()).is_pending());
        let counter = Arc::<Counter>::default();
        let waker = Waker::from(Arc::clone(&counter));
        let mut waits: Call<'_> = Box::pin(peer.call(&many));
        assert!(poll(&mut waits, &waker).is_pending());
        let mut goes = pin!(peer.call(&few));
        let context = &mut Context::from_waker(Waker::noop());
        assert!(goes.as_mut().poll(context).is_pending());
        assert_eq!(peer_in_flight(&peer), 8);
        assert_eq!(counter.0.load(Ordering::Relaxed), 0, "there is no room for it");
        drop(first);
        assert_eq!(counter.0.load(Ordering::Relaxed), 1);
    });
}

/// How many descriptors are on their way.
fn peer_in_flight(peer: &Peer<Ask>) -> usize {
    peer.link().lock().answers.descriptors()
}
