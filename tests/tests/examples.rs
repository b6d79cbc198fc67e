//! The examples that no other test runs: the prefork samples and the port broker.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use release_tests::{
    Backend, DEADLINE, Process, Program, Running, eventually, free_port, http_get, is_alive,
    is_root, load, on_every_backend, open_to_all,
};
use tempfile::TempDir;

/// The workers, by what `ps` shows after `PROGRAM: worker `.
fn named(running: &Running) -> BTreeMap<String, Process> {
    // A process that has not come to its exec yet has its master's name.
    let name = |worker: Process| {
        let line = worker.command_line();
        Some((line.split_once(": worker ")?.1.to_owned(), worker))
    };
    running.workers().into_iter().filter_map(name).collect()
}

#[track_caller]
fn await_workers(running: &Running, names: &[&str]) {
    let what = format!("workers are {names:?}; log: {}", running.stderr());
    eventually(&what, || running.workers().len() == names.len() && named(running).keys().eq(names));
}

#[track_caller]
fn await_line(running: &Running, line: &str) {
    eventually(&format!("`{line}` in the log"), || {
        // In this order: what it wrote before its end is seen.
        let (lives, log) = (is_alive(running.pid()), running.stderr());
        assert!(lives || log.contains(line), "it ended: {log}");
        log.contains(line)
    });
}

/// All that a client gets for what it sends.
fn ask(address: SocketAddr, request: &str) -> String {
    let mut client = TcpStream::connect_timeout(&address, DEADLINE).expect("a connection");
    client.set_read_timeout(Some(DEADLINE)).expect("a time limit");
    client.write_all(request.as_bytes()).expect("the request is sent");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("an answer");
    answer
}

/// The port broker, where every user finds it.
struct Broker {
    directory: TempDir,
    program: PathBuf,
    running: Running,
}

impl Broker {
    fn start(backend: Backend, address: SocketAddr, allowed: &[(u32, u16)]) -> Self {
        let (directory, program) = open_to_all(backend, "port-broker");
        let allowed = allowed.iter().map(|(uid, port)| format!("--allow={uid}:{port}"));
        let running = Program::command(&["env"], &program)
            .args([Path::new("serve"), &directory.path().join("ports")])
            .args([format!("--address={}", address.ip())])
            .args(allowed)
            .start();
        let broker = Self { directory, program, running };
        await_line(&broker.running, "ports are given out");
        broker
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("ports")
    }

    /// Its client, under another user if the launcher says so.
    fn greet(&self, launcher: &[String], port: u16) -> Program {
        let launcher: Vec<_> =
            ["env"].into_iter().chain(launcher.iter().map(String::as_str)).collect();
        Program::command(&launcher, &self.program)
            .args([Path::new("greet"), &self.socket()])
            .args([port.to_string()])
    }

    #[track_caller]
    fn refusal(&self, launcher: &[String], port: u16) -> String {
        let (code, why) = self.greet(launcher, port).run();
        assert_eq!(code, 1, "{why}");
        why
    }
}

fn become_user(uid: u32) -> [String; 4] {
    let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
    ["setpriv".to_owned(), user, group, "--clear-groups".to_owned()]
}

/// The one who has the port greets once, and ends.
#[track_caller]
fn greeted(address: SocketAddr, mut holder: Running) {
    assert_eq!(ask(address, ""), format!("hello from process {}\n", holder.pid()));
    assert!(holder.wait().success(), "{}", holder.stderr());
}

