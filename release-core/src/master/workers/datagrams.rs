//! Sockets of a group for datagrams, and other descriptors.

use std::os::fd::OwnedFd;

use super::Workers;
use crate::net::{Inet, ListenOn};
use crate::process::listeners::Listener;

impl<W, C> Workers<W, C> {
    /// Listens for UDP datagrams at an address. Each process has its own socket, and new datagrams go
    /// to ready processes, at random; a worker gets its socket by its name with
    /// [`Me::datagrams`](crate::Me::datagrams), and a [command](Workers::command) finds it among its
    /// descriptors, as it does listening sockets.
    ///
    /// A reload loses no datagram: before a process is told to stop, it receives no new datagrams for a
    /// quarter of a second, and for up to 2.5 s while it has not read all of the earlier ones. The
    /// next process that gets the socket receives what is left in it, as after a crash. At a stop
    /// of the whole pool there is no such wait.
    ///
    /// The master opens all sockets at the start and keeps them, also over an upgrade: by default four for
    /// each worker, at most 256. [`ListenOn::udp`] has settings for [their number](ListenOn::slots) and
    /// their [receive buffer](ListenOn::receive_buffer); use it with [`listen`](Workers::listen). If all
    /// of them are in use by processes that serve or still finish, no further process can start.
    ///
    /// # What the workers can do to each other
    ///
    /// The workers of one such listener must trust one another. A process that connects its socket
    /// (`connect(2)`) can take the datagrams of all others, and one that shuts it down
    /// (`shutdown(2)`) spoils it for the next process. The filters of its socket are locked, as for
    /// [`listen_each`](Workers::listen_each).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::{Inet, ListenOn};
    ///
    /// let address: Inet = "0.0.0.0:53".parse()?;
    /// let workers = Workers::same_executable("dns", 4).user("nobody").listen_udp("dns", address);
    ///
    /// let large = ListenOn::udp(address).receive_buffer(32 << 20);
    /// let workers = Workers::same_executable("dns", 4).user("nobody").listen("dns", large);
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn listen_udp(self, name: impl Into<String>, address: Inet) -> Self {
        self.listen(name, ListenOn::udp(address))
    }

    /// Passes a descriptor of any kind to all workers of the group: a file, a pipe, a device, a socket
    /// with its connection. A worker takes it by its name with
    /// [`Me::descriptor`](crate::Me::descriptor); a [command](Workers::command) finds it among its
    /// descriptors, as it does listening sockets.
    ///
    /// All processes share the open file with its position and its settings, which the master does
    /// not change. For a listening socket, [`listener`](Workers::listener) is better: the master notices
    /// when it is shut down.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    /// use release_core::Workers;
    ///
    /// let table = File::open("/etc/passwd")?;
    /// let workers = Workers::same_executable("http", 4).inherit("table", table);
    /// # let _ = workers;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn inherit(mut self, name: impl Into<String>, descriptor: impl Into<OwnedFd>) -> Self {
        self.spec.listeners.push(Listener::inherited(name.into(), descriptor.into()));
        self
    }
}
