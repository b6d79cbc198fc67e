//! Restricts the workers of a group.

use super::Workers;
use crate::Sandbox;

impl<W, C> Workers<W, C> {
    /// Restricts the workers from the first instruction of their program, whatever their user; see
    /// [`Sandbox`].
    ///
    /// The master checks when it starts, and in the trial of an upgrade, that the kernel can enforce the
    /// sandbox and that its paths exist. A worker that cannot enter it does not run its program.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Sandbox, Workers};
    ///
    /// let workers = Workers::same_executable("http", 4)
    ///     .user("www-data")
    ///     .sandbox(Sandbox::strict().read("/srv/www"));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn sandbox(mut self, sandbox: Sandbox) -> Self {
        self.spec.sandbox = Some(sandbox);
        self
    }
}
