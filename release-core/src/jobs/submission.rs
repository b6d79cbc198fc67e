//! The way of one job, from its submission to its outcome.

use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::JobError;
use super::schedule::{JobRules, Number};
use super::shared::{JobEntry, SharedJobs};
use crate::ipc::Request;

/// The number of a job in its pool, for its progress: see [`Jobs::report`](super::Jobs::report).
///
/// # Examples
///
/// ```
/// use release_core::jobs::JobNumber;
/// use serde::{Deserialize, Serialize};
///
/// /// A job, to be submitted with `jobs.submit_with(|number| Scan { number, path })`.
/// #[derive(Serialize, Deserialize)]
/// struct Scan { number: JobNumber, path: String }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobNumber(pub(super) Number);

/// A job before its submission: await it, or call [`start`](Submission::start).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::ipc::Request;
/// use release_core::jobs::{JobError, Jobs};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Resize { path: String, width: u32 }
/// impl Request for Resize {
///     type Response = u64;
/// }
///
/// async fn thumbnail(jobs: &Jobs<Resize>, path: String) -> Result<u64, JobError> {
///     let job = Resize { path: path.clone(), width: 200 };
///     jobs.submit(job).timeout(Duration::from_secs(5)).attempts(2).key(path).await
/// }
/// # let _ = thumbnail;
/// ```
#[must_use = "await it, or `start` it"]
pub struct Submission<W: Request + Sync, P: Send + 'static = ()> {
    shared: Arc<SharedJobs<W, P>>,
    number: Number,
    job: W,
    timeout: Option<Duration>,
    rules: JobRules,
}

impl<W: Request + Sync, P: Send + 'static> fmt::Debug for Submission<W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut all = f.debug_struct("Submission");
        all.field("number", &self.number).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl<W: Request + Sync, P: Send + 'static> Submission<W, P> {
    pub(super) fn new(shared: &Arc<SharedJobs<W, P>>, number: Number, job: W, waits: bool) -> Self {
        let rules = JobRules { key: None, attempts: 1, waits };
        Self { shared: Arc::clone(shared), number, job, timeout: None, rules }
    }

    /// Sets the time that a worker may take for the job, in each attempt. Without it, a worker may
    /// take as long as it lives. Time in the queue does not count.
    ///
    /// A worker that takes longer is regarded as hung: its request is cancelled, it gets no new job,
    /// and it is killed and restarted as soon as it has no other job in hand.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::jobs::{JobError, Jobs};
    ///
    /// async fn run(jobs: &Jobs<String>, job: String) -> Result<String, JobError> {
    ///     jobs.submit(job).timeout(Duration::from_secs(5)).await
    /// }
    /// # let _ = (run, Duration::ZERO);
    /// ```
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Sets how often the job may be given to a worker; 1 by default. Another attempt follows when a
    /// worker has crashed, exited or hung with the job in hand, and begins after that process has
    /// exited. A refusal is final.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::jobs::{JobError, Jobs};
    ///
    /// async fn run(jobs: &Jobs<String>, job: String) -> Result<String, JobError> {
    ///     jobs.submit(job).attempts(2).await
    /// }
    /// # let _ = (run, Duration::ZERO);
    /// ```
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.rules.attempts = attempts;
        self
    }

    /// Runs the jobs of an equal key one after the other, in the order of the calls of
    /// [`submit`](super::Jobs::submit).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::jobs::{JobError, Jobs};
    ///
    /// async fn run(jobs: &Jobs<String>, job: String) -> Result<String, JobError> {
    ///     jobs.submit(job).key("reports").await
    /// }
    /// # let _ = (run, Duration::ZERO);
    /// ```
    pub fn key(mut self, key: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.rules.key = Some(hasher.finish());
        self
    }

    /// Submits the job now, and returns the future of its outcome.
    ///
    /// # Examples
    ///
    /// ```
    /// # use release_core::jobs::{JobError, Jobs};
    /// async fn both(jobs: &Jobs<String>) -> Result<[String; 2], JobError> {
    ///     let first = jobs.submit("one".to_owned()).start();
    ///     let second = jobs.submit("two".to_owned()).start();
    ///     Ok([first.await?, second.await?])
    /// }
    /// # let _ = both;
    /// ```
    pub fn start(self) -> Submitted<W, P> {
        let Self { shared, number, job, timeout, rules } = self;
        shared.submit(number, rules, JobEntry::new(job, timeout));
        Submitted { shared, number }
    }
}

/// Submits the job with the first poll, or by being turned into a future.
impl<W: Request + Sync, P: Send + 'static> IntoFuture for Submission<W, P> {
    type Output = Result<W::Response, JobError>;
    type IntoFuture = Submitted<W, P>;

    fn into_future(self) -> Submitted<W, P> {
        self.start()
    }
}

