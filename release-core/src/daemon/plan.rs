//! What a master does with its checked settings, from the background to its end.

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

use super::Exit;
use super::control::{FrozenControl, Served, successors};
use super::detach::Daemon;
use super::group::Group;
use super::handle::MasterHandle;
use super::launcher::Detached;
use super::listeners::KeptListener;
use super::lock::LockFile;
use super::log_files::LogFiles;
use super::upgrade::{Estate, HandOver, Kept, Origin, Summary};
use crate::ipc::Descriptor;
use crate::rt::{Driver, Rt, run};
use crate::signals::Signals;
use crate::supervise::changes::Hooks;
use crate::supervise::drive::{Finish, Supervisor, Surroundings};
use crate::supervise::{Outcome, Pool};
use crate::sys::fds::{Inherited, settle_inherited};
use crate::sys::process::keep_little_free_memory;
use crate::sys::signal::Caught;
use crate::sys::{creds, signal};
use crate::systemd::Notifier;
use crate::{Error, ErrorKind};

pub(super) type BoxedTask = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Starts a task of the master's own beside the supervisor.
pub(super) type Start = Box<dyn FnOnce(Rt, MasterHandle) -> BoxedTask>;

/// A control socket to be bound, or to follow one of an earlier image of this process.
pub(super) struct Control {
    pub(super) path: PathBuf,
    pub(super) bind: Bind,
}

/// Says how the control socket is served, and gives what it is handed over by.
pub(super) type Bind = Box<dyn FnOnce(Option<FrozenControl>) -> Result<(Start, Served), Error>>;

/// The checked settings.
pub(super) struct Plan {
    pub(super) background: Option<Daemon>,
    pub(super) launcher: Option<Detached>,
    pub(super) log_files: LogFiles,
    pub(super) systemd: Option<Notifier>,
    pub(super) lock_file: Option<PathBuf>,
    pub(super) groups: Vec<Group>,
    pub(super) controls: Vec<Control>,
    pub(super) main: Option<Start>,
    pub(super) hooks: Hooks,
    pub(super) stop_deadline: Duration,
    pub(super) exit_with_signal: bool,
    pub(super) forward_signals: bool,
    pub(super) origin: Origin,
    pub(super) hand_over: Option<HandOver>,
}

impl Plan {
    /// The next version of a master that is in the background already only goes where it was, and
    /// never forks: it has workers.
    pub(super) fn enter_background(mut self, before: Option<&Summary>) -> Result<Self, Error> {
        match (self.background.take(), before) {
            (Some(daemon), None) => self.launcher = Some(daemon.detach()?),
            (Some(daemon), Some(before)) if before.is_background => daemon.return_to()?,
            _ => {}
        }
        Ok(self)
    }

    /// Everything that the next version can find out about itself without being the master.
    pub(super) fn rehearse<D: Driver>(
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
        let now = std::time::Instant::now();
        Pool::succeed(specs, &before.pool, self.stop_deadline, now, &mut Vec::new())?;
        // What is new is tried, and gone again before this returns.
        let new_lock =
            self.lock_file.take().filter(|path| before.lock.as_deref() != Some(path.as_ref()));
        let _lock = new_lock.as_deref().map(LockFile::acquire).transpose()?;
        for group in &mut self.groups {
            group.try_listeners(&before.listeners)?;
        }
        let is_new = |control: &Control| !before.controls.iter().any(|path| control.path == *path);
        let controls = self.controls.into_iter().filter(is_new);
        let _controls = controls.map(|new| (new.bind)(None)).collect::<Result<Vec<_>, _>>()?;
        driver().map_err(|error| Error::system("cannot start the async runtime", error)).map(drop)
    }

    /// In the process that is the master: takes what only one may have, then supervises.
    pub(super) fn run<D: Driver>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        launcher: &mut Option<Detached>,
        before: Option<(&Summary, Kept)>,
    ) -> Exit {
        match self.start(driver, launcher, before) {
            Ok(exit) => exit,
            Err(error) => {
                tracing::error!(reason = error.report(), "the master could not start");
                error.into()
            }
        }
    }

    fn start<D: Driver>(
        mut self,
        driver: impl FnOnce() -> io::Result<D>,
        launcher: &mut Option<Detached>,
        mut before: Option<(&Summary, Kept)>,
    ) -> Result<Exit, Error> {
        let was_background = before.as_ref().is_some_and(|(summary, _)| summary.is_background);
        let is_background = launcher.is_some() || was_background;
        let signals = settle_process(is_background, !self.log_files.is_empty())?;
        let mut nothing = Kept::default();
        let kept = before.as_mut().map_or(&mut nothing, |(_, kept)| kept);
        // Dropped in the reverse order, after the last worker has gone: the control socket first.
        let lock = take_lock(self.lock_file.as_deref(), kept.lock.take())?.map(Arc::new);
        self.groups.iter_mut().for_each(|group| group.adopt_listeners(&mut kept.listeners));
        self.groups.iter_mut().try_fold(0, |first, group| group.open_listeners(first))?;
        kept.listeners.drain(..).for_each(KeptListener::give_up);
        let paths: Vec<_> = self.controls.iter().map(|control| &*control.path).collect();
        let (earlier, left) = successors(&paths, std::mem::take(&mut kept.controls));
        let (mut starts, mut controls) = (Vec::new(), Vec::new());
        for (control, earlier) in self.controls.into_iter().zip(earlier) {
            let (start, served) = (control.bind)(earlier)?;
            starts.push(start);
            controls.push(served);
        }
        left.into_iter().for_each(FrozenControl::give_up);
        let driver =
            driver().map_err(|error| Error::system("cannot start the async runtime", error))?;
        let rt = driver.handle();
        let signals = Signals::watch(&rt, signals)
            .map_err(|error| Error::system("cannot catch signals", error))?;
        let (origin, hand_over) = (self.origin, self.hand_over);
        let estate = Estate { origin, is_background, lock: lock.clone(), controls, hand_over };
        let (hooks, log_files, systemd) = (self.hooks, self.log_files, self.systemd);
        let (stop_deadline, forwards) = (self.stop_deadline, self.forward_signals);
        let around =
            Surroundings { hooks, log_files, systemd, stop_deadline, forwards, signals, estate };
        let supervisor = Supervisor::new(&rt, self.groups, around, before)?;
        let all_ready = || launcher.take().map(Detached::ready);
        let ended = run(&driver, supervisor.run(starts, self.main, all_ready))?;
        Ok(match ended.outcome {
            Outcome::Failed { reason } => Exit::failure(Error::new(ErrorKind::Worker, reason)),
            Outcome::Killed { workers } => {
                let message = format!("{workers} workers did not stop in time and were killed");
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

/// The lock file: the one that was held before, if it is the same.
fn take_lock(
    path: Option<&Path>,
    held: Option<(OsString, Descriptor)>,
) -> Result<Option<LockFile>, Error> {
    let held = held.map(|(path, file)| LockFile::held(path.into(), file.into())).transpose()?;
    match (path, held) {
        (Some(path), Some(held)) if held.path() == path => Ok(Some(held)),
        // One that is not wanted any more is given up when the new one is taken.
        (path, _held) => path.map(LockFile::acquire).transpose(),
    }
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
