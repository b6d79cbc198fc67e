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

/// How long a message may take to be accepted: systemd itself may be busy, but not for ever.
const SEND_TIME: i64 = 1;

/// What one line of status may have, in bytes.
const STATUS_LENGTH: usize = 1024;

/// The connection to systemd. Cheap: a socket that nobody reads.
///
/// Errors are those of the system when a message cannot be sent. A service goes on without it.
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
        // In one message with the time, by which `Type=notify-reload` tells one reload from another.
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
        let now = Duration::from(now).as_micros();
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={now}"), &[])
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
        let line = text.replace(char::is_control, " ");
        let end = line.floor_char_boundary(STATUS_LENGTH);
        self.send(&format!("STATUS={}", &line[..end]), &[])
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

    fn send(&self, message: &str, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let numbers: Vec<_> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&numbers)];
        let control = if numbers.is_empty() { &[][..] } else { &rights };
        let parts = [IoSlice::new(message.as_bytes())];
        loop {
            let flags = MsgFlags::MSG_NOSIGNAL;
            match sendmsg(self.socket.as_raw_fd(), &parts, control, flags, Some(&self.address)) {
                Err(Errno::EINTR) => {}
                sent => return sent.map(drop).map_err(io::Error::from),
            }
        }
    }
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

#[allow(clippy::needless_pass_by_value, reason = "what the environment gives")]
fn watchdog(time: String, pid: Option<String>) -> Option<Duration> {
    let time = time.parse().ok().filter(|time| *time > 0).map(Duration::from_micros);
    let is_ours = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    time.filter(|_| is_ours)
}

#[cfg(test)]
mod tests {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    use nix::sys::socket::{ControlMessageOwned, recvmsg};

    use super::*;
    use crate::sys::fds::take_inherited;

    /// A recorded `NOTIFY_SOCKET`.
    struct Systemd {
        socket: UnixDatagram,
        _directory: tempfile::TempDir,
        notifier: Notifier,
    }

    impl Systemd {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("notify");
            let socket = UnixDatagram::bind(&path).unwrap();
            let notifier = Notifier::new(path.as_os_str().as_encoded_bytes()).unwrap();
            Self { socket, _directory: directory, notifier }
        }

        /// The next message, and what came with it.
        fn hear(&self) -> (String, Vec<OwnedFd>) {
            let (mut bytes, mut space) = ([0; 4096], nix::cmsg_space!([i32; 253]));
            let mut parts = [io::IoSliceMut::new(&mut bytes)];
            let (fd, flags) = (self.socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let heard = recvmsg::<()>(fd, &mut parts, Some(&mut space), flags).unwrap();
            let mut descriptors = Vec::new();
            for message in heard.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(numbers) = message {
                    let owned = numbers.into_iter().map(|number| take_inherited(number).unwrap());
                    descriptors.extend(owned);
                }
            }
            let length = heard.bytes;
            (String::from_utf8(bytes[..length].to_vec()).unwrap(), descriptors)
        }

        fn hears(&self, expected: &str) {
            assert_eq!(self.hear().0, expected);
        }
    }

    #[test]
    fn each_message_is_as_systemd_wants_it() {
        let systemd = Systemd::new();
        let notifier = &systemd.notifier;
        notifier.ready().unwrap();
        systemd.hears("READY=1");
        notifier.stopping().unwrap();
        systemd.hears("STOPPING=1");
        notifier.status("two\nlines\tand ünicode").unwrap();
        systemd.hears("STATUS=two lines and ünicode");
        notifier.status(&"ü".repeat(1000)).unwrap();
        systemd.hears(&format!("STATUS={}", "ü".repeat(512)));
        notifier.main_pid(7).unwrap();
        systemd.hears("MAINPID=7");
        notifier.watchdog().unwrap();
        systemd.hears("WATCHDOG=1");
        notifier.extend_timeout(Duration::from_millis(1500)).unwrap();
        systemd.hears("EXTEND_TIMEOUT_USEC=1500000");
        notifier.remove_stored("web").unwrap();
        systemd.hears("FDSTOREREMOVE=1\nFDNAME=web");
    }

    #[test]
    fn a_reload_has_its_time_in_the_same_message() {
        let systemd = Systemd::new();
        systemd.notifier.reloading().unwrap();
        let message = systemd.hear().0;
        let time = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("both");
        let time = Duration::from_micros(time.parse().unwrap());
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
        assert!(time <= now && now - time < Duration::from_secs(60), "{time:?} {now:?}");
    }

    #[test]
    fn descriptors_are_stored_by_their_name() {
        let systemd = Systemd::new();
        let (reader, writer) = io::pipe().unwrap();
        systemd.notifier.store("web", &[reader.as_fd(), writer.as_fd()]).unwrap();
        let (message, descriptors) = systemd.hear();
        assert_eq!((message.as_str(), descriptors.len()), ("FDSTORE=1\nFDNAME=web", 2));
        for name in ["", "a:b", "a\nb", "ü", &"x".repeat(256)] {
            let error = systemd.notifier.store(name, &[]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
    }

    #[test]
    fn a_barrier_waits_until_it_is_closed() {
        let systemd = Systemd::new();
        let soon = Duration::from_millis(20);
        let late = systemd.notifier.barrier(soon).unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let (message, descriptors) = systemd.hear();
        assert_eq!((message.as_str(), descriptors.len()), ("BARRIER=1", 1));
        drop(descriptors);
        std::thread::scope(|scope| {
            let barrier = scope.spawn(|| systemd.notifier.barrier(Duration::from_secs(20)));
            let mut sources = [PollFd::new(systemd.socket.as_fd(), PollFlags::POLLIN)];
            poll(&mut sources, PollTimeout::NONE).unwrap();
            drop(systemd.hear());
            barrier.join().unwrap().unwrap();
        });
    }

    #[test]
    fn an_abstract_name_is_as_good_as_a_path() {
        let name = format!("release-core-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let socket = UnixDatagram::bind_addr(&address).unwrap();
        Notifier::new(format!("@{name}").as_bytes()).unwrap().ready().unwrap();
        let mut bytes = [0; 20];
        let length = socket.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1");
    }

    #[test]
    fn what_is_no_socket_of_systemd_is_refused() {
        let long = [b"/".as_slice(), &[b'x'; 200]].concat();
        for name in [b"".as_slice(), b"@", b"vsock:2:1234", b"relative", &long] {
            let error = Notifier::new(name).unwrap_err();
            assert!(error.report().contains("which is not /PATH or @NAME"), "{error}");
        }
        let nobody = Notifier::new(b"/no/such/socket").unwrap().ready().unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_watchdog_is_for_the_process_that_it_names() {
        let own = std::process::id().to_string();
        let watchdog = |time: &str, pid: Option<&str>| watchdog(time.into(), pid.map(Into::into));
        let time = Some(Duration::from_secs(3));
        assert_eq!(watchdog("3000000", None), time);
        assert_eq!(watchdog("3000000", Some(&own)), time);
        for (microseconds, pid) in [("3000000", "1"), ("3000000", ""), ("0", &own), ("x", &own)] {
            assert_eq!(watchdog(microseconds, Some(pid)), None);
        }
    }
}
