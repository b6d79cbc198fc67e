//! `MasterHandle`: the running master, for its own tasks and its control socket.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;

use super::clock::Epoch;
use super::control::{Asking, Waiting};
use crate::master::pending::Caller;
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::supervise::{Operation, Pool, State, WorkerId};
use crate::{Error, ErrorKind};

/// The running master. Cheap to clone.
#[derive(Clone)]
pub struct MasterHandle {
    rt: Rt,
    pool: Arc<Mutex<Pool>>,
    epoch: Epoch,
    send: Arc<dyn Fn(Command) + Send + Sync>,
    stopping: Stopping,
    /// Whether anybody has asked for `stopping`.
    is_stop_heard: Arc<AtomicBool>,
    /// The request of a control socket whose handler has this handle.
    asking: Option<Asking>,
}

/// What the supervisor is told to do.
#[derive(Debug)]
pub(crate) enum Command {
    Stop,
    Change(Operation, Caller),
    ReopenLogs(oneshot::Sender<Result<(), Error>>),
    /// Somebody who waited for the upgrade in the version before still does.
    Rejoin(Caller),
}

/// What one worker does at the moment; see [`MasterHandle::status`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerState {
    /// Its identity.
    pub id: u32,
    /// The name of its group.
    pub group: String,
    /// Its process, if it has one.
    pub pid: Option<i32>,
    /// The generation of this process, or of the next one.
    pub generation: u32,
    /// Where it is between start and end.
    pub state: State,
    /// How often it was started again.
    pub restarts: u32,
    /// How long its process has run; without one, how long it has been in its state.
    pub uptime: Duration,
    /// How many earlier processes of it are still finishing what they have in hand.
    pub draining: usize,
    /// How its process is, in its own words: what it has said by `STATUS=` at its `NOTIFY_SOCKET`, for
    /// one of [`Workers::command`](crate::Workers::command) with
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
        Self { rt, pool, epoch, send, stopping, is_stop_heard: Arc::default(), asking: None }
    }

    /// The handle for the handler of a request on a control socket.
    pub(crate) fn asked_by(&self, asking: Asking) -> Self {
        Self { asking: Some(asking), ..self.clone() }
    }

    /// Has the request that this handle belongs to, if there is one, wait for an upgrade for as long
    /// as the result is kept: it is begun anew in the next image of this process.
    pub(crate) fn wait_for_upgrade(&self) -> Option<Waiting> {
        self.asking.as_ref().map(Asking::wait_for_upgrade)
    }

    /// The runtime that the master runs on.
    #[must_use]
    pub fn rt(&self) -> &Rt {
        &self.rt
    }

    /// All workers, in the order of their identities.
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

    /// The generation of workers that serves; the first one is number 1.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.pool().generation()
    }

    /// Gives every worker a new process, as SIGHUP does, and waits until all are replaced and each group
    /// has the size that its settings ask for.
    ///
    /// New values of the [`Settings`](crate::Settings) come first. Then each worker is replaced under its group's [`ReloadPolicy`](crate::supervise::ReloadPolicy); old processes may still be
    /// finishing their last work afterwards. When one reload meets another, it follows that one, and
    /// all that meet it in the same way are one.
    ///
    /// # Errors
    ///
    /// With the reason, when the reload was refused, when a new process failed and the generation
    /// before goes on, when the new generation serves but a group cannot be given the size that its
    /// settings ask for, or when the master stops.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future once it was polled changes nothing: the reload goes on.
    pub async fn reload(&self) -> Result<(), Error> {
        self.change(Operation::Reload).await
    }

    /// Gives a group another number of workers, at most 10,000, and waits until all of them are ready
    /// and the surplus has gone: the workers with the highest identities.
    ///
    /// This number holds, also after reloads and upgrades, until somebody asks for another one or the
    /// settings of the program change it ([`Workers::size_from`](crate::Workers::size_from)).
    ///
    /// # Errors
    ///
    /// With the reason, when there is no such group, when a new worker fails before it is ready (the
    /// group then has the size it had before), when one that was there before does (the group then has
    /// its new size, and the message says so), when another change of the size comes after this one, or
    /// when the master stops.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future once it was polled changes nothing: the change goes on.
    pub async fn scale(&self, group: &str, workers: u32) -> Result<(), Error> {
        self.change(Operation::Resize { group: group.to_owned(), size: workers }).await
    }

    /// Gives one worker a new process of the same generation, and waits until it has taken over.
    ///
    /// # Errors
    ///
    /// With the reason, when there is no such worker (any more), when the new process fails and the
    /// old one goes on, or when the master stops.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future once it was polled changes nothing: the restart goes on.
    pub async fn restart(&self, worker: u32) -> Result<(), Error> {
        self.change(Operation::Restart { id: WorkerId(worker) }).await
    }

    /// Puts a new version of the program in the place of this one, as SIGUSR1 does, and waits until
    /// its workers serve.
    ///
    /// The file at the path that this process was started by is tried first: it is started as a child,
    /// with the same arguments, environment and working directory, and says in
    /// [`Master::run`](crate::Master::run) whether it could take over; a path through a symbolic link
    /// leads where the link points now. Then it becomes the master by exec: process number, lock
    /// file, control sockets, sockets of [`Workers::listen`](crate::Workers::listen), workers and
    /// their connections with what is asked on them all stay. At last every worker is replaced by one
    /// of the new version, under its group's [`ReloadPolicy`](crate::supervise::ReloadPolicy).
    ///
    /// The future that waits ends with this version of the program, and so does every other task of
    /// the master; the main task begins anew in the next. A request on a control socket whose
    /// handler waits here is answered all the same: the new version calls its handler for the same
    /// request again, and there this method waits for the end of the upgrade that is under way. What
    /// a handler does before it calls this is done twice.
    ///
    /// Upgrades that meet before the new version has taken over are one. One that comes later follows. When
    /// the file is replaced before that, all of them are refused, and whoever asks again gets the newer one.
    ///
    /// # Errors
    ///
    /// With the reason. The master is as it was, with its version and workers, when the new version
    /// cannot be started, is no version of this program, hangs for 10 seconds, or says that it cannot
    /// take over; when a handler is not done within 5 seconds; when exec fails; when the new version
    /// ends in its `main`, or cannot start, before it is the master; when the master stops. When the new version's workers
    /// or its main task fail before this is answered, the old workers go on, under the new master.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future once it was polled changes nothing: the upgrade goes on.
    pub async fn upgrade(&self) -> Result<(), Error> {
        if self.asking.as_ref().is_some_and(|asking| asking.waited) {
            return self.ask(Command::Rejoin).await;
        }
        self.change(Operation::Upgrade).await
    }

    /// Opens the log files again that [`Daemon::output`](crate::Daemon::output) and
    /// [`Daemon::error`](crate::Daemon::error) name, as SIGUSR2 does: a program such as logrotate
    /// has moved them away.
    ///
    /// The master opens them, and hands them to its workers over their connections: workers need
    /// no right to open files there. No line is lost: everybody writes to the old file until they have
    /// the new one. Only what workers in plain mode, workers that are other programs and whose
    /// output the master does not read, and further processes of workers write stays in the old one,
    /// until they are started again.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] when there are no log files; otherwise with the path and the
    /// reason, when a file cannot be opened or the master is being upgraded: all go on where they
    /// were.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future once it was polled changes nothing: the files are opened.
    pub async fn reopen_logs(&self) -> Result<(), Error> {
        self.ask(Command::ReopenLogs).await
    }

    async fn change(&self, change: Operation) -> Result<(), Error> {
        self.ask(|caller| Command::Change(change, caller)).await
    }

    async fn ask(&self, command: impl FnOnce(Caller) -> Command) -> Result<(), Error> {
        // A change that has not begun when a new version takes over is asked for there.
        let _waiting = self.wait_for_upgrade();
        let (caller, answer) = oneshot::channel();
        (self.send)(command(caller));
        let ended = |_| Err(Error::new(ErrorKind::Change, "the master has ended"));
        answer.await.unwrap_or_else(ended)
    }

    /// Done when the master is to stop, for the task given to [`Master::main`](crate::Master::main).
    ///
    /// A main task that has asked for it is waited for until the stop deadline, beside the workers;
    /// one that has not is dropped when the last worker has gone.
    #[must_use]
    pub fn stopping(&self) -> Stopping {
        self.is_stop_heard.store(true, Ordering::Relaxed);
        self.stopping.clone()
    }

    pub(crate) fn is_stop_heard(&self) -> bool {
        self.is_stop_heard.load(Ordering::Relaxed)
    }

    /// Stops in order, as SIGTERM does.
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
