//! Listening sockets that the master opens.

use std::collections::HashSet;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Answer, CLIENTS, Program, Running, control, eventually, free_port, http_get, is_alive, is_root,
    load, no_delays_of, on_every_backend, shut_listeners_down, try_http_get,
};

/// So many clients at once, each with a connection of its own; all must be answered.
fn ask(address: std::net::SocketAddr, clients: usize) -> Vec<Answer> {
    thread::scope(|scope| {
        let asked: Vec<_> = (0..clients).map(|_| scope.spawn(|| http_get(address))).collect();
        asked.into_iter().map(|asked| asked.join().expect("an answer")).collect()
    })
}

fn workers(answers: &[Answer]) -> HashSet<u32> {
    answers.iter().map(|answer| answer.worker).collect()
}

/// A connection that nobody has told to has `TCP_NODELAY` in the worker.
#[track_caller]
fn does_not_gather(running: &Running, address: std::net::SocketAddr) {
    let _connection = TcpStream::connect(address).expect("a connection");
    let worker = running.workers()[0];
    eventually("the worker has it", || !no_delays_of(worker).is_empty());
    assert!(no_delays_of(worker).iter().all(|is_set| *is_set));
}

#[test]
fn connections_of_commands_do_not_gather_small_writes() {
    if !is_root("taking descriptors of other processes") {
        return;
    }
    for each in ["", "?each"] {
        let address = free_port();
        let listen = format!("tcp://{address}{each}");
        let options = ["--listen", &listen, "--ready", "notify"];
        let mut manager = Program::manager(&options).any_worker("notify", "TERM").start();
        manager.await_ready(1);
        does_not_gather(&manager, address);
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
}

on_every_backend! {
    fn each_worker_serves_on_a_socket_of_its_own(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--socket-each"]);
        assert_eq!(workers(&ask(address, 64)), HashSet::from([0, 1]));
        assert_eq!(control(&service.control(), "scale 3"), "ok");
        eventually("the new one serves too", || workers(&ask(address, 64)).contains(&2));
        // A socket that nobody accepts on would get a part of the connections and keep them.
        assert_eq!(control(&service.control(), "scale 1"), "ok");
        eventually("the others have ended", || service.workers().len() == 1);
        assert_eq!(workers(&ask(address, 64)), HashSet::from([0]));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn connections_wait_for_a_worker_that_is_down(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--socket-each"]);
        let answers = ask(address, 64);
        let victim = answers.iter().find(|answer| answer.worker == 0).expect("both serve").pid;
        release_tests::Process(victim).signal(Signal::SIGKILL);
        eventually("it is gone", || !is_alive(victim));
        let answers = ask(address, 64);
        assert_eq!(workers(&answers), HashSet::from([0, 1]));
        assert!(answers.iter().all(|answer| answer.pid != victim));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_killed_worker_loses_only_what_is_in_its_hands(backend: Backend) {
        let (mut service, address) = Running::service(backend, 3, &["--socket-each"]);
        let over = AtomicBool::new(false);
        let (answers, failed, kills) = thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            let (start, mut kills) = (Instant::now(), 0);
            while start.elapsed() < Duration::from_millis(1500) {
                if let Some(worker) = service.workers().first() {
                    worker.signal(Signal::SIGKILL);
                    kills += 1;
                }
                thread::sleep(Duration::from_millis(300));
            }
            over.store(true, Ordering::Relaxed);
            let (answers, failed) = load.join().expect("the load");
            (answers.len(), failed, kills)
        });
        assert!(failed.len() <= kills * CLIENTS, "{kills} kills: {failed:?}");
        assert!(answers > 100, "{answers} answers");
        service.await_ready(3);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_reload_keeps_the_sockets(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--socket-each"]);
        let over = AtomicBool::new(false);
        let (answers, failed) = thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            let reloaded = control(&service.control(), "reload");
            over.store(true, Ordering::Relaxed);
            assert_eq!(reloaded, "ok");
            load.join().expect("the load")
        });
        assert!(failed.is_empty(), "{failed:?}");
        assert!(!answers.is_empty());
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn an_address_in_use_is_a_failure_of_the_start(backend: Backend) {
        let address = free_port();
        let _holder = TcpListener::bind(address).expect("a listener");
        for options in [&[][..], &["--socket-each"]] {
            for background in [&[][..], &["--background"]] {
                let service = Program::new(backend, "service").args(options).args(background);
                let (code, log) = service.listen(address, 2).run();
                assert_eq!(code, 1, "{log}");
                let reason = format!(
                    "worker group `http` cannot listen on {address} (listener `http`); another \
                     program has the address: stop that one, or take another address: cannot bind \
                     {address}: Address already in use"
                );
                let last = log.lines().last().unwrap_or_default();
                assert!(last.contains(&reason), "{log}");
            }
        }
    }

    fn a_shared_port_is_not_shared_with_another_master(backend: Backend) {
        let (mut service, address) = Running::service(backend, 1, &["--socket-each"]);
        let other = Program::new(backend, "service").args(["--socket-each"]).listen(address, 1);
        let (code, log) = other.run();
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("another program has the address"), "{log}");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_port_of_root_names_the_way_out(backend: Backend) {
        if !is_root("becoming nobody, who may not have port 80") {
            return;
        }
        let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let service = Program::under(&nobody, backend, "service").args(["--listen", "127.0.0.1:80"]);
        let (code, log) = service.run();
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("ports below 1024 are for root"), "{log}");
    }

    fn the_log_names_the_port_that_the_system_chose(backend: Backend) {
        for options in [&[][..], &["--socket-each"]] {
            let service = Program::new(backend, "service").args(options);
            let mut service = service.listen(([127, 0, 0, 1], 0).into(), 2).start();
            service.await_ready(2);
            let log = service.stderr();
            let line = log.lines().find(|line| line.contains("listening")).expect("a line");
            let address = line.split_whitespace().find_map(|word| word.strip_prefix("address="));
            let address = address.expect("an address").parse().expect("with a port");
            assert_eq!(ask(address, 8).len(), 8);
            assert_eq!(service.stop(), 0, "{}", service.stderr());
        }
    }

    fn a_socket_file_is_there_as_long_as_the_master(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").args(["--listen", "local"]).start();
        probe.await_ready(1);
        let path = probe.path("local");
        let _waits = UnixStream::connect(&path).expect("it listens");
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        assert!(!path.exists());
    }

    fn who_is_scaled_away_loses_nothing(backend: Backend) {
        let (mut service, address) = Running::service(backend, 4, &["--socket-each"]);
        let over = AtomicBool::new(false);
        let (answers, failed) = thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            for size in [1, 4, 2, 3, 0, 2, 0, 4] {
                assert_eq!(control(&service.control(), &format!("scale {size}")), "ok");
            }
            over.store(true, Ordering::Relaxed);
            load.join().expect("the load")
        });
        assert!(failed.is_empty(), "{failed:?}; {}", service.stderr());
        assert!(answers.len() > 100, "{} answers", answers.len());
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn the_address_is_the_group_s_also_without_workers(backend: Backend) {
        let (mut service, address) = Running::service(backend, 2, &["--socket-each"]);
        assert_eq!(control(&service.control(), "scale 0"), "ok");
        TcpListener::bind(address).expect_err("it is in use");
        assert_eq!(control(&service.control(), "upgrade"), "ok", "{}", service.stderr());
        TcpListener::bind(address).expect_err("it is in use");
        thread::scope(|scope| {
            let asked: Vec<_> = (0..16).map(|_| scope.spawn(|| http_get(address))).collect();
            assert_eq!(control(&service.control(), "scale 2"), "ok", "{}", service.stderr());
            assert!(asked.into_iter().all(|asked| asked.join().is_ok()));
        });
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn connections_do_not_gather_small_writes(backend: Backend) {
        if !is_root("taking descriptors of other processes") {
            return;
        }
        for options in [&[][..], &["--socket-each"]] {
            let (mut service, address) = Running::service(backend, 1, options);
            does_not_gather(&service, address);
            assert_eq!(service.stop(), 0, "{}", service.stderr());
        }
    }

    fn one_that_somebody_shuts_down_listens_again(backend: Backend) {
        if !is_root("taking descriptors of other processes") {
            return;
        }
        for options in [&[][..], &["--socket-each"]] {
            let (mut service, address) = Running::service(backend, 2, options);
            for round in 1..4 {
                shut_listeners_down(service.workers()[0]);
                eventually("it listens again", || {
                    service.stderr().matches("it listens again").count() >= round
                });
                eventually("it serves", || try_http_get(address).is_ok());
                service.await_ready(2);
            }
            assert_eq!(control(&service.control(), "reload"), "ok", "{}", service.stderr());
            assert_eq!(ask(address, 16).len(), 16);
            assert_eq!(service.stop(), 0, "{}", service.stderr());
        }
    }

    fn a_unix_listener_that_somebody_shuts_down_is_opened_again(backend: Backend) {
        if !is_root("taking descriptors of other processes") {
            return;
        }
        let mut probe = Program::probe(backend, "serve").args(["--listen", "local"]).start();
        probe.await_ready(1);
        let path = probe.path("local");
        shut_listeners_down(probe.workers()[0]);
        eventually("it listens", || UnixStream::connect(&path).is_ok());
        assert!(probe.stderr().contains("another one is opened"), "{}", probe.stderr());
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
        assert!(!path.exists());
    }
}
