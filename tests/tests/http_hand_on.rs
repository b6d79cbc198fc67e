//! Connections of HTTP that workers hand on: no client loses one, and nothing is read that is no request.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Backend, GET, HttpClient, Installed, Program, Running, connect, control, eventually,
    on_every_backend, read_until, rest,
};

/// A service that hands connections on, and whose time limits do not expire.
fn start(backend: Backend, workers: usize, options: &[&str]) -> (Running, SocketAddr) {
    let all = ["--hand-on", "--header", "60000", "--stop", "60"].iter().chain(options);
    Program::new(backend, "http").args(all).serve(workers)
}

/// A request that shows itself by its answer.
const HIDDEN: &str = "GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";

/// Requests whose bodies contain a request: the head and the beginning of the body, and its rest.
fn bodies() -> Vec<(String, &'static str)> {
    let post = "POST /at-stop HTTP/1.1\r\nHost: test";
    let length = HIDDEN.len();
    let long = HIDDEN.repeat(4000);
    vec![
        (format!("{post}\r\nContent-Length: {length}\r\n\r\n"), HIDDEN),
        (format!("{post}\r\nContent-Length: {}\r\n\r\nbody", length + 4), HIDDEN),
        (format!("{post}\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n"), HIDDEN),
        (format!("{post}\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"), HIDDEN),
        // All of it has arrived, and no buffer holds it.
        (format!("{post}\r\nContent-Length: {}\r\n\r\n{long}", long.len()), ""),
    ]
}

/// Waits until so many requests wait for the stop of their worker.
fn all_in_hand(service: &Running, count: usize) {
    eventually("the requests are in hand", || {
        service.stderr().matches("a request waits for the stop").count() == count
    });
}

