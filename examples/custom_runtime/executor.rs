//! An executor of our own making: one thread takes numbers from a channel and polls the tasks that
//! have them. For descriptors and timers it has the library's reactor.

use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::{collections::HashMap, io, pin::Pin, pin::pin, sync::Arc, sync::mpsc, time::Instant};

use release::rt::reactor::Reactor;
use release::rt::{BoxFuture, Driver, Rt, Runtime, Source};

/// Makes the driver: this is what a program hands to Release for Rust.
pub(crate) fn driver() -> io::Result<MyExecutor> {
    let (sender, events) = mpsc::channel();
    Ok(MyExecutor(Handle { sender, reactor: Reactor::new()? }, events))
}

#[derive(Debug)]
pub(crate) struct MyExecutor(Handle, mpsc::Receiver<Event>);
/// The number of a task that can go on, and its future when it is new.
type Event = (u64, Option<BoxFuture>);
const MAIN: u64 = 0;

impl Driver for MyExecutor {
    fn handle(&self) -> Rt {
        Rt::new(self.0.clone())
    }
    fn block_on(&self, mut main: Pin<&mut dyn Future<Output = ()>>) {
        let Self(handle, events) = self;
        let waker = |id| Waker::from(Arc::new(TaskWaker(id, handle.clone())));
        // Nobody else owns a future, so the tasks that are unfinished in the end are dropped here.
        let (mut tasks, main_waker) = (HashMap::new(), waker(MAIN));
        main_waker.wake_by_ref();
        // No more than this in one turn: a task that is always ready must leave others theirs.
        let turn = poll_fn(|_| {
            for (id, new) in events.try_iter().take(64) {
                handle.reactor.wake(); // There may be more.
                if let Some(future) = new {
                    tasks.insert(id, (future, waker(id)));
                }
                if let Some((future, waker)) = tasks.get_mut(&id) {
                    if is_done(future.as_mut(), waker) {
                        tasks.remove(&id);
                    }
                } else if id == MAIN && is_done(main.as_mut(), &main_waker) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        });
        handle.reactor.block_on(pin!(turn));
    }
}
fn is_done(future: Pin<&mut dyn Future<Output = ()>>, waker: &Waker) -> bool {
    future.poll(&mut Context::from_waker(waker)).is_ready()
}

struct TaskWaker(u64, Handle);
impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.1.send((self.0, None));
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Handle {
    sender: mpsc::Sender<Event>,
    reactor: Reactor,
}
impl Handle {
    fn send(&self, event: Event) {
        let _ = self.sender.send(event); // Fails when the driver is gone, with its tasks.
        self.reactor.wake();
    }
}
impl Runtime for Handle {
    fn spawn(&self, task: BoxFuture) {
        static NEXT: AtomicU64 = AtomicU64::new(MAIN + 1);
        self.send((NEXT.fetch_add(1, Ordering::Relaxed), Some(task)));
    }
    fn sleep_until(&self, deadline: Instant) -> BoxFuture {
        self.reactor.sleep_until(deadline)
    }
    fn register(&self, fd: OwnedFd) -> io::Result<Box<dyn Source>> {
        self.reactor.register(fd)
    }
}
