//! `Startup`: the course of a master with its checked settings, from the background to its end.

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

use super::config::MasterConfig;
use super::control::{ControlHandle, FrozenControl, successors};
use super::group::Group;
use super::handle::MasterHandle;
use super::upgrade::{Invocation, Kept, Previous, Summary, Upgrader, commit, roll_back};
use crate::daemonize::detach::Daemon;
use crate::daemonize::launcher::Detached;
use crate::daemonize::lock::LockFile;
use crate::exit::Exit;
use crate::guard::Guard;
use crate::ipc::Descriptor;
use crate::kept;
use crate::master::supervisor::{Finish, MasterEnd, Supervisor, SupervisorParts};
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
use crate::worker::panics;
use crate::{Error, ErrorKind};

pub(crate) type BoxedTask = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Starts a task of the master's own beside the supervisor.
pub(crate) type StartTask = Box<dyn FnOnce(Rt, MasterHandle) -> BoxedTask>;

/// A control socket that is bound, or follows a socket of an earlier image of this process.
pub(crate) struct Control {
    pub(crate) path: PathBuf,
    pub(crate) bind: Bind,
}

/// Binds a control socket. Takes an earlier socket, and whether it is
/// this version's own. Returns the task that serves it, and the value that hands it over.
pub(crate) type Bind =
    Box<dyn FnOnce(Option<FrozenControl>, bool) -> Result<(StartTask, ControlHandle), Error>>;

const DRIVER: Guard = Guard::new("driver");

/// A master with checked settings that is about to start.
pub(crate) struct Startup {
    pub(crate) config: MasterConfig,
    pub(crate) background: Option<Daemon>,
    pub(crate) groups: Vec<Group>,
    pub(crate) controls: Vec<Control>,
    pub(crate) main: Option<StartTask>,
    /// The task of the status page.
    pub(crate) page: Option<StartTask>,
}

impl Startup {
    /// Goes into the background, if that is set, and returns the connection to the launcher.
    ///
    /// The next version of a master that is in the background already only returns to its directory. It
    /// never forks: it has workers.
    pub(crate) fn enter_background(
        &mut self,
        previous: Option<&Previous>,
    ) -> Result<Option<Detached>, Error> {
        match (self.background.take(), previous) {
            (Some(daemon), None) => {
                launcher::keep();
                daemon.detach().map(Some)
            }
            (Some(daemon), Some(previous)) if previous.summary.is_background => {
                previous.never_fails(daemon.return_to()).map(|()| None)
            }
            (Some(_) | None, _) => Ok(None),
        }
    }

