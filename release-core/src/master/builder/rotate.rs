//! The rotation of log files.

use super::Master;
use crate::daemonize::rotation::Rotation;

impl Master {
    /// Rotates the files of [`output`](Master::output) and [`error`](Master::error): a file of `size`
    /// bytes or more is renamed to `FILE.1`, the former `FILE.1` to `FILE.2` and so on, and a new file
    /// takes its place. `keep` earlier files are kept, the oldest are replaced.
    ///
    /// The master looks at the size once a second, so a file may become larger than `size`. No line is
    /// lost, and no line is split: workers continue with the new file as after
    /// [`MasterHandle::reopen_logs`](crate::MasterHandle::reopen_logs), with the same exceptions. The new
    /// file is created before any other is renamed. If that fails, for example because the disk is full,
    /// the reason is logged, and the present file stays in use. A file that is a link, or that has another
    /// name, is not rotated.
    ///
    /// # Errors
    ///
    /// [`Master::run`] fails if there are no log files, or if a name such as `FILE.1` belongs to the other
    /// log file, the lock file or a control socket.
    ///
    /// # Examples
    ///
    /// ```
    /// let master = release_core::Master::new()
    ///     .output("/var/log/web.log")
    ///     .error("/var/log/web.log")
    ///     .rotate(64 << 20, 7);
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn rotate(mut self, size: u64, keep: u32) -> Self {
        self.config.rotation = Some(Rotation::new(size, keep));
        self
    }
}
