//! `Task`: the caller's handle to a spawned future.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, abortable};

use super::BoxFuture;
use super::blocking::as_executor;
use crate::guard::{Guard, Payload, panic_message};

/// A handle to a spawned task, and the future of its output.
///
/// Dropping it cancels the task at its next suspension point; [`detach`](Task::detach) lets it run
/// on. Awaiting a task that panicked panics with the same payload.
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
///     let task = rt.spawn(std::future::pending::<()>());
///     rt.sleep(Duration::from_secs(1)).await;
///     // Cancels it.
///     drop(task);
///     assert_eq!(rt.spawn(async { 42 }).await, 42);
/// });
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
#[must_use = "dropping a task cancels it; detach it to let it run"]
pub struct Task<T: 'static> {
    outcome: oneshot::Receiver<Outcome<T>>,
    /// `None` after the task was detached.
    abort: Option<AbortHandle>,
}

type Outcome<T> = Result<T, Payload>;

impl<T: Send + 'static> Task<T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static) -> (Self, BoxFuture) {
        let (sender, outcome) = oneshot::channel();
        let running = async {
            let outcome = Guard::TASK.run_to_end(future).await;
            if let Err(panic) = &outcome {
                log_error!(panic = panic_message(panic.as_ref()), "a task panicked");
            }
            // No caller waits for a detached task.
            let _ = sender.send(outcome);
        };
        let (running, abort) = abortable(running);
        (
            Self { outcome, abort: Some(abort) },
            Box::pin(Contained(Some(Box::pin(running.map(drop))))),
        )
    }

    /// Lets the task run to completion without a waiting caller.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_channel::oneshot;
    /// use release_core::rt::{Driver, local::Local, run};
    ///
    /// let driver = Local::new()?;
    /// let rt = driver.handle();
    /// let (sender, answer) = oneshot::channel();
    /// let answer = run(&driver, async {
    ///     rt.spawn(async { sender.send(42) }).detach();
    ///     answer.await
    /// });
    /// assert_eq!(answer, Ok(42));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn detach(mut self) {
        self.abort = None;
    }
}

impl<T: 'static> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(abort) = &self.abort {
            abort.abort();
        }
    }
}

impl<T: 'static> Future for Task<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(self.outcome.poll_unpin(cx)) {
            Ok(Ok(output)) => Poll::Ready(output),
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            Err(oneshot::Canceled) => {
                std::panic::resume_unwind(Box::new("the runtime ended before the task did"))
            }
        }
    }
}

/// A task whose future catches its panics here, even when it is dropped halfway: with some
/// executors a panic would end the process.
struct Contained(Option<BoxFuture>);

impl Contained {
    fn end(&mut self) {
        let future = self.0.take();
        contained(|| drop(future));
    }
}

/// Returns `None` if it panics, which is logged.
fn contained<T>(function: impl FnOnce() -> T) -> Option<T> {
    let outcome = catch_unwind(AssertUnwindSafe(function));
    let said = outcome.inspect_err(|panic| {
        log_error!(panic = panic_message(&**panic), "a task panicked when it was dropped");
    });
    said.ok()
}

impl Future for Contained {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(future) = &mut self.0
            && let Some(polled) = contained(|| as_executor(|| future.as_mut().poll(cx)))
        {
            ready!(polled);
        }
        self.end();
        Poll::Ready(())
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        self.end();
    }
}

/// Yields once to the executor's other tasks.
pub(crate) async fn give_way() {
    let mut given = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}
