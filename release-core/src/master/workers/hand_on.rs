//! Connections that the workers of a group hand on to each other.

use super::Workers;
use crate::process::hand_on::HandOnLimits;

impl<W, C> Workers<W, C> {
    /// Permits workers to hand connections on to the workers that replace them, with
    /// [`Me::hand_on`](crate::Me::hand_on) and [`Me::handed_on`](crate::Me::handed_on).
    ///
    /// At most so many `connections` wait in the master for their new worker, and their states have at most
    /// so many `bytes` together. A worker that hands on more keeps the connection and gets
    /// [`HandOnError::Full`](crate::HandOnError::Full). The master needs up to two
    /// descriptors for each: raise its limit of open files accordingly.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::Unix;
    ///
    /// let workers = Workers::same_executable("chat", 4)
    ///     .user("nobody")
    ///     .listen("chat", Unix::path("/run/chat.sock"))
    ///     .hand_on(256, 1024 * 1024);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn hand_on(mut self, connections: usize, bytes: usize) -> Self {
        self.spec.hand_on = Some(HandOnLimits { connections, bytes });
        self
    }
}
