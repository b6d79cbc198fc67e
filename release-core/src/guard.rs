//! `Guard`: the only way in which this library calls functions of the application.

use std::any::Any;
use std::cell::Cell;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::{Poll, Waker};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Duration from which on the log reports that a function blocked the master.
pub(crate) const BUSY_TIME: Duration = Duration::from_secs(1);

/// Calls the application's functions. A panic becomes an error that names the hook, and the log
/// reports hooks that blocked the thread for long.
///
/// Panics are caught by unwinding, so none of this works in a program built with `panic = "abort"`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    hook: &'static str,
    is_measured: bool,
}

/// The payload of a panic in a function of the application.
pub(crate) type Payload = Box<dyn Any + Send>;

impl Guard {
    /// Guards the tasks of a program, which may be a worker.
    pub(crate) const TASK: Self = Self { hook: "a task", is_measured: false };

    /// Guards a function that may block.
    pub(crate) const BLOCKING: Self = Self { hook: "unblock", is_measured: false };

    /// Guards wakers, which may belong to an executor of the application.
    const WAKER: Self = Self { hook: "a waker", is_measured: false };

    /// Guards the program's settings, which are created on another thread.
    pub(crate) const SETTINGS: Self = Self { hook: "settings", is_measured: false };

    /// Guards a function of the master, known by this name.
    pub(crate) const fn new(hook: &'static str) -> Self {
        Self { hook, is_measured: true }
    }

    /// Calls a function.
    ///
    /// # Errors
    ///
    /// Returns an error if it panics.
    pub(crate) fn call<T>(self, function: impl FnOnce() -> T) -> Result<T, Panicked> {
        self.attempt(function).map_err(|payload| Panicked::new(self.hook, payload))
    }

    /// Calls a function that returns a future, and runs the future to completion. Polling and
    /// dropping it are guarded, too.
    ///
    /// # Errors
    ///
    /// Returns an error if the function or its future panics.
    pub(crate) async fn run<F: Future>(
        self,
        function: impl FnOnce() -> F,
    ) -> Result<F::Output, Panicked> {
        // Its only copy: a future inside another one takes memory in both.
        let mut running = pin!(Some(self.call(function)?));
        let outcome = poll_fn(|cx| {
            let polled = self.attempt(|| {
                let Some(future) = running.as_mut().as_pin_mut() else { return Poll::Pending };
                let polled = future.poll(cx);
                if polled.is_ready() {
                    running.set(None);
                }
                polled
            });
            match polled {
                Ok(polled) => polled.map(Ok),
                Err(payload) => Poll::Ready(Err(Panicked::new(self.hook, payload))),
            }
        });
        let outcome = outcome.await;
        self.end(|| running.set(None));
        outcome
    }

    /// Drops a future that is not polled again.
    pub(crate) fn end(self, drop: impl FnOnce()) {
        if let Err(panicked) = self.call(drop) {
            log_error!(reason = %panicked, "a future panicked when it was dropped");
        }
    }

    /// Calls a function, and returns the payload if it panics.
    pub(crate) fn attempt<T>(self, function: impl FnOnce() -> T) -> Result<T, Payload> {
        let began = self.is_measured.then(coarse_now);
        let outcome = catch_unwind(AssertUnwindSafe(function));
        if let Some(began) = began {
            let time = coarse_now().saturating_sub(began);
            if time >= BUSY_TIME {
                let hook = self.hook;
                TOLD.with(|told| told.set(told.get() + time));
                log_warning!(
                    "the master was busy for {:.1} s: `{hook}` did not give way; what blocks belongs \
                     into `Rt::unblock`",
                    time.as_secs_f64()
                );
            }
        }
        outcome
    }
}

/// Wakes all of these tasks, also those behind a waker that panics.
pub(crate) fn wake_all(wakers: impl IntoIterator<Item = Waker>) {
    let mut wakers = wakers.into_iter();
    while let Err(panicked) = Guard::WAKER.call(|| wakers.by_ref().for_each(Waker::wake)) {
        log_error!(reason = %panicked, "a task could not be woken");
    }
}

