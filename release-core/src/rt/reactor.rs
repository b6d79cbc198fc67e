//! `Reactor`: descriptors and timers for executors that have no reactor of their own, on
//! edge-triggered epoll(7).
//!
//! A descriptor is registered once, not for each wait. A wait is one system call, allocates nothing,
//! and costs the same for one descriptor as for thousands. Another thread makes a system call to
//! wake this one only if it sleeps.
//!
//! To use it below your own executor, give [`Reactor::block_on`] a future that runs your tasks, and
//! implement [`Runtime`](super::Runtime) with [`Reactor::register`] and [`Reactor::sleep_until`].
//! [`local`](super::local) is a short executor of that kind.

#[cfg(feature = "async-io")]
mod async_io;
#[cfg(feature = "async-io")]
mod host;
mod shared;
mod slots;
mod watch;

#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{EpollEvent, EpollFlags};

use self::shared::Shared;
use self::watch::Sleep;
use super::{BoxFuture, Source};
use crate::guard::wake_all;
use crate::sys::epoll;

/// A reactor. Clones share it.
///
/// # Examples
///
/// A runtime for smol's executor, in the place of the reactor that smol has:
///
/// ```
/// use std::io;
/// use std::os::fd::OwnedFd;
/// use std::pin::{Pin, pin};
/// use std::sync::{Arc, Weak};
/// use std::time::Instant;
/// use release_core::rt::reactor::Reactor;
/// use release_core::rt::{BoxFuture, Driver, Rt, Runtime, Source};
/// # mod smol {
/// #     #[derive(Debug, Default)]
/// #     pub struct Executor;
/// #     pub struct Task;
/// #     impl Task { pub fn detach(self) {} }
/// #     impl Executor {
/// #         pub fn spawn(&self, _: release_core::rt::BoxFuture) -> Task { Task }
/// #         pub async fn run(&self, main: impl Future) { main.await; }
/// #     }
/// # }
///
/// #[derive(Debug)]
/// struct MyDriver {
///     executor: Arc<smol::Executor>,
///     reactor: Reactor,
/// }
///
/// impl Driver for MyDriver {
///     fn handle(&self) -> Rt {
///         Rt::new(MyRuntime(Arc::downgrade(&self.executor), self.reactor.clone()))
///     }
///
///     fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
///         self.reactor.block_on(pin!(self.executor.run(main)));
///     }
/// }
///
/// #[derive(Debug)]
/// struct MyRuntime(Weak<smol::Executor>, Reactor);
///
/// impl Runtime for MyRuntime {
///     fn spawn(&self, task: BoxFuture) {
///         if let Some(executor) = self.0.upgrade() {
///             executor.spawn(task).detach();
///         }
///     }
///
///     fn sleep_until(&self, deadline: Instant) -> BoxFuture {
///         self.1.sleep_until(deadline)
///     }
///
///     fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
///         self.1.register(fd)
///     }
/// }
/// # let driver = MyDriver { executor: Arc::default(), reactor: Reactor::new()? };
/// # assert_eq!(release_core::rt::run(&driver, async { 42 }), 42);
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Clone)]
pub struct Reactor {
    shared: Arc<Shared>,
    /// Locked by the thread that runs it.
    turns: Arc<Mutex<Turns>>,
}

/// How many events are taken from the kernel at a time.
const EVENTS: usize = 256;

/// How long to sleep if epoll(7) fails.
const BLIND_TIME: Duration = Duration::from_millis(20);

impl fmt::Debug for Reactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reactor").finish_non_exhaustive()
    }
}

