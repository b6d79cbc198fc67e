//! Functions that block, and threads that wait for a future outside the runtime.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use futures_util::task::AtomicWaker;

use super::Blocking;
use crate::sys::threads::Threads;

/// A few threads, for runtimes without threads for blocking functions.
static BLOCKING: Threads = Threads::new("blocking", 4);

/// Runs a function on such a thread.
pub(super) fn unblock(work: Blocking) {
    if let Err((work, error)) = BLOCKING.run(work) {
        log_error!(%error, "cannot start a thread for a blocking function");
        drop(work);
    }
}

thread_local! {
    static RUNS_TASKS: Cell<bool> = const { Cell::new(false) };
}

/// Runs a part of the executor. Meanwhile this thread must not wait for the executor.
pub(super) fn as_executor<T>(part: impl FnOnce() -> T) -> T {
    struct Restored(bool);
    impl Drop for Restored {
        fn drop(&mut self) {
            RUNS_TASKS.set(self.0);
        }
    }
    let _restored = Restored(RUNS_TASKS.replace(true));
    part()
}

/// Blocks this thread until the future completes. Returns `None` on a thread that runs tasks: the
/// executor would wait for itself.
pub(crate) fn wait_for<T>(future: impl Future<Output = T>) -> Option<T> {
    if RUNS_TASKS.get() {
        return None;
    }
    let waker = Waker::from(Arc::new(Unparked(thread::current())));
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return Some(output);
        }
        // A wake before this is kept. After a wake of another origin the future is polled in vain.
        thread::park();
    }
}

/// The wakes of a future whose polls run on other threads.
#[derive(Debug, Default)]
pub(super) struct FutureWakes {
    is_woken: AtomicBool,
    task: AtomicWaker,
}

impl FutureWakes {
    /// Waits until the future should be polled again.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.task.register(cx.waker());
        // Also a wake that has come during the poll.
        if self.is_woken.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Wake for FutureWakes {
    fn wake(self: Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

struct Unparked(Thread);

impl Wake for Unparked {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

#[cfg(test)]
mod tests {
    use futures_channel::oneshot;

    use super::*;
    use crate::rt::local::Local;
    use crate::rt::{Driver, run};

    #[test]
    fn a_thread_waits_unless_it_runs_tasks() {
        let driver = Local::new().expect("a driver");
        let rt = driver.handle();
        let (sender, answer) = oneshot::channel();
        let waiting = thread::spawn(|| wait_for(answer));
        let in_task = run(&driver, async {
            sender.send(42).expect("it waits");
            assert_eq!(wait_for(async { 1 }), None, "the main future");
            rt.spawn(async { wait_for(async { 2 }) }).await
        });
        assert_eq!(in_task, None);
        assert_eq!(waiting.join().expect("a number"), Some(Ok(42)));
        assert_eq!(wait_for(async { 3 }), Some(3), "the driver has ended");
    }
    #[test]
    fn a_future_may_block_in_its_polls_and_wait_between_them() {
        let driver = Local::new().expect("a driver");
        let rt = driver.handle();
        let (question, questions) = oneshot::channel::<oneshot::Sender<u32>>();
        let timer = rt.clone();
        let asking = rt.unblock_future(async move {
            let here = thread::current().id();
            let (answer, answered) = oneshot::channel();
            question.send(answer).expect("somebody answers");
            // Would wait for itself on the thread of the tasks.
            let said = wait_for(answered).expect("it may block").expect("an answer");
            timer.sleep(std::time::Duration::from_millis(1)).await;
            (said, here)
        });
        let (said, there) = run(&driver, async {
            rt.spawn(async { questions.await.expect("a question").send(42) }).detach();
            let asked = rt.timeout(std::time::Duration::from_secs(20), asking).await;
            asked.expect("it was woken").expect("no panic")
        });
        assert_eq!(said, 42);
        assert_ne!(there, thread::current().id());
        let panics = run(&driver, rt.unblock_future(async { panic!("on purpose") }));
        let panics: Result<(), _> = panics;
        assert!(panics.expect_err("it panics").report().contains("on purpose"));
    }

    #[test]
    fn a_future_that_is_woken_while_it_is_polled_is_polled_again() {
        let driver = Local::new().expect("a driver");
        let mut polls = 0;
        let woken = std::future::poll_fn(move |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 100 { Poll::Ready(polls) } else { Poll::Pending }
        });
        let rt = driver.handle();
        let polls = rt.timeout(std::time::Duration::from_secs(20), rt.unblock_future(woken));
        assert_eq!(run(&driver, polls).expect("it was woken").ok(), Some(100));
    }
}
