//! The examples that no other test runs: the prefork samples and the port broker.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;

use release_core::testing::{Exited, Load, Program, Running};
use release_tests::{
    Backend, CLIENTS, DEADLINE, Process, eventually, free_port, http_client, http_get, is_root,
    on_every_backend, open_to_all,
};
use tempfile::TempDir;

/// The workers, by what `ps` shows after `PROGRAM: worker `.
fn named(running: &Running) -> BTreeMap<String, Process> {
    // A process that has not come to its exec yet has its master's name.
    let name = |pid: i32| {
        let line = Process(pid).command_line();
        Some((line.split_once(": worker ")?.1.to_owned(), Process(pid)))
    };
    running.processes().into_iter().filter_map(name).collect()
}

#[track_caller]
fn await_workers(running: &Running, names: &[&str]) {
    let is_so = || running.processes().len() == names.len() + 1 && named(running).keys().eq(names);
    running.wait_until(&format!("workers were {names:?}"), is_so).expect("workers");
}

#[track_caller]
fn await_line(running: &Running, line: &str) {
    running.wait_for_line(line).expect("a line");
}

#[track_caller]
fn stop(mut running: Running) {
    running.stop().expect("it stops in order");
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
    _directory: TempDir,
    program: PathBuf,
    running: Running,
}

impl Broker {
    fn start(backend: Backend, address: SocketAddr, allowed: &[(u32, u16)]) -> Self {
        let (directory, program) = open_to_all(backend, "port-broker");
        let allowed = allowed.iter().map(|(uid, port)| format!("--allow={uid}:{port}"));
        let running = Program::new(&program)
            .args(["serve", "ports"])
            .args([format!("--address={}", address.ip())])
            .args(allowed)
            .ready_line("ports are given out")
            .start()
            .expect("it starts");
        Self { _directory: directory, program, running }
    }

    fn socket(&self) -> PathBuf {
        self.running.path("ports")
    }

    /// Its client, under another user if the launcher says so.
    fn greet(&self, launcher: &[String], port: u16) -> Program {
        let mut command = Command::new("env");
        command.args(launcher).arg(&self.program).arg("greet").arg(self.socket());
        Program::from(command).args([port.to_string()])
    }

    fn greeter(&self, launcher: &[String], address: SocketAddr) -> Running {
        let greet = self.greet(launcher, address.port());
        greet.ready_line(format!("listening on {address}")).start().expect("it has its port")
    }

