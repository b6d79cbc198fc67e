//! Groups that grow and shrink with their load.

use super::Workers;

impl<W, C> Workers<W, C> {
    /// Lets the group grow up to `most` workers while connections wait to be accepted, and shrink again.
    /// The size of the group is its minimum.
    ///
    /// The master looks at the queues of the group's TCP listeners once a second. The group grows when
    /// connections wait at two looks in a row, or when more wait than it has workers: by one worker, then
    /// by two, by four and so on. When no connection has waited for five seconds, one worker is told to
    /// finish, and so on down to the minimum. If the group must grow again soon after that, the time
    /// doubles, up to five minutes; it halves with each further worker that is removed, and is five seconds
    /// again at a growth that comes later than twice that time. A worker that takes long to finish keeps
    /// nobody from growing. After a growth that has failed, the group keeps its size for 30 seconds.
    ///
    /// This suits programs whose workers serve one connection, or a few, at a time. A worker that accepts
    /// every connection at once leaves none in the queue, however busy it is.
    ///
    /// Of this and an operator, the operator wins: the load changes nothing while a change of the size is in
    /// progress. A size set by [`MasterHandle::scale`](crate::MasterHandle::scale), by a signal or by a
    /// reload then holds for 30 seconds, even outside these bounds. After that the group grows or shrinks
    /// from there. Reloads and upgrades keep the present size.
    ///
    /// # Errors
    ///
    /// [`Master::run`](crate::Master::run) fails if `most` is less than the size of the group, more than
    /// 10,000, or if the group has no TCP listener.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::Inet;
    ///
    /// let address: Inet = "[::]:9000".parse()?;
    /// let workers = Workers::command("app", 2, "gunicorn", ["-b", "fd://3", "app:app"])
    ///     .listen("http", address)
    ///     .grow_to(16);
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    #[doc(alias = "dynamic")]
    #[doc(alias = "max_children")]
    pub fn grow_to(mut self, most: u32) -> Self {
        self.spec.grow_to = Some(most);
        self
    }
}
