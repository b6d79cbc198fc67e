//! `Descriptor`: an open file, socket or pipe as a part of a message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::fds::duplicate_from;
use crate::sys::untrusted::Untrusted;

/// An open file, socket, pipe or the like, anywhere inside a request, an answer or a notice.
///
/// The other process gets a descriptor of its own for the same open file, close-on-exec. The sender
/// keeps its own: a message is borrowed to be sent, and a duplicate travels. A message that is not
/// sent, not read, or not decoded leaves no descriptor behind on either side.
///
/// To close a descriptor may block, for as long as the process that sent it likes: a socket that
/// lingers, or a file of a network file system. One that came with a message and is dropped as a
/// `Descriptor` is therefore closed by another thread, soon afterwards. Once you have made a file or a
/// socket of it, dropping that is up to you: do it in [`Rt::unblock`](crate::rt::Rt::unblock) where the
/// sender is not trusted.
///
/// Both sides of a connection have to allow it: [`Workers::descriptors`] and
/// [`Worker::descriptors`]. Connections in plain mode never carry any.
///
/// With a codec of your own it works as with postcard, as long as the codec is made of serde: in the
/// payload it is a small number, its place among the descriptors of the message. Each place is taken
/// once, hence it cannot stand in an untagged enum behind another variant that takes it.
///
/// # What a peer may send
///
/// Anything that can be open: look at what came before you use it. Both processes share one *open
/// file description*: its position, and whether it blocks. A directory, in a process that is
/// confined to another root, is a way out of it. A socket that would linger when it is closed
/// (`SO_LINGER`), and so block the one who closes it, has been told not to; the sender can undo that
/// for as long as it has the socket too.
///
/// # Examples
///
/// A master that opens files for workers that may not:
///
/// ```
/// use std::fs::File;
/// use release_core::Workers;
/// use release_core::ipc::{Descriptor, Request};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Open;
/// impl Request for Open {
///     type Response = Option<Descriptor>;
/// }
///
/// let workers = Workers::same_executable("reader", 2)
///     .user("nobody")
///     .descriptors(1)
///     .answer(|_, Open| async { Ok(File::open("/var/log/syslog").ok().map(Descriptor::new)) });
/// # let _ = workers;
/// ```
///
/// and what a worker makes of the answer:
///
/// ```
/// # use release_core::ipc::Descriptor;
/// use std::fs::File;
/// use std::os::fd::OwnedFd;
///
/// fn file(answer: Descriptor) -> File {
///     File::from(OwnedFd::from(answer))
/// }
/// # let _ = file(Descriptor::new(File::open("/dev/null")?));
/// # Ok::<(), std::io::Error>(())
/// ```
///
/// # Errors
///
/// Outside of a message on such a connection it can be neither serialized nor deserialized.
///
/// [`Workers::descriptors`]: crate::Workers::descriptors
/// [`Worker::descriptors`]: crate::Worker::descriptors
#[derive(Debug)]
pub struct Descriptor(Source);

#[derive(Debug)]
enum Source {
    Local(OwnedFd),
    /// It came with a message.
    Received(Untrusted),
}

impl Descriptor {
    /// A file, a socket, or what else owns a descriptor.
    pub fn new(owner: impl Into<OwnedFd>) -> Self {
        Self(Source::Local(owner.into()))
    }

    /// Duplicates descriptors, for the next process image.
    pub(crate) fn duplicates(descriptors: &[impl AsFd]) -> io::Result<Vec<Self>> {
        let duplicates = descriptors.iter().map(|one| duplicate_from(one.as_fd(), 3));
        duplicates.map(|one| one.map(Self::from)).collect()
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self(Source::Local(fd))
    }
}

impl From<Untrusted> for Descriptor {
    fn from(fd: Untrusted) -> Self {
        Self(Source::Received(fd))
    }
}

impl From<Descriptor> for OwnedFd {
    fn from(descriptor: Descriptor) -> Self {
        match descriptor.0 {
            Source::Local(fd) => fd,
            Source::Received(fd) => fd.into(),
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::Local(fd) => fd.as_fd(),
            Source::Received(fd) => fd.as_fd(),
        }
    }
}
