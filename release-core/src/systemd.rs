//! What a service tells systemd, or whoever listens at `NOTIFY_SOCKET`: that it is up, reloads, stops
//! or lives, and which descriptors to keep for it.
//!
//! Every message is one datagram of lines `NAME=VALUE`. Nobody says whether it was understood.

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

use crate::{Error, ErrorKind};

#[cfg(test)]
mod tests;
mod unsent;

pub(crate) use unsent::{Kind, Unsent};

/// How long a message may take to be accepted: systemd itself may be busy, but not for ever.
const SEND_TIME: i64 = 1;

/// What one line of status may have, in bytes.
const STATUS_LENGTH: usize = 1024;

/// The connection to systemd. Cheap: a socket that nobody reads.
///
/// Each method waits up to a second for room in that socket. Errors are those of the system when a
/// message cannot be sent. A service goes on without it.
///
/// [`Master::systemd`](crate::Master::systemd) never waits: what there is no room for is kept, the
/// latest of each kind, and sent later.
///
/// # Examples
///
/// ```
/// use release_core::systemd::Notifier;
///
/// // None when the service was not started by somebody who listens.
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
    /// The one that `NOTIFY_SOCKET` names, if it is set.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Usage`] when it names something else than a Unix socket by its path or, with `@`,
    /// by its abstract name.
    pub fn from_env() -> Result<Option<Self>, Error> {
        std::env::var_os("NOTIFY_SOCKET").map(|name| Self::new(name.as_encoded_bytes())).transpose()
    }

    /// The socket of this name, which begins with `/` or `@`.
    ///
    /// # Errors
    ///
    /// As [`Notifier::from_env`].
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

    /// The start is done, or a reload is: also one that has failed and changed nothing.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn ready(&self) -> io::Result<()> {
        self.send("READY=1", &[])
    }

    /// A reload begins; [`ready`](Notifier::ready) ends it.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn reloading(&self) -> io::Result<()> {
        self.send(&reloading()?, &[])
    }

    /// The service stops; this is final.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn stopping(&self) -> io::Result<()> {
        self.send("STOPPING=1", &[])
    }

    /// What `systemctl status` shows, in one line.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn status(&self, text: &str) -> io::Result<()> {
        self.send(&format!("STATUS={}", status_line(text)), &[])
    }

    /// Another process is the service's main process from now on.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn main_pid(&self, pid: u32) -> io::Result<()> {
        self.send(&format!("MAINPID={pid}"), &[])
    }

    /// The service lives: to be said within each [`watchdog_time`].
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn watchdog(&self) -> io::Result<()> {
        self.send("WATCHDOG=1", &[])
    }

    /// The start, the reload or the stop that is going on may take so long from now.
    ///
    /// # Errors
    ///
    /// Those of sendmsg(2).
    pub fn extend_timeout(&self, time: Duration) -> io::Result<()> {
        self.send(&format!("EXTEND_TIMEOUT_USEC={}", time.as_micros()), &[])
    }

    /// Has systemd keep descriptors, at most 253, which the service's next process gets by this
    /// name. The unit says how many in `FileDescriptorStoreMax=`; none by default.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] when systemd would not take the name: it has 1 to 255 ASCII
    /// characters, no control characters and no colon. Those of sendmsg(2).
    pub fn store(&self, name: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        check_name(name)?;
        self.send(&format!("FDSTORE=1\nFDNAME={name}"), descriptors)
    }

    /// Has systemd close the descriptors that it keeps by this name.
    ///
    /// # Errors
    ///
    /// As [`store`](Notifier::store).
    pub fn remove_stored(&self, name: &str) -> io::Result<()> {
        check_name(name)?;
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[])
    }

    /// Waits until systemd has dealt with all messages before: for a process that is about to end,
    /// whose last ones may otherwise come from nobody. Blocks the thread.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::TimedOut`]; those of sendmsg(2) and pipe(2).
    pub fn barrier(&self, time: Duration) -> io::Result<()> {
        let (ours, theirs) = io::pipe()?;
        self.send("BARRIER=1", &[theirs.as_fd()])?;
        drop(theirs);
        let deadline = Instant::now() + time;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let rest = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(ours.as_fd(), PollFlags::empty())], rest) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Err(Errno::EINTR) => {}
                // Closed at the other end, which is the only thing that can happen to it.
                polled => return polled.map(drop).map_err(io::Error::from),
            }
        }
    }

    /// Sends a message if there is room for it now.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::WouldBlock`] when there is none; those of sendmsg(2).
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

/// That a reload begins: in one message with the time, by which `Type=notify-reload` tells one reload
/// from another.
pub(crate) fn reloading() -> io::Result<String> {
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_micros();
    Ok(format!("RELOADING=1\nMONOTONIC_USEC={now}"))
}

/// A status as one line, no longer than such a line may be.
pub(crate) fn status_line(text: &str) -> String {
    let mut line = text.replace(char::is_control, " ");
    line.truncate(line.floor_char_boundary(STATUS_LENGTH));
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

/// Within which time this process has to say [`Notifier::watchdog`], each time anew, if systemd
/// wants it to (`WatchdogSec=`): twice in this time is the custom.
#[must_use]
pub fn watchdog_time() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    watchdog(variable("WATCHDOG_USEC")?, variable("WATCHDOG_PID"))
}

/// How many descriptors systemd keeps for this service, if any: it says so from version 254 on.
pub(crate) fn store_size() -> Option<usize> {
    std::env::var("FDSTORE").ok()?.parse().ok()
}

#[allow(clippy::needless_pass_by_value, reason = "what the environment gives")]
fn watchdog(time: String, pid: Option<String>) -> Option<Duration> {
    let time = time.parse().ok().filter(|time| *time > 0).map(Duration::from_micros);
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    time.filter(|_| is_ours)
}
