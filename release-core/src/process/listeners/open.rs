//! Opens listening sockets, and explains failures.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{Backlog, SockaddrStorage, listen};
use nix::unistd::{Gid, Uid};

use crate::Error;
use crate::net::{
    Address, AnyAddress, FileIdentity, Inet, ListenOn, Socket, Traffic, Unconnected, Unix,
    give_away, local,
};
use crate::sys::fds::{set_blocking, set_nonblocking};
use crate::sys::socket::lock_filter;
use crate::sys::steering::steer;

/// Maximum number of queued connections; the system may have a lower limit.
pub(super) const BACKLOG: u32 = 1024;

/// Logged when a TCP socket is made to listen again.
pub(super) const SHUT_DOWN: &str =
    "somebody has shut the listening socket down (a worker as it stops?): it listens again";

/// Opens a socket shared by all workers of a group.
pub(super) fn open(
    group: &str,
    listener: &str,
    listen: &ListenOn,
) -> Result<(OwnedFd, Option<SocketFile>), Error> {
    let address = &listen.address;
    let opened = match address {
        AnyAddress::Inet(inet) => listening(inet, listen.traffic, |socket| listen.prepare(socket))
            .map(|(socket, local)| {
                tracing::info!(group, listener, address = %local, "listening");
                (socket, None)
            }),
        AnyAddress::Unix(unix) => {
            listening(unix, listen.traffic, |socket| socket.mode(listen.mode)).and_then(
                |(socket, _)| {
                    tracing::info!(group, listener, address = %unix, "listening");
                    let file = match unix {
                        Unix::Path(path) => {
                            let file = SocketFile::of(address, FileIdentity::of(path)?);
                            let owner = listen.owner.map(Uid::from_raw);
                            give_away(path, owner, listen.group.map(Gid::from_raw)).map_err(
                                |errno| {
                                    Error::system(
                                        "cannot change the owner of the socket file",
                                        errno,
                                    )
                                },
                            )?;
                            file
                        }
                        Unix::Abstract(_) | Unix::Unnamed => None,
                    };
                    Ok((socket, file))
                },
            )
        }
    };
    opened.map_err(|error| cannot_listen(group, listener, address, error))
}

/// A socket file created by this process. Dropping it removes the file, unless another file has
/// replaced it.
#[derive(Debug)]
pub(super) struct SocketFile {
    pub(super) path: PathBuf,
    pub(super) file: FileIdentity,
    /// Whether the file stays, because systemd keeps its socket for the next process.
    pub(super) stays: bool,
}

impl SocketFile {
    pub(super) fn of(address: &AnyAddress, file: FileIdentity) -> Option<Self> {
        match address {
            AnyAddress::Unix(Unix::Path(path)) => {
                Some(Self { path: path.clone(), file, stays: false })
            }
            _ => None,
        }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if !self.stays && FileIdentity::of(&self.path).is_ok_and(|file| file == self.file) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// An address shared by several sockets with `SO_REUSEPORT`.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReusePortAddress {
    pub(super) address: Inet,
    pub(super) only_v6: bool,
}

impl ReusePortAddress {
    /// Opens another socket of this address.
    pub(super) fn open(
        &mut self,
        group: &str,
        listener: &str,
        is_first: bool,
        is_blocking: bool,
    ) -> Result<OwnedFd, Error> {
        self.open_with(group, listener, is_first, Ok).and_then(|socket| settle(socket, is_blocking))
    }

    /// Opens another socket of this address. The first socket is steered before it listens, so that
    /// all connections go to it.
    pub(super) fn open_steered(
        &mut self,
        group: &str,
        listener: &str,
        is_first: bool,
        is_blocking: bool,
    ) -> Result<OwnedFd, Error> {
        let prepare = |socket: Socket<Unconnected, Inet>| {
            if is_first {
                steer(&socket, &[0]).map_err(|error| Error::system("cannot steer", error))?;
            }
            Ok(socket)
        };
        let socket = self.open_with(group, listener, is_first, prepare)?;
        settle(socket, is_blocking)
    }

    /// Opens the master's socket, through which it steers connections to the others. Its queue is
    /// as short as possible.
    pub(super) fn open_for_master(&self, group: &str, listener: &str) -> Result<OwnedFd, Error> {
        let address = &self.address;
        let opened = self.unbound().and_then(|socket| socket.reuse_port(true));
        opened
            .and_then(|socket| socket.bind_listening(address, 0))
            .map_err(|error| cannot_listen(group, listener, &(*address).into(), error))
    }

