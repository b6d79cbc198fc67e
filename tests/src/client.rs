//! Plain clients: frames on the control socket, GET over HTTP, with nothing of the library's own.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::DEADLINE;

/// A connection to a control socket.
#[derive(Debug)]
pub struct ControlClient(pub UnixStream);

impl ControlClient {
    /// Connects.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        Ok(Self(stream))
    }

    /// Sends a frame.
    pub fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let mut frame = length.to_be_bytes().to_vec();
        frame.extend_from_slice(payload);
        self.0.write_all(&frame)
    }

    /// Receives a frame.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let mut header = [0; 4];
        self.0.read_exact(&mut header)?;
        let length = usize::try_from(u32::from_be_bytes(header)).map_err(io::Error::other)?;
        let mut payload = vec![0; length];
        self.0.read_exact(&mut payload)?;
        Ok(payload)
    }

    /// Asks and waits for the answer.
    pub fn ask(&mut self, text: &str) -> io::Result<String> {
        self.send(text.as_bytes())?;
        String::from_utf8(self.receive()?).map_err(io::Error::other)
    }
}

/// Asks on a connection of its own.
pub fn try_control(path: &Path, text: &str) -> io::Result<String> {
    ControlClient::connect(path)?.ask(text)
}

/// Asks on a connection of its own; no answer fails the test.
#[track_caller]
pub fn control(path: &Path, text: &str) -> String {
    try_control(path, text).expect("the control socket answers")
}

/// What `service` answers to a GET.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct Answer {
    /// The worker's identity.
    pub worker: u32,
    /// Its process.
    pub pid: i32,
    /// The number from the master.
    pub seq: u64,
}

impl Answer {
    /// Reads `worker=ID pid=PID seq=N`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_whitespace();
        let mut next = |name: &str| words.next()?.strip_prefix(name)?.parse::<u64>().ok();
        let (worker, pid, seq) = (next("worker=")?, next("pid=")?, next("seq=")?);
        Some(Self { worker: u32::try_from(worker).ok()?, pid: i32::try_from(pid).ok()?, seq })
    }
}

/// An HTTP connection that stays open between requests.
#[derive(Debug)]
pub struct HttpClient {
    stream: BufReader<TcpStream>,
    is_over: bool,
    has_begun: bool,
}

impl HttpClient {
    /// Connects.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { stream: BufReader::new(stream), is_over: false, has_begun: false })
    }

    /// Sends bytes, such as a part of a request.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// Receives the answer to a GET.
    pub fn receive(&mut self) -> io::Result<Answer> {
        let mut length = 0;
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if self.stream.read_line(&mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.has_begun = true;
            let line = head[start..].to_ascii_lowercase();
            self.is_over |= line.trim() == "connection: close";
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Answer::parse(&String::from_utf8_lossy(&body)).ok_or_else(|| io::Error::other(head))
    }

    /// Sends a GET and receives its answer.
    pub fn get(&mut self) -> io::Result<Answer> {
        self.has_begun = false;
        self.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n")?;
        self.receive()
    }

    /// Whether the server has closed the connection, as it does with one that asks for nothing.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0))
    }

    /// Whether a part of the answer that was waited for last has come.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// Whether the server has said that its last answer was the last one here.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.is_over
    }
}

/// GET / on a connection of its own.
pub fn try_http_get(address: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let (head, body) = response.split_once("\r\n\r\n").unwrap_or((&response, ""));
    if !head.starts_with("HTTP/1.1 200") {
        return Err(io::Error::other(format!("answered: {response:?}")));
    }
    Answer::parse(body).ok_or_else(|| io::Error::other(format!("answered: {response:?}")))
}

/// GET / on a connection of its own; no answer fails the test.
#[track_caller]
pub fn http_get(address: SocketAddr) -> Answer {
    try_http_get(address).expect("HTTP is answered")
}

/// What is answered to a plain GET / by anything.
pub fn http_get_text(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let body = response.split("\r\n\r\n").nth(1);
    body.map(str::to_owned).ok_or_else(|| io::Error::other(response))
}

/// A request.
pub const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: test\r\n\r\n";

/// A connection whose reads end in time.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    stream
}

/// Everything until the server closes the connection.
pub fn rest(stream: &mut impl Read) -> String {
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

/// Reads until the text ends like this.
#[track_caller]
pub fn read_until(stream: &mut impl Read, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {text:?}"));
        text.push(char::from(byte[0]));
    }
    text
}
