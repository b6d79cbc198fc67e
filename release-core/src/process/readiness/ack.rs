//! Readiness as in einhorn: the worker writes a line to a command socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::duplicate;
use super::inbox::{AllowedSender, ReadinessSocket};
use super::socket_directory::{SocketDirectory, SocketPath};
use crate::Error;
use crate::ipc::Descriptor;
use crate::kept;
use crate::net::{Credentials, Passive, Socket, Unix};
use crate::rt::{Io, Rt};
use crate::sys::rights;
use crate::sys::untrusted::close;
use futures_util::future::{Either, select};

/// Maximum line length.
const LONGEST: usize = 1024;

/// Maximum number of bytes of all lines of a connection.
const MOST: usize = 64 * 1024;

/// Time limit for a connection to send its line.
const TIME: Duration = Duration::from_secs(5);

/// The two ways in which a process can acknowledge.
#[derive(Debug)]
pub(super) struct Acknowledgement {
    listener: OwnedFd,
    file: SocketPath,
    passed: OwnedFd,
}

impl Acknowledgement {
    /// Returns the master's side, and the descriptor for the process.
    pub(super) fn new(directory: &Arc<SocketDirectory>) -> Result<(Self, OwnedFd), Error> {
        let errno = |error: io::Error| {
            nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
        };
        let (listener, file) = directory.socket(|path| UnixListener::bind(path).map_err(errno))?;
        let (passed, theirs) = UnixStream::pair()
            .map_err(|error| Error::system("cannot make a socket pair", error))?;
        let (listener, passed) = (OwnedFd::from(listener), OwnedFd::from(passed));
        rights::refuse(listener.as_fd());
        rights::refuse(passed.as_fd());
        Ok((Self { listener, file, passed }, theirs.into()))
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Takes over both from an earlier version.
    pub(super) fn kept(
        listener: Descriptor,
        file: kept::SocketFile<Descriptor>,
        passed: Descriptor,
    ) -> Self {
        let file = SocketPath::kept(file);
        Self { listener: listener.into(), file, passed: passed.into() }
    }

    /// Registers the descriptor that the process has; the listener is watched while it waits.
    pub(super) fn register(self, rt: &Rt) -> io::Result<AcknowledgementInbox> {
        let Self { listener, file, passed } = self;
        let passed = Arc::new(rt.register(passed)?);
        Ok(AcknowledgementInbox { listener: Some(listener), file, passed })
    }
}

/// The two ways of a process that runs.
#[derive(Debug)]
pub(super) struct AcknowledgementInbox {
    /// Open until it is dropped.
    listener: Option<OwnedFd>,
    file: SocketPath,
    passed: Arc<Io>,
}

impl AcknowledgementInbox {
    /// Returns both for the next version of the program. A connection that was accepted and has not
    /// acknowledged yet ends.
    pub(super) fn keep(&self) -> Result<kept::ReadinessSignal<Descriptor>, Error> {
        Ok(kept::ReadinessSignal::Acknowledgement {
            listener: duplicate(&self.listener()?)?,
            file: self.file.keep()?,
            passed: duplicate(&*self.passed)?,
        })
    }

    fn listener(&self) -> Result<BorrowedFd<'_>, Error> {
        let gone = || failed(io::ErrorKind::NotConnected.into());
        self.listener.as_ref().map(AsFd::as_fd).ok_or_else(gone)
    }

    /// Waits until the process acknowledges in either way.
    pub(super) async fn wait(&self, rt: &Rt, sender: AllowedSender) -> Result<(), Error> {
        let mut passed = LineReader::new(ReadinessSocket::new(Arc::clone(&self.passed)));
        let listener = self.listener()?.try_clone_to_owned().map_err(failed)?;
        let by_path = pin!(at_listener(rt, listener, sender));
        let by_descriptor = pin!(async {
            while let Some(line) = passed.next().await {
                if is_acknowledgement(&line, sender) {
                    return;
                }
            }
            // The program has closed it and connects instead.
            std::future::pending().await
        });
        match select(by_path, by_descriptor).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(((), _)) => Ok(()),
        }
    }
}

