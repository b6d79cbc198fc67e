//! Detects that a listening socket was shut down, without waking for its connections.

use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use crate::rt::{Direction, Progress, Rt, Task};
use crate::sys::fds::duplicate_from;

/// Pause after each detection: a process that shuts sockets down repeatedly cannot keep the master
/// busy.
const PAUSE: Duration = Duration::from_millis(20);

/// Maximum number of events in one read.
const MOST: usize = 256;

/// Watches sockets until it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    sockets: Arc<Epoll>,
    _watching: Task<()>,
}

impl Watch {
    /// Calls `shut` with the numbers of sockets that were shut down, in the order of the events.
    /// Each socket is watched again from the next [`Watch::add`] on.
    pub(crate) fn new(rt: &Rt, shut: impl Fn(Vec<RawFd>) + Send + 'static) -> io::Result<Self> {
        let sockets = Arc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let (watched, timer) = (Arc::clone(&sockets), rt.clone());
        let source = rt.register(duplicate_from(sockets.0.as_fd(), 3)?)?;
        let watching = rt.spawn(async move {
            loop {
                let seen = source.run(Direction::Read, |_| Ok((wait(&watched)?, Progress::More)));
                match seen.await {
                    Ok(seen) => shut(seen),
                    Err(error) => {
                        log_error!(%error, "listening sockets are not watched any more");
                        return;
                    }
                }
                timer.sleep(PAUSE).await;
            }
        });
        Ok(Self { sockets, _watching: watching })
    }

    /// Watches a socket that is passed to workers.
    pub(crate) fn add(&self, socket: impl AsFd) {
        let number = u64::try_from(socket.as_fd().as_raw_fd()).unwrap_or_default();
        // Without EPOLLIN, connections cause no event; a hang-up always does.
        let flags = EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLONESHOT;
        let mut event = EpollEvent::new(flags, number);
        let added = match self.sockets.add(&socket, event) {
            Err(Errno::EEXIST) => self.sockets.modify(&socket, &mut event),
            added => added,
        };
        if let Err(error) = added {
            log_warning!(%error, "a listening socket is not watched; it is looked at at each start");
        }
    }
}

fn wait(sockets: &Epoll) -> io::Result<Vec<RawFd>> {
    let mut events = [EpollEvent::empty(); MOST];
    match sockets.wait(&mut events, EpollTimeout::ZERO)? {
        0 => Err(io::ErrorKind::WouldBlock.into()),
        count => Ok(events[..count].iter().filter_map(|it| it.data().try_into().ok()).collect()),
    }
}
