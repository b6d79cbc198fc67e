//! Addresses to listen on or to connect to.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, de};

/// An address in a configuration.
///
/// # Examples
///
/// ```
/// use release_core::config::Endpoint;
///
/// assert!(matches!("[::1]:80".parse(), Ok(Endpoint::Inet(address)) if address.is_ipv6()));
/// assert_eq!("unix:/run/web.sock".parse(), Ok(Endpoint::Unix("/run/web.sock".into())));
/// assert_eq!("db.example:5432".parse::<Endpoint>().unwrap().to_string(), "db.example:5432");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// A numeric address with its port: `127.0.0.1:80`, `[::1]:80`.
    Inet(SocketAddr),
    /// A host name with a port: `localhost:80`. The name has not been resolved.
    Host(String, u16),
    /// The path of a Unix socket after `unix:`. A path that begins with `@` is meant for Linux's
    /// abstract names.
    Unix(String),
}

/// The reason why a text is not a valid [`Endpoint`].
///
/// # Examples
///
/// ```
/// use release_core::config::Endpoint;
///
/// let error = "db.example:65536".parse::<Endpoint>().unwrap_err();
/// assert_eq!(error.to_string(), "a port is at most 65535");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressError(pub(super) &'static str);

impl Endpoint {
    /// Parses a text. Returns the address, the reason why it is invalid, or `None` if the text is
    /// not meant as an address.
    pub(super) fn recognize(text: &str) -> Option<Result<Self, AddressError>> {
        if let Some(path) = text.strip_prefix("unix:") {
            let known = if path.is_empty() { Err(AddressError(NO_PATH)) } else { Ok(path.into()) };
            return Some(known.map(Self::Unix));
        }
        if let Ok(address) = text.parse() {
            return Some(Ok(Self::Inet(address)));
        }
        let (host, port) = text.rsplit_once(':')?;
        if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) || !is_host(host) {
            return None;
        }
        let port = port.parse().map_err(|_| AddressError("a port is at most 65535"));
        // Digits and points only: meant as numeric, but rejected by the parser above.
        let numeric = !host.contains(|character: char| character.is_ascii_alphabetic());
        let wrong = AddressError("an IPv4 address has four numbers up to 255, as in 127.0.0.1:80");
        Some(port.and_then(|port| {
            if numeric { Err(wrong) } else { Ok(Self::Host(host.to_owned(), port)) }
        }))
    }
}

const NO_PATH: &str = "a path has to follow `unix:`";

fn is_host(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
    name.starts_with(|first: char| first.is_ascii_alphanumeric()) && name.bytes().all(allowed)
}

impl FromStr for Endpoint {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let expected = "an address is host:port, 127.0.0.1:port, [::1]:port or unix:/path";
        Self::recognize(text).unwrap_or(Err(AddressError(expected)))
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet(address) => address.fmt(f),
            Self::Host(name, port) => write!(f, "{name}:{port}"),
            Self::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for AddressError {}

impl<'de> Deserialize<'de> for Endpoint {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}
