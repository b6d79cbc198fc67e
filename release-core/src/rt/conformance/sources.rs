//! The behavior of a registered descriptor: sockets, listeners, children, many at a time.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

use super::super::{Direction, Io, Progress, Rt};
use super::Check;
use super::support::{Make, drain, fill, half_watched, on, read, watch, write};
use crate::sys::fds::replace;
use crate::sys::pidfd::pidfd_open;

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "echo",
        promise: "bytes arrive in both directions between two tasks",
        body: echo,
    },
    Check {
        name: "both_directions",
        promise: "two tasks may wait for one descriptor, one in each direction",
        body: both_directions,
    },
    Check {
        name: "accept",
        promise: "a listener is readable when a connection waits, before the watch began or after",
        body: accept,
    },
    Check {
        name: "child_exit",
        promise: "a process descriptor is readable when the child has exited, before or after",
        body: child_exit,
    },
    Check {
        name: "dropped_source",
        promise: "dropping a source ends the watch and closes before drop returns; its number can be watched anew",
        body: dropped_source,
    },
    Check {
        name: "each_direction_for_itself",
        promise: "what happens in one direction does not end the wait in the other",
        body: each_direction_for_itself,
    },
    Check {
        name: "unawaited_event",
        promise: "what came while no task waited is there for the next attempt",
        body: unawaited_event,
    },
    Check {
        name: "half_closed",
        promise: "a peer that has stopped writing may still read: the end of one direction is not that of the other",
        body: half_closed,
    },
    Check {
        name: "kept_duplicate",
        promise: "a dropped source can be watched anew, under its number too, if a duplicate has stayed open",
        body: kept_duplicate,
    },
    Check {
        name: "many_duplicates",
        promise: "each of several tasks that wait for one socket, in both directions, is woken when the peer has gone",
        body: many_duplicates,
    },
    Check {
        name: "many_sources",
        promise: "each of 1,100 descriptors wakes its own task, and only that, whatever its number",
        body: many_sources,
    },
];

async fn send(io: &Io, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let attempt = |fd: BorrowedFd<'_>| Ok((write(fd, bytes)?, Progress::More));
        let written = io.run(Direction::Write, attempt).await.expect("write failed");
        bytes = &bytes[written..];
    }
}

async fn receive(io: &Io) -> Vec<u8> {
    io.run(Direction::Read, drain::<1024>).await.expect("read failed")
}

fn echo(make: &Make) {
    on(make, async |rt| {
        let (near, far) = UnixStream::pair().expect("socketpair failed");
        let (near, far) = (watch(&rt, near), watch(&rt, far));
        let server = rt.spawn(async move {
            loop {
                let bytes = receive(&far).await;
                if bytes.is_empty() {
                    return;
                }
                send(&far, &bytes).await;
            }
        });
        for round in 0..100_u8 {
            send(&near, &[round; 64]).await;
            assert_eq!(receive(&near).await, [round; 64]);
        }
        drop(near);
        server.await;
    });
}

fn both_directions(make: &Make) {
    const TOTAL: usize = 2 * 1024 * 1024;
    on(make, async |rt| {
        let (io, peer) = half_watched(&rt);
        let io = Arc::new(io);
        let writer = rt.spawn({
            let io = Arc::clone(&io);
            async move { send(&io, &vec![1; TOTAL]).await }
        });
        let reader = rt.spawn(async move { receive(&io).await });
        // By now the writer is very probably stuck, and the reader has nothing to read.
        rt.sleep(Duration::from_millis(10)).await;
        let mut peer = peer;
        peer.write_all(b"hello").expect("write failed");
        // The reader goes before there is room: the writer's wait must not go with it.
        assert_eq!(reader.await, b"hello");
        let other_side = std::thread::spawn(move || {
            let mut bytes = vec![0; TOTAL];
            peer.read_exact(&mut bytes).expect("read failed");
        });
        writer.await;
        other_side.join().expect("the other side panicked");
    });
}

fn each_direction_for_itself(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        let filled = fill(&io);
        let io = Arc::new(io);
        let reader = rt.spawn({
            let io = Arc::clone(&io);
            async move { receive(&io).await }
        });
        let writer = rt.spawn(async move { send(&io, b"x").await });
        rt.sleep(Duration::from_millis(10)).await;
        peer.read_exact(&mut vec![0; filled]).expect("read failed");
        writer.await;
        peer.write_all(b"late").expect("write failed");
        assert_eq!(reader.await, b"late");
    });
}

