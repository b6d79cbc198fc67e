//! Slots: sockets that share an address for datagrams, one for each process. The master opens all of
//! them at the start and never closes one, so their numbers in the kernel never change.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::{
    Ipv6V6Only, RcvBuf, RcvBufForce, ReusePort, SockType as TypeOf, UdpGroSegment,
};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, bind, getsockopt, recv,
    setsockopt, socket,
};

use super::open::{ReusePortAddress, cannot_listen, settle};
use crate::net::{DatagramSettings, Inet, MOST_SLOTS, SteeredBy, local};
use crate::sys::socket::lock_filter;
use crate::sys::steering::steer;
use crate::{Error, ErrorKind};

/// Default number of slots: a worker has two during a reload, and more while earlier processes
/// still finish.
const SLOTS_PER_WORKER: u32 = 4;
const FEWEST: u32 = 8;

/// The kernel doubles the size of a receive buffer, in an `int`.
const LARGEST_BUFFER: u32 = (1 << 30) - 1;

/// The slots of a listener.
#[derive(Clone, Copy, Debug)]
pub(super) struct SlotSettings {
    settings: DatagramSettings,
    /// Number of workers at the start.
    workers: u32,
}

impl SlotSettings {
    pub(super) fn new(settings: DatagramSettings) -> Self {
        Self { settings, workers: 0 }
    }

    pub(super) fn set_workers(&mut self, workers: u32) {
        self.workers = workers;
    }

    pub(super) fn count(&self) -> u32 {
        let most = u32::from(MOST_SLOTS);
        let default = self.workers.saturating_mul(SLOTS_PER_WORKER).clamp(FEWEST, most);
        self.settings.slots.map_or(default, u32::from)
    }

    /// Returns the number of sockets: the slots, and the master's.
    pub(super) fn sockets(&self) -> usize {
        usize::try_from(self.count()).map_or(usize::MAX, |count| count + 1)
    }

    /// Returns whether a socket could be one of these.
    pub(super) fn fits(&self, socket: &OwnedFd, common: &ReusePortAddress) -> bool {
        let wanted = common.address;
        let is_v6_alone = || getsockopt(socket, Ipv6V6Only) == Ok(common.only_v6);
        getsockopt(socket, TypeOf) == Ok(SockType::Datagram)
            && getsockopt(socket, ReusePort) == Ok(true)
            && local::<Inet>(socket).is_ok_and(|local| {
                // The system chooses the port for port 0, so any port matches.
                local.ip() == wanted.ip()
                    && (wanted.port() == 0 || local.port() == wanted.port())
                    && (local.is_ipv4() || is_v6_alone())
            })
    }

    /// Returns the choice of the process that receives a datagram.
    pub(super) fn steered_by(&self) -> SteeredBy {
        self.settings.steer.by()
    }

    /// Returns the name of the file that a process gets beside the socket of this name.
    pub(super) fn companion(&self, name: &str) -> Option<String> {
        match self.steered_by() {
            SteeredBy::Chance => None,
            SteeredBy::QuicIds => Some(format!("{name}.ids")),
            SteeredBy::Flows => Some(format!("{name}.flows")),
        }
    }

    /// Opens all sockets, in the order of their numbers in the kernel. The last one is the master's.
    /// The first one is selected for all datagrams before it has an address.
    pub(super) fn open(
        &self,
        common: &mut ReusePortAddress,
        (group, listener): (&str, &str),
        is_blocking: bool,
    ) -> Result<Vec<OwnedFd>, Error> {
        let opened = self.open_at(common, is_blocking);
        let address = common.address;
        opened
            .inspect(|_| {
                let slots = self.count();
                tracing::info!(group, listener, %address, slots, "listening for datagrams");
            })
            .map_err(|error| cannot_listen(group, listener, &address.into(), error))
    }

