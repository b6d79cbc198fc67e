//! Children of the master beside its workers: their names, their exits, and their end.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Shared, join_all};
use nix::sys::signal::Signal;

use super::control::ControlRequest;
use crate::ipc::Descriptor;
use crate::kept;
use crate::process::child::{Child, KillOnDrop};
use crate::process::readiness::open_nothing;
use crate::process::unexecutable::not_started;
use crate::rt::Rt;
use crate::sys::exit_status::ExitStatus;
use crate::sys::spawn::{Command, spawn};
use crate::{Error, ErrorKind};

#[cfg(test)]
mod tests;

/// The status of a process whose exit status other code has taken.
const UNKNOWN: ExitStatus = ExitStatus::Code(-1);

/// How long a killed child may take to disappear.
const DEATH_TIME: Duration = Duration::from_secs(5);

/// A request for a child, and its answer.
#[derive(Debug)]
pub(crate) struct ChildRequest {
    pub(crate) name: String,
    pub(crate) command: Box<Command>,
    pub(crate) answer: oneshot::Sender<Result<ChildHandle, Error>>,
}

/// A child of the master beside its workers: see
/// [`MasterHandle::spawn`](crate::MasterHandle::spawn). Cheap to clone. Dropping it has no effect on the
/// process.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::{ChildCommand, Error, MasterHandle};
///
/// /// Runs a backup, for an hour at most.
/// async fn backup(master: &MasterHandle) -> Result<(), Error> {
///     let backup = master.spawn("backup", ChildCommand::new("backup", ["--all"])).await?;
///     let hour = Duration::from_secs(3600);
///     let exit = match master.rt().timeout(hour, backup.exit()).await {
///         Ok(exit) => exit,
///         Err(_) => backup.stop().await,
///     };
///     tracing::info!(pid = backup.pid(), %exit, "the backup has ended");
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct ChildHandle {
    child: Arc<ServiceChild>,
    /// The request of a control socket whose handler has this handle.
    request: Option<ControlRequest>,
}

impl fmt::Debug for ChildHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ServiceChild { name, pid, .. } = &*self.child;
        f.debug_struct("ChildHandle").field("name", name).field("pid", pid).finish_non_exhaustive()
    }
}

impl ChildHandle {
    /// Returns the process id.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ChildHandle;
    ///
    /// fn log(child: &ChildHandle) {
    ///     tracing::info!(pid = child.pid(), "the agent runs");
    /// }
    /// ```
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.child.pid
    }

    /// Waits for the end of the process, and of the process group that it led, and returns how the
    /// process ended: at once if that is long ago, and again whenever you call it.
    ///
    /// Returns exit status -1 if other code of your program has reaped the process.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::supervise::ExitStatus;
    /// use release_core::ChildHandle;
    ///
    /// async fn has_succeeded(child: &ChildHandle) -> bool {
    ///     child.exit().await == ExitStatus::Code(0)
    /// }
    /// ```
    pub async fn exit(&self) -> ExitStatus {
        // The next version waits for the same child.
        let _waiting = self.request.as_ref().map(ControlRequest::wait_for_upgrade);
        let exit = self.child.exit.clone().await.unwrap_or(UNKNOWN);
        self.child.state().is_known = true;
        exit
    }

    /// Stops the process: sends SIGTERM, waits for its end, and kills it after the
    /// [stop deadline](crate::Master::stop_deadline) of the master. Returns how it ended.
    ///
    /// Processes of its group that it leaves behind receive the same signals.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future after its first poll does not cancel the stop.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{ChildCommand, ChildHandle, Error, MasterHandle};
    ///
    /// async fn restart(master: &MasterHandle, agent: ChildHandle) -> Result<ChildHandle, Error> {
    ///     agent.stop().await;
    ///     master.spawn("agent", ChildCommand::new("agent", [""; 0])).await
    /// }
    /// ```
    pub async fn stop(&self) -> ExitStatus {
        self.child.stop(self.child.patience);
        self.exit().await
    }

    /// Kills the process, unless it has ended. [`exit`](ChildHandle::exit) completes soon.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::{ChildHandle, MasterHandle};
    ///
    /// async fn end_soon(master: &MasterHandle, agent: ChildHandle) {
    ///     if master.rt().timeout(Duration::from_secs(1), agent.stop()).await.is_err() {
    ///         agent.kill();
    ///     }
    /// }
    /// ```
    pub fn kill(&self) {
        self.child.kill();
    }
}

