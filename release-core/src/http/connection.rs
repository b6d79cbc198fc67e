//! `Connection`: serves one connection, ends it in time, and marks its last answer.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode, Version};

use super::activity::{Activity, ConnectionPhase};
use super::adaptors::{HeadTimer, HyperIo, Spawner};
use super::keeper::{Keeper, KeptConnection};
use super::protocol::Protocol;
use super::transport::{BoxError, Transport};
use crate::net::Address;
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::worker::InFlight;

/// Maximum size of the head of a request, in bytes, and of the number of its fields, for a small server.
const LONGEST_HEAD: usize = 16 * 1024;
const MOST_HEADERS: usize = 64;

/// Shortest time between two looks at a connection.
const SHORTEST: Duration = Duration::from_millis(10);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeLimits {
    pub(super) header: Duration,
    pub(super) idle: Duration,
    pub(super) linger: Duration,
}

impl Default for TimeLimits {
    fn default() -> Self {
        let (header, idle) = (Duration::from_secs(5), Duration::from_secs(75));
        Self { header, idle, linger: Duration::from_secs(1) }
    }
}

/// How a connection should end.
enum Closing {
    /// With the answers to the requests in hand.
    Orderly,
    /// At once: the head of a request did not arrive in time.
    TooSlow,
    /// With another worker.
    HandOn,
}

/// How serving a connection has ended.
enum ServeOutcome<S> {
    Ended(Result<(), BoxError>),
    /// Between two requests: another worker may go on.
    Idle(HyperIo, S),
}

/// The outcome of the wait for the end of a request.
enum Idle {
    Now,
    /// The connection has ended.
    Ended(Result<(), BoxError>),
    /// The client does not read its answer, or the service does not read the body of the request.
    Silent,
}

/// One connection of a server.
pub(super) struct Connection {
    rt: Rt,
    stopping: Stopping,
    in_flight: Arc<InFlight>,
    limits: TimeLimits,
    activity: Arc<Activity>,
    keeper: Option<Arc<Keeper>>,
    /// Set when no other worker takes the connection.
    stays: AtomicBool,
    /// Whether it is HTTP/1 with short heads.
    is_small: bool,
}

impl Connection {
    pub(super) fn new(
        rt: Rt,
        stopping: Stopping,
        in_flight: Arc<InFlight>,
        (limits, keeper): (TimeLimits, Option<Arc<Keeper>>),
        kept: Option<&KeptConnection>,
    ) -> Self {
        let activity = kept.map_or_else(|| Activity::new(&rt), |kept| Activity::of(&rt, kept));
        let (activity, stays) = (Arc::new(activity), AtomicBool::new(false));
        Self { rt, stopping, in_flight, limits, activity, keeper, stays, is_small: false }
    }

    /// Limits it to HTTP/1, with short heads.
    pub(super) fn small(self) -> Self {
        Self { is_small: true, ..self }
    }

