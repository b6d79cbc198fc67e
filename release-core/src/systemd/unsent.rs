//! Messages that systemd has no room for at the moment, in sending order.

use std::io;

use super::Notifier;

/// The subject of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MessageKind {
    MainPid,
    /// The end of the start.
    Started,
    /// The beginning and the end of a change.
    Reloading,
    Ready,
    Stopping,
    Status,
    Extend,
    Watchdog,
}

impl MessageKind {
    /// Returns whether an earlier message is superseded by this one. For waiting listeners, the
    /// ends of several changes are one event.
    fn replaces(self, earlier: Self) -> bool {
        self == earlier || (self == Self::Reloading && earlier == Self::Ready)
    }
}

/// Messages that wait for room: the latest of each kind.
#[derive(Debug, Default)]
pub(crate) struct Unsent(Vec<(MessageKind, String)>);

impl Unsent {
    pub(crate) fn push(&mut self, kind: MessageKind, message: String) {
        self.0.retain(|(earlier, _)| !kind.replaces(*earlier));
        self.0.push((kind, message));
    }

    /// Returns whether a message of this kind waits.
    pub(crate) fn has(&self, kind: MessageKind) -> bool {
        self.0.iter().any(|(other, _)| *other == kind)
    }

    /// Sends as many messages as there is room for, and keeps the rest.
    pub(crate) fn send(&mut self, notifier: &Notifier) -> io::Result<()> {
        let mut sent = 0;
        let outcome = self.0.iter().try_for_each(|(_, message)| {
            notifier.post(message)?;
            sent += 1;
            Ok(())
        });
        self.0.drain(..sent);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn the_latest_of_each_kind_is_sent_when_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let notifier = Notifier::new(path.as_os_str().as_encoded_bytes()).unwrap();
        while notifier.post("x").is_ok() {}
        let mut unsent = Unsent::default();
        unsent.push(MessageKind::Started, "READY=1 of the start".to_owned());
        for round in 1..1000 {
            unsent.push(MessageKind::Watchdog, "WATCHDOG=1".to_owned());
            unsent.push(MessageKind::Reloading, format!("RELOADING={round}"));
            unsent.push(MessageKind::Status, format!("STATUS={round}"));
            unsent.push(MessageKind::Ready, format!("READY=1 after {round}"));
        }
        unsent.push(MessageKind::Reloading, "RELOADING=last".to_owned());
        unsent.push(MessageKind::Stopping, "STOPPING=1".to_owned());
        assert_eq!(unsent.send(&notifier).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let mut bytes = [0; 100];
        let mut heard = Vec::new();
        while unsent.has(MessageKind::Stopping) {
            while let Ok(length) = systemd.recv(&mut bytes) {
                heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
            }
            let _ = unsent.send(&notifier);
        }
        while let Ok(length) = systemd.recv(&mut bytes) {
            heard.push(String::from_utf8_lossy(&bytes[..length]).into_owned());
        }
        heard.retain(|message| message != "x");
        let expected =
            ["READY=1 of the start", "WATCHDOG=1", "STATUS=999", "RELOADING=last", "STOPPING=1"];
        assert_eq!(heard, expected);
    }
}
