//! Workers that are any program: nothing of this library is in them, so they are reached by what
//! the environment, descriptors and signals can say.

mod ack;
mod environment;
mod inbox;
mod newline;
mod notify;
mod notify_state;
mod socket_directory;

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use nix::unistd::{Pid, Uid};

use super::attach::{Attached, Notify, WorkerEvent};
use super::worker_info::WorkerInfo;
use crate::rt::Rt;
use crate::sys::creds::Credentials;
use crate::sys::spawn::FIRST_PASSED;
use crate::worker_types::WorkerId;
use crate::{Error, ErrorKind};
use ack::Acknowledgement;
pub(crate) use environment::of_the_master;
use inbox::AllowedSender;
use newline::Newline;
use notify::NotifySocket;
use socket_directory::{SocketDirectory, sweep};

/// How a program of [`Workers::command`](crate::Workers::command) becomes ready.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::{Readiness, Workers};
///
/// let workers = Workers::command("web", 4, "gunicorn", ["--bind", "fd://3", "app:app"])
///     .readiness(Readiness::Notify);
/// let guessed = Workers::command("old", 1, "/usr/lib/old/server", [""; 0])
///     .readiness(Readiness::After(Duration::from_secs(3)));
/// # let _ = (workers, guessed);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// It has lived so long.
    After(Duration),
    /// It says `READY=1` at the socket that `NOTIFY_SOCKET` names, as systemd's services do. The
    /// message must come from the worker itself or a process of its process group.
    ///
    /// What else it says there:
    ///
    /// | message | what follows |
    /// |---|---|
    /// | `STATUS=` | is in [`WorkerState::status_text`](crate::WorkerState::status_text) |
    /// | `EXTEND_TIMEOUT_USEC=` | its start, or its end after it was told to, may take so long from now: at least 2 s more, and in all at most ten times the [ready timeout](crate::supervise::RestartPolicy::ready_timeout) or the [stop deadline](crate::Master::stop_deadline) |
    /// | `STOPPING=1` | it is not told to stop any more, and is killed at the stop deadline; an exit with status 0 does not count among the deaths that come [too fast](crate::supervise::RestartPolicy::intensity) |
    /// | `WATCHDOG=1` | it lives, where the group has a [heartbeat](crate::Workers::heartbeat) |
    /// | `WATCHDOG=trigger` | once it is ready, it is killed and started again |
    ///
    /// The master hears of what can be said again and again once a second, the latest each.
    Notify,
    /// It acknowledges as einhorn's workers do: a line such as `{"command":"worker:ack","pid":123}`,
    /// in JSON or YAML, at the socket that `EINHORN_SOCK_PATH` names or through the descriptor in
    /// `EINHORN_SOCK_FD`.
    Acknowledge,
    /// It writes a newline to a descriptor, as s6's services do: to that of this number, by default
    /// the first after the listeners. `NOTIFY_FD` has the number.
    Newline(Option<RawFd>),
}

/// A second: long enough for most programs to fail, short enough to wait for.
impl Default for Readiness {
    fn default() -> Self {
        Self::After(Duration::from_secs(1))
    }
}

/// What all processes of a group have in common.
#[derive(Debug)]
pub(crate) struct GroupReadiness {
    readiness: Readiness,
    /// Within which time its processes say that they live.
    watchdog: Option<Duration>,
    /// Where their sockets are, once the master runs and if they have any.
    directory: OnceLock<Arc<SocketDirectory>>,
    owner: Option<Uid>,
}

/// What the master keeps of a process that is about to be started.
#[derive(Debug)]
pub(crate) struct PendingReadiness {
    waits_for: Option<ReadinessSignal>,
    /// Who may give the sign.
    uid: Uid,
}

/// What a process gets.
#[derive(Debug)]
pub(crate) struct ChildResources {
    pub(crate) environment: Vec<CString>,
    descriptors: Vec<(RawFd, OwnedFd)>,
}

/// What makes it ready.
#[derive(Debug)]
enum ReadinessSignal {
    NotifySocket(NotifySocket),
    Acknowledgement(Acknowledgement),
    Newline(Newline),
}

impl GroupReadiness {
    /// # Errors
    ///
    /// When a descriptor is to have a number that is taken, or that no process can have; when a sign
    /// of life is wanted where there is no way to give it.
    pub(crate) fn new(
        readiness: Readiness,
        watchdog: Option<Duration>,
        listeners: usize,
        credentials: Option<&Credentials>,
    ) -> Result<Self, Error> {
        if let Readiness::Newline(Some(number)) = readiness
            && !(first_free(listeners)..1024).contains(&number)
        {
            let message = format!(
                "descriptor {number} cannot be the one for readiness: 0 to {} are taken, and 1023 \
                 is the highest",
                first_free(listeners) - 1
            );
            return Err(Error::new(ErrorKind::Usage, message));
        }
        if watchdog.is_some() && readiness != Readiness::Notify {
            let message = "commands say that they live where they say that they are ready, by \
                           WATCHDOG=1: a heartbeat needs `Readiness::Notify`";
            return Err(Error::new(ErrorKind::Usage, message));
        }
        let owner = credentials.map(|credentials| credentials.uid);
        Ok(Self { readiness, watchdog, directory: OnceLock::new(), owner })
    }

