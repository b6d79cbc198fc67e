//! HTTP servers in workers that lose no request during reloads and stops (feature `http`).
//!
//! [`serve`] serves an axum router, or any other tower service, on a listener of the worker;
//! [`serve_hyper`] serves a hyper service. Both speak HTTP/1 and HTTP/2, on every runtime:
//!
//! ```
//! use std::convert::Infallible;
//!
//! use http_body_util::Full;
//! use hyper::body::{Bytes, Incoming};
//! use hyper::service::service_fn;
//! use hyper::{Request, Response};
//! use release_core::net::Inet;
//! use release_core::{Me, http};
//!
//! async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
//!     let listener = me.listener::<Inet>("http")?;
//!     let hello = async |_: Request<Incoming>| {
//!         Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("hello\n"))))
//!     };
//!     me.ready()?;
//!     http::serve_hyper(&me, listener, service_fn(move |request| hello(request))).await?;
//!     Ok(())
//! }
//! # let _ = worker;
//! ```
//!
//! # How a worker stops
//!
//! When [`Me::stopping`] completes, the server
//!
//! 1. accepts the connections that are in the listener's queue, then closes the listener;
//! 2. answers the requests in hand, with `Connection: close` on HTTP/1 and `GOAWAY` on HTTP/2, so that
//!    each client knows which answer is its last;
//! 3. lets idle HTTP/1 connections linger, because a request may be on its way: that one is answered,
//!    with `Connection: close`. See [`Serve::linger`]. A connection without a request so far stays
//!    open for the [header timeout](Serve::header_timeout);
//! 4. returns when the last connection has ended.
//!
//! A client of HTTP/1 cannot be told that an idle connection is about to be closed. A client that sends
//! its request at the very end of the linger has to repeat it, as it does with every server.
//!
//! # TLS
//!
//! The server has none of its own. [`Serve::handshake`] adds it, or any other protocol below HTTP.
//!
//! # Requests
//!
//! Each request counts as [work](Me::begin_work) until its service has returned a response. The
//! extensions of a request contain the address of the peer, as [`Inet`](crate::net::Inet) or
//! [`Unix`](crate::net::Unix).

mod activity;
mod adaptors;
mod connection;
mod keeper;
mod protocol;
mod transport;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_io::{AsyncRead, AsyncWrite};
use futures_util::{StreamExt, stream};
use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::service::TowerToHyperService;

use crate::net::{AcceptLoop, Active, Address, Passive, Served, Socket, Stream};
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::worker::{ConnectionRelay, Me};
use connection::{Connection, TimeLimits};
use keeper::{Keeper, KeptConnection};
use transport::{BoxError, Handshake, Transport};

/// Upper bound of the time limits.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Serves a tower service, such as an axum router, until the worker should stop.
///
/// Await the result; its methods change the defaults first. See the [module](self) for an example
/// and for the guarantees.
///
/// An error of the service ends its connection and is logged, at most once in ten seconds. So is a
/// panic. Neither ends the server.
///
/// # Examples
///
/// ```
/// use axum::{Router, routing::get};
/// use release_core::net::Inet;
/// use release_core::{Me, http};
///
/// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     let listener = me.listener::<Inet>("http")?;
///     me.ready()?;
///     http::serve(&me, listener, Router::new().route("/", get(async || "hello\n"))).await?;
///     Ok(())
/// }
/// # let _ = worker;
/// ```
pub fn serve<A, S, B, Context, M, C>(
    me: &Me<Context, M, C>,
    listener: Socket<Passive, A>,
    service: S,
) -> Serve<A>
where
    A: Address,
    TowerToHyperService<S>: Service<Request<Incoming>, Response = Response<B>>,
    <TowerToHyperService<S> as Service<Request<Incoming>>>::Future: Send + 'static,
    <TowerToHyperService<S> as Service<Request<Incoming>>>::Error: Into<BoxError>,
    S: Clone + Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    serve_hyper(me, listener, TowerToHyperService::new(service))
}

