//! Jobs: requests of the master that any worker of a group may carry out.
//!
//! A [`Jobs`] pool queues jobs, gives each to a ready worker, and returns its answer, or the reason why
//! there is none. Workers answer jobs like any request of their master, with the handler of
//! [`Worker::run_answering`](crate::Worker::run_answering); they need no other code.
//!
//! - **Limits.** A worker has one job at a time, or as many as [`Jobs::per_worker`] says. The queue is
//!   bounded: [`Jobs::submit`] waits for room, [`Jobs::try_submit`] does not.
//! - **Failures.** A job whose worker crashes or hangs has another attempt, if the job permits that, in
//!   another process. A worker that hangs is killed and restarted.
//! - **Reloads.** A worker that is being replaced gets no new job, and is told to stop when it has
//!   finished those in hand. The master's stop deadline bounds how long that may take.
//! - **Upgrades.** While a new version takes over, no job begins. Those in hand are finished first; if
//!   they take longer than 5 seconds, the upgrade is refused. Hand the others over with
//!   [`Jobs::waiting`].

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use crate::WorkerInfo;
use crate::ipc::{Codec, Request};
use crate::process::Connections;

mod error;
mod follow;
mod schedule;
mod shared;
mod submission;

pub use error::JobError;
pub(crate) use follow::Follow;
use follow::Follower;
use schedule::Schedule;
use shared::{Call, SharedJobs};
pub use submission::{JobNumber, Submission, Submitted};

/// Length of the queue, unless you set another one.
const QUEUE: usize = 1024;

/// A pool of jobs of type `W`, whose progress is of type `P`. A clone is the same pool.
///
/// # Examples
///
/// ```no_run
/// use std::time::Duration;
/// use release_core::ipc::Request;
/// use release_core::jobs::Jobs;
/// use release_core::rt::local::Local;
/// use release_core::{Exit, Master, Me, Workers, is_worker, me};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Count(String);
/// impl Request for Count {
///     type Response = usize;
/// }
///
/// fn main() -> Exit {
///     if is_worker() { worker() } else { master() }
/// }
///
/// fn worker() -> Exit {
///     let count = |Count(path)| async move { Ok(std::fs::read_to_string(path)?.lines().count()) };
///     me().run_answering(Local::new, count, |me: Me| async move {
///         me.ready()?;
///         me.stopping().await;
///         Ok::<(), Box<dyn std::error::Error + Send + Sync>>(())
///     })
/// }
///
/// fn master() -> Exit {
///     let jobs = Jobs::new();
///     let workers = Workers::same_executable("count", 4).user("nobody").requests().jobs(&jobs);
///     Master::new()
///         .workers(workers)
///         .main(move |_| async move {
///             let job = jobs.submit(Count("/etc/services".into()));
///             println!("{:?}", job.timeout(Duration::from_secs(5)).attempts(2).await);
///             Ok::<(), std::io::Error>(())
///         })
///         .run(Local::new)
/// }
/// ```
pub struct Jobs<W: Request, P = ()> {
    shared: Arc<SharedJobs<W, P>>,
}

impl<W: Request, P> Clone for Jobs<W, P> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<W: Request, P> fmt::Debug for Jobs<W, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.shared.lock();
        let (waiting, in_hand) = (state.schedule.waiting().count(), state.schedule.in_hand());
        f.debug_struct("Jobs").field("waiting", &waiting).field("in_hand", &in_hand).finish()
    }
}

impl<W: Request> Default for Jobs<W> {
    fn default() -> Self {
        Self::with_progress()
    }
}

impl<W: Request> Jobs<W> {
    /// Creates a pool. [`Workers::jobs`](crate::Workers::jobs) sets the workers that carry its jobs
    /// out; until they are ready, jobs wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::jobs::Jobs;
    ///
    /// let jobs = Jobs::<String>::new().per_worker(2).queue(100);
    /// let workers = Workers::same_executable("echo", 4).requests().jobs(&jobs);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn new() -> Self {
        Self::with_progress()
    }
}

