// A small HTTP server: the master opens one socket, all workers accept on it.
//
// ```sh
// cargo run --example prefork_http -- -p 3000 -w 5
// curl http://127.0.0.1:3000/              # worker=2 pid=4711 seq=0
// ps ax | grep '[w]orker http'             # worker http id=0 ... worker http id=4
// kill PID                                 # one of them: it comes back with the same id
// ```
//
// The protocol is written by hand, one request for each connection. `service` has the same on hyper.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use release::net::{Active, Inet, Passive, Socket};
use release::{Exit, Master, Me, Workers, driver, is_worker, log, me};

/// How long a client may take, from its first byte until it has read the answer.
const CLIENT_TIME: Duration = Duration::from_secs(10);

/// The longest head of a request.
const HEAD: usize = 8 * 1024;

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
    let socket: Socket<Passive, Inet> = me.listener("http")?;
    let served = Arc::new(AtomicU64::new(0));
    let id = me.id();
    me.ready()?;
    socket
        .accept_loop()
        .connections(1000)
        .timeout(CLIENT_TIME)
        .until(me.stopping())
        .run(move |client: Socket<Active, Inet>| {
            let served = Arc::clone(&served);
            async move {
                // Clients that go away in the middle are their own business.
                let _ = answer(&client, id, &served).await;
                Ok::<(), io::Error>(())
            }
        })
        .await?;
    Ok(())
}

async fn answer(client: &Socket<Active, Inet>, id: u32, served: &AtomicU64) -> io::Result<()> {
    let mut head = [0; HEAD];
    let mut length = 0;
    while !head[..length].ends_with(b"\r\n\r\n") {
        let count = if length < HEAD { client.read_once(&mut head[length..]).await? } else { 0 };
        if count == 0 {
            // The client has gone, or its head is too long.
            return Ok(());
        }
        length += count;
    }
    let (status, body) = if head.starts_with(b"GET ") {
        let (pid, seq) = (std::process::id(), served.fetch_add(1, Ordering::Relaxed));
        ("200 OK", format!("worker={id} pid={pid} seq={seq}\n"))
    } else {
        ("405 Method Not Allowed", "only GET is answered\n".to_owned())
    };
    let length = body.len();
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    );
    client.write_all(response.as_bytes()).await
}
