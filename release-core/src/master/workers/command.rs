//! Groups of workers that run any program, and their own settings.

use std::ffi::OsString;
use std::path::PathBuf;

use super::Workers;
use crate::{Environment, Readiness, StopSignal};

impl Workers {
    /// Creates a group whose workers run any program: a program written for systemd, einhorn,
    /// socketmaster or s6, or for none of them. A name without a slash is searched in `PATH`.
    ///
    /// * Standard input is `/dev/null`. Listeners are the descriptors from 3 on, in their order and
    ///   blocking, unless [`nonblocking`](Workers::nonblocking) is called. They are announced by `LISTEN_FDS`,
    ///   `LISTEN_PID` and `LISTEN_FDNAMES`, by `EINHORN_FDS`, and by `EINHORN_FD_COUNT` and
    ///   `EINHORN_FD_0`, `EINHORN_FD_1`...
    /// * The environment is the master's, unless [`environment`](Workers::environment) sets another one, without
    ///   variables about the master itself, such as `NOTIFY_SOCKET`.
    /// * [`readiness`](Workers::readiness) sets when it is ready; by default, after a second.
    /// * It is told to end by [`stop_signal`](Workers::stop_signal), and dies with the master. It leads a
    ///   session, and so a process group. Processes of that group that remain after its end receive the same
    ///   signal, have the rest of the time and are awaited, as for a start script that does not `exec`. If it
    ///   ended without having been told to, they are killed.
    /// * It has no requests and no answers. Without a [`user`](Workers::user) it may run as root, with all
    ///   capabilities.
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
        let mut workers = Self::program(name, size, program, arguments);
        workers.spec.is_command = true;
        workers.spec.has_blocking_listeners = true;
        workers.spec.environment = Environment::inherit();
        workers
    }
}

impl<W, C> Workers<W, C> {
    /// Sets how the programs of [`command`](Workers::command) become ready; [`Readiness::After`] one
    /// second by default. Other workers tell their master.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::{Readiness, Workers};
    ///
    /// let workers = Workers::command("web", 2, "server", ["--port=80"])
    ///     .readiness(Readiness::After(Duration::from_secs(5)));
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.spec.readiness = Some(readiness);
        self
    }

    /// Makes the listeners of the programs of [`command`](Workers::command) non-blocking
    /// (`O_NONBLOCK`), as they always are for workers of this library.
    ///
    /// Some servers, such as nginx, wait for readiness and expect inherited sockets to be non-blocking:
    /// with a blocking listener such a server waits in accept(2), and reacts to nothing else, whenever
    /// another worker was faster. Programs that only accept need blocking listeners.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::Inet;
    ///
    /// let address: Inet = "[::]:80".parse()?;
    /// let workers = Workers::command("web", 2, "nginx", ["-g", "daemon off;"])
    ///     .listen("http", address)
    ///     .nonblocking();
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn nonblocking(mut self) -> Self {
        self.spec.has_blocking_listeners = false;
        self
    }

    /// Sets the signal that tells a worker to finish and exit; [`StopSignal::Term`] by default. Workers
    /// of this library know no other signal.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::{StopSignal, Workers};
    ///
    /// let workers = Workers::command("web", 2, "nginx", [""; 0]).stop_signal(StopSignal::Quit);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn stop_signal(mut self, signal: StopSignal) -> Self {
        self.spec.stop_signal = signal;
        self
    }
}