/// Closes connections that were never accepted, with the descriptors queued in them, without waiting.
impl Drop for AcknowledgementInbox {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.take_if(|it| !rights::refuses(it.as_fd())) {
            close(listener);
        }
    }
}

fn failed(error: io::Error) -> Error {
    Error::system("its acknowledgement", error)
}

async fn at_listener(rt: &Rt, listener: OwnedFd, sender: AllowedSender) -> Result<(), Error> {
    let mut listener = Socket::<Passive, Unix>::inherited(rt, listener)?;
    loop {
        let socket = listener.accept_descriptor().await.map_err(failed)?;
        let peer = Credentials::of_peer(&socket);
        let Ok(inbox) = rt.register(socket).map(Arc::new).map(ReadinessSocket::new) else {
            continue;
        };
        // Strangers are not read, and cannot delay the worker.
        if !peer.is_ok_and(|peer| sender.allows(peer.uid, peer.pid)) {
            continue;
        }
        let mut lines = LineReader::new(inbox);
        let told = rt.timeout(TIME, lines.next()).await.ok().flatten();
        if told.is_some_and(|line| is_acknowledgement(&line, sender)) {
            return Ok(());
        }
    }
}

/// Splits received bytes into lines.
struct LineReader {
    inbox: ReadinessSocket,
    unread: Vec<u8>,
    /// Number of all bytes received.
    seen: usize,
}

impl LineReader {
    fn new(inbox: ReadinessSocket) -> Self {
        Self { inbox, unread: Vec::new(), seen: 0 }
    }

    /// Returns the next line, or `None` at the end of the stream, after a line that is too long,
    /// and after too many bytes.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                return Some(String::from_utf8_lossy(&line).into_owned());
            }
            let mut bytes = [0; 256];
            let count = self.inbox.receive(&mut bytes).await.ok()?.bytes;
            self.seen += count;
            if count == 0 || self.unread.len() > LONGEST || self.seen > MOST {
                return None;
            }
            self.unread.extend_from_slice(&bytes[..count]);
        }
    }
}

/// Returns whether a line acknowledges the worker, or a process of its group.
///
/// einhorn sends a YAML document with line ends as `%0A`; JSON is YAML, too.
fn is_acknowledgement(line: &str, sender: AllowedSender) -> bool {
    let document = line.replace("%0A", "\n").replace("%25", "%");
    let (mut command, mut pid) = (None, None);
    for entry in document.split([',', '\n', '{', '}']) {
        let Some((key, value)) = entry.split_once(": ").or_else(|| entry.split_once(':')) else {
            continue;
        };
        let bare = |word: &str| word.trim().trim_matches(['"', '\'']).to_owned();
        match bare(key).as_str() {
            "command" => command = Some(bare(value)),
            "pid" => pid = bare(value).parse().ok(),
            _ => {}
        }
    }
    command.as_deref() == Some("worker:ack")
        && pid.is_some_and(|pid| sender.allows(sender.uid.as_raw(), pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_of_einhorn_are_understood() {
        let own = nix::unistd::getpid();
        let sender = AllowedSender { uid: nix::unistd::geteuid(), worker: own };
        let is = |line: &str| is_acknowledgement(&line.replace("PID", &own.to_string()), sender);
        assert!(is("{\"command\":\"worker:ack\",\"pid\":PID}\n"));
        assert!(is("{\"pid\": PID, \"command\": \"worker:ack\"}\n"));
        assert!(is("---%0Acommand: worker:ack%0Apid: PID%0A\n"));
        for wrong in [
            "",
            "READY=1",
            "{\"command\":\"worker:ack\"}",
            "{\"command\":\"worker:ack\",\"pid\":1}",
            "{\"command\":\"worker:ack\",\"pid\":-1}",
            "{\"command\":\"worker:ack\",\"pid\":99999999999999999999}",
            "{\"command\":\"upgrade\",\"pid\":PID}",
        ] {
            assert!(!is(wrong), "{wrong}");
        }
    }
}
