//! The course of a master with its checked settings, from the background to its end.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::iter;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

use super::control::{FrozenControl, Served, successors};
use super::group::Group;
use super::handle::MasterHandle;
use super::upgrade::{Estate, HandOver, Invocation, Kept, Previous, Summary, commit, roll_back};
use crate::daemonize::detach::Daemon;
use crate::daemonize::launcher::Detached;
use crate::daemonize::lock::LockFile;
use crate::daemonize::log_files::LogFiles;
use crate::exit::Exit;
use crate::guard::Guard;
use crate::ipc::Descriptor;
use crate::master::pending::Hooks;
use crate::master::supervisor::{Finish, Supervisor, Surroundings};
use crate::process::listeners::{KeptListener, Listener, stored};
use crate::rt::{Driver, Rt, run};
use crate::signals::Signals;
use crate::streams::{self, launcher};
use crate::supervise::{Action, Outcome, Pool};
use crate::sys::fds::{Inherited, settle_inherited};
use crate::sys::memory::keep_little_free_memory;
use crate::sys::resources::raise_open_files;
use crate::sys::signal::Caught;
use crate::sys::{creds, signal};
use crate::systemd::Notifier;
use crate::worker::panics;
use crate::{Error, ErrorKind};

pub(crate) type BoxedTask = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Starts a task of the master's own beside the supervisor.
pub(crate) type Start = Box<dyn FnOnce(Rt, MasterHandle) -> BoxedTask>;

/// A control socket that is bound, or follows a socket of an earlier image of this process.
pub(crate) struct Control {
    pub(crate) path: PathBuf,
    pub(crate) bind: Bind,
}

/// Says how the control socket is served, and gives what it is handed over by.
pub(crate) type Bind = Box<dyn FnOnce(Option<FrozenControl>) -> Result<(Start, Served), Error>>;

const DRIVER: Guard = Guard::new("driver");

/// The checked settings.
pub(crate) struct Plan {
    pub(crate) background: Option<Daemon>,
    pub(crate) launcher: Option<Detached>,
    pub(crate) log_files: LogFiles,
    pub(crate) systemd: Option<Notifier>,
    pub(crate) lock_file: Option<PathBuf>,
    pub(crate) groups: Vec<Group>,
    pub(crate) controls: Vec<Control>,
    pub(crate) main: Option<Start>,
    pub(crate) hooks: Hooks,
    pub(crate) stop_deadline: Duration,
    pub(crate) exit_with_signal: bool,
    pub(crate) forward_signals: bool,
    pub(crate) hand_over: Option<HandOver>,
}

impl Plan {
    /// The next version of a master that is in the background already only goes where it was, and
    /// never forks: it has workers.
    pub(crate) fn enter_background(mut self, before: Option<&Previous>) -> Result<Self, Error> {
        match (self.background.take(), before) {
            (Some(daemon), None) => {
                launcher::keep();
                self.launcher = Some(daemon.detach()?);
            }
            (Some(daemon), Some(before)) if before.summary.is_background => {
                let gone = daemon.return_to();
                before.never_fails(gone)?;
            }
            (Some(_) | None, _) => {}
        }
        Ok(self)
    }

