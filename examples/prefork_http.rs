// A small HTTP server: the master opens one socket, all workers accept on it.
//
// ```sh
// cargo run --example prefork_http -- -p 3000 -w 5
// curl http://127.0.0.1:3000/              # worker=2 pid=4711 seq=0
// ps ax | grep '[w]orker http'             # worker http id=0 ... worker http id=4
// kill PID                                 # one of them: it comes back with the same id
// ```
//
// Reloads and upgrades lose no request: see `docs/HTTP.md`. `axum` is the same with a router.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use clap::Parser;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use release::net::Inet;
use release::{Exit, Master, Me, Workers, driver, http, is_worker, log, me};

/// An HTTP server whose workers share one listening socket.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The address to listen on
    #[arg(short, long, value_name = "IP", default_value = "127.0.0.1")]
    address: std::net::IpAddr,
    /// The port to listen on
    #[arg(short, long, value_name = "PORT", default_value_t = 3000)]
    port: u16,
    /// How many workers accept connections
    #[arg(short, long, value_name = "WORKERS", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=512))]
    workers: u32,
}

fn main() -> Exit {
    if is_worker() { me().run(driver, worker) } else { master(&Options::parse()) }
}

fn master(options: &Options) -> Exit {
    if let Err(error) = log::stderr() {
        return error.into();
    }
    let workers = Workers::same_executable("http", options.workers)
        .user("nobody") // when the master is root
        .listen("http", Inet::from((options.address, options.port)));
    Master::new().workers(workers).run(driver)
}

async fn worker(me: Me) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let listener = me.listener::<Inet>("http")?;
    let (id, served) = (me.id(), Arc::new(AtomicU64::new(0)));
    me.ready()?;
    let service = service_fn(move |request| {
        let response = answer(&request, id, &served);
        async { Ok::<_, Infallible>(response) }
    });
    http::serve_hyper(&me, listener, service).connections(1000).await?;
    Ok(())
}

fn answer(request: &Request<Incoming>, id: u32, served: &AtomicU64) -> Response<Full<Bytes>> {
    let mut response = Response::default();
    if request.method() == Method::GET {
        let (pid, seq) = (std::process::id(), served.fetch_add(1, Ordering::Relaxed));
        *response.body_mut() = format!("worker={id} pid={pid} seq={seq}\n").into();
    } else {
        *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
        *response.body_mut() = "only GET is answered\n".into();
    }
    response
}
