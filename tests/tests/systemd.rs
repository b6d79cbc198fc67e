//! What a master tells systemd, in whose place the tests listen.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use release_tests::{
    Backend, DEADLINE, Program, Running, control, eventually, is_alive, on_every_backend,
};

struct Systemd(UnixDatagram);

impl Systemd {
    /// Starts a master that is told to talk to it.
    fn start(program: Program) -> (Self, Running) {
        let systemd = Self::at(&program);
        (systemd, Self::told(program))
    }

    /// The same, with no room in the socket.
    fn start_deaf(program: Program) -> (Self, Running) {
        let systemd = Self::at(&program);
        systemd.fill(&program.path("notify"));
        (systemd, Self::told(program))
    }

    fn at(program: &Program) -> Self {
        let socket = UnixDatagram::bind(program.path("notify")).expect("a socket");
        socket.set_read_timeout(Some(DEADLINE)).expect("a time limit");
        Self(socket)
    }

    fn told(program: Program) -> Running {
        let path = program.path("notify");
        let told = program.with(|command| {
            command.env("NOTIFY_SOCKET", path);
        });
        told.start()
    }

    /// Sends it messages until there is no room.
    fn fill(&self, path: &Path) {
        let sender = UnixDatagram::unbound().expect("a socket");
        sender.set_nonblocking(true).expect("set");
        while sender.send_to(b"filled", path).is_ok() {}
    }

    fn hears(&self) -> String {
        let mut bytes = [0; 4096];
        let length = self.0.recv(&mut bytes).expect("a message");
        String::from_utf8(bytes[..length].to_vec()).expect("UTF-8")
    }

    /// Whether the next message comes within this time.
    fn hears_within(&self, time: Duration) -> bool {
        self.0.set_read_timeout(Some(time)).expect("a time limit");
        let came = self.0.recv(&mut [0; 4096]).is_ok();
        self.0.set_read_timeout(Some(DEADLINE)).expect("a time limit");
        came
    }

    /// The next message but for the status, and the last status before it.
    fn hears_and_sees(&self) -> (String, String) {
        let mut seen = String::new();
        loop {
            let heard = self.hears();
            match heard.strip_prefix("STATUS=") {
                Some(status) => status.clone_into(&mut seen),
                None => return (heard, seen),
            }
        }
    }

    #[track_caller]
    fn hears_of_a_change(&self) -> String {
        let begun = self.hears_and_sees().0;
        let time = begun.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
        assert!(time.is_some_and(|time| time.parse::<u64>().is_ok()), "{begun}");
        let (ended, status) = self.hears_and_sees();
        assert_eq!(ended, "READY=1");
        status
    }
}

