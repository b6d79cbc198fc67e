//! What a pause lets through and what not.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use futures_channel::oneshot;

use super::*;
use crate::rt::give_way;

/// Answers at once, and notes what it was asked.
fn noting(
    seen: &Arc<Mutex<Vec<u32>>>,
) -> impl Fn(Ask) -> std::future::Ready<Result<u32, Refused>> + use<> {
    let seen = Arc::clone(seen);
    move |ask| {
        seen.lock().unwrap().push(ask.number);
        std::future::ready(Ok(ask.number))
    }
}

async fn some_turns() {
    for _ in 0..20 {
        give_way().await;
    }
}

#[test]
fn what_is_asked_in_the_pause_is_begun_after_it_and_in_order() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let (seen, nothing) = (Arc::default(), Arc::default());
        let master = Side::new(&rt, link(&rt, here), noting(&seen));
        let worker = Side::new(&rt, link(&rt, there), noting(&nothing));
        master.link.pause();
        at_rest(&rt, &master.link).await;
        let calls = [worker.peer.clone(), worker.peer.clone()];
        let calls = calls.into_iter().zip(1..).map(|(peer, number)| {
            rt.spawn(async move { peer.call(&Ask::new(number)).await.unwrap() })
        });
        let calls: Vec<_> = calls.collect();
        some_turns().await;
        worker.peer.notify(Ask::new(3)).unwrap();
        some_turns().await;
        // Answers come all the time.
        assert_eq!(within(&rt, master.peer.call(&Ask::new(7))).await.ok(), Some(7));
        assert!(seen.lock().unwrap().is_empty());
        assert_eq!(master.link.unfinished(), 0);
        master.link.resume();
        for (call, number) in calls.into_iter().zip(1..) {
            assert_eq!(within(&rt, call).await, number);
        }
        some_turns().await;
        assert_eq!(*seen.lock().unwrap(), [1, 2, 3]);
    });
}

#[test]
fn what_was_begun_is_waited_for_and_may_ask_the_peer_meanwhile() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let asked = Arc::new(Mutex::new(None::<Peer<Ask>>));
        let (go, gone) = oneshot::channel::<()>();
        let (gone, asks) = (Mutex::new(Some(gone)), Arc::clone(&asked));
        let master = Side::new(&rt, link(&rt, here), move |ask| {
            let peer = asks.lock().unwrap().clone().unwrap();
            let gone = gone.lock().unwrap().take();
            async move {
                if let Some(gone) = gone {
                    let _ = gone.await;
                }
                Ok(peer.call(&ask).await.unwrap())
            }
        });
        *asked.lock().unwrap() = Some(master.peer.clone());
        let worker = Side::new(&rt, link(&rt, there), noting(&Arc::default()));
        let call = worker.peer.clone();
        let call = rt.spawn(async move { call.call(&Ask::new(5)).await });
        some_turns().await;
        master.link.pause();
        some_turns().await;
        assert_eq!(master.link.unfinished(), 1);
        let refused = master.link.freeze(None).unwrap_err().report();
        assert_eq!(refused, "requests that are still being answered: 1");
        let another = worker.peer.clone();
        let another = rt.spawn(async move { another.call(&Ask::new(6)).await });
        some_turns().await;
        go.send(()).unwrap();
        at_rest(&rt, &master.link).await;
        assert_eq!(within(&rt, call).await.ok(), Some(5));
        master.link.resume();
        assert_eq!(within(&rt, another).await.ok(), Some(6));
        asked.lock().unwrap().take();
    });
}

#[test]
fn a_request_that_is_given_up_is_not_waited_for() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let master = Side::new(&rt, link(&rt, here), |_| std::future::pending());
        let worker = Side::new(&rt, link(&rt, there), noting(&Arc::default()));
        let call = worker.peer.clone();
        let call = rt.spawn(async move { call.call(&Ask::new(5)).await });
        some_turns().await;
        master.link.pause();
        some_turns().await;
        assert_eq!(master.link.unfinished(), 1);
        drop(call);
        at_rest(&rt, &master.link).await;
    });
}

#[test]
fn requests_that_are_given_up_in_the_pause_leave_room_for_what_follows() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let seen = Arc::default();
        let master = Side::new(&rt, link(&rt, here), noting(&seen));
        let worker = Side::new(&rt, link(&rt, there), noting(&Arc::default()));
        master.link.pause();
        at_rest(&rt, &master.link).await;
        // Three times as many descriptors as may be under way at once.
        for number in 0..24 {
            let (peer, null) = (worker.peer.clone(), std::fs::File::open("/dev/null").unwrap());
            let ask = Ask { descriptors: vec![OwnedFd::from(null).into()], ..Ask::new(number) };
            let call = rt.spawn(async move { peer.call(&ask).await });
            some_turns().await;
            drop(call);
            some_turns().await;
        }
        // An answer comes behind them.
        assert_eq!(within(&rt, master.peer.call(&Ask::new(7))).await.ok(), Some(7));
        let new = Link::thaw(&rt, passed_on(master.freeze(&rt).await)).unwrap();
        drop(master);
        let new = Side::new(&rt, new, noting(&seen));
        assert_eq!(within(&rt, worker.peer.call(&Ask::new(50))).await.ok(), Some(50));
        assert_eq!(*seen.lock().unwrap(), [50], "what was given up is not begun");
        drop(new);
    });
}

