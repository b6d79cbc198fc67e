//! The reactor of the async-io crate beside this one, for programs that use smol's or async-std's own
//! sockets and timers in their tasks.
//!
//! async-io's reactor belongs to the process. The threads in async-io's `block_on` run it, or a thread
//! of async-io's own while there is none. As long as nothing comes from there, this thread sleeps in
//! epoll(7), where descriptors of this reactor cost the least. What comes from there is brought by
//! another thread, which costs two changes of threads. So after some of these this thread goes to
//! async-io's `block_on`, with the epoll descriptor as a source there, and comes back when
//! hardly anything but that source wakes it.

use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use ::async_io::{Async, Timer};
use futures_util::task::AtomicWaker;

use super::shared::Shared;
use super::{Reactor, Turns};

/// How many sleeps a thread of async-io ends before this thread goes there, if it was worthwhile the
/// last time. Otherwise, twice as many each time, up to `MANY`.
const FEW: u32 = 4;
const MANY: u32 = 1 << 16;

/// In so many sleeps at async-io, its other sources must end at least a `SHARE`th part.
const SLEEPS: u32 = 64;
const SHARE: u32 = 8;

impl Reactor {
    /// Does what [`block_on`](Self::block_on) does, and runs the reactor of the async-io crate when the
    /// program uses it. A driver calls it if tasks may use sockets and timers of smol or async-std.
    ///
    /// # Panics
    ///
    /// Panics if the reactor is running already, on this thread or on another one.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::pin::pin;
    /// use std::time::{Duration, Instant};
    /// use release_core::rt::reactor::Reactor;
    ///
    /// let reactor = Reactor::new()?;
    /// let soon = Duration::from_millis(1);
    /// reactor.block_on_beside_async_io(pin!(async {
    ///     reactor.sleep_until(Instant::now() + soon).await;
    ///     async_io::Timer::after(soon).await;
    /// }));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn block_on_beside_async_io(&self, mut main: Pin<&mut dyn Future<Output = ()>>) {
        let (shared, mut turns) = (&self.shared, self.turns());
        let visits = &shared.host.visits;
        let mut patience = FEW;
        loop {
            visits.store(0, Ordering::Relaxed);
            let is_visited = || visits.load(Ordering::Relaxed) >= patience;
            if turns.run(shared, main.as_mut(), is_visited) {
                return;
            }
            let Ok(mut guest) = Guest::new(shared, &mut turns, main.as_mut()) else {
                patience = MANY;
                continue;
            };
            if ::async_io::block_on(poll_fn(|cx| guest.poll(cx))) {
                return;
            }
            patience = if guest.stays == 0 { MANY.min(patience * 2) } else { FEW };
        }
    }
}

/// This reactor, as a source of async-io's.
struct Guest<'a> {
    shared: &'a Arc<Shared>,
    turns: &'a mut Turns,
    main: Pin<&'a mut dyn Future<Output = ()>>,
    main_waker: Waker,
    host: Arc<HostWaker>,
    epoll: Async<BorrowedFd<'a>>,
    timer: Timer,
    /// When the timer wakes, which is no later than the first timer of this reactor.
    armed: Option<Instant>,
    sleeps: u32,
    /// How often it has been worthwhile to stay.
    stays: u32,
}

impl<'a> Guest<'a> {
    fn new(
        shared: &'a Arc<Shared>,
        turns: &'a mut Turns,
        main: Pin<&'a mut dyn Future<Output = ()>>,
    ) -> io::Result<Self> {
        shared.wake_main();
        Ok(Self {
            shared,
            turns,
            main,
            main_waker: Waker::from(Arc::clone(shared)),
            host: Arc::new(HostWaker {
                inner: AtomicWaker::new(),
                thread: thread::current().id(),
                wakes: AtomicU32::new(0),
            }),
            epoll: Async::new_nonblocking(shared.epoll.0.as_fd())?,
            timer: Timer::never(),
            armed: None,
            sleeps: 0,
            stays: 0,
        })
    }

