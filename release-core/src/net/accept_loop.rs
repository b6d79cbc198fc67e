//! `AcceptLoop`: one task per connection, limits, and graceful shutdown.

use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, pending};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{Either, select};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt, stream};

use super::{Active, Address, Passive, Socket};
use crate::guard::panic_message;
use crate::log_throttle::LogThrottle;
use crate::rt::{BoxFuture, Rt};

/// Maximum number of connections accepted at shutdown: a longer queue is a flood.
const MOST_QUEUED: usize = 4096;

/// Accepts connections and runs a handler for each. Created by [`Socket::accept_loop`].
///
/// * Each handler runs in its own task. A handler that fails, panics or times out ends only its own
///   connection.
/// * If the process runs out of descriptors, connections wait: see [`Socket::accept`].
/// * On shutdown the loop takes the connections that are already in the kernel's queue, as the limit
///   allows: they would be reset when the last process closes the socket. It accepts no others. All
///   handlers may finish, up to a deadline.
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
        self.run_beside(stream::empty(), handler).await
    }

    /// Returns the address of the socket.
    #[cfg(feature = "http")]
    pub(crate) fn local(&self) -> io::Result<A> {
        self.socket.local()
    }

    /// Like [`run`](AcceptLoop::run), also for connections that come another way, until the end of `others`.
    pub(crate) async fn run_beside<H, F, E>(
        self,
        others: impl Stream<Item = F>,
        handler: H,
    ) -> io::Result<Served>
    where
        H: Fn(Socket<Active, A>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let (rt, timeout, handler) = (self.rt.clone(), self.timeout, Arc::new(handler));
        let others = others.map(|other| rt.spawn(serve(rt.clone(), timeout, other)));
        let start = |connection| {
            let handler = Arc::clone(&handler);
            rt.spawn(serve(rt.clone(), timeout, async move { handler(connection).await }))
        };
        self.run_with(others, start).await
    }

    /// Like [`run`](AcceptLoop::run), with handlers that need not be [`Send`], and may borrow.
    ///
    /// All handlers run in this future, one at a time, and never on another thread. In a thread-per-core
    /// program, each worker has one thread and calls this in its main function: connections share data
    /// without locks.
    ///
    /// # Errors
    ///
    /// Returns the errors of [`run`](AcceptLoop::run).
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the socket and drops all handlers immediately.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::cell::Cell;
    /// use release_core::Stopping;
    /// use release_core::net::{Active, Inet, Passive, Socket};
    ///
    /// async fn serve(socket: Socket<Passive, Inet>, stopping: Stopping) -> std::io::Result<()> {
    ///     let count = Cell::new(0);
    ///     let handler = async |client: Socket<Active, Inet>| {
    ///         count.set(count.get() + 1);
    ///         client.write_all(format!("you are number {}\n", count.get()).as_bytes()).await
    ///     };
    ///     socket.accept_loop().until(stopping).run_local(handler).await.map(drop)
    /// }
    /// ```
    pub async fn run_local<H, E>(self, handler: H) -> io::Result<Served>
    where
        H: AsyncFn(Socket<Active, A>) -> Result<(), E>,
        E: Into<Box<dyn StdError + Send + Sync>>,
    {
        let (rt, timeout) = (self.rt.clone(), self.timeout);
        let handler = &handler;
        self.run_with(stream::empty(), |connection| {
            Box::pin(serve(rt.clone(), timeout, async move { handler(connection).await }))
        })
        .await
    }

    /// Accepts connections, and polls what `start` returns for each, and the others, until they end.
    async fn run_with<T>(
        self,
        others: impl Stream<Item = T>,
        start: impl Fn(Socket<Active, A>) -> T,
    ) -> io::Result<Served>
    where
        T: Future<Output = Result<(), String>>,
    {
        let Self { rt, mut socket, connections, mut until, stop_deadline, .. } = self;
        let mut handlers = Handlers::new(&rt);
        let mut others = pin!(others.fuse());
        let ended = loop {
            let is_full = handlers.running.len() >= connections;
            let accepted = {
                // Those on their way have no other place. Left with their sender, they would wait there for
                // an answer, and their clients with them.
                let accepting = pin!(next(&mut socket, others.as_mut(), is_full));
                let reaping = pin!(handlers.reap());
                match select(&mut until, select(reaping, accepting)).await {
                    Either::Left(_) => break Ok(()),
                    Either::Right((Either::Left(_), _)) => continue,
                    Either::Right((Either::Right((accepted, _)), _)) => accepted,
                }
            };
            match accepted {
                Ok(Either::Left(connection)) => handlers.running.push(start(connection)),
                Ok(Either::Right(other)) => handlers.running.push(other),
                Err(error) => {
                    log_error!(%error, "no more connections are accepted");
                    break Err(error);
                }
            }
        };
        // No more than may be served now: another process that has the socket serves the rest.
        let room = connections.saturating_sub(handlers.running.len());
        let most = if ended.is_ok() { MOST_QUEUED.min(room) } else { 0 };
        let queued = (0..most).map_while(|_| socket.accept_queued());
        handlers.running.extend(queued.map(&start));
        drop(socket);
        // Without a listener, only a stop would end them. Those on their way go to another worker.
        if ended.is_ok() {
            while let Some(other) = others.next().await {
                handlers.running.push(other);
            }
        }
        let finishing = async {
            while !handlers.running.is_empty() {
                handlers.reap().await;
            }
        };
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

/// Waits for a connection, unless there are enough, or for another one.
async fn next<A: Address, T>(
    socket: &mut Socket<Passive, A>,
    mut others: Pin<&mut impl Stream<Item = T>>,
    is_full: bool,
) -> io::Result<Either<Socket<Active, A>, T>> {
    let other = pin!(async {
        match others.next().await {
            Some(other) => other,
            None => pending().await,
        }
    });
    let accepting = pin!(async {
        match is_full {
            true => pending().await,
            false => socket.accept().await,
        }
    });
    match select(accepting, other).await {
        Either::Left((accepted, _)) => accepted.map(Either::Left),
        Either::Right((other, _)) => Ok(Either::Right(other)),
    }
}

/// The running handlers, and the counts of finished ones. Dropping it drops all handlers.
struct Handlers<T> {
    rt: Rt,
    running: FuturesUnordered<T>,
    served: Served,
    /// Limits the log: a client can make a handler fail on every connection.
    warnings: LogThrottle,
}

impl<T: Future<Output = Result<(), String>>> Handlers<T> {
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
}

/// Serves one connection. Returns the reason if the handler failed.
async fn serve<E>(
    rt: Rt,
    timeout: Option<Duration>,
    handler: impl Future<Output = Result<(), E>>,
) -> Result<(), String>
where
    E: Into<Box<dyn StdError + Send + Sync>>,
{
    let handling = async {
        match timeout {
            None => Ok(handler.await),
            Some(time) => rt.timeout(time, handler).await.map_err(|_| time),
        }
    };
    match AssertUnwindSafe(handling).catch_unwind().await {
        Ok(Ok(done)) => done.map_err(|error| crate::error::chain(error.into().as_ref())),
        Ok(Err(time)) => Err(format!("it took longer than {time:?}")),
        Err(panic) => Err(format!("it panicked: {}", panic_message(panic.as_ref()))),
    }
}
