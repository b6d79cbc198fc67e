//! The worker of the status page: serves HTTP, and asks the master for the same at most five times a
//! second.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::{Future, IntoFuture};
use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use futures_util::stream;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::{ALLOW, CONNECTION, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};

use super::crowd::{Crowd, HEAD, MOST_CLIENTS};
use super::facts::{Health, PageStatus};
use super::html::{self, Percents};
use super::latest::{Latest, PATIENCE};
use super::slow_reader::SlowReader;
use super::{LISTENER, PageContext, PageRequest};
use crate::exit::Exit;
use crate::http::serve_small;
use crate::ipc::Never;
use crate::net::{Address, Inet, Passive, Served, Socket, Stream, Unix};
use crate::rt::Driver;
use crate::stopping::{Stopping, stop_channel};
use crate::worker::{Me, me};

/// Maximum number of clients that follow the events.
const MOST_FOLLOWERS: usize = 32;

/// Time limit of a connection between two requests.
const IDLE: Duration = Duration::from_secs(15);

/// How long the answers in hand may take in a reload, and when everything else of the service has ended.
const LAST_ANSWERS: Duration = Duration::from_secs(3);
const VERY_LAST: Duration = Duration::from_millis(200);

/// Time between two events, and between two questions without anybody who looks.
const EVENTS: Duration = Duration::from_secs(1);
const SAMPLES: Duration = Duration::from_secs(10);

/// Time between two looks whether the service has ended.
const LOOK: Duration = Duration::from_millis(100);

/// How long a client may follow the events until it has to connect again, as browsers do by themselves.
const FOLLOW: Duration = Duration::from_secs(600);

type PageError = Box<dyn std::error::Error + Send + Sync>;
type PageMe = Me<PageContext, PageRequest>;
type PageBody = UnsyncBoxBody<Bytes, Infallible>;

/// Headers of every answer: nothing from elsewhere, nothing in a frame, nothing kept.
const HEADERS: [(&str, &str); 5] = [
    (
        "content-security-policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store"),
];

/// Runs this process as the worker of a status page.
pub(crate) fn run<D: Driver>(driver: impl FnOnce() -> io::Result<D>) -> Exit {
    let refuse = |never: Never| async move { match never {} };
    me().serve_calls(driver, refuse, worker)
}

async fn worker(me: PageMe) -> Result<(), PageError> {
    let (stop, stopping) = stop_channel();
    let page = Arc::new(Page::new(me.clone(), stopping));
    let sampled = Arc::clone(&page);
    let _sampling = me.rt().spawn(async move {
        loop {
            let _ = sampled.shown().await;
            sampled.me.rt().sleep(SAMPLES).await;
        }
    });
    let served = async {
        match me.context().is_unix {
            true => serve(&page, page.me.listener::<Unix>(LISTENER)?).await,
            false => serve(&page, page.me.listener::<Inet>(LISTENER)?).await,
        }
    };
    let late = async {
        let time = if page.is_end().await { VERY_LAST } else { LAST_ANSWERS };
        stop.now();
        me.rt().sleep(time).await;
    };
    match select(pin!(served), pin!(late)).await {
        Either::Left((served, _)) => served.map(drop),
        // A client that does not read its answer.
        Either::Right(_) => Ok(()),
    }
}

async fn serve<A: Address>(
    page: &Arc<Page>,
    listener: Socket<Passive, A>,
) -> Result<Served, PageError> {
    page.me.ready()?;
    let (greeting, answering) = (Arc::clone(page), Arc::clone(page));
    let service = service_fn(move |request: Request<Incoming>| {
        let page = Arc::clone(&answering);
        async move { Ok::<_, Infallible>(page.answer_one_of_many(&request).await) }
    });
    let served = serve_small(&page.me, listener, service, page.stopping.clone())
        .connections(MOST_CLIENTS)
        .header_timeout(HEAD)
        .idle_timeout(IDLE)
        .handshake(move |client: Stream| {
            let (page, place) = (Arc::clone(&greeting), greeting.crowd.enter());
            async move {
                let rt = page.me.rt();
                let first = page.crowd.first_request(rt, &client).await;
                Ok::<_, Infallible>(SlowReader::new(rt, client, first, place))
            }
        });
    Ok(served.into_future().await?)
}

/// The contents of the page at one time.
struct Shown {
    page: Bytes,
    /// The contents of the page, as an event.
    event: Bytes,
}

