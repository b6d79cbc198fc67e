use std::future::poll_fn;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::UnixStream;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use futures_util::future::join_all;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::epoll::Epoll;

use super::super::{Direction, Progress};
use super::*;

fn reactor() -> Reactor {
    Reactor::new().expect("a reactor")
}

/// Runs a future to its end.
fn on<T>(reactor: &Reactor, future: impl Future<Output = T>) -> T {
    let mut output = None;
    reactor.block_on(pin!(async { output = Some(future.await) }));
    output.expect("block_on came back early")
}

fn watched(reactor: &Reactor) -> (Box<dyn Source>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("socketpair failed");
    ours.set_nonblocking(true).expect("set_nonblocking failed");
    (reactor.register(ours.into()).expect("register failed"), theirs)
}

fn read(source: &dyn Source) -> impl Future<Output = io::Result<Vec<u8>>> {
    poll_fn(|cx| {
        let mut got = Vec::new();
        let polled = source.poll_io(cx, Direction::Read, &mut |fd| {
            let mut bytes = [0; 64];
            let count = nix::unistd::read(fd, &mut bytes)?;
            got.extend_from_slice(&bytes[..count]);
            Ok(if count < 64 { Progress::Drained } else { Progress::More })
        });
        polled.map_ok(|()| std::mem::take(&mut got))
    })
}

fn write(source: &dyn Source, bytes: &[u8]) -> impl Future<Output = io::Result<usize>> {
    poll_fn(|cx| {
        let mut sent = 0;
        let polled = source.poll_io(cx, Direction::Write, &mut |fd| {
            sent = nix::unistd::write(fd, bytes)?;
            Ok(if sent < bytes.len() { Progress::Drained } else { Progress::More })
        });
        polled.map_ok(|()| sent)
    })
}

/// Polls a future once, with the waker of the main future.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// What the kernel would report now.
fn events(reactor: &Reactor) -> usize {
    let mut events = [EpollEvent::empty(); 8];
    epoll::wait(&reactor.shared.epoll, &mut events, Some(Duration::ZERO)).expect("epoll failed")
}

/// How often a thread was kicked out of its sleep.
fn kicks(reactor: &Reactor) -> u64 {
    match reactor.shared.kick.read() {
        Err(Errno::EAGAIN) => 0,
        kicks => kicks.expect("the eventfd cannot be read"),
    }
}

#[test]
fn no_program_inherits_its_descriptors() {
    let reactor = reactor();
    for fd in [reactor.shared.epoll.0.as_fd(), reactor.shared.kick.as_fd()] {
        let flags = fcntl(fd, FcntlArg::F_GETFD).expect("fcntl failed");
        assert!(FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC));
    }
}

#[test]
fn what_epoll_refuses_is_always_ready() {
    let reactor = reactor();
    let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(b"text").unwrap();
    io::Seek::rewind(&mut file).unwrap();
    let [null, file] = [null, file].map(|file| reactor.register(file.into()).unwrap());
    on(&reactor, async {
        assert_eq!(read(&*file).await.unwrap(), b"text");
        assert_eq!(read(&*file).await.unwrap(), b"", "after Drained");
        assert_eq!(read(&*null).await.unwrap(), b"");
        assert_eq!(write(&*null, b"text").await.unwrap(), 4);
    });
    // An attempt that finds nothing is made again, and others have their turn.
    let deadline = Instant::now() + Duration::from_millis(1);
    let mut timer = reactor.sleep_until(deadline);
    on(&reactor, async {
        let again = poll_fn(|cx| {
            let is_time = timer.as_mut().poll(cx).is_ready();
            null.poll_io(cx, Direction::Read, &mut |_| match is_time {
                true => Ok(Progress::More),
                false => Err(io::ErrorKind::WouldBlock.into()),
            })
        });
        again.await.unwrap();
    });
    drop((null, file, timer));
    assert_eq!(reactor.census(), [0, 0]);
}

