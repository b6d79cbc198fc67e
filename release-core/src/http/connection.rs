//! `Connection`: serves one connection, ends it in time, and marks its last answer.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use futures_util::FutureExt;
use futures_util::future::{Either, select};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, HeaderValue};
use hyper::service::{Service, service_fn};
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::server::conn::auto;

use super::activity::{Activity, Phase};
use super::adaptors::{Io, Spawner};
use crate::net::{Active, Address, Socket};
use crate::rt::Rt;
use crate::stopping::Stopping;
use crate::worker::InFlight;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Shortest time between two looks at a connection.
const SHORTEST: Duration = Duration::from_millis(10);

/// Time limits of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) header: Duration,
    pub(super) idle: Duration,
    pub(super) linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        let (header, idle) = (Duration::from_secs(5), Duration::from_secs(75));
        Self { header, idle, linger: Duration::from_secs(1) }
    }
}

/// How a connection should end.
enum End {
    /// With the answers to the requests in hand.
    Orderly,
    /// At once: the head of a request did not arrive in time.
    TooSlow,
}

/// One connection of a server.
pub(super) struct Connection {
    rt: Rt,
    stopping: Stopping,
    in_flight: Arc<InFlight>,
    limits: Limits,
    activity: Arc<Activity>,
}

impl Connection {
    pub(super) fn new(
        rt: Rt,
        stopping: Stopping,
        in_flight: Arc<InFlight>,
        limits: Limits,
    ) -> Self {
        let activity = Arc::new(Activity::new(&rt));
        Self { rt, stopping, in_flight, limits, activity }
    }

    /// Serves requests until the client leaves, a time limit expires, or the worker stops.
    ///
    /// # Errors
    ///
    /// Returns the errors of the service. Those of the client are its own business.
    pub(super) async fn serve<A, S, B>(
        self,
        http: auto::Builder<Spawner>,
        client: Socket<Active, A>,
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
        let peer = client.peer().ok();
        let (open, closed) = oneshot::channel();
        let (stream, activity) = (client.into_stream(), Arc::clone(&self.activity));
        let io = Io { stream, activity, _open: open };
        let this = Arc::new(self);
        let answering = Arc::clone(&this);
        let service = service_fn(move |mut request: Request<Incoming>| {
            if let Some(peer) = peer.clone() {
                request.extensions_mut().insert(peer);
            }
            answering.answer(request, &service)
        });
        let ended = {
            let mut connection = pin!(http.serve_connection_with_upgrades(io, service));
            match select(connection.as_mut(), pin!(this.end())).await {
                Either::Left((ended, _)) => ended,
                Either::Right((End::TooSlow, _)) => Ok(()),
                Either::Right((End::Orderly, _)) => {
                    connection.as_mut().graceful_shutdown();
                    match select(connection, pin!(this.silence())).await {
                        Either::Left((ended, _)) => ended,
                        Either::Right(_) => Ok(()),
                    }
                }
            }
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

    /// Answers a request, and marks the last answer of a connection.
    fn answer<S, B>(
        &self,
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
        let work = self.in_flight.begin(self.rt.now());
        let stopping = self.stopping.clone();
        let answered = service.call(request);
        async move {
            let mut response = answered.await?;
            drop(work);
            let has_switched = response.status() == StatusCode::SWITCHING_PROTOCOLS;
            let can_close = version < Version::HTTP_2 && !has_switched;
            if can_close && stopping.now_or_never().is_some() {
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
    async fn end(&self) -> End {
        let expired = pin!(self.expired());
        if let Either::Left((end, _)) = select(expired, self.stopping.clone()).await {
            return end;
        }
        if !self.activity.is_http2() {
            self.rt.sleep(self.limits.linger).await;
            // A request that has begun to arrive is answered.
            while let Phase::Head(since) = self.activity.phase() {
                let deadline = since + self.limits.header;
                if deadline <= self.rt.now() {
                    return End::TooSlow;
                }
                self.rt.sleep_until(deadline).await;
            }
        }
        End::Orderly
    }

    /// Waits until a time limit expires.
    async fn expired(&self) -> End {
        loop {
            let now = self.rt.now();
            let (deadline, end) = match self.activity.phase() {
                Phase::New(since) | Phase::Head(since) => {
                    (Some(since + self.limits.header), End::TooSlow)
                }
                Phase::Idle(since) => (Some(since + self.limits.idle), End::Orderly),
                Phase::InHand(_) => (None, End::Orderly),
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

    /// Waits until no request is in hand for the time of a head, after the orderly end began: the
    /// client does not close the connection, or is gone.
    async fn silence(&self) {
        loop {
            self.rt.sleep(self.limits.header.max(SHORTEST)).await;
            if !matches!(self.activity.phase(), Phase::InHand(_)) {
                return;
            }
        }
    }
}
