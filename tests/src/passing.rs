//! Messages with descriptors, for tests of both ends in this process.

use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
pub use release_core::ipc::Descriptor;
use release_core::ipc::{ConnectOptions, Ended, Never, Peer, Postcard, Refused, Request};
use release_core::rt::{Rt, Task};
use serde::{Deserialize, Serialize};

use crate::{DEADLINE, eventually, send_descriptors};

/// A message that holds descriptors here and there.
#[derive(Debug, Serialize, Deserialize)]
pub enum Pass {
    /// None.
    Nothing(String),
    /// To be sent back, after so many milliseconds.
    Back { after: u64, words: String, passed: Vec<Option<Descriptor>> },
    /// To be read to its end; the words are the answer.
    Read(Descriptor),
    /// To be written to.
    Write { words: String, to: Descriptor },
    /// To be kept for as long as anybody waits for the answer.
    Hold(Vec<Descriptor>),
    /// To be sent so many copies of this, in an answer.
    Copies(usize, Descriptor),
}

impl Request for Pass {
    type Response = Passed;
}

/// The answer to [`Pass`].
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Passed {
    /// What was read, or asked.
    pub words: String,
    /// What came, or was asked for.
    pub passed: Vec<Option<Descriptor>>,
}

/// The honest handler.
pub async fn pass(rt: Rt, request: Pass) -> Result<Passed, Refused> {
    let words = match request {
        Pass::Nothing(words) => words,
        Pass::Back { after, words, passed } => {
            if after > 0 {
                rt.sleep(Duration::from_millis(after)).await;
            }
            return Ok(Passed { words, passed });
        }
        Pass::Read(descriptor) => {
            let mut words = String::new();
            std::fs::File::from(OwnedFd::from(descriptor)).read_to_string(&mut words)?;
            words
        }
        Pass::Write { words, to } => {
            nix::unistd::write(&to, words.as_bytes())?;
            words
        }
        Pass::Hold(_held) => std::future::pending().await,
        Pass::Copies(count, descriptor) => {
            let copies = (0..count).map(|_| Ok(Some(copy(&descriptor)?)));
            return Ok(Passed {
                passed: copies.collect::<std::io::Result<_>>()?,
                ..Passed::default()
            });
        }
    };
    Ok(Passed { words, ..Passed::default() })
}

/// Another descriptor of the same.
pub fn copy(of: &impl AsFd) -> std::io::Result<Descriptor> {
    Ok(of.as_fd().try_clone_to_owned()?.into())
}

/// A connection to the honest handler, with this limit on both sides.
#[derive(Debug)]
pub struct Passing {
    /// One end.
    pub peer: Peer<Pass>,
    /// The other end.
    pub other: Peer<Pass>,
    /// The tasks that serve them.
    pub serving: [Task<Ended>; 2],
}

impl Passing {
    /// Connects both ends.
    #[must_use]
    pub fn new(rt: &Rt, most: u8) -> Self {
        let (here, there) = UnixStream::pair().expect("a pair");
        let ((peer, first), (other, second)) =
            (connect_end(rt, here, most), connect_end(rt, there, most));
        Self { peer, other, serving: [first, second] }
    }
}

/// One end of a connection, which asks and answers.
pub fn connect_end(rt: &Rt, socket: UnixStream, most: u8) -> (Peer<Pass>, Task<Ended>) {
    let handler_rt = rt.clone();
    let answer = move |request| pass(handler_rt.clone(), request);
    let options = ConnectOptions::new().descriptors(most);
    options
        .connect::<Pass, Pass, _, _, _>(rt, socket.into(), Postcard, answer)
        .expect("a connection")
}

/// An end that only answers, and the socket of a peer that sends what it likes.
pub fn hostile(rt: &Rt, most: u8) -> (UnixStream, Task<Ended>) {
    let (here, there) = UnixStream::pair().expect("a pair");
    there.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let handler_rt = rt.clone();
    let answer = move |request| pass(handler_rt.clone(), request);
    let options = ConnectOptions::new().descriptors(most);
    let end = options.connect::<Never, Pass, _, _, _>(rt, here.into(), Postcard, answer);
    let (peer, serving) = end.expect("a connection");
    // Somebody may have the connection for longer than it lasts.
    let keeping = async move {
        std::future::pending::<()>().await;
        drop(peer);
    };
    rt.spawn(keeping).detach();
    (there, serving)
}

/// The writing end of a pipe in many copies, and its reading end, which tells when all are closed.
#[derive(Debug)]
pub struct Witness {
    reader: PipeReader,
    /// The one that is passed on.
    pub writer: PipeWriter,
}

impl Default for Witness {
    fn default() -> Self {
        let (reader, writer) = pipe().expect("a pipe");
        Self { reader, writer }
    }
}

impl Witness {
    /// Sends bytes with so many copies.
    #[track_caller]
    pub fn send(&self, socket: &UnixStream, bytes: &[u8], count: usize) {
        let copies: Vec<BorrowedFd<'_>> = vec![self.writer.as_fd(); count];
        // The kernel limits how many descriptors of one user are on their way: those of the tests
        // that run at the same time have to arrive first.
        eventually("the descriptors can be sent", || {
            match send_descriptors(socket, bytes, &copies) {
                Ok(sent) => sent == bytes.len(),
                // The other side has ended the connection already.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => true,
                Err(error) => {
                    assert_eq!(error.raw_os_error(), Some(Errno::ETOOMANYREFS as i32), "{error}");
                    false
                }
            }
        });
    }

    /// Copies for a message.
    #[must_use]
    pub fn copies(&self, count: usize) -> Vec<Descriptor> {
        (0..count).map(|_| copy(&self.writer).expect("a duplicate")).collect()
    }

    /// Waits until nobody has a copy any more.
    pub async fn is_alone(self, rt: &Rt) {
        let Self { reader, writer } = self;
        drop(writer);
        let deadline = rt.now() + DEADLINE / 2;
        fcntl(&reader, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a pipe");
        while nix::unistd::read(&reader, &mut [0]) == Err(Errno::EAGAIN) {
            assert!(rt.now() < deadline, "somebody keeps a descriptor");
            rt.sleep(Duration::from_millis(2)).await;
        }
    }
}
