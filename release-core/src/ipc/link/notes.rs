//! Log events about a link, for the time when its lock is released: a subscriber may use the connection
//! itself, for example to send the event to the master.

use std::io;

/// An event that happened under the lock.
#[derive(Debug)]
pub(super) enum Note {
    /// This side has no room for a ring of this size.
    NoRing { error: io::Error, bytes: u32 },
    /// This side has no room for the ring that the peer has made.
    UnusableRing { error: io::Error, bytes: u32 },
    /// Descriptors of an answer found no room.
    ClosedDescriptors,
}

impl Note {
    pub(super) fn log(self) {
        match self {
            // Everything goes over the socket, as before.
            Self::NoRing { error, bytes } => {
                tracing::debug!(%error, bytes, "no ring for a connection");
            }
            Self::UnusableRing { error, bytes } => {
                tracing::debug!(%error, bytes, "a ring cannot be used");
            }
            Self::ClosedDescriptors => {
                log_warning!(
                    "descriptors of an answer were closed: too many wait for their askers"
                );
            }
        }
    }
}
