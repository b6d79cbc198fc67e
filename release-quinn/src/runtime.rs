//! quinn's runtime over that of the worker.

use std::fmt;
use std::io;
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime};
use release_core::rt::{BoxFuture, Rt};

use crate::socket::Socket;

/// Runs quinn's tasks and timers on an [`Rt`]. [`endpoint`](crate::endpoint) uses it for servers; you need
/// it for an endpoint that is only a client.
///
/// # Examples
///
/// ```
/// use std::io;
/// use std::net::UdpSocket;
/// use std::sync::Arc;
///
/// use release_core::rt::Rt;
/// use release_core::rt::{Driver, local::Local, run};
/// use release_quinn::QuinnRuntime;
/// use release_quinn::quinn::{Endpoint, EndpointConfig};
///
/// fn client(rt: &Rt) -> io::Result<Endpoint> {
///     let socket = UdpSocket::bind("127.0.0.1:0")?;
///     let runtime = Arc::new(QuinnRuntime::new(rt));
///     Endpoint::new(EndpointConfig::default(), None, socket, runtime)
/// }
///
/// let driver = Local::new()?;
/// let endpoint = run(&driver, async { client(&driver.handle()) })?;
/// assert_eq!(endpoint.open_connections(), 0);
/// # Ok::<(), io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct QuinnRuntime {
    rt: Rt,
}

impl QuinnRuntime {
    /// Creates the runtime over a handle, such as [`Me::rt`](release_core::Me::rt).
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Me;
    /// use release_quinn::QuinnRuntime;
    ///
    /// fn runtime(me: &Me) -> QuinnRuntime {
    ///     QuinnRuntime::new(me.rt())
    /// }
    /// # let _ = runtime;
    /// ```
    #[must_use]
    pub fn new(rt: &Rt) -> Self {
        Self { rt: rt.clone() }
    }
}

impl Runtime for QuinnRuntime {
    fn new_timer(&self, deadline: Instant) -> Pin<Box<dyn AsyncTimer>> {
        Box::pin(Timer { rt: self.rt.clone(), deadline, sleep: None })
    }

    fn spawn(&self, future: BoxFuture) {
        self.rt.spawn(future).detach();
    }

    fn wrap_udp_socket(&self, socket: UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        Ok(Arc::new(Socket::new(&self.rt, socket)?))
    }

    fn now(&self) -> Instant {
        self.rt.now()
    }
}

struct Timer {
    rt: Rt,
    deadline: Instant,
    /// A timer of the runtime, and its deadline. That may be too early: with most packets quinn delays its
    /// timers, and a timer that is replaced costs more than one that wakes in vain.
    sleep: Option<(Instant, BoxFuture)>,
}

impl fmt::Debug for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

impl AsyncTimer for Timer {
    fn reset(mut self: Pin<&mut Self>, deadline: Instant) {
        self.deadline = deadline;
        self.sleep.take_if(|(until, _)| *until > deadline);
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { rt, deadline, sleep } = &mut *self;
        while rt.now() < *deadline {
            let new = || (*deadline, rt.runtime().sleep_until(*deadline));
            let (_, sleeping) = sleep.get_or_insert_with(new);
            ready!(sleeping.as_mut().poll(cx));
            *sleep = None;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use release_core::rt::local::Local;
    use release_core::rt::{Driver, run};

    use super::*;

    #[test]
    fn a_timer_that_is_reset_earlier_or_later_completes_at_its_last_deadline() {
        let driver = Local::with_virtual_time().unwrap();
        let rt = driver.handle();
        run(&driver, async {
            let at = |seconds| rt.now() + Duration::from_secs(seconds);
            let mut timer = QuinnRuntime::new(&rt).new_timer(at(20));
            for after in [9, 2, 0, 30, 19] {
                timer.as_mut().reset(at(20));
                let mut poll = async || poll_fn(|cx| timer.as_mut().poll(cx)).await;
                let _ = rt.timeout(Duration::from_secs(1), poll()).await;
                let deadline = at(after);
                timer.as_mut().reset(deadline);
                poll_fn(|cx| timer.as_mut().poll(cx)).await;
                assert_eq!(rt.now(), deadline);
            }
        });
    }
}
