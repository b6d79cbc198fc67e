//! `MasterHandle`: the running master, for its own tasks and its control socket.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;

use super::clock::Epoch;
use super::control::{ControlRequest, UpgradeWait};
use crate::master::pending::Caller;
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::supervise::{Operation, Pool, State, WorkerId};
use crate::{Error, ErrorKind};

/// Commands and observes the running master. Cheap to clone.
///
/// # Examples
///
/// ```
/// use release_core::{ControlSocket, Master};
///
/// let socket = ControlSocket::new("/run/service.control");
/// let master = Master::new().control(socket, |master, _peer, _request: String| async move {
///     Ok(format!("generation {}, {} workers", master.generation(), master.status().len()))
/// });
/// # let _ = master;
/// ```
#[derive(Clone)]
pub struct MasterHandle {
    rt: Rt,
    pool: Arc<Mutex<Pool>>,
    epoch: Epoch,
    send: Arc<dyn Fn(Command) + Send + Sync>,
    stopping: Stopping,
    /// Whether a task has called `stopping`.
    is_stop_heard: Arc<AtomicBool>,
    /// The request of a control socket whose handler has this handle.
    request: Option<ControlRequest>,
}

/// A command for the supervisor.
#[derive(Debug)]
pub(crate) enum Command {
    Stop,
    Change(Operation, Caller),
    ReopenLogs(oneshot::Sender<Result<(), Error>>),
    /// A caller that waited for the upgrade in the previous version still waits.
    Rejoin(Caller),
}

/// The state of one worker; see [`MasterHandle::status`].
///
/// # Examples
///
/// ```
/// use release_core::MasterHandle;
///
/// fn processes(master: &MasterHandle) -> Vec<i32> {
///     master.status().into_iter().filter_map(|worker| worker.pid).collect()
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerState {
    /// Worker id, unique in the master and stable across restarts.
    pub id: u32,
    /// Name of its group.
    pub group: String,
    /// Process id, if the worker has a process.
    pub pid: Option<i32>,
    /// Generation of this process, or of the next one.
    pub generation: u32,
    /// Stage between start and end.
    pub state: State,
    /// Number of restarts.
    pub restarts: u32,
    /// Run time of its process; without a process, the time in its current state.
    pub uptime: Duration,
    /// Number of older processes of this worker that are still draining.
    pub draining: usize,
    /// Status text of the process: the latest `STATUS=` that it sent to its `NOTIFY_SOCKET`, for
    /// workers of [`Workers::command`](crate::Workers::command) with
    /// [`Readiness::Notify`](crate::Readiness::Notify).
    pub status_text: Option<String>,
}

impl fmt::Debug for MasterHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MasterHandle").finish_non_exhaustive()
    }
}

impl MasterHandle {
    pub(crate) fn new(
        rt: &Rt,
        pool: Pool,
        stopping: Stopping,
        send: impl Fn(Command) + Send + Sync + 'static,
    ) -> Self {
        let epoch = Epoch::new(rt.now(), pool.time());
        let (rt, pool, send) = (rt.clone(), Arc::new(Mutex::new(pool)), Arc::new(send));
        Self { rt, pool, epoch, send, stopping, is_stop_heard: Arc::default(), request: None }
    }

    /// Returns the handle for the handler of a request on a control socket.
    pub(crate) fn asked_by(&self, request: ControlRequest) -> Self {
        Self { request: Some(request), ..self.clone() }
    }

    /// Lets the request of this handle, if there is one, wait for an upgrade while the result is kept:
    /// it begins again in the next image of this process.
    pub(crate) fn wait_for_upgrade(&self) -> Option<UpgradeWait> {
        self.request.as_ref().map(ControlRequest::wait_for_upgrade)
    }

