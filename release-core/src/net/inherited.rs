//! Listening sockets inherited by this process: from systemd's socket activation, or by descriptor
//! number.

use std::os::fd::{OwnedFd, RawFd};

use nix::sys::socket::sockopt::{AcceptConn, SockType as TypeOf};
use nix::sys::socket::{SockType, getsockopt};

use crate::sys::fds::{copy_inherited, take_inherited};
use crate::sys::spawn::FIRST_PASSED;
use crate::{Error, ErrorKind};

/// Returns the sockets of systemd's socket activation with their names.
///
/// These are the sockets counted by `LISTEN_FDS` if `LISTEN_PID` is this process; otherwise the
/// result is empty. A socket without a name is called `unknown`. Sockets stored by
/// [`Master::systemd`](crate::Master::systemd) are not included.
///
/// Each call returns duplicates. The variables stay in the environment, and are not passed to
/// [commands](crate::Workers::command).
///
/// # Errors
///
/// Returns [`ErrorKind::Usage`] if the variables contradict each other or if one of the descriptors
/// is neither a listening socket nor one for datagrams.
///
/// # Examples
///
/// ```
/// use release_core::Workers;
/// use release_core::net::activated_sockets;
///
/// let mut workers = Workers::command("web", 2, "server", [""; 0]);
/// for (name, socket) in activated_sockets()? {
///     workers = workers.listener(name, socket);
/// }
/// # Ok::<(), release_core::Error>(())
/// ```
#[doc(alias = "LISTEN_FDS")]
pub fn activated_sockets() -> Result<Vec<(String, OwnedFd)>, Error> {
    let all = passed()?.into_iter().filter(|(name, _)| !name.starts_with(STORED));
    all.map(|(name, number)| Ok((name, inherited_socket(number)?))).collect()
}

/// The prefix of the names of sockets stored by a master; no other program would choose it.
pub(crate) const STORED: &str = "release-stored/";

/// Takes the descriptors that a master stored with systemd before it was restarted, with their
/// names. May be called only once.
pub(crate) fn stored_sockets() -> Result<Vec<(String, OwnedFd)>, Error> {
    let all = passed()?.into_iter().filter(|(name, _)| name.starts_with(STORED));
    let taken = all.map(|(name, number)| {
        let taken = take_inherited(number);
        taken.map(|taken| (name, taken)).map_err(|error| {
            Error::system(format!("cannot take stored descriptor {number} back"), error)
        })
    });
    taken.collect()
}

/// Returns the numbers of the descriptors passed by systemd, with their names.
fn passed() -> Result<Vec<(String, RawFd)>, Error> {
    let variable = |name| std::env::var(name).ok();
    let own = std::process::id().to_string();
    if variable("LISTEN_PID").as_deref() != Some(&own) {
        return Ok(Vec::new());
    }
    let refuse =
        |why: String| Err(Error::new(ErrorKind::Usage, format!("socket activation: {why}")));
    let text = variable("LISTEN_FDS").unwrap_or_default();
    let Ok(count) = text.parse::<u16>() else {
        return refuse(format!("LISTEN_FDS is `{}`, not a number", text.escape_debug()));
    };
    let names = variable("LISTEN_FDNAMES");
    let names: Vec<&str> = names.as_deref().map_or(Vec::new(), |names| names.split(':').collect());
    if !names.is_empty() && names.len() != usize::from(count) {
        return refuse(format!("{count} sockets have {} names", names.len()));
    }
    let numbered = (0..usize::from(count)).zip(FIRST_PASSED..).map(|(place, number)| {
        let name = names.get(place).filter(|name| !name.is_empty()).unwrap_or(&"unknown");
        ((*name).to_owned(), number)
    });
    Ok(numbered.collect())
}

/// Returns a duplicate of an inherited socket, given the number of its descriptor. The socket listens
/// for connections, or is for datagrams.
///
/// # Errors
///
/// Returns [`ErrorKind::Usage`] if the number is 2 or less, or if the descriptor is not open or not
/// such a socket.
///
/// # Examples
///
/// ```
/// use release_core::net::inherited_socket;
///
/// // 0 to 2 are standard input, output and error.
/// assert!(inherited_socket(0).is_err());
/// ```
pub fn inherited_socket(number: RawFd) -> Result<OwnedFd, Error> {
    let refuse = |why: &str| Error::new(ErrorKind::Usage, format!("descriptor {number} {why}"));
    if number < FIRST_PASSED {
        return Err(refuse("is none to pass a socket at: 0 to 2 are input, output and error"));
    }
    let copy = copy_inherited(number)
        .map_err(|error| refuse("was not passed to this process").caused_by(error))?;
    if getsockopt(&copy, TypeOf).is_ok_and(|it| it == SockType::Datagram) {
        return Ok(copy);
    }
    match getsockopt(&copy, AcceptConn) {
        Ok(true) => Ok(copy),
        Ok(false) => Err(refuse("is a socket that does not listen")),
        Err(errno) => Err(refuse("is not a socket").caused_by(errno)),
    }
}
