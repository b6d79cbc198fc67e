//! `serve`: how connections end, and which clients it takes.

#![allow(clippy::unwrap_used)]

use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use quinn::rustls::crypto::{ring::default_provider, verify_tls13_signature_with_raw_key};
use quinn::rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use quinn::rustls::server::AlwaysResolvesServerRawPublicKeys;
use quinn::rustls::sign::CertifiedKey;
use quinn::rustls::version::TLS13;
use quinn::rustls::{self, DigitallySignedStruct, SignatureScheme};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{
    AsyncUdpSocket, ClientConfig, Connection, ConnectionError, Endpoint, EndpointConfig, Runtime,
    ServerConfig, UdpPoller,
};
use release_core::ipc::Never;
use release_core::net::Served;
use release_core::rt::local::Local;
use release_core::rt::{Driver, Rt, Task, run};
use release_core::testing::{TestMaster, worker};
use release_quinn::{QuinnRuntime, Serve, quinn};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Longer than anything takes here.
const DEADLINE: Duration = Duration::from_secs(60);

/// Accepts this key and no other.
#[derive(Debug)]
struct Pinned(CertificateDer<'static>);

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        assert_eq!(*key, self.0);
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        let algorithms = &default_provider().signature_verification_algorithms;
        verify_tls13_signature_with_raw_key(message, &key, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider().signature_verification_algorithms.supported_schemes()
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// The configurations of a server and its clients, with a raw public key instead of a certificate.
fn configurations() -> Result<(ServerConfig, ClientConfig), BoxError> {
    let key = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &SystemRandom::new())
        .map_err(|_| "no random key")?;
    let key = PrivatePkcs8KeyDer::from(key.as_ref().to_vec());
    let provider = Arc::new(default_provider());
    let key = provider.key_provider.load_private_key(key.into())?;
    let public = CertificateDer::from(key.public_key().ok_or("no key")?.to_vec());
    let certified = Arc::new(CertifiedKey::new(vec![public.clone()], key));
    let server = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(certified)));
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Pinned(public)))
        .with_no_client_auth();
    let server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(server)?));
    Ok((server, ClientConfig::new(Arc::new(QuicClientConfig::try_from(client)?))))
}

/// Sends, and hears nothing: its handshakes never end.
#[derive(Debug)]
struct Deaf(Arc<dyn AsyncUdpSocket>);