    /// Returns the runtime that the master runs on.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::MasterHandle;
    ///
    /// async fn wait(master: &MasterHandle) {
    ///     master.rt().sleep(Duration::from_secs(1)).await;
    /// }
    /// ```
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// Returns the state of all workers, ordered by id.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::MasterHandle;
    ///
    /// fn restarts(master: &MasterHandle) -> u32 {
    ///     master.status().iter().map(|worker| worker.restarts).sum()
    /// }
    /// ```
    #[must_use]
    pub fn status(&self) -> Vec<WorkerState> {
        let pool = self.pool();
        let status = pool.status(self.epoch.moment(self.rt.now()));
        status
            .into_iter()
            .map(|worker| WorkerState {
                id: worker.id.0,
                group: worker.group.to_owned(),
                pid: worker.pid,
                generation: worker.generation,
                state: worker.state,
                restarts: worker.restarts,
                uptime: worker.since,
                draining: worker.draining,
                status_text: worker.status_text.map(str::to_owned),
            })
            .collect()
    }

    /// Returns the generation of workers that serves; the first one is number 1.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::MasterHandle;
    ///
    /// fn has_been_reloaded(master: &MasterHandle) -> bool {
    ///     master.generation() > 1
    /// }
    /// ```
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.pool().generation()
    }

    /// Replaces every worker with a new process, like SIGHUP, and waits until the new generation serves
    /// and each group has the size that its settings ask for.
    ///
    /// First makes the new values of the [`Settings`](crate::Settings), any of which may refuse the
    /// reload. Then replaces the workers of each group according to its
    /// [`ReloadPolicy`](crate::supervise::ReloadPolicy). Old processes may still be draining when this
    /// method returns.
    ///
    /// If a reload is already running, another one starts after it. All calls that arrive in the
    /// meantime share that second reload.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason if the settings refused the reload, if a new process failed and
    /// the reload was rolled back, if the new generation serves but a group cannot have the size that
    /// its settings ask for, or if the master is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the reload.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::MasterHandle;
    ///
    /// async fn deploy(master: &MasterHandle) {
    ///     if let Err(error) = master.reload().await {
    ///         tracing::error!(reason = error.report(), "the old version keeps serving");
    ///     }
    /// }
    /// ```
    pub async fn reload(&self) -> Result<(), Error> {
        self.change(Operation::Reload).await
    }

    /// Sets the number of workers in a group, up to 10,000, and waits: when growing, until all new
    /// workers are ready; when shrinking, until the workers with the highest ids have exited.
    ///
    /// The number stays in force, also after reloads and upgrades, until the next call or until the
    /// settings of the program change it ([`Workers::size_from`](crate::Workers::size_from)).
    ///
    /// # Errors
    ///
    /// Returns an error with the reason if the group does not exist, if a new worker fails before it is
    /// ready (the previous size is restored), if an earlier worker does (the group has its new size,
    /// and the message says so), if a later call changes the size again, or if the master is shutting
    /// down.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the change.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, MasterHandle};
    ///
    /// async fn double(master: &MasterHandle, workers: u32) -> Result<(), Error> {
    ///     master.scale("web", workers * 2).await
    /// }
    /// ```
    pub async fn scale(&self, group: &str, workers: u32) -> Result<(), Error> {
        self.change(Operation::Resize { group: group.to_owned(), size: workers }).await
    }

    /// Replaces one worker with a new process of the same generation, and waits until it has taken
    /// over.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason if the worker does not exist (any more), if the new process
    /// fails and the old one keeps running, or if the master is shutting down.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the restart.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, MasterHandle};
    ///
    /// async fn restart_all(master: &MasterHandle) -> Result<(), Error> {
    ///     for worker in master.status() {
    ///         master.restart(worker.id).await?;
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub async fn restart(&self, worker: u32) -> Result<(), Error> {
        self.change(Operation::Restart { id: WorkerId(worker) }).await
    }

    /// Upgrades the running program to the version now installed at the path that it was started from,
    /// like SIGUSR1, and waits until the new workers serve.
    ///
    /// The upgrade has three steps:
    ///
    /// 1. **Check.** The new executable is started as a child process, with the same arguments, environment and
    ///    working directory, and reports in [`Master::run`](crate::Master::run) whether it can take over. A path
    ///    through a symbolic link leads to the link's present target.
    /// 2. **Take over.** The master replaces itself using `exec`. Its process id, lock file, control sockets,
    ///    sockets of [`Workers::listen`](crate::Workers::listen), workers and their connections are kept.
    /// 3. **Roll out.** Each worker is replaced according to its group's
    ///    [`ReloadPolicy`](crate::supervise::ReloadPolicy).
    ///
    /// Tasks of the master do not survive step 2, including the task that awaits this future; the main
    /// task begins again in the new version. If you call `upgrade` in a control handler, the new
    /// version runs that handler again for the same request, so make everything before the call
    /// idempotent.
    ///
    /// Calls that arrive before the new version has taken over share one upgrade; a later call starts
    /// another one. If the file is replaced in between, all of them are refused, and the next call
    /// takes the newer file.
    ///
    /// # Errors
    ///
    /// Returns an error with the reason. Nothing has changed if the new version cannot be started, is
    /// not a version of this program, hangs for 10 seconds, or reports that it cannot take over; if a
    /// handler does not finish within 5 seconds; if `exec` fails; if the new version ends before it is
    /// the master; or if the master is shutting down. If the new version's workers or its main task
    /// fail before the answer, the old workers keep running under the new master.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the upgrade.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::MasterHandle;
    ///
    /// async fn upgrade(master: &MasterHandle) -> String {
    ///     match master.upgrade().await {
    ///         Ok(()) => "ok".to_owned(),
    ///         Err(error) => format!("error: {}", error.report()),
    ///     }
    /// }
    /// ```
    pub async fn upgrade(&self) -> Result<(), Error> {
        if self.request.as_ref().is_some_and(|request| request.has_waited) {
            return self.ask(Command::Rejoin).await;
        }
        self.change(Operation::Upgrade).await
    }

    /// Opens the log files of [`Daemon::output`](crate::Daemon::output) and
    /// [`Daemon::error`](crate::Daemon::error) again, like SIGUSR2, after a program such as logrotate
    /// has moved them away.
    ///
    /// The master opens the files and sends them to its workers over their connections: workers need no
    /// permission to open files there. No line is lost: every process writes to the old file until it
    /// has the new one. Only workers in plain mode, other programs whose output the master does not
    /// read, and further processes of workers keep writing to the old file until they are restarted.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Usage`] if there are no log files. Otherwise returns an error with the path
    /// and the reason if a file cannot be opened or the master is being upgraded; all processes then
    /// keep their files.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the call: the files are opened.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, MasterHandle};
    ///
    /// async fn rotated(master: &MasterHandle) -> Result<(), Error> {
    ///     master.reopen_logs().await
    /// }
    /// ```
    pub async fn reopen_logs(&self) -> Result<(), Error> {
        self.ask(Command::ReopenLogs).await
    }

    async fn change(&self, change: Operation) -> Result<(), Error> {
        self.ask(|caller| Command::Change(change, caller)).await
    }

    async fn ask(&self, command: impl FnOnce(Caller) -> Command) -> Result<(), Error> {
        // The next version carries out a change that has not begun when it takes over.
        let _waiting = self.wait_for_upgrade();
        let (caller, answer) = oneshot::channel();
        (self.send)(command(caller));
        let ended = |_| Err(Error::new(ErrorKind::Change, "the master has ended"));
        answer.await.unwrap_or_else(ended)
    }

    /// Completes when the master should shut down; for the task given to
    /// [`Master::main`](crate::Master::main).
    ///
    /// The master waits for a main task that has called `stopping` until the stop deadline, as it waits
    /// for the workers. A main task that has not is dropped when the last worker has exited.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Error, Master};
    ///
    /// let master = Master::new().main(|master| async move {
    ///     master.stopping().await;
    ///     Ok::<(), Error>(())
    /// });
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.is_stop_heard.store(true, Ordering::Relaxed);
        self.stopping.clone()
    }

    pub(crate) fn is_stop_heard(&self) -> bool {
        self.is_stop_heard.load(Ordering::Relaxed)
    }

    /// Starts a graceful shutdown, like SIGTERM.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::{Error, Master};
    ///
    /// // A service for one hour.
    /// let master = Master::new().main(|master| async move {
    ///     master.rt().sleep(Duration::from_secs(3600)).await;
    ///     master.stop();
    ///     Ok::<(), Error>(())
    /// });
    /// # let _ = master;
    /// ```
    pub fn stop(&self) {
        (self.send)(Command::Stop);
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