/// A job that was submitted, and the future of its outcome.
///
/// # Examples
///
/// ```
/// use release_core::jobs::{JobError, Jobs, Submitted};
///
/// struct Upload {
///     scan: Submitted<String>,
/// }
///
/// fn begin(jobs: &Jobs<String>, path: String) -> Upload {
///     Upload { scan: jobs.submit(path).start() }
/// }
///
/// async fn finish(upload: Upload) -> Result<String, JobError> {
///     upload.scan.await
/// }
/// # let _ = (begin, finish);
/// ```
///
/// # Cancel safety
///
/// Dropping it cancels the job: a job that waits never runs, and the request of a running one is
/// cancelled at its worker, which drops its handler. The place of the job is free for the next one at
/// once.
#[must_use = "dropping it cancels the job"]
pub struct Submitted<W: Request + Sync, P: Send + 'static = ()> {
    shared: Arc<SharedJobs<W, P>>,
    number: Number,
}

impl<W: Request + Sync, P: Send + 'static> fmt::Debug for Submitted<W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Submitted").field("number", &self.number).finish_non_exhaustive()
    }
}

impl<W: Request + Sync, P: Send + 'static> Submitted<W, P> {
    /// Waits until the job has a place in the queue: the back-pressure of a pool, for programs that
    /// submit more than they wait for.
    ///
    /// # Errors
    ///
    /// Returns an error if the job has none: the master is shutting down, or the queue of
    /// [`try_submit`](super::Jobs::try_submit) is full.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::jobs::{JobError, Jobs};
    ///
    /// async fn all(jobs: &Jobs<String>, lines: Vec<String>) -> Result<(), JobError> {
    ///     let mut running = Vec::new();
    ///     for line in lines {
    ///         let mut job = jobs.submit(line).start();
    ///         job.accepted().await?;
    ///         running.push(job);
    ///     }
    ///     for job in running {
    ///         println!("{}", job.await?);
    ///     }
    ///     Ok(())
    /// }
    /// # let _ = all;
    /// ```
    pub async fn accepted(&mut self) -> Result<(), JobError> {
        let accepted = |entry: &mut JobEntry<W, P>| match &entry.outcome {
            _ if entry.is_accepted => Some(Ok(())),
            Some(Err(error)) => Some(Err(error.clone())),
            Some(Ok(_)) => Some(Ok(())),
            None => None,
        };
        let outcome = poll_fn(|cx| self.poll_entry(cx, accepted)).await;
        outcome.unwrap_or(Err(JobError::Stopping))
    }

    /// Waits for the next progress of the job ([`Jobs::report`](super::Jobs::report)), and returns
    /// `None` when the job has an outcome. Only the latest progress is kept.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::jobs::{JobError, Jobs};
    ///
    /// async fn watch(jobs: &Jobs<String, u8>) -> Result<String, JobError> {
    ///     let mut job = jobs.submit("a long one".to_owned()).start();
    ///     while let Some(percent) = job.progress().await {
    ///         println!("{percent} %");
    ///     }
    ///     job.await
    /// }
    /// # let _ = watch;
    /// ```
    pub async fn progress(&mut self) -> Option<P> {
        let progress = |entry: &mut JobEntry<W, P>| match entry.progress.take() {
            Some(progress) => Some(Some(progress)),
            None => entry.outcome.is_some().then_some(None),
        };
        poll_fn(|cx| self.poll_entry(cx, progress)).await.flatten()
    }

    /// Completes when `look` finds something, or there is no job any more.
    fn poll_entry<T>(
        &self,
        cx: &Context<'_>,
        look: impl Fn(&mut JobEntry<W, P>) -> Option<T>,
    ) -> Poll<Option<T>> {
        let mut state = self.shared.lock();
        let Some(entry) = state.entries.get_mut(&self.number) else { return Poll::Ready(None) };
        match look(entry) {
            Some(found) => Poll::Ready(Some(found)),
            None => {
                entry.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<W: Request + Sync, P: Send + 'static> Future for Submitted<W, P> {
    type Output = Result<W::Response, JobError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.poll_entry(cx, |entry| entry.outcome.take()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(outcome) => {
                self.shared.cancel(self.number);
                Poll::Ready(outcome.unwrap_or(Err(JobError::Stopping)))
            }
        }
    }
}

impl<W: Request + Sync, P: Send + 'static> Drop for Submitted<W, P> {
    fn drop(&mut self) {
        self.shared.cancel(self.number);
    }
}
