//! Messages as in systemd: datagrams to `NOTIFY_SOCKET`.

use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket};
use nix::sys::stat::{Mode, fchmod};

use super::duplicate;
use super::inbox::{AllowedSender, ReadinessSocket};
use super::notify_state::NotifyState;
use super::socket_directory::{SocketDirectory, SocketPath};
use crate::Error;
use crate::ipc::Descriptor;
use crate::kept;
use crate::process::attach::Notify;
use crate::process::worker_info::WorkerInfo;
use crate::rt::{Io, Rt};
use crate::sys::rights::Arrived;

/// Pause between two messages of a worker: a flood delays only its sender.
const PAUSE: Duration = Duration::from_millis(2);

/// Maximum message length. Longer messages are cut off, as in systemd.
const LONGEST: usize = 4096;

/// Maximum number of messages that are read at once, at least `net.unix.max_dgram_qlen`.
const QUEUE: usize = 1024;

/// Returns a socket without a name.
fn unnamed() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
    // Set before the socket has a name, and messages can arrive.
    setsockopt(&socket, PassCred, &true)?;
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    Ok(socket)
}

/// The socket of one process.
#[derive(Debug)]
pub(super) struct NotifySocket {
    socket: OwnedFd,
    /// The name of the socket, and its file if it has one.
    name: OsString,
    file: Option<SocketPath>,
    /// Interval within which the process must report that it is alive.
    watchdog: Option<Duration>,
    /// What an earlier version has heard.
    heard: Option<kept::Heard>,
}

impl NotifySocket {
    pub(super) fn new(
        directory: &Arc<SocketDirectory>,
        watchdog: Option<Duration>,
    ) -> Result<Self, Error> {
        let (socket, file) = directory.socket(|path| {
            let socket = unnamed()?;
            bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
            Ok(socket)
        })?;
        let name = file.path().as_os_str().to_owned();
        Ok(Self { socket, name, file: Some(file), watchdog, heard: None })
    }

    /// Creates an abstract socket. Any process can send to it; the sender is checked in any case.
    pub(super) fn without_a_file(watchdog: Option<Duration>) -> Result<Self, Error> {
        let number = std::hash::RandomState::new().hash_one(std::process::id());
        let name = format!("release-notify/{number:016x}");
        let made = unnamed().and_then(|socket| {
            bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes())?)?;
            Ok(socket)
        });
        let socket =
            made.map_err(|error| Error::system("cannot make an abstract socket", error))?;
        Ok(Self { socket, name: format!("@{name}").into(), file: None, watchdog, heard: None })
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Takes over a socket from an earlier version.
    pub(super) fn kept(
        socket: Descriptor,
        file: Option<kept::SocketFile<Descriptor>>,
        watchdog: Option<Duration>,
        heard: kept::Heard,
    ) -> Self {
        let file = file.map(SocketPath::kept);
        // The process has its name already.
        let name = OsString::new();
        Self { socket: socket.into(), name, file, watchdog, heard: Some(heard) }
    }

    /// Registers the socket.
    pub(super) fn register(self, rt: &Rt) -> io::Result<NotifyInbox> {
        let Self { socket, file, watchdog, heard, .. } = self;
        let state = match heard {
            Some(heard) => NotifyState::resume(watchdog, heard, rt.now()),
            None => NotifyState::new(watchdog, rt.now()),
        };
        let (io, state) = (Arc::new(rt.register(socket)?), Mutex::new(state));
        Ok(NotifyInbox { io, file, watchdog, state })
    }
}

/// The socket of a process that runs.
#[derive(Debug)]
pub(super) struct NotifyInbox {
    io: Arc<Io>,
    file: Option<SocketPath>,
    watchdog: Option<Duration>,
    state: Mutex<NotifyState>,
}

impl NotifyInbox {
    /// Returns the socket for the next version of the program, with its unread messages.
    pub(super) fn keep(&self, now: Instant) -> Result<kept::ReadinessSignal<Descriptor>, Error> {
        Ok(kept::ReadinessSignal::NotifySocket {
            socket: duplicate(&*self.io)?,
            file: self.file.as_ref().map(SocketPath::keep).transpose()?,
            watchdog: self.watchdog,
            heard: self.state().keep(now),
        })
    }

    fn state(&self) -> MutexGuard<'_, NotifyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Receives messages until the future is dropped.
    pub(super) async fn listen(
        &self,
        rt: &Rt,
        sender: AllowedSender,
        worker: &WorkerInfo,
        notify: &Notify,
    ) -> Result<(), Error> {
        let failed = |error| Error::system("its NOTIFY_SOCKET", error);
        let mut inbox = ReadinessSocket::new(Arc::clone(&self.io));
        // In place it would be a part of the task of every worker, whatever its readiness.
        let mut bytes = vec![0; LONGEST];
        // The sender of a `BARRIER=1` waits until its descriptor is closed, which `ReadinessSocket` does.
        let hear = |bytes: &[u8], arrived: Arrived| {
            if arrived.sender.is_some_and(|from| sender.allows(from.uid, from.pid))
                && let message = String::from_utf8_lossy(&bytes[..arrived.bytes])
                && let Some(line) = self.state().hear(&message, rt.now())
            {
                let line: String = line.chars().take(80).collect();
                let (id, pid, line) = (worker.id, worker.pid, line.escape_debug());
                log_warning!(
                    worker = id,
                    pid,
                    "`{line}` is not to be understood, nor what follows"
                );
            }
        };
        loop {
            let deadline = self.state().deadline();
            if deadline.is_some_and(|at| at <= rt.now()) {
                // Messages that arrived before the deadline count, even if this process reads them
                // late.
                for _ in 0..QUEUE {
                    let Ok(arrived) = inbox.try_receive(&mut bytes) else { break };
                    hear(&bytes, arrived);
                }
            }
            self.tell(rt.now(), notify);
            let received = inbox.receive(&mut bytes);
            let deadline = self.state().deadline();
            let received = match deadline {
                None => received.await,
                Some(deadline) => match rt.timeout_at(deadline, received).await {
                    Ok(received) => received,
                    Err(_) => continue,
                },
            };
            hear(&bytes, received.map_err(failed)?);
            self.tell(rt.now(), notify);
            rt.sleep(PAUSE).await;
        }
    }

    fn tell(&self, now: Instant, notify: &Notify) {
        let due = self.state().due(now);
        due.into_iter().for_each(notify);
    }
}
