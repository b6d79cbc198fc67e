//! The rotation of log files.

use super::Supervisor;

impl Supervisor {
    /// Rotates log files that are large. If that fails, they stay in use, and the reason is logged once.
    pub(super) fn rotate_logs(&mut self) {
        let Some(rotation) = &mut self.config.rotation else { return };
        if self.master.pool().is_handing_over() {
            return;
        }
        let rotated = self.config.log_files.rotate(rotation);
        let is_moved = rotation.is_moved;
        let opened = if is_moved { self.reopen_logs() } else { Ok(()) };
        let Some(rotation) = &mut self.config.rotation else { return };
        // Otherwise it is tried again.
        rotation.is_moved = is_moved && opened.is_err();
        let done = rotated.and(opened);
        let was_failing = std::mem::replace(&mut rotation.is_failing, done.is_err());
        if let Err(error) = done
            && !was_failing
        {
            log_error!(reason = error.report(), "the log goes on where it was");
        }
    }
}
