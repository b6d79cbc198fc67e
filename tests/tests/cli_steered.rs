//! `release run --listen 'tcp://...?each'`: new connections are kept from a process that is about to be
//! told to stop.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Answer, HttpClient, Process, Program, Running, control, eventually, free_port, http_get,
    is_root, load,
};

/// Workers that die of the signal to stop, whatever they have in hand.
fn brutal(workers: usize) -> (Running, SocketAddr) {
    let address = free_port();
    let (uri, count) = (format!("tcp://{address}?each"), workers.to_string());
    let options = ["--listen", &uri, "--workers", &count, "--ready", "ack"];
    let manager = Program::manager(&options).any_worker("ack", "WINCH").start();
    manager.await_ready(workers);
    (manager, address)
}

/// So many connections with a request each, and none of the answers yet.
fn ask(address: SocketAddr, count: usize) -> Vec<HttpClient> {
    let one = |_| {
        let mut client = HttpClient::connect(address).expect("a connection");
        client.send(b"GET / HTTP/1.1\r\nHost: test\r\n\r\n").expect("a request");
        client
    };
    (0..count).map(one).collect()
}

fn hear(clients: Vec<HttpClient>) -> Vec<Answer> {
    clients.into_iter().map(|mut client| client.receive().expect("an answer")).collect()
}

fn workers(answers: &[Answer]) -> HashSet<u32> {
    answers.iter().map(|answer| answer.worker).collect()
}

/// The process of a worker, from an answer of its own.
fn process_of(worker: u32, address: SocketAddr) -> Process {
    let mut found = None;
    eventually("it answers", || {
        let answer = http_get(address);
        found = (answer.worker == worker).then_some(Process(answer.pid));
        found.is_some()
    });
    found.expect("its process")
}

fn state_of(manager: &Running, pid: i32) -> String {
    let told = control(&manager.control(), "status");
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let workers = told["workers"].as_array().expect("workers").clone();
    let worker = workers.into_iter().find(|worker| worker["pid"] == pid);
    worker.map_or_else(String::new, |worker| worker["state"].as_str().unwrap_or("").to_owned())
}

#[test]
fn those_who_die_of_the_signal_to_stop_lose_nothing() {
    for workers in [1, 2] {
        let (mut manager, address) = brutal(workers);
        manager.reload_under_load(address, 5);
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
}

#[test]
fn where_the_kernel_has_no_room_for_the_program_the_service_runs_without_it() {
    if !is_root("a network namespace with limits of its own") {
        return;
    }
    let limits = "echo 16 > /proc/sys/net/core/optmem_max && exec \"$0\" \"$@\"";
    let options = ["--listen", "tcp://127.0.0.1:80?each", "--workers", "2", "--ready", "ack"];
    let mut manager = Program::release_under(&["unshare", "--net", "sh", "-c", limits])
        .args(["run", "--control", "control"])
        .args(options)
        .args(["--"])
        .any_worker("ack", "TERM")
        .start();
    manager.await_ready(2);
    let warning = "new connections cannot be kept from a worker that stops";
    assert!(manager.stderr().contains(warning), "{}", manager.stderr());
    assert_eq!(control(&manager.control(), "reload"), "ok");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn who_is_scaled_away_gets_no_new_connection_and_finishes() {
    let (mut manager, address) = brutal(2);
    assert_eq!(workers(&hear(ask(address, 64))), HashSet::from([0, 1]));
    let leaver = process_of(1, address);
    // It accepts none, so the connections that it has wait.
    leaver.signal(Signal::SIGSTOP);
    let early = ask(address, 32);
    thread::scope(|scope| {
        let scaled = scope.spawn(|| control(&manager.control(), "scale 1"));
        eventually("it leaves", || state_of(&manager, leaver.0) == "stopping");
        assert_eq!(workers(&hear(ask(address, 32))), HashSet::from([0]));
        // It is not told to stop before it has served those.
        leaver.signal(Signal::SIGCONT);
        assert_eq!(workers(&hear(early)), HashSet::from([0, 1]));
        assert_eq!(scaled.join().expect("an answer"), "ok");
    });
    assert_eq!(workers(&hear(ask(address, 32))), HashSet::from([0]));
    assert_eq!(control(&manager.control(), "scale 3"), "ok");
    assert_eq!(workers(&hear(ask(address, 128))), HashSet::from([0, 1, 2]));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn what_waits_for_a_process_that_dies_is_served_by_the_next() {
    let (mut manager, address) = brutal(2);
    let victim = process_of(1, address);
    victim.signal(Signal::SIGSTOP);
    let early = ask(address, 32);
    victim.signal(Signal::SIGKILL);
    let answers = hear(early);
    assert_eq!(workers(&answers), HashSet::from([0, 1]));
    assert!(answers.iter().all(|answer| answer.pid != victim.0));
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn an_upgrade_keeps_the_sockets_and_who_has_them() {
    let (mut manager, address) = brutal(2);
    let is_over = AtomicBool::new(false);
    let (answers, failures) = thread::scope(|scope| {
        let loading = scope.spawn(|| load(address, |_| !is_over.load(Ordering::Relaxed)));
        for change in ["reload", "upgrade", "reload", "upgrade"] {
            assert_eq!(control(&manager.control(), change), "ok", "{}", manager.stderr());
        }
        is_over.store(true, Ordering::Relaxed);
        loading.join().expect("the load")
    });
    assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}; {}", manager.stderr());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}