/// Serves a hyper service until the worker should stop, like [`serve`].
///
/// # Examples
///
/// ```
/// use http_body_util::Full;
/// use hyper::body::{Bytes, Incoming};
/// use hyper::service::service_fn;
/// use hyper::{Request, Response};
/// use release_core::net::Unix;
/// use release_core::{Me, http};
///
/// async fn hello(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
///     Ok(Response::new(Full::new(format!("hello at {}\n", request.uri().path()).into())))
/// }
///
/// async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
///     let listener = me.listener::<Unix>("http")?;
///     me.ready()?;
///     http::serve_hyper(&me, listener, service_fn(hello)).await?;
///     Ok(())
/// }
/// # let _ = worker;
/// ```
pub fn serve_hyper<A, S, B, Context, M, C>(
    me: &Me<Context, M, C>,
    listener: Socket<Passive, A>,
    service: S,
) -> Serve<A>
where
    A: Address,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    serve_by(me, listener, service, me.stopping(), false)
}

/// Serves HTTP/1 only, with heads of at most 16 KiB, like [`serve_hyper`], until it should stop.
pub(crate) fn serve_small<A, S, B, Context, M, C>(
    me: &Me<Context, M, C>,
    listener: Socket<Passive, A>,
    service: S,
    stopping: Stopping,
) -> Serve<A>
where
    A: Address,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    serve_by(me, listener, service, stopping, true)
}

fn serve_by<A, S, B, Context, M, C>(
    me: &Me<Context, M, C>,
    listener: Socket<Passive, A>,
    service: S,
    stopping: Stopping,
    is_small: bool,
) -> Serve<A>
where
    A: Address,
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let (rt, in_flight) = (me.rt().clone(), me.in_flight());
    // Tower's services need not be `Sync`.
    let service = Mutex::new(service);
    let stopped = stopping.clone();
    let handler = move |opened: Opened<A>, settings: ConnectionSettings| -> ServeFuture {
        let service = service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (rt, in_flight, stopping) = (rt.clone(), Arc::clone(&in_flight), stopping.clone());
        Box::pin(async move {
            let Opened { client, kept } = opened;
            let ConnectionSettings { limits, handshake, keeper } = settings;
            let (peer, socket) = (client.peer().ok(), client.into_stream());
            let transport = Transport::new(&rt, socket, handshake, limits.header).await?;
            let connection =
                Connection::new(rt, stopping, in_flight, (limits, keeper), kept.as_ref());
            let connection = if is_small { connection.small() } else { connection };
            let unread = kept.map_or_else(Vec::new, |kept| kept.unread);
            connection.serve(peer, (transport, unread), service).await
        })
    };
    Serve {
        accepting: listener.accept_loop().until(stopped),
        handler: Box::new(handler),
        limits: TimeLimits::default(),
        handshake: None,
        relay: me.connection_relay(),
        rt: me.rt().clone(),
        hands_on: false,
    }
}

/// A connection that begins here, with what an earlier worker has left of it.
struct Opened<A> {
    client: Socket<Active, A>,
    kept: Option<KeptConnection>,
}

/// The settings of a server, for its connections.
#[derive(Clone)]
struct ConnectionSettings {
    limits: TimeLimits,
    handshake: Option<Arc<Handshake>>,
    keeper: Option<Arc<Keeper>>,
}

type ServeFuture = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

type Handler<A> = Box<dyn Fn(Opened<A>, ConnectionSettings) -> ServeFuture + Send + Sync>;