fn accept(make: &Make) {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::SeqCst);
    // Abstract, so that a runtime that fails here leaves no file behind.
    let name = format!("release-conformance-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).expect("no such name");
    on(make, async |rt| {
        let listener = UnixListener::bind_addr(&address).expect("bind failed");
        let _early = UnixStream::connect_addr(&address).expect("connect failed");
        let listener = watch(&rt, listener);
        accept_one(&listener).await.expect("accept failed");
        let connecting = std::thread::spawn({
            let address = address.clone();
            move || {
                std::thread::sleep(Duration::from_millis(10));
                UnixStream::connect_addr(&address).expect("connect failed")
            }
        });
        let accepted = accept_one(&listener).await.expect("accept failed");
        accepted.shutdown(Shutdown::Both).expect("shutdown failed");
        connecting.join().expect("the client panicked");
    });
}

async fn accept_one(listener: &Io) -> io::Result<UnixStream> {
    let attempt = |fd: BorrowedFd<'_>| {
        let (stream, _) = UnixListener::from(fd.try_clone_to_owned()?).accept()?;
        Ok((stream, Progress::More))
    };
    listener.run(Direction::Read, attempt).await
}

fn child_exit(make: &Make) {
    on(make, async |rt| {
        let mut slow = Command::new("sleep").arg("0.05").spawn().expect("sleep did not start");
        let slow_exit = watch(&rt, pidfd(&slow));
        assert!(exit_of(&slow_exit, &mut slow).await.success());

        let mut quick = Command::new("true").spawn().expect("true did not start");
        let descriptor = pidfd(&quick);
        rt.sleep(Duration::from_millis(50)).await;
        let quick_exit = watch(&rt, descriptor);
        assert!(exit_of(&quick_exit, &mut quick).await.success());
    });
}

fn pidfd(child: &Child) -> OwnedFd {
    let pid = child.id().try_into().expect("a process number that does not fit");
    pidfd_open(pid).expect("pidfd_open failed")
}

async fn exit_of(exit: &Io, child: &mut Child) -> ExitStatus {
    let attempt = |_: BorrowedFd<'_>| match child.try_wait()? {
        Some(status) => Ok((status, Progress::Drained)),
        None => Err(io::ErrorKind::WouldBlock.into()),
    };
    exit.run(Direction::Read, attempt).await.expect("wait failed")
}

fn dropped_source(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        let number = io.as_fd().as_raw_fd();
        poll_in_vain(&io);
        drop(io);
        peer.set_nonblocking(true).expect("set_nonblocking failed");
        let end = peer.read(&mut [0; 1]);
        assert!(end.is_ok_and(|count| count == 0), "the socket was not closed when drop returned");
        // The lowest free number is given out first, unless another thread takes it.
        let anew: Vec<_> = (0..8).map(|_| UnixStream::pair().expect("socketpair failed")).collect();
        let same = anew.iter().position(|(near, _)| near.as_raw_fd() == number).unwrap_or(0);
        let (near, mut far) = anew.into_iter().nth(same).expect("there are eight");
        let near = watch(&rt, near);
        poll_in_vain(&near);
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            far.write_all(b"anew").expect("write failed");
            far
        });
        assert_eq!(receive(&near).await, b"anew");
        writer.join().expect("the writer panicked");
    });
}

fn unawaited_event(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        peer.write_all(b"first").expect("write failed");
        assert_eq!(receive(&io).await, b"first");
        for round in 0..3_u8 {
            peer.write_all(&[round]).expect("write failed");
            // The driver looks at the descriptor meanwhile, and nobody to wake is there.
            rt.sleep(Duration::from_millis(2)).await;
            assert_eq!(receive(&io).await, [round]);
        }
    });
}

fn half_closed(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        let filled = fill(&io);
        let io = Arc::new(io);
        let reader = rt.spawn({
            let io = Arc::clone(&io);
            async move { receive(&io).await }
        });
        let writer = rt.spawn({
            let io = Arc::clone(&io);
            async move { send(&io, b"x").await }
        });
        rt.sleep(Duration::from_millis(10)).await;
        peer.shutdown(Shutdown::Write).expect("shutdown failed");
        assert_eq!(reader.await, b"");
        assert_eq!(receive(&io).await, b"", "the end was reported once only");
        peer.read_exact(&mut vec![0; filled]).expect("read failed");
        writer.await;
        drop(io);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).expect("read failed");
        assert_eq!(rest, b"x");
    });
}

