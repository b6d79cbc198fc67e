//! Notifications to systemd, or another listener at `NOTIFY_SOCKET`: the service is ready, reloads,
//! stops or is alive, and which descriptors to store for it.
//!
//! Every message is one datagram of lines `NAME=VALUE`. There is no acknowledgement.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, setsockopt,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};
use nix::time::{ClockId, clock_gettime};

use crate::sys::beginning;
use crate::{Error, ErrorKind};

#[cfg(test)]
mod tests;
mod unsent;

pub(crate) use unsent::{MessageKind, Unsent};

/// Maximum wait for a message to be accepted: systemd may be busy, but not forever.
const SEND_TIME: i64 = 1;

/// Maximum length of a status line, in bytes.
const STATUS_LENGTH: usize = 1024;

/// The connection to systemd. It is cheap: a socket without a reader.
///
/// Each method waits up to a second for room in the socket. It returns a system error if the
/// message cannot be sent. Your service can continue without it.
///
/// [`Master::systemd`](crate::Master::systemd) never waits: it keeps the latest message of each
/// kind until there is room, and sends it later.
///
/// # Examples
///
/// ```
/// use release_core::systemd::Notifier;
///
/// // `None` if no service manager listens.
/// if let Some(systemd) = Notifier::from_env()? {
///     systemd.ready()?;
///     systemd.status("serving")?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    address: UnixAddr,
}

