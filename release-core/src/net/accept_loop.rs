//! `AcceptLoop`: one task per connection, limits, and graceful shutdown.

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

/// Most connections accepted at shutdown: a longer queue is a flood.
#[cfg(feature = "http")]
const MOST_QUEUED: usize = 4096;

/// Accepts connections and runs a handler for each. Created by [`Socket::accept_loop`].
///
/// * Each handler runs in its own task. A handler that fails, panics or times out ends only its own
///   connection.
/// * If the process runs out of descriptors, connections wait: see [`Socket::accept`].
/// * On shutdown the loop accepts no more connections. Running handlers may finish, up to a
///   deadline.
///
/// By default, only the process's descriptor limit bounds the number of connections, handlers have
/// no time limit, and the loop runs forever.
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
    queued: usize,
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

/// Counts of the connections of an [`AcceptLoop`], by outcome.
///
/// # Examples
///
/// ```
/// use release_core::net::{Active, Inet, Passive, Socket};
///
/// async fn serve(socket: Socket<Passive, Inet>) -> std::io::Result<()> {
///     let served = socket
///         .accept_loop()
///         .until(std::future::ready(()))
///         .run(async |client: Socket<Active, Inet>| client.write_all(b"hello\n").await)
///         .await?;
///     println!("{} finished, {} failed", served.finished, served.failed);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Served {
    /// Number of handlers that returned `Ok`.
    pub finished: u64,
    /// Number of handlers that returned an error, panicked or timed out.
    pub failed: u64,
    /// Number of handlers that were still running at the stop deadline and were dropped.
    pub aborted: u64,
}

impl<A: Address> Socket<Passive, A> {
    /// Accepts connections and runs each in its own task: see [`AcceptLoop`].
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Active, Inet, Passive, Socket};
    ///
    /// async fn serve(socket: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     let handler = async |client: Socket<Active, Inet>| client.write_all(b"hello\n").await;
    ///     socket.accept_loop().run(handler).await.map(drop)
    /// }
    /// ```
    #[must_use]
    pub fn accept_loop(self) -> AcceptLoop<A> {
        AcceptLoop {
            rt: self.state.rt.clone(),
            socket: self,
            connections: usize::MAX,
            timeout: None,
            until: Box::pin(pending()),
            stop_deadline: None,
            queued: 0,
        }
    }
}

impl<A: Address> AcceptLoop<A> {
    /// Sets the maximum number of open connections, at least 1. Further connections wait in the
    /// kernel's queue until one ends.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Active, Inet, Passive, Socket};
    ///
    /// async fn serve(socket: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     let handler = async |client: Socket<Active, Inet>| client.write_all(b"hello\n").await;
    ///     socket.accept_loop().connections(500).run(handler).await.map(drop)
    /// }
    /// ```
    #[must_use]
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.max(1);
        self
    }

    /// Sets the time limit of each handler. A handler that exceeds it is dropped, together with its
    /// connection.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Active, Inet, Passive, Socket};
    ///
    /// async fn serve(socket: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     let handler = async |client: Socket<Active, Inet>| client.write_all(b"hello\n").await;
    ///     socket.accept_loop().timeout(Duration::from_secs(30)).run(handler).await.map(drop)
    /// }
    /// ```
    #[must_use]
    pub fn timeout(mut self, time: Duration) -> Self {
        self.timeout = Some(time);
        self
    }

    /// Shuts the loop down when a future completes, such as a worker's
    /// [`Stopping`](crate::Stopping) or the receiver of a channel.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::Stopping;
    /// use release_core::net::{Active, Inet, Passive, Socket};
    ///
    /// async fn serve(socket: Socket<Passive, Inet>, stopping: Stopping) -> std::io::Result<()> {
    ///     let handler = async |client: Socket<Active, Inet>| client.write_all(b"hello\n").await;
    ///     socket.accept_loop().until(stopping).run(handler).await.map(drop)
    /// }
    /// ```
    #[must_use]
    pub fn until(mut self, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        self.until = Box::pin(stop);
        self
    }

    /// Sets how long running handlers may continue after the loop stops accepting. Unlimited by
    /// default.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Stopping;
    /// use release_core::net::{Active, Inet, Passive, Socket};
    ///
    /// async fn serve(socket: Socket<Passive, Inet>, stopping: Stopping) -> std::io::Result<()> {
    ///     let handler = async |client: Socket<Active, Inet>| client.write_all(b"hello\n").await;
    ///     let accept_loop = socket.accept_loop().until(stopping).stop_deadline(Duration::from_secs(5));
    ///     accept_loop.run(handler).await.map(drop)
    /// }
    /// ```
    #[must_use]
    pub fn stop_deadline(mut self, time: Duration) -> Self {
        self.stop_deadline = Some(time);
        self
    }

    /// Accepts the connections that are in the queue at shutdown too, as the limit allows: they would
    /// be reset when the last process closes the socket.
    #[cfg(feature = "http")]
    pub(crate) fn accept_queued(mut self) -> Self {
        self.queued = MOST_QUEUED;
        self
    }

    /// Accepts connections until shutdown, then closes the socket and waits for the handlers.
    ///
    /// An error returned by a handler is logged as a warning, at most once in ten seconds. For
    /// conditions that are normal for a client, such as a disconnect in the middle of a request,
    /// your handler should return `Ok`.
    ///
    /// Each handler runs in its own task, so it must own the data that it shares with others:
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
    /// ```
    ///
    /// # Errors
    ///
    /// Returns an error only if no further accept on the socket can succeed. The running handlers
    /// finish first.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket and drops all handlers immediately.
    pub async fn run<H, F, E>(self, handler: H) -> io::Result<Served>
    where
        H: Fn(Socket<Active, A>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let Self { rt, mut socket, connections, timeout, mut until, stop_deadline, queued } = self;
        let handler = Arc::new(handler);
        let start =
            |connection| rt.spawn(serve(rt.clone(), timeout, Arc::clone(&handler), connection));
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
                Ok(connection) => handlers.running.push(start(connection)),
                Err(error) => {
                    log_error!(%error, "no more connections are accepted");
                    break Err(error);
                }
            }
        };
        for _ in 0..queued {
            if ended.is_err() || handlers.running.len() >= connections {
                break;
            }
            let Some(connection) = socket.accept_queued() else { break };
            handlers.running.push(start(connection));
        }
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

/// The running handlers, and the counts of finished ones. Dropping it drops all handlers.
struct Handlers {
    rt: Rt,
    running: FuturesUnordered<Task<Result<(), String>>>,
    served: Served,
    /// Limits the log: a client can make a handler fail on every connection.
    warnings: LogThrottle,
}

impl Handlers {
    fn new(rt: &Rt) -> Self {
        let (running, served) = (FuturesUnordered::new(), Served::default());
        Self { rt: rt.clone(), running, served, warnings: LogThrottle::default() }
    }

    /// Waits until a handler ends; forever if none is running.
    async fn reap(&mut self) {
        match self.running.next().await {
            Some(Ok(())) => self.served.finished += 1,
            Some(Err(why)) => {
                self.served.failed += 1;
                if let Some(unsaid) = self.warnings.now(self.rt.now()) {
                    log_warning!(why, unsaid, "a connection's handler failed");
                }
            }
            None => pending().await,
        }
    }

    /// Waits until all handlers have ended.
    async fn finish(&mut self) {
        while !self.running.is_empty() {
            self.reap().await;
        }
    }
}

/// Serves one connection. Returns the reason if the handler failed.
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