/// A server that runs when you await it. Created by [`serve`] and [`serve_hyper`].
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use release_core::http::Serve;
/// use release_core::net::Inet;
///
/// async fn with_limits(server: Serve<Inet>) -> std::io::Result<()> {
///     let served = server
///         .connections(1000)
///         .header_timeout(Duration::from_secs(2))
///         .idle_timeout(Duration::from_secs(20))
///         .linger(Duration::from_millis(500))
///         .await?;
///     println!("{} connections were served", served.finished);
///     Ok(())
/// }
/// # let _ = with_limits;
/// ```
#[must_use = "a server runs when it is awaited"]
pub struct Serve<A> {
    accepting: AcceptLoop<A>,
    handler: Handler<A>,
    limits: TimeLimits,
    handshake: Option<Arc<Handshake>>,
    relay: ConnectionRelay,
    rt: Rt,
    hands_on: bool,
}

impl<A> fmt::Debug for Serve<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serve")
            .field("accepting", &self.accepting)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

impl<A: Address> Serve<A> {
    /// Sets the maximum number of open connections, at least 1. Further connections wait in the
    /// kernel's queue. By default, the descriptor limit of the process is the only bound.
    ///
    /// Connections that other workers [hand on](Self::hand_on) count, and are taken beyond the limit:
    /// a client that is connected does not wait until another one leaves.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Inet, Passive, Socket};
    /// use release_core::{Me, http};
    ///
    /// async fn serve(me: &Me, listener: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     http::serve(me, listener, axum::Router::new()).connections(10_000).await?;
    ///     Ok(())
    /// }
    /// # let _ = (serve, Duration::ZERO);
    /// ```
    pub fn connections(mut self, most: usize) -> Self {
        self.accepting = self.accepting.connections(most);
        self
    }

    /// Sets the time limit for the head of a request, from its first byte; for the first request of
    /// a connection, from the accept. 5 seconds by default.
    ///
    /// A slower connection is closed. The limit should be less than the master's stop deadline.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Inet, Passive, Socket};
    /// use release_core::{Me, http};
    ///
    /// async fn serve(me: &Me, listener: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     http::serve(me, listener, axum::Router::new()).header_timeout(Duration::from_secs(2)).await?;
    ///     Ok(())
    /// }
    /// # let _ = (serve, Duration::ZERO);
    /// ```
    pub fn header_timeout(mut self, time: Duration) -> Self {
        self.limits.header = time.min(LONGEST);
        self
    }

    /// Sets how long a connection may stay open between two requests. 75 seconds by default.
    ///
    /// A proxy in front of the server should close its idle connections earlier: then no request
    /// meets a connection that is being closed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Inet, Passive, Socket};
    /// use release_core::{Me, http};
    ///
    /// async fn serve(me: &Me, listener: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     http::serve(me, listener, axum::Router::new()).idle_timeout(Duration::from_secs(120)).await?;
    ///     Ok(())
    /// }
    /// # let _ = (serve, Duration::ZERO);
    /// ```
    pub fn idle_timeout(mut self, time: Duration) -> Self {
        self.limits.idle = time.min(LONGEST);
        self
    }

    /// Sets how long HTTP/1 connections stay open after the worker was told to stop, if their
    /// clients send nothing. 1 second by default.
    ///
    /// Longer than the pauses of most clients is best: the first answer in that time tells a client
    /// to take another connection. The linger delays the end of the old worker, not the reload.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use release_core::net::{Inet, Passive, Socket};
    /// use release_core::{Me, http};
    ///
    /// async fn serve(me: &Me, listener: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     http::serve(me, listener, axum::Router::new()).linger(Duration::from_secs(3)).await?;
    ///     Ok(())
    /// }
    /// # let _ = (serve, Duration::ZERO);
    /// ```
    pub fn linger(mut self, time: Duration) -> Self {
        self.limits.linger = time.min(LONGEST);
        self
    }

