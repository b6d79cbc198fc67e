//! Readiness as einhorn has it: a line at its command socket.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::inbox::{AllowedSender, Inbox};
use super::socket_directory::{SocketDirectory, SocketPath};
use crate::Error;
use crate::net::{Credentials, Passive, Socket, Unix};
use crate::rt::Rt;
use crate::sys::rights;
use crate::sys::untrusted::Untrusted;
use futures_util::future::{Either, select};

/// The longest line.
const LONGEST: usize = 1024;

/// How many bytes all lines of a process may have.
const MOST: usize = 64 * 1024;

/// How long a connection has for its line.
const TIME: Duration = Duration::from_secs(5);

/// The two ways to acknowledge that one process has.
#[derive(Debug)]
pub(super) struct Acknowledgement {
    listener: OwnedFd,
    file: SocketPath,
    passed: OwnedFd,
}

impl Acknowledgement {
    /// And the descriptor that the process gets.
    pub(super) fn new(directory: &Arc<SocketDirectory>) -> Result<(Self, OwnedFd), Error> {
        let errno = |error: io::Error| {
            nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
        };
        let (listener, file) = directory.socket(|path| UnixListener::bind(path).map_err(errno))?;
        let (passed, theirs) = crate::sys::socket::pair()
            .map_err(|error| Error::system("cannot make a socket pair", error))?;
        let listener = OwnedFd::from(listener);
        rights::refuse(listener.as_fd());
        rights::refuse(passed.as_fd());
        Ok((Self { listener, file, passed }, theirs))
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Waits until the process has acknowledged in one way or the other.
    pub(super) async fn wait(self, rt: &Rt, sender: AllowedSender) -> Result<(), Error> {
        let failed = |error| Error::system("its acknowledgement", error);
        let mut passed = LineReader::new(Inbox::new(rt, self.passed).map_err(failed)?);
        let by_path = pin!(at_listener(rt, self.listener, sender));
        let by_descriptor = pin!(async {
            while let Some(line) = passed.next().await {
                if is_acknowledgement(&line, sender) {
                    return;
                }
            }
            // Closed by a program that connects instead.
            std::future::pending().await
        });
        match select(by_path, by_descriptor).await {
            Either::Left((outcome, _)) => outcome,
            Either::Right(((), _)) => Ok(()),
        }
    }
}

async fn at_listener(rt: &Rt, listener: OwnedFd, sender: AllowedSender) -> Result<(), Error> {
    let failed = |error| Error::system("its acknowledgement", error);
    // Connections that nobody accepts are closed with it, and what waits in them.
    let last = (!rights::refuses(listener.as_fd())).then(|| listener.try_clone());
    let _last = last.transpose().map_err(failed)?.map(Untrusted::from);
    let mut listener = Socket::<Passive, Unix>::inherited(rt, listener)?;
    loop {
        let socket = listener.accept_descriptor().await.map_err(failed)?;
        let peer = Credentials::of_peer(&socket);
        let Ok(inbox) = Inbox::new(rt, socket) else { continue };
        // Nobody waits for a stranger's line.
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

/// The lines that arrive.
struct LineReader {
    inbox: Inbox,
    unread: Vec<u8>,
    /// How many bytes have come in all.
    seen: usize,
}

impl LineReader {
    fn new(inbox: Inbox) -> Self {
        Self { inbox, unread: Vec::new(), seen: 0 }
    }

    /// `None` when there is no more, one that is too long, or more than anybody has to say.
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

/// Whether a line acknowledges the worker, or a process of its group.
///
/// einhorn's is a YAML document with its line ends as `%0A`; JSON is YAML, too.
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