impl Reactor {
    /// Creates a reactor, with two descriptors that no other program inherits.
    ///
    /// # Errors
    ///
    /// Returns an error if the system has no more descriptors (`EMFILE`, `ENFILE`).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::pin::pin;
    /// use release_core::rt::reactor::Reactor;
    ///
    /// let reactor = Reactor::new()?;
    /// reactor.block_on(pin!(async { println!("hello") }));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new() -> io::Result<Self> {
        Self::with_clock(None)
    }

    /// Creates a reactor whose clock stands still while something happens, and jumps to the next timer
    /// when nothing else can.
    pub(super) fn with_virtual_time() -> io::Result<Self> {
        Self::with_clock(Some(Instant::now()))
    }

    fn with_clock(virtual_now: Option<Instant>) -> io::Result<Self> {
        let turns = Turns { events: vec![EpollEvent::empty(); EVENTS], woken: Vec::new() };
        Ok(Self { shared: Arc::new(Shared::new(virtual_now)?), turns: Arc::new(turns.into()) })
    }

    /// Watches a non-blocking descriptor, as [`Runtime::register`](super::Runtime::register) requires.
    ///
    /// A descriptor that never makes anybody wait, and that epoll refuses therefore (a regular file,
    /// `/dev/null`), is always ready.
    ///
    /// # Errors
    ///
    /// Returns the errors of epoll: `ENOMEM`, and `ENOSPC` if the user watches more descriptors than
    /// `/proc/sys/fs/epoll/max_user_watches` allows.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use std::io::{Read, Write};
    /// use std::os::unix::net::UnixStream;
    /// use std::pin::pin;
    /// use release_core::rt::reactor::Reactor;
    /// use release_core::rt::{Direction, Progress};
    ///
    /// let reactor = Reactor::new()?;
    /// let (reader, mut writer) = UnixStream::pair()?;
    /// reader.set_nonblocking(true)?;
    /// let source = reactor.register(reader.try_clone()?.into())?;
    /// let writing = std::thread::spawn(move || writer.write_all(b"x"));
    /// reactor.block_on(pin!(async {
    ///     let mut byte = [0];
    ///     let read = poll_fn(|cx| {
    ///         source.poll_io(cx, Direction::Read, &mut |_| {
    ///             (&reader).read_exact(&mut byte)?;
    ///             Ok(Progress::More)
    ///         })
    ///     });
    ///     read.await.expect("it is readable");
    ///     assert_eq!(byte, *b"x");
    /// }));
    /// # writing.join().expect("no panic")?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        watch::watch(fd, &self.shared)
    }

    /// Returns a timer, as [`Runtime::sleep_until`](super::Runtime::sleep_until) requires. Dropping it
    /// cancels it.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::pin::pin;
    /// use std::time::{Duration, Instant};
    /// use release_core::rt::reactor::Reactor;
    ///
    /// let reactor = Reactor::new()?;
    /// let deadline = Instant::now() + Duration::from_millis(5);
    /// reactor.block_on(pin!(reactor.sleep_until(deadline)));
    /// assert!(Instant::now() >= deadline);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        Box::pin(Sleep::new(deadline, &self.shared))
    }

    /// Polls `main` whenever it is woken, until it completes. Meanwhile, wakes the tasks that wait for
    /// descriptors and timers of this reactor, on this thread.
    ///
    /// `main` also runs your executor: it polls the tasks that are ready, and passes its waker on to
    /// be woken when one is. Any thread may wake it at any time, also before and after this call.
    ///
    /// # Panics
    ///
    /// Panics if the reactor is running already, on this thread or on another one.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use std::pin::pin;
    /// use std::task::Poll;
    /// use release_core::rt::reactor::Reactor;
    ///
    /// let reactor = Reactor::new()?;
    /// let mut polls = 0;
    /// reactor.block_on(pin!(poll_fn(|cx| {
    ///     polls += 1;
    ///     cx.waker().wake_by_ref();
    ///     if polls == 3 { Poll::Ready(()) } else { Poll::Pending }
    /// })));
    /// assert_eq!(polls, 3);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn block_on(&self, main: Pin<&mut dyn Future<Output = ()>>) {
        self.turns().run(&self.shared, main, || false);
    }

    /// Wakes the future that [`block_on`](Self::block_on) polls, or will poll. Costs a system call only if
    /// the thread sleeps.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::future::poll_fn;
    /// use std::pin::pin;
    /// use std::sync::mpsc::channel;
    /// use std::task::Poll;
    /// use release_core::rt::reactor::Reactor;
    ///
    /// let reactor = Reactor::new()?;
    /// let (sender, numbers) = channel();
    /// let waking = reactor.clone();
    /// let sending = std::thread::spawn(move || {
    ///     sender.send(42).expect("somebody listens");
    ///     waking.wake();
    /// });
    /// reactor.block_on(pin!(poll_fn(|_| match numbers.try_recv() {
    ///     Ok(number) => Poll::Ready(assert_eq!(number, 42)),
    ///     Err(_) => Poll::Pending,
    /// })));
    /// # sending.join().expect("no panic");
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wake(&self) {
        self.shared.wake_main();
    }

    /// Returns the right to run it, of which there is one.
    fn turns(&self) -> MutexGuard<'_, Turns> {
        match self.turns.try_lock() {
            Ok(turns) => turns,
            Err(TryLockError::Poisoned(panicked)) => panicked.into_inner(),
            Err(TryLockError::WouldBlock) => panic!("block_on was called within block_on"),
        }
    }

    pub(super) fn now(&self) -> Instant {
        self.shared.now()
    }

    /// Lets virtual time pass while no task runs.
    #[cfg(test)]
    pub(super) fn hold_up(&self, time: Duration) {
        if let Some(mut now) = self.shared.virtual_now() {
            *now += time;
        }
    }

    /// Returns the numbers of waiting timers and of watched descriptors.
    #[cfg(test)]
    pub(super) fn census(&self) -> [usize; 2] {
        let state = self.shared.lock();
        [state.timers.len(), state.slots.iter().count()]
    }
}