#[test]
fn an_event_of_a_closed_descriptor_is_not_for_its_successor() {
    let reactor = reactor();
    let (first, mut peer) = watched(&reactor);
    let number = first.as_fd().as_raw_fd();
    on(&reactor, async {
        let mut first = Some(first);
        poll_fn(|cx| {
            let Some(source) = &first else {
                return Poll::Ready(());
            };
            assert!(pin!(read(&**source)).poll(cx).is_pending());
            peer.write_all(b"for the first").unwrap();
            // It goes while the kernel has an event for it.
            let duplicate = source.as_fd().try_clone_to_owned().unwrap();
            drop(first.take());
            assert_eq!(events(&reactor), 0, "it is watched although it is closed");
            drop(duplicate);
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    });
    let others: Vec<_> = (0..4).map(|_| watched(&reactor)).collect();
    let same = others.iter().find(|(other, _)| other.as_fd().as_raw_fd() == number);
    let (second, mut peer) = same.map_or(&others[0], |same| same).clone_ends();
    on(&reactor, async {
        let mut reading = pin!(read(second));
        assert!(poll_once(reading.as_mut()).await.is_pending());
        peer.write_all(b"for the second").unwrap();
        assert_eq!(reading.await.unwrap(), b"for the second");
    });
    drop(others);
    assert_eq!(reactor.census(), [0, 0]);
}

trait Ends {
    fn clone_ends(&self) -> (&dyn Source, UnixStream);
}

impl Ends for (Box<dyn Source>, UnixStream) {
    fn clone_ends(&self) -> (&dyn Source, UnixStream) {
        (&*self.0, self.1.try_clone().unwrap())
    }
}

#[test]
fn it_is_watched_for_room_only_while_there_is_none() {
    let reactor = reactor();
    let (source, mut peer) = watched(&reactor);
    on(&reactor, async {
        assert_eq!(write(&*source, b"x").await.unwrap(), 1);
        io::Read::read_exact(&mut peer, &mut [0]).unwrap();
        assert_eq!(events(&reactor), 0, "room was made that nobody waits for");
        let mut filled = 0;
        let mut writing = pin!(poll_fn(|cx| {
            let mut attempt = pin!(write(&*source, &[7; 4096]));
            loop {
                match attempt.as_mut().poll(cx) {
                    Poll::Ready(sent) if filled == usize::MAX => return Poll::Ready(sent),
                    Poll::Ready(sent) => filled += sent.unwrap(),
                    Poll::Pending => return Poll::<io::Result<usize>>::Pending,
                }
            }
        }));
        assert!(poll_once(writing.as_mut()).await.is_pending());
        let emptying = thread::spawn(move || {
            let mut bytes = [0; 65536];
            while io::Read::read(&mut peer, &mut bytes).is_ok_and(|count| count > 0) {}
        });
        drop(source);
        emptying.join().unwrap();
    });
}

#[test]
fn only_a_sleeping_thread_is_kicked() {
    let reactor = reactor();
    on(&reactor, async {
        for _ in 0..1000 {
            super::super::give_way().await;
            reactor.wake();
        }
        let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
        thread::spawn(move || waker.wake()).join().unwrap();
        reactor.sleep_until(Instant::now() + Duration::from_millis(1)).await;
    });
    assert_eq!(kicks(&reactor), 0);
    let (waking, rounds) = (reactor.clone(), AtomicUsize::new(0));
    thread::scope(|scope| {
        scope.spawn(|| {
            while rounds.load(Ordering::SeqCst) < 20 {
                thread::sleep(Duration::from_millis(1));
                rounds.fetch_add(1, Ordering::SeqCst);
                waking.wake();
            }
        });
        let enough = |_: &mut Context<'_>| match rounds.load(Ordering::SeqCst) {
            20 => Poll::Ready(()),
            _ => Poll::Pending,
        };
        on(&reactor, poll_fn(enough));
    });
    let kicks = kicks(&reactor);
    assert!((1..=20).contains(&kicks), "{kicks} kicks");
}

#[test]
fn timers_of_other_threads_shorten_a_sleep() {
    let reactor = reactor();
    let (sender, done) = futures_channel::oneshot::channel();
    thread::scope(|scope| {
        scope.spawn(|| {
            let soon = || reactor.sleep_until(Instant::now() + Duration::from_millis(5));
            // The first shortens a sleep without end.
            for _ in 0..3 {
                super::super::wait_for(soon()).expect("no task runs here");
            }
            sender.send(()).expect("the main future is gone");
        });
        on(&reactor, done).expect("the thread panicked");
    });
    assert_eq!(reactor.census(), [0, 0]);
}

#[test]
fn a_thousand_descriptors_cost_a_wait_no_more_than_one() {
    let reactor = reactor();
    let idle: Vec<_> = (0..100).map(|_| watched(&reactor)).collect();
    let (busy, peer) = watched(&reactor);
    let wakes = AtomicUsize::new(0);
    on(&reactor, async {
        let waiting = idle.iter().map(|(source, _)| async {
            let got = read(&**source).await;
            wakes.fetch_add(1, Ordering::SeqCst);
            got.unwrap()
        });
        let mut waiting = pin!(join_all(waiting));
        assert!(poll_once(waiting.as_mut()).await.is_pending());
        for round in 0..10_u8 {
            (&peer).write_all(&[round]).unwrap();
            assert_eq!(read(&*busy).await.unwrap(), [round]);
        }
        assert_eq!(wakes.load(Ordering::SeqCst), 0);
        for (number, (_, peer)) in idle.iter().enumerate() {
            (&*peer).write_all(&number.to_ne_bytes()).unwrap();
        }
        for (number, got) in waiting.await.into_iter().enumerate() {
            assert_eq!(got, number.to_ne_bytes());
        }
    });
}

#[test]
#[should_panic(expected = "block_on was called within block_on")]
fn one_thread_runs_it_at_a_time() {
    let reactor = reactor();
    on(&reactor, async { on(&reactor, async {}) });
}

#[test]
fn it_goes_on_after_a_panic() {
    let reactor = reactor();
    let panics = || on(&reactor, async { std::panic::resume_unwind(Box::new("on purpose")) });
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(panics)).expect_err("it panics");
    on(&reactor, reactor.sleep_until(Instant::now() + Duration::from_millis(1)));
}

