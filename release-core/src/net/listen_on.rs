//! Addresses to listen on: their URIs and socket options.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::str::FromStr;

use nix::sys::socket::sockopt::{AcceptConn, Ipv6V6Only, SockType as TypeOf};
use nix::sys::socket::{SockType, getsockname, getsockopt};

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
/// | `udp://HOST:PORT`, `udp4://HOST:PORT`, `udp6://HOST:PORT` | a port for datagrams, with a socket for each process: see [`Workers::listen_udp`](crate::Workers::listen_udp) |
/// | `udp://HOST:PORT?rcvbuf=8M&slots=64` | the same with another [receive buffer](Self::receive_buffer) and number of [slots](Self::slots) |
/// | `udp://HOST:PORT?steer=quic` | the same for [QUIC](Steer::quic) |
/// | `udp://HOST:PORT?steer=flows` | the same for [flows without ids](Steer::flows) |
/// | `unixgram://PATH`, `unixgram://@NAME` | a Unix socket for datagrams, with the settings of `unix://` |
/// | `unixseq://PATH`, `unixseq://@NAME` | a Unix socket for connections of whole records (`SOCK_SEQPACKET`), with the settings of `unix://` |
///
/// # Examples
///
/// ```
/// use release_core::net::{ListenOn, Unix};
///
/// let everywhere: ListenOn = "tcp://:8080".parse()?;
/// let file: ListenOn = "unix:///run/web.sock?mode=0666".parse()?;
/// assert_eq!(file, ListenOn::from(Unix::path("/run/web.sock")).mode(0o666));
/// let dns: ListenOn = "udp://127.0.0.1:53".parse()?;
/// assert_eq!(dns, ListenOn::udp(([127, 0, 0, 1], 53).into()));
/// assert!("sctp://:53".parse::<ListenOn>().is_err());
/// # Ok::<(), release_core::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ListenOn {
    pub(crate) address: AnyAddress,
    pub(crate) mode: u32,
    pub(crate) owner: Option<u32>,
    pub(crate) group: Option<u32>,
    pub(crate) traffic: Traffic,
    only_v6: bool,
    is_each: bool,
    receive_buffer: u32,
    slots: Option<u16>,
    steer: Steer,
}

/// What arrives at a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Traffic {
    /// Connections that carry bytes.
    Streams,
    /// Connections that carry records.
    Records,
    Datagrams,
}

impl Traffic {
    pub(crate) fn socket_type(self) -> SockType {
        match self {
            Self::Streams => SockType::Stream,
            Self::Records => SockType::SeqPacket,
            Self::Datagrams => SockType::Datagram,
        }
    }
}

/// The process that receives a UDP datagram: see [`ListenOn::steer`].
///
/// # Examples
///
/// ```
/// use release_core::net::{ListenOn, Steer};
///
/// let h3 = ListenOn::udp("127.0.0.1:443".parse()?).steer(Steer::quic());
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Steer {
    by: SteeredBy,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum SteeredBy {
    #[default]
    Chance,
    QuicIds,
    Flows,
}

impl Steer {
    /// Any ready process receives the datagram; the default.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::Steer;
    ///
    /// assert_eq!(Steer::at_random(), Steer::default());
    /// ```
    #[must_use]
    pub fn at_random() -> Self {
        Self::default()
    }

    /// The packets of a QUIC connection reach the process that has the connection, also while that
    /// process is replaced and when the client changes its address. New connections go to ready
    /// processes.
    ///
    /// The server must use connection ids of [`QuicIds`](super::QuicIds), and end only when its
    /// connections have ended or the stop deadline is near: see the guide on datagrams. Its sockets
    /// must not have `UDP_GRO`, which would give packets to the wrong process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::{ListenOn, Steer};
    ///
    /// let h3 = ListenOn::udp("0.0.0.0:443".parse()?).steer(Steer::quic()).slots(64);
    /// let workers = Workers::same_executable("web", 4).user("nobody").listen("h3", h3);
    /// # let _ = workers;
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn quic() -> Self {
        Self { by: SteeredBy::QuicIds }
    }

    /// The datagrams of a sender reach the process that has a flow with it, also while that process is
    /// replaced. Without a flow, all datagrams of a sender reach one ready process, another one after a
    /// reload.
    ///
    /// For protocols without connection ids, such as WireGuard, RTP and games. The worker says with
    /// [`Flows`](super::Flows) which senders have a flow, and ends only when its flows have ended or the
    /// stop deadline is near. A sender that changes its address is another sender.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::{ListenOn, Steer};
    ///
    /// let game = ListenOn::udp("0.0.0.0:7777".parse()?).steer(Steer::flows());
    /// assert_eq!(game, "udp4://:7777?steer=flows".parse()?);
    /// let workers = Workers::same_executable("game", 4).user("nobody").listen("game", game);
    /// # let _ = workers;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn flows() -> Self {
        Self { by: SteeredBy::Flows }
    }

    pub(crate) fn by(self) -> SteeredBy {
        self.by
    }
}

