//! The example `http3`: connections of QUIC while workers are replaced, upgraded and killed.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};
use h3::error::StreamError;
use hyper::Request;
use nix::sys::signal::Signal;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, ConnectionError, Endpoint, TransportConfig};
use release_tests::{
    Backend, DEADLINE, Process, Program, Running, control, eventually, has, is_alive,
    on_every_backend,
};
use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::version::TLS13;
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

/// Pause between two requests of a client.
const PAUSE: Duration = Duration::from_millis(10);

/// An idle connection ends by itself after this time: much later than a lost one is noticed.
const IDLE: Duration = Duration::from_secs(60);

/// Maximum cost of a connection that the server does not know any more.
const RESET: Duration = Duration::from_secs(5);

fn start(program: Program, options: &[&str]) -> (Running, Clients) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    openssl.args(["-nodes", "-days", "30", "-subj", "/CN=localhost"]);
    openssl.args(["-addext", "subjectAltName=DNS:localhost"]);
    openssl.args(["-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl.arg("-keyout").arg(program.path("key.pem"));
    openssl.arg("-out").arg(program.path("certificate.pem"));
    assert!(openssl.stderr(Stdio::null()).status().expect("openssl").success());
    let certificate = fs::read(program.path("certificate.pem")).expect("a file");
    let program = program.args(["certificate.pem", "key.pem"]).args(options);
    let (running, address) = program.serve(2);
    (running, Clients::new(address, &certificate))
}

fn reloads(usual: usize) -> usize {
    std::env::var("RELEASE_RELOADS").map_or(usual, |text| text.parse().expect("a number"))
}

#[track_caller]
fn succeeds(running: &Running, command: &str) {
    assert_eq!(control(&running.control(), command), "ok", "{}", running.stderr());
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// What clients of a server have in common.
#[derive(Clone)]
struct Clients {
    address: SocketAddr,
    config: ClientConfig,
    /// How long an answer may take.
    patience: Duration,
}

impl Clients {
    fn new(address: SocketAddr, certificate: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(certificate).expect("PEM")).expect("a root");
        let mut tls =
            rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
                .with_protocol_versions(&[&TLS13])
                .expect("a version")
                .with_root_certificates(roots)
                .with_no_client_auth();
        tls.alpn_protocols = vec![b"h3".to_vec()];
        let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls).expect("TLS")));
        let mut transport = TransportConfig::default();
        transport.max_idle_timeout(Some(IDLE.try_into().expect("a time")));
        config.transport_config(Arc::new(transport));
        Self { address, config, patience: DEADLINE }
    }

    /// A client socket. In a runtime.
    fn socket(&self) -> Endpoint {
        let mut endpoint = Endpoint::client(local()).expect("a client");
        endpoint.set_default_client_config(self.config.clone());
        endpoint
    }

    async fn connect(&self, socket: &Endpoint) -> Result<Client, String> {
        let connecting = socket.connect(self.address, "localhost").map_err(said)?;
        let connection = timeout(self.patience, connecting).await.map_err(said)?.map_err(said)?;
        let transport = h3_quinn::Connection::new(connection.clone());
        let (mut control, requests) = h3::client::new(transport).await.map_err(said)?;
        let control = tokio::spawn(async move { drop(control.wait_idle().await) });
        Ok(Client { connection, requests, control, patience: self.patience })
    }
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn said(error: impl std::fmt::Debug) -> String {
    format!("{error:?}")
}

/// One connection.
struct Client {
    connection: quinn::Connection,
    requests: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    control: JoinHandle<()>,
    patience: Duration,
}

impl Client {
    /// Sends a request, whose body comes in so many parts with pauses. Returns the process that answers;
    /// `None` if the server has said that it takes no more requests.
    async fn ask(&mut self, parts: usize) -> Result<Option<Process>, String> {
        let request = Request::post("https://localhost/").body(()).expect("a request");
        let mut stream = match self.requests.send_request(request).await {
            Err(StreamError::RemoteClosing { .. }) => return Ok(None),
            stream => stream.map_err(said)?,
        };
        for _ in 0..parts {
            stream.send_data(Bytes::from_static(&[b'x'; 100])).await.map_err(said)?;
            sleep(PAUSE).await;
        }
        stream.finish().await.map_err(said)?;
        let answer = async {
            stream.recv_response().await.map_err(said)?;
            let mut text = Vec::new();
            while let Some(part) = stream.recv_data().await.map_err(said)? {
                text.extend_from_slice(part.chunk());
            }
            Ok::<_, String>(String::from_utf8_lossy(&text).into_owned())
        };
        let text = timeout(self.patience, answer).await.map_err(said)??;
        let (pid, received) =
            text.split_once("pid=").expect("an answer").1.split_once(' ').expect("more");
        assert!(received.trim_end().ends_with(&format!("received={}", parts * 100)), "{text}");
        Ok(Some(Process(pid.parse().expect("a pid"))))
    }

