//! A worker: accepts on the shared listener and answers with a number from the master.

use std::convert::Infallible;
use std::error::Error;
use std::io::{self, Write};
use std::time::Instant;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use release::ipc::Refused;
use release::metrics::{Counter, Histogram};
use release::net::Inet;
use release::rt::Driver;
use release::{Exit, Me, http, me};

use super::{Next, RING, Told};

type Worker = Me<Told, Next>;

static ANSWERS: Counter = Counter::new("answers", "Requests that were answered");
static TIME: Histogram = Histogram::new(
    "answer_seconds",
    "Time to an answer of the master",
    &[0.0001, 0.001, 0.01, 0.1],
);

pub(super) fn run<D: Driver>(driver: fn() -> io::Result<D>) -> Exit {
    me().ring(RING).run_answering(driver, heard, serve)
}

/// What the master broadcasts goes to the log.
async fn heard(text: String) -> Result<String, Refused> {
    tracing::info!(text, "heard a broadcast");
    Ok(String::new())
}

async fn serve(me: Worker) -> Result<(), Box<dyn Error + Send + Sync>> {
    me.context().log.start()?;
    let socket = me.listener::<Inet>("http")?;
    me.ready()?;
    let asked = me.clone();
    let service = service_fn(move |request| answer(asked.clone(), request));
    http::serve_hyper(&me, socket, service).await?;
    Ok(())
}

async fn answer(
    me: Worker,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET {
        return Ok(text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered\n".to_owned()));
    }
    let asked = Instant::now();
    Ok(match me.master().call(&Next).await {
        Ok(number) => {
            ANSWERS.increment();
            TIME.observe_time(asked.elapsed());
            let pid = std::process::id();
            let line = format!("worker={} pid={pid} seq={number}\n", me.id());
            if me.context().has_access_log {
                // In one call: lines of several threads do not mix.
                let _ = std::io::stdout().write_all(line.as_bytes());
            }
            text(StatusCode::OK, line)
        }
        Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    })
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}
