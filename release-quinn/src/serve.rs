//! `serve`: accepts connections until the worker should stop, and waits until they have ended.

use std::any::Any;
use std::error::Error as StdError;
use std::fmt;
use std::future::{Future, IntoFuture, poll_fn};
use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::future::{CatchUnwind, Fuse};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use quinn::{Connecting, Connection, Endpoint, Incoming};
use release_core::net::Served;
use release_core::rt::{BoxFuture, Rt, Task};
use release_core::{Me, Stopping};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Default of the open connections. A connection has no descriptor whose limit would bound it.
const CONNECTIONS: usize = 10_000;

/// Default of the time after the stop: less than the master's default stop deadline.
const DRAIN: Duration = Duration::from_secs(8);

/// From so many handshakes on, the next clients must prove their address before they cost memory.
const UNPROVEN: usize = 256;

/// After a stop, for clients that have begun with this process: what was in the queue, and Retry.
const LATE: Duration = Duration::from_secs(1);

/// Time without an event, after which nothing more is expected.
const QUIET: Duration = Duration::from_millis(300);

/// Exceeds the life of any worker. The clock cannot add any duration.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Time for the handshakes after a stop: two attempts of a client that has lost a packet. Many have
/// begun with another process as well, and never end.
const HANDSHAKE: Duration = Duration::from_secs(3);

/// Time for the last packets of closed connections.
const LAST: Duration = Duration::from_millis(500);

/// Accepts connections on an endpoint and runs `handler` for each, in a task of its own, until the worker
/// should stop and they have ended. Await the result; its methods change the defaults first.
///
/// When [`Me::stopping`] completes, new connections already go to other processes. The server
///
/// 1. completes the handshakes that have begun here;
/// 2. waits until all handlers have returned. They should tell their clients to go elsewhere, with `GOAWAY`
///    in HTTP/3: give each a clone of `me`, whose [`stopping`](Me::stopping) completes now;
/// 3. returns when there was no connection for 300 ms. It closes those that are still open at
///    the end of [`Serve::drain`], with the error code 0.
///
/// A handler that fails or panics ends its own connection only. While there are 256 handshakes, further
/// clients must prove their address first (Retry).
///
/// # Examples
///
/// ```
/// use release_core::Me;
/// use release_quinn::quinn::{Connection, ConnectionError, Endpoint};
///
/// async fn serve(me: Me, endpoint: Endpoint) -> std::io::Result<()> {
///     let greeting = async |connection: Connection| {
///         connection.open_uni().await?.write_all(b"hello\n").await?;
///         connection.closed().await;
///         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
///     };
///     let served = release_quinn::serve(&me, endpoint, move |it| greeting(it)).await?;
///     println!("{} connections were served", served.finished);
///     Ok(())
/// }
/// # let _ = serve;
/// ```
pub fn serve<Context, M, C, F, H, E>(
    me: &Me<Context, M, C>,
    endpoint: Endpoint,
    handler: F,
) -> Serve
where
    F: Fn(Connection) -> H + Send + Sync + 'static,
    H: Future<Output = Result<(), E>> + Send + 'static,
    E: Into<BoxError>,
{
    let handler: Handler =
        Arc::new(move |connection| Box::pin(handler(connection).map(|done| done.map_err(E::into))));
    let (rt, stopping) = (me.rt().clone(), me.stopping());
    Serve { rt, stopping, endpoint, handler, connections: CONNECTIONS, drain: DRAIN }
}

type Outcome = Result<(), BoxError>;

type Handler =
    Arc<dyn Fn(Connection) -> Pin<Box<dyn Future<Output = Outcome> + Send>> + Send + Sync>;

/// A server that runs when you await it. Created by [`serve`].
///
/// # Cancel safety
///
/// Dropping its future drops the handlers. The endpoint lives as long as its clones.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_quinn::Serve;
///
/// async fn with_limits(server: Serve) -> std::io::Result<()> {
///     server.connections(1000).drain(Duration::from_secs(30)).await?;
///     Ok(())
/// }
/// # let _ = with_limits;
/// ```
#[must_use = "a server runs when it is awaited"]
pub struct Serve {
    rt: Rt,
    stopping: Stopping,
    endpoint: Endpoint,
    handler: Handler,
    connections: usize,
    drain: Duration,
}

impl fmt::Debug for Serve {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("endpoint", &self.endpoint)
            .field("connections", &self.connections)
            .field("drain", &self.drain)
            .finish_non_exhaustive()
    }
}

impl Serve {
    /// Sets the maximum number of open connections, handshakes included: at least 1, by default 10,000.
    /// Further clients are refused.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_quinn::Serve;
    ///
    /// fn limited(server: Serve) -> Serve {
    ///     server.connections(1000)
    /// }
    /// # let _ = limited;
    /// ```
    pub fn connections(mut self, most: usize) -> Self {
        self.connections = most.max(1);
        self
    }

    /// Sets how long connections may stay open after the worker was told to stop. 8 seconds by default.
    ///
    /// Set a time that is a second less than the [stop deadline](release_core::Master::stop_deadline)
    /// of the master: then clients learn at once that their connection is over. The drain delays the end
    /// of the old process, not the reload; its slot is in use until then.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::Master;
    /// use release_quinn::Serve;
    ///
    /// fn master() -> Master {
    ///     Master::new().stop_deadline(Duration::from_secs(60))
    /// }
    ///
    /// fn drained(server: Serve) -> Serve {
    ///     server.drain(Duration::from_secs(58))
    /// }
    /// # let _ = (master, drained);
    /// ```
    pub fn drain(mut self, time: Duration) -> Self {
        self.drain = time.min(LONGEST);
        self
    }
}

