//! `MasterHandle`: the running master, for its own tasks and its control socket.

mod observe;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_channel::oneshot;

use super::child_command::ChildCommand;
use super::children::{ChildHandle, ChildRequest, Children};
use super::clock::Epoch;
use super::control::{ControlRequest, UpgradeWait};
use super::event_queue::EventQueue;
use crate::master::figures::Figures;
use crate::master::journal::DeathReport;
use crate::master::pending::Caller;
use crate::master::worker_state::WorkerState;
use crate::process::worker_signal::{Recipients, WorkerSignal};
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::supervise::{Operation, Pool, WorkerId};
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
    send: Arc<dyn Fn(MasterCommand) + Send + Sync>,
    stopping: Stopping,
    /// Whether a task has called `stopping`.
    is_stop_heard: Arc<AtomicBool>,
    /// The request of a control socket whose handler has this handle.
    request: Option<ControlRequest>,
    children: Children,
    /// The restrictions of processes, by their numbers.
    restrictions: Arc<Mutex<HashMap<i32, Arc<str>>>>,
    events: EventQueue,
}

/// A command for the supervisor.
#[derive(Debug)]
pub(crate) enum MasterCommand {
    Stop,
    Change(Operation, Caller),
    ReopenLogs(oneshot::Sender<Result<(), Error>>),
    Signal(Recipients, WorkerSignal, oneshot::Sender<Result<usize, Error>>),
    Spawn(ChildRequest),
    Measure(oneshot::Sender<Result<Figures, Error>>),
    History(oneshot::Sender<Result<Vec<DeathReport>, Error>>),
    /// A caller that waited for the upgrade in the previous version still waits.
    Rejoin(Caller),
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
        send: impl Fn(MasterCommand) + Send + Sync + 'static,
    ) -> Self {
        let epoch = Epoch::new(rt.now(), pool.time());
        let (pool, send, is_stop_heard) =
            (Arc::new(Mutex::new(pool)), Arc::new(send), Arc::default());
        let (rt, children) = (rt.clone(), Children::new(rt));
        let events = EventQueue::new(SystemTime::now());
        Self {
            rt,
            pool,
            epoch,
            send,
            stopping,
            is_stop_heard,
            request: None,
            children,
            restrictions: Arc::default(),
            events,
        }
    }

    /// Returns the events, to which the supervisor adds.
    pub(crate) fn all_events(&self) -> &EventQueue {
        &self.events
    }

    fn restrictions(&self) -> MutexGuard<'_, HashMap<i32, Arc<str>>> {
        self.restrictions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records the restrictions of a process for the status, until it ends.
    pub(crate) fn set_restrictions(&self, pid: i32, restrictions: Option<Arc<str>>) {
        let mut all = self.restrictions();
        match restrictions {
            Some(restrictions) => all.insert(pid, restrictions),
            None => all.remove(&pid),
        };
    }

    /// Returns the restrictions of a process.
    pub(crate) fn restrictions_of(&self, pid: i32) -> Option<String> {
        self.restrictions().get(&pid).map(|it| it.to_string())
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
        let restrictions = self.restrictions();
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
                sandbox: worker.pid.and_then(|pid| restrictions.get(&pid)).map(|it| it.to_string()),
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
    /// like SIGUSR2, and waits until the new workers serve.
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
            return self.ask(MasterCommand::Rejoin).await;
        }
        self.change(Operation::Upgrade).await
    }

    /// Opens the log files of [`Daemon::output`](crate::Daemon::output) and
    /// [`Daemon::error`](crate::Daemon::error) again, like SIGUSR1, after a program such as logrotate
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
        self.ask(MasterCommand::ReopenLogs).await
    }

    /// Starts a child beside the workers, such as a backup or an agent, and waits until its program
    /// runs. [`ChildHandle::exit`] returns how it ends.
    ///
    /// * It belongs to the master, not to a generation: a reload leaves it alone. No other code reaps it,
    ///   also in a master that is process 1 of a container.
    /// * Standard input is `/dev/null`; standard output and error are the master's at that moment. It has
    ///   no other descriptor: no listener, connection, lock or log file of the service.
    /// * It leads a session, and so a process group, without a terminal. When it ends by itself, what is
    ///   left of the group is killed. A process that has left the group is not its child any more.
    /// * When the service stops, children are told to, by SIGTERM, after the workers and the main task have
    ///   ended. They have the rest of the [stop deadline](crate::Master::stop_deadline), and at least one
    ///   second, until they are killed. An immediate stop kills them. They never outlive the master.
    ///
    /// # Upgrades
    ///
    /// A child runs on while the program is upgraded, with its name. The main task of the new version begins
    /// again: where it calls `spawn` with the same name, it receives the running child, or the exit that the
    /// old version has not asked for, and no other process is started, whatever `command` says. So this
    /// code runs one backup, and one agent, however often the master is upgraded. To have the new version's
    /// program, stop the [`child`](MasterHandle::child) first. A child that the new version does not ask
    /// for runs on until it ends, or the service stops.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Usage`] if a child of this name is running, or there is no such program;
    /// [`ErrorKind::Privileges`] if it cannot have its user; [`ErrorKind::Worker`] with the reason if it
    /// cannot be started; and [`ErrorKind::Change`] if the master has ended.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the start:
    /// [`child`](MasterHandle::child) returns the running child then.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::ExitStatus;
    /// use release_core::{ChildCommand, Error, ErrorKind, Master};
    ///
    /// // An agent beside the workers. When it fails, the service stops.
    /// let master = Master::new().main(|master| async move {
    ///     let agent = ChildCommand::new("/usr/lib/web/agent", ["-v"]).user("nobody");
    ///     match master.spawn("agent", agent).await?.exit().await {
    ///         ExitStatus::Code(0) => Ok(()),
    ///         exit => Err(Error::new(ErrorKind::Program, format!("the agent ended with {exit}"))),
    ///     }
    /// });
    /// # let _ = master;
    /// ```
    pub async fn spawn(
        &self,
        name: impl Into<String>,
        command: ChildCommand,
    ) -> Result<ChildHandle, Error> {
        let name = name.into();
        // Also while the accounts are looked up: the next version begins the request again.
        let _waiting = self.wait_for_upgrade();
        let command = Box::new(self.rt.unblock(|| command.prepare()).await??);
        let spawn = |answer| MasterCommand::Spawn(ChildRequest { name, command, answer });
        Ok(self.ask(spawn).await?.asked_by(self.request.as_ref()))
    }

    /// Returns the running child of this name that [`spawn`](MasterHandle::spawn) has started, in this
    /// version of the program or in an earlier one.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ChildCommand, ChildHandle, Error, MasterHandle};
    ///
    /// /// Starts the agent of this version of the program, in place of an earlier version's.
    /// async fn agent(master: &MasterHandle) -> Result<ChildHandle, Error> {
    ///     if let Some(earlier) = master.child("agent") {
    ///         earlier.stop().await;
    ///     }
    ///     master.spawn("agent", ChildCommand::new("agent", [""; 0])).await
    /// }
    /// ```
    #[must_use]
    pub fn child(&self, name: &str) -> Option<ChildHandle> {
        Some(self.children.named(name)?.asked_by(self.request.as_ref()))
    }

    pub(crate) fn children(&self) -> &Children {
        &self.children
    }

    async fn change(&self, change: Operation) -> Result<(), Error> {
        self.ask(|caller| MasterCommand::Change(change, caller)).await
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> MasterCommand,
    ) -> Result<T, Error> {
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
        (self.send)(MasterCommand::Stop);
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    pub(crate) fn pool(&self) -> MutexGuard<'_, Pool> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
