//! Tasks that are not `Send`: they run on the thread of the main future, beside it.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::Task;

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// Tasks that wait for their first turn.
type Spawned = Rc<RefCell<Vec<LocalFuture>>>;

thread_local! {
    /// Where the future that is being polled on this thread spawns.
    static CURRENT: RefCell<Option<Spawned>> = const { RefCell::new(None) };
}

/// Spawns a task that need not be [`Send`], on the thread that runs the main future: that of a worker, or
/// that of [`run`](super::run). It runs concurrently with the main future, on any executor, and never on
/// another thread. Dropping the [`Task`] cancels it; [`Task::detach`] lets it run on, until the main future
/// completes.
///
/// Call it in the main future, or in another local task. In thread-per-core programs, where each worker has
/// one thread, tasks can so share data in an [`Rc`] without locks; see also
/// [`AcceptLoop::run_local`](crate::net::AcceptLoop::run_local).
///
/// # Panics
///
/// Panics outside of the main future and of local tasks: in a task of
/// [`Rt::spawn`](super::Rt::spawn), in a handler of a master, or on another thread.
///
/// # Examples
///
/// ```
/// use std::cell::Cell;
/// use std::rc::Rc;
/// use release_core::rt::{local::Local, run, spawn_local};
///
/// let sum = run(&Local::new()?, async {
///     let sum = Rc::new(Cell::new(0));
///     let tasks = [40, 2].map(|number| {
///         let sum = Rc::clone(&sum);
///         spawn_local(async move { sum.set(sum.get() + number) })
///     });
///     for task in tasks {
///         task.await;
///     }
///     sum.get()
/// });
/// assert_eq!(sum, 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn spawn_local<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    let (task, running) = Task::local(future);
    let spawned = CURRENT
        .with_borrow(|current| current.as_ref().map(|spawned| spawned.borrow_mut().push(running)));
    assert!(
        spawned.is_some(),
        "`spawn_local` works in the main future and in local tasks only; use `Rt::spawn` elsewhere"
    );
    task
}

/// A main future, and the local tasks that it and they spawn.
pub(super) struct WithLocalTasks<F> {
    main: F,
    spawned: Spawned,
    tasks: FuturesUnordered<LocalFuture>,
}

impl<F> WithLocalTasks<F> {
    pub(super) fn new(main: F) -> Self {
        Self { main, spawned: Spawned::default(), tasks: FuturesUnordered::new() }
    }
}

/// Number of local tasks that get a turn before the main future, and the reactor, have theirs.
const ROUNDS: u32 = 256;

impl<F: Future + Unpin> Future for WithLocalTasks<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let _current = Entered::new(&self.spawned);
        if let Poll::Ready(output) = Pin::new(&mut self.main).poll(cx) {
            // Local tasks end with the main future, and may spawn others when they are dropped.
            self.tasks.clear();
            return Poll::Ready(output);
        }
        for _ in 0..ROUNDS {
            let spawned = std::mem::take(&mut *self.spawned.borrow_mut());
            let is_done = spawned.is_empty();
            if is_done && self.tasks.is_empty() {
                return Poll::Pending;
            }
            self.tasks.extend(spawned);
            match self.tasks.poll_next_unpin(cx) {
                Poll::Ready(Some(())) => {}
                // Each task has had the turn that it was woken for, or the executor has one first.
                Poll::Ready(None) | Poll::Pending
                    if is_done && self.spawned.borrow().is_empty() =>
                {
                    return Poll::Pending;
                }
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Lets this thread spawn there until this is dropped. Main futures may be nested.
struct Entered(Option<Spawned>);

impl Entered {
    fn new(spawned: &Spawned) -> Self {
        Self(CURRENT.replace(Some(Rc::clone(spawned))))
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        CURRENT.set(self.0.take());
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::pending;
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::rt::local::Local;
    use crate::rt::{Driver, run};

    #[test]
    fn tasks_spawn_tasks_and_wake_each_other() {
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let order = Rc::new(RefCell::new(Vec::new()));
        run(&driver, async {
            let (inner, timer) = (Rc::clone(&order), rt.clone());
            let outer = spawn_local(async move {
                let own = Rc::clone(&inner);
                let task = spawn_local(async move {
                    timer.sleep(Duration::from_millis(1)).await;
                    own.borrow_mut().push("inner");
                });
                task.await;
                inner.borrow_mut().push("outer");
            });
            outer.await;
        });
        assert_eq!(*order.borrow(), ["inner", "outer"]);
    }

    #[test]
    fn a_task_ends_with_its_handle_and_with_the_main_future() {
        struct Counted(Rc<Cell<u32>>);
        impl Drop for Counted {
            fn drop(&mut self) {
                self.0.set(self.0.get() + 1);
            }
        }
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let dropped = Rc::new(Cell::new(0));
        let waiting = || {
            let it = Counted(Rc::clone(&dropped));
            async move {
                let _it = it;
                pending::<()>().await;
            }
        };
        run(&driver, async {
            drop(spawn_local(waiting()));
            while dropped.get() == 0 {
                rt.sleep(Duration::from_millis(1)).await;
            }
            spawn_local(waiting()).detach();
            rt.sleep(Duration::from_millis(1)).await;
            spawn_local(waiting()).detach();
            assert_eq!(dropped.get(), 1);
        });
        assert_eq!(dropped.get(), 3);
    }

    #[test]
    fn tasks_without_end_starve_neither_the_main_future_nor_timers() {
        /// Ends, and leaves another one of its kind.
        fn successors(deadline: Instant) {
            if Instant::now() < deadline {
                spawn_local(async move { successors(deadline) }).detach();
            }
        }
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        run(&driver, async {
            let deadline = Instant::now() + Duration::from_secs(20);
            successors(deadline);
            rt.sleep(Duration::from_millis(1)).await;
            assert!(Instant::now() < deadline, "the timer had to wait for the tasks");
        });
    }

    #[test]
    fn a_panic_reaches_who_waits_for_the_task() {
        run(&Local::new().unwrap(), async {
            let task = spawn_local(async { panic!("on purpose") });
            let panicked = futures_util::FutureExt::catch_unwind(AssertUnwindSafe(task)).await;
            assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"on purpose"));
        });
    }

    #[test]
    fn elsewhere_there_is_no_thread_for_it() {
        let spawn = || drop(spawn_local(async {}));
        assert!(catch_unwind(spawn).is_err(), "before");
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        let in_task =
            run(&driver, async { rt.spawn(async move { catch_unwind(spawn).is_err() }).await });
        assert!(in_task, "in a task of the executor");
        assert!(catch_unwind(spawn).is_err(), "after");
    }

    #[test]
    fn main_futures_may_be_nested() {
        let outer = Local::new().unwrap();
        run(&outer, async {
            let inner = Local::new().unwrap();
            assert_eq!(run(&inner, async { spawn_local(async { 1 }).await }), 1);
            assert_eq!(spawn_local(async { 2 }).await, 2);
        });
    }
}