impl IntoFuture for Serve {
    type Output = io::Result<Served>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<Served>> + Send>>;

    /// Runs the server, and returns the counts of its connections. A failed handshake counts as a failed
    /// connection.
    ///
    /// # Errors
    ///
    /// Returns an error if the endpoint was closed before the worker should stop.
    fn into_future(self) -> Self::IntoFuture {
        Box::pin(Server::new(self).run())
    }
}

/// A handshake that has not ended yet.
struct Handshake(Arc<AtomicUsize>);

impl Handshake {
    fn of(all: &Arc<AtomicUsize>) -> Self {
        all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(all))
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

type Ended = Result<Outcome, Box<dyn Any + Send>>;

enum Event {
    Incoming(Option<Box<Incoming>>),
    Ended(Ended),
    Stop,
    Time,
}

struct Server {
    serve: Serve,
    stopping: Fuse<Stopping>,
    tasks: FuturesUnordered<CatchUnwind<AssertUnwindSafe<Task<Outcome>>>>,
    handshakes: Arc<AtomicUsize>,
    served: Served,
    stopped: Option<Instant>,
    /// When a connection has come or ended last, or the stop.
    latest: Instant,
}

impl Server {
    fn new(serve: Serve) -> Self {
        Self {
            stopping: serve.stopping.clone().fuse(),
            tasks: FuturesUnordered::new(),
            handshakes: Arc::default(),
            served: Served::default(),
            stopped: None,
            latest: serve.rt.now(),
            serve,
        }
    }

    async fn run(mut self) -> io::Result<Served> {
        loop {
            let end = self.end();
            if end.is_some_and(|end| end <= self.serve.rt.now()) {
                return Ok(self.close().await);
            }
            match self.event(end).await {
                Event::Incoming(Some(incoming)) => self.accept(*incoming),
                Event::Incoming(None) if self.stopped.is_none() => {
                    self.close().await;
                    return Err(io::Error::other("the QUIC endpoint was closed"));
                }
                Event::Incoming(None) => return Ok(self.close().await),
                Event::Ended(ended) => {
                    self.latest = self.serve.rt.now();
                    self.count(ended);
                }
                Event::Stop => {
                    self.latest = self.serve.rt.now();
                    self.stopped = Some(self.latest);
                }
                Event::Time => {}
            }
        }
    }

    /// Returns when the server should end if nothing happens before; `None` until it should stop.
    fn end(&self) -> Option<Instant> {
        let stopped = self.stopped?;
        let (open, handshakes) = (self.tasks.len(), self.handshakes.load(Ordering::Relaxed));
        let last = stopped + self.serve.drain;
        Some(match open.saturating_sub(handshakes) {
            0 if open == 0 => last.min(self.latest + QUIET),
            0 => last.min((stopped + HANDSHAKE).max(self.latest + QUIET)),
            _ => last,
        })
    }

    async fn event(&mut self, end: Option<Instant>) -> Event {
        let Self { serve, stopping, tasks, .. } = self;
        let mut accept = pin!(serve.endpoint.accept());
        let mut sleep: Option<BoxFuture> = end.map(|end| serve.rt.runtime().sleep_until(end));
        poll_fn(|cx: &mut Context<'_>| {
            // New clients last: a flood of them must hide nothing else.
            if stopping.poll_unpin(cx).is_ready() {
                return Poll::Ready(Event::Stop);
            }
            if let Poll::Ready(Some(ended)) = tasks.poll_next_unpin(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            if let Poll::Ready(incoming) = accept.as_mut().poll(cx) {
                return Poll::Ready(Event::Incoming(incoming.map(Box::new)));
            }
            let is_time = sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready());
            if is_time { Poll::Ready(Event::Time) } else { Poll::Pending }
        })
        .await
    }

    fn accept(&mut self, incoming: Incoming) {
        let now = self.serve.rt.now();
        let is_late = self.stopped.is_some_and(|stopped| now > stopped + LATE);
        if is_late || self.tasks.len() >= self.serve.connections {
            return incoming.refuse();
        }
        let handshakes = self.handshakes.load(Ordering::Relaxed);
        if handshakes >= UNPROVEN && !incoming.remote_address_validated() {
            // An error says that the address is proven already.
            let _ = incoming.retry();
            return;
        }
        self.latest = now;
        match incoming.accept() {
            Ok(connecting) => self.start(connecting),
            Err(error) => self.count(Ok(Err(error.into()))),
        }
    }

    fn start(&mut self, connecting: Connecting) {
        let (handler, handshake) =
            (Arc::clone(&self.serve.handler), Handshake::of(&self.handshakes));
        let task = self.serve.rt.spawn(async move {
            let connection = connecting.await?;
            drop(handshake);
            handler(connection).await
        });
        self.tasks.push(AssertUnwindSafe(task).catch_unwind());
    }

    fn count(&mut self, ended: Ended) {
        match ended {
            Ok(Ok(())) => self.served.finished += 1,
            Ok(Err(error)) => {
                tracing::debug!(%error, "a QUIC connection has failed");
                self.served.failed += 1;
            }
            // The task has logged the panic.
            Err(_) => self.served.failed += 1,
        }
    }

    /// Ends what is left. Handlers that are dropped close their connections in the way of their protocol.
    async fn close(mut self) -> Served {
        let Serve { rt, endpoint, .. } = &self.serve;
        self.served.aborted = self.tasks.len() as u64;
        self.tasks.clear();
        let _ = rt.timeout(LAST, endpoint.wait_idle()).await;
        endpoint.close(0_u32.into(), b"");
        let _ = rt.timeout(LAST, endpoint.wait_idle()).await;
        self.served
    }
}
