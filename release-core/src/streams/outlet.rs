//! Writes to a file of any type without waiting.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::libc::PIPE_BUF;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{isatty, write};
use std::os::fd::AsRawFd;

use crate::sys::fds::{duplicate_from, write_at_once};
use crate::sys::signal::without_stop_of_writers;

/// A terminal that reports room nearly always has room for this many bytes.
const TERMINAL_ROOM: usize = 64;

/// The way in which a file is written.
///
/// `O_NONBLOCK` belongs to the open file description, which this process shares with its parent and
/// its children. It is never set on an open file from elsewhere.
pub(super) enum Outlet {
    /// The same pipe or terminal, opened once more.
    Own {
        file: OwnedFd,
        is_terminal: bool,
    },
    Socket,
    /// A disk, which may be waited for.
    File,
    /// A pipe or terminal that this process may not open.
    Shared {
        is_terminal: bool,
    },
}

impl Outlet {
    pub(super) fn of(file: BorrowedFd<'_>) -> Self {
        let is_terminal = isatty(file).unwrap_or(false);
        let mode = fstat(file).map_or(0, |stat| stat.st_mode);
        let kind = SFlag::from_bits_truncate(mode) & SFlag::S_IFMT;
        match kind {
            SFlag::S_IFSOCK => Self::Socket,
            SFlag::S_IFIFO => Self::opened_again(file, is_terminal),
            _ if is_terminal => Self::opened_again(file, is_terminal),
            _ => Self::File,
        }
    }

    fn opened_again(file: BorrowedFd<'_>, is_terminal: bool) -> Self {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let opened = nix::fcntl::open(path.as_str(), flags, Mode::empty());
        let opened = opened.map_err(io::Error::from);
        // Above the standard streams, in case one of those is closed.
        match opened.and_then(|opened| duplicate_from(opened.as_fd(), 3)) {
            Ok(file) => Self::Own { file, is_terminal },
            Err(_) => Self::Shared { is_terminal },
        }
    }

    /// Writes part of the bytes, or returns [`WouldBlock`](io::ErrorKind::WouldBlock).
    pub(super) fn write(&self, file: BorrowedFd<'_>, text: &[u8]) -> io::Result<usize> {
        let written = match self {
            Self::Own { file, is_terminal: true } => without_stop_of_writers(|| write(file, text)),
            Self::Own { file, .. } => write(file, text),
            Self::Socket => {
                let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
                send(file.as_raw_fd(), text, flags)
            }
            Self::File => write(file, text),
            Self::Shared { is_terminal: true } => return write_little(file, text, TERMINAL_ROOM),
            Self::Shared { .. } => match write_at_once(file, text) {
                Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                    return write_little(file, text, PIPE_BUF);
                }
                written => return written,
            },
        };
        Ok(written?)
    }

    /// Returns a descriptor that reports when there is room.
    pub(super) fn to_be_watched(&self, file: BorrowedFd<'_>) -> Option<OwnedFd> {
        match self {
            Self::Own { file, .. } => duplicate_from(file.as_fd(), 3).ok(),
            Self::Socket | Self::Shared { .. } => duplicate_from(file, 3).ok(),
            Self::File => None,
        }
    }
}

/// Writes no more than there is room for, when poll(2) reports room.
fn write_little(file: BorrowedFd<'_>, text: &[u8], most: usize) -> io::Result<usize> {
    match poll(&mut [PollFd::new(file, PollFlags::POLLOUT)], PollTimeout::ZERO)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        _ => Ok(without_stop_of_writers(|| write(file, &text[..text.len().min(most)]))?),
    }
}