/// Settings of sockets that share an address for datagrams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DatagramSettings {
    pub(crate) receive_buffer: u32,
    pub(crate) slots: Option<u16>,
    pub(crate) steer: Steer,
}

/// Default size of the receive buffer for datagrams: that of the system, 208 KiB, holds 256 short
/// datagrams, so it is full when a process pauses for some milliseconds.
const RECEIVE_BUFFER: u32 = 4 << 20;

/// Maximum number of processes with a socket of one address for datagrams.
pub(crate) const MOST_SLOTS: u16 = 256;

impl ListenOn {
    /// Listens for UDP datagrams, with a socket for each process: see
    /// [`Workers::listen_udp`](crate::Workers::listen_udp).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::ListenOn;
    ///
    /// let dns = ListenOn::udp("127.0.0.1:53".parse()?).receive_buffer(8 << 20).slots(64);
    /// assert_eq!(dns, "udp://127.0.0.1:53?rcvbuf=8M&slots=64".parse()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn udp(address: Inet) -> Self {
        Self { traffic: Traffic::Datagrams, ..address.into() }
    }

    /// Listens for datagrams at the address of a Unix socket. All workers share the socket; a
    /// datagram goes to a single process.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::{ListenOn, Unix};
    ///
    /// let log = ListenOn::unix_datagrams(Unix::path("/run/service/log")).mode(0o666);
    /// let workers = Workers::same_executable("log", 2).listen("log", log);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn unix_datagrams(address: Unix) -> Self {
        Self { traffic: Traffic::Datagrams, ..address.into() }
    }

    /// Listens at the address of a Unix socket for connections that carry whole records
    /// (`SOCK_SEQPACKET`). A worker takes the socket with
    /// [`Me::descriptor`](crate::Me::descriptor).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Workers;
    /// use release_core::net::{ListenOn, Unix};
    ///
    /// let address = ListenOn::unix_records(Unix::path("/run/service/records"));
    /// let workers = Workers::same_executable("records", 2).listen("records", address);
    /// # let _ = workers;
    /// ```
    #[must_use]
    pub fn unix_records(address: Unix) -> Self {
        Self { traffic: Traffic::Records, ..address.into() }
    }

    /// Sets the size in bytes of the receive buffer of each socket for UDP datagrams; 4 MiB by
    /// default. Datagrams that arrive while it is full are lost.
    ///
    /// A privileged master gets this size. Any other gets at most `net.core.rmem_max`. The kernel
    /// counts about 800 bytes for a short datagram.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::ListenOn;
    ///
    /// let dns = ListenOn::udp("127.0.0.1:53".parse()?).receive_buffer(16 << 20);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    #[doc(alias = "SO_RCVBUF")]
    pub fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = bytes;
        self
    }

    /// Sets how many sockets the master opens for UDP datagrams, from 2 to 256: the maximum number
    /// of processes that have one at the same time. The default is four for each worker at the
    /// start, and at least 8.
    ///
    /// During a reload, a worker has two processes, and more while earlier ones still finish.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::ListenOn;
    ///
    /// let dns = ListenOn::udp("127.0.0.1:53".parse()?).slots(64);
    /// # Ok::<(), std::net::AddrParseError>(())
    /// ```
    #[must_use]
    pub fn slots(mut self, count: u16) -> Self {
        self.slots = Some(count.clamp(2, MOST_SLOTS));
        self
    }

    /// Sets which process receives a UDP datagram; any by default.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{ListenOn, Steer};
    ///
    /// let h3 = ListenOn::udp("127.0.0.1:443".parse()?).steer(Steer::quic());
    /// assert_eq!(h3, "udp://127.0.0.1:443?steer=quic".parse()?);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn steer(mut self, steer: Steer) -> Self {
        self.steer = steer;
        self
    }

    /// Returns the settings of sockets for UDP datagrams.
    pub(crate) fn datagrams(&self) -> Option<DatagramSettings> {
        let Self { receive_buffer, slots, steer, .. } = *self;
        let is_udp =
            self.traffic == Traffic::Datagrams && matches!(self.address, AnyAddress::Inet(_));
        is_udp.then_some(DatagramSettings { receive_buffer, slots, steer })
    }

    /// Opens one socket per worker: see [`Workers::listen_each`](crate::Workers::listen_each).
    pub(crate) fn each(self) -> Self {
        Self { is_each: true, ..self }
    }

    /// Returns the address shared by several sockets, and whether it accepts IP version 6 only.
    pub(crate) fn shared_port(&self) -> Option<(Inet, bool)> {
        match self.address {
            AnyAddress::Inet(address) if self.is_each || self.traffic == Traffic::Datagrams => {
                Some((address, self.only_v6))
            }
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
        let is_open =
            self.traffic == Traffic::Datagrams || getsockopt(socket, AcceptConn) == Ok(true);
        is_at_address
            && is_open
            && getsockopt(socket, TypeOf).is_ok_and(|it| it == self.traffic.socket_type())
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
        Self {
            address: address.into(),
            mode: 0o600,
            owner: None,
            group: None,
            traffic: Traffic::Streams,
            only_v6: false,
            is_each: false,
            receive_buffer: RECEIVE_BUFFER,
            slots: None,
            steer: Steer::default(),
        }
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.traffic, &self.address) {
            (Traffic::Streams, _) => "",
            (Traffic::Records, _) => "unixseq://",
            (Traffic::Datagrams, AnyAddress::Inet(_)) => "udp://",
            (Traffic::Datagrams, AnyAddress::Unix(_)) => "unixgram://",
        })?;
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
            Some(("udp", rest)) => udp(rest, |_| true),
            Some(("udp4", rest)) => udp(rest, SocketAddr::is_ipv4),
            Some(("udp6", rest)) => {
                udp(rest, SocketAddr::is_ipv6).map(|found| Self { only_v6: true, ..found })
            }
            Some(("unixgram", rest)) => {
                unix(rest).map(|found| Self { traffic: Traffic::Datagrams, ..found })
            }
            Some(("unixseq", rest)) => {
                unix(rest).map(|found| Self { traffic: Traffic::Records, ..found })
            }
            _ => Err(format!(
                "it begins with tcp://, tcp4://, tcp6://, udp://, udp4://, udp6://, unix://, \
                 unixgram:// or unixseq://{}",
                guess(uri)
            )),
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

