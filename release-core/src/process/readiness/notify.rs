//! Messages as in systemd: datagrams to `NOTIFY_SOCKET`.

use std::ffi::{OsStr, OsString};
use std::hash::BuildHasher;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, setsockopt, socket};
use nix::sys::stat::{Mode, fchmod};

use super::inbox::{AllowedSender, ReadinessSocket};
use super::notify_state::NotifyState;
use super::socket_directory::{SocketDirectory, SocketPath};
use crate::Error;
use crate::process::attach::Notify;
use crate::process::worker_info::WorkerInfo;
use crate::rt::Rt;
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
        Ok(Self { socket, name, file: Some(file), watchdog })
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
        Ok(Self { socket, name: format!("@{name}").into(), file: None, watchdog })
    }

    pub(super) fn name(&self) -> &OsStr {
        &self.name
    }

    /// Receives messages until the future is dropped.
    pub(super) async fn listen(
        self,
        rt: &Rt,
        sender: AllowedSender,
        worker: &WorkerInfo,
        notify: &Notify,
    ) -> Result<(), Error> {
        let failed = |error| Error::system("its NOTIFY_SOCKET", error);
        let mut inbox = ReadinessSocket::new(rt, self.socket).map_err(failed)?;
        let _file = self.file;
        let mut state = NotifyState::new(self.watchdog, rt.now());
        // In place it would be a part of the task of every worker, whatever its readiness.
        let mut bytes = vec![0; LONGEST];
        // The sender of a `BARRIER=1` waits until its descriptor is closed, which `ReadinessSocket` does.
        let hear = |state: &mut NotifyState, bytes: &[u8], arrived: Arrived| {
            if arrived.sender.is_some_and(|from| sender.allows(from.uid, from.pid))
                && let message = String::from_utf8_lossy(&bytes[..arrived.bytes])
                && let Some(line) = state.hear(&message, rt.now())
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
            if state.deadline().is_some_and(|at| at <= rt.now()) {
                // Messages that arrived before the deadline count, even if this process reads them
                // late.
                for _ in 0..QUEUE {
                    let Ok(arrived) = inbox.try_receive(&mut bytes) else { break };
                    hear(&mut state, &bytes, arrived);
                }
            }
            state.due(rt.now()).into_iter().for_each(notify);
            let received = inbox.receive(&mut bytes);
            let received = match state.deadline() {
                None => received.await,
                Some(deadline) => match rt.timeout_at(deadline, received).await {
                    Ok(received) => received,
                    Err(_) => continue,
                },
            };
            hear(&mut state, &bytes, received.map_err(failed)?);
            state.due(rt.now()).into_iter().for_each(notify);
            rt.sleep(PAUSE).await;
        }
    }
}