    /// The variables in which a process finds its own number.
    pub(crate) fn pid_variables(&self, has_listeners: bool) -> Vec<&'static str> {
        let all = [("LISTEN_PID", has_listeners), ("WATCHDOG_PID", self.watchdog.is_some())];
        all.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }

    /// Makes room for sockets, where there is any use for it.
    pub(crate) fn open(&self) -> Result<(), Error> {
        sweep();
        match self.readiness {
            Readiness::Acknowledge => self.directory().map(drop),
            Readiness::Notify => {
                if let Err(error) = self.directory() {
                    // Nothing can be written here: there are sockets without a file.
                    tracing::debug!(reason = error.report(), "NOTIFY_SOCKET is an abstract one");
                }
                Ok(())
            }
            Readiness::After(_) | Readiness::Newline(_) => Ok(()),
        }
    }

    /// The place, made unless it is there.
    fn directory(&self) -> Result<&Arc<SocketDirectory>, Error> {
        match self.directory.get() {
            Some(directory) => Ok(directory),
            None => {
                let directory = Arc::new(SocketDirectory::new(self.owner)?);
                Ok(self.directory.get_or_init(|| directory))
            }
        }
    }

    /// What a process of this worker gets, and what the master keeps.
    pub(crate) fn prepare(
        &self,
        id: WorkerId,
        listeners: &[String],
    ) -> Result<(ChildResources, PendingReadiness), Error> {
        let mut given = ChildResources {
            environment: environment::of_a_worker(id, listeners)?,
            descriptors: vec![(0, open_nothing()?)],
        };
        let next = first_free(listeners.len());
        let waits_for = match self.readiness {
            Readiness::Notify => {
                let notices = match self.directory() {
                    Ok(directory) => NotifySocket::new(directory, self.watchdog)
                        .or_else(|_| NotifySocket::without_a_file(self.watchdog))?,
                    Err(_) => NotifySocket::without_a_file(self.watchdog)?,
                };
                given.tell("NOTIFY_SOCKET", notices.name())?;
                if let Some(time) = self.watchdog {
                    given.tell("WATCHDOG_USEC", time.as_micros().to_string())?;
                }
                Some(ReadinessSignal::NotifySocket(notices))
            }
            Readiness::Acknowledge => {
                let (acknowledgement, theirs) = Acknowledgement::new(self.directory()?)?;
                given.tell("EINHORN_SOCK_PATH", acknowledgement.path())?;
                given.tell("EINHORN_SOCK_FD", next.to_string())?;
                given.descriptors.push((next, theirs));
                Some(ReadinessSignal::Acknowledgement(acknowledgement))
            }
            Readiness::Newline(number) => {
                let number = number.unwrap_or(next);
                let (newline, theirs) = Newline::new()?;
                given.tell("NOTIFY_FD", number.to_string())?;
                given.descriptors.push((number, theirs));
                Some(ReadinessSignal::Newline(newline))
            }
            Readiness::After(_) => None,
        };
        let uid = self.owner.unwrap_or_else(nix::unistd::geteuid);
        Ok((given, PendingReadiness { waits_for, uid }))
    }
}

impl ChildResources {
    pub(crate) fn stdin(descriptor: OwnedFd) -> Self {
        Self { environment: Vec::new(), descriptors: vec![(0, descriptor)] }
    }

    fn tell(&mut self, name: &str, value: impl Into<std::ffi::OsString>) -> Result<(), Error> {
        self.environment.push(super::environment::entry(name.as_ref(), value.into())?);
        Ok(())
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (RawFd, BorrowedFd<'_>)> {
        self.descriptors.iter().map(|(number, descriptor)| (*number, descriptor.as_fd()))
    }
}

impl PendingReadiness {
    /// Listens to the process until what is returned is dropped.
    pub(crate) fn attach(self, rt: &Rt, worker: &WorkerInfo, notify: Notify) -> Attached {
        let sender = AllowedSender { uid: self.uid, worker: Pid::from_raw(worker.pid) };
        let (timer, worker) = (rt.clone(), worker.clone());
        let serving = rt.spawn(async move {
            let heard = match self.waits_for {
                None => return,
                Some(ReadinessSignal::NotifySocket(notices)) => {
                    notices.listen(&timer, sender, &worker, &notify).await
                }
                Some(ReadinessSignal::Acknowledgement(acknowledgement)) => {
                    acknowledgement.wait(&timer, sender).await.map(|()| notify(WorkerEvent::Ready))
                }
                Some(ReadinessSignal::Newline(newline)) => newline.wait(&timer).await.map(&notify),
            };
            if let Err(error) = heard {
                let reason = crate::error::chain(&error);
                tracing::warn!(worker = worker.id, worker.pid, reason, "cannot be heard");
            }
        });
        Attached { link: Weak::new(), serving }
    }
}

/// The first number after the listeners.
fn first_free(listeners: usize) -> RawFd {
    FIRST_PASSED + RawFd::try_from(listeners).unwrap_or(1024)
}

fn open_nothing() -> Result<OwnedFd, Error> {
    let opened = std::fs::OpenOptions::new().read(true).open("/dev/null");
    Ok(opened.map_err(|error| Error::system("cannot open /dev/null", error))?.into())
}
