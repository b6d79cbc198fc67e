// An axum router in several workers, which loses no request when it is reloaded.
//
// ```sh
// cargo run --example axum -- -p 3000 -w 4
// curl http://127.0.0.1:3000/              # worker=2 pid=4711 seq=0 peer=127.0.0.1:40000
// kill -HUP PID                            # the master's: new workers, while all requests are answered
// ```
//
// axum itself needs no tokio: this program runs on smol and async-std too.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::{Extension, State};
use axum::routing::get;
use clap::Parser;
use release::net::Inet;
use release::{Exit, Master, Me, Workers, driver, http, is_worker, log, me};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An axum router in several workers.
#[derive(Debug, Parser)]
#[command(version)]
struct Options {
    /// The address to listen on
    #[arg(short, long, default_value = "127.0.0.1")]
    address: std::net::IpAddr,
    /// The port to listen on
    #[arg(short, long, default_value_t = 3000)]
    port: u16,
    /// How many workers accept connections
    #[arg(short, long, default_value_t = 2)]
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

async fn worker(me: Me) -> Result<(), BoxError> {
    let counter = Arc::new(AtomicU64::new(0));
    let router = Router::new().route("/", get(hello)).with_state((me.clone(), counter));
    let listener = me.listener::<Inet>("http")?;
    me.ready()?;
    http::serve(&me, listener, router).connections(1000).await?;
    Ok(())
}

async fn hello(
    State((me, counter)): State<(Me, Arc<AtomicU64>)>,
    Extension(peer): Extension<SocketAddr>,
) -> String {
    let (id, pid) = (me.id(), std::process::id());
    let seq = counter.fetch_add(1, Ordering::Relaxed);
    format!("worker={id} pid={pid} seq={seq} peer={peer}\n")
}
