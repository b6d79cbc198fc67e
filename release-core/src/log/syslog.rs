//! Sends messages to the system's log daemon without ever waiting.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Socket at which log daemons listen.
const PATH: &str = "/dev/log";

/// Longer messages are truncated: log daemons do the same.
const LONGEST: usize = 8 * 1024;

/// The facility of daemons, in a message's priority.
const DAEMON: u8 = 3 << 3;

const ERROR: u8 = DAEMON | 3;
const WARNING: u8 = DAEMON | 4;
const INFO: u8 = DAEMON | 6;
const DEBUG: u8 = DAEMON | 7;

/// The connection to the log daemon, under a name.
#[derive(Debug)]
pub(super) struct Syslog {
    name: String,
    connection: Mutex<SyslogSocket>,
}

#[derive(Debug, Default)]
struct SyslogSocket {
    socket: Option<UnixDatagram>,
    /// Number of messages that it had no room for.
    lost: u64,
}

/// A message of this priority.
pub(super) struct SyslogMessage<'a> {
    syslog: &'a Syslog,
    priority: u8,
}

impl Syslog {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), connection: Mutex::default() }
    }

    /// The message has no timestamp: the time of arrival is used.
    fn message(&self, priority: u8, text: &[u8]) -> Vec<u8> {
        // Queried for each message: a process that becomes a daemon gets another pid.
        let mut message =
            format!("<{priority}>{}[{}]: ", self.name, std::process::id()).into_bytes();
        message.extend_from_slice(&text[..text.len().min(LONGEST)]);
        message
    }

    fn log(&self, priority: u8, text: &[u8]) {
        let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        if connection.lost > 0 {
            let lost = format!("{} lines are lost", connection.lost);
            if connection.send(&self.message(WARNING, lost.as_bytes())).is_ok() {
                connection.lost = 0;
            }
        }
        // In the order of arrival, or not at all.
        if connection.lost > 0 || connection.send(&self.message(priority, text)).is_err() {
            connection.lost += 1;
        }
    }
}

impl SyslogSocket {
    /// Reconnects if the log daemon is gone.
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if let Some(socket) = &self.socket {
            match socket.send(message) {
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => {}
                sent => return sent.map(drop),
            }
        }
        self.socket = None;
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.connect(PATH)?;
        self.socket.insert(socket).send(message).map(drop)
    }
}

impl<'a> MakeWriter<'a> for Syslog {
    type Writer = SyslogMessage<'a>;

    fn make_writer(&'a self) -> SyslogMessage<'a> {
        SyslogMessage { syslog: self, priority: INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> SyslogMessage<'a> {
        let priority = match *event.level() {
            Level::ERROR => ERROR,
            Level::WARN => WARNING,
            Level::INFO => INFO,
            _ => DEBUG,
        };
        SyslogMessage { syslog: self, priority }
    }
}

impl Write for SyslogMessage<'_> {
    /// Sends an event, one message per line. The program cannot act on the outcome.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let lines = event.strip_suffix(b"\n").unwrap_or(event);
        lines.split(|byte| *byte == b'\n').for_each(|line| self.syslog.log(self.priority, line));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
