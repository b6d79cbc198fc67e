//! Listening sockets of a group.

use std::os::fd::OwnedFd;

use super::Workers;
use crate::net::{Inet, ListenOn};
use crate::process::listeners::Listener;

impl<W, C> Workers<W, C> {
    /// Adds a listening socket that all workers of the group share. The master opens it at the start,
    /// as root if necessary; a worker gets it by its name with [`Me::listener`](crate::Me::listener).
    ///
    /// If the address is not available, the start fails and reports the reason. A socket file has mode
    /// 0600, unless [`ListenOn`] sets another one, and is removed at the end. If it is removed before,
    /// it is created again at the next start of a worker, and a reload gives it to all workers. If a
    /// worker shuts the socket down, it listens again: see [`listen_each`](Workers::listen_each). TCP
    /// sockets have `TCP_NODELAY`, which connections inherit. For other settings of the socket see
    /// [`listener`](Workers::listener).
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

    /// Gives each worker its own listening socket on the same address, using `SO_REUSEPORT`. The kernel
    /// distributes new connections among the sockets, so a connection wakes exactly one worker.
    ///
    /// The master opens the sockets and keeps them across restarts: connections wait in them for the
    /// worker's next process. The drawback: connections queued for a busy worker wait even if others
    /// are idle. A worker that is removed by scaling down receives no new connections for a quarter of
    /// a second, and for up to 2.5 s while connections wait that it has not accepted; then it is told
    /// to stop. The address stays the group's even without workers: connections wait for the next
    /// worker.
    ///
    /// In a group of [commands](Workers::command) each *process* has its own socket, and only ready
    /// processes receive new connections. A process that is about to be replaced receives none for the
    /// same time as a worker that is removed. Use it for programs that lose connections that they have
    /// just accepted when they are told to stop, such as uvicorn. Connections that still wait when a
    /// process ends are served by the next process.
    ///
    /// At a stop of the whole pool there is no such wait. Of more than 800 sockets 800 receive
    /// connections. If the kernel cannot steer connections between the sockets, the log says so, and
    /// connections that a worker has not accepted are lost when the worker is removed by scaling down.
    ///
    /// # What the workers can do to each other
    ///
    /// Every process with a socket can shut it down (`shutdown(2)`); a shared socket is then shut down
    /// for all of them. The connections that wait in it are lost. The master notices at once: a TCP
    /// socket listens again, and for a Unix socket another one is opened and the workers with the
    /// former socket are replaced. A worker cannot take the connections of others: the filters of its
    /// socket are locked. It can remove the steering program from the group (`SO_DETACH_REUSEPORT_BPF`)
    /// until the next event of a worker; meanwhile connections go to all sockets. Programs of the
    /// master's user can open sockets at the same port, and disturb it.
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

    /// Adds a listening socket that your program has opened itself and that all workers of the group
    /// share; a worker gets it by its name. With [`listen`](Workers::listen) the master opens the
    /// socket.
    #[must_use]
    pub fn listener(mut self, name: impl Into<String>, socket: impl Into<OwnedFd>) -> Self {
        self.listeners.push(Listener::given(name.into(), socket.into()));
        self
    }
}