impl<W: Request, P> Jobs<W, P> {
    /// Creates a pool of jobs that report their progress: see [`Jobs::report`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::jobs::Jobs;
    ///
    /// // The progress is a percentage.
    /// let jobs = Jobs::<String, u8>::with_progress().per_worker(2);
    /// let workers = Workers::same_executable("scan", 4).requests().jobs(&jobs);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn with_progress() -> Self {
        // A late report of a worker from before an upgrade finds no job of its number.
        let first = RandomState::new().hash_one(std::process::id()) >> 1;
        Self { shared: Arc::new(SharedJobs::new(Schedule::new(QUEUE, 1, first))) }
    }

    /// Sets how many jobs a worker may have in hand at a time; 1 by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::jobs::Jobs;
    ///
    /// let jobs = Jobs::<String>::new().per_worker(8);
    /// let workers = Workers::same_executable("echo", 4).requests().jobs(&jobs);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn per_worker(self, jobs: usize) -> Self {
        self.shared.lock().schedule.per_worker = jobs.max(1);
        self
    }

    /// Sets how many jobs may wait for a worker; 1024 by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::jobs::Jobs;
    ///
    /// let jobs = Jobs::<String>::new().queue(100);
    /// let workers = Workers::same_executable("echo", 4).requests().jobs(&jobs);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn queue(self, jobs: usize) -> Self {
        self.shared.lock().schedule.queue_limit = jobs.max(1);
        self
    }

    /// Returns copies of the jobs that have not begun, or wait for another attempt, in the order of
    /// their submission: for the next version of the program.
    ///
    /// The tasks that wait for these jobs do not survive the upgrade: submit the jobs again.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::jobs::Jobs;
    /// use release_core::{Master, Workers, handed_over};
    ///
    /// let jobs = Jobs::<String>::new();
    /// let left: Vec<String> = handed_over()?.unwrap_or_default();
    /// let workers = Workers::same_executable("echo", 4).requests().jobs(&jobs);
    /// let waiting = jobs.clone();
    /// let master = Master::new()
    ///     .workers(workers)
    ///     .hand_over(move || waiting.waiting())
    ///     .main(move |_| async move {
    ///         let again: Vec<_> = left.into_iter().map(|job| jobs.submit(job).start()).collect();
    ///         for job in again {
    ///             println!("{:?}", job.await);
    ///         }
    ///         Ok::<(), std::io::Error>(())
    ///     });
    /// # let _ = master;
    /// # Ok::<(), release_core::Error>(())
    /// ```
    #[must_use]
    pub fn waiting(&self) -> Vec<W>
    where
        W: Clone,
    {
        let state = self.shared.lock();
        let values = state.schedule.waiting().filter_map(|number| state.entries.get(&number));
        let values: Vec<_> = values.filter_map(|entry| entry.value.clone()).collect();
        drop(state);
        values.iter().map(|job| W::clone(job)).collect()
    }
}

