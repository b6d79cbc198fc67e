//! HTTP answers that take their time: slow clients, tunnels, and answers that a stop meets halfway.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use release_tests::{
    Backend, DEADLINE, HttpClient, Installed, Process, Program, Running, control, eventually,
    http_get, on_every_backend,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Size of the answer to `/large`, which the service returns in one piece.
const LARGE: usize = 32 << 20;

/// A slow client reads so much at a time, with this pause: about six seconds in all.
const PIECE: usize = LARGE / 64;
const PAUSE: Duration = Duration::from_millis(100);

const GET_LARGE: &[u8] = b"GET /large HTTP/1.1\r\nHost: test\r\n\r\n";

type Sender = http2::SendRequest<Empty<Bytes>>;

fn start(backend: Backend, options: &[&str]) -> (Running, SocketAddr) {
    Program::new(backend, "http").args(options).serve(1)
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    stream
}

fn head(stream: &mut impl Read) -> String {
    let (mut head, mut byte) = (String::new(), [0]);
    while !head.ends_with("\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap_or_else(|error| panic!("{error} after {head:?}"));
        head.push(char::from(byte[0]));
    }
    head
}

/// Returns how many bytes of the body have come.
fn read_slowly(client: &mut TcpStream) -> usize {
    let (mut count, mut piece) = (0, vec![0; PIECE]);
    while count < LARGE {
        thread::sleep(PAUSE);
        match client.read(&mut piece) {
            Ok(0) | Err(_) => break,
            Ok(more) => count += more,
        }
    }
    count
}

/// Asks on a connection that has had an answer, and returns the head of the next one with its body.
fn ask_again(client: &mut TcpStream) -> String {
    client.write_all(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("one more request");
    let mut said = head(client);
    let mut byte = [0];
    while !said.ends_with('\n') || said.ends_with("\r\n") {
        client.read_exact(&mut byte).expect("a body");
        said.push(char::from(byte[0]));
    }
    said
}

fn sockets(worker: Process) -> usize {
    worker.descriptors().iter().filter(|it| it.1.starts_with("socket")).count()
}

fn on_tokio<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(future)
}

