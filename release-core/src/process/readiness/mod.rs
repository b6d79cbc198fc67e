//! Readiness of programs that do not use this library. They communicate through environment
//! variables, descriptors and signals.

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
use crate::ipc::Descriptor;
use crate::kept::{self, ReadinessSignal as Kept};
use crate::rt::Rt;
use crate::sys::creds::ProcessCredentials;
use crate::sys::fds::duplicate_from;
use crate::sys::spawn::FIRST_PASSED;
use crate::worker_types::WorkerId;
use crate::{Error, ErrorKind};
use ack::{Acknowledgement, AcknowledgementInbox};
pub(crate) use environment::of_the_master;
use inbox::AllowedSender;
use newline::{Newline, NewlineInbox};
use notify::{NotifyInbox, NotifySocket};
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
    /// The worker counts as ready after it has run for this long.
    After(Duration),
    /// The worker sends `READY=1` to the socket named by `NOTIFY_SOCKET`, like a service of
    /// systemd. The message must come from the worker itself or a process of its process group.
    ///
    /// The other messages:
    ///
    /// | message | effect |
    /// |---|---|
    /// | `STATUS=` | sets [`WorkerState::status_text`](crate::WorkerState::status_text) |
    /// | `EXTEND_TIMEOUT_USEC=` | extends the start, or the stop after it was requested, by this time from now: at least 2 s, and in all at most ten times the [ready timeout](crate::supervise::RestartPolicy::ready_timeout) or the [stop deadline](crate::Master::stop_deadline) |
    /// | `STOPPING=1` | the worker is not told to stop any more, and is killed at the stop deadline; an exit with status 0 does not count as an exit that comes [too fast](crate::supervise::RestartPolicy::intensity) |
    /// | `WATCHDOG=1` | reports that the worker is alive, if the group has a [heartbeat](crate::Workers::heartbeat) |
    /// | `WATCHDOG=trigger` | a worker that is ready is killed and restarted |
    ///
    /// Messages that may repeat are forwarded at most once per second; only the latest value is
    /// kept.
    Notify,
    /// The worker acknowledges like a worker of einhorn: with a line such as
    /// `{"command":"worker:ack","pid":123}`, in JSON or YAML, sent to the socket named by
    /// `EINHORN_SOCK_PATH` or through the descriptor in `EINHORN_SOCK_FD`.
    Acknowledge,
    /// The worker writes a newline to a descriptor, like a service of s6. This is the number of the
    /// descriptor, by default the first after the listeners; `NOTIFY_FD` contains it.
    Newline(Option<RawFd>),
}

/// Returns one second: long enough for most programs to fail, short enough to wait for.
impl Default for Readiness {
    fn default() -> Self {
        Self::After(Duration::from_secs(1))
    }
}

/// The readiness protocol of a group of commands.
#[derive(Debug)]
pub(crate) struct GroupReadiness {
    readiness: Readiness,
    /// Interval within which its processes must report that they are alive.
    watchdog: Option<Duration>,
    /// The directory of the sockets, once the master runs and if the protocol has sockets.
    directory: OnceLock<Arc<SocketDirectory>>,
    owner: Option<Uid>,
}

/// The master's side of the protocol, for a process that will be started.
#[derive(Debug)]
pub(crate) struct PendingReadiness {
    waits_for: Option<ReadinessSignal>,
    /// The user that may give the signal.
    uid: Uid,
}

/// The variables and descriptors for a process that will be started.
#[derive(Debug)]
pub(crate) struct ChildResources {
    pub(crate) environment: Vec<CString>,
    descriptors: Vec<(RawFd, OwnedFd)>,
}

/// The source of the signal that makes a process ready.
#[derive(Debug)]
enum ReadinessSignal {
    NotifySocket(NotifySocket),
    Acknowledgement(Acknowledgement),
    Newline(Newline),
}

impl GroupReadiness {
    /// Creates the protocol of a group.
    ///
    /// # Errors
    ///
    /// Returns an error if the descriptor has a number that is taken or out of range, or if the
    /// group has a heartbeat but the protocol cannot report one.
    pub(crate) fn new(
        readiness: Readiness,
        watchdog: Option<Duration>,
        listeners: usize,
        credentials: Option<&ProcessCredentials>,
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

    /// Returns the names of the variables in which a process finds its own pid.
    pub(crate) fn pid_variables(&self, has_listeners: bool) -> Vec<&'static str> {
        let all = [("LISTEN_PID", has_listeners), ("WATCHDOG_PID", self.watchdog.is_some())];
        all.into_iter().filter_map(|(name, is_there)| is_there.then_some(name)).collect()
    }