    /// Everything that the next version can find out about itself without being the master.
    pub(crate) fn validate_handover<D: Driver>(
        mut self,
        driver: impl FnOnce() -> io::Result<D>,
        before: &Summary,
    ) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Change, why));
        for old in &before.groups {
            let Some(new) = self.groups.iter().find(|group| *group.name == *old.name) else {
                continue;
            };
            let new = new.spoken();
            if new.is_plain != old.is_plain {
                return refuse(format!("group `{}`: calls and plain mode do not mix", old.name));
            }
            if let Some(difference) = new.types.difference(&old.types) {
                return refuse(format!("group `{}` differs in {difference}", old.name));
            }
        }
        let specs = self.groups.iter().map(Group::spec).collect();
        Pool::inherit(specs, &before.pool, self.stop_deadline, None)?;
        // What is new is tried, and gone again before this returns.
        let new_lock =
            self.lock_file.take().filter(|path| before.lock.as_deref() != Some(path.as_ref()));
        let _lock = new_lock.as_deref().map(LockFile::acquire).transpose()?;
        for group in &mut self.groups {
            group.try_listeners(&before.listeners)?;
        }
        self.log_files.open()?;
        let is_new = |control: &Control| !before.controls.iter().any(|path| control.path == *path);
        let controls = self.controls.into_iter().filter(is_new);
        let _controls = controls.map(|new| (new.bind)(None)).collect::<Result<Vec<_>, _>>()?;
        driver().map_err(|error| Error::system("cannot start the async runtime", error)).map(drop)
    }

    /// In the process that is the master: takes what only one may have, then supervises.
    pub(crate) fn run<D: Driver>(
        mut self,
        driver: impl FnOnce() -> io::Result<D>,
        launcher: &mut Option<Detached>,
        invocation: Invocation,
        mut before: Option<Previous>,
    ) -> Exit {
        panics::log();
        let mut ground = Ground::default();
        let taken = self.take(driver, launcher.is_some(), &mut ground, before.as_mut());
        let ended = match taken {
            Ok((driver, pool)) => {
                self.supervise(&driver, pool, ground, launcher, invocation, before)
            }
            Err(error) => {
                let caught =
                    ground.signals.iter().flat_map(|caught| iter::from_fn(|| caught.take()));
                let signals: Vec<_> = caught.map(|signal| signal as i32).collect();
                Err(roll_back(error, &signals))
            }
        };
        ended.unwrap_or_else(|error| {
            tracing::error!(reason = error.report(), "the master could not start");
            error.into()
        })
    }

    /// Takes everything that may be refused. What a version before has left is not changed by that.
    fn take<D: Driver>(
        &mut self,
        driver: impl FnOnce() -> io::Result<D>,
        is_detached: bool,
        ground: &mut Ground,
        before: Option<&mut Previous>,
    ) -> Result<(D, (Pool, Vec<Action>)), Error> {
        let was_background = before.as_ref().is_some_and(|before| before.summary.is_background);
        ground.is_background = is_detached || was_background;
        ground.signals = Some(settle_process(ground.is_background, !self.log_files.is_empty())?);
        raise_open_files(before.as_ref().and_then(|before| before.summary.open_files));
        let (is_first, mut nothing) = (before.is_none(), Kept::default());
        let is_return = before.as_ref().is_some_and(|before| before.returned.is_some());
        let specs = self.groups.iter().map(Group::spec).collect();
        let (pool, kept) = match before {
            None => ((Pool::new(specs, self.stop_deadline, seed()), Vec::new()), &mut nothing),
            Some(before) => {
                let (pool, stop_deadline) = (&before.summary.pool, self.stop_deadline);
                let returned = before.returned.take();
                (Pool::inherit(specs, pool, stop_deadline, returned)?, &mut before.kept)
            }
        };
        ground.take_lock(self.lock_file.as_deref(), kept.lock.take(), is_return)?;
        if let Some(systemd) = self.systemd.as_ref().filter(|_| is_first) {
            stored::restore(listeners_of(&mut self.groups), systemd)?;
        }
        let listeners = &mut kept.listeners;
        self.groups.iter_mut().for_each(|group| group.adopt_listeners(listeners, is_return));
        ground.unwanted_listeners.append(listeners);
        let opened = self.groups.iter_mut().try_fold(0, |first, group| group.open_listeners(first));
        match opened {
            Err(error) if is_return => missed(&error),
            outcome => drop(outcome?),
        }
        let paths: Vec<_> = self.controls.iter().map(|control| &*control.path).collect();
        let (earlier, left) = successors(&paths, std::mem::take(&mut kept.controls));
        ground.unwanted_controls = left;
        for (control, mut earlier) in self.controls.drain(..).zip(earlier) {
            earlier.iter_mut().for_each(|earlier| earlier.is_to_stay = is_return);
            let (start, served) = (control.bind)(earlier)?;
            ground.starts.push(start);
            ground.controls.push(served);
        }
        if !self.log_files.is_empty() {
            if is_first && !ground.is_background {
                launcher::keep();
            }
            match self.log_files.redirect() {
                Err(error) if is_return => missed(&error),
                outcome => outcome?,
            }
        }
        let driver = DRIVER.call(driver).map_err(|panicked| {
            Error::new(ErrorKind::Program, "cannot start the async runtime").caused_by(panicked)
        })?;
        let driver =
            driver.map_err(|error| Error::system("cannot start the async runtime", error))?;
        Ok((driver, pool))
    }

    fn supervise<D: Driver>(
        mut self,
        driver: &D,
        pool: (Pool, Vec<Action>),
        mut ground: Ground,
        waiting: &mut Option<Detached>,
        invocation: Invocation,
        before: Option<Previous>,
    ) -> Result<Exit, Error> {
        let rt = driver.handle();
        let caught = ground.signals.take();
        let signals = caught.map_or_else(
            || Err(io::ErrorKind::NotFound.into()),
            |caught| Signals::watch(&rt, caught),
        );
        let signals = signals
            .map_err(|error| roll_back(Error::system("cannot catch signals", error), &[]))?;
        commit();
        let systemd = self.systemd.as_ref().filter(|_| !ground.is_background);
        stored::store(listeners_of(&mut self.groups), &ground.unwanted_listeners, systemd);
        ground.give_up();
        let (lock, hand_over) = (ground.lock.clone(), self.hand_over);
        let (is_background, controls) = (ground.is_background, ground.controls);
        let estate = Estate { invocation, is_background, lock, controls, hand_over };
        let (hooks, log_files, systemd) = (self.hooks, self.log_files, self.systemd);
        let (stop_deadline, forwards) = (self.stop_deadline, self.forward_signals);
        let around =
            Surroundings { hooks, log_files, systemd, stop_deadline, forwards, signals, estate };
        let kept = before.map(|before| before.kept);
        let supervisor = Supervisor::new(&rt, self.groups, pool, around, kept);
        let all_ready = || {
            launcher::leave();
            waiting.take().map(Detached::ready)
        };
        let _draining = streams::drain(&rt);
        let ended = run(driver, supervisor.run(ground.starts, self.main, all_ready));
        streams::finish();
        let ended = ended?;
        Ok(match ended.outcome {
            Outcome::Failed { reason } => Exit::failure(Error::new(ErrorKind::Worker, reason)),
            Outcome::Killed { workers } => {
                let (these, were) =
                    if workers == 1 { ("worker", "was") } else { ("workers", "were") };
                let message = format!("{workers} {these} did not stop in time and {were} killed");
                Exit::killed(Error::new(ErrorKind::Worker, message))
            }
            Outcome::Stopped => match (ended.main, ended.signal) {
                (Finish::Failed(error), _) => Exit::failure(error),
                (Finish::CutOff(why), _) => {
                    let message = format!("the master's main task did not finish: {why}");
                    Exit::killed(Error::new(ErrorKind::Program, message))
                }
                (Finish::Done, Some(signal)) if self.exit_with_signal => Exit::after_signal(signal),
                (Finish::Done, _) => Exit::success(),
            },
        })
    }
}