async fn http_2(address: SocketAddr) -> Sender {
    let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
    let (sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    tokio::spawn(connection);
    sender
}

/// Waits until the idle time of a connection that begins now has passed.
fn one_idle_time(address: SocketAddr) {
    let mut idle = HttpClient::connect(address).expect("a connection");
    idle.get().expect("an answer");
    assert!(idle.is_closed());
}

on_every_backend! {
    fn a_client_that_reads_slowly_is_not_idle(backend: Backend) {
        let (mut service, address) = start(backend, &["--idle", "1000", "--header", "1000"]);
        let mut client = connect(address);
        client.write_all(GET_LARGE).expect("a request");
        head(&mut client);
        assert_eq!(read_slowly(&mut client), LARGE);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_client_of_http_2_that_reads_slowly_is_not_idle(backend: Backend) {
        let (mut service, address) = start(backend, &["--idle", "1000", "--header", "1000"]);
        let count = on_tokio(async {
            let request = Request::get(format!("http://{address}/large"));
            let request = request.body(Empty::new()).expect("a request");
            let answer = http_2(address).await.send_request(request).await.expect("an answer");
            let (mut body, mut count, mut pauses) = (answer.into_body(), 0, 0);
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { break };
                count += frame.data_ref().map_or(0, Bytes::len);
                if count / PIECE > pauses {
                    pauses += 1;
                    tokio::time::sleep(PAUSE).await;
                }
            }
            count
        });
        assert_eq!(count, LARGE);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_client_that_reads_nothing_is_cut(backend: Backend) {
        let (mut service, address) = start(backend, &["--idle", "500", "--header", "250"]);
        let worker = service.workers()[0];
        let mut client = connect(address);
        client.write_all(GET_LARGE).expect("a request");
        head(&mut client);
        let before = sockets(worker);
        eventually("the connection is closed", || sockets(worker) < before);
        let mut received = Vec::new();
        let _ = client.read_to_end(&mut received);
        assert!(received.len() < LARGE, "{} bytes came", received.len());
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_client_that_reads_slowly_gets_its_answer_at_a_stop(backend: Backend) {
        let options = ["--header", "1000", "--linger", "1000", "--stop", "60"];
        let (mut service, address) = start(backend, &options);
        let old = service.workers()[0];
        let mut client = connect(address);
        client.write_all(GET_LARGE).expect("a request");
        head(&mut client);
        assert_eq!(control(&service.control(), "reload"), "ok");
        assert_eq!(read_slowly(&mut client), LARGE);
        eventually("the old one is gone", || !service.workers().contains(&old));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_client_that_reads_slowly_is_handed_on_afterwards(backend: Backend) {
        let (mut service, address) =
            start(backend, &["--hand-on", "--header", "1000", "--stop", "60"]);
        let old = http_get(address).pid;
        let mut client = connect(address);
        client.write_all(GET_LARGE).expect("a request");
        head(&mut client);
        assert_eq!(control(&service.control(), "reload"), "ok");
        assert_eq!(read_slowly(&mut client), LARGE);
        let said = ask_again(&mut client);
        assert!(!said.contains("close") && !said.contains(&format!("pid={old} ")), "{said:?}");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_connection_is_handed_on_after_the_end_of_a_body(backend: Backend) {
        let options = ["--hand-on", "--header", "60000", "--stop", "60"];
        let (mut service, address) = start(backend, &options);
        let old = service.workers()[0];
        let mut client = connect(address);
        let post = b"POST /early HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nhalf";
        client.write_all(post).expect("a request");
        let mut early = [0; 6];
        assert!(!head(&mut client).contains("close"));
        client.read_exact(&mut early).expect("the answer");
        let before = sockets(old);
        assert_eq!(control(&service.control(), "reload"), "ok");
        eventually("its two listeners are closed", || sockets(old) + 2 <= before);
        assert!(service.workers().contains(&old), "it waits for the end");
        client.write_all(b"half").expect("the end");
        let said = ask_again(&mut client);
        assert!(!said.contains("close") && !said.contains(&format!("pid={} ", old.0)), "{said:?}");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn an_answer_that_promised_more_is_followed_by_a_linger(backend: Backend) {
        let options = ["--header", "1000", "--linger", "2500", "--stop", "60"];
        let (mut service, address) = start(backend, &options);
        let old = service.workers()[0];
        let mut client = connect(address);
        let post = b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(post).expect("a request");
        assert!(!head(&mut client).contains("close"));
        assert_eq!(control(&service.control(), "reload"), "ok");
        let (begun, mut part) = (Instant::now(), [0; 9]);
        while begun.elapsed() < Duration::from_millis(4000) {
            client.write_all(b"4\r\nmore\r\n").expect("a part");
            client.read_exact(&mut part).expect("the same part");
        }
        client.write_all(b"0\r\n\r\n").expect("the end");
        client.read_exact(&mut part[..5]).expect("the same end");
        let said = ask_again(&mut client);
        assert!(said.contains("close") && said.contains(&format!("pid={} ", old.0)), "{said:?}");
        assert_eq!(client.read(&mut part).expect("the end"), 0);
        eventually("the old one is gone", || !service.workers().contains(&old));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_quiet_tunnel_keeps_its_http_2_connection(backend: Backend) {
        let options = ["--idle", "500", "--header", "250", "--stop", "60"];
        let (mut service, address) = start(backend, &options);
        let old = service.workers()[0];
        on_tokio(async {
            let mut sender = http_2(address).await;
            let request = Request::connect("test:80").body(Empty::new()).expect("a request");
            let answer = sender.send_request(request).await.expect("a tunnel");
            let tunnel = hyper::upgrade::on(answer).await.expect("a tunnel");
            let mut tunnel = TokioIo::new(tunnel);
            (0..4).for_each(|_| one_idle_time(address));
            let request = Request::get(format!("http://{address}/")).body(Empty::new());
            let answer = sender.send_request(request.expect("a request")).await;
            let body = answer.expect("no GOAWAY so far").into_body().collect().await;
            assert!(!body.expect("a body").to_bytes().is_empty());
            let mut word = [0; 3];
            tunnel.write_all(b"one").await.expect("a message");
            tunnel.read_exact(&mut word).await.expect("its echo");
            assert_eq!(control(&service.control(), "reload"), "ok");
            (0..4).for_each(|_| one_idle_time(address));
            assert!(service.workers().contains(&old), "it has a tunnel");
            tunnel.write_all(b"two").await.expect("a message");
            tunnel.read_exact(&mut word).await.expect("its echo");
            assert_eq!(tunnel.read(&mut word).await.expect("the end"), 0);
        });
        eventually("the old one is gone", || !service.workers().contains(&old));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_connection_of_an_address_that_is_gone_lingers(backend: Backend) {
        let installed = Installed::new(backend, "http");
        let options = ["--hand-on", "--linger", "20000", "--stop", "60"];
        let (mut service, address) = installed.program().args(options).serve(1);
        let mut client = HttpClient::connect(address).expect("a connection");
        let old = client.get().expect("an answer").pid;
        // The same group listens elsewhere.
        std::fs::write(service.path("group"), "http").expect("a name");
        let upgrade = control(&service.control(), "upgrade");
        assert_eq!(upgrade, "ok", "{}", service.stderr());
        eventually("an answer is marked as the last", || {
            assert_eq!(client.get().expect("an answer").pid, old, "{}", service.stderr());
            client.is_over()
        });
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }
}