impl AsyncUdpSocket for Deaf {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.0).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.try_send(transmit)
    }

    fn poll_recv(
        &self,
        _: &mut Context<'_>,
        _: &mut [IoSliceMut<'_>],
        _: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

/// A server whose handlers do what the first stream of a client asks for, and its master.
struct World {
    rt: Rt,
    address: SocketAddr,
    client: Endpoint,
    config: ClientConfig,
    master: TestMaster,
    serving: Task<io::Result<Served>>,
}

impl World {
    fn new(rt: &Rt, host: &str, change: impl FnOnce(Serve) -> Serve) -> Self {
        let (server, config) = configurations().unwrap();
        let (me, master) = worker(rt, (), |never: Never| async move { match never {} }).unwrap();
        let endpoint = |server| {
            let socket = UdpSocket::bind((host, 0)).unwrap();
            let runtime = Arc::new(QuinnRuntime::new(rt));
            Endpoint::new(EndpointConfig::default(), server, socket, runtime).unwrap()
        };
        let (server, mut client) = (endpoint(Some(server)), endpoint(None));
        client.set_default_client_config(config.clone());
        let address = server.local_addr().unwrap();
        let serve = change(release_quinn::serve(&me, server, do_as_asked));
        let serving = rt.spawn(async move {
            let served = serve.await;
            drop(me);
            served
        });
        Self { rt: rt.clone(), address, client, config, master, serving }
    }

    async fn connect(&self) -> Result<Connection, ConnectionError> {
        let connecting = self.client.connect(self.address, "localhost").unwrap();
        self.rt.timeout(DEADLINE, connecting).await.expect("in time")
    }

    /// Connects and says what the handler should do.
    async fn ask(&self, word: &str) -> Connection {
        let connection = self.connect().await.unwrap();
        let mut send = connection.open_uni().await.unwrap();
        send.write_all(word.as_bytes()).await.unwrap();
        send.finish().unwrap();
        connection
    }

    /// Begins so many handshakes that the client never goes on with.
    async fn half_open(&self, count: usize) -> Endpoint {
        let runtime = Arc::new(QuinnRuntime::new(&self.rt));
        let socket = runtime.wrap_udp_socket(UdpSocket::bind("127.0.0.1:0").unwrap()).unwrap();
        let socket = Arc::new(Deaf(socket));
        let config = EndpointConfig::default();
        let deaf = Endpoint::new_with_abstract_socket(config, None, socket, runtime).unwrap();
        for number in 0..count {
            // The receive buffer of a server that is no master's has room for few.
            self.rt.sleep(Duration::from_millis(if number % 16 == 15 { 20 } else { 0 })).await;
            let connecting = deaf.connect_with(self.config.clone(), self.address, "localhost");
            let connecting = connecting.unwrap();
            self.rt.spawn(async move { drop(connecting.await) }).detach();
        }
        deaf
    }

    async fn end(self) -> Served {
        self.rt.timeout(DEADLINE, self.serving).await.expect("in time").unwrap()
    }
}

async fn do_as_asked(connection: Connection) -> Result<(), BoxError> {
    let word = connection.accept_uni().await?.read_to_end(16).await?;
    match &*word {
        b"wait" => drop(connection.closed().await),
        b"fail" => return Err("as asked".into()),
        b"panic" => panic!("as asked"),
        _ => {}
    }
    Ok(())
}

fn counted([finished, failed, aborted]: [u64; 3]) -> Served {
    let mut served = Served::default();
    (served.finished, served.failed, served.aborted) = (finished, failed, aborted);
    served
}

fn in_world<T>(change: impl FnOnce(Serve) -> Serve, body: impl AsyncFnOnce(World) -> T) -> T {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    run(&driver, async { body(World::new(&rt, "127.0.0.1", change)).await })
}

#[test]
fn a_handler_that_fails_or_panics_ends_its_connection_only() {
    in_world(
        |serve| serve,
        async |world| {
            let stays = world.ask("wait").await;
            for word in ["fail", "panic", "end"] {
                let closed = world.ask(word).await;
                let closed = world.rt.timeout(DEADLINE, closed.closed()).await.expect("in time");
                assert!(matches!(closed, ConnectionError::ApplicationClosed(_)), "{closed:?}");
            }
            assert!(stays.close_reason().is_none());
            world.master.stop();
            // It is served on until the client ends it.
            world.rt.sleep(Duration::from_millis(500)).await;
            assert!(stays.close_reason().is_none());
            stays.close(0_u32.into(), b"");
            assert_eq!(world.end().await, counted([2, 2, 0]));
        },
    );
}

#[test]
fn what_stays_open_is_closed_at_the_end_of_the_drain() {
    in_world(
        |serve| serve.drain(Duration::from_millis(700)),
        async |world| {
            let (stays, began) = (world.ask("wait").await, Instant::now());
            world.master.stop();
            let closed = world.rt.timeout(DEADLINE, stays.closed()).await.expect("in time");
            assert!(matches!(closed, ConnectionError::ApplicationClosed(_)), "{closed:?}");
            assert!(began.elapsed() >= Duration::from_millis(700));
            assert_eq!(world.end().await, counted([0, 0, 1]));
        },
    );
}

#[test]
fn a_drain_may_have_no_end() {
    in_world(
        |serve| serve.drain(Duration::MAX),
        async |world| {
            world.ask("end").await.closed().await;
            world.master.stop();
            assert_eq!(world.end().await, counted([1, 0, 0]));
        },
    );
}

#[test]
fn connections_beyond_the_limit_are_refused() {
    in_world(
        |serve| serve.connections(2),
        async |world| {
            let both = [world.ask("wait").await, world.ask("wait").await];
            let refused = world.connect().await.expect_err("there are two");
            assert!(matches!(refused, ConnectionError::ConnectionClosed(_)), "{refused:?}");
            both.iter().for_each(|connection| connection.close(0_u32.into(), b""));
            world.master.stop();
            assert_eq!(world.end().await.finished, 2);
        },
    );
}

#[test]
fn handshakes_of_clients_that_prove_no_address_leave_room_for_others() {
    in_world(
        |serve| serve.connections(290),
        async |world| {
            let _deaf = world.half_open(300).await;
            world.ask("end").await.closed().await;
            world.master.stop();
            assert_eq!(world.end().await, counted([1, 0, 256]));
        },
    );
}

#[test]
fn half_open_handshakes_do_not_keep_a_process_alive() {
    in_world(
        |serve| serve.drain(DEADLINE / 2),
        async |world| {
            let _deaf = world.half_open(1).await;
            world.ask("end").await.closed().await;
            let began = Instant::now();
            world.master.stop();
            assert_eq!(world.end().await, counted([1, 0, 1]));
            assert!(began.elapsed() < DEADLINE / 2, "{:?}", began.elapsed());
        },
    );
}

#[test]
fn a_server_whose_endpoint_is_closed_says_so() {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    run(&driver, async {
        let (me, _master) = worker(&rt, (), |never: Never| async move { match never {} }).unwrap();
        let (server, _) = configurations().unwrap();
        let (socket, runtime) =
            (UdpSocket::bind("127.0.0.1:0").unwrap(), Arc::new(QuinnRuntime::new(&rt)));
        let config = EndpointConfig::default();
        let endpoint = Endpoint::new(config, Some(server), socket, runtime).unwrap();
        endpoint.close(0_u32.into(), b"");
        let ended =
            rt.timeout(DEADLINE, release_quinn::serve(&me, endpoint, do_as_asked).into_future());
        assert!(ended.await.expect("in time").is_err());
    });
}

#[test]
fn ipv6_is_served_too() {
    let driver = Local::new().unwrap();
    let rt = driver.handle();
    run(&driver, async {
        let world = World::new(&rt, "::1", |serve| serve);
        world.ask("end").await.closed().await;
        world.master.stop();
        assert_eq!(world.end().await, counted([1, 0, 0]));
    });
}