/// What the thread that runs the reactor needs for it.
struct Turns {
    events: Vec<EpollEvent>,
    /// Empty between two waits; kept for its memory.
    woken: Vec<Waker>,
}

impl Turns {
    /// Runs the main future until it completes or `is_enough`. Returns whether it has completed.
    fn run(
        &mut self,
        shared: &Arc<Shared>,
        mut main: Pin<&mut dyn Future<Output = ()>>,
        is_enough: impl Fn() -> bool,
    ) -> bool {
        let waker = Waker::from(Arc::clone(shared));
        let mut cx = Context::from_waker(&waker);
        shared.wake_main();
        while !is_enough() {
            if shared.take_wake() && main.as_mut().poll(&mut cx).is_ready() {
                return true;
            }
            self.wait(shared);
        }
        false
    }

    /// Sleeps until a descriptor, a timer or another thread has an event. If the main future has been
    /// woken, only looks for events.
    fn wait(&mut self, shared: &Shared) {
        let mut timeout = Some(Duration::ZERO);
        if shared.fall_asleep() {
            // A timer that is not seen here kicks.
            let first = shared.first_deadline();
            timeout = first.map(|first| first.saturating_duration_since(shared.now()));
            if shared.virtual_now.is_some() {
                // Virtual time does not pass while a descriptor has an event.
                timeout = timeout.and(Some(Duration::ZERO));
            }
        }
        self.look(shared, timeout);
    }

    /// Waits for events, at most this long, and wakes the tasks that they concern.
    ///
    /// If epoll(7) fails, every waiting task tries again a little later.
    fn look(&mut self, shared: &Shared, timeout: Option<Duration>) {
        let waited = epoll::wait(&shared.epoll, &mut self.events, timeout);
        if !matches!(waited, Ok(_) | Err(Errno::EINTR)) {
            thread::sleep(timeout.map_or(BLIND_TIME, |timeout| timeout.min(BLIND_TIME)));
        }
        shared.wake_up();
        let mut state = shared.lock();
        match waited {
            Ok(count) => {
                for event in &self.events[..count] {
                    if let Some(slot) = state.slots.get(event.data()) {
                        slot.report(event.events(), &mut self.woken);
                    }
                }
            }
            Err(Errno::EINTR) => {}
            Err(_) => {
                let all = EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT;
                state.slots.iter().for_each(|slot| slot.report(all, &mut self.woken));
            }
        }
        if !state.timers.is_empty() {
            if self.woken.is_empty() && !shared.is_woken() {
                state.jump(shared);
            }
            state.take_due(shared.now(), &mut self.woken);
        }
        drop(state);
        wake_all(self.woken.drain(..));
    }
}