fn udp(rest: &str, suits: fn(&SocketAddr) -> bool) -> Result<ListenOn, String> {
    let (place, settings) = rest.split_once('?').unwrap_or((rest, ""));
    let mut listen = ListenOn { traffic: Traffic::Datagrams, ..find(place, suits)? };
    for setting in settings.split('&').filter(|setting| !setting.is_empty()) {
        match setting.split_once('=') {
            Some(("rcvbuf", size)) => {
                let bytes = bytes(size).filter(|bytes| *bytes > 0);
                listen.receive_buffer =
                    bytes.ok_or_else(|| format!("`{size}` is not a size such as 8M"))?;
            }
            Some(("slots", count)) => match count.parse() {
                Ok(count @ 2..=MOST_SLOTS) => listen.slots = Some(count),
                _ => return Err(format!("`{count}` is not a number from 2 to {MOST_SLOTS}")),
            },
            Some(("steer", "quic")) => listen.steer = Steer::quic(),
            Some(("steer", "flows")) => listen.steer = Steer::flows(),
            _ => {
                let known = "rcvbuf=, slots=, steer=quic, steer=flows";
                return Err(format!("`{setting}` is none of {known}"));
            }
        }
    }
    Ok(listen)
}

/// Parses a size with the unit K or M, or in bytes, of less than 1 GiB.
fn bytes(text: &str) -> Option<u32> {
    let (number, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        _ => (text, 0),
    };
    let bytes = number.parse::<u32>().ok()?.checked_mul(1 << unit)?;
    (bytes < 1 << 30).then_some(bytes)
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
