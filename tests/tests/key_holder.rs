//! The example `key_holder`: handshakes while certificates change, and where the keys are.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use release_tests::{
    Backend, CLIENTS, DEADLINE, Process, Program, Running, control, eventually, free_port, has,
    is_root, on_every_backend,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme};

const RELOADS: usize = 8;

/// A certificate and its key.
struct Pair {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Pair {
    fn new(directory: &Path, number: usize) -> Self {
        let path = |kind: &str| directory.join(format!("{kind}{number}"));
        let (certificate, key) = (path("certificate"), path("key"));
        let mut openssl = Command::new("openssl");
        openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]);
        openssl.args(["-nodes", "-days", "30", "-subj", "/CN=localhost", "-keyout"]).arg(&key);
        let made = openssl.arg("-out").arg(&certificate).stderr(Stdio::null()).status();
        assert!(made.expect("openssl").success());
        let read = |path| fs::read(path).expect("a file");
        Self { certificate: read(certificate), key: read(key) }
    }

    fn install(&self, running: &Program) {
        fs::write(running.path("certificate.pem"), &self.certificate).expect("a file");
        fs::write(running.path("key.pem"), &self.key).expect("a file");
    }

    fn replace(&self, running: &Running) {
        fs::write(running.path("certificate.pem"), &self.certificate).expect("a file");
        fs::write(running.path("key.pem"), &self.key).expect("a file");
    }

    fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(&self.certificate).expect("a certificate")
    }

    /// Bytes that are where the key is: the number itself, and lines of the file.
    fn marks(&self) -> Vec<Vec<u8>> {
        let der = PrivateKeyDer::from_pem_slice(&self.key).expect("a key");
        let der = der.secret_der();
        let before = [2, 1, 1, 4, 32]; // In an ECPrivateKey, RFC 5915.
        let start = der.windows(5).position(|part| part == before).expect("a key") + 5;
        let text = String::from_utf8_lossy(&self.key).into_owned();
        let lines = text.lines().filter(|line| line.len() == 64).map(|line| line[..32].into());
        std::iter::once(der[start..start + 32].to_vec()).chain(lines).collect()
    }
}

/// Accepts these certificates and no others, and checks signatures.
#[derive(Debug)]
struct Pinned {
    certificates: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let is_known = self.certificates.iter().any(|known| known == certificate);
        let unknown = || rustls::Error::General("an unknown certificate".to_owned());
        is_known.then(ServerCertVerified::assertion).ok_or_else(unknown)
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
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Clients that know the certificates of these pairs.
#[derive(Clone)]
struct Clients {
    address: SocketAddr,
    config: Arc<ClientConfig>,
    certificates: Vec<CertificateDer<'static>>,
}

impl Clients {
    fn new(address: SocketAddr, pairs: &[Pair]) -> Self {
        let provider = Arc::new(ring::default_provider());
        let certificates: Vec<_> = pairs.iter().map(Pair::der).collect();
        let pinned = Pinned { certificates: certificates.clone(), provider: Arc::clone(&provider) };
        let config = ClientConfig::builder_with_provider(provider);
        let config = config.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3");
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(pinned));
        Self { address, config: Arc::new(config.with_no_client_auth()), certificates }
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = TcpStream::connect_timeout(&self.address, DEADLINE)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        Ok(socket)
    }

    /// Shakes hands and asks: the number of the certificate, and the answer.
    fn ask_on(&self, mut socket: TcpStream) -> io::Result<(usize, String)> {
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(Arc::clone(&self.config), name);
        let mut session = session.map_err(io::Error::other)?;
        let mut stream = rustls::Stream::new(&mut session, &mut socket);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = String::new();
        // An error without the end of TLS: nothing is cut off.
        stream.read_to_string(&mut answer)?;
        let shown = session.peer_certificates().and_then(<[_]>::first).expect("a certificate");
        let number = self.certificates.iter().position(|known| known == shown);
        Ok((number.expect("a known one"), answer))
    }

    fn ask(&self) -> io::Result<(usize, String)> {
        self.ask_on(self.connect()?)
    }

    /// Waits until this certificate is shown: a worker that is about to be told to stop may be first.
    fn await_certificate(&self, number: usize) {
        eventually("the new certificate", || self.ask().expect("an answer").0 == number);
    }

    /// Asks without a pause until it is over: how often each certificate was shown, and what failed.
    fn load(&self, is_over: &AtomicBool) -> (Vec<usize>, Vec<io::Error>) {
        let (mut shown, mut failures) = (vec![0; self.certificates.len()], Vec::new());
        while !is_over.load(Ordering::Relaxed) {
            match self.ask() {
                Ok((number, answer)) if answer.contains("generation=") => shown[number] += 1,
                Ok((_, answer)) => failures.push(io::Error::other(answer)),
                Err(error) => failures.push(error),
            }
        }
        (shown, failures)
    }
}

/// The directory of the keys, and the program with the first of these pairs.
fn start(backend: Backend, pairs: &[Pair]) -> (Running, Clients) {
    let address = free_port();
    let program = Program::new(backend, "key-holder").args(["certificate.pem", "key.pem"]);
    pairs[0].install(&program);
    let running = program.listen(address, 2).start();
    running.await_ready(2);
    (running, Clients::new(address, pairs))
}

