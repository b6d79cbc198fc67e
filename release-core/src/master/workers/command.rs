//! Groups of workers that are any program, and what only those need to be told.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Workers;
use crate::{Environment, Readiness, StopSignal};

impl Workers {
    /// Workers that are any program: one that was written for systemd, einhorn, socketmaster or s6, or
    /// for none of them. A name without a slash is looked for in `PATH`.
    ///
    /// * Standard input is `/dev/null`. Listeners are its descriptors from 3 on, in their order and
    ///   blocking, unless [`nonblocking`](Workers::nonblocking) is said. They are named by `LISTEN_FDS`,
    ///   `LISTEN_PID` and `LISTEN_FDNAMES`, by `EINHORN_FDS`, and by `EINHORN_FD_COUNT` and
    ///   `EINHORN_FD_0`, `EINHORN_FD_1`...
    /// * The environment is that of the master, unless [`environment`](Workers::environment) says
    ///   otherwise, less what is about the master itself, such as `NOTIFY_SOCKET`.
    /// * When it is ready is for [`readiness`](Workers::readiness) to say; by default, after a second.
    /// * It is told to end by [`stop_signal`](Workers::stop_signal), and dies with the master. It leads a
    ///   session, and so a process group. What is left of that when it has ended gets the same signal,
    ///   has the rest of the time and is waited for, as in a start script that does not `exec`; where it
    ///   ended without being told to, it is killed.
    /// * There is nothing to ask or answer. It may run as root, who then keeps all capabilities, where
    ///   no [`user`](Workers::user) is named.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::Inet;
    /// use release_core::{Readiness, StopSignal, Workers};
    ///
    /// let address: Inet = "[::]:80".parse()?;
    /// let workers = Workers::command("web", 4, "unicorn", ["-c", "/etc/unicorn.rb"])
    ///     .listen("http", address)
    ///     .user("www-data")
    ///     .readiness(Readiness::Acknowledge)
    ///     .stop_signal(StopSignal::Quit);
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    #[doc(alias = "socketmaster")]
    #[doc(alias = "einhorn")]
    pub fn command<A: Into<OsString>>(
        name: impl Into<String>,
        size: u32,
        program: impl Into<PathBuf>,
        arguments: impl IntoIterator<Item = A>,
    ) -> Self {
        let workers = Self::program(name, size, program, arguments);
        Self {
            is_command: true,
            has_blocking_listeners: true,
            environment: Environment::inherit(),
            ..workers
        }
    }
}

impl<W, C> Workers<W, C> {
    /// How the programs of [`command`](Workers::command) become ready; [`Readiness::After`] a second
    /// by default. Other workers say so to their master.
    #[must_use]
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = Some(readiness);
        self
    }

    /// Has the programs of [`command`](Workers::command) find their listeners non-blocking
    /// (`O_NONBLOCK`), as workers of this library always do.
    ///
    /// Some servers wait for readiness and take for granted that what they inherit is so, such as
    /// nginx: with a blocking listener one waits in accept(2), deaf to everything else, whenever another
    /// worker was faster. Programs that only accept need blocking ones.
    #[must_use]
    pub fn nonblocking(mut self) -> Self {
        self.has_blocking_listeners = false;
        self
    }

    /// The signal that tells a worker to finish and exit; [`StopSignal::Term`] by default. One of this
    /// library knows no other.
    #[must_use]
    pub fn stop_signal(mut self, signal: StopSignal) -> Self {
        self.stop_signal = signal;
        self
    }
}