impl<W: Request + Sync, P: Send + 'static> Jobs<W, P> {
    /// Submits a job, which waits for room if the queue is full.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::jobs::{JobError, Jobs};
    ///
    /// async fn run(jobs: &Jobs<String>, job: String) -> Result<String, JobError> {
    ///     jobs.submit(job).await
    /// }
    /// # let _ = (run, Duration::ZERO);
    /// ```
    pub fn submit(&self, job: W) -> Submission<W, P> {
        self.submit_with(|_| job)
    }

    /// Submits a job that contains its own number, with which its worker reports progress: see
    /// [`Jobs::report`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Request;
    /// use release_core::jobs::{JobError, JobNumber, Jobs};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Scan { number: JobNumber, path: String }
    /// impl Request for Scan {
    ///     type Response = u64;
    /// }
    ///
    /// async fn scan(jobs: &Jobs<Scan, u8>, path: String) -> Result<u64, JobError> {
    ///     let mut job = jobs.submit_with(|number| Scan { number, path }).start();
    ///     while let Some(percent) = job.progress().await {
    ///         println!("{percent} %");
    ///     }
    ///     job.await
    /// }
    /// # let _ = scan;
    /// ```
    pub fn submit_with(&self, job: impl FnOnce(JobNumber) -> W) -> Submission<W, P> {
        let number = self.shared.lock().schedule.reserve();
        Submission::new(&self.shared, number, job(JobNumber(number)), true)
    }

    /// Submits a job, which ends with [`JobError::Full`] if the queue is full.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::jobs::{JobError, Jobs};
    ///
    /// async fn answer(jobs: &Jobs<String>, line: String) -> String {
    ///     match jobs.try_submit(line).await {
    ///         Ok(answer) => answer,
    ///         Err(JobError::Full) => "busy: ask again later".to_owned(),
    ///         Err(error) => error.to_string(),
    ///     }
    /// }
    /// # let _ = answer;
    /// ```
    pub fn try_submit(&self, job: W) -> Submission<W, P> {
        self.try_submit_with(|_| job)
    }

    /// Submits a job that contains its own number, like [`submit_with`](Jobs::submit_with), and ends
    /// with [`JobError::Full`] if the queue is full.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Request;
    /// use release_core::jobs::{JobError, JobNumber, Jobs};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Scan { number: JobNumber, path: String }
    /// impl Request for Scan {
    ///     type Response = u64;
    /// }
    ///
    /// async fn is_busy(jobs: &Jobs<Scan, u8>, path: String) -> bool {
    ///     let job = jobs.try_submit_with(|number| Scan { number, path });
    ///     matches!(job.await, Err(JobError::Full))
    /// }
    /// # let _ = is_busy;
    /// ```
    pub fn try_submit_with(&self, job: impl FnOnce(JobNumber) -> W) -> Submission<W, P> {
        let number = self.shared.lock().schedule.reserve();
        Submission::new(&self.shared, number, job(JobNumber(number)), false)
    }

    /// Passes the progress of a job on to its [`Submitted`], and returns whether the worker has the
    /// job in hand: a report from another worker has no effect.
    ///
    /// Call it in the handler of the worker's requests. Only the latest progress is kept, so a worker
    /// that reports a lot costs no memory.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::ipc::Request;
    /// use release_core::jobs::{JobNumber, Jobs};
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Scan { number: JobNumber, path: String }
    /// impl Request for Scan {
    ///     type Response = u64;
    /// }
    /// /// The worker sends it with `me.master().notify(..)`.
    /// #[derive(Serialize, Deserialize)]
    /// struct Progress { number: JobNumber, percent: u8 }
    /// impl Request for Progress {
    ///     type Response = ();
    /// }
    ///
    /// let jobs = Jobs::<Scan, u8>::with_progress();
    /// let pool = jobs.clone();
    /// let workers = Workers::same_executable("scan", 4).requests().jobs(&jobs).answer(
    ///     move |worker, Progress { number, percent }| {
    ///         pool.report(&worker, number, percent);
    ///         async { Ok(()) }
    ///     },
    /// );
    /// let scan = jobs.submit_with(|number| Scan { number, path: "/var".into() });
    /// # let _ = (workers, scan);
    /// ```
    pub fn report(&self, worker: &WorkerInfo, job: JobNumber, progress: P) -> bool {
        let mut state = self.shared.lock();
        let is_its = state.schedule.is_run_by(job.0, (worker.id, worker.pid));
        let Some(entry) = state.entries.get_mut(&job.0).filter(|_| is_its) else { return false };
        let (earlier, waker) = (entry.progress.replace(progress), entry.waker.take());
        drop(state);
        waker.into_iter().for_each(std::task::Waker::wake);
        drop(earlier);
        true
    }

    /// Has the processes of a group carry jobs out.
    pub(crate) fn attach<C: Codec<W> + Codec<W::Response>>(
        &self,
        connections: &Connections<W, C>,
    ) -> Arc<dyn Follow> {
        let connections = connections.clone();
        let caller = move |(id, pid), job: Arc<W>, timeout| {
            let peer = connections.peer(id, pid)?;
            let call: Call<W> = Box::pin(async move {
                match timeout {
                    Some(timeout) => peer.call_within(timeout, &*job).await,
                    None => peer.call(&*job).await,
                }
            });
            Some(call)
        };
        let mut state = self.shared.lock();
        state.groups.push((Arc::new(caller), BTreeSet::new()));
        Arc::new(Follower { shared: Arc::clone(&self.shared), group: state.groups.len() - 1 })
    }
}
