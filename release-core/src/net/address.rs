//! The two kinds of address, and how sockets of each kind are created.

use std::fmt;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{AddressFamily, SockaddrLike, SockaddrStorage, UnixAddr, setsockopt};
use nix::sys::stat::{Mode, fchmod};

use super::socket_file;
use crate::{Error, ErrorKind};

/// An IP address, version 4 or 6, and a port.
///
/// # Examples
///
/// ```
/// use release_core::net::Inet;
///
/// let address: Inet = "[::1]:8080".parse()?;
/// assert_eq!(address.port(), 8080);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub type Inet = SocketAddr;

/// The address of a Unix socket.
///
/// # Examples
///
/// ```
/// use release_core::net::Unix;
///
/// assert_eq!(Unix::path("/run/web.sock").to_string(), "/run/web.sock");
/// assert_eq!(Unix::abstract_name("web").to_string(), "@web");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unix {
    /// A socket file, with a path of at most 107 bytes. Its mode decides which users may connect.
    Path(PathBuf),
    /// An abstract name without a file, visible to every process of the network namespace (Linux
    /// only).
    ///
    /// Abstract names have no mode: a server that accepts on one should check the
    /// [`Credentials`](super::Credentials) of the peer.
    Abstract(Vec<u8>),
    /// No address, as most clients have. A socket cannot be bound or connected to it.
    Unnamed,
}

impl Unix {
    /// Creates the address of a socket file.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::Unix;
    ///
    /// assert_eq!(Unix::path("/run/web.sock"), Unix::Path("/run/web.sock".into()));
    /// ```
    pub fn path(path: impl Into<PathBuf>) -> Self {
        Self::Path(path.into())
    }

    /// Creates an abstract address, without a file.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::Unix;
    ///
    /// assert_eq!(Unix::abstract_name("web"), Unix::Abstract(b"web".to_vec()));
    /// ```
    pub fn abstract_name(name: impl Into<Vec<u8>>) -> Self {
        Self::Abstract(name.into())
    }
}

/// Formats the path, `@` and the abstract name, or `(unnamed)`.
impl fmt::Display for Unix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{}", name.escape_ascii()),
            Self::Unnamed => f.write_str("(unnamed)"),
        }
    }
}

/// An address of either kind.
///
/// # Examples
///
/// ```
/// use release_core::net::{AnyAddress, Inet, Unix};
///
/// let inet: Inet = "127.0.0.1:80".parse()?;
/// let addresses = [AnyAddress::from(inet), AnyAddress::from(Unix::path("/run/web.sock"))];
/// let shown: Vec<_> = addresses.iter().map(ToString::to_string).collect();
/// assert_eq!(shown, ["127.0.0.1:80", "/run/web.sock"]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum AnyAddress {
    /// An IP address and a port.
    Inet(Inet),
    /// The address of a Unix socket.
    Unix(Unix),
}

impl From<Inet> for AnyAddress {
    fn from(address: Inet) -> Self {
        Self::Inet(address)
    }
}

impl From<Unix> for AnyAddress {
    fn from(address: Unix) -> Self {
        Self::Unix(address)
    }
}

impl fmt::Display for AnyAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Unix(address) => address.fmt(f),
        }
    }
}

/// The kind of address of a [`Socket`](super::Socket): [`Unix`] or [`Inet`].
///
/// # Examples
///
/// ```
/// use release_core::net::{Address, Bound, Socket};
///
/// /// Binds a socket of either kind.
/// fn bound<A: Address>(address: &A) -> Result<Socket<Bound, A>, release_core::Error> {
///     Socket::unconnected(address)?.bind(address)
/// }
/// # let address: release_core::net::Inet = "127.0.0.1:0".parse()?;
/// # bound(&address)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait Address:
    Clone + fmt::Debug + fmt::Display + Send + Sync + 'static + kind::AddressKind
{
}

impl Address for Unix {}
impl Address for Inet {}

pub(super) mod kind {
    use super::{AddressFamily, Error, OwnedFd, SockaddrLike};

