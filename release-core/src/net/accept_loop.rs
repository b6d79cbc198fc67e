//! `AcceptLoop`: one task per connection, limits, and an orderly end.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};

use super::{Active, Address, Passive, Socket};
use crate::guard::panic_message;
use crate::log_throttle::LogThrottle;
use crate::rt::{BoxFuture, Rt, Task};

/// Accepts connections and runs a handler for each, made by [`Socket::accept_loop`].
///
/// * Each handler is a task of its own. One that fails, panics or takes too long ends its own
///   connection only.
/// * When descriptors are short, connections wait: see [`Socket::accept`].
/// * At the end nothing is accepted any more, and the handlers that are running finish, up to a
///   deadline.
///
/// Without further settings the number of connections is limited by the process's descriptors
/// alone, handlers take as long as they like, and the loop goes on for ever.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::net::{Active, Passive, Socket, Unix};
/// use release_core::Stopping;
///
/// async fn serve(socket: Socket<Passive, Unix>, stopping: Stopping) -> std::io::Result<()> {
///     let served = socket
///         .accept_loop()
///         .connections(500)
///         .timeout(Duration::from_secs(30))
///         .until(stopping)
///         .stop_deadline(Duration::from_secs(5))
///         .run(async |client: Socket<Active, Unix>| client.write_all(b"hello\n").await)
///         .await?;
///     println!("{} connections were served", served.finished);
///     Ok(())
/// }
/// ```
pub struct AcceptLoop<A> {
    rt: Rt,
    socket: Socket<Passive, A>,
    connections: usize,
    timeout: Option<Duration>,
    until: BoxFuture,
    stop_deadline: Option<Duration>,
}

impl<A> fmt::Debug for AcceptLoop<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AcceptLoop")
            .field("connections", &self.connections)
            .field("timeout", &self.timeout)
            .field("stop_deadline", &self.stop_deadline)
            .finish_non_exhaustive()
    }
}

/// What became of the connections of an [`AcceptLoop`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// Handlers that returned `Ok`.
    pub finished: u64,
    /// Handlers that returned an error, panicked or ran out of time.
    pub failed: u64,
    /// Handlers that were still running at the stop deadline and were dropped.
    pub aborted: u64,
}

impl<A: Address> AcceptLoop<A> {
    pub(super) fn new(rt: Rt, socket: Socket<Passive, A>) -> Self {
        let until = Box::pin(pending());
        Self { rt, socket, connections: usize::MAX, timeout: None, until, stop_deadline: None }
    }

    /// How many connections may be open at a time, at least 1. Further ones wait in the kernel's
    /// queue until one ends.
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.max(1);
        self
    }

    /// How long a handler may take; after that it is dropped, and with it its connection.
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Ends the loop when a future is done, such as a worker's [`Stopping`](crate::Stopping) or the
    /// receiver of a channel.
    #[must_use]
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Box::pin(stop);
        self
    }

    /// How long handlers may go on after the end; as long as they like unless set.
    #[must_use]
    pub fn stop_deadline(mut self, time: Duration) -> Self {
        self.stop_deadline = Some(time);
        self
    }

    /// Accepts until it is told to stop, then closes the socket and waits for the handlers.
    ///
    /// What a handler returns as an error is logged as a warning, once in ten seconds; what is the client's own
    /// business, such as going away in the middle, it had better return as `Ok`.
    ///
    /// Each handler is a task of its own, so what it shares with others it owns:
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use release_core::net::{Active, Inet, Passive, Socket};
    /// async fn serve(socket: Socket<Passive, Inet>, greeting: Arc<str>) -> std::io::Result<()> {
    ///     let handler = move |client: Socket<Active, Inet>| {
    ///         let greeting = Arc::clone(&greeting);
    ///         async move {
    ///             client.write_all(greeting.as_bytes()).await?;
    ///             Ok::<(), std::io::Error>(())
    ///         }
    ///     };
    ///     socket.accept_loop().run(handler).await.map(drop)
    /// }
    /// # let _ = serve;
    /// ```
    ///
    /// # Errors
    ///
    /// Only what ends every accept on the socket; the handlers that are running finish first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket and drops all handlers, at once.
    pub async fn run<H, F, E>(self, handler: H) -> io::Result<Served>
    where
        H: Fn(Socket<Active, A>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let Self { rt, mut socket, connections, timeout, mut until, stop_deadline } = self;
        let handler = Arc::new(handler);
        let mut handlers = Handlers::new(&rt);
        let ended = loop {
            let is_full = handlers.running.len() >= connections;
            let accepted = {
                let accepting =
                    pin!(async { if is_full { pending().await } else { socket.accept().await } });
                let reaping = pin!(handlers.reap());
                match select(&mut until, select(reaping, accepting)).await {
                    Either::Left(_) => break Ok(()),
                    Either::Right((Either::Left(_), _)) => continue,
                    Either::Right((Either::Right((accepted, _)), _)) => accepted,
                }
            };
            match accepted {
                Ok(connection) => {
                    let serving = serve(rt.clone(), timeout, Arc::clone(&handler), connection);
                    handlers.running.push(rt.spawn(serving));
                }
                Err(error) => {
                    tracing::error!(%error, "no more connections are accepted");
                    break Err(error);
                }
            }
        };
        drop(socket);
        let finishing = handlers.finish();
        match stop_deadline {
            None => finishing.await,
            Some(time) => {
                let _ = rt.timeout(time, finishing).await;
            }
        }
        handlers.served.aborted = u64::try_from(handlers.running.len()).unwrap_or(u64::MAX);
        ended.map(|()| handlers.served)
    }
}

/// The handlers that are running, and a count of the others. Dropping it drops them all.
struct Handlers {
    rt: Rt,
    running: FuturesUnordered<Task<Result<(), String>>>,
    served: Served,
    /// A client can make a handler fail as often as it connects.
    warnings: LogThrottle,
}

impl Handlers {
    fn new(rt: &Rt) -> Self {
        let (running, served) = (FuturesUnordered::new(), Served::default());
        Self { rt: rt.clone(), running, served, warnings: LogThrottle::default() }
    }

    /// Waits until a handler ends, for ever when none is running.
    async fn reap(&mut self) {
        match self.running.next().await {
            Some(Ok(())) => self.served.finished += 1,
            Some(Err(why)) => {
                self.served.failed += 1;
                if let Some(unsaid) = self.warnings.now(self.rt.now()) {
                    tracing::warn!(why, unsaid, "a connection's handler failed");
                }
            }
            None => pending().await,
        }
    }

    /// Waits until all have ended.
    async fn finish(&mut self) {
        while !self.running.is_empty() {
            self.reap().await;
        }
    }
}

/// One connection, and why its handler failed if it did.
async fn serve<A, H, F, E>(
    rt: Rt,
    timeout: Option<Duration>,
    handler: Arc<H>,
    connection: Socket<Active, A>,
) -> Result<(), String>
where
    H: Fn(Socket<Active, A>) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let handling = async {
        match timeout {
            None => Ok(handler(connection).await),
            Some(time) => rt.timeout(time, handler(connection)).await.map_err(|_| time),
        }
    };
    match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(Ok(done)) => done.map_err(|error| crate::error::chain(error.into().as_ref())),
        Ok(Err(time)) => Err(format!("it took longer than {time:?}")),
        Err(panic) => Err(format!("it panicked: {}", panic_message(panic.as_ref()))),
    }
}
