//! An executor of our own making: one thread takes numbers from a channel and polls the tasks that
//! have them. The reactor, for descriptors and timers, is borrowed from the `async-io` crate.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::{collections::HashMap, io, pin::Pin, sync::Arc, sync::mpsc, time::Instant};

use async_io::{Async, Timer};
use release::rt::{BoxFuture, Direction, Driver, Progress, Rt, Runtime, Source};

/// Makes the driver: this is what a program hands to Release for Rust.
pub(crate) fn driver() -> io::Result<MyExecutor> {
    let (sender, events) = mpsc::channel();
    Ok(MyExecutor(sender, events))
}

#[derive(Debug)]
pub(crate) struct MyExecutor(mpsc::Sender<Event>, mpsc::Receiver<Event>);
/// The number of a task that can go on, and its future when it is new.
type Event = (u64, Option<BoxFuture>);
const MAIN: u64 = 0;

impl Driver for MyExecutor {
    fn handle(&self) -> Rt {
        Rt::new(Handle(self.0.clone()))
    }
    fn block_on(&self, mut main: Pin<&mut dyn Future<Output = ()>>) {
        let waker = |id| Waker::from(Arc::new(TaskWaker(id, self.0.clone())));
        // Nobody else owns a future, so the tasks that are unfinished in the end are dropped here.
        let (mut tasks, main_waker) = (HashMap::new(), waker(MAIN));
        main_waker.wake_by_ref();
        for (id, new) in &self.1 {
            if let Some(future) = new {
                tasks.insert(id, (future, waker(id)));
            }
            if let Some((future, waker)) = tasks.get_mut(&id) {
                if is_done(future.as_mut(), waker) {
                    tasks.remove(&id);
                }
            } else if id == MAIN && is_done(main.as_mut(), &main_waker) {
                return;
            }
        }
    }
}
fn is_done(future: Pin<&mut dyn Future<Output = ()>>, waker: &Waker) -> bool {
    future.poll(&mut Context::from_waker(waker)).is_ready()
}

struct TaskWaker(u64, mpsc::Sender<Event>);
impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        let _ = self.1.send((self.0, None)); // Fails when the driver is gone, with its tasks.
    }
}

#[derive(Debug)]
struct Handle(mpsc::Sender<Event>);
impl Runtime for Handle {
    fn spawn(&self, task: BoxFuture) {
        static NEXT: AtomicU64 = AtomicU64::new(MAIN + 1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let _ = self.0.send((id, Some(task)));
    }
    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        Box::pin(async move { _ = Timer::at(deadline).await })
    }
    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        Ok(Box::new(Watched(Async::new_nonblocking(fd)?)))
    }
}

#[derive(Debug)]
struct Watched(Async<OwnedFd>);
impl Source for Watched {
    fn poll_io(
        &self,
        cx: &mut Context<'_>,
        direction: Direction,
        attempt: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
    ) -> Poll<io::Result<()>> {
        loop {
            match attempt(self.as_fd()) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(drop)),
            }
            ready!(match direction {
                Direction::Read => self.0.poll_readable(cx),
                Direction::Write => self.0.poll_writable(cx),
            })?;
        }
    }
}
impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
