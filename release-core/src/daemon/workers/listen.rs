//! The sockets that they listen on.

use std::os::fd::OwnedFd;

use super::Workers;
use crate::daemon::listeners::Listener;
use crate::net::{Inet, ListenOn};

impl<W, C> Workers<W, C> {
    /// A listening socket that all workers of the group share, opened by the master as it starts,
    /// as root if need be; they find it by its name with [`Me::listener`](crate::Me::listener).
    ///
    /// An address that cannot be had is a failure of the start, with the reason for whoever started
    /// the master. A socket file has mode 0600, unless [`ListenOn`] says otherwise, and is removed at the
    /// end. For other settings of the socket see [`listener`](Workers::listener).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::{Inet, Unix};
    ///
    /// let address: Inet = "0.0.0.0:80".parse()?;
    /// let workers = Workers::same_executable("http", 4)
    ///     .user("www-data")
    ///     .listen("http", address)
    ///     .listen("local", Unix::path("/run/service/http"));
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn listen(mut self, name: impl Into<String>, address: impl Into<ListenOn>) -> Self {
        self.listeners.push(Listener::on(name.into(), address.into()));
        self
    }

    /// A listening socket for each worker, all with the same address (`SO_REUSEPORT`): the system
    /// gives each connection to one of them, and no worker is woken for the connections of others.
    ///
    /// The master opens them, and keeps a worker's socket while it is started again or replaced:
    /// connections wait there for its next process. That is also the price: they wait though other
    /// workers are idle. When a worker is scaled away, the connections that it has not accepted are
    /// lost; the system gives them to others where `net.ipv4.tcp_migrate_req` is 1.
    ///
    /// In a group of [commands](Workers::command) each *process* has one, and the master says which of
    /// them get new connections: those of the processes that are ready. So one that is to stop gets none
    /// for a quarter of a second, and longer, up to 2.5 s, while connections wait that it has not
    /// accepted; then it is told to. That is for programs that lose what they have just accepted when they
    /// are told to stop, as uvicorn does. What still waits when a process ends is for the next one that
    /// is started. At a stop of the whole pool nobody waits. Of more than 800 processes 800 get
    /// connections. Sockets that other programs of the master's user open at the port disturb it.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::Inet;
    ///
    /// let address: Inet = "[::]:8080".parse()?;
    /// let workers = Workers::same_executable("http", 4).listen_each("http", address);
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    #[doc(alias = "SO_REUSEPORT")]
    pub fn listen_each(mut self, name: impl Into<String>, address: Inet) -> Self {
        self.listeners.push(Listener::on(name.into(), ListenOn::from(address).each()));
        self
    }

    /// A listening socket that the program has opened itself and all workers of the group share; they
    /// find it by its name. [`listen`](Workers::listen) has the master open it.
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, socket: impl Into<OwnedFd>) -> Self {
        self.listeners.push(Listener::given(name.into(), socket.into()));
        self
    }
}