    /// Serves requests until the client leaves, a time limit expires, the worker stops, or another worker
    /// has the connection.
    ///
    /// # Errors
    ///
    /// Returns the errors of the service. Errors of the client are not reported.
    pub(super) async fn serve<A, S, B>(
        self,
        peer: Option<A>,
        (transport, unread): (Transport, Vec<u8>),
        service: S,
    ) -> Result<(), BoxError>
    where
        A: Address,
        S: Service<Request<Incoming>, Response = Response<B>> + 'static,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let (open, closed) = oneshot::channel();
        let activity = Arc::clone(&self.activity);
        let io = HyperIo { transport, unread, activity, _open: open };
        let this = Arc::new(self);
        let answering = Arc::clone(&this);
        let service = service_fn(move |mut request: Request<Incoming>| {
            if let Some(peer) = peer.clone() {
                request.extensions_mut().insert(peer);
            }
            answering.answer(request, &service)
        });
        let ended = match this.serve_until_idle(io, service).await {
            ServeOutcome::Ended(ended) => ended,
            ServeOutcome::Idle(io, service) => match this.hand_on(io).await {
                None => return Ok(()),
                Some(io) => match this.serve_until_idle(io, service).await {
                    ServeOutcome::Ended(ended) => ended,
                    ServeOutcome::Idle(..) => Ok(()),
                },
            },
        };
        // An upgraded connection, such as a WebSocket, goes on.
        let _ = closed.await;
        let is_user = |error: &BoxError| {
            error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_user)
        };
        match ended {
            Err(error) if !is_user(&error) => {
                tracing::debug!(%error, "an HTTP connection failed");
                Ok(())
            }
            ended => ended,
        }
    }

    /// Serves requests until the connection should end, or another worker should have it.
    async fn serve_until_idle<S, B>(&self, mut io: HyperIo, service: S) -> ServeOutcome<S>
    where
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let mut end = pin!(self.end());
        let (mut http, mut first) = (http1::Builder::new(), Ok(Ok(false)));
        if self.keeper.is_some() {
            http.timer(HeadTimer(Arc::clone(&self.activity)));
        }
        if self.is_small {
            http.max_buf_size(LONGEST_HEAD).max_headers(MOST_HEADERS);
        } else {
            first = match select(poll_fn(|cx| io.poll_is_http2(cx)), end.as_mut()).await {
                Either::Left((is_http2, _)) => Ok(is_http2),
                Either::Right((closing, _)) => Err(closing),
            };
        }
        let mut connection = match first {
            Ok(Ok(true)) => {
                self.activity.begin_http2();
                let activity = Arc::clone(&self.activity);
                let mut http = http2::Builder::new(Spawner(self.rt.clone(), activity));
                http.enable_connect_protocol();
                Protocol::Http2(Box::pin(http.serve_connection(io, service)))
            }
            Ok(Ok(false)) => {
                Protocol::Http1(Box::new(http.serve_connection(io, service).with_upgrades()))
            }
            Ok(Err(error)) => return ServeOutcome::Ended(Err(error.into())),
            Err(Closing::HandOn) => return ServeOutcome::Idle(io, service),
            Err(_) => return ServeOutcome::Ended(Ok(())),
        };
        match select(&mut connection, end).await {
            Either::Left((ended, _)) => return ServeOutcome::Ended(ended),
            Either::Right((Closing::TooSlow, _)) => return ServeOutcome::Ended(Ok(())),
            Either::Right((Closing::Orderly, _)) => connection.graceful_shutdown(),
            Either::Right((Closing::HandOn, _)) => match self.idle(&mut connection).await {
                Idle::Ended(ended) => return ServeOutcome::Ended(ended),
                Idle::Silent => return ServeOutcome::Ended(Ok(())),
                Idle::Now => match connection.into_parts() {
                    Some((io, service)) => return ServeOutcome::Idle(io, service),
                    None => return ServeOutcome::Ended(Ok(())),
                },
            },
        }
        match select(connection, pin!(self.silence())).await {
            Either::Left((ended, _)) => ServeOutcome::Ended(ended),
            Either::Right(_) => ServeOutcome::Ended(Ok(())),
        }
    }

    /// Waits until all requests are answered, and nothing of them is left to read.
    async fn idle<S, B>(&self, connection: &mut Protocol<S, B>) -> Idle
    where
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Future: Send + 'static,
        S::Error: Into<BoxError>,
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<BoxError>,
    {
        let at_rest = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.poll_unpin(cx) {
                return Poll::Ready(Some(ended));
            }
            // The service may drop the body of a request, and another thread at any time. Only if hyper has
            // seen its end, the next byte is that of a request.
            match self.activity.is_at_rest() && !self.activity.has_body() {
                true => Poll::Ready(None),
                false => Poll::Pending,
            }
        });
        match select(at_rest, pin!(self.silence())).await {
            Either::Left((Some(ended), _)) => Idle::Ended(ended),
            Either::Left((None, _)) => Idle::Now,
            Either::Right(_) => Idle::Silent,
        }
    }

    /// Hands the connection on. Returns it if it stays here.
    async fn hand_on(&self, io: HyperIo) -> Option<HyperIo> {
        let HyperIo { transport, unread, activity, _open } = io;
        let (is_new, since) = match activity.phase() {
            ConnectionPhase::New(since) => (true, since),
            ConnectionPhase::Idle(since) | ConnectionPhase::Head(since) => (false, since),
            ConnectionPhase::InHand(_) => (false, self.rt.now()),
        };
        let kept = (unread.clone(), is_new, self.rt.now().saturating_duration_since(since));
        if let (Transport::Socket(stream), Some(keeper)) = (&transport, &self.keeper)
            && keeper.give(stream, kept, self.limits.header).await
        {
            return None;
        }
        self.stays.store(true, Ordering::Relaxed);
        Some(HyperIo { transport, unread, activity, _open })
    }

    /// Answers a request, and marks the last answer of a connection.
    fn answer<S, B>(
        self: &Arc<Self>,
        request: Request<Incoming>,
        service: &S,
    ) -> impl Future<
        Output = Result<
            Response<impl Body<Data = B::Data, Error = B::Error> + use<S, B>>,
            S::Error,
        >,
    > + Send
    + use<S, B>
    where
        S: Service<Request<Incoming>, Response = Response<B>>,
        S::Future: Send + 'static,
        B: Body + Send + 'static,
    {
        let version = request.version();
        let answering = self.activity.begin(version);
        self.activity.set_body(!request.body().is_end_stream());
        self.activity.promise(false);
        let work = self.in_flight.begin(self.rt.now());
        let stopping = self.stopping.clone();
        let this = Arc::clone(self);
        let answered = service.call(request);
        async move {
            let mut response = answered.await?;
            drop(work);
            let has_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let can_close = version < Version::HTTP_2 && !has_switched;
            let is_last = can_close && !this.may_hand_on() && stopping.now_or_never().is_some();
            this.activity.promise(!is_last);
            if is_last {
                response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
            }
            // The request is in hand until its body is dropped.
            Ok(response.map(|body| {
                body.map_err(move |error| {
                    let _until_the_end = &answering;
                    error
                })
            }))
        }
    }

    /// Waits until the connection should end.
    async fn end(&self) -> Closing {
        let expired = pin!(self.expired());
        if let Either::Left((end, _)) = select(expired, self.stopping.clone()).await {
            return end;
        }
        if self.may_hand_on() {
            return Closing::HandOn;
        }
        match select(pin!(self.activity.http2()), pin!(self.lingered())).await {
            Either::Left(_) => Closing::Orderly,
            Either::Right((end, _)) => end,
        }
    }

    /// Waits, during a stop, for a request that may be on its way.
    async fn lingered(&self) -> Closing {
        let mut begun = self.rt.now();
        loop {
            self.rt.sleep_until(begun + self.limits.linger).await;
            // An answer that has begun before the stop has promised that another request may follow.
            if !self.activity.has_promised() {
                break;
            }
            let rest = pin!(self.activity.at_rest());
            let silence = pin!(self.silence());
            let is_over = matches!(select(rest, silence).await, Either::Left(_));
            match self.activity.phase() {
                ConnectionPhase::Idle(since) if is_over && since > begun => begun = since,
                _ => break,
            }
        }
        // A request that has begun to arrive is answered, and the first one of a connection: a client
        // rarely connects for nothing.
        while let ConnectionPhase::Head(since) | ConnectionPhase::New(since) = self.activity.phase()
        {
            let deadline = since + self.limits.header;
            if deadline <= self.rt.now() {
                return Closing::TooSlow;
            }
            self.rt.sleep_until(deadline).await;
        }
        Closing::Orderly
    }

    /// Returns whether another worker may go on with this connection.
    fn may_hand_on(&self) -> bool {
        self.keeper.is_some() && !self.stays.load(Ordering::Relaxed) && !self.activity.is_http2()
    }

    /// Waits until a time limit expires.
    async fn expired(&self) -> Closing {
        loop {
            let now = self.rt.now();
            let (deadline, end) = match self.activity.phase() {
                ConnectionPhase::New(since) | ConnectionPhase::Head(since) => {
                    (Some(since + self.limits.header), Closing::TooSlow)
                }
                ConnectionPhase::Idle(since) => (Some(since + self.limits.idle), Closing::Orderly),
                ConnectionPhase::InHand(_) => (None, Closing::Orderly),
            };
            if deadline.is_some_and(|deadline| deadline <= now) {
                return end;
            }
            // Looked at again before a head can be late by more than its limit, in place of a timer
            // for each request.
            let next = now + self.limits.header.max(SHORTEST);
            self.rt.sleep_until(deadline.map_or(next, |deadline| deadline.min(next))).await;
        }
    }

    /// Waits until no request is in hand for the time of a head, and nothing is sent, after the orderly end
    /// began: the client does not close the connection, does not read, or is gone.
    async fn silence(&self) {
        let (limit, begun) = (self.limits.header.max(SHORTEST), self.rt.now());
        let mut was_quiet = false;
        loop {
            self.rt.sleep(limit).await;
            let is_quiet = !matches!(self.activity.phase(), ConnectionPhase::InHand(_))
                && self.activity.written_after(begun) + limit <= self.rt.now();
            if is_quiet && was_quiet {
                return;
            }
            was_quiet = is_quiet;
        }
    }
}