    fn close(self) {
        self.connection.close(0x100_u32.into(), b"");
        self.control.abort();
    }
}

/// What became of connections and requests.
#[derive(Debug, Default)]
struct Tally {
    connections: usize,
    answered: usize,
    /// Connections that the server has asked to go elsewhere.
    moved: usize,
    lost: Vec<String>,
    processes: BTreeSet<i32>,
}

/// How a client behaves.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Keeps its connection as long as the server does.
    Kept,
    /// So, and changes its port after each request, as behind a NAT.
    Rebinding,
    /// So, with requests that take a second.
    Slow,
    /// A new connection for each request.
    New,
}

struct Load {
    clients: Clients,
    tally: Mutex<Tally>,
    over: AtomicBool,
}

impl Load {
    fn count(&self, change: impl FnOnce(&mut Tally)) {
        change(&mut self.tally.lock().expect("no panic"));
    }

    /// Uses connections, one after the other, until the load is over.
    async fn run(self: Arc<Self>, kind: Kind, socket: Endpoint) {
        while !self.over.load(Ordering::Relaxed) {
            match self.clients.connect(&socket).await {
                Ok(client) => {
                    self.count(|tally| tally.connections += 1);
                    self.talk(kind, &socket, client).await;
                }
                Err(error) => self.count(|tally| tally.lost.push(format!("connect: {error}"))),
            }
            sleep(PAUSE).await;
        }
    }

    /// One connection, until it ends.
    async fn talk(&self, kind: Kind, socket: &Endpoint, mut client: Client) {
        while !self.over.load(Ordering::Relaxed) {
            match client.ask(if kind == Kind::Slow { 100 } else { 1 }).await {
                Ok(Some(process)) => self.count(|tally| {
                    tally.answered += 1;
                    tally.processes.insert(process.0);
                }),
                Ok(None) => {
                    self.count(|tally| tally.moved += 1);
                    break;
                }
                Err(error) => {
                    self.count(|tally| tally.lost.push(error));
                    break;
                }
            }
            if kind == Kind::New {
                break;
            }
            if kind == Kind::Rebinding {
                socket.rebind(UdpSocket::bind(local()).expect("a socket")).expect("it is changed");
            }
        }
        client.close();
    }
}

/// Runs clients of every kind while `during` runs. It sees how many were lost so far.
fn load(clients: &Clients, during: impl FnOnce(&dyn Fn() -> usize)) -> Tally {
    let load = Arc::new(Load {
        clients: clients.clone(),
        tally: Mutex::default(),
        over: AtomicBool::new(false),
    });
    thread::scope(|scope| {
        let running = Arc::clone(&load);
        let clients = scope.spawn(move || {
            runtime().block_on(async {
                let own = [(); 4].map(|()| running.clients.socket());
                let [shared, other, ..] = &own;
                let mut all = vec![(Kind::Kept, &own[2]), (Kind::Rebinding, &own[3])];
                all.extend([Kind::Kept; 4].map(|kind| (kind, shared)));
                all.extend(
                    [Kind::New, Kind::New, Kind::Slow, Kind::Slow].map(|kind| (kind, other)),
                );
                let start = |(kind, socket): (Kind, &Endpoint)| {
                    tokio::spawn(Arc::clone(&running).run(kind, socket.clone()))
                };
                for client in all.into_iter().map(start).collect::<Vec<_>>() {
                    client.await.expect("a client");
                }
                for socket in &own {
                    socket.wait_idle().await;
                }
            });
        });
        let end = End(&load.over);
        eventually("all clients have begun", || load.tally.lock().expect("no panic").answered > 20);
        during(&|| load.tally.lock().expect("no panic").lost.len());
        drop(end);
        clients.join().expect("the clients");
    });
    std::mem::take(&mut *load.tally.lock().expect("no panic"))
}