    /// Hands connections on to the next workers, in place of closing them: for the clients of HTTP/1,
    /// nothing happens at a reload or an upgrade. Off by default.
    ///
    /// When the worker should stop, each connection goes to a ready worker of the newest generation as
    /// soon as its requests are answered, with what was read of the next one. Clients that neither send
    /// nor read are handed on, too. A connection that no worker takes lingers, as without this: when the
    /// whole service stops, or if the next workers do not call this or have another address.
    ///
    /// The group must permit it with [`Workers::hand_on`](crate::Workers::hand_on). One server of a worker
    /// can do so, and no other part of the worker can use [`Me::hand_on`] then: all states of a group have
    /// one type. HTTP/2, connections with a [`handshake`](Self::handshake) and upgraded ones are not handed
    /// on.
    ///
    /// # Examples
    ///
    /// ```
    /// use release_core::net::{Inet, Passive, Socket};
    /// use release_core::{Me, Workers, http};
    ///
    /// // In the master.
    /// let workers = Workers::same_executable("http", 4).user("nobody").hand_on(256, 1024 * 1024);
    ///
    /// async fn serve(me: &Me, listener: Socket<Passive, Inet>) -> std::io::Result<()> {
    ///     http::serve(me, listener, axum::Router::new()).hand_on().await?;
    ///     Ok(())
    /// }
    /// # let _ = (workers, serve);
    /// ```
    pub fn hand_on(mut self) -> Self {
        self.hands_on = true;
        self
    }

    /// Performs a handshake on each connection, such as that of TLS, and serves the stream that it
    /// returns.
    ///
    /// The [`header_timeout`](Self::header_timeout) limits the handshake, and then the head of the first
    /// request. A handshake that fails or takes longer ends its connection, which counts as failed in
    /// [`Served`], and is logged at most once in ten seconds. A handshake that has begun when the worker
    /// stops is completed, and so is the request after it.
    ///
    /// For HTTP/2 over TLS, offer the protocols `h2` and `http/1.1` in the handshake. The server
    /// recognizes either by its first bytes. A stream with tokio's traits, such as that of tokio-rustls,
    /// gets those of this function by `compat` of tokio-util.
    ///
    /// # Examples
    ///
    /// ```
    /// use futures_rustls::TlsAcceptor;
    /// use release_core::net::{Inet, Passive, Socket};
    /// use release_core::{Me, http};
    ///
    /// async fn serve(me: &Me, listener: Socket<Passive, Inet>, tls: TlsAcceptor) -> std::io::Result<()> {
    ///     http::serve(me, listener, axum::Router::new())
    ///         .handshake(move |client| tls.accept(client))
    ///         .await?;
    ///     Ok(())
    /// }
    /// # let _ = serve;
    /// ```
    pub fn handshake<F, H, T, E>(mut self, handshake: F) -> Self
    where
        F: Fn(Stream) -> H + Send + Sync + 'static,
        H: Future<Output = Result<T, E>> + Send + 'static,
        T: AsyncRead + AsyncWrite + Send + 'static,
        E: Into<BoxError>,
    {
        self.handshake = Some(transport::handshake(handshake));
        self
    }
}

impl<A: Address> IntoFuture for Serve<A> {
    type Output = io::Result<Served>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<Served>> + Send>>;

    /// Runs the server, and returns the counts of its connections.
    ///
    /// # Errors
    ///
    /// Returns an error only if no further accept on the listener can succeed. The open connections
    /// finish first.
    fn into_future(self) -> Self::IntoFuture {
        let Self { accepting, handler, limits, handshake, relay, rt, hands_on } = self;
        Box::pin(async move {
            let keeper = match accepting.local() {
                Ok(address) if hands_on && handshake.is_none() => {
                    Some(Arc::new(Keeper::new(relay, rt, &address.to_string())))
                }
                _ => None,
            };
            let (handler, settings) =
                (Arc::new(handler), ConnectionSettings { limits, handshake, keeper });
            let taken = settings.keeper.clone().map(Keeper::taken);
            let (resume, its) = (Arc::clone(&handler), settings.clone());
            let others = stream::iter(taken).flatten().map(move |(stream, kept)| {
                let opened = Opened { client: Socket::accepted(stream), kept: Some(kept) };
                resume(opened, its.clone())
            });
            let begin = move |client| handler(Opened { client, kept: None }, settings.clone());
            accepting.run_beside(others, begin).await
        })
    }
}