struct Page {
    me: PageMe,
    /// When the page should stop, which is later than its worker was told to.
    stopping: Stopping,
    health: Latest<Arc<Health>>,
    metrics: Latest<Bytes>,
    shown: Latest<Arc<Shown>>,
    usage: Arc<Mutex<ProcessorUsage>>,
    crowd: Crowd,
    followers: Arc<AtomicUsize>,
}

impl Page {
    fn new(me: PageMe, stopping: Stopping) -> Self {
        Self {
            me,
            stopping,
            health: Latest::default(),
            metrics: Latest::default(),
            shown: Latest::default(),
            usage: Arc::default(),
            crowd: Crowd::default(),
            followers: Arc::default(),
        }
    }

    /// Answers, and does not keep the connection if too many stay open.
    async fn answer_one_of_many(
        self: &Arc<Self>,
        request: &Request<Incoming>,
    ) -> Response<PageBody> {
        let mut answer = self.answer(request).await;
        if !self.crowd.may_stay() {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn answer(self: &Arc<Self>, request: &Request<Incoming>) -> Response<PageBody> {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n".to_owned());
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        match request.uri().path() {
            "/" => match self.shown().await {
                Ok(shown) => found("text/html; charset=utf-8", shown.page.clone()),
                Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
            },
            "/page.css" => found("text/css; charset=utf-8", include_str!("page.css")),
            "/page.js" => found("text/javascript; charset=utf-8", include_str!("page.js")),
            "/icon.svg" => found("image/svg+xml", include_str!("icon.svg")),
            "/metrics" => self.metrics().await,
            "/readyz" => self.checked("ready\n", |health| health.not_ready.clone()).await,
            "/livez" => self.checked("alive\n", |health| health.not_live.clone()).await,
            "/events" => self.events(),
            _ => text(StatusCode::NOT_FOUND, "there is no such page\n".to_owned()),
        }
    }

    async fn metrics(&self) -> Response<PageBody> {
        let metrics = self.metrics.get(self.me.rt().now(), || {
            asked(self.me.clone(), PageRequest::Metrics, |text| Ok(Bytes::from(text)))
        });
        const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        match metrics.await {
            Ok(metrics) => found(TYPE, metrics),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }

    /// Waits until this process should stop. Returns whether the service does, of which it is the last
    /// worker; a reload replaces it at once.
    async fn is_end(&self) -> bool {
        self.me.stopping().await;
        let told = self.me.rt().now();
        // Its own time is that of the others, some of which may be granted more.
        let has_time = |health: &Health| {
            let spent = self.me.rt().now().saturating_duration_since(told);
            spent.as_secs_f64() < health.stop_deadline_s * 0.75
        };
        loop {
            // What was fresh before the stop does not know of it.
            match self.ask_health().await {
                Ok((health, _))
                    if health.is_stopping && health.running > 0 && has_time(&health) =>
                {
                    self.me.rt().sleep(LOOK).await;
                }
                health => return health.is_ok_and(|(health, _)| health.is_stopping),
            }
        }
    }

    fn health(&self) -> impl Future<Output = Result<Arc<Health>, String>> + Send + use<'_> {
        self.health.get(self.me.rt().now(), || self.ask_health())
    }

    /// Asks for the health. Returns the time that it took, too.
    fn ask_health(
        &self,
    ) -> impl Future<Output = Result<(Arc<Health>, Duration), String>> + Send + use<> {
        asked(self.me.clone(), PageRequest::Health, move |text| {
            serde_json::from_str(&text).map(Arc::new).map_err(|error| error.to_string())
        })
    }

    async fn checked(
        &self,
        well: &str,
        reason: impl Fn(&Health) -> Option<String>,
    ) -> Response<PageBody> {
        match self.health().await.map(|health| reason(&health)) {
            Ok(None) => text(StatusCode::OK, well.to_owned()),
            Ok(Some(why)) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        }
    }

    async fn shown(&self) -> Result<Arc<Shown>, String> {
        let shown = self.shown.get(self.me.rt().now(), || {
            let usage = Arc::clone(&self.usage);
            asked(self.me.clone(), PageRequest::Status, move |text| {
                let status: PageStatus =
                    serde_json::from_str(&text).map_err(|error| error.to_string())?;
                let mut usage = usage.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(Arc::new(show(&status, usage.percents(&status))?))
            })
        });
        shown.await
    }

    /// Streams the contents of the page: the latest ones whenever the client has read the ones before.
    fn events(self: &Arc<Self>) -> Response<PageBody> {
        let Some(follower) = EventFollower::enter(&self.followers) else {
            let message = "too many clients follow the events\n".to_owned();
            let mut answer = text(StatusCode::SERVICE_UNAVAILABLE, message);
            answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("10"));
            return answer;
        };
        let (page, end) = (Arc::clone(self), self.me.rt().now() + FOLLOW);
        let events = stream::unfold((page, follower, false), move |(page, follower, has_begun)| {
            async move {
                if has_begun && page.rests(end).await {
                    return None;
                }
                // Without an answer, the connection stays, and the comment finds out whether the client is there.
                let event = page.shown().await.map(|shown| shown.event.clone());
                let event = event.unwrap_or_else(|_| Bytes::from_static(b": no answer\n\n"));
                Some((Ok(Frame::data(event)), (page, follower, true)))
            }
        });
        answer("text/event-stream", StreamBody::new(events).boxed_unsync())
    }

    /// Waits for the time of the next event. Returns whether there is none.
    async fn rests(&self, end: Instant) -> bool {
        let rest = pin!(self.me.rt().sleep(EVENTS));
        matches!(select(self.stopping.clone(), rest).await, Either::Left(_))
            || self.me.rt().now() >= end
    }
}

/// Asks the master, and reads its answer. Returns the time that the master took, too.
async fn asked<T>(
    me: PageMe,
    request: PageRequest,
    read: impl FnOnce(String) -> Result<T, String>,
) -> Result<(T, Duration), String> {
    let start = me.rt().now();
    let answer = me.master().call_within(PATIENCE, request).await;
    let text = answer.map_err(|error| format!("the master does not answer: {error}\n"))?;
    Ok((read(text)?, me.rt().now() - start))
}

fn show(status: &PageStatus, percents: &Percents) -> Result<Shown, String> {
    let contents = html::contents(status, percents).map_err(|error| error.to_string())?;
    let mut event = String::from("retry: 1000\nevent: status\n");
    for line in contents.lines() {
        event.push_str("data: ");
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    let page = html::page(status, &contents).into();
    Ok(Shown { page, event: event.into() })
}

/// Processor time of the processes, for its part of the time between two looks.
#[derive(Default)]
struct ProcessorUsage {
    /// Run time of the service and processor time of the process, in seconds.
    before: HashMap<i32, (f64, f64)>,
    percents: Percents,
}

impl ProcessorUsage {
    fn percents(&mut self, status: &PageStatus) -> &Percents {
        /// Shortest time between two looks, in seconds: the kernel counts in hundredths.
        const SHORTEST: f64 = 0.9;
        let workers = || status.groups.iter().flat_map(|group| &group.workers);
        let pids = || workers().filter_map(|worker| worker.pid);
        self.before.retain(|pid, _| pids().any(|other| other == *pid));
        self.percents.retain(|pid, _| pids().any(|other| other == *pid));
        for worker in workers() {
            let (Some(pid), Some(spent)) = (worker.pid, worker.cpu_s) else { continue };
            let start = (status.uptime_s - worker.uptime_s, 0.0);
            let (then, spent_then) = self.before.get(&pid).copied().unwrap_or(start);
            let time = status.uptime_s - then;
            if time >= SHORTEST {
                self.percents.insert(pid, (spent - spent_then).max(0.0) / time * 100.0);
                self.before.insert(pid, (status.uptime_s, spent));
            }
        }
        &self.percents
    }
}

/// A client that follows the events.
struct EventFollower(Arc<AtomicUsize>);

impl EventFollower {
    fn enter(all: &Arc<AtomicUsize>) -> Option<Self> {
        let more = |count| (count < MOST_FOLLOWERS).then_some(count + 1);
        all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).ok()?;
        Some(Self(Arc::clone(all)))
    }
}

impl Drop for EventFollower {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn text(status: StatusCode, text: String) -> Response<PageBody> {
    let mut answer = found("text/plain; charset=utf-8", text);
    *answer.status_mut() = status;
    answer
}

fn found(kind: &'static str, body: impl Into<Bytes>) -> Response<PageBody> {
    answer(kind, Full::new(body.into()).boxed_unsync())
}

fn answer(kind: &'static str, body: PageBody) -> Response<PageBody> {
    let mut answer = Response::new(body);
    let all = HEADERS.into_iter().chain([("content-type", kind)]);
    for (name, value) in all {
        let (name, value) = (HeaderName::from_static(name), HeaderValue::from_static(value));
        answer.headers_mut().insert(name, value);
    }
    answer
}