#[test]
fn a_waker_that_panics_keeps_no_other_task_from_being_woken() {
    struct Bad;
    impl std::task::Wake for Bad {
        fn wake(self: Arc<Self>) {
            std::panic::resume_unwind(Box::new("on purpose"));
        }
    }
    let reactor = reactor();
    let bad = Waker::from(Arc::new(Bad));
    let ((source, peer), (other, other_peer)) = (watched(&reactor), watched(&reactor));
    on(&reactor, async {
        let soon = Instant::now() + Duration::from_millis(5);
        // The first timer and the first descriptor belong to a waker that panics.
        let mut timers = [(); 2].map(|()| reactor.sleep_until(soon));
        let mut reading = pin!(read(&*source));
        let mut cx = Context::from_waker(&bad);
        assert!(timers[0].as_mut().poll(&mut cx).is_pending());
        assert!(reading.as_mut().poll(&mut cx).is_pending());
        let mut after = pin!(read(&*other));
        assert!(poll_once(after.as_mut()).await.is_pending());
        for mut peer in [&peer, &other_peer] {
            peer.write_all(b"x").unwrap();
        }
        let woken = pin!(async {
            assert_eq!(after.await.unwrap(), b"x");
            timers[1].as_mut().await;
            assert_eq!(reading.await.unwrap(), b"x");
        });
        let late = reactor.sleep_until(soon + Duration::from_secs(20));
        let all = futures_util::future::select(woken, late).await;
        assert!(matches!(all, futures_util::future::Either::Left(_)), "a task was not woken");
    });
}

#[test]
fn without_epoll_tasks_try_again_and_again() {
    let mut reactor = reactor();
    // A program has closed a descriptor that is not its own, and another file has its number.
    let null = std::fs::File::open("/dev/null").unwrap();
    Arc::get_mut(&mut reactor.shared).unwrap().epoll = Epoll(null.into());
    let slot = Arc::<slots::ReactorSlot>::default();
    reactor.shared.lock().slots.insert(|_| Arc::clone(&slot));
    let mut tries = 0;
    on(
        &reactor,
        poll_fn(|cx| {
            let side = slot.side(Direction::Read);
            while let Some(events) = side.may_try(cx) {
                tries += 1;
                side.wait_after(events);
            }
            if tries == 3 { Poll::Ready(()) } else { Poll::Pending }
        }),
    );
    on(&reactor, reactor.sleep_until(Instant::now() + Duration::from_millis(1)));
}