    #[track_caller]
    fn refusal(&self, launcher: &[String], port: u16) -> Exited {
        let ended = self.greet(launcher, port).run().expect("it ends");
        assert_eq!(ended.code(), Some(1), "{}", ended.log());
        ended
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
    let ended = holder.wait().expect("it ends");
    assert_eq!(ended.code(), Some(0), "{}", ended.log());
}

on_every_backend! {
    fn every_hang_up_starts_another_worker(backend: Backend) {
        let simple = Program::new(backend.program("prefork-simple"));
        let running = simple.ready_line("send SIGHUP to").start().expect("it starts");
        await_line(&running, &format!("send SIGHUP to {} to start another", running.pid()));
        await_workers(&running, &["greeter id=0"]);
        running.signal("HUP").expect("it runs");
        await_workers(&running, &["greeter id=0", "greeter id=1"]);
        running.signal("HUP").expect("it runs");
        await_workers(&running, &["greeter id=0", "greeter id=1", "greeter id=2"]);
        for id in 0..3 {
            await_line(&running, &format!("Hello. I'm worker {id}."));
        }
        stop(running);
    }

    fn the_workers_are_what_the_file_says(backend: Backend) {
        let text = "[greeter] workers = 2 nice = 19 text = \"hello\" [clock] workers = 1 every = 10ms";
        let running = Program::new(backend.program("prefork-various"))
            .file("workers", text)
            .args(["workers"])
            .ready_line("worker 2 ticks")
            .start()
            .expect("it starts");
        let reload = |text: &str| {
            running.write("workers", text).expect("the file");
            running.signal("HUP").expect("it runs");
        };
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
        reload("[greeter] workers = 3 text = \"good evening\"");
        let evening = [0, 1, 3].map(|id| format!("greeter id={id} --text=good evening"));
        await_workers(&running, &evening.each_ref().map(String::as_str));
        await_line(&running, "worker 3 says good evening");
        let before = named(&running);

        // A file that is wrong changes nothing, and the reason is told.
        reload("[greeter] workers = 65\n[clock] wrokers = 1");
        await_line(&running, "workers:1:21: `workers`: expected an integer from 0 to 64, found 65");
        await_line(&running, "unknown key `wrokers`");
        assert_eq!(named(&running), before);

        // Neither does one whose workers cannot be started: who is new now is as the others are.
        reload("[greeter] workers = 9 text = \"\\000\"");
        await_line(&running, "the reload failed and is rolled back");
        assert_eq!(named(&running), before);
        running.signal("TTIN").expect("it runs");
        let evening = [0, 1, 3, 4].map(|id| format!("greeter id={id} --text=good evening"));
        await_workers(&running, &evening.each_ref().map(String::as_str));

        // Nobody is a desired set, too.
        reload("");
        await_workers(&running, &[]);
        reload("[clock] workers = 1");
        let is_back = || named(&running).keys().any(|name| name.starts_with("clock id="));
        running.wait_until("the clock was back", is_back).expect("the clock");
        stop(running);
    }

    fn http_is_answered_on_a_shared_socket(backend: Backend) {
        let running = Program::new(backend.program("prefork-http"))
            .args(["-p", "0", "-w", "3"])
            .ready_line("all workers are ready")
            .start()
            .expect("it starts");
        let address = running.address().expect("an address");
        let names = ["http id=0", "http id=1", "http id=2"];
        await_workers(&running, &names);

        // The one that has answered is killed, and comes back as itself.
        let answer = http_get(address);
        let name = format!("http id={}", answer.worker);
        assert_eq!(named(&running)[&name], Process(answer.pid));
        Process(answer.pid).signal(nix::sys::signal::Signal::SIGKILL);
        let is_back = || named(&running).get(&name).is_some_and(|it| *it != Process(answer.pid));
        running.wait_until("it came back with its identity", is_back).expect("a worker");
        await_workers(&running, &names);

        assert!(ask(address, "POST / HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 405 "));
        // A head that never ends is no answer's worth.
        assert_eq!(ask(address, &"x".repeat(8 * 1024)), "");

        let old = named(&running);
        let load = Load::start(CLIENTS, |number| http_client(number, address));
        running.signal("HUP").expect("it runs");
        let are_new = || {
            let now = named(&running);
            // An old process may still be there beside its successor of the same name.
            running.processes().len() == 4 && old.iter().all(|(name, old)| now.get(name) != Some(old))
        };
        running.wait_until("all workers were new", are_new).expect("new workers");
        load.wait_for(CLIENTS).expect("requests");
        load.stop().lost_nothing().expect("no loss");
        let answered = Process(http_get(address).pid);
        assert!(named(&running).values().any(|worker| *worker == answered));
        stop(running);
    }

    fn a_port_is_had_from_the_broker(backend: Backend) {
        let address = free_port();
        let (uid, port) = (nix::unistd::getuid().as_raw(), address.port());
        let broker = Broker::start(backend, address, &[(uid, port)]);
        let holder = broker.greeter(&[], address);
        let refusal = broker.refusal(&[], port);
        let why = refusal.log();
        assert!(why.contains(&address.to_string()) && why.contains("in use"), "{why}");
        greeted(address, holder);
        // The port is free when its holder has gone.
        greeted(address, broker.greeter(&[], address));

        let refusal = broker.refusal(&[], port + 1);
        let why = refusal.log();
        assert!(why.contains(&format!("user {uid} may not have port {}", port + 1)), "{why}");
        stop(broker.running);
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
            let refusal = broker.refusal(&become_user(65534), address.port());
            let why = refusal.log();
            assert!(why.contains("user 65534 may not have port"), "{why}");
        }
        drop(idle);
        eventually("they make room", || {
            let ended = broker.greet(&[], address.port()).run().expect("it ends");
            ended.log().contains("may not have port")
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
        let broker = Broker::start(backend, address, &[(nobody, port), (stranger, 799)]);

        for (uid, port) in [(stranger, port), (nobody, 799), (0, port)] {
            let refusal = broker.refusal(&become_user(uid), port);
            let why = refusal.log();
            assert!(why.contains(&format!("user {uid} may not have port {port}")), "{why}");
        }

        let holder = broker.greeter(&become_user(nobody), address);
        let process = Process(holder.pid());
        assert_eq!(process.numbers("Uid"), [nobody; 4]);
        assert_eq!(process.status("CapEff").as_deref(), Some("0000000000000000"));
        greeted(address, holder);
        stop(broker.running);
    }
}