on_every_backend! {
    fn every_hang_up_starts_another_worker(backend: Backend) {
        let mut running = Program::new(backend, "prefork-simple").start();
        await_line(&running, &format!("send SIGHUP to {} to start another", running.pid()));
        await_workers(&running, &["greeter id=0"]);
        running.signal(Signal::SIGHUP);
        await_workers(&running, &["greeter id=0", "greeter id=1"]);
        running.signal(Signal::SIGHUP);
        await_workers(&running, &["greeter id=0", "greeter id=1", "greeter id=2"]);
        for id in 0..3 {
            await_line(&running, &format!("Hello. I'm worker {id}."));
        }
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn the_workers_are_what_the_file_says(backend: Backend) {
        let program = Program::new(backend, "prefork-various").args(["workers"]);
        let file = program.path("workers");
        let write = |text: &str| std::fs::write(&file, text).expect("the file");
        write("[greeter] workers = 2 nice = 19 text = \"hello\" [clock] workers = 1 every = 10ms");
        let mut running = program.start();
        await_workers(
            &running,
            &["clock id=2", "greeter id=0 --text=hello", "greeter id=1 --text=hello"],
        );
        await_line(&running, "worker 1 says hello");
        await_line(&running, "worker 2 ticks");
        let workers = named(&running);
        let (clock, greeter) = (workers["clock id=2"], workers["greeter id=1 --text=hello"]);
        assert_eq!(greeter.stat()[15], 19, "its priority");
        assert!(clock.environment().contains(&"TZ=UTC".to_owned()));
        assert!(greeter.environment().contains(&"WORKER=1".to_owned()));

        // Changed ones are replaced, missing ones started, surplus ones stopped.
        write("[greeter] workers = 3 text = \"good evening\"");
        running.signal(Signal::SIGHUP);
        let evening = [0, 1, 3].map(|id| format!("greeter id={id} --text=good evening"));
        await_workers(&running, &evening.each_ref().map(String::as_str));
        await_line(&running, "worker 3 says good evening");
        let before = named(&running);

        // A file that is wrong changes nothing, and the reason is told.
        write("[greeter] workers = 65\n[clock] wrokers = 1");
        running.signal(Signal::SIGHUP);
        await_line(&running, "workers:1:21: `workers`: expected an integer from 0 to 64, found 65");
        await_line(&running, "unknown key `wrokers`");
        assert_eq!(named(&running), before);

        // Neither does one whose workers cannot be started: who is new now is as the others are.
        write("[greeter] workers = 9 text = \"\\000\"");
        running.signal(Signal::SIGHUP);
        await_line(&running, "the reload failed and is rolled back");
        assert_eq!(named(&running), before);
        running.signal(Signal::SIGTTIN);
        let evening = [0, 1, 3, 4].map(|id| format!("greeter id={id} --text=good evening"));
        await_workers(&running, &evening.each_ref().map(String::as_str));

        // Nobody is a desired set, too.
        write("");
        running.signal(Signal::SIGHUP);
        await_workers(&running, &[]);
        write("[clock] workers = 1");
        running.signal(Signal::SIGHUP);
        eventually("the clock is back", || {
            named(&running).keys().any(|name| name.starts_with("clock id="))
        });
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn http_is_answered_on_a_shared_socket(backend: Backend) {
        let address = free_port();
        let (ip, port) = (address.ip().to_string(), address.port().to_string());
        let program = Program::new(backend, "prefork-http");
        let mut running = program.args(["-a", &ip, "-p", &port, "-w", "3"]).start();
        let names = ["http id=0", "http id=1", "http id=2"];
        await_workers(&running, &names);
        running.await_http(address);

        // The one that has answered is killed, and comes back as itself.
        let answer = http_get(address);
        let name = format!("http id={}", answer.worker);
        assert_eq!(named(&running)[&name], Process(answer.pid));
        Process(answer.pid).signal(Signal::SIGKILL);
        eventually("it comes back with its identity", || {
            named(&running).get(&name).is_some_and(|worker| *worker != Process(answer.pid))
        });
        await_workers(&running, &names);

        assert!(ask(address, "POST / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 405 "));
        // A head that never ends is no answer's worth.
        assert_eq!(ask(address, &"x".repeat(8 * 1024)), "");

        let old = running.workers();
        running.signal(Signal::SIGHUP);
        let are_new = |now: &[Process]| now.len() == 3 && old.iter().all(|old| !now.contains(old));
        let (answers, failures) = load(address, |_| !are_new(&running.workers()));
        assert!(failures.is_empty() && !answers.is_empty(), "{failures:?}");
        assert!(running.workers().contains(&Process(http_get(address).pid)));
        assert_eq!(running.stop(), 0, "{}", running.stderr());
    }

    fn a_port_is_had_from_the_broker(backend: Backend) {
        let address = free_port();
        let (uid, port) = (nix::unistd::getuid().as_raw(), address.port());
        let mut broker = Broker::start(backend, address, &[(uid, port)]);
        let taken = || {
            let holder = broker.greet(&[], port).start();
            await_line(&holder, &format!("listening on {address}"));
            holder
        };
        let holder = taken();
        let why = broker.refusal(&[], port);
        assert!(why.contains(&address.to_string()) && why.contains("in use"), "{why}");
        greeted(address, holder);
        // The port is free when its holder has gone.
        greeted(address, taken());

        let why = broker.refusal(&[], port + 1);
        assert!(why.contains(&format!("user {uid} may not have port {}", port + 1)), "{why}");
        assert_eq!(broker.running.stop(), 0, "{}", broker.running.stderr());
    }

    fn who_asks_the_broker_much_keeps_nobody_else_out(backend: Backend) {
        let address = free_port();
        let broker = Broker::start(backend, address, &[(0, 1)]);
        let connect = |_| UnixStream::connect(broker.socket()).expect("a connection");
        let idle: Vec<_> = (0..64).map(connect).collect();
        let is_open = |mut client: &UnixStream| {
            client.set_nonblocking(true).expect("a socket");
            !matches!(client.read(&mut [0]), Ok(0))
        };
        eventually("all but a few have to go", || idle.iter().filter(|it| is_open(it)).count() == 8);
        if nix::unistd::geteuid().is_root() {
            let why = broker.refusal(&become_user(65534), address.port());
            assert!(why.contains("user 65534 may not have port"), "{why}");
        }
        drop(idle);
        eventually("they make room", || {
            let (_, why) = broker.greet(&[], address.port()).run();
            why.contains("may not have port")
        });
    }

    fn a_user_has_its_privileged_port_and_no_other(backend: Backend) {
        if !is_root("a port below 1024") {
            return;
        }
        let port = match backend {
            Backend::Tokio => 701,
            Backend::Smol => 702,
            Backend::AsyncStd => 703,
        };
        let address = SocketAddr::new(free_port().ip(), port);
        let (nobody, stranger) = (65534, 65533);
        let mut broker = Broker::start(backend, address, &[(nobody, port), (stranger, 799)]);

        for (uid, port) in [(stranger, port), (nobody, 799), (0, port)] {
            let why = broker.refusal(&become_user(uid), port);
            assert!(why.contains(&format!("user {uid} may not have port {port}")), "{why}");
        }

        let holder = broker.greet(&become_user(nobody), port).start();
        await_line(&holder, &format!("listening on {address}"));
        assert_eq!(holder.process().numbers("Uid"), [nobody; 4]);
        assert_eq!(holder.process().status("CapEff").as_deref(), Some("0000000000000000"));
        greeted(address, holder);
        assert_eq!(broker.running.stop(), 0, "{}", broker.running.stderr());
    }
}
