//! `Rt`, the handle that the rest of the library holds, and `run`.

use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, select};

use super::{Driver, Io, Runtime, Task};
use crate::guard::Guard;
use crate::{Error, ErrorKind};

/// A cheap clone of a [`Runtime`]: the executor as the rest of the library, and a daemon's own
/// code, sees it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::rt::{Driver, local::Local, run};
///
/// let driver = Local::new()?;
/// let rt = driver.handle();
/// let answer = run(&driver, async {
///     let task = rt.spawn(async { 42 });
///     rt.sleep(Duration::from_millis(1)).await;
///     rt.timeout(Duration::from_secs(5), task).await
/// });
/// assert_eq!(answer, Ok(42));
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone)]
pub struct Rt(pub(super) Arc<dyn Runtime>);

/// The future did not finish in the time it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Elapsed;

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the deadline passed")
    }
}

impl std::error::Error for Elapsed {}

impl fmt::Debug for Rt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Rt {
    /// Wraps an implementation; what a backend's [`Driver::handle`] returns.
    pub fn new(runtime: impl Runtime) -> Self {
        Self(Arc::new(runtime))
    }

    /// Starts a task beside the caller. Dropping the [`Task`] cancels it, [`Task::detach`] lets it go.
    ///
    /// A panic in the task is caught and logged; whoever waits for the task panics with it.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (task, boxed) = Task::new(future);
        self.0.spawn(boxed);
        task
    }

    /// Runs a function that blocks, such as a name lookup, PAM, or a slow file system, outside of the
    /// threads that run tasks, and waits for what it returns.
    ///
    /// A handler of the master that blocks keeps the master from everything else: other requests,
    /// signals and the deaths of workers. What blocks belongs in here. tokio, smol and async-std have
    /// a pool of threads for it; [`local`](super::local) and runtimes that do not bring their own have
    /// one thread, which runs one function after the other.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Program`] when the function panics, [`ErrorKind::System`] when there is no thread
    /// to run it.
    ///
    /// # Cancel safety
    ///
    /// The function starts when this method is called. Dropping the future does not stop it: it runs
    /// to its end, and its result is dropped. A master that upgrades itself, or ends, does not wait
    /// for functions that nobody waits for.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let size = run(&driver, async {
    ///     rt.unblock(|| std::fs::metadata("/proc/self/exe").map(|file| file.len())).await
    /// });
    /// assert!(size??  > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unblock<T, F>(
        &self,
        function: F,
    ) -> impl Future<Output = Result<T, Error>> + Send + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> T + Send + 'static,
    {
        let (sender, outcome) = oneshot::channel();
        self.0.unblock(Box::new(move || {
            // A value that nobody wants may panic as well when it is dropped.
            let _ = Guard::BLOCKING.call(|| drop(sender.send(Guard::BLOCKING.call(function))));
        }));
        outcome.map(|outcome| {
            let outcome = outcome.map_err(|oneshot::Canceled| {
                Error::new(ErrorKind::System, "there is no thread for a blocking function")
            });
            outcome?.map_err(|panicked| {
                Error::new(ErrorKind::Program, "a blocking function failed").caused_by(panicked)
            })
        })
    }

    /// Waits for a duration.
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.after(duration)).await;
    }

    /// Waits until an instant of [`Rt::now`]'s clock.
    pub async fn sleep_until(&self, deadline: Instant) {
        self.0.sleep_until(deadline).await;
    }

    /// Gives a future a duration to finish in; the future is dropped when it does not.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] when the time is over first.
    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        self.timeout_at(self.after(limit), future).await
    }

    /// Like [`Rt::timeout`], with the deadline as an instant.
    ///
    /// # Errors
    ///
    /// [`Elapsed`] when the deadline passes first.
    pub async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let future = pin!(future);
        // The future first: what is ready at the deadline counts as in time.
        match select(future, self.0.sleep_until(deadline)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(Elapsed),
        }
    }

    /// The instant after a duration from now; ten years from now when there is no such instant.
    pub(crate) fn after(&self, duration: Duration) -> Instant {
        const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        self.now() + duration.min(TEN_YEARS)
    }

    /// The runtime's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// Watches a descriptor that others use, too: whoever uses it here sees to it that nothing blocks.
    pub(crate) fn register_as_it_is(&self, fd: OwnedFd) -> io::Result<Io> {
        self.0.register(fd).map(Io::new)
    }

    /// Watches a descriptor, which is made non-blocking here.
    pub(crate) fn register(&self, fd: OwnedFd) -> io::Result<Io> {
        crate::sys::fds::set_nonblocking(&fd)?;
        self.0.register(fd).map(Io::new)
    }
}

/// Runs `main` on a driver and returns what it returns.
///
/// # Panics
///
/// When the driver breaks its contract and comes back before `main` is done.
pub fn run<T>(driver: &dyn Driver, main: impl Future<Output = T>) -> T {
    let mut output = None;
    {
        let mut main = pin!(async { output = Some(main.await) });
        driver.block_on(main.as_mut());
    }
    #[allow(clippy::expect_used)]
    output.expect("the driver's block_on came back before the main future was done")
}
