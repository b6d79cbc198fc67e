//! Addresses to listen on: their URIs and socket options.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use nix::sys::socket::sockopt::{AcceptConn, Ipv6V6Only};
use nix::sys::socket::{getsockname, getsockopt};

use super::{Address, AnyAddress, FileIdentity, Inet, Socket, Unconnected, Unix};
use crate::accounts;
use crate::start_files::looked_up;
use crate::{Error, ErrorKind};

/// An address for a master to listen on: see [`Workers::listen`](crate::Workers::listen).
///
/// Created from an address, or parsed from a URI:
///
/// | URI | listens on |
/// |---|---|
/// | `tcp://HOST:PORT` | that host's first address, version 4 before 6; without a host, on all of the machine |
/// | `tcp4://HOST:PORT`, `tcp6://HOST:PORT` | the same for one version of IP |
/// | `tcp://HOST:PORT?each` | the same, with [a socket for each](crate::Workers::listen_each) |
/// | `unix://PATH` | a socket file |
/// | `unix://PATH?mode=0660&owner=LOGIN&group=NAME` | one with another mode than 0600, owner or group |
/// | `unix://@NAME` | an abstract name |
///
/// # Examples
///
/// ```
/// use release_core::net::{ListenOn, Unix};
///
/// let everywhere: ListenOn = "tcp://:8080".parse()?;
/// let file: ListenOn = "unix:///run/web.sock?mode=0666".parse()?;
/// assert_eq!(file, ListenOn::from(Unix::path("/run/web.sock")).mode(0o666));
/// assert!("udp://:53".parse::<ListenOn>().is_err());
/// # Ok::<(), release_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenOn {
    pub(crate) address: AnyAddress,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    only_v6: bool,
    is_each: bool,
}

impl ListenOn {
    /// Opens one socket per worker: see [`Workers::listen_each`](crate::Workers::listen_each).
    pub(crate) fn each(self) -> Self {
        Self { is_each: true, ..self }
    }

    /// Returns the address shared by several sockets, and whether it accepts IP version 6 only.
    pub(crate) fn shared_port(&self) -> Option<(Inet, bool)> {
        match self.address {
            AnyAddress::Inet(address) if self.is_each => Some((address, self.only_v6)),
            _ => None,
        }
    }

    /// Sets the mode of the socket file, if there is one. The default is 0600. Connecting requires
    /// write permission.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{ListenOn, Unix};
    ///
    /// let everyone = ListenOn::from(Unix::path("/run/web.sock")).mode(0o666);
    /// ```
    #[must_use]
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets the owner and group of the socket file, if there is one, as numeric ids.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{ListenOn, Unix};
    ///
    /// let for_proxy = ListenOn::from(Unix::path("/run/web.sock")).owner(33, 33).mode(0o660);
    /// ```
    #[must_use]
    pub fn owner(mut self, uid: u32, gid: u32) -> Self {
        (self.owner, self.group) = (Some(uid), Some(gid));
        self
    }

    /// Applies the TCP options to a socket before it is bound. Connections inherit the options of
    /// their listener, and many servers leave them unchanged. Without `no_delay`, small responses
    /// on a kept-alive connection wait for the peer's delayed acknowledgement.
    pub(crate) fn prepare(
        &self,
        socket: Socket<Unconnected, Inet>,
    ) -> Result<Socket<Unconnected, Inet>, Error> {
        let socket = socket.no_delay(true)?;
        if self.only_v6 { socket.only_v6(true) } else { Ok(socket) }
    }

    /// Returns whether `socket` listens on exactly this address with the fixed settings. For a
    /// socket file, the file must be the same, with the requested mode and owner.
    pub(crate) fn is_met_by(&self, socket: &OwnedFd, file: Option<FileIdentity>) -> bool {
        let is_at_address = match &self.address {
            AnyAddress::Inet(wanted) => local::<Inet>(socket).is_some_and(|local| {
                // The system chooses the port for port 0, so any port matches.
                let port = if wanted.port() == 0 { local.port() } else { wanted.port() };
                // A wildcard socket of version 6 may accept version 4 too.
                let is_wild = local.is_ipv6() && local.ip().is_unspecified();
                local.ip() == wanted.ip()
                    && local.port() == port
                    && (!is_wild || getsockopt(socket, Ipv6V6Only) == Ok(self.only_v6))
            }),
            AnyAddress::Unix(wanted) => {
                local::<Unix>(socket).is_some_and(|local| local == *wanted)
                    && match wanted {
                        Unix::Path(path) => file.is_some_and(|file| self.is_file(path, file)),
                        Unix::Abstract(_) | Unix::Unnamed => true,
                    }
            }
        };
        is_at_address && getsockopt(socket, AcceptConn) == Ok(true)
    }