    /// Checks all that the next version can find out about itself without being the master.
    pub(crate) fn validate_handover<D: Driver>(
        mut self,
        driver: impl FnOnce() -> io::Result<D>,
        running: &Summary,
    ) -> Result<(), Error> {
        let refuse = |why: String| Err(Error::new(ErrorKind::Change, why));
        for old in &running.groups {
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
        Pool::inherit(specs, &running.pool, self.config.stop_deadline, None)?;
        // New resources are opened, and closed again before this returns.
        let is_new = |path: &PathBuf| running.lock.as_deref() != Some(path.as_ref());
        let new_lock = self.config.lock_file.take().filter(is_new);
        let _lock = new_lock.as_deref().map(LockFile::acquire).transpose()?;
        for group in &mut self.groups {
            group.try_listeners(&running.listeners)?;
        }
        self.config.log_files.open()?;
        let is_new = |control: &Control| !running.controls.iter().any(|path| control.path == *path);
        let controls = self.controls.into_iter().filter(is_new);
        let _controls =
            controls.map(|new| (new.bind)(None, false)).collect::<Result<Vec<_>, _>>()?;
        driver().map_err(|error| Error::system("cannot start the async runtime", error)).map(drop)
    }

    /// In the process that is the master: takes the resources that only one master may have, then
    /// supervises.
    pub(crate) fn run<D: Driver>(
        mut self,
        driver: impl FnOnce() -> io::Result<D>,
        launcher: &mut Option<Detached>,
        invocation: Invocation,
        previous: Option<Previous>,
    ) -> Exit {
        panics::log();
        let is_background =
            launcher.is_some() || previous.as_ref().is_some_and(|its| its.summary.is_background);
        let (controls, hand_over) = (Vec::new(), self.config.hand_over.take());
        let mut held = Held {
            upgrader: Upgrader { invocation, is_background, lock: None, controls, hand_over },
            signals: None,
            starts: self.page.take().into_iter().collect(),
            previous,
            unwanted: Unwanted::default(),
        };
        let ended = match self.take(driver, &mut held) {
            Ok((driver, pool)) => self.supervise(&driver, pool, held, launcher),
            Err(error) => {
                let caught = held.signals.iter().flat_map(|caught| iter::from_fn(|| caught.take()));
                let signals: Vec<_> = caught.map(|signal| signal as i32).collect();
                Err(roll_back(error, &signals))
            }
        };
        ended.unwrap_or_else(|error| {
            log_error!(reason = error.report(), "the master could not start");
            error.into()
        })
    }

    /// Takes everything that may be refused. The resources of the previous version do not change.
    fn take<D: Driver>(
        &mut self,
        driver: impl FnOnce() -> io::Result<D>,
        held: &mut Held,
    ) -> Result<(D, (Pool, Vec<Action>)), Error> {
        let (is_background, is_first) = (held.upgrader.is_background, held.previous.is_none());
        let has_logs = !self.config.log_files.is_empty();
        held.signals = Some(settle_process(is_background, self.config.signals.split(has_logs))?);
        raise_open_files(held.previous.as_ref().and_then(|its| its.summary.open_files));
        let (mut nothing, mut returned) = (Kept::default(), None);
        let (snapshot, kept) = match &mut held.previous {
            None => (None, &mut nothing),
            Some(its) => {
                returned = its.returned.take();
                (Some(&its.summary.pool), &mut its.kept)
            }
        };
        let is_return = returned.is_some();
        let pool = self.pool(snapshot, returned)?;
        let path = self.config.lock_file.as_deref();
        (held.upgrader.lock, held.unwanted.lock) = take_lock(path, kept.lock.take(), is_return)?;
        if let Some(systemd) = self.config.systemd.as_ref().filter(|_| is_first) {
            stored::restore(listeners_of(&mut self.groups), systemd)?;
        }
        self.take_listeners(&mut kept.listeners, is_return)?;
        held.unwanted.listeners.append(&mut kept.listeners);
        let earlier = std::mem::take(&mut kept.controls);
        self.take_controls(earlier, is_return, held)?;
        let driver = DRIVER.call(driver).map_err(|panicked| {
            Error::new(ErrorKind::Program, "cannot start the async runtime").caused_by(panicked)
        })?;
        let driver =
            driver.map_err(|error| Error::system("cannot start the async runtime", error))?;
        // Last: a version that returns keeps its own standard output and error.
        if has_logs {
            if is_first && !is_background {
                launcher::keep();
            }
            unless_return(self.config.log_files.redirect(), is_return)?;
        }
        Ok((driver, pool))
    }

    fn pool(
        &self,
        snapshot: Option<&kept::Pool>,
        returned: Option<String>,
    ) -> Result<(Pool, Vec<Action>), Error> {
        let specs = self.groups.iter().map(Group::spec).collect();
        let stop_deadline = self.config.stop_deadline;
        match snapshot {
            None => Ok((Pool::new(specs, stop_deadline, seed()), Vec::new())),
            Some(snapshot) => Pool::inherit(specs, snapshot, stop_deadline, returned),
        }
    }

    fn take_listeners(
        &mut self,
        kept: &mut Vec<KeptListener>,
        is_return: bool,
    ) -> Result<(), Error> {
        self.groups.iter_mut().for_each(|group| group.adopt_listeners(kept, is_return));
        let opened = self.groups.iter_mut().try_fold(0, |first, group| group.open_listeners(first));
        unless_return(opened.map(drop), is_return)
    }

    fn take_controls(
        &mut self,
        earlier: Vec<FrozenControl>,
        is_return: bool,
        held: &mut Held,
    ) -> Result<(), Error> {
        let paths: Vec<_> = self.controls.iter().map(|control| &*control.path).collect();
        let (earlier, left) = successors(&paths, earlier);
        held.unwanted.controls = left;
        for (control, earlier) in self.controls.drain(..).zip(earlier) {
            let (start, served) = (control.bind)(earlier, is_return)?;
            held.starts.push(start);
            held.upgrader.controls.push(served);
        }
        Ok(())
    }

    fn supervise<D: Driver>(
        mut self,
        driver: &D,
        pool: (Pool, Vec<Action>),
        held: Held,
        launcher: &mut Option<Detached>,
    ) -> Result<Exit, Error> {
        let Held { upgrader, signals, starts, previous, unwanted } = held;
        let rt = driver.handle();
        let signals = signals.map_or_else(
            || Err(io::ErrorKind::NotFound.into()),
            |caught| Signals::watch(&rt, caught),
        );
        let signals = signals
            .map_err(|error| roll_back(Error::system("cannot catch signals", error), &[]))?;
        commit();
        let systemd = self.config.systemd.as_ref().filter(|_| !upgrader.is_background);
        stored::store(listeners_of(&mut self.groups), &unwanted.listeners, systemd);
        let time = self.config.stop_deadline.saturating_mul(2).min(LONGEST_HOLD);
        unwanted.give_up(&rt, time);
        // Released after the last worker and the last output.
        let _lock = upgrader.lock.clone();
        let exits_with_signal = self.config.exit_with_signal;
        let parts = SupervisorParts { config: self.config, signals, upgrader };
        let kept = previous.map(|previous| previous.kept);
        let all_ready = || {
            launcher::leave();
            launcher.take().map(Detached::ready)
        };
        let _draining = streams::drain(&rt);
        let ended = run(driver, async {
            // Calls the application's functions for the workers that are taken over: they may need the
            // runtime around them.
            let supervisor = Supervisor::new(&rt, self.groups, pool, parts, kept);
            supervisor.run(starts, self.main, all_ready).await
        });
        streams::finish();
        ended.map(|ended| exit_of(ended, exits_with_signal))
    }
}

fn exit_of(ended: MasterEnd, exits_with_signal: bool) -> Exit {
    match ended.outcome {
        Outcome::Failed { reason } => Exit::failure(Error::new(ErrorKind::Worker, reason)),
        Outcome::Killed { workers } => {
            let (these, were) = if workers == 1 { ("worker", "was") } else { ("workers", "were") };
            let message = format!("{workers} {these} did not stop in time and {were} killed");
            Exit::killed(Error::new(ErrorKind::Worker, message))
        }
        Outcome::Stopped => match (ended.main, ended.signal) {
            (Finish::Failed(error), _) => Exit::failure(error),
            (Finish::CutOff(why), _) => {
                let message = format!("the master's main task did not finish: {why}");
                Exit::killed(Error::new(ErrorKind::Program, message))
            }
            (Finish::Done, _) if ended.children_killed > 0 => {
                let count = ended.children_killed;
                let (these, were) =
                    if count == 1 { ("child", "was") } else { ("children", "were") };
                let message = format!("{count} {these} did not stop in time and {were} killed");
                Exit::killed(Error::new(ErrorKind::Worker, message))
            }
            (Finish::Done, Some(signal)) if exits_with_signal => Exit::after_signal(signal),
            (Finish::Done, _) => Exit::success(),
        },
    }
}

/// Returns an error, except in a previous version that is the master again: it continues, whatever has
/// changed since.
fn unless_return(taken: Result<(), Error>, is_return: bool) -> Result<(), Error> {
    match taken {
        Err(error) if is_return => {
            log_error!(reason = error.report(), "going on without it");
            Ok(())
        }
        taken => taken,
    }
}

/// Resources that only one master may hold.
struct Held {
    upgrader: Upgrader,
    signals: Option<Caught>,
    starts: Vec<StartTask>,
    previous: Option<Previous>,
    unwanted: Unwanted,
}

/// Maximum time that sockets of the previous version stay open for its workers.
const LONGEST_HOLD: Duration = Duration::from_secs(3600);

/// Resources of the previous version that this one does not need: given up when this one has all others.
#[derive(Default)]
struct Unwanted {
    lock: Option<LockFile>,
    listeners: Vec<KeptListener>,
    controls: Vec<FrozenControl>,
}

impl Unwanted {
    /// Gives them up; some only when old workers have had this time to end.
    fn give_up(self, rt: &Rt, time: Duration) {
        drop(self.lock);
        self.controls.into_iter().for_each(FrozenControl::give_up);
        let slots: Vec<_> = self.listeners.into_iter().filter_map(KeptListener::give_up).collect();
        if !slots.is_empty() {
            let clock = rt.clone();
            let held = async move {
                clock.sleep(time).await;
                drop(slots);
            };
            rt.spawn(held).detach();
        }
    }
}

/// Returns the lock file, and a lock file that is not needed: the previous version's lock is kept if it is
/// the same file, or if that version is the master again.
fn take_lock(
    path: Option<&Path>,
    kept: Option<(OsString, Descriptor)>,
    is_return: bool,
) -> Result<(Option<Arc<LockFile>>, Option<LockFile>), Error> {
    let is_same = kept.as_ref().is_some_and(|(its, _)| Some(Path::new(its)) == path);
    let stays = is_same || is_return;
    // If this fails, the kept one is only a descriptor: a `LockFile` would remove its file.
    let new = path.filter(|_| !stays).map(LockFile::acquire).transpose()?;
    let kept = kept.map(|(path, file)| LockFile::held(path.into(), file.into())).transpose()?;
    if stays { Ok((kept.map(Arc::new), None)) } else { Ok((new.map(Arc::new), kept)) }
}

/// Returns a seed of its own for each master: workers of masters that start at the same moment must not
/// restart at the same moment.
fn seed() -> u64 {
    use std::hash::BuildHasher;
    std::hash::RandomState::new().hash_one(std::process::id())
}

/// Settles the state that a launcher may have left: signals, groups, descriptors, file mode mask.
///
/// From here on, before there is anything to leave behind, a signal to stop is kept for the
/// supervisor.
fn settle_process(detached: bool, signals: (Vec<Signal>, Vec<Signal>)) -> Result<Caught, Error> {
    let failed = |what: &'static str| move |error| Error::system(what, error);
    let (mut signals, ignored) = signals;
    // As `nohup` requires. In the background no terminal can send the signal.
    if !detached && signal::is_ignored(Signal::SIGHUP) {
        signals.retain(|signal| *signal != Signal::SIGHUP);
        let way_out = "(nohup?): it reloads nothing; use `release ctl reload`";
        log_warning!("SIGHUP is ignored since before the start, and stays so {way_out}");
    }
    let signals = Caught::new(&signals).map_err(failed("cannot catch signals"))?;
    signal::settle_inherited(&ignored).map_err(failed("cannot reset signals"))?;
    creds::leave_groups().map_err(|error| {
        Error::system("cannot leave groups", io::Error::from_raw_os_error(error.errno))
    })?;
    keep_little_free_memory();
    if !detached {
        settle_inherited(Inherited::CloseOnExec, &[])
            .map_err(failed("cannot mark descriptors close-on-exec"))?;
        // No file of a daemon is writable by others, whatever the mask of the launcher was.
        let mask = umask(Mode::empty());
        umask(mask | Mode::from_bits_truncate(0o022));
    }
    Ok(signals)
}

/// Returns all listeners, each with the name of its group.
fn listeners_of(groups: &mut [Group]) -> impl Iterator<Item = (&str, &mut Listener)> {
    groups.iter_mut().flat_map(|group| {
        let name = &*group.name;
        group.listeners.iter_mut().map(move |listener| (name, listener))
    })
}
