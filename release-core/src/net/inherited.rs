//! Listening sockets that this process was started with: systemd's socket activation, and numbers
//! that somebody names.

use std::os::fd::{OwnedFd, RawFd};

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::AcceptConn;

use crate::sys::fds::{copy_inherited, take_inherited};
use crate::sys::spawn::FIRST_PASSED;
use crate::{Error, ErrorKind};

/// The sockets of systemd's socket activation, with their names: those that `LISTEN_FDS` counts, where
/// `LISTEN_PID` is this process; none without. A socket without a name is called `unknown`. Those that a
/// [`Master::systemd`](crate::Master::systemd) has stored are not among them.
///
/// Each call gives copies. The environment stays as it is, and is not passed to
/// [commands](crate::Workers::command).
///
/// # Errors
///
/// [`ErrorKind::Usage`] when the variables contradict each other or one of the descriptors does not
/// listen.
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

/// What the names of sockets begin with that a master has stored: nothing that anybody else would choose.
pub(crate) const STORED: &str = "release-stored/";

/// The descriptors that a master has stored with systemd before it was started anew, by their names.
/// They may be taken once.
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

/// The numbers of the descriptors that systemd has passed, with their names.
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

/// A copy of a listening socket that this process was started with, by the number of its descriptor.
///
/// # Errors
///
/// [`ErrorKind::Usage`] when the number is not above 2, not open, or not a socket that listens.
pub fn inherited_socket(number: RawFd) -> Result<OwnedFd, Error> {
    let refuse = |why: &str| Error::new(ErrorKind::Usage, format!("descriptor {number} {why}"));
    if number < FIRST_PASSED {
        return Err(refuse("is none to pass a socket at: 0 to 2 are input, output and error"));
    }
    let copy = copy_inherited(number)
        .map_err(|error| refuse("was not passed to this process").caused_by(error))?;
    match getsockopt(&copy, AcceptConn) {
        Ok(true) => Ok(copy),
        Ok(false) => Err(refuse("is a socket that does not listen")),
        Err(errno) => Err(refuse("is not a socket").caused_by(errno)),
    }
}