    /// Returns whether the main future has completed, or it is better to leave.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        self.shared.wake_up();
        if self.look(cx).is_err() {
            return Poll::Ready(false);
        }
        if self.shared.take_wake() {
            let mut cx = Context::from_waker(&self.main_waker);
            if self.main.as_mut().poll(&mut cx).is_ready() {
                return Poll::Ready(true);
            }
        }
        if self.sleeps == SLEEPS {
            if self.host.wakes.swap(0, Ordering::Relaxed) < SLEEPS / SHARE {
                return Poll::Ready(false);
            }
            self.sleeps = 0;
            self.stays += 1;
        }
        self.host.inner.register(cx.waker());
        self.shared.host.waker.register(&Waker::from(Arc::clone(&self.host)));
        if self.shared.fall_asleep() {
            self.sleeps += 1;
            self.arm(cx);
        } else {
            // As between two turns in epoll(7): a task that is always ready starves no timer.
            self.turns.look(self.shared, Some(Duration::ZERO));
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Wakes the tasks of this reactor that have an event, if async-io has reported any.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let mut is_due = self.armed.is_some() && Pin::new(&mut self.timer).poll(cx).is_ready();
        if is_due {
            self.armed = None;
        }
        // Ends when async-io watches the descriptor again.
        while let Poll::Ready(readable) = self.epoll.poll_readable(cx) {
            readable?;
            self.turns.look(self.shared, Some(Duration::ZERO));
            is_due = false;
        }
        if is_due {
            self.turns.look(self.shared, Some(Duration::ZERO));
        }
        Ok(())
    }

    /// Lets async-io's timer wake this thread for the first timer. It may wake too early, for a timer
    /// that is gone: that is cheaper than to set it each time.
    fn arm(&mut self, cx: &mut Context<'_>) {
        let Some(first) = self.shared.first_deadline() else {
            return;
        };
        if self.armed.is_none_or(|armed| first < armed) {
            self.armed = Some(first);
            self.timer.set_at(first);
            if Pin::new(&mut self.timer).poll(cx).is_ready() {
                // It has passed.
                self.timer.set_at(first);
                cx.waker().wake_by_ref();
            }
        }
    }
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.shared.wake_up();
        drop(self.shared.host.waker.take());
    }
}

/// Counts the sleeps that async-io ends on this thread: when other threads do, it makes no difference
/// where this one sleeps.
struct HostWaker {
    inner: AtomicWaker,
    thread: ThreadId,
    wakes: AtomicU32,
}

impl Wake for HostWaker {
    fn wake(self: Arc<Self>) {
        if thread::current().id() == self.thread {
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }
        self.inner.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::pin::pin;
    use std::sync::Mutex;

    use super::super::super::{Direction, Progress, Source};
    use super::*;

    /// Sends back what it reads, until the other end has gone.
    fn echo() -> (UnixStream, thread::JoinHandle<()>) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let echoing = move || {
            let mut byte = [0];
            while theirs.read_exact(&mut byte).is_ok() && theirs.write_all(&byte).is_ok() {}
        };
        (ours, thread::spawn(echoing))
    }

    /// Remembers the thread that woke last.
    struct Recorder(Waker, Mutex<Option<ThreadId>>);

    impl Wake for Recorder {
        fn wake(self: Arc<Self>) {
            *self.1.lock().unwrap() = Some(thread::current().id());
            self.0.wake_by_ref();
        }
    }

    /// One round trip over a socket of async-io. Returns whether it was this thread that woke.
    async fn theirs(socket: &Async<UnixStream>) -> bool {
        socket.get_ref().write_all(b"x").unwrap();
        let mut is_here = false;
        let mut recorder: Option<Arc<Recorder>> = None;
        poll_fn(|cx| {
            let inner = recorder
                .get_or_insert_with(|| Arc::new(Recorder(cx.waker().clone(), Mutex::default())));
            is_here = *inner.1.lock().unwrap() == Some(thread::current().id());
            let waker = Waker::from(Arc::clone(inner));
            socket.poll_readable(&mut Context::from_waker(&waker))
        })
        .await
        .unwrap();
        socket.get_ref().read_exact(&mut [0]).unwrap();
        is_here
    }