/// Ends the load, also when a test has failed.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Kills a process with four connections, after these commands. None of other processes may end.
fn clients_of_a_killed_process(backend: Backend, commands: &[&str]) {
    if !has("openssl", "version") {
        return;
    }
    let (mut running, clients) = start(Program::new(backend, "http3"), &[]);
    runtime().block_on(async {
        let (socket, mut open) = (clients.socket(), Vec::new());
        let (mut victim, mut count) = (None, 0);
        while count < 4 {
            let mut client = clients.connect(&socket).await.expect("a connection");
            let process = client.ask(1).await.expect("an answer").expect("no GOAWAY");
            count += usize::from(*victim.get_or_insert(process) == process);
            open.push((client, process));
        }
        let victim = victim.expect("a process");
        for command in commands {
            let (path, command) = (running.control(), (*command).to_owned());
            let said = tokio::task::spawn_blocking(move || control(&path, &command));
            assert_eq!(said.await.expect("no panic"), "ok", "{}", running.stderr());
        }
        assert!(open.iter().all(|(client, _)| client.connection.close_reason().is_none()));
        victim.signal(Signal::SIGKILL);
        let killed = Instant::now();
        for (client, process) in open {
            // A stream of a type without a meaning (RFC 9114, 6.2.3), if the client does not know yet.
            if let Ok(mut stream) = client.connection.open_uni().await {
                let _ = stream.write_all(b"\x21").await;
            }
            if process == victim {
                let closed = timeout(DEADLINE, client.connection.closed()).await;
                assert_eq!(closed.expect("it knows"), ConnectionError::Reset);
                assert!(killed.elapsed() < RESET, "{:?}", killed.elapsed());
            } else {
                assert_eq!(client.connection.close_reason(), None);
            }
            client.close();
        }
        socket.wait_idle().await;
    });
    running.await_ready(2);
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}

on_every_backend! {
    fn reloads_and_upgrades_lose_no_connection(backend: Backend) {
        if !has("openssl", "version") {
            return;
        }
        let (mut running, clients) = start(Program::new(backend, "http3"), &[]);
        let times = reloads(4);
        let tally = load(&clients, |_| {
            for time in 0..times {
                succeeds(&running, "reload");
                if time % 4 == 1 {
                    succeeds(&running, "upgrade");
                }
            }
        });
        assert_eq!(tally.lost, Vec::<String>::new(), "{}", running.stderr());
        // Each generation has served, and old connections were told to go elsewhere.
        assert!(tally.processes.len() > times && tally.moved >= times, "{tally:?}");
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn the_clients_of_a_killed_worker_know_at_once(backend: Backend) {
        // Its successor or another worker tells them.
        clients_of_a_killed_process(backend, &[]);
    }

    fn so_do_those_of_an_old_process_that_has_no_successor(backend: Backend) {
        // Others must tell them.
        clients_of_a_killed_process(backend, &["reload", "reload"]);
    }

    fn connections_without_an_end_are_closed_at_the_end_of_the_drain(backend: Backend) {
        if !has("openssl", "version") {
            return;
        }
        let (mut running, clients) = start(Program::new(backend, "http3"), &["--drain", "1"]);
        runtime().block_on(async {
            let socket = clients.socket();
            let mut client = clients.connect(&socket).await.expect("a connection");
            let process = client.ask(1).await.expect("an answer").expect("no GOAWAY");
            let command = running.control();
            let reload = tokio::task::spawn_blocking(move || control(&command, "reload"));
            assert_eq!(reload.await.expect("no panic"), "ok");
            let reason = timeout(DEADLINE, client.connection.closed()).await.expect("it ends");
            assert!(matches!(reason, ConnectionError::ApplicationClosed(_)), "{reason:?}");
            client.control.abort();
            eventually("its process ends", || !is_alive(process.0));
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}

/// Sockets that the processes open and close themselves lose connections: the load finds that.
#[test]
fn sockets_of_the_processes_lose_connections() {
    if !has("openssl", "version") {
        return;
    }
    let (mut running, mut clients) =
        start(Program::new(Backend::Tokio, "http3-plain"), &["--drain", "3"]);
    clients.patience = Duration::from_secs(2);
    let tally = load(&clients, |lost| {
        eventually("some are lost", || {
            succeeds(&running, "reload");
            lost() > 0
        });
    });
    assert!(!tally.lost.is_empty(), "{tally:?}");
    assert_eq!(running.stop(), 0, "{}", running.stderr());
}