    fn open_with(
        &mut self,
        group: &str,
        listener: &str,
        is_first: bool,
        prepare: impl FnOnce(Socket<Unconnected, Inet>) -> Result<Socket<Unconnected, Inet>, Error>,
    ) -> Result<OwnedFd, Error> {
        let address = &self.address;
        // Another program of this user that shares the port as well would silently receive a part
        // of the connections. A socket that does not share the port detects it.
        let alone = match is_first && address.port() != 0 {
            true => self.unbound().and_then(|socket| socket.bind(address)).map(drop),
            false => Ok(()),
        };
        let opened = alone.and_then(|()| self.unbound()).and_then(|socket| socket.reuse_port(true));
        let (socket, local) = opened
            .and_then(prepare)
            .and_then(|socket| begin(socket, address))
            .map_err(|error| cannot_listen(group, listener, &(*address).into(), error))?;
        if is_first {
            tracing::info!(group, listener, address = %local, "listening, with a socket for each worker");
        }
        // The other sockets use the port that the system has chosen for the first.
        self.address = local;
        Ok(socket)
    }

    fn unbound(&self) -> Result<Socket<Unconnected, Inet>, Error> {
        let socket = Socket::unconnected(&self.address)?;
        let socket = socket.no_delay(true)?;
        if self.only_v6 { socket.only_v6(true) } else { Ok(socket) }
    }
}

pub(super) fn settle(socket: OwnedFd, is_blocking: bool) -> Result<OwnedFd, Error> {
    let settled = if is_blocking { set_blocking(&socket) } else { set_nonblocking(&socket) };
    settled.map_err(|error| Error::system("a listening socket", error))?;
    Ok(socket)
}

fn listening<A: Address>(
    address: &A,
    traffic: Traffic,
    prepare: impl FnOnce(Socket<Unconnected, A>) -> Result<Socket<Unconnected, A>, Error>,
) -> Result<(OwnedFd, A), Error> {
    let socket = prepare(Socket::of_type(address, traffic.socket_type())?)?;
    match traffic {
        Traffic::Streams | Traffic::Records => begin(socket, address),
        Traffic::Datagrams => opened(socket.bind_only(address)?),
    }
}

fn begin<A: Address>(socket: Socket<Unconnected, A>, address: &A) -> Result<(OwnedFd, A), Error> {
    opened(socket.bind_listening(address, BACKLOG)?)
}

fn opened<A: Address>(socket: OwnedFd) -> Result<(OwnedFd, A), Error> {
    // The socket is shared: no single worker may filter its connections.
    lock_filter(&socket).map_err(|error| Error::system("SO_LOCK_FILTER", error))?;
    let local =
        local(&socket).map_err(|error| Error::system("cannot read a socket's address", error))?;
    Ok((socket, local))
}

/// Makes a TCP socket listen again that was shut down. All processes with this socket can accept
/// again. A port chosen by the system was lost and is bound again.
pub(super) fn listen_again(
    socket: &OwnedFd,
    address: Option<Inet>,
    backlog: u32,
) -> Result<(), Error> {
    if let Some(address) = address {
        match nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(address)) {
            // The socket still has its address, or has it again.
            Ok(()) | Err(Errno::EINVAL) => {}
            Err(errno) => return Err(Error::system(format!("cannot bind {address} again"), errno)),
        }
    }
    let backlog = i32::try_from(backlog).ok().and_then(|most| Backlog::new(most).ok());
    listen(socket, backlog.unwrap_or(Backlog::MAXCONN))
        .map_err(|errno| Error::system("a socket that was shut down cannot listen again", errno))
}

/// Returns the error with a way out, if one is known.
#[cold]
pub(super) fn cannot_listen(
    group: &str,
    listener: &str,
    address: &AnyAddress,
    error: Error,
) -> Error {
    let way_out = match (errno(&error), address) {
        (Some(Errno::EACCES), AnyAddress::Inet(_)) => {
            "; ports below 1024 are for root: start the master as root, its workers get the socket \
             and not the privilege, or take a higher port"
        }
        (Some(Errno::EADDRINUSE), _) => {
            "; another program has the address: stop that one, or take another address"
        }
        (Some(Errno::EADDRNOTAVAIL), _) => "; no interface of this machine has the address",
        _ => "",
    };
    let message = format!(
        "worker group `{group}` cannot listen on {address} (listener `{listener}`){way_out}"
    );
    Error::new(error.kind(), message).caused_by(error)
}

fn errno(error: &Error) -> Option<Errno> {
    let source = std::error::Error::source(error)?.downcast_ref::<io::Error>()?;
    source.raw_os_error().map(Errno::from_raw)
}
