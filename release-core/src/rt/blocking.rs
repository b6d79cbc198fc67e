//! Waits for a future on a thread outside the runtime.

use std::cell::Cell;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

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
}