thread_local! {
    /// Total time that this thread was blocked, as logged.
    static TOLD: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Returns the total time that functions of the application have blocked this thread, as logged.
pub(crate) fn told_busy() -> Duration {
    TOLD.get()
}

/// Returns the time of a clock with a resolution of a few milliseconds, at almost no cost.
fn coarse_now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}

/// A panic in a function of the application.
#[derive(Debug)]
pub(crate) struct Panicked {
    hook: &'static str,
    message: String,
}

impl Panicked {
    fn new(hook: &'static str, payload: Payload) -> Self {
        let message = panic_message(&*payload).to_owned();
        // Any panic payload may itself panic when it is dropped.
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
            let _ = ManuallyDrop::new(payload);
        }
        Self { hook, message }
    }
}

impl Panicked {
    /// Returns the panic message.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }
}

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` panicked: {}", self.hook, self.message)
    }
}

impl StdError for Panicked {}

/// Returns the text of a panic, as far as it has one.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no text)")
}

#[cfg(test)]
mod tests {
    use std::panic::panic_any;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::rt::Driver;
    use crate::rt::local::Local;

    const HOOK: Guard = Guard::new("hook");

    /// Panics wherever it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic_any("bomb");
            }
        }
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    struct BadWaker;

    impl Wake for BadWaker {
        fn wake(self: Arc<Self>) {
            panic_any("on purpose");
        }
    }

    #[test]
    fn a_panic_is_an_error_that_names_the_hook() {
        let words = |panic: fn()| HOOK.call(panic).unwrap_err().to_string();
        assert_eq!(words(|| panic!("no {}", "way")), "`hook` panicked: no way");
        assert_eq!(words(|| panic_any(7)), "`hook` panicked: (no text)");
        assert_eq!(words(|| panic_any(Bomb)), "`hook` panicked: (no text)");
        assert_eq!(words(|| drop(Bomb)), "`hook` panicked: bomb");
        assert_eq!(HOOK.call(|| 1).unwrap(), 1);
    }

    #[test]
    fn a_future_may_panic_when_it_is_made_polled_or_dropped() {
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        crate::rt::run(&driver, async {
            let made = HOOK.run(|| -> std::future::Ready<()> { panic!("made") }).await;
            assert_eq!(made.unwrap_err().to_string(), "`hook` panicked: made");
            let polled = HOOK.run(|| async {
                rt.sleep(Duration::from_millis(1)).await;
                panic!("polled")
            });
            assert_eq!(polled.await.unwrap_err().to_string(), "`hook` panicked: polled");
            let dropped = HOOK.run(|| {
                let bomb = Bomb;
                poll_fn(move |_| {
                    let _bomb = &bomb;
                    Poll::Ready(3)
                })
            });
            assert_eq!(dropped.await.unwrap_err().to_string(), "`hook` panicked: bomb");
        });
    }

    #[test]
    fn a_waker_that_panics_keeps_no_other_from_being_woken() {
        let (first, second) = (Arc::new(Woken::default()), Arc::new(Woken::default()));
        let bad = || Waker::from(Arc::new(BadWaker));
        wake_all([bad(), Arc::clone(&first).into(), bad(), bad(), Arc::clone(&second).into()]);
        assert_eq!([first, second].map(|woken| woken.0.load(Ordering::SeqCst)), [1, 1]);
    }

    #[test]
    fn a_task_may_panic_when_it_is_cancelled() {
        let driver = Local::new().unwrap();
        let rt = driver.handle();
        crate::rt::run(&driver, async {
            let task = rt.spawn(async {
                let _bomb = Bomb;
                std::future::pending::<()>().await;
            });
            rt.sleep(Duration::from_millis(1)).await;
            drop(task);
            rt.sleep(Duration::from_millis(1)).await;
        });
    }
}
