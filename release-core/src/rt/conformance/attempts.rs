//! How `poll_io` handles the outcome of an attempt.

use std::future::poll_fn;
use std::io::{self, Read, Write};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};

use super::super::{Direction, Progress};
use super::Check;
use super::support::{
    A_WHILE, Make, WakeCounter, drain, eventually, fill, half_watched, on, read, watch, write,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "success_ends_the_call",
        promise: "an attempt that succeeded is not repeated by the same call",
        body: success_ends_the_call,
    },
    Check {
        name: "errors_are_passed_on",
        promise: "every error but WouldBlock ends the call at once and is passed on",
        body: errors_are_passed_on,
    },
    Check {
        name: "write_then_close",
        promise: "an end of file that came together with the last data ends the wait after Drained",
        body: write_then_close,
    },
    Check {
        name: "drained_then_more",
        promise: "data that come after Drained, or while the attempt returns it, are announced",
        body: drained_then_more,
    },
    Check {
        name: "filled_then_room",
        promise: "a write that found no room is woken when the peer has made room",
        body: filled_then_room,
    },
    Check {
        name: "filled_then_hang_up",
        promise: "a peer that closes ends a wait for room, with the error of the attempt",
        body: filled_then_hang_up,
    },
    Check {
        name: "last_waker_wins",
        promise: "a second waker replaces the first",
        body: last_waker_wins,
    },
    Check {
        name: "no_spin",
        promise: "waiting after WouldBlock makes no attempts, wakes nobody and uses no processor time",
        body: no_spin,
    },
];

fn success_ends_the_call(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        peer.write_all(b"abc").expect("write failed");
        for expected in [b"a", b"b", b"c"] {
            let mut successes = 0;
            let got = io.run(Direction::Read, |fd| read::<1>(fd).inspect(|_| successes += 1)).await;
            assert_eq!(got.expect("read failed"), expected);
            assert_eq!(successes, 1, "an attempt ran again after it had succeeded");
        }
    });
}

fn errors_are_passed_on(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        // Ready in both directions, for implementations that wait first.
        peer.write_all(b"x").expect("write failed");
        for direction in [Direction::Read, Direction::Write] {
            let mut attempts = 0;
            let failing = |_: BorrowedFd<'_>| {
                attempts += 1;
                Err::<((), Progress), _>(io::ErrorKind::TimedOut.into())
            };
            let error = io.run(direction, failing).await.expect_err("the error was swallowed");
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            assert_eq!(attempts, 1, "an attempt that failed was made again");
        }
    });
}

fn write_then_close(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        // The reader waits first, so that both conditions arrive in one event.
        let reader = rt.spawn(async move {
            let data = io.run(Direction::Read, drain::<64>).await.expect("read failed");
            let end = io.run(Direction::Read, drain::<64>).await.expect("read failed");
            (data, end)
        });
        rt.sleep(Duration::from_millis(10)).await;
        peer.write_all(b"last").expect("write failed");
        drop(peer);
        assert_eq!(reader.await, (b"last".to_vec(), Vec::new()));
    });
}

fn drained_then_more(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        peer.write_all(b"first").expect("write failed");
        let mut late = Some(&peer);
        let first = io
            .run(Direction::Read, |fd| {
                let drained = drain::<64>(fd)?;
                // Once only: a failed attempt must not write.
                if let Some(mut peer) = late.take() {
                    peer.write_all(b"second")?;
                    // Time for other threads of the runtime to see the event already now.
                    std::thread::sleep(Duration::from_millis(5));
                }
                Ok(drained)
            })
            .await;
        assert_eq!(first.expect("read failed"), b"first");
        let second = io.run(Direction::Read, drain::<64>).await.expect("read failed");
        assert_eq!(second, b"second");
        let writer = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(10));
            peer.write_all(b"third").expect("write failed");
            peer
        });
        let third = io.run(Direction::Read, drain::<64>).await.expect("read failed");
        assert_eq!(third, b"third");
        writer.join().expect("the writer panicked");
    });
}

/// Twice: with a wait after `WouldBlock`, and with one after `Drained`.
fn filled_then_room(make: &Make) {
    for progress in [Progress::More, Progress::Drained] {
        on(make, async |rt| {
            let (io, peer) = half_watched(&rt);
            let filled = fill(&io);
            let (go_on, may_go_on) = std::sync::mpsc::channel();
            let reader = std::thread::spawn(move || read_in_two_parts(peer, filled, &may_go_on));
            let first = io.run(Direction::Write, |fd| {
                let written = write(fd, b"x")?;
                // `Drained` says that the queue is full, and the reader pauses now.
                while progress == Progress::Drained && write(fd, &[7; 4096]).is_ok() {}
                Ok((written, progress))
            });
            assert_eq!(first.await.expect("write failed"), 1);
            go_on.send(()).expect("the reader is gone");
            let second = |fd: BorrowedFd<'_>| Ok((write(fd, b"y")?, Progress::More));
            assert_eq!(io.run(Direction::Write, second).await.expect("write failed"), 1);
            drop(io);
            let rest = reader.join().expect("the reader panicked");
            let ends = [rest.first(), rest.last()];
            assert_eq!(ends, [Some(&b'x'), Some(&b'y')], "something else was written");
        });
    }
}