    fn open_at(
        &self,
        common: &mut ReusePortAddress,
        is_blocking: bool,
    ) -> Result<Vec<OwnedFd>, Error> {
        // Another program of this user that shares the port would silently receive a part of the
        // datagrams. A socket that does not share the port detects it.
        if common.address.port() != 0 {
            bind_to(&unbound(common)?, common)?;
        }
        let mut sockets = Vec::new();
        for number in 0..=self.count() {
            let socket = unbound(common)?;
            setsockopt(&socket, ReusePort, &true)
                .map_err(|errno| Error::system("SO_REUSEPORT", errno))?;
            if number == 0 {
                steer(&socket, &[0])
                    .map_err(|error| Error::system("SO_ATTACH_REUSEPORT_CBPF", error))?;
            }
            bind_to(&socket, common)?;
            if number == 0 {
                let address = local(&socket);
                common.address = address
                    .map_err(|error| Error::system("cannot read a socket's address", error))?;
            }
            if number < self.count() {
                // A process with a slot must not steer the datagrams of the others.
                lock_filter(&socket).map_err(|error| Error::system("SO_LOCK_FILTER", error))?;
            }
            sockets.push(settle(socket, is_blocking)?);
        }
        Ok(sockets)
    }

    /// Sets the options of a slot for its next process: what the last one has set stays with the
    /// socket.
    pub(super) fn prepare(&self, slot: &OwnedFd) -> Result<(), Error> {
        // The kernel takes a larger number for a negative one.
        let bytes = self.settings.receive_buffer.min(LARGEST_BUFFER);
        let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
        // Only a privileged process may exceed the limit of the system, `net.core.rmem_max`.
        setsockopt(slot, RcvBufForce, &bytes)
            .or_else(|_| setsockopt(slot, RcvBuf, &bytes))
            .and_then(|()| setsockopt(slot, UdpGroSegment, &false))
            .map_err(|errno| Error::system("cannot set the options of a socket", errno))
    }
}

/// Returns the error for a process for which there is no slot.
#[cold]
pub(super) fn all_in_use((group, listener): (&str, &str), count: usize) -> Error {
    let message = format!(
        "all {count} sockets of listener `{listener}` of group `{group}` are in use, by processes \
         that serve or still finish: start it with more of them (`slots`, at most {MOST_SLOTS}), \
         or with a shorter stop deadline"
    );
    Error::new(ErrorKind::Worker, message)
}

/// Maximum number of datagrams that are thrown away at once.
const MOST_QUEUED: usize = 1 << 16;

/// Throws queued datagrams away.
pub(super) fn empty(socket: &OwnedFd) {
    let next = |_| recv(socket.as_raw_fd(), &mut [0], MsgFlags::MSG_DONTWAIT).ok();
    (0..MOST_QUEUED).map_while(next).for_each(drop);
}

/// Returns whether the kernel joins datagrams for this socket.
pub(super) fn joins_datagrams(socket: &OwnedFd) -> bool {
    getsockopt(socket, UdpGroSegment).unwrap_or(false)
}

/// Returns whether the descriptor is a socket for datagrams.
pub(super) fn is_for_datagrams(socket: &OwnedFd) -> bool {
    getsockopt(socket, TypeOf).is_ok_and(|kind| kind == SockType::Datagram)
}

fn unbound(common: &ReusePortAddress) -> Result<OwnedFd, Error> {
    let family = if common.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let made = socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    made.and_then(|socket| {
        if common.only_v6 {
            setsockopt(&socket, Ipv6V6Only, &true)?;
        }
        Ok(socket)
    })
    .map_err(|errno| Error::system("cannot make a socket", errno))
}

/// Never with `SO_REUSEADDR`: any user could then take the datagrams.
fn bind_to(socket: &OwnedFd, common: &ReusePortAddress) -> Result<(), Error> {
    let address = common.address;
    bind(socket.as_raw_fd(), &SockaddrStorage::from(address))
        .map_err(|errno| Error::system(format!("cannot bind {address}"), errno))
}

#[cfg(test)]
mod tests;
