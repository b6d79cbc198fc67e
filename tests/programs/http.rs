// An HTTP server whose service answers, echoes, fails and upgrades: see `tests/http.rs`.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use clap::Parser;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONNECTION, HeaderValue, UPGRADE};
use hyper::rt::{Read as _, ReadBuf, Write as _};
use hyper::service::service_fn;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, Response, StatusCode};
use release::ipc::Never;
use release::metrics::Recorder;
use release::net::{Inet, Read, Stream, Unix};
use release::supervise::ReloadPolicy;
use release::{
    ControlSocket, Exit, Master, Me, Workers, driver, http, is_worker, log, me,
};
use serde::{Deserialize, Serialize};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, BoxError>;

#[derive(Clone, Debug, Parser, Serialize, Deserialize)]
struct Options {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    workers: u32,
    #[arg(long)]
    control: std::path::PathBuf,
    /// Milliseconds
    #[arg(long, default_value_t = 5000)]
    header: u64,
    #[arg(long, default_value_t = 75_000)]
    idle: u64,
    #[arg(long, default_value_t = 1000)]
    linger: u64,
    #[arg(long, default_value_t = 10)]
    stop: u64,
    /// Address of the status page
    #[arg(long)]
    page: Option<SocketAddr>,
    /// Connections to the Unix socket begin with a handshake
    #[arg(long)]
    knock: bool,
    /// Connections to the TCP socket are handed on
    #[arg(long)]
    hand_on: bool,
    /// Most open connections of the TCP socket in a worker
    #[arg(long)]
    connections: Option<usize>,
}

fn main() -> Exit {
    let recorder = Recorder::new().bounds("facade.size", &[10.0]);
    metrics::set_global_recorder(recorder).expect("no other recorder");
    if is_worker() { me().run(driver, worker) } else { master(Options::parse()) }
}

fn master(options: Options) -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    let (control, stop, told) = (options.control.clone(), options.stop, options.clone());
    // The next version may have another group, which listens elsewhere.
    let other = std::fs::read_to_string("group").ok();
    let (mut listen, unix) = (options.listen, if other.is_some() { "other" } else { "unix" });
    listen.set_port(listen.port() + if other.is_some() { 20_000 } else { 0 });
    let group = other.unwrap_or_else(|| "http".to_owned());
    let master = options.page.into_iter().fold(Master::new(), Master::http);
    let workers = Workers::same_executable(group, options.workers)
        .user("nobody")
        .listen("tcp", listen)
        .listen("unix", Unix::path(unix))
        .metrics()
        .reload(ReloadPolicy::default().canary(Duration::from_millis(10)))
        .context(move |_| told.clone())
        .answer(|_, never: Never| async move { match never {} });
    let workers = if options.hand_on { workers.hand_on(64, 1 << 20) } else { workers };
    master
        .workers(workers)
        .stop_deadline(Duration::from_secs(stop))
        .commands(ControlSocket::new(control), "http")
        .run(driver)
}

async fn worker(me: Me<Options>) -> Result<(), BoxError> {
    log::stderr()?;
    let (tcp, unix) = (me.listener::<Inet>("tcp")?, me.listener::<Unix>("unix")?);
    me.ready()?;
    let answering = me.clone();
    let service = service_fn(move |request| answer(answering.clone(), request));
    let time = Duration::from_millis;
    let told = me.context();
    let tcp = http::serve_hyper(&me, tcp, service.clone())
        .header_timeout(time(told.header))
        .idle_timeout(time(told.idle))
        .linger(time(told.linger));
    let tcp = if told.hand_on { tcp.hand_on() } else { tcp };
    let tcp = if let Some(most) = told.connections { tcp.connections(most) } else { tcp };
    let unix = http::serve_hyper(&me, unix, service)
        .header_timeout(time(told.header))
        .linger(time(told.linger));
    let unix = if told.knock { unix.handshake(knock) } else { unix };
    let (tcp, unix) = futures_util::future::join(tcp.into_future(), unix.into_future()).await;
    tcp.and(unix)?;
    Ok(())
}

/// A handshake: the client says a word, and hears one.
async fn knock(client: Stream) -> Result<Stream, BoxError> {
    match client.read(6, None).await? {
        Read::Data(word) if word == b"knock\n" => client.write_all(b"enter\n").await?,
        other => return Err(format!("{other:?} is no knock").into()),
    }
    Ok(client)
}

async fn answer(me: Me<Options>, request: Request<Incoming>) -> Result<Response<Body>, BoxError> {
    let path = request.uri().path().to_owned();
    if path.ends_with("at-stop") {
        tracing::warn!("a request waits for the stop");
        me.stopping().await;
    }
    Ok(match &*path {
        "/echo" => Response::new(request.into_body().map_err(Into::into).boxed_unsync()),
        "/count" => {
            metrics::describe_counter!("facade.requests", "Requests by the facade");
            metrics::counter!("facade.requests", "to" => request.uri().to_string()).increment(1);
            metrics::gauge!("facade.load").set(0.25);
            metrics::histogram!("facade.size").record(12.0);
            Response::new(text("counted"))
        }
        // More than there is room for.
        "/flood" => {
            for number in 0..5_000_u32 {
                let label = number.to_string();
                metrics::counter!("facade.flood", "number" => label).increment(1);
            }
            Response::new(text("flooded"))
        }
        "/fail" => Err("the service has failed")?,
        "/panic" => panic!("the service has panicked"),
        // Nobody reads the body.
        "/at-stop" => Response::new(text("stopped\n")),
        "/upgrade" | "/upgrade-at-stop" => {
            let upgrade = hyper::upgrade::on(request);
            me.rt().spawn(async move { echo_twice(upgrade.await?).await }).detach();
            let mut response = Response::new(text(""));
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.headers_mut().insert(UPGRADE, HeaderValue::from_static("echo"));
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
            response
        }
        "/large" => {
            let body = Full::new(Bytes::from_static(&[b'x'; 32 << 20]));
            Response::new(body.map_err(|never| match never {}).boxed_unsync())
        }
        "/early" => {
            // The answer is there before the request.
            me.rt().spawn(async move { request.into_body().collect().await }).detach();
            Response::new(text("early\n"))
        }
        _ if request.method() == Method::CONNECT => {
            let upgrade = hyper::upgrade::on(request);
            me.rt().spawn(async move { echo_twice(upgrade.await?).await }).detach();
            Response::new(text(""))
        }
        _ => {
            let peer = match request.extensions().get::<Inet>() {
                Some(peer) => peer.ip().to_string(),
                None => format!("{:?}", request.extensions().get::<Unix>()),
            };
            let (id, pid) = (me.id(), std::process::id());
            Response::new(text(&format!("worker={id} pid={pid} seq=0 peer={peer}\n")))
        }
    })
}

fn text(text: &str) -> Body {
    Full::from(text.to_owned()).map_err(|never| match never {}).boxed_unsync()
}

/// The protocol after the upgrade: two messages come back, then the connection is closed.
async fn echo_twice(mut upgraded: Upgraded) -> Result<(), BoxError> {
    for _ in 0..2 {
        let mut bytes = [0; 64];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut upgraded).poll_read(cx, buffer.unfilled())).await?;
        let message = buffer.filled();
        poll_fn(|cx| Pin::new(&mut upgraded).poll_write(cx, message)).await?;
    }
    Ok(())
}