on_every_backend! {
    fn kept_connections_are_handed_on(backend: Backend) {
        let installed = Installed::new(backend, "http");
        let options = ["--hand-on", "--header", "60000", "--stop", "60"];
        let (mut service, address) = installed.program().args(options).serve(2);
        let client = |_| HttpClient::connect(address).expect("a connection");
        let mut kept: Vec<_> = (0..170).map(client).collect();
        kept.iter_mut().for_each(|client| _ = client.get().expect("an answer"));
        // Without a request so far, with half a head, with half of the next one behind a request, and after a body.
        let mut others: Vec<_> = (0..30).map(|_| connect(address)).collect();
        for (index, client) in others.iter_mut().enumerate() {
            match index % 4 {
                0 => {}
                3 => {
                    let with_body = b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\n\r\nbody";
                    client.write_all(with_body).expect("a request with a body");
                    read_until(client, "\r\n\r\nbody");
                }
                1 => client.write_all(&GET[..7]).expect("half a head"),
                _ => {
                    let both = b"GET / HTTP/1.1\r\nHost: test\r\nUpgrade: h2c\r\n\r\nGET / H";
                    client.write_all(both).expect("a request and a half");
                    read_until(client, "seq=0 peer=127.");
                    read_until(client, "\n");
                }
            }
        }
        let over = &AtomicBool::new(false);
        let lost: Vec<_> = thread::scope(|scope| {
            let busy = |pause| scope.spawn(move || {
                let (mut client, mut answered) = (HttpClient::connect(address)?, 0);
                while !over.load(Ordering::Relaxed) {
                    client.get()?;
                    assert!(!client.is_over(), "no answer is the last");
                    answered += 1;
                    thread::sleep(pause);
                }
                Ok::<u32, io::Error>(answered)
            });
            let busy = [0, 1, 5, 20].map(Duration::from_millis).map(busy);
            let mut outcomes = Vec::new();
            for turn in 0..5 {
                outcomes.push(control(&service.control(), "reload"));
                if turn % 2 == 1 {
                    installed.install(&backend.program("http"));
                    outcomes.push(control(&service.control(), "upgrade"));
                }
            }
            over.store(true, Ordering::Relaxed);
            assert!(outcomes.iter().all(|outcome| outcome == "ok"), "{outcomes:?}");
            busy.into_iter().filter_map(|client| client.join().expect("a client").err()).collect()
        });
        assert!(lost.is_empty(), "{lost:?}; log: {}", service.stderr());
        eventually("only the newest workers are left", || service.workers().len() == 2);
        let now: Vec<_> = service.workers().iter().map(|worker| worker.0).collect();
        for client in &mut kept {
            assert!(now.contains(&client.get().expect("an answer").pid), "{now:?}");
        }
        for (index, client) in others.iter_mut().enumerate() {
            // Of those two, the beginning is sent.
            let begun = if matches!(index % 4, 1 | 2) { 7 } else { 0 };
            let request = &"GET / HTTP/1.1"[begun..];
            let text = format!("{request}\r\nHost: test\r\nConnection: close\r\n\r\n");
            client.write_all(text.as_bytes()).expect("the rest");
            let answer = rest(client);
            assert!(answer.starts_with("HTTP/1.1 200"), "{index}: {answer:?}");
        }
        let begun = Instant::now();
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        assert!(begun.elapsed() < Duration::from_secs(20), "nobody waits for a taker");
    }

    fn the_death_of_the_taker_closes_its_own_connections(backend: Backend) {
        let (mut service, address) = start(backend, 2, &[]);
        let mut survivors = 0;
        for _ in 0..2 {
            let client = |_| HttpClient::connect(address).expect("a connection");
            let mut clients: Vec<_> = (0..60).map(client).collect();
            clients.iter_mut().for_each(|client| _ = client.get().expect("an answer"));
            let old = service.workers();
            thread::scope(|scope| {
                let reload = scope.spawn(|| control(&service.control(), "reload"));
                eventually("a new one starts", || service.workers().iter().any(|it| !old.contains(it)));
                let new = service.workers().into_iter().find(|it| !old.contains(it));
                new.expect("a new one").signal(Signal::SIGKILL);
                let _ = reload.join().expect("an answer");
            });
            service.await_ready(2);
            for client in &mut clients {
                match client.get() {
                    Ok(_) => survivors += 1,
                    // One that is with nobody would wait for ever.
                    Err(error) => assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{error}"),
                }
            }
        }
        assert!(survivors > 0);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_taker_that_stands_still_holds_no_connection_up_for_long(backend: Backend) {
        let (mut service, address) = start(backend, 3, &[]);
        let client = |_| HttpClient::connect(address).expect("a connection");
        let mut clients: Vec<_> = (0..60).map(client).collect();
        let pids: Vec<_> = clients.iter_mut().map(|client| client.get().expect("an answer").pid).collect();
        let workers = service.workers();
        let giver = pids[0];
        let stopped = workers.into_iter().find(|worker| worker.0 != giver).expect("another one");
        stopped.signal(Signal::SIGSTOP);
        release_tests::Process(giver).signal(Signal::SIGTERM);
        for (client, _) in clients.iter_mut().zip(&pids).filter(|(_, pid)| **pid == giver) {
            // Until the signal has come.
            eventually("another worker has it", || {
                let now = client.get().expect("an answer").pid;
                assert_ne!(now, stopped.0, "{}", service.stderr());
                now != giver
            });
        }
        stopped.signal(Signal::SIGCONT);
        service.await_ready(3);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_group_that_is_gone_keeps_its_connections(backend: Backend) {
        let installed = Installed::new(backend, "http");
        let options = ["--hand-on", "--linger", "20000", "--stop", "60"];
        let (mut service, address) = installed.program().args(options).serve(2);
        let mut client = HttpClient::connect(address).expect("a connection");
        let old = client.get().expect("an answer").pid;
        let other = service.workers().into_iter().find(|worker| worker.0 != old).expect("two");
        // One that asks for the connection, and does not take it.
        other.signal(Signal::SIGSTOP);
        release_tests::Process(old).signal(Signal::SIGTERM);
        std::fs::write(service.path("group"), "other").expect("a name");
        let upgrade = control(&service.control(), "upgrade");
        assert_eq!(upgrade, "ok", "{}", service.stderr());
        let metrics = control(&service.control(), "metrics");
        assert!(metrics.contains("work_finished_total{group=\"http\"} 1\n"), "{metrics}");
        assert_eq!(client.get().expect("an answer").pid, old);
        assert!(client.is_over(), "its last one");
        other.signal(Signal::SIGCONT);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn the_rest_of_a_body_is_no_request(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let mut clients: Vec<_> = bodies()
            .into_iter()
            .map(|(begin, rest)| {
                let client = connect(address);
                let mut writing = client.try_clone().expect("a descriptor");
                // As much of it as the server takes.
                thread::spawn(move || writing.write_all(begin.as_bytes()));
                client.set_nodelay(true).expect("set");
                (client, rest)
            })
            .collect();
        all_in_hand(&service, clients.len());
        assert_eq!(control(&service.control(), "reload"), "ok", "{}", service.stderr());
        for (index, (client, rest_of_body)) in clients.iter_mut().enumerate() {
            let answer = read_until(client, "stopped\n");
            assert!(answer.starts_with("HTTP/1.1 200"), "{index}: {answer:?}");
            // The server may have closed the connection.
            let _ = client.write_all(rest_of_body.as_bytes());
            let more = rest(client);
            assert!(!more.contains("HTTP/1.1"), "{index}: {more:?}");
        }
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn requests_behind_another_one_are_answered_in_order(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let echo = |word: &str| {
            let length = word.len();
            format!("POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{word}")
        };
        let at_stop = "GET /at-stop HTTP/1.1\r\nHost: test\r\n\r\n";
        let all = [at_stop, &echo("first"), &echo("second"), HIDDEN].concat();
        // The last one in two parts, of any length.
        let begins = (all.len() - HIDDEN.len() + 1..all.len()).step_by(7);
        let mut clients: Vec<_> = begins.map(|begin| (connect(address), begin)).collect();
        for (client, begin) in &mut clients {
            client.write_all(&all.as_bytes()[..*begin]).expect("requests");
        }
        all_in_hand(&service, clients.len());
        let old = service.workers();
        assert_eq!(control(&service.control(), "reload"), "ok", "{}", service.stderr());
        for (client, _) in &mut clients {
            for end in ["stopped\n", "\r\n\r\nfirst", "\r\n\r\nsecond"] {
                let answer = read_until(client, end);
                assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
            }
        }
        eventually("the old one is gone", || !service.workers().contains(&old[0]));
        for (client, begin) in &mut clients {
            client.write_all(&all.as_bytes()[*begin..]).expect("the rest");
            let answer = rest(client);
            assert!(answer.starts_with("HTTP/1.1 200"), "{begin}: {answer:?}");
        }
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn an_upgraded_connection_stays(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let old = service.workers()[0];
        let mut clients = ["upgrade", "upgrade-at-stop"].map(|path| {
            let mut client = connect(address);
            let head = "Host: test\r\nConnection: upgrade\r\nUpgrade: echo";
            write!(client, "GET /{path} HTTP/1.1\r\n{head}\r\n\r\n").expect("a request");
            client
        });
        assert!(read_until(&mut clients[0], "\r\n\r\n").starts_with("HTTP/1.1 101"));
        // Of the new protocol, and for whoever reads next.
        clients[1].write_all(b"one").expect("a message");
        all_in_hand(&service, 1);
        assert_eq!(control(&service.control(), "reload"), "ok", "{}", service.stderr());
        clients[0].write_all(b"one").expect("a message");
        assert!(read_until(&mut clients[1], "\r\n\r\n").starts_with("HTTP/1.1 101"));
        for client in &mut clients {
            read_until(client, "one");
            assert!(service.workers().contains(&old), "{}", service.stderr());
        }
        for client in &mut clients {
            client.write_all(b"two").expect("a message");
            assert_eq!(rest(client), "two");
        }
        eventually("the old one is gone", || !service.workers().contains(&old));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn http_2_is_known_by_the_next_worker(backend: Backend) {
        let (mut service, address) = start(backend, 1, &[]);
        let old = service.workers()[0];
        let begin = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
        let mut clients = [1, 8, 16, 23].map(|count| (connect(address), count));
        for (client, count) in &mut clients {
            client.write_all(&begin[..*count]).expect("a part");
        }
        // They are accepted in order.
        let mut last = HttpClient::connect(address).expect("a connection");
        last.get().expect("an answer");
        assert_eq!(control(&service.control(), "reload"), "ok", "{}", service.stderr());
        eventually("the old one is gone", || !service.workers().contains(&old));
        for (client, count) in &mut clients {
            client.write_all(&begin[*count..]).expect("the rest");
            let mut frame = [0; 9];
            client.read_exact(&mut frame).expect("a frame");
            assert_eq!(frame[3], 4, "the settings of the server: {frame:?}");
        }
        last.get().expect("an answer");
        drop((clients, last));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_full_worker_takes_connections_at_once(backend: Backend) {
        let (mut service, address) = start(backend, 2, &["--connections", "2"]);
        let mut clients: Vec<_> = Vec::new();
        while clients.len() < 4 {
            let mut client = HttpClient::connect(address).expect("a connection");
            let pid = client.get().expect("an answer").pid;
            clients.push((client, pid));
        }
        let giver = clients[0].1;
        let its = clients.iter_mut().filter(|(_, pid)| *pid == giver);
        let its: Vec<_> = its.collect();
        assert_eq!(its.len(), 2, "both are full");
        let begun = Instant::now();
        release_tests::Process(giver).signal(Signal::SIGTERM);
        for (client, _) in its {
            // Until the signal has come.
            eventually("another worker has it", || client.get().expect("an answer").pid != giver);
        }
        // The time after which the master gives an offered connection to another worker.
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(5), "{waited:?}: {}", service.stderr());
        service.await_ready(2);
        drop(clients);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }
}
