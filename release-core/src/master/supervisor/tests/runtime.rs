//! The runtime of a history: `Local` with virtual time, on which functions that block are tasks.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::rt::{Blocking, BoxFuture, Direction, Io, Progress, Rt, Runtime, Source};

/// How long functions that block take, from now on.
#[derive(Clone, Debug, Default)]
pub(super) struct BlockingTime(Arc<Mutex<Duration>>);

impl BlockingTime {
    pub(super) fn is_zero(&self) -> bool {
        self.0.lock().unwrap().is_zero()
    }

    pub(super) fn set(&self, time: Duration) {
        *self.0.lock().unwrap() = time;
    }
}

/// More than anything takes that ends.
const MOST_TURNS: u32 = 100_000;

#[derive(Debug)]
struct Simulated {
    local: Rt,
    blocking: BlockingTime,
    /// The time that was asked for last, and how often.
    latest: Mutex<(Instant, u32)>,
}

/// Returns a handle to the runtime whose functions that block take this time.
pub(super) fn simulated(local: Rt, blocking: BlockingTime) -> Rt {
    let latest = Mutex::new((local.now(), 0));
    Rt::new(Simulated { local, blocking, latest })
}

impl Runtime for Simulated {
    fn spawn(&self, task: BoxFuture) {
        self.local.spawn(task).detach();
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        let local = self.local.clone();
        Box::pin(async move { local.sleep_until(deadline).await })
    }

    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        Ok(Box::new(Watched(self.local.register_as_it_is(fd)?)))
    }

    fn unblock(&self, work: Blocking) {
        let (local, time) = (self.local.clone(), *self.blocking.0.lock().unwrap());
        let working = async move {
            local.sleep(time).await;
            work();
        };
        self.local.spawn(working).detach();
    }

    /// # Panics
    ///
    /// When somebody asks for ever, and no time passes.
    fn now(&self) -> Instant {
        let now = self.local.now();
        let mut latest = self.latest.lock().unwrap();
        *latest = if latest.0 == now { (now, latest.1 + 1) } else { (now, 0) };
        assert!(latest.1 < MOST_TURNS, "no time passes");
        now
    }
}

struct Watched(Io);

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Source for Watched {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>> {
        self.0.poll(cx, direction, |fd| Ok(((), attempt(fd)?)))
    }
}