fn pairs(count: usize) -> Vec<Pair> {
    let directory = tempfile::tempdir().expect("a directory");
    (0..count).map(|number| Pair::new(directory.path(), number)).collect()
}

/// Whether a worker has this connection: one in the queue of a listener has no inode.
fn is_accepted(client: &TcpStream) -> bool {
    let port = |address: io::Result<SocketAddr>| format!(":{:04X}", address.expect("one").port());
    let (here, there) = (port(client.local_addr()), port(client.peer_addr()));
    let table = fs::read_to_string("/proc/net/tcp").expect("the connections");
    table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).any(|row| {
        row[1].ends_with(&there)
            && row[2].ends_with(&here)
            && row.get(9).is_some_and(|it| *it != "0")
    })
}

/// Which of the marks are in the memory of a process; `None` if it has ended.
fn found_in(process: Process, marks: &[Vec<u8>]) -> Option<Vec<usize>> {
    let maps = fs::read_to_string(process.path("maps")).ok().filter(|maps| !maps.is_empty())?;
    let memory = fs::File::open(process.path("mem")).ok()?;
    let mut found = Vec::new();
    for line in
        maps.lines().filter(|line| line.split(' ').nth(1).is_some_and(|mode| mode.starts_with('r')))
    {
        let (start, end) = line.split(' ').next()?.split_once('-')?;
        let address = |text| u64::from_str_radix(text, 16).expect("an address");
        let (start, end) = (address(start), address(end));
        let mut bytes = vec![0; usize::try_from(end - start).expect("a length")];
        // Some are the kernel's, and some have no content.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        let has = |number: &usize| memchr::memmem::find(&bytes, &marks[*number]).is_some();
        found.extend((0..marks.len()).filter(has));
    }
    Some(found)
}

on_every_backend! {
    fn no_handshake_is_lost_while_certificates_change(backend: Backend) {
        if !has("openssl", "version") {
            return;
        }
        let pairs = pairs(RELOADS + 2);
        let (mut running, clients) = start(backend, &pairs);
        let is_over = AtomicBool::new(false);
        let all = thread::scope(|scope| {
            let load: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| clients.load(&is_over))).collect();
            let changed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                for (number, pair) in pairs.iter().enumerate().skip(1) {
                    pair.replace(&running);
                    // The last change comes with another version of the program.
                    let change = if number <= RELOADS { "reload" } else { "upgrade" };
                    assert_eq!(control(&running.control(), change), "ok", "{}", running.stderr());
                    clients.await_certificate(number);
                }
            }));
            is_over.store(true, Ordering::Relaxed);
            let all: Vec<_> = load.into_iter().map(|client| client.join().expect("a client")).collect();
            changed.map(|()| all).unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let failures: Vec<_> = all.iter().flat_map(|(_, failures)| failures).collect();
        assert!(failures.is_empty(), "{failures:?}; log: {}", running.stderr());
        for number in 0..pairs.len() - 1 {
            let shown: usize = all.iter().map(|(shown, _)| shown[number]).sum();
            assert!(shown > 0, "certificate {number} was never shown");
        }
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_key_lives_as_long_as_the_processes_of_its_generation(backend: Backend) {
        if !has("openssl", "version") {
            return;
        }
        const DROPPED: &str = "a private key is not used any more";
        let pairs = pairs(3);
        let (mut running, clients) = start(backend, &pairs);
        for (change, number) in [("reload", 1), ("upgrade", 2)] {
            let late = clients.connect().expect("a connection");
            eventually("it is accepted", || is_accepted(&late));
            pairs[number].replace(&running);
            assert_eq!(control(&running.control(), change), "ok", "{}", running.stderr());
            clients.await_certificate(number);
            // Its worker belongs to the generation before, and shakes hands only now.
            let (shown, answer) = clients.ask_on(late).expect("an answer");
            assert_eq!((shown, answer.contains(&format!("generation={number}"))), (number - 1, true));
            eventually("the key is dropped", || running.stderr().matches(DROPPED).count() >= number);
        }
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn no_worker_has_a_key_in_its_memory(backend: Backend) {
        if !is_root("the memory of others") || !has("openssl", "version") {
            return;
        }
        let pairs = pairs(2);
        let (mut running, clients) = start(backend, &pairs);
        let marks: Vec<_> = pairs.iter().flat_map(Pair::marks).collect();
        let look = |number: usize| {
            for _ in 0..5 {
                assert_eq!(clients.ask().expect("an answer").0, number);
            }
            let master = found_in(running.process(), &marks).expect("it lives");
            assert!(!master.is_empty(), "the master has the key, or this test does not see it");
            let workers = running.workers();
            assert_eq!(workers.len(), 2);
            for worker in workers {
                assert_eq!(found_in(worker, &marks), Some(Vec::new()), "{}", worker.command_line());
            }
        };
        look(0);
        pairs[1].replace(&running);
        assert_eq!(control(&running.control(), "reload"), "ok");
        eventually("the old workers are gone", || running.workers().len() == 2);
        look(1);
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }
}
