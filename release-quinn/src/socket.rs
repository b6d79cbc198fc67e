//! quinn's socket on a socket of a group, without `UDP_GRO`.

use std::collections::BTreeMap;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::sockopt::{
    IpRecvTos, Ipv4PacketInfo, Ipv6DontFrag, Ipv6RecvPacketInfo, Ipv6RecvTClass,
};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt};
use quinn::udp::{RecvMeta, Transmit, UdpSocketState};
use quinn::{AsyncUdpSocket, UdpPoller};
use release_core::rt::{Direction, Progress, Rt, Source};
use rustix::net::sockopt::{
    Ipv4PathMtuDiscovery, Ipv6PathMtuDiscovery, set_ip_mtu_discover, set_ipv6_mtu_discover,
};

#[derive(Debug)]
pub(crate) struct Socket {
    source: Box<dyn Source>,
    state: UdpSocketState,
    address: SocketAddr,
    writers: Arc<Writers>,
}

impl Socket {
    pub(crate) fn new(rt: &Rt, socket: UdpSocket) -> io::Result<Self> {
        let address = socket.local_addr()?;
        let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        // `UdpSocketState::new` turns UDP_GRO on, and a moment of that costs connections. So it gets
        // another socket of the same kind; its state fits both.
        let other =
            nix::sys::socket::socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
        let state = UdpSocketState::new((&other).into())?;
        set_options(&socket, address.is_ipv4())?;
        socket.set_nonblocking(true)?;
        let source = rt.runtime().register(socket.into())?;
        Ok(Self { source, state, address, writers: Arc::default() })
    }
}

/// Sets what `UdpSocketState::new` would set, but for `UDP_GRO`: the congestion mark and the local address
/// of each packet, and no fragments.
fn set_options(socket: &UdpSocket, is_ipv4: bool) -> io::Result<()> {
    setsockopt(socket, IpRecvTos, &true)?;
    set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?;
    if is_ipv4 {
        setsockopt(socket, Ipv4PacketInfo, &true)?;
        return Ok(());
    }
    setsockopt(socket, Ipv6RecvPacketInfo, &true)?;
    setsockopt(socket, Ipv6RecvTClass, &true)?;
    setsockopt(socket, Ipv6DontFrag, &true)?;
    set_ipv6_mtu_discover(socket, Ipv6PathMtuDiscovery::PROBE)?;
    Ok(())
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        let number = self.writers.latest.fetch_add(1, Ordering::Relaxed);
        Box::pin(Poller { socket: self, number })
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.state.send((&self.source).into(), transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut received = 0;
        let mut attempt = |socket: BorrowedFd<'_>| {
            received = self.state.recv((&socket).into(), bufs, meta)?;
            let is_all = received < bufs.len();
            Ok(if is_all { Progress::Drained } else { Progress::More })
        };
        let polled = self.source.poll_io(cx, Direction::Read, &mut attempt);
        polled.map_ok(|()| received)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn max_transmit_segments(&self) -> usize {
        self.state.max_gso_segments()
    }

    fn may_fragment(&self) -> bool {
        self.state.may_fragment()
    }
}

/// The tasks that wait for room in the send buffer. A source wakes only one task.
#[derive(Debug, Default)]
struct Writers {
    waiting: Mutex<BTreeMap<u64, Waker>>,
    /// One task at a time attempts to write at a source.
    turn: Mutex<()>,
    latest: AtomicU64,
}

impl Writers {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u64, Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Writers {
    fn wake(self: Arc<Self>) {
        let waiting = std::mem::take(&mut *self.waiting());
        waiting.into_values().for_each(Waker::wake);
    }
}

#[derive(Debug)]
struct Poller {
    socket: Arc<Socket>,
    number: u64,
}

impl UdpPoller for Poller {
    fn poll_writable(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Socket { source, writers, .. } = &*self.socket;
        // Before the attempt: the event may come at once.
        writers.waiting().insert(self.number, cx.waker().clone());
        let all = Waker::from(Arc::clone(writers));
        let turn = writers.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let polled =
            source.poll_io(&mut Context::from_waker(&all), Direction::Write, &mut |socket| {
                let mut asked = [PollFd::new(socket, PollFlags::POLLOUT)];
                match poll(&mut asked, PollTimeout::ZERO)? {
                    0 => Err(io::ErrorKind::WouldBlock.into()),
                    _ => Ok(Progress::More),
                }
            });
        drop(turn);
        if polled.is_ready() {
            writers.waiting().remove(&self.number);
            // With this success the source has forgotten the waker of the others.
            Arc::clone(writers).wake();
        }
        polled
    }
}

impl Drop for Poller {
    fn drop(&mut self) {
        self.socket.writers.waiting().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::sync::atomic::AtomicUsize;

    use nix::sys::socket::getsockopt;
    use nix::sys::socket::sockopt::UdpGroSegment;
    use release_core::rt::Driver;
    use release_core::rt::local::Local;

    use super::*;

    /// A socket whose send buffer is full until somebody wakes the waker.
    #[derive(Debug)]
    struct Full(UdpSocket, Mutex<Option<Waker>>);

    impl AsFd for Full {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.0.as_fd()
        }
    }

    impl Source for Full {
        fn poll_io(
            &self,
            cx: &mut Context<'_>,
            _: Direction,
            _: &mut dyn FnMut(BorrowedFd<'_>) -> io::Result<Progress>,
        ) -> Poll<io::Result<()>> {
            *self.1.lock().unwrap() = Some(cx.waker().clone());
            Poll::Pending
        }
    }

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn new_socket() -> Socket {
        let driver = Local::new().unwrap();
        Socket::new(&driver.handle(), UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap()
    }

    #[test]
    fn it_never_has_its_datagrams_joined() {
        let socket = new_socket();
        assert!(!getsockopt(&socket.source, UdpGroSegment).unwrap());
        assert_eq!(socket.max_receive_segments(), 1);
        assert!(!socket.may_fragment());
    }

    #[test]
    fn all_that_wait_for_room_are_woken_but_for_those_that_have_gone() {
        let full = Box::new(Full(UdpSocket::bind("127.0.0.1:0").unwrap(), Mutex::default()));
        let socket = Arc::new(Socket { source: full, ..new_socket() });
        let counts: [Arc<Count>; 3] = Default::default();
        let mut pollers = [(); 3].map(|()| Arc::clone(&socket).create_io_poller());
        for (poller, count) in pollers.iter_mut().zip(&counts) {
            let waker = Waker::from(Arc::clone(count));
            // The second time replaces the first.
            for _ in 0..2 {
                assert!(
                    poller.as_mut().poll_writable(&mut Context::from_waker(&waker)).is_pending()
                );
            }
        }
        let [gone, ..] = pollers;
        drop(gone);
        assert_eq!(socket.writers.waiting().len(), 2);
        Waker::from(Arc::clone(&socket.writers)).wake();
        let woken = counts.map(|count| count.0.load(Ordering::Relaxed));
        assert_eq!(woken, [0, 1, 1]);
    }
}