impl ChildHandle {
    fn new(child: Arc<ServiceChild>) -> Self {
        Self { child, request: None }
    }

    /// Returns the handle for the handler of this request, if there is one.
    pub(super) fn asked_by(mut self, request: Option<&ControlRequest>) -> Self {
        self.request = request.cloned();
        self
    }
}

/// One child, which runs or has ended.
struct ServiceChild {
    name: String,
    pid: i32,
    rt: Rt,
    /// `None` if an earlier version of the program has seen its end.
    child: Option<Arc<Child>>,
    exit: Shared<oneshot::Receiver<ExitStatus>>,
    /// How long it may take to end.
    patience: Duration,
    state: Mutex<ServiceChildState>,
}

#[derive(Debug, Default)]
struct ServiceChildState {
    exit: Option<ExitStatus>,
    /// Whether the program has asked for it by its name, in this version.
    is_claimed: bool,
    /// Whether the program has received its exit.
    is_known: bool,
    is_told: bool,
    was_killed: bool,
}

impl ServiceChild {
    fn state(&self) -> MutexGuard<'_, ServiceChildState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the process to end, and kills it after this time.
    fn stop(self: &Arc<Self>, patience: Duration) {
        {
            let mut state = self.state();
            // The number of a process that has ended may already belong to another one.
            if state.exit.is_some() || std::mem::replace(&mut state.is_told, true) {
                return;
            }
        }
        self.signal(Signal::SIGTERM);
        self.kill_after(patience);
    }

    fn kill_after(self: &Arc<Self>, patience: Duration) {
        let it = Arc::clone(self);
        let killing = async move {
            if it.rt.timeout(patience, it.exit.clone()).await.is_err() {
                it.kill();
            }
        };
        self.rt.spawn(killing).detach();
    }

    fn kill(&self) {
        {
            let mut state = self.state();
            if state.exit.is_some() || std::mem::replace(&mut state.was_killed, true) {
                return;
            }
            // No milder signal follows.
            state.is_told = true;
        }
        log_warning!(child = self.name, pid = self.pid, "a child is killed");
        self.signal(Signal::SIGKILL);
    }

    fn signal(&self, signal: Signal) {
        let Some(child) = &self.child else { return };
        if let Err(error) = child.signal(signal) {
            log_error!(child = self.name, pid = self.pid, %error, "cannot signal a child");
        }
    }
}

/// A child for the next version of the program.
pub(crate) type KeptChild = kept::Child<Descriptor>;

/// The children of a master beside its workers. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Children {
    rt: Rt,
    all: Arc<Mutex<HashMap<String, NameHolder>>>,
}

/// The holder of a name.
enum NameHolder {
    /// The process with this pid is about to run its program.
    Starting(i32),
    Child(Arc<ServiceChild>),
}

impl fmt::Debug for NameHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Starting(pid) => f.debug_tuple("Starting").field(pid).finish(),
            Self::Child(entry) => f.debug_tuple("Child").field(&entry.pid).finish(),
        }
    }
}

