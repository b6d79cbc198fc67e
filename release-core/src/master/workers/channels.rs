//! Channels to the workers of other groups.

use super::Workers;

impl<W, C> Workers<W, C> {
    /// Permits these workers to call the workers of another group, with
    /// [`Me::channel_to`](crate::Me::channel_to); those answer with
    /// [`Me::answer_channels`](crate::Me::answer_channels). May be called again, for other groups.
    ///
    /// The messages do not pass through the master: it gives each pair of processes a socket of their own.
    /// A process has channels to at most 16 workers of the group, to those with the fewest channels; that
    /// is one descriptor in each of the two processes, and none in the master.
    ///
    /// The master does not start if there is no such group, if one of the two groups has no
    /// [call mode](Workers::answer), or if groups call each other in a circle.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{Master, Workers};
    ///
    /// let master = Master::new()
    ///     .workers(Workers::same_executable("web", 4).user("www-data").channel_to("resolver"))
    ///     .workers(Workers::same_executable("resolver", 2).user("nobody"));
    /// # let _ = master;
    /// ```
    #[must_use]
    pub fn channel_to(mut self, group: impl Into<String>) -> Self {
        self.spec.channel_to.push(group.into());
        self
    }
}
