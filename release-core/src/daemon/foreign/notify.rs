//! Readiness as systemd has it: datagrams at `NOTIFY_SOCKET`.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::sockopt::PassCred;
use nix::sys::socket::{
    AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockType, UnixAddr, UnixCredentials,
    bind, recvmsg, setsockopt, socket,
};
use nix::sys::stat::{Mode, fchmod};

use super::Sender;
use super::place::{Place, SocketFile};
use crate::Error;
use crate::daemon::attach::{News, Notify};
use crate::rt::{Direction, Progress, Rt};

/// Between two messages of a worker: one that sends without a pause waits itself.
const PAUSE: Duration = Duration::from_millis(2);

/// The longest message; longer ones are cut off, as systemd does it.
const LONGEST: usize = 4096;

/// The socket of one process.
#[derive(Debug)]
pub(super) struct Notices {
    socket: OwnedFd,
    file: SocketFile,
}

impl Notices {
    pub(super) fn new(place: &Arc<Place>) -> Result<Self, Error> {
        let (socket, file) = place.socket(|path| {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            let socket = socket(AddressFamily::Unix, SockType::Datagram, flags, None)?;
            // Before there is a name that a message could be sent to.
            setsockopt(&socket, PassCred, &true)?;
            fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
            bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
            Ok(socket)
        })?;
        Ok(Self { socket, file })
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    /// Hears messages as long as the process runs.
    pub(super) async fn listen(
        self,
        rt: &Rt,
        sender: Sender,
        notify: &Notify,
    ) -> Result<(), Error> {
        let failed = |error| Error::system("its NOTIFY_SOCKET", error);
        let socket = rt.register(self.socket).map_err(failed)?;
        let _file = self.file;
        loop {
            let mut bytes = [0; LONGEST];
            let received = socket.run(Direction::Read, |fd| {
                Ok((receive(fd.as_raw_fd(), &mut bytes)?, Progress::More))
            });
            let (length, credentials) = received.await.map_err(failed)?;
            if credentials.is_some_and(|from| sender.is(from.uid(), from.pid())) {
                let message = String::from_utf8_lossy(&bytes[..length]);
                if message.lines().any(|line| line == "READY=1") {
                    notify(News::Ready);
                }
            }
            rt.sleep(PAUSE).await;
        }
    }
}

/// One message, and who sent it.
///
/// There is room for the sender alone. Descriptors that come along the kernel closes, which is what
/// the sender of a `BARRIER=1` waits for.
fn receive(socket: i32, bytes: &mut [u8]) -> nix::Result<(usize, Option<UnixCredentials>)> {
    let mut control = nix::cmsg_space!(UnixCredentials);
    let mut parts = [IoSliceMut::new(bytes)];
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<UnixAddr>(socket, &mut parts, Some(&mut control), flags)?;
    let credentials = match message.cmsgs() {
        Ok(mut all) => all.find_map(|one| match one {
            ControlMessageOwned::ScmCredentials(credentials) => Some(credentials),
            _ => None,
        }),
        Err(Errno::ENOBUFS) => None,
        Err(errno) => return Err(errno),
    };
    Ok((message.bytes, credentials))
}
