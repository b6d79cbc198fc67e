//! HTTP by the library: a client that never repeats a request loses none.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::poll_fn;
use http_body_util::{BodyExt, Empty};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use release_tests::{
    Answer, DEADLINE, GET, HttpClient, Installed, Program, Running, connect, control, eventually,
    free_port, http_get, on_every_backend, read_until, rest, try_http_get,
};

fn start(
    backend: release_tests::Backend,
    workers: usize,
    options: &[&str],
) -> (Running, SocketAddr) {
    Program::new(backend, "http").args(options).serve(workers)
}

/// Sends requests on connections that it keeps as long as the server does, with pauses, and never twice.
fn never_repeats(
    address: SocketAddr,
    pause: Duration,
    over: &AtomicBool,
) -> (usize, Vec<io::Error>) {
    let (mut answered, mut lost) = (0, Vec::new());
    let mut kept: Option<HttpClient> = None;
    while !over.load(Ordering::Relaxed) {
        let asked =
            kept.take().map_or_else(|| HttpClient::connect(address), Ok).and_then(|mut client| {
                client.get()?;
                Ok(client)
            });
        match asked {
            Ok(client) => {
                answered += 1;
                kept = Some(client).filter(|client| !client.is_over());
            }
            Err(error) => lost.push(error),
        }
        thread::sleep(pause);
    }
    (answered, lost)
}

/// The same over one HTTP/2 connection at a time, several requests at once.
async fn multiplexed(
    address: SocketAddr,
    over: &AtomicBool,
    connections: &AtomicUsize,
) -> (usize, Vec<String>) {
    let (mut answered, mut lost) = (0, Vec::new());
    while !over.load(Ordering::Relaxed) {
        let stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
        let connection = tokio::spawn(connection);
        connections.fetch_add(1, Ordering::Relaxed);
        // After GOAWAY the sender is not ready any more: nothing is sent that will not be answered.
        while !over.load(Ordering::Relaxed) && poll_fn(|cx| sender.poll_ready(cx)).await.is_ok() {
            let requests = (0..4).map(|_| {
                let uri = format!("http://{address}/");
                sender
                    .send_request(Request::get(uri).body(Empty::<Bytes>::new()).expect("a request"))
            });
            let answers = futures_util::future::join_all(requests.collect::<Vec<_>>()).await;
            for answer in answers {
                match answer {
                    Ok(answer) => {
                        let body = answer.into_body().collect().await.expect("a body").to_bytes();
                        assert!(Answer::parse(&String::from_utf8_lossy(&body)).is_some());
                        answered += 1;
                    }
                    Err(error) if error.is_canceled() => {} // Never sent: the connection was ending.
                    Err(error) => lost.push(format!("{error:?}")),
                }
            }
        }
        drop(sender);
        let _ = connection.await;
    }
    (answered, lost)
}

