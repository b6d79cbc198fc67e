//! Messages to the system's log daemon, which nothing waits for.

use std::io::{self, Write};
use std::os::unix::net::UnixDatagram;
use std::sync::{Mutex, PoisonError};

use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// Where log daemons listen.
const PATH: &str = "/dev/log";

/// What is longer is cut off: log daemons do no less.
const LONGEST: usize = 8 * 1024;

/// The facility of daemons, in a message's priority.
const DAEMON: u8 = 3 << 3;

const ERROR: u8 = DAEMON | 3;
const WARNING: u8 = DAEMON | 4;
const INFO: u8 = DAEMON | 6;
const DEBUG: u8 = DAEMON | 7;

/// The log daemon, under a name.
#[derive(Debug)]
pub(super) struct Syslog {
    name: String,
    connection: Mutex<Connection>,
}

#[derive(Debug, Default)]
struct Connection {
    socket: Option<UnixDatagram>,
    /// How many messages it had no room for.
    lost: u64,
}

/// One message of this priority.
pub(super) struct Message<'a> {
    syslog: &'a Syslog,
    priority: u8,
}

impl Syslog {
    pub(super) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), connection: Mutex::default() }
    }

    /// The message has no time of its own: it is that of its arrival.
    fn message(&self, priority: u8, text: &[u8]) -> Vec<u8> {
        // Asked for each time: a process that becomes a daemon gets another one.
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
        // In the order in which they came, or not at all.
        if connection.lost > 0 || connection.send(&self.message(priority, text)).is_err() {
            connection.lost += 1;
        }
    }
}

impl Connection {
    /// Connects anew when the log daemon at the other end has gone.
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
    type Writer = Message<'a>;

    fn make_writer(&'a self) -> Message<'a> {
        Message { syslog: self, priority: INFO }
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Message<'a> {
        let priority = match *event.level() {
            Level::ERROR => ERROR,
            Level::WARN => WARNING,
            Level::INFO => INFO,
            _ => DEBUG,
        };
        Message { syslog: self, priority }
    }
}

impl Write for Message<'_> {
    /// An event, each of its lines a message. Whether it was sent is nothing that a program could act
    /// upon.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let lines = event.strip_suffix(b"\n").unwrap_or(event);
        lines.split(|byte| *byte == b'\n').for_each(|line| self.syslog.log(self.priority, line));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