    fn is_file(&self, path: &Path, file: FileIdentity) -> bool {
        let is = |wanted: Option<u32>, id| wanted.is_none_or(|wanted| wanted == id);
        FileIdentity::of(path).is_ok_and(|there| there == file)
            && std::fs::symlink_metadata(path).is_ok_and(|data| {
                data.mode() & 0o777 == self.mode
                    && is(self.owner, data.uid())
                    && is(self.group, data.gid())
            })
    }
}

fn local<A: Address>(socket: &OwnedFd) -> Option<A> {
    let address = getsockname::<A::System>(socket.as_raw_fd()).ok()?;
    A::from_system(&address)
}

impl<A: Into<AnyAddress>> From<A> for ListenOn {
    fn from(address: A) -> Self {
        let (mode, only_v6, is_each) = (0o600, false, false);
        Self { address: address.into(), mode, owner: None, group: None, only_v6, is_each }
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)?;
        f.write_str(if self.is_each { "?each" } else { "" })
    }
}

impl FromStr for ListenOn {
    type Err = Error;

    /// Resolves host names.
    fn from_str(uri: &str) -> Result<Self, Error> {
        let read = match uri.split_once("://") {
            Some(("tcp", rest)) => tcp(rest, |_| true),
            Some(("tcp4", rest)) => tcp(rest, SocketAddr::is_ipv4),
            Some(("tcp6", rest)) => {
                tcp(rest, SocketAddr::is_ipv6).map(|found| Self { only_v6: true, ..found })
            }
            Some(("unix", rest)) => unix(rest),
            _ => Err(format!("it begins with tcp://, tcp4://, tcp6:// or unix://{}", guess(uri))),
        };
        read.map_err(|why| {
            let message = format!("cannot listen on `{}`: {why}", uri.escape_debug());
            Error::new(ErrorKind::Usage, message)
        })
    }
}

fn tcp(rest: &str, suits: fn(&SocketAddr) -> bool) -> Result<ListenOn, String> {
    match rest.split_once('?') {
        None => find(rest, suits),
        Some((rest, "each")) => find(rest, suits).map(ListenOn::each),
        Some((_, setting)) => Err(format!("`{setting}` is not `each`")),
    }
}

fn find(rest: &str, suits: fn(&SocketAddr) -> bool) -> Result<ListenOn, String> {
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let Some((host, port)) = rest.rsplit_once(':') else {
        return Err("a port belongs to it, as in tcp://localhost:8080".to_owned());
    };
    let port: u16 = port.parse().map_err(|_| format!("`{port}` is not a port"))?;
    if matches!(host, "" | "*") {
        // A socket of version 6 accepts version 4 too, on systems that have version 6.
        let everywhere =
            [(Ipv6Addr::UNSPECIFIED, port).into(), (Ipv4Addr::UNSPECIFIED, port).into()];
        let exists = |address: &&SocketAddr| Socket::unconnected(*address).is_ok();
        let found = everywhere.iter().filter(|address| suits(address)).find(exists);
        return found.map(|address| (*address).into()).ok_or_else(|| "there is no IP".to_owned());
    }
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let resolve = || (host, port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
    let found = looked_up(&format!("host:{host}:{port}"), resolve);
    let found = found.map_err(|error| format!("{host}: {error}"))?;
    let mut found: Vec<_> = found.into_iter().filter(suits).collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    let first = found.first().ok_or_else(|| format!("{host} has no such address"))?;
    Ok((*first).into())
}

fn unix(rest: &str) -> Result<ListenOn, String> {
    let (path, settings) = rest.split_once('?').unwrap_or((rest, ""));
    let address = match path.strip_prefix('@') {
        Some(name) => Unix::abstract_name(name),
        None if path.is_empty() => return Err("there is no path".to_owned()),
        None => Unix::path(path),
    };
    let mut listen = ListenOn::from(address);
    for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
        match setting.split_once('=') {
            Some(("mode", mode)) => match u32::from_str_radix(mode, 8) {
                Ok(mode @ ..=0o777) => listen.mode = mode,
                _ => return Err(format!("`{mode}` is not a mode such as 0660")),
            },
            Some(("owner", login)) => {
                let user = accounts::user_named(login).ok().flatten();
                let user = user.ok_or_else(|| format!("there is no user `{login}`"))?;
                listen.owner = Some(user.uid().as_raw());
            }
            Some(("group", name)) => {
                let group = accounts::group_named(name).ok().flatten();
                let group = group.ok_or_else(|| format!("there is no group `{name}`"))?;
                listen.group = Some(group.as_raw());
            }
            _ => return Err(format!("`{setting}` is none of mode=, owner=, group=")),
        }
    }
    Ok(listen)
}

/// Guesses the intended URI if the kind of address is missing.
fn guess(uri: &str) -> String {
    let (host, port) = uri.rsplit_once(':').unwrap_or(("", uri));
    let host = if host == "tcp" { "" } else { host };
    match port.parse::<u16>() {
        _ if uri.starts_with('/') => format!("; is it unix://{}?", uri.escape_debug()),
        Ok(port) if !host.contains('/') => format!("; is it tcp://{}:{port}?", host.escape_debug()),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