on_every_backend! {
    fn systemd_hears_of_start_changes_and_stop(backend: Backend) {
        let program = Program::probe(backend, "serve").args(["--workers", "2"]);
        let (systemd, mut master) = Systemd::start(program);
        assert_eq!(systemd.hears(), format!("MAINPID={}", master.pid()));
        assert_eq!(systemd.hears(), "STATUS=2 of 2 workers ready, generation 1");
        assert_eq!(systemd.hears(), "READY=1");

        master.signal(Signal::SIGHUP);
        assert_eq!(systemd.hears_of_a_change(), "2 of 2 workers ready, generation 2");
        std::fs::remove_file(master.path("configuration")).expect("it was there");
        let why = control(&master.control(), "reload");
        assert!(why.contains("No such file"), "{why}");
        let status = systemd.hears_of_a_change();
        let start = "2 of 2 workers ready, generation 2; as before, since ";
        assert!(status.starts_with(start) && status.contains("No such file"), "{status}");
        master.configure("second");
        master.tell("exit 3");
        let why = control(&master.control(), "reload");
        assert!(why.contains("exit status 3"), "{why}");
        let status = systemd.hears_of_a_change();
        assert!(status.starts_with(start) && status.contains("exit status 3"), "{status}");

        master.tell("serve");
        assert_eq!(control(&master.control(), "upgrade"), "ok");
        assert!(systemd.hears_of_a_change().starts_with("2 of 2 workers ready, generation "));

        assert_eq!(master.stop(), 0, "{}", master.stderr());
        assert_eq!(systemd.hears_and_sees().0, "STOPPING=1");
        assert_eq!(systemd.hears(), "EXTEND_TIMEOUT_USEC=15000000");
        assert!(!systemd.hears_within(Duration::from_millis(1)));
    }

    fn after_quick_hangups_the_last_configuration_runs(backend: Backend) {
        let (systemd, mut master) = Systemd::start(Program::probe(backend, "serve"));
        assert_eq!(systemd.hears_and_sees().0, format!("MAINPID={}", master.pid()));
        assert_eq!(systemd.hears_and_sees().0, "READY=1");
        let mut heard = Vec::new();
        // Some wait for the one before, some join one that waits, some come when one has just ended.
        for (number, until) in ["", "", "RELOADING", "", "", "READY", "RELOADING", "", "READY", ""]
            .into_iter()
            .enumerate()
        {
            master.configure(&format!("number {number}"));
            master.signal(Signal::SIGHUP);
            while !until.is_empty() {
                heard.push(systemd.hears_and_sees().0);
                if heard.last().is_some_and(|last| last.starts_with(until)) {
                    break;
                }
            }
        }
        // A master that ends waits for no room in a socket, which has it for ten messages.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while heard.last().is_none_or(|last| last != "STOPPING=1") {
                    heard.push(systemd.hears_and_sees().0);
                }
            });
            eventually("the last configuration runs", || {
                let log = master.stderr();
                let last = log.lines().rfind(|line| line.contains("begins"));
                last.is_some_and(|line| line.contains("number 9"))
            });
            // It waits for what is under way.
            assert_eq!(control(&master.control(), "reload"), "ok");
            assert_eq!(master.stop(), 0, "{}", master.stderr());
        });
        assert!(heard.len() > 6 && !heard.len().is_multiple_of(2), "{heard:?}");
        for change in heard.chunks_exact(2) {
            let [begun, ended] = change else { unreachable!() };
            assert!(begun.starts_with("RELOADING=1\n") && ended == "READY=1", "{heard:?}");
        }
    }

    fn one_that_does_not_read_holds_nothing_up_and_hears_the_latest(backend: Backend) {
        let (systemd, mut master) = Systemd::start_deaf(Program::probe(backend, "serve").with(|command| {
            command.env("WATCHDOG_USEC", "100000");
        }));
        master.await_ready(1);
        for number in 0..3 {
            master.configure(&format!("number {number}"));
            assert_eq!(control(&master.control(), "reload"), "ok");
        }
        let mut heard = Vec::new();
        while heard.iter().filter(|message| *message == "READY=1").count() < 2 {
            match systemd.hears() {
                message if message == "filled" || message == "WATCHDOG=1" => {}
                message => heard.push(message),
            }
        }
        heard.retain(|message| !message.starts_with("STATUS="));
        assert_eq!(heard[..2], [format!("MAINPID={}", master.pid()), "READY=1".to_owned()]);
        assert!(heard[2].starts_with("RELOADING=1\nMONOTONIC_USEC="), "{heard:?}");
        assert_eq!(heard[3..], ["READY=1"]);
        systemd.fill(&master.path("notify"));
        assert_eq!(master.stop(), 0, "{}", master.stderr());
    }

    fn systemd_hears_of_a_main_task_that_finishes(backend: Backend) {
        let stays = ["--main", "stays", "--stop-deadline", "2000"];
        let program = Program::probe(backend, "serve").args(stays).with(|command| {
            command.env("WATCHDOG_USEC", "100000");
        });
        let (systemd, mut master) = Systemd::start(program);
        master.await_ready(1);
        master.signal(Signal::SIGTERM);
        eventually("the worker is gone", || master.workers().is_empty());
        eventually("it stops", || systemd.hears() == "STOPPING=1");
        // What was said until now.
        let now = Instant::now();
        while now.elapsed() < Duration::from_millis(200) && systemd.hears_within(Duration::from_millis(1)) {}
        let mut signs = 0;
        while is_alive(master.pid()) {
            signs += u32::from(systemd.hears_within(Duration::from_millis(200)));
        }
        assert!(signs > 3, "{signs} signs of life");
        assert_eq!(master.wait().code(), Some(3), "{}", master.stderr());
    }

    fn the_watchdog_sees_a_group_without_workers(backend: Backend) {
        let program = Program::probe(backend, "serve").with(|command| {
            command.env("WATCHDOG_USEC", "200000");
        });
        let (systemd, mut master) = Systemd::start(program);
        let is_alive = || eventually("a sign of life", || systemd.hears() == "WATCHDOG=1");
        master.await_ready(1);
        for _ in 0..3 {
            is_alive();
        }
        master.tell("exit 3");
        master.workers()[0].signal(Signal::SIGKILL);
        // The master is there all the same, and answers.
        eventually("it is silent", || !systemd.hears_within(Duration::from_secs(1)));
        eventually("it waits", || control(&master.control(), "status") == "\"waiting\" ");
        master.tell("serve");
        is_alive();
        master.signal(Signal::SIGKILL);
        master.wait();
    }
}

#[test]
fn a_socket_that_is_none_is_refused() {
    let program = Program::probe(Backend::Tokio, "serve").with(|command| {
        command.env("NOTIFY_SOCKET", "vsock:2:1234");
    });
    let (code, said) = program.run();
    assert_eq!(code, 1, "{said}");
    assert!(
        said.contains("NOTIFY_SOCKET is `vsock:2:1234`, which is not /PATH or @NAME"),
        "{said}"
    );
}

#[test]
fn a_watchdog_that_always_wants_signs_is_no_storm() {
    let program = Program::release()
        .args(["run", "--respawn", "never", "--ready", "0.1", "--", "sleep", "0.5"])
        .with(|command| {
            command.envs([("NOTIFY_SOCKET", "@nobody"), ("WATCHDOG_USEC", "1")]);
        });
    let (code, log) = program.run();
    assert_eq!((code, log.matches("no sign of life").count()), (0, 1), "{log}");
}
