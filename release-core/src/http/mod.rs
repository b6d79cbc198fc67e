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
//!    with `Connection: close`. See [`Serve::linger`];
//! 4. returns when the last connection has ended.
//!
//! A client of HTTP/1 cannot be told that an idle connection is about to be closed. One that sends its
//! request at the very end of the linger has to repeat it, as it does with every server.
//!
//! # Requests
//!
//! Each request counts as [work](Me::begin_work) until its service has returned a response. The
//! extensions of a request contain the address of the peer, as [`Inet`](crate::net::Inet) or
//! [`Unix`](crate::net::Unix).

mod activity;
mod adaptors;
mod connection;

use std::fmt;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;

use crate::net::{AcceptLoop, Active, Address, Passive, Served, Socket};
use crate::worker::Me;
use adaptors::Spawner;
use connection::{BoxError, Connection, Limits};

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

/// Serves a hyper service until the worker should stop, like [`serve`]. The [module](self) has an
/// example.
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
    let (rt, stopping) = (me.rt().clone(), me.stopping());
    let in_flight = me.in_flight();
    let mut http = auto::Builder::new(Spawner(rt.clone()));
    http.http2().enable_connect_protocol();
    // Tower's services need not be `Sync`.
    let service = Mutex::new(service);
    let stopped = stopping.clone();
    let handler = move |client: Socket<Active, A>, limits: Limits| -> Serving {
        let service = service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let in_flight = Arc::clone(&in_flight);
        let connection = Connection::new(rt.clone(), stopping.clone(), in_flight, limits);
        Box::pin(connection.serve(http.clone(), client, service))
    };
    Serve {
        accepting: listener.accept_loop().until(stopped).accept_queued(),
        handler: Box::new(handler),
        limits: Limits::default(),
    }
}

type Serving = Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>;

type Handler<A> = Box<dyn Fn(Socket<Active, A>, Limits) -> Serving + Send + Sync>;

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
    limits: Limits,
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
        let Self { accepting, handler, limits } = self;
        Box::pin(accepting.run(move |client| handler(client, limits)))
    }
}
