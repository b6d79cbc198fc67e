//! `Task`: the caller's handle to a spawned future.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{AbortHandle, Abortable, abortable};

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
    outcome: oneshot::Receiver<TaskResult<T>>,
    /// `None` after the task was detached.
    abort: Option<AbortHandle>,
}

type TaskResult<T> = Result<T, Payload>;

impl<T: Send + 'static> Task<T> {
    pub(super) fn new(future: impl Future<Output = T> + Send + 'static) -> (Self, BoxFuture) {
        let (task, running) = Self::parts(future);
        (task, Box::pin(running))
    }
}

impl<T: 'static> Task<T> {
    /// Returns a task that stays on its thread.
    pub(super) fn local(
        future: impl Future<Output = T> + 'static,
    ) -> (Self, Pin<Box<dyn Future<Output = ()>>>) {
        let (task, running) = Self::parts(future);
        (task, Box::pin(running))
    }

    fn parts<F: Future<Output = T>>(future: F) -> (Self, Contained<F>) {
        let (sender, outcome) = oneshot::channel();
        let running = RunningTask { future: Some(Box::pin(future)), sender: Some(sender) };
        let (running, abort) = abortable(running);
        (Self { outcome, abort: Some(abort) }, Contained(Some(running)))
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

/// The future of a task, which runs until it has sent its output.
///
/// Each process of a worker has several tasks. A struct contains their futures once; an `async` block
/// around them would have three copies.
struct RunningTask<F: Future> {
    future: Option<Pin<Box<F>>>,
    sender: Option<oneshot::Sender<TaskResult<F::Output>>>,
}

impl<F: Future> Future for RunningTask<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.future else { return Poll::Ready(()) };
        let outcome = match Guard::TASK.attempt(|| future.as_mut().poll(cx)) {
            Ok(polled) => Ok(ready!(polled)),
            Err(panic) => Err(panic),
        };
        let ended = self.future.take();
        Guard::TASK.end(|| drop(ended));
        if let Err(panic) = &outcome {
            log_error!(panic = panic_message(panic.as_ref()), "a task panicked");
        }
        // No caller waits for a detached task.
        let _ = self.sender.take().map(|sender| sender.send(outcome));
        Poll::Ready(())
    }
}

/// A task whose future catches its panics here, even when it is dropped halfway: with some
/// executors a panic would end the process.
struct Contained<F: Future>(Option<Abortable<RunningTask<F>>>);

impl<F: Future> Contained<F> {
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

impl<F: Future> Future for Contained<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(future) = &mut self.0
            && let Some(polled) = contained(|| as_executor(|| future.poll_unpin(cx)))
        {
            // An aborted one has completed, too.
            let _ = ready!(polled);
        }
        self.end();
        Poll::Ready(())
    }
}

impl<F: Future> Drop for Contained<F> {
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