    async fn ours(source: &dyn Source, mut socket: &UnixStream) {
        socket.write_all(b"x").unwrap();
        let mut attempt = |_: BorrowedFd<'_>| -> io::Result<Progress> {
            (&*socket).read_exact(&mut [0])?;
            Ok(Progress::Drained)
        };
        poll_fn(|cx| source.poll_io(cx, Direction::Read, &mut attempt)).await.unwrap();
    }

    #[test]
    fn the_thread_sleeps_where_its_wakes_come_from() {
        let reactor = Reactor::new().unwrap();
        let (own, own_echo) = echo();
        let (foreign, foreign_echo) = echo();
        let source = reactor.register(own.try_clone().unwrap().into()).unwrap();
        let foreign = Async::new(foreign).unwrap();
        let deadline = Instant::now() + Duration::from_secs(120);
        let in_time = |what: &str| assert!(Instant::now() < deadline, "{what}");
        reactor.block_on_beside_async_io(pin!(async {
            for _ in 0..2 {
                // Seldom a timer of each kind.
                reactor.sleep_until(Instant::now() + Duration::from_millis(1)).await;
                Timer::after(Duration::from_millis(1)).await;
                while !theirs(&foreign).await {
                    in_time("it never sleeps at async-io");
                }
                for round in 0..1000 {
                    ours(&*source, &own).await;
                    theirs(&foreign).await;
                    if round % 100 == 0 {
                        let soon = Instant::now() + Duration::from_millis(1);
                        reactor.sleep_until(soon).await;
                        assert!(Instant::now() >= soon);
                    }
                }
                // A task that is always ready starves no timer.
                let mut timer =
                    pin!(reactor.sleep_until(Instant::now() + Duration::from_millis(5)));
                poll_fn(|cx| {
                    in_time("a timer beside a task that is always ready");
                    cx.waker().wake_by_ref();
                    timer.as_mut().poll(cx)
                })
                .await;
                // At async-io, an event of this reactor leaves the waker there.
                let mut in_epoll = 0;
                while in_epoll < 2 * SLEEPS {
                    in_time("it never comes back");
                    ours(&*source, &own).await;
                    let is_there = reactor.shared.host.waker.take().is_some();
                    in_epoll = if is_there { 0 } else { in_epoll + 1 };
                }
            }
        }));
        drop((source, own, foreign));
        own_echo.join().unwrap();
        foreign_echo.join().unwrap();
        assert_eq!(reactor.census(), [0, 0]);
    }

    #[test]
    fn wakes_and_timers_of_other_threads_end_a_sleep_at_async_io() {
        let reactor = Reactor::new().unwrap();
        let (foreign, foreign_echo) = echo();
        let foreign = Async::new(foreign).unwrap();
        let (requests, inbox) = std::sync::mpsc::channel();
        let threads = reactor.clone();
        let answering = thread::spawn(move || {
            for (round, answer) in (0_u64..).zip(inbox) {
                thread::sleep(Duration::from_micros(round % 50));
                let sleep = threads.sleep_until(Instant::now() + Duration::from_micros(round % 50));
                super::super::super::wait_for(sleep).unwrap();
                let answer: futures_channel::oneshot::Sender<u64> = answer;
                answer.send(round).unwrap();
            }
        });
        reactor.block_on_beside_async_io(pin!(async {
            for round in 0..300 {
                for _ in 0..3 {
                    theirs(&foreign).await;
                }
                let (answer, answered) = futures_channel::oneshot::channel();
                requests.send(answer).unwrap();
                assert_eq!(answered.await, Ok(round));
            }
        }));
        drop((requests, foreign));
        answering.join().unwrap();
        foreign_echo.join().unwrap();
    }
}
