//! `Descriptor`: an open file, socket or pipe in a message.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::sys::fds::duplicate_from;
use crate::sys::untrusted::Untrusted;

/// An open file, socket or pipe, anywhere in a request, an answer or a notice.
///
/// The other process receives its own descriptor of the same open file, with close-on-exec set. The
/// sender keeps its descriptor, because a duplicate is sent. If a message is not sent, not read or
/// not decoded, no descriptor stays open on either side.
///
/// Closing a descriptor may block for as long as its sender chooses, for example a socket with a
/// linger time or a file on a network file system. A received `Descriptor` that you drop is
/// therefore closed in another thread. If you convert it into a file or socket of an untrusted
/// sender, drop that in [`Rt::unblock`](crate::rt::Rt::unblock).
///
/// Both sides of a connection must allow descriptors: [`Workers::descriptors`] and
/// [`Worker::descriptors`]. Connections in plain mode never carry any.
///
/// Descriptors also work with your own codec if it is based on serde. The payload contains a small
/// number, the index among the descriptors of the message. Each index must be used exactly once.
/// Therefore a descriptor cannot be in an untagged enum after another variant that reads it.
///
/// # Security
///
/// A peer can send any kind of open file: check it before you use it. Both processes share one
/// *open file description*, with its position and its blocking mode. A directory lets a process
/// escape from its root directory. The linger time of a received socket (`SO_LINGER`) has been
/// turned off, but the sender can turn it on again while it keeps the socket.
///
/// # Examples
///
/// A master that opens files for unprivileged workers:
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
/// A worker that converts the answer into a file:
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
/// Serializing or deserializing it outside such a message returns an error.
///
/// [`Workers::descriptors`]: crate::Workers::descriptors
/// [`Worker::descriptors`]: crate::Worker::descriptors
#[derive(Debug)]
pub struct Descriptor(Origin);

#[derive(Debug)]
enum Origin {
    Local(OwnedFd),
    /// Received with a message.
    Received(Untrusted),
}

impl Descriptor {
    /// Creates a `Descriptor` from an owner of a file descriptor, such as a `File` or a socket.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::ipc::Descriptor;
    ///
    /// let descriptor = Descriptor::new(std::fs::File::open("/dev/null")?);
    /// # drop(descriptor);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(owner: impl Into<OwnedFd>) -> Self {
        Self(Origin::Local(owner.into()))
    }

    /// Duplicates the descriptor. Closing a duplicate of a received one may block like closing that one.
    pub(super) fn duplicate(&self) -> io::Result<Self> {
        let duplicate = duplicate_from(self.as_fd(), 3)?;
        Ok(match self.0 {
            Origin::Local(_) => duplicate.into(),
            Origin::Received(_) => Untrusted::from(duplicate).into(),
        })
    }

    /// Duplicates descriptors, for the next process image.
    pub(crate) fn duplicates(descriptors: &[impl AsFd]) -> io::Result<Vec<Self>> {
        let duplicates = descriptors.iter().map(|one| duplicate_from(one.as_fd(), 3));
        duplicates.map(|one| one.map(Self::from)).collect()
    }
}

impl From<OwnedFd> for Descriptor {
    fn from(fd: OwnedFd) -> Self {
        Self(Origin::Local(fd))
    }
}

impl From<Untrusted> for Descriptor {
    fn from(fd: Untrusted) -> Self {
        Self(Origin::Received(fd))
    }
}

impl From<Descriptor> for OwnedFd {
    fn from(descriptor: Descriptor) -> Self {
        match descriptor.0 {
            Origin::Local(fd) => fd,
            Origin::Received(fd) => fd.into(),
        }
    }
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Origin::Local(fd) => fd.as_fd(),
            Origin::Received(fd) => fd.as_fd(),
        }
    }
}