/// Goes on without it: the version before is the master again, whatever has changed since.
fn missed(error: &Error) {
    tracing::error!(reason = error.report(), "going on without it");
}

/// Resources that only one master may hold. Dropped after the last worker has exited.
#[derive(Default)]
struct Ground {
    is_background: bool,
    signals: Option<Caught>,
    lock: Option<Arc<LockFile>>,
    starts: Vec<Start>,
    controls: Vec<Served>,
    /// Resources of the previous version that this one does not need: given up when this one has all others.
    unwanted_lock: Option<LockFile>,
    unwanted_listeners: Vec<KeptListener>,
    unwanted_controls: Vec<FrozenControl>,
}

impl Ground {
    /// The lock file: the one that was held before, if it is the same, or the version before `returns`.
    fn take_lock(
        &mut self,
        path: Option<&Path>,
        held: Option<(OsString, Descriptor)>,
        returns: bool,
    ) -> Result<(), Error> {
        let held = held.map(|(path, file)| LockFile::held(path.into(), file.into())).transpose()?;
        let is_wanted = held.as_ref().is_some_and(|held| Some(held.path()) == path);
        if is_wanted || returns {
            self.lock = held.map(Arc::new);
        } else {
            self.unwanted_lock = held;
            self.lock = path.map(LockFile::acquire).transpose()?.map(Arc::new);
        }
        Ok(())
    }

    fn give_up(&mut self) {
        self.unwanted_lock = None;
        self.unwanted_listeners.drain(..).for_each(KeptListener::give_up);
        self.unwanted_controls.drain(..).for_each(FrozenControl::give_up);
    }
}

/// Workers of masters that start at the same moment are not to come back at the same moment.
fn seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(std::process::id())
}

/// The signals that the supervisor obeys.
const SIGNALS: [Signal; 7] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
];

/// The state that a launcher may have left: signals, groups, descriptors, file mode mask.
///
/// From here on, before there is anything to leave behind, a signal to stop is kept for the
/// supervisor.
fn settle_process(detached: bool, has_logs: bool) -> Result<Caught, Error> {
    let failed = |what: &'static str| move |error| Error::system(what, error);
    let mut signals = SIGNALS.to_vec();
    signals.extend(has_logs.then_some(Signal::SIGUSR2));
    // As `nohup` wants it. In the background no terminal can send the signal.
    if !detached && signal::is_ignored(Signal::SIGHUP) {
        signals.retain(|signal| *signal != Signal::SIGHUP);
        tracing::info!("SIGHUP is ignored since before the start, and stays so");
    }
    let signals = Caught::new(&signals).map_err(failed("cannot catch signals"))?;
    signal::settle_inherited().map_err(failed("cannot reset signals"))?;
    creds::leave_groups().map_err(|error| {
        Error::system("cannot leave groups", io::Error::from_raw_os_error(error.errno))
    })?;
    keep_little_free_memory();
    if !detached {
        settle_inherited(Inherited::CloseOnExec, &[])
            .map_err(failed("cannot mark descriptors close-on-exec"))?;
        // Nothing of a daemon is writable by others, whatever the launcher's mask was.
        let mask = umask(Mode::empty());
        umask(mask | Mode::from_bits_truncate(0o022));
    }
    Ok(signals)
}

/// All listeners, each with the name of its group.
fn listeners_of(groups: &mut [Group]) -> impl Iterator<Item = (&str, &mut Listener)> {
    groups.iter_mut().flat_map(|group| {
        let name = &*group.name;
        group.listeners.iter_mut().map(move |listener| (name, listener))
    })
}