on_every_backend! {
    fn a_client_that_never_repeats_loses_nothing(backend: Backend) {
        let installed = Installed::new(backend, "http");
        let (mut service, address) = installed.program().serve(2);
        let over = &AtomicBool::new(false);
        let pauses = [0, 0, 1, 3, 10, 30, 100, 200].map(Duration::from_millis);
        let clients = thread::scope(|scope| {
            let clients: Vec<_> =
                pauses.map(|pause| scope.spawn(move || never_repeats(address, pause, over))).into();
            let mut outcomes: Vec<_> = Vec::new();
            for _ in 0..4 {
                outcomes.push(control(&service.control(), "reload"));
                installed.install(&backend.program("http"));
                outcomes.push(control(&service.control(), "upgrade"));
                outcomes.push(control(&service.control(), "reload"));
            }
            over.store(true, Ordering::Relaxed);
            assert!(outcomes.iter().all(|outcome| outcome == "ok"), "{outcomes:?}");
            clients.into_iter().map(|client| client.join().expect("a client")).collect::<Vec<_>>()
        });
        for (answered, lost) in &clients {
            assert!(lost.is_empty() && *answered > 0, "lost {lost:?}, answered {answered}");
        }
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn http_2_is_told_to_go_away(backend: Backend) {
        // Connections of HTTP/2 are not handed on.
        let (mut service, address) = start(backend, 2, &["--hand-on"]);
        let (over, connections) = (AtomicBool::new(false), AtomicUsize::new(0));
        let (answered, lost) = thread::scope(|scope| {
            let client = scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                runtime.expect("a runtime").block_on(multiplexed(address, &over, &connections))
            });
            for reloads in 1..=8 {
                assert_eq!(control(&service.control(), "reload"), "ok");
                eventually("the client connects again", || {
                    connections.load(Ordering::Relaxed) > reloads
                });
            }
            over.store(true, Ordering::Relaxed);
            client.join().expect("the client")
        });
        assert!(lost.is_empty(), "{lost:?} of {answered}");
        assert!(answered > 8, "{answered} answers");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn nobody_connects_in_vain_during_a_stop(backend: Backend) {
        let (mut service, address) = start(backend, 1, &["--linger", "2000"]);
        let mut kept = HttpClient::connect(address).expect("a connection");
        kept.get().expect("an answer");
        let worker = release_tests::Process(http_get(address).pid);
        let sockets = || worker.descriptors().iter().filter(|it| it.1.starts_with("socket")).count();
        let before = sockets();
        service.signal(Signal::SIGTERM);
        eventually("its two listeners are closed", || sockets() + 2 <= before);
        // It lingers for the client that it has. A connection that nobody accepts would be cut.
        let refused = TcpStream::connect(address).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused), "{}", service.stderr());
        drop(kept);
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
    }

    fn http_2_that_begins_during_a_stop_does_not_linger(backend: Backend) {
        let options = ["--header", "60000", "--linger", "60000", "--stop", "60"];
        let (mut service, address) = start(backend, 1, &options);
        let client = connect(address);
        // The worker accepts in order.
        let old = release_tests::Process(http_get(address).pid);
        let sockets = || old.descriptors().iter().filter(|it| it.1.starts_with("socket")).count();
        let before = sockets();
        assert_eq!(control(&service.control(), "reload"), "ok");
        eventually("its two listeners are closed", || sockets() + 2 <= before);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let answer = runtime.expect("a runtime").block_on(async {
            client.set_nonblocking(true).expect("set");
            let stream = TokioIo::new(tokio::net::TcpStream::from_std(client).expect("a stream"));
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), stream).await.expect("HTTP/2");
            let connection = tokio::spawn(connection);
            let request = Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new());
            let answer = sender.send_request(request.expect("a request")).await.expect("an answer");
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            // Its end is the worker's: this side would go on.
            let ended = tokio::time::timeout(DEADLINE, connection).await;
            ended.expect("GOAWAY").expect("no panic").expect("in order");
            String::from_utf8_lossy(&body).into_owned()
        });
        assert_eq!(Answer::parse(&answer).expect("an answer").pid, old.0);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_client_that_has_connected_is_answered(backend: Backend) {
        let options = ["--header", "60000", "--linger", "0", "--stop", "60"];
        let (mut service, address) = start(backend, 1, &options);
        let mut client = connect(address);
        // The worker accepts in order.
        let old = release_tests::Process(http_get(address).pid);
        let sockets = || old.descriptors().iter().filter(|it| it.1.starts_with("socket")).count();
        let before = sockets();
        assert_eq!(control(&service.control(), "reload"), "ok");
        eventually("its two listeners are closed", || sockets() + 2 <= before);
        client.write_all(GET).expect("a request");
        let answer = rest(&mut client);
        let pid = format!("pid={} ", old.0);
        assert!(answer.contains("close") && answer.contains(&pid), "{answer:?}");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_response_that_is_being_sent_is_finished(backend: Backend) {
        let (mut service, address) = start(backend, 1, &["--header", "200"]);
        let mut client = connect(address);
        let head = b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.write_all(head).expect("a request");
        client.write_all(b"5\r\nfirst\r\n").expect("a part");
        read_until(&mut client, "first\r\n");
        let old = service.workers();
        assert_eq!(control(&service.control(), "reload"), "ok");
        // Longer than the linger and the time for a head: the end of the stream is in sight of neither.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(1500) {
            client.write_all(b"4\r\nmore\r\n").expect("a part");
            read_until(&mut client, "more\r\n");
        }
        assert!(service.workers().contains(&old[0]), "the old one finishes its work");
        client.write_all(b"0\r\n\r\n").expect("the end");
        assert!(rest(&mut client).ends_with("0\r\n\r\n"));
        eventually("the old one is gone", || !service.workers().contains(&old[0]));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_connection_in_the_queue_is_answered_at_the_stop(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let worker = service.workers()[0];
        worker.signal(Signal::SIGSTOP);
        eventually("it stands still", || worker.status("State").is_some_and(|it| it.starts_with('T')));
        let mut clients: Vec<_> = (0..40).map(|_| connect(address)).collect();
        for client in &mut clients {
            client.write_all(GET).expect("a request");
        }
        service.signal(Signal::SIGTERM);
        eventually("its master stops", || service.stderr().contains("SIGTERM"));
        worker.signal(Signal::SIGCONT);
        for client in &mut clients {
            // Without a mark, if it is accepted before the worker reads the order to stop.
            let answer = rest(client);
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("worker=0"), "{answer:?}");
        }
        assert_eq!(service.wait().code(), Some(0), "{}", service.stderr());
    }

    fn idle_connections_linger_and_then_close(backend: Backend) {
        let (mut service, address) = start(backend, 1, &["--linger", "700"]);
        let [mut busy, mut late, mut idle] =
            [(); 3].map(|()| HttpClient::connect(address).expect("a connection"));
        let old = busy.get().expect("an answer").pid;
        late.get().expect("an answer");
        idle.get().expect("an answer");
        let begun = Instant::now();
        assert_eq!(control(&service.control(), "reload"), "ok");
        eventually("the old one says that an answer was its last", || {
            assert_eq!(busy.get().expect("one more answer").pid, old);
            busy.is_over()
        });
        assert_eq!(late.get().expect("the last answer").pid, old);
        assert!(late.is_over() && late.is_closed());
        assert!(idle.is_closed() && begun.elapsed() >= Duration::from_millis(700));
        assert_ne!(http_get(address).pid, old);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn silent_and_slow_clients_are_closed(backend: Backend) {
        let options = ["--header", "300", "--idle", "3000", "--stop", "60"];
        let (mut service, address) = start(backend, 1, &options);
        let mut silent = connect(address);
        // As much as HTTP/1 and HTTP/2 have in common.
        let mut half = connect(address);
        half.write_all(b"P").expect("a byte");
        let begun = Instant::now();
        assert_eq!((rest(&mut silent), rest(&mut half)), (String::new(), String::new()));
        assert!(begun.elapsed() >= Duration::from_millis(200));
        let mut idle = HttpClient::connect(address).expect("a connection");
        let mut slow = HttpClient::connect(address).expect("a connection");
        idle.get().expect("an answer");
        slow.get().expect("an answer");
        slow.send(b"GET / HT").expect("half a head");
        let begun = Instant::now();
        assert!(slow.is_closed() && begun.elapsed() < Duration::from_millis(2000));
        assert!(idle.is_closed() && begun.elapsed() > Duration::from_millis(2500));
        // Half a head does not hold up the stop.
        let mut half = HttpClient::connect(address).expect("a connection");
        half.get().expect("an answer");
        half.send(b"GET / HT").expect("half a head");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        assert!(!service.stderr().contains("killed"), "{}", service.stderr());
    }

    fn a_connection_may_begin_with_a_handshake(backend: Backend) {
        let options = ["--knock", "--header", "4000", "--stop", "60"];
        let (mut service, _) = start(backend, 1, &options);
        let path = service.path("unix");
        let connect = || {
            let client = UnixStream::connect(&path).expect("a connection");
            client.set_read_timeout(Some(DEADLINE)).expect("a time limit");
            client
        };
        let mut client = connect();
        client.write_all(b"knock\n").expect("the handshake");
        assert_eq!(read_until(&mut client, "\n"), "enter\n");
        client.write_all(GET).expect("a request");
        assert!(read_until(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 200"));
        drop(client);
        // The reason is said at most once in ten seconds.
        let mut wrong = connect();
        wrong.write_all(b"hello\n").expect("words");
        assert_eq!(rest(&mut wrong), "");
        eventually("it is said", || service.stderr().contains("the handshake failed: Data("));
        let begun = Instant::now();
        let mut slow = connect();
        slow.write_all(b"kno").expect("half a handshake");
        assert_eq!(rest(&mut slow), "");
        assert!(begun.elapsed() >= Duration::from_millis(3500));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_handshake_and_its_request_are_completed_when_the_worker_stops(backend: Backend) {
        let options = ["--knock", "--header", "60000", "--linger", "60000", "--stop", "120"];
        let (mut service, _) = start(backend, 1, &options);
        let old = service.workers()[0];
        let mut clients: Vec<_> = (0..3)
            .map(|_| {
                let client = UnixStream::connect(service.path("unix")).expect("a connection");
                client.set_read_timeout(Some(DEADLINE)).expect("a time limit");
                client
            })
            .collect();
        clients[1].write_all(b"kno").expect("half a handshake");
        clients[2].write_all(b"knock\n").expect("the handshake");
        // The worker accepts in order: it has all of them.
        assert_eq!(read_until(&mut clients[2], "\n"), "enter\n");
        let sockets = || old.descriptors().iter().filter(|it| it.1.starts_with("socket")).count();
        let before = sockets();
        assert_eq!(control(&service.control(), "reload"), "ok", "{}", service.stderr());
        eventually("its two listeners are closed", || sockets() + 2 <= before);
        clients[2].write_all(GET).expect("a request");
        let said = rest(&mut clients[2]);
        assert!(said.contains("connection: close") && said.contains(&format!("pid={} ", old.0)), "{said}");
        for (client, rest_of_it) in clients.iter_mut().zip(["knock\n", "ck\n"]) {
            client.write_all(rest_of_it.as_bytes()).expect("the handshake");
            client.write_all(GET).expect("a request");
            let said = rest(client);
            let expected = format!("pid={} ", old.0);
            assert!(said.starts_with("enter\n") && said.contains("connection: close"), "{said}");
            assert!(said.contains(&expected), "{said}");
        }
        eventually("the old one is gone", || !service.workers().contains(&old));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn an_upgraded_connection_outlives_a_reload(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let old = service.workers()[0];
        let mut client = connect(address);
        let head = b"GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n";
        client.write_all(head).expect("a request");
        assert!(read_until(&mut client, "\r\n\r\n").starts_with("HTTP/1.1 101"));
        assert_eq!(control(&service.control(), "reload"), "ok");
        let mut idle = HttpClient::connect(address).expect("a connection");
        idle.get().expect("an answer");
        client.write_all(b"one").expect("a message");
        read_until(&mut client, "one");
        assert!(service.workers().contains(&old));
        client.write_all(b"two").expect("a message");
        assert_eq!(rest(&mut client), "two");
        eventually("the old one is gone", || !service.workers().contains(&old));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_service_that_fails_ends_its_own_connection(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let old = http_get(address).pid;
        for path in ["/fail", "/panic"] {
            let mut client = connect(address);
            write!(client, "GET {path} HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
            assert_eq!(rest(&mut client), "");
        }
        assert_eq!(http_get(address).pid, old);
        for reason in ["the service has failed", "the service has panicked"] {
            eventually(reason, || service.stderr().contains(reason));
        }
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_unix_socket_is_served(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let mut client = UnixStream::connect(service.path("unix")).expect("a connection");
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
        let answer = rest(&mut client);
        assert!(answer.contains("peer=Some(Unnamed)"), "{answer}");
        let mut client = connect(address);
        client.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("a request");
        let answer = rest(&mut client);
        assert!(answer.contains("peer=127."), "{answer}");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn axum_is_served(backend: Backend) {
        let address = free_port();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let mut program = Program::new(backend, "axum").args(["-a", &ip, "-p", &port]).start();
        eventually("it answers", || try_http_get(address).is_ok());
        let mut client = HttpClient::connect(address).expect("a connection");
        let old = client.get().expect("an answer").pid;
        program.signal(Signal::SIGHUP);
        eventually("an answer is marked as the last", || {
            assert_eq!(client.get().expect("an answer").pid, old);
            client.is_over()
        });
        assert_eq!(program.stop(), 0, "{}", program.stderr());
    }
}