    /// Creates the directory for sockets, if the protocol has sockets.
    pub(crate) fn open(&self) -> Result<(), Error> {
        sweep();
        match self.readiness {
            Readiness::Acknowledge => self.directory().map(drop),
            Readiness::Notify => {
                if let Err(error) = self.directory() {
                    // No directory is writable: use sockets without a file.
                    tracing::debug!(reason = error.report(), "NOTIFY_SOCKET is an abstract one");
                }
                Ok(())
            }
            Readiness::After(_) | Readiness::Newline(_) => Ok(()),
        }
    }

    /// Returns the directory, and creates it if necessary.
    fn directory(&self) -> Result<&Arc<SocketDirectory>, Error> {
        match self.directory.get() {
            Some(directory) => Ok(directory),
            None => {
                let directory = Arc::new(SocketDirectory::new(self.owner)?);
                Ok(self.directory.get_or_init(|| directory))
            }
        }
    }

    /// Returns the two sides of the protocol for a process of this worker.
    pub(crate) fn prepare(
        &self,
        id: WorkerId,
        listeners: &[String],
    ) -> Result<(ChildResources, PendingReadiness), Error> {
        let mut resources = ChildResources {
            environment: environment::of_a_worker(id, listeners)?,
            descriptors: vec![(0, open_nothing()?)],
        };
        let next = first_free(listeners.len());
        let waits_for = match self.readiness {
            Readiness::Notify => {
                let socket = match self.directory() {
                    Ok(directory) => NotifySocket::new(directory, self.watchdog)
                        .or_else(|_| NotifySocket::without_a_file(self.watchdog))?,
                    Err(_) => NotifySocket::without_a_file(self.watchdog)?,
                };
                resources.set("NOTIFY_SOCKET", socket.name())?;
                if let Some(time) = self.watchdog {
                    resources.set("WATCHDOG_USEC", time.as_micros().to_string())?;
                }
                Some(ReadinessSignal::NotifySocket(socket))
            }
            Readiness::Acknowledge => {
                let (acknowledgement, theirs) = Acknowledgement::new(self.directory()?)?;
                resources.set("EINHORN_SOCK_PATH", acknowledgement.path())?;
                resources.set("EINHORN_SOCK_FD", next.to_string())?;
                resources.descriptors.push((next, theirs));
                Some(ReadinessSignal::Acknowledgement(acknowledgement))
            }
            Readiness::Newline(number) => {
                let number = number.unwrap_or(next);
                let (newline, theirs) = Newline::new()?;
                resources.set("NOTIFY_FD", number.to_string())?;
                resources.descriptors.push((number, theirs));
                Some(ReadinessSignal::Newline(newline))
            }
            Readiness::After(_) => None,
        };
        let uid = self.owner.unwrap_or_else(nix::unistd::geteuid);
        Ok((resources, PendingReadiness { waits_for, uid }))
    }
}

impl ChildResources {
    pub(crate) fn stdin(descriptor: OwnedFd) -> Self {
        Self { environment: Vec::new(), descriptors: vec![(0, descriptor)] }
    }

    fn set(&mut self, name: &str, value: impl Into<std::ffi::OsString>) -> Result<(), Error> {
        self.environment.push(super::environment::entry(name.as_ref(), value.into())?);
        Ok(())
    }

    pub(crate) fn descriptors(&self) -> impl Iterator<Item = (RawFd, BorrowedFd<'_>)> {
        self.descriptors.iter().map(|(number, descriptor)| (*number, descriptor.as_fd()))
    }
}

impl PendingReadiness {
    /// Takes over the protocol of a process from an earlier version.
    pub(crate) fn kept(kept: KeptReadiness) -> Self {
        let signal = match kept.signal {
            Kept::NotifySocket { socket, file, watchdog, heard } => {
                ReadinessSignal::NotifySocket(NotifySocket::kept(socket, file, watchdog, heard))
            }
            Kept::Acknowledgement { listener, file, passed } => {
                ReadinessSignal::Acknowledgement(Acknowledgement::kept(listener, file, passed))
            }
            Kept::Newline(pipe) => ReadinessSignal::Newline(Newline::kept(pipe)),
        };
        Self { waits_for: Some(signal), uid: Uid::from_raw(kept.uid) }
    }