impl Children {
    pub(crate) fn new(rt: &Rt) -> Self {
        Self { rt: rt.clone(), all: Arc::default() }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<String, NameHolder>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the child of this name, if it runs or the program has not asked for it since an upgrade.
    pub(crate) fn named(&self, name: &str) -> Option<ChildHandle> {
        let all = self.all();
        let NameHolder::Child(entry) = all.get(name)? else { return None };
        let mut state = entry.state();
        let is_news = !std::mem::replace(&mut state.is_claimed, true);
        (is_news || state.exit.is_none()).then(|| ChildHandle::new(Arc::clone(entry)))
    }

    /// Starts a child, or returns the child of this name that an earlier version has started.
    ///
    /// Must be called on the main thread: a child dies with the thread that started it.
    pub(crate) fn start(&self, request: ChildRequest, patience: Duration) {
        let ChildRequest { name, command, answer } = request;
        let mut all = self.all();
        all.retain(|_, place| !place.is_forgotten());
        match self.place(&mut all, &name, &command) {
            Ok(Started::Earlier(handle)) => drop(answer.send(Ok(handle))),
            Err(error) => drop(answer.send(Err(error))),
            Ok(Started::New(process)) => {
                let (it, failed) = (self.clone(), not_started(&command));
                let starting = async move {
                    let launched = Child::launched(&it.rt, process).await.map_err(failed);
                    let outcome = it.launched(name, launched, patience);
                    // The caller may have gone: the child runs on, and its name leads to it.
                    let _ = answer.send(outcome);
                };
                self.rt.spawn(starting).detach();
            }
        }
    }

    /// Forks a process for this name, unless it has one.
    fn place(
        &self,
        all: &mut HashMap<String, NameHolder>,
        name: &str,
        command: &Command,
    ) -> Result<Started, Error> {
        let taken = |pid: i32| {
            let message = format!(
                "a child named `{name}` is running (process {pid}): wait for its end, or give this \
                 one another name"
            );
            Err(Error::new(ErrorKind::Usage, message))
        };
        match all.get(name) {
            Some(NameHolder::Starting(pid)) => return taken(*pid),
            Some(NameHolder::Child(entry)) => {
                let mut state = entry.state();
                if !std::mem::replace(&mut state.is_claimed, true) {
                    return Ok(Started::Earlier(ChildHandle::new(Arc::clone(entry))));
                }
                if state.exit.is_none() {
                    return taken(entry.pid);
                }
            }
            None => {}
        }
        let nothing = open_nothing()?;
        let process = spawn(command, &[(0, nothing.as_fd())]).map_err(not_started(command))?;
        all.insert(name.to_owned(), NameHolder::Starting(process.pid.pid().as_raw()));
        Ok(Started::New(process))
    }

    fn launched(
        &self,
        name: String,
        launched: Result<KillOnDrop, Error>,
        patience: Duration,
    ) -> Result<ChildHandle, Error> {
        let mut all = self.all();
        match launched {
            Ok(bound) => {
                let entry = self.watch(name.clone(), bound.release(), patience);
                entry.state().is_claimed = true;
                tracing::info!(child = name, pid = entry.pid, "started");
                all.insert(name, NameHolder::Child(Arc::clone(&entry)));
                Ok(ChildHandle::new(entry))
            }
            Err(error) => {
                all.remove(&name);
                Err(error)
            }
        }
    }

    /// Waits for the end of a process.
    fn watch(&self, name: String, child: Arc<Child>, patience: Duration) -> Arc<ServiceChild> {
        let (sender, exit) = oneshot::channel();
        let entry = Arc::new(ServiceChild {
            name,
            pid: child.pid().as_raw(),
            rt: self.rt.clone(),
            child: Some(Arc::clone(&child)),
            exit: exit.shared(),
            patience,
            state: Mutex::default(),
        });
        let it = Arc::clone(&entry);
        let watching = async move {
            let exit = child.exit().await.unwrap_or_else(|error| {
                log_warning!(child = it.name, %error, "the exit status of a child was lost");
                UNKNOWN
            });
            it.state().exit = Some(exit);
            tracing::info!(child = it.name, pid = it.pid, %exit, "ended");
            let _ = sender.send(exit);
        };
        self.rt.spawn(watching).detach();
        entry
    }

    /// Stops all children: waits for their end, and kills those that still run after this time.
    /// Returns how many were killed.
    pub(crate) fn end(&self, patience: Duration) -> impl Future<Output = usize> + Send + use<> {
        let (rt, entries) = (self.rt.clone(), self.running());
        for entry in &entries {
            entry.stop(patience);
            // One that was told before may have had more time.
            entry.kill_after(patience);
        }
        async move {
            let ended = join_all(entries.iter().map(|entry| entry.exit.clone()));
            if rt.timeout(patience.saturating_add(DEATH_TIME), ended).await.is_err() {
                log_error!("a child that was killed does not end: it is left behind");
            }
            entries.iter().filter(|entry| entry.state().was_killed).count()
        }
    }

    /// Kills all children that still run.
    pub(crate) fn kill(&self) {
        self.running().iter().for_each(|entry| entry.kill());
    }

    fn running(&self) -> Vec<Arc<ServiceChild>> {
        let entries: Vec<_> = self.all().values().filter_map(NameHolder::entry).collect();
        entries.into_iter().filter(|entry| entry.state().exit.is_none()).collect()
    }

    /// Returns the children, for the next version of the program.
    pub(crate) fn freeze(&self) -> Result<Vec<KeptChild>, Error> {
        let mut all = self.all();
        all.retain(|_, place| !place.is_forgotten());
        let children = all.iter().map(|(name, place)| match place {
            NameHolder::Starting(pid) => {
                let (name, pid) = (name.clone(), *pid);
                Ok(KeptChild {
                    name,
                    pid,
                    is_told: true,
                    exit: None,
                    is_starting: true,
                    ending: None,
                })
            }
            NameHolder::Child(entry) => {
                let ServiceChildState { is_told, exit, .. } = *entry.state();
                let child = entry.child.as_ref().filter(|_| exit.is_none());
                Ok(KeptChild {
                    name: name.clone(),
                    pid: entry.pid,
                    is_told,
                    exit: exit.map(Into::into),
                    is_starting: false,
                    ending: child.map(|child| child.ending()).transpose()?,
                })
            }
        });
        children.collect()
    }

    /// Decides whether the children stay as they are, reaped or not.
    pub(crate) fn stand_still(&self, is_still: bool) {
        let running = self.running();
        let children = running.iter().filter_map(|entry| entry.child.as_ref());
        children.for_each(|child| child.stand_still(is_still));
    }

    /// Takes over the children of the previous version.
    pub(crate) fn inherit(&self, children: Vec<KeptChild>, patience: Duration) {
        for KeptChild { name, pid, is_told, exit, is_starting, ending } in children {
            let entry = match exit {
                Some(exit) => self.ended(name.clone(), pid, exit.into()),
                None => match Child::kept(&self.rt, pid, ending) {
                    Ok(child) => self.watch(name.clone(), Arc::new(child), patience),
                    Err(error) => {
                        log_warning!(child = name, pid, %error, "the exit status of a child was lost");
                        self.ended(name.clone(), pid, UNKNOWN)
                    }
                },
            };
            if is_starting {
                entry.signal(Signal::SIGKILL);
                continue;
            }
            if is_told {
                entry.state().is_told = true;
                entry.kill_after(patience);
            }
            tracing::info!(child = name, pid, "a child of the previous version goes on");
            self.all().insert(name, NameHolder::Child(entry));
        }
    }

    /// Returns a child whose end an earlier version has seen.
    fn ended(&self, name: String, pid: i32, exit: ExitStatus) -> Arc<ServiceChild> {
        let (sender, receiver) = oneshot::channel();
        let _ = sender.send(exit);
        Arc::new(ServiceChild {
            name,
            pid,
            rt: self.rt.clone(),
            child: None,
            exit: receiver.shared(),
            patience: Duration::ZERO,
            state: Mutex::new(ServiceChildState {
                exit: Some(exit),
                ..ServiceChildState::default()
            }),
        })
    }
}

enum Started {
    Earlier(ChildHandle),
    New(crate::sys::spawn::SpawnedChild),
}

impl NameHolder {
    fn entry(&self) -> Option<Arc<ServiceChild>> {
        match self {
            Self::Starting(_) => None,
            Self::Child(entry) => Some(Arc::clone(entry)),
        }
    }

    /// Returns whether the process has ended, and the program knows it or has no handle to ask.
    fn is_forgotten(&self) -> bool {
        let Self::Child(entry) = self else { return false };
        let state = entry.state();
        let is_held = Arc::strong_count(entry) > 1;
        state.exit.is_some() && state.is_claimed && (state.is_known || !is_held)
    }
}
