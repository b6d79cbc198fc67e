//! The sockets that they listen on.

use std::os::fd::OwnedFd;

use super::Workers;
use crate::net::{Inet, ListenOn};
use crate::process::listeners::Listener;

impl<W, C> Workers<W, C> {
    /// A listening socket that all workers of the group share, opened by the master as it starts,
    /// as root if need be; they find it by its name with [`Me::listener`](crate::Me::listener).
    ///
    /// An address that cannot be had is a failure of the start, with the reason for whoever started
    /// the master. A socket file has mode 0600, unless [`ListenOn`] says otherwise, and is removed at the
    /// end. If somebody removes it before, it is made again at the next start of a worker, and a reload
    /// gives it to all of them. A socket that a worker shuts down is made to listen again: see
    /// [`listen_each`](Workers::listen_each). TCP sockets have `TCP_NODELAY`, which connections inherit. For other settings of the socket see [`listener`](Workers::listener).
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
    /// workers are idle. A worker that is scaled away gets no new connections for a quarter of a second,
    /// and for up to 2.5 s while connections wait that it has not accepted; then it is told to stop. The
    /// address stays the group's when it has no workers: connections wait for the next one.
    ///
    /// In a group of [commands](Workers::command) each *process* has one, and new connections go to the
    /// processes that are ready: one that is about to be replaced is left alone as one that is scaled
    /// away. That is for programs that lose what they have just accepted when they are told to stop, as
    /// uvicorn does. What still waits when a process ends is for the next one that is started.
    ///
    /// At a stop of the whole pool nobody waits. Of more than 800 sockets 800 get connections. Where the
    /// kernel cannot be told which socket gets them, the log says so, and connections that a worker has
    /// not accepted are lost when it is scaled away.
    ///
    /// # What the workers can do to each other
    ///
    /// All processes that have a socket can shut it down (`shutdown(2)`), in a shared one for all of
    /// them. The connections that wait in it are lost. The master notices at once: a TCP socket listens
    /// again, and for a Unix socket another one is opened and the workers that have the former are
    /// replaced. A worker cannot take the connections of others: the filters of its socket are locked.
    /// It can have the kernel forget what the master has said (`SO_DETACH_REUSEPORT_BPF`) until the next
    /// event of a worker; connections go to all sockets meanwhile. Programs of the master's user can open
    /// sockets at the same port, and disturb it.
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