/// Reads `filled` bytes, waits until told to continue, and returns the next outcome.
fn read_in_two_parts(mut peer: UnixStream, filled: usize, may_go_on: &Receiver<()>) -> Vec<u8> {
    std::thread::sleep(Duration::from_millis(10));
    peer.read_exact(&mut vec![0; filled]).expect("read failed");
    may_go_on.recv().expect("the writer is gone");
    std::thread::sleep(Duration::from_millis(10));
    let mut rest = Vec::new();
    peer.read_to_end(&mut rest).expect("read failed");
    rest
}

/// A socket has room again when its peer is gone; a pipe stays full and reports only an error.
fn filled_then_hang_up(make: &Make) {
    on(make, async |rt| {
        let (near, far) = UnixStream::pair().expect("socketpair failed");
        let (reader, writer) = io::pipe().expect("pipe failed");
        let ends: [(OwnedFd, OwnedFd); 2] =
            [(near.into(), far.into()), (writer.into(), reader.into())];
        for (ours, peer) in ends {
            let io = watch(&rt, ours);
            fill(&io);
            let writer = rt.spawn(async move {
                io.run(Direction::Write, |fd| Ok((write(fd, b"x")?, Progress::More))).await
            });
            rt.sleep(Duration::from_millis(10)).await;
            drop(peer);
            let error = writer.await.expect_err("a write to a closed peer succeeded");
            let expected = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
            assert!(expected.contains(&error.kind()), "the error is {error}");
        }
    });
}

fn last_waker_wins(make: &Make) {
    on(make, async |rt| {
        let (io, mut peer) = half_watched(&rt);
        let first = Waker::from(Arc::new(WakeCounter::default()));
        let second = Arc::new(WakeCounter::default());
        let waker = Waker::from(Arc::clone(&second));
        for waker in [&first, &waker] {
            let polled = io.poll(&mut Context::from_waker(waker), Direction::Read, read::<1>);
            assert!(polled.is_pending(), "something was read from an empty socket");
        }
        peer.write_all(b"x").expect("write failed");
        eventually(&rt, || second.count() > 0).await;
        assert_eq!(io.run(Direction::Read, read::<1>).await.expect("read failed"), b"x");
    });
}

fn no_spin(make: &Make) {
    on(make, async |rt| {
        let (io, _peer) = half_watched(&rt);
        let attempts = Arc::new(AtomicUsize::new(0));
        let polls = Arc::new(AtomicUsize::new(0));
        let (counter, count) = (Arc::clone(&attempts), Arc::clone(&polls));
        let waiting = rt.spawn(async move {
            let attempt = |fd: BorrowedFd<'_>| {
                counter.fetch_add(1, Ordering::SeqCst);
                read::<1>(fd)
            };
            let poll = |cx: &mut Context<'_>| -> Poll<_> {
                count.fetch_add(1, Ordering::SeqCst);
                io.poll(cx, Direction::Read, attempt)
            };
            poll_fn(poll).await
        });
        // Other threads of this process may be busy for a moment; a runtime that spins always is.
        let mut least = Duration::MAX;
        for _ in 0..5 {
            let before = processor_time();
            rt.sleep(A_WHILE).await;
            least = least.min(processor_time() - before);
        }
        assert!(least < A_WHILE / 2, "{least:?} of processor time in {A_WHILE:?} of waiting");
        let attempts = attempts.load(Ordering::SeqCst);
        assert!(attempts <= 3, "{attempts} attempts were made in one wait");
        let polls = polls.load(Ordering::SeqCst);
        assert!(polls <= 3, "the task was polled {polls} times in one wait");
        drop(waiting);
    });
}

fn processor_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("getrusage failed");
    [usage.user_time(), usage.system_time()].into_iter().map(duration).sum()
}

fn duration(time: nix::sys::time::TimeVal) -> Duration {
    let seconds = Duration::from_secs(time.tv_sec().try_into().unwrap_or(0));
    seconds + Duration::from_micros(time.tv_usec().try_into().unwrap_or(0))
}