#[test]
fn a_peer_that_floods_is_not_read_for_ever() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
        let master = Side::new(&rt, link(&rt, here), noting(&seen));
        let worker = Side::new(&rt, link(&rt, there), noting(&Arc::default()));
        master.link.pause();
        let mut sent = 0;
        for _ in 0..1000 {
            let filling = vec![7; 10_000];
            let flood = Ask { number: sent, filling, descriptors: Vec::new() };
            sent += u32::from(worker.peer.notify(&flood).is_ok());
            give_way().await;
        }
        assert!(u64::from(sent) * 10_000 < 4 * 1024 * 1024, "{sent}");
        let new = Link::thaw(&rt, passed_on(master.freeze(&rt).await)).unwrap();
        drop(master);
        let _new = Side::new(&rt, new, noting(&seen));
        let arrived = async {
            while seen.lock().unwrap().len() < usize::try_from(sent).unwrap() {
                give_way().await;
            }
        };
        within(&rt, arrived).await;
        assert_eq!(*seen.lock().unwrap(), (0..sent).collect::<Vec<_>>());
    });
}

#[test]
fn calls_of_the_old_image_are_given_up_and_late_answers_are_nobodys() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let begun = Arc::new(AtomicU32::new(0));
        let (go, gone) = oneshot::channel::<()>();
        let (counted, gone) = (Arc::clone(&begun), Mutex::new(Some(gone)));
        let worker = Side::new(&rt, link(&rt, there), move |ask| {
            counted.fetch_add(1, Ordering::Relaxed);
            let gone = gone.lock().unwrap().take();
            async move {
                if let Some(gone) = gone {
                    let _ = gone.await;
                }
                Ok(ask.number)
            }
        });
        let master = Side::new(&rt, link(&rt, here), noting(&Arc::default()));
        let call = master.peer.clone();
        let call = rt.spawn(async move { call.call(&Ask::new(1)).await });
        some_turns().await;
        assert_eq!(begun.load(Ordering::Relaxed), 1);
        let frozen = passed_on(master.freeze(&rt).await);
        // As exec does, nobody is told.
        drop((call, master));
        let new = Side::new(&rt, Link::thaw(&rt, frozen).unwrap(), noting(&Arc::default()));
        some_turns().await;
        assert!(go.is_canceled(), "the worker was told that nobody waits");
        for number in 2..10 {
            assert_eq!(within(&rt, new.peer.call(&Ask::new(number))).await.ok(), Some(number));
        }
        drop(worker);
    });
}

#[test]
fn a_frozen_link_takes_nothing_that_it_would_lose() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let seen: Arc<Mutex<Vec<u32>>> = Arc::default();
        let master = Side::new(&rt, link(&rt, here), noting(&Arc::default()));
        let _worker = Side::new(&rt, link(&rt, there), noting(&seen));
        let frozen = master.freeze(&rt).await;
        assert!(master.peer.notify(Ask::new(1)).is_err());
        let call = master.peer.clone();
        let call = rt.spawn(async move { call.call(&Ask::new(2)).await });
        some_turns().await;
        assert!(seen.lock().unwrap().is_empty());
        master.link.resume();
        drop(frozen);
        assert_eq!(within(&rt, call).await.ok(), Some(2));
        assert_eq!(*seen.lock().unwrap(), [2]);
    });
}

#[test]
fn deadlines_go_on_where_they_were() {
    let driver = Local::with_virtual_time().unwrap();
    let rt = driver.handle();
    run(&driver, async {
        let (here, there) = UnixStream::pair().unwrap();
        let master = Side::new(&rt, link(&rt, here), noting(&Arc::default()));
        (&there).write_all(b"\0\0").unwrap();
        some_turns().await;
        rt.sleep(limits().frame_time / 4).await;
        let left = master.link.deadline().unwrap() - rt.now();
        assert_eq!(left, limits().frame_time * 3 / 4);
        let frozen = master.freeze(&rt).await;
        assert_eq!(master.link.deadline(), None);
        rt.sleep(limits().frame_time * 2).await;
        let new = Link::thaw(&rt, passed_on(frozen)).unwrap();
        assert_eq!(new.deadline().unwrap() - rt.now(), left);
    });
}

#[test]
fn a_link_that_has_ended_has_no_state() {
    on_local(async |rt| {
        let (here, there) = UnixStream::pair().unwrap();
        let master = Side::new(&rt, link(&rt, here), noting(&Arc::default()));
        master.link.pause();
        drop(there);
        at_rest(&rt, &master.link).await;
        some_turns().await;
        assert!(master.link.freeze(None).unwrap().is_none());
    });
}

#[test]
fn one_that_ends_while_it_is_frozen_and_then_goes_on_has_ended() {
    on_local(async |rt| {
        let (here, mut there) = UnixStream::pair().unwrap();
        let master = Side::new(&rt, link(&rt, here), noting(&Arc::default()));
        let frozen = master.freeze(&rt).await;
        master.link.end(Ended::Here);
        there.set_nonblocking(true).unwrap();
        assert!(there.read(&mut [0]).is_err(), "not yet");
        master.link.resume();
        assert_eq!(there.read(&mut [0]).unwrap(), 0);
        drop(frozen);
    });
}
