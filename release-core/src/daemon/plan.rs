//! What a master does with its checked settings, from the background to its end.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

use super::Exit;
use super::detach::Daemon;
use super::group::Group;
use super::handle::MasterHandle;
use super::launcher::Detached;
use super::lock::LockFile;
use super::log_files::LogFiles;
use crate::rt::{Driver, Rt, run};
use crate::signals::Signals;
use crate::supervise::Outcome;
use crate::supervise::changes::Hooks;
use crate::supervise::drive::{Finish, Supervisor};
use crate::sys::fds::{Inherited, settle_inherited};
use crate::sys::process::keep_little_free_memory;
use crate::sys::signal::Caught;
use crate::sys::{creds, signal};
use crate::{Error, ErrorKind};

pub(super) type BoxedTask = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Starts a task of the master's own beside the supervisor.
pub(super) type Start = Box<dyn FnOnce(Rt, MasterHandle) -> BoxedTask>;

/// Binds a control socket, and says how it is served.
pub(super) type Bind = Box<dyn FnOnce() -> Result<Start, Error>>;

/// The checked settings.
pub(super) struct Plan {
    pub(super) background: Option<Daemon>,
    pub(super) launcher: Option<Detached>,
    pub(super) log_files: LogFiles,
    pub(super) lock_file: Option<PathBuf>,
    pub(super) groups: Vec<Group>,
    pub(super) controls: Vec<Bind>,
    pub(super) main: Option<Start>,
    pub(super) hooks: Hooks,
    pub(super) stop_deadline: Duration,
    pub(super) exit_with_signal: bool,
}

impl Plan {
    pub(super) fn enter_background(mut self) -> Result<Self, Error> {
        self.launcher = self.background.take().map(Daemon::detach).transpose()?;
        Ok(self)
    }

    /// In the process that is the master: takes what only one may have, then supervises.
    pub(super) fn run<D: Driver>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        launcher: &mut Option<Detached>,
    ) -> Exit {
        match self.start(driver, launcher) {
            Ok(exit) => exit,
            Err(error) => {
                tracing::error!(reason = error.report(), "the master could not start");
                error.into()
            }
        }
    }

    fn start<D: Driver>(
        self,
        driver: impl FnOnce() -> io::Result<D>,
        launcher: &mut Option<Detached>,
    ) -> Result<Exit, Error> {
        let signals = settle_process(launcher.is_some(), !self.log_files.is_empty())?;
        // Dropped in the reverse order, after the last worker has gone: the control socket first.
        let _lock = self.lock_file.as_deref().map(LockFile::acquire).transpose()?;
        let mut starts = Vec::new();
        for bind in self.controls {
            starts.push(bind()?);
        }
        let driver =
            driver().map_err(|error| Error::system("cannot start the async runtime", error))?;
        let rt = driver.handle();
        let signals = Signals::watch(&rt, signals)
            .map_err(|error| Error::system("cannot catch signals", error))?;
        let supervisor =
            Supervisor::new(&rt, self.groups, self.hooks, self.log_files, self.stop_deadline);
        let all_ready = || launcher.take().map(Detached::ready);
        let ended = run(&driver, supervisor.run(signals, starts, self.main, all_ready))?;
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

/// The signals that the supervisor obeys.
const SIGNALS: [Signal; 6] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGHUP,
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