/// As when a process that was started meanwhile has the descriptor too.
fn kept_duplicate(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        poll_in_vain(&io);
        let number = io.as_fd().as_raw_fd();
        let kept = io.as_fd().try_clone_to_owned().expect("dup failed");
        drop(io);
        peer.write_all(b"first").expect("write failed");
        rt.sleep(Duration::from_millis(2)).await;
        // The same file under the same number, unless another thread has taken it.
        let places: Vec<_> =
            (0..8).map(|_| UnixStream::pair().expect("socketpair failed")).collect();
        let places = places.into_iter().flat_map(|(near, far)| [near, far]);
        let place = places.into_iter().find(|place| place.as_raw_fd() == number);
        let again = match place {
            Some(place) => replace(place.into(), kept).expect("dup3 failed"),
            None => kept,
        };
        let again = watch(&rt, again);
        assert_eq!(receive(&again).await, b"first");
        let waiting = rt.spawn(async move { receive(&again).await });
        rt.sleep(Duration::from_millis(2)).await;
        peer.write_all(b"second").expect("write failed");
        assert_eq!(waiting.await, b"second");
    });
}

fn many_duplicates(make: &Make) {
    on(make, async |rt| {
        let (near, peer) = UnixStream::pair().expect("socketpair failed");
        let duplicate = || watch(&rt, near.try_clone().expect("dup failed"));
        let ends: Vec<Arc<Io>> = (0..20).map(|_| Arc::new(duplicate())).collect();
        fill(&ends[0]);
        let waiting = ends.iter().flat_map(|end| {
            let (reading, writing) = (Arc::clone(end), Arc::clone(end));
            // One of them reads that what was sent is lost.
            let reader = rt.spawn(async move {
                !reading.run(Direction::Read, drain::<64>).await.is_ok_and(|it| !it.is_empty())
            });
            let writer = rt.spawn(async move {
                let attempt = |fd: BorrowedFd<'_>| Ok((write(fd, b"x")?, Progress::More));
                writing.run(Direction::Write, attempt).await.is_err()
            });
            [reader, writer]
        });
        let waiting: Vec<_> = waiting.collect();
        rt.sleep(Duration::from_millis(10)).await;
        drop(peer);
        assert_eq!(join_all(waiting).await, [true; 40]);
    });
}

fn poll_in_vain(io: &Io) {
    let mut nobody = Context::from_waker(Waker::noop());
    let polled = io.poll(&mut nobody, Direction::Read, read::<1>);
    assert!(polled.is_pending(), "something was read from an empty socket");
}

fn many_sources(make: &Make) {
    const PAIRS: usize = 550;
    // Both ends of every pair, twice if the runtime duplicates, and all other open descriptors.
    const WANTED: rlim_t = 5 * 550;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or_default();
    if soft < WANTED && setrlimit(Resource::RLIMIT_NOFILE, WANTED.min(hard), hard).is_err()
        || hard < WANTED
    {
        return;
    }
    on(make, async |rt| {
        let attempts = Arc::new(AtomicUsize::new(0));
        let ends: Vec<Arc<Io>> = (0..PAIRS).flat_map(|_| watched_pair(&rt)).collect();
        let readers: Vec<_> = ends
            .iter()
            .map(|end| rt.spawn(read_one(Arc::clone(end), Arc::clone(&attempts))))
            .collect();
        rt.sleep(Duration::from_millis(20)).await;
        for (number, end) in ends.iter().enumerate() {
            send(end, &number.to_be_bytes()).await;
        }
        for (reader, got) in join_all(readers).await.into_iter().enumerate() {
            // The other end of the pair.
            assert_eq!(got, (reader ^ 1).to_be_bytes(), "source {reader} read something else");
        }
        let attempts = attempts.load(Ordering::SeqCst);
        assert!(attempts <= 4 * 2 * PAIRS, "{attempts} attempts for {} messages", 2 * PAIRS);
    });
}

fn watched_pair(rt: &Rt) -> [Arc<Io>; 2] {
    let (near, far) = UnixStream::pair().expect("socketpair failed");
    [Arc::new(watch(rt, near)), Arc::new(watch(rt, far))]
}

async fn read_one(end: Arc<Io>, attempts: Arc<AtomicUsize>) -> Vec<u8> {
    let attempt = |fd: BorrowedFd<'_>| {
        attempts.fetch_add(1, Ordering::SeqCst);
        drain::<1024>(fd)
    };
    end.run(Direction::Read, attempt).await.expect("read failed")
}