impl Notifier {
    /// Connects to the socket named by `NOTIFY_SOCKET`. Returns `None` if the variable is not set.
    ///
    /// # Errors
    ///
    /// Returns [`ErrorKind::Usage`] if the variable is neither the path of a Unix socket nor an
    /// abstract name, which begins with `@`.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.ready()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn from_env() -> Result<Option<Self>, Error> {
        std::env::var_os("NOTIFY_SOCKET").map(|name| Self::new(name.as_encoded_bytes())).transpose()
    }

    /// Connects to the socket of this name, which begins with `/` or `@`.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`Notifier::from_env`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// let directory = tempfile::tempdir()?;
    /// let path = directory.path().join("notify");
    /// let socket = std::os::unix::net::UnixDatagram::bind(&path)?;
    /// Notifier::new(path.as_os_str().as_encoded_bytes())?.ready()?;
    /// let mut message = [0; 64];
    /// let length = socket.recv(&mut message)?;
    /// assert!(message[..length].starts_with(b"READY=1"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn new(name: &[u8]) -> Result<Self, Error> {
        let address = match name {
            [b'/', ..] => UnixAddr::new(name),
            [b'@', name @ ..] if !name.is_empty() => UnixAddr::new_abstract(name),
            _ => Err(Errno::EAFNOSUPPORT),
        };
        let address = address.map_err(|errno| {
            let name = name.escape_ascii();
            let message = format!("NOTIFY_SOCKET is `{name}`, which is not /PATH or @NAME");
            Error::new(ErrorKind::Usage, message).caused_by(errno)
        })?;
        let cannot = |errno| Error::system("cannot talk to systemd", errno);
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket =
            socket(AddressFamily::Unix, SockType::Datagram, flags, None).map_err(cannot)?;
        setsockopt(&socket, SendTimeout, &TimeVal::seconds(SEND_TIME)).map_err(cannot)?;
        Ok(Self { socket, address })
    }

    /// Reports that the start or a reload is complete. A reload that failed without any change is
    /// also complete.
    ///
    /// # Errors
    ///
    /// Returns the errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.ready()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1", &[])
    }

    /// Reports that a reload begins. [`ready`](Notifier::ready) ends it.
    ///
    /// # Errors
    ///
    /// Returns the errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.reloading()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reloading(&self) -> io::Result<()> {
        self.send(&reloading()?, &[])
    }

    /// Reports that the service stops. This is final.
    ///
    /// # Errors
    ///
    /// Returns the errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.stopping()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1", &[])
    }

    /// Sets the status shown by `systemctl status`, one line.
    ///
    /// # Errors
    ///
    /// Returns the errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.status("4 workers are ready")?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", status_line(text)), &[])
    }

    /// Makes another process the main process of the service.
    ///
    /// # Errors
    ///
    /// Returns the errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.main_pid(std::process::id())?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn main_pid(&self, pid: u32) -> io::Result<()> {
        self.send(&format!("MAINPID={pid}"), &[])
    }

    /// Reports that the service is alive. Call it at least once within each [`watchdog_time`].
    ///
    /// # Errors
    ///
    /// Returns the errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.watchdog()?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn watchdog(&self) -> io::Result<()> {
        self.send("WATCHDOG=1", &[])
    }

    /// Extends the time limit of the current start, reload or stop to this duration from now.
    ///
    /// # Errors
    ///
    /// Returns the errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.extend_timeout(std::time::Duration::from_secs(30))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn extend_timeout(&self, time: Duration) -> io::Result<()> {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()), &[])
    }

    /// Stores descriptors in systemd, at most 253. The service's next process receives them under
    /// this name. The unit sets their maximum number with `FileDescriptorStoreMax=`, which is 0 by
    /// default.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::InvalidInput`] if systemd would not accept the name, which must
    /// have 1 to 255 ASCII characters, no control characters and no colon. Otherwise returns the
    /// errors of sendmsg(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::net::TcpListener;
    /// use std::os::fd::AsFd;
    /// use release_core::systemd::Notifier;
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.store("http", &[listener.as_fd()])?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn store(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        check_name(name)?;
        self.send(&format!("FDSTORE=1\nFDNAME={name}"), descriptors)
    }

    /// Removes the descriptors that systemd stores under this name. They are closed.
    ///
    /// # Errors
    ///
    /// Returns the same errors as [`store`](Notifier::store).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.remove_stored("http")?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn remove_stored(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    /// Waits until systemd has processed all previous messages. Use it in a process that is about
    /// to exit: systemd may otherwise be unable to attribute its last messages. Blocks the thread.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::TimedOut`], or the errors of sendmsg(2) and pipe(2).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::systemd::Notifier;
    ///
    /// if let Some(systemd) = Notifier::from_env()? {
    ///     systemd.barrier(std::time::Duration::from_secs(1))?;
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn barrier(&self, time: Duration) -> io::Result<()> {
        let (ours, theirs) = io::pipe()?;
        self.send("BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        // Without an end if the clock cannot count so far.
        let deadline = Instant::now().checked_add(time);
        loop {
            let rest = deadline.map_or(time, |it| it.saturating_duration_since(Instant::now()));
            let rest = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], rest) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Err(Errno::EINTR) => {}
                // Closed at the other end, which is the only event that it can have.
                polled => return polled.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Sends a message if there is room for it now.
    ///
    /// # Errors
    ///
    /// Returns [`io::ErrorKind::WouldBlock`] if there is no room, and otherwise the errors of
    /// sendmsg(2).
    pub(crate) fn post(&self, message: &str) -> io::Result<()> {
        self.send_with(message, &[], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    fn send(&self, message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        self.send_with(message, descriptors, MsgFlags::MSG_NOSIGNAL)
    }

    fn send_with(
        &self,
        message: &str,
        descriptors: &[BorrowedFd<'_>],
        flags: MsgFlags,
    ) -> io::Result<()> {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights };
        let parts = [IoSlice::new(message.as_bytes())];
        loop {
            match sendmsg(self.socket.as_raw_fd(), &parts, control, flags, Some(&self.address)) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }
}

/// Formats the beginning of a reload: one message that includes the time, by which
/// `Type=notify-reload` distinguishes reloads.
pub(crate) fn reloading() -> io::Result<String> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_micros();
    Ok(format!("RELOADING=1\nMONOTONIC_USEC={now}"))
}

/// Formats a status as one line of the allowed length.
pub(crate) fn status_line(text: &str) -> String {
    let mut line = text.replace(char::is_control, " ");
    line.truncate(beginning(&line, STATUS_LENGTH).len());
    line
}

fn check_name(name: &str) -> io::Result<()> {
    let fits = (1..=255).contains(&name.len());
    if fits && name.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b':') {
        return Ok(());
    }
    let message = format!("`{}` cannot be the name of a descriptor", name.escape_debug());
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Returns the interval within which this process must call [`Notifier::watchdog`], if systemd
/// requires it (`WatchdogSec=`). The usual rate is twice per interval.
///
/// # Examples
///
/// ```
/// use release_core::systemd::watchdog_time;
///
/// // systemd expects a message at least this often.
/// if let Some(time) = watchdog_time() {
///     println!("every {time:?}");
/// }
/// ```
#[must_use]
pub fn watchdog_time() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    watchdog(variable("WATCHDOG_USEC")?, variable("WATCHDOG_PID"))
}

/// Returns how many descriptors systemd stores for this service, as reported since version 254.
pub(crate) fn store_size() -> Option<usize> {
    std::env::var("FDSTORE").ok()?.parse().ok()
}

#[allow(clippy::needless_pass_by_value, reason = "what the environment gives")]
fn watchdog(time: String, pid: Option<String>) -> Option<Duration> {
    let time = time.parse().ok().filter(|time| *time > 0).map(Duration::from_micros);
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    time.filter(|_| is_ours)
}
