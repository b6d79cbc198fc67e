//! `Rt`, the handle used by the rest of the library, and `run`.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::OwnedFd;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, select};

use super::blocking::{FutureWakes, as_executor};
use super::local_tasks::WithLocalTasks;
use super::{Driver, Io, Runtime, Task};
use crate::guard::Guard;
use crate::{Error, ErrorKind};

/// A cheaply cloned handle to a [`Runtime`]: the executor as seen by the rest of the library and by
/// your daemon's code.
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

/// The error of a future that did not complete within its time limit.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::rt::{Driver, local::Local, run};
///
/// let driver = Local::with_virtual_time()?;
/// let rt = driver.handle();
/// let never = rt.timeout(Duration::from_secs(5), std::future::pending::<()>());
/// assert_eq!(run(&driver, never).unwrap_err().to_string(), "the deadline passed");
/// # Ok::<(), std::io::Error>(())
/// ```
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
    /// Wraps an implementation. A backend's [`Driver::handle`] returns the result.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::rt::{Rt, Runtime};
    ///
    /// fn handle(backend: impl Runtime) -> Rt {
    ///     Rt::new(backend)
    /// }
    /// ```
    pub fn new(runtime: impl Runtime) -> Self {
        Self(Arc::new(runtime))
    }

    /// Returns the implementation, for a runtime that wraps it: see the second example of [`Driver`].
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Instant;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let runtime = driver.handle().runtime();
    /// run(&driver, runtime.sleep_until(Instant::now()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn runtime(&self) -> Arc<dyn Runtime> {
        Arc::clone(&self.0)
    }

    /// Spawns a task that runs concurrently with the caller. Dropping the [`Task`] cancels it;
    /// [`Task::detach`] lets it run on.
    ///
    /// A panic in the task is caught and logged. Awaiting the task then panics with the same
    /// payload.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let sum = run(&driver, async {
    ///     let (one, two) = (rt.spawn(async { 40 }), rt.spawn(async { 2 }));
    ///     one.await + two.await
    /// });
    /// assert_eq!(sum, 42);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (task, boxed) = Task::new(future);
        self.0.spawn(boxed);
        task
    }

    /// Runs a blocking function, such as a name lookup, PAM, or access to a slow file system,
    /// outside the threads that run tasks. Returns its result.
    ///
    /// A master's handler that blocks stops all other work of the master: other requests, signals
    /// and worker exits. Run blocking code with this method. tokio, smol and async-std have a
    /// thread pool for it. [`local`](super::local) and runtimes without such a pool use up to four
    /// threads.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Program`] if the function panics, and [`ErrorKind::System`] if no
    /// thread can be started to run it.
    ///
    /// # Cancel safety
    ///
    /// The function starts when you call this method. Dropping the future does not stop it: it runs
    /// to completion, and its result is dropped. A master that upgrades itself, or exits, does not
    /// wait for functions whose future was dropped.
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
            // A value without a receiver may also panic when it is dropped.
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

    /// Runs a future whose polls may block, such as a handshake that waits for a signature of another
    /// process. Each poll runs like a function in [`unblock`](Self::unblock). Between its polls, no
    /// thread waits for it.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Program`] if the future panics, and [`ErrorKind::System`] if no thread can be
    /// started to poll it.
    ///
    /// # Cancel safety
    ///
    /// Dropping the returned future drops `future`, at once or after the poll that is running.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let timer = rt.clone();
    /// let size = run(&driver, rt.unblock_future(async move {
    ///     timer.sleep(Duration::from_millis(1)).await;
    ///     std::fs::metadata("/proc/self/exe").map(|file| file.len())
    /// }));
    /// assert!(size?? > 0);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn unblock_future<F>(
        &self,
        future: F,
    ) -> impl Future<Output = Result<F::Output, Error>> + Send + use<F>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let rt = self.clone();
        async move {
            let (mut future, wakes) = (Box::pin(future), Arc::<FutureWakes>::default());
            loop {
                let waker = Waker::from(Arc::clone(&wakes));
                let poll = move || {
                    let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
                    (polled, future)
                };
                let (polled, rest) = rt.unblock(poll).await?;
                if let Poll::Ready(output) = polled {
                    return Ok(output);
                }
                future = rest;
                poll_fn(|cx| wakes.poll(cx)).await;
            }
        }
    }

    /// Waits for a duration.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::with_virtual_time()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let start = rt.now();
    ///     rt.sleep(Duration::from_secs(60)).await;
    ///     assert_eq!(rt.now() - start, Duration::from_secs(60));
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.after(duration)).await;
    }

    /// Waits until an instant of [`Rt::now`]'s clock.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::with_virtual_time()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let deadline = rt.now() + Duration::from_secs(60);
    ///     rt.sleep_until(deadline).await;
    ///     assert!(rt.now() >= deadline);
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn sleep_until(&self, deadline: Instant) {
        self.0.sleep_until(deadline).await;
    }

    /// Runs a future with a time limit. The future is dropped if the limit expires.
    ///
    /// # Errors
    ///
    /// Returns [`Elapsed`] if the future does not complete in time.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::with_virtual_time()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     assert_eq!(rt.timeout(Duration::from_secs(5), async { 42 }).await, Ok(42));
    ///     let never = std::future::pending::<()>();
    ///     assert!(rt.timeout(Duration::from_secs(5), never).await.is_err());
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn timeout<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        self.timeout_at(self.after(limit), future).await
    }

    /// Runs a future until a deadline, like [`Rt::timeout`].
    ///
    /// # Errors
    ///
    /// Returns [`Elapsed`] if the future does not complete before the deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::with_virtual_time()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     // Both steps together have five seconds.
    ///     let deadline = rt.now() + Duration::from_secs(5);
    ///     let first = rt.timeout_at(deadline, rt.sleep(Duration::from_secs(3))).await;
    ///     let second = rt.timeout_at(deadline, rt.sleep(Duration::from_secs(3))).await;
    ///     assert!(first.is_ok() && second.is_err());
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub async fn timeout_at<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let future = pin!(future);
        // The future first: a result that is ready at the deadline counts as in time.
        match select(future, self.0.sleep_until(deadline)).await {
            Either::Left((output, _)) => Ok(output),
            Either::Right(_) => Err(Elapsed),
        }
    }

    /// Returns the instant `duration` from now, at most ten years from now.
    pub(crate) fn after(&self, duration: Duration) -> Instant {
        const TEN_YEARS: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);
        self.now() + duration.min(TEN_YEARS)
    }

    /// Returns the current instant of the runtime's clock.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::with_virtual_time()?;
    /// let rt = driver.handle();
    /// run(&driver, async {
    ///     let start = rt.now();
    ///     rt.sleep(Duration::from_secs(1)).await;
    ///     assert_eq!(rt.now(), start + Duration::from_secs(1));
    /// });
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now()
    }

    /// Watches a descriptor that others use too. The caller must ensure that no operation blocks.
    pub(crate) fn register_as_it_is(&self, fd: OwnedFd) -> io::Result<Io> {
        self.0.register(fd).map(Io::new)
    }

    /// Watches a descriptor, and makes it non-blocking.
    pub(crate) fn register(&self, fd: OwnedFd) -> io::Result<Io> {
        crate::sys::fds::set_nonblocking(&fd)?;
        self.0.register(fd).map(Io::new)
    }
}

/// Runs `main` on a driver and returns its output. Local tasks ([`spawn_local`](super::spawn_local)) run
/// beside it, and are dropped when it completes.
///
/// # Panics
///
/// Panics if the driver violates its contract and returns before `main` completes.
///
/// # Examples
///
/// ```
/// use release_core::rt::{local::Local, run};
///
/// let driver = Local::new()?;
/// assert_eq!(run(&driver, async { 40 + 2 }), 42);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn run<T>(driver: &dyn Driver, main: impl Future<Output = T>) -> T {
    let mut output = None;
    {
        let main = pin!(main);
        let mut main = pin!(async { output = Some(WithLocalTasks::new(main).await) });
        as_executor(|| driver.block_on(main.as_mut()));
    }
    #[allow(clippy::expect_used)]
    output.expect("the driver's block_on came back before the main future was done")
}