    /// Listens to the process until the returned value is dropped. Also returns the handle for an
    /// upgrade.
    pub(crate) fn attach(
        self,
        rt: &Rt,
        worker: &WorkerInfo,
        notify: Notify,
    ) -> (Attached, ReadinessHandle) {
        let sender = AllowedSender { uid: self.uid, worker: Pid::from_raw(worker.pid) };
        let inbox = self.waits_for.map(|signal| signal.register(rt)).transpose();
        let inbox = inbox.inspect_err(|error| cannot_be_heard(worker, error)).ok().flatten();
        let inbox = inbox.map(Arc::new);
        let handle = ReadinessHandle { uid: self.uid, inbox: inbox.as_ref().map(Arc::downgrade) };
        let (timer, worker) = (rt.clone(), worker.clone());
        let serving = rt.spawn(async move {
            let Some(inbox) = inbox else { return };
            if let Err(error) = inbox.listen(&timer, sender, &worker, &notify).await {
                cannot_be_heard(&worker, &error);
            }
        });
        (Attached { link: Weak::new(), serving }, handle)
    }
}

fn cannot_be_heard(worker: &WorkerInfo, error: &Error) {
    let reason = crate::error::chain(error);
    log_warning!(worker = worker.id, worker.pid, reason, "cannot be heard");
}

/// A protocol for the next version of the program.
pub(crate) type KeptReadiness = kept::Readiness<Descriptor>;

/// The protocol of a process that runs.
#[derive(Debug)]
pub(crate) struct ReadinessHandle {
    uid: Uid,
    /// Dangling once the process has said everything that it can say.
    inbox: Option<Weak<ReadinessInbox>>,
}

impl ReadinessHandle {
    /// Returns the protocol for the next version of the program, if it listens still. This version must
    /// not listen afterwards.
    pub(crate) fn keep(&self, rt: &Rt) -> Result<Option<KeptReadiness>, Error> {
        let Some(inbox) = self.inbox.as_ref().and_then(Weak::upgrade) else { return Ok(None) };
        let signal = match &*inbox {
            ReadinessInbox::NotifySocket(socket) => socket.keep(rt.now())?,
            ReadinessInbox::Acknowledgement(acknowledgement) => acknowledgement.keep()?,
            ReadinessInbox::Newline(newline) => newline.keep()?,
        };
        Ok(Some(KeptReadiness { uid: self.uid.as_raw(), signal }))
    }
}

/// The descriptors of a protocol, watched.
#[derive(Debug)]
enum ReadinessInbox {
    NotifySocket(NotifyInbox),
    Acknowledgement(AcknowledgementInbox),
    Newline(NewlineInbox),
}

impl ReadinessSignal {
    fn register(self, rt: &Rt) -> Result<ReadinessInbox, Error> {
        let registered = match self {
            Self::NotifySocket(socket) => socket.register(rt).map(ReadinessInbox::NotifySocket),
            Self::Acknowledgement(both) => both.register(rt).map(ReadinessInbox::Acknowledgement),
            Self::Newline(newline) => newline.register(rt).map(ReadinessInbox::Newline),
        };
        registered.map_err(|error| Error::system("cannot watch its readiness", error))
    }
}

impl ReadinessInbox {
    async fn listen(
        &self,
        rt: &Rt,
        sender: AllowedSender,
        worker: &WorkerInfo,
        notify: &Notify,
    ) -> Result<(), Error> {
        match self {
            Self::NotifySocket(socket) => socket.listen(rt, sender, worker, notify).await,
            Self::Acknowledgement(both) => {
                both.wait(rt, sender).await.map(|()| notify(WorkerEvent::Ready))
            }
            Self::Newline(newline) => newline.wait().await.map(notify),
        }
    }
}

/// Duplicates a descriptor for the next version of the program.
fn duplicate(descriptor: &impl AsFd) -> Result<Descriptor, Error> {
    let copy = duplicate_from(descriptor.as_fd(), 3);
    let failed =
        |error| Error::system("cannot duplicate a descriptor of a worker's readiness", error);
    copy.map(Descriptor::new).map_err(failed)
}

/// Returns the first descriptor number after the listeners.
fn first_free(listeners: usize) -> RawFd {
    FIRST_PASSED + RawFd::try_from(listeners).unwrap_or(1024)
}

/// Opens the standard input of a program that reads none.
pub(crate) fn open_nothing() -> Result<OwnedFd, Error> {
    let opened = std::fs::OpenOptions::new().read(true).open("/dev/null");
    Ok(opened.map_err(|error| Error::system("cannot open /dev/null", error))?.into())
}
