// A TLS server whose workers have no private key: the master holds it, and signs. See docs/TLS.md.
//
// ```sh
// openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
//     -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out certificate.pem
// cargo run --example key_holder -- certificate.pem key.pem --listen 127.0.0.1:8443
// curl --cacert certificate.pem https://localhost:8443/   # worker=1 generation=1
// kill -HUP PID                                           # the master's, when the files have changed
// ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONNECTION;
use axum::routing::get;
use clap::Parser;
use futures_rustls::TlsAcceptor;
use release::net::Inet;
use release::{
    ControlSocket, Exit, Master, Me, Settings, Workers, driver, handed_over, http, is_worker, log,
    me,
};
use release_rustls::{Certificate, Identity, Sign};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a handshake, and then a request, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// A TLS server whose workers have no private key
#[derive(Debug, Parser)]
struct Options {
    /// The certificate and its issuers, as PEM
    certificate: PathBuf,
    /// Its private key, as PEM
    key: PathBuf,
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    #[arg(long, default_value_t = 2)]
    workers: u32,
    #[arg(long, default_value = "key_holder.sock")]
    control: PathBuf,
}

fn main() -> Exit {
    match is_worker() {
        true => me().run(driver, worker),
        false => master(Options::parse()).unwrap_or_else(Exit::failure),
    }
}

fn master(options: Options) -> Result<Exit, BoxError> {
    log::stderr()?;
    let (listen, count, control) = (options.listen, options.workers, options.control.clone());
    let read = move || Identity::read(&options.certificate, &options.key);
    let mut settings = Settings::new(read()?, move |_| read());
    for (generation, identity) in handed_over::<Vec<(u32, Identity)>>()?.unwrap_or_default() {
        settings = settings.with_earlier(generation, identity);
    }
    let (theirs, held) = (settings.clone(), settings.clone());
    let workers = Workers::same_executable("tls", count)
        .user("nobody") // when the master is root
        .listen("tls", listen)
        .context_from(&settings, |identity, _| identity.certificate())
        .answer_permitted(
            move |worker| theirs.of(worker),
            |_, sign: &Sign| sign.permit(),
            |_, identity, sign| async move { identity.sign(&sign) },
        );
    let in_use = move || held.in_use().into_iter().map(|(it, key)| (it, Identity::clone(&key)));
    let master = Master::new()
        .workers(workers)
        .hand_over(move || in_use().collect::<Vec<_>>())
        .commands(ControlSocket::new(control), "tls");
    Ok(master.run(driver))
}

async fn worker(me: Me<Certificate, Sign>) -> Result<(), BoxError> {
    log::stderr()?;
    let config = me.context().server_config(me.master());
    let (rt, tls) = (me.rt().clone(), TlsAcceptor::from(Arc::new(config)));
    let answer = format!("worker={} generation={}\n", me.id(), me.generation());
    let router = Router::new().route("/", get(async || ([(CONNECTION, "close")], answer)));
    let listener = me.listener::<Inet>("tls")?;
    me.ready()?;
    http::serve(&me, listener, router)
        .connections(1000)
        .header_timeout(PATIENCE)
        .handshake(move |client| {
            // A step may wait for the master, and no thread waits for the client.
            let handshake = rt.unblock_future(tls.accept(client));
            async { Ok::<_, BoxError>(handshake.await??) }
        })
        .await?;
    Ok(())
}
