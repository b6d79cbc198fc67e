// An HTTP/3 server that keeps its connections while it is reloaded and upgraded. See docs/DATAGRAMS.md.
//
// ```sh
// openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 \
//     -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout key.pem -out certificate.pem
// cargo run --example http3 -- certificate.pem key.pem --listen 127.0.0.1:8443
// curl --http3-only --cacert certificate.pem https://localhost:8443/   # worker=1 pid=4711 seq=0 received=0
// kill -HUP PID                           # the master's: new workers, with the certificate as it is now
// ```

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::http::Response;
use bytes::{Buf, Bytes};
use clap::Parser;
use futures_util::future::{Either, FutureExt, select};
use h3::server::RequestResolver;
use release::net::{ListenOn, Steer};
use release::{
    ControlSocket, Exit, Master, Me, Settings, Workers, driver, is_worker, log, me, read_to_start,
};
use release_quinn::quinn::crypto::rustls::QuicServerConfig;
use release_quinn::quinn::{Connection, ServerConfig};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use serde::{Deserialize, Serialize};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An HTTP/3 server that is reloaded without loss
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
    #[arg(long, default_value = "http3.sock")]
    control: PathBuf,
    /// Seconds that connections may stay open in a worker that is replaced
    #[arg(long, default_value_t = 28)]
    drain: u64,
}

/// What a worker needs; the key holder in `key_holder.rs` keeps the key to itself.
#[derive(Clone, Serialize, Deserialize)]
struct Setup {
    certificate: Vec<u8>,
    key: Vec<u8>,
    drain: Duration,
}

impl Setup {
    fn read(options: &Options) -> Result<Self, BoxError> {
        let read = |path: &PathBuf| {
            read_to_start(path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let (certificate, key) = (read(&options.certificate)?, read(&options.key)?);
        let setup = Self { certificate, key, drain: Duration::from_secs(options.drain) };
        // Files that do not fit together refuse the start, or the reload.
        setup.server()?;
        Ok(setup)
    }

    fn server(&self) -> Result<ServerConfig, BoxError> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate);
        let chain = chain.collect::<Result<Vec<_>, _>>()?;
        let mut tls =
            rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&TLS13])?
                .with_no_client_auth()
                .with_single_cert(chain, PrivateKeyDer::from_pem_slice(&self.key)?)?;
        tls.alpn_protocols = vec![b"h3".to_vec()];
        Ok(ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?)))
    }
}

fn main() -> Exit {
    match is_worker() {
        true => me().run(driver, worker),
        false => master(Options::parse()).unwrap_or_else(Exit::failure),
    }
}

fn master(options: Options) -> Result<Exit, BoxError> {
    log::stderr()?;
    // Slots for many generations of workers, as the earlier ones still have connections.
    let listen = ListenOn::udp(options.listen).steer(Steer::quic()).slots(128);
    let (count, control, drain) = (options.workers, options.control.clone(), options.drain);
    let settings = Settings::new(Setup::read(&options)?, move |_| Setup::read(&options));
    let workers = Workers::same_executable("h3", count)
        .user("nobody") // when the master is root
        .listen("h3", listen)
        .context_from(&settings, |setup, _| setup.clone());
    let master = Master::new()
        .workers(workers)
        .stop_deadline(Duration::from_secs(drain + 2))
        .commands(ControlSocket::new(control), "h3");
    Ok(master.run(driver))
}

async fn worker(me: Me<Setup>) -> Result<(), BoxError> {
    log::stderr()?;
    let endpoint = release_quinn::endpoint(&me, "h3", me.context().server()?)?;
    me.ready()?;
    let (drain, answers) = (me.context().drain, Arc::new(Answers::new(me.id())));
    let own = me.clone();
    let serve = move |connection| requests(own.clone(), Arc::clone(&answers), connection);
    release_quinn::serve(&me, endpoint, serve).drain(drain).await?;
    Ok(())
}

/// Answers the requests of a connection, each in a task of its own.
async fn requests<T>(me: Me<T>, answers: Arc<Answers>, client: Connection) -> Result<(), BoxError> {
    let mut connection = h3::server::Connection::new(h3_quinn::Connection::new(client)).await?;
    let mut stopping = me.stopping().fuse();
    loop {
        let next = match select(pin!(connection.accept()), &mut stopping).await {
            Either::Left((request, _)) => Some(request),
            Either::Right(_) => None,
        };
        let Some(request) = next else {
            // The client goes elsewhere with the next requests. Those that it has sent are answered.
            connection.shutdown(100).await?;
            continue;
        };
        match request {
            Ok(Some(request)) => {
                let answers = Arc::clone(&answers);
                me.rt().spawn(async move { answers.answer(request).await }).detach();
            }
            Ok(None) => return Ok(()),
            Err(error) if error.is_h3_no_error() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

struct Answers {
    worker: u32,
    count: AtomicU64,
}

impl Answers {
    fn new(worker: u32) -> Self {
        Self { worker, count: AtomicU64::new(0) }
    }

    async fn answer(
        &self,
        request: RequestResolver<h3_quinn::Connection, Bytes>,
    ) -> Result<(), BoxError> {
        let (_, mut stream) = request.resolve_request().await?;
        let mut received = 0;
        while let Some(part) = stream.recv_data().await? {
            received += part.remaining();
        }
        let (pid, seq) = (std::process::id(), self.count.fetch_add(1, Ordering::Relaxed));
        let text = format!("worker={} pid={pid} seq={seq} received={received}\n", self.worker);
        stream.send_response(Response::new(())).await?;
        stream.send_data(text.into()).await?;
        stream.finish().await?;
        Ok(())
    }
}