    /// Seals `Address`, and converts between it and the system's form.
    #[allow(unnameable_types)]
    pub trait AddressKind: Sized {
        const NAME: &'static str;
        type System: SockaddrLike;

        fn family(&self) -> AddressFamily;
        fn to_system(&self) -> Result<Self::System, Error>;
        fn from_system(address: &Self::System) -> Option<Self>;
        /// Returns the address of a sender without one, if there are such senders.
        fn unnamed() -> Option<Self>;
        /// Applies the settings that every socket of this kind starts with.
        fn prepare(socket: &OwnedFd) -> nix::Result<()>;
        /// Runs `then` before another process can mistake the socket for a dead one.
        fn bind(
            &self,
            socket: &OwnedFd,
            then: impl FnOnce() -> Result<(), Error>,
        ) -> Result<(), Error>;
    }
}

impl kind::AddressKind for Inet {
    const NAME: &'static str = "TCP";
    type System = SockaddrStorage;

    fn family(&self) -> AddressFamily {
        if self.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
    }

    fn to_system(&self) -> Result<SockaddrStorage, Error> {
        Ok(SockaddrStorage::from(*self))
    }

    fn from_system(address: &SockaddrStorage) -> Option<Self> {
        let v4 = address.as_sockaddr_in().map(|v4| (*v4).into());
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| (*v6).into()))
    }

    fn unnamed() -> Option<Self> {
        None
    }

    /// Without this, a restarted server has to wait a minute for its old connections.
    fn prepare(socket: &OwnedFd) -> nix::Result<()> {
        setsockopt(socket, ReuseAddr, &true)
    }

    fn bind(
        &self,
        socket: &OwnedFd,
        then: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        bind(socket, self)?;
        then()
    }
}

impl kind::AddressKind for Unix {
    const NAME: &'static str = "Unix";
    type System = UnixAddr;

    fn family(&self) -> AddressFamily {
        AddressFamily::Unix
    }

    fn to_system(&self) -> Result<UnixAddr, Error> {
        let system = match self {
            Self::Path(path) if path.as_os_str().is_empty() => Err(Errno::EINVAL),
            Self::Path(path) => UnixAddr::new(path),
            Self::Abstract(name) => UnixAddr::new_abstract(name),
            Self::Unnamed => Err(Errno::EINVAL),
        };
        system.map_err(|errno| {
            let message = match (errno, self) {
                (Errno::ENAMETOOLONG, Self::Path(path)) => {
                    let length = path.as_os_str().len();
                    format!("a socket's path has {length} bytes, and the system allows 107: {self}")
                }
                (Errno::ENAMETOOLONG, _) => {
                    format!("an abstract name has at most 107 bytes: {self}")
                }
                _ => format!("this cannot be the name of a Unix socket: `{self}`"),
            };
            Error::new(ErrorKind::Usage, message)
        })
    }

    fn from_system(address: &UnixAddr) -> Option<Self> {
        let named = address.path().map(Self::path);
        named.or_else(|| address.as_abstract().map(Self::abstract_name)).or(Some(Self::Unnamed))
    }

    fn unnamed() -> Option<Self> {
        Some(Self::Unnamed)
    }

    /// On Linux the file gets the socket's mode at the time of the bind, less the umask: the file
    /// never has more permissions than requested.
    fn prepare(socket: &OwnedFd) -> nix::Result<()> {
        fchmod(socket, Mode::S_IRUSR | Mode::S_IWUSR)
    }

    fn bind(
        &self,
        socket: &OwnedFd,
        then: impl FnOnce() -> Result<(), Error>,
    ) -> Result<(), Error> {
        match self {
            Self::Path(path) => socket_file::bind_path(socket, path, &self.to_system()?, then),
            _ => bind(socket, self).and_then(|()| then()),
        }
    }
}

/// Binds a socket to an address without a file.
fn bind<A: Address>(socket: &OwnedFd, address: &A) -> Result<(), Error> {
    let system = address.to_system()?;
    nix::sys::socket::bind(socket.as_raw_fd(), &system)
        .map_err(|errno| Error::system(format!("cannot bind {address}"), errno))
}
