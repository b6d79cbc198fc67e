//! The units of `examples/deploy` as they stand, under a systemd of their own.

use std::fs;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use nix::sys::signal::Signal;
use release_tests::{
    CLIENTS, DEADLINE, Process, Program, Running, eventually, has, http_get_text, is_root,
};

const ADDRESS: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);

/// A control group with those that systemd makes in it.
struct Group(PathBuf);

impl Group {
    fn new() -> Option<Self> {
        let root = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
        let root = root.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
        let group = root.join(format!("release-test-{}", std::process::id()));
        fs::create_dir(&group).is_ok().then_some(Self(group))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while self.0.exists() && Instant::now() < deadline {
            let remove = ["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"];
            let _ = Command::new("find").arg(&self.0).args(remove).output();
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A container in which systemd is the first process.
struct Container {
    init: Process,
    // In the order in which they go.
    _unshare: Running,
    _group: Group,
}

impl Container {
    /// Says so when a test is skipped because there can be none.
    fn start(test: &str) -> Option<Self> {
        let has_all = has("/lib/systemd/systemd", "--version")
            && has("systemctl", "--version")
            && has("nsenter", "--version")
            && has("ip", "-V");
        if !is_root(test) || !has_all {
            return None;
        }
        let unshare = [
            "--mount", "--pid", "--fork", "--net", "--cgroup", "mount", "-t", "tmpfs", "none",
            "/mnt",
        ];
        let may = Command::new("unshare").args(unshare).output();
        let group = Group::new().filter(|_| may.is_ok_and(|output| output.status.success()));
        let Some(group) = group else {
            eprintln!("skipped: {test} needs to make a container");
            return None;
        };
        let script = release_tests::source("tests/programs/systemd.sh");
        let unshare = Program::command(&["sh", &script.to_string_lossy()], &group.0)
            .args([Program::release_path(), release_tests::source("examples/deploy")])
            .start();
        eventually(&format!("systemd runs: {}", unshare.stderr()), || {
            let init = unshare.workers().first().copied();
            init.is_some_and(|init| init.path("root/run/systemd/private").exists())
        });
        let init = unshare.workers()[0];
        Some(Self { init, _unshare: unshare, _group: group })
    }

    fn run(&self, command: &[&str]) -> Output {
        let pid = self.init.0.to_string();
        let nsenter = ["--all", "--target", &pid];
        Command::new("nsenter").args(nsenter).args(command).output().expect("nsenter")
    }

    #[track_caller]
    fn systemctl(&self, arguments: &[&str]) -> String {
        let output = self.run(&[&["systemctl"], arguments].concat());
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// In the network of the container; threads of this one are in it too.
    fn connected<T: Send>(&self, ask: impl FnOnce() -> T + Send) -> T {
        let network = fs::File::open(self.init.path("ns/net")).expect("a network");
        let inside = move || {
            setns(network, CloneFlags::CLONE_NEWNET).expect("the network is entered");
            ask()
        };
        thread::scope(|scope| scope.spawn(inside).join().expect("an answer"))
    }

    /// Clients that ask without a pause while something happens, each time on a new connection.
    fn under_load(&self, happens: impl FnOnce() + Send) {
        let is_over = AtomicBool::new(false);
        let ask = || {
            let (mut answered, mut failures) = (0, Vec::new());
            while !is_over.load(Ordering::Relaxed) {
                match http_get_text(ADDRESS) {
                    Ok(text) if text.starts_with("process ") => answered += 1,
                    other => failures.push(other),
                }
            }
            (answered, failures)
        };
        let load = || {
            thread::scope(|scope| {
                let clients = [(); CLIENTS].map(|()| scope.spawn(ask));
                clients.map(|client| client.join().expect("a client"))
            })
        };
        thread::scope(|scope| {
            let loading = scope.spawn(|| self.connected(load));
            let happened = catch_unwind(AssertUnwindSafe(happens));
            is_over.store(true, Ordering::Relaxed);
            for (answered, failures) in loading.join().expect("the load") {
                assert!(answered > 0 && failures.is_empty(), "{answered} answered; {failures:?}");
            }
            happened.unwrap_or_else(|panic| resume_unwind(panic));
        });
    }
}

#[test]
fn the_units_serve_reload_and_restart_without_losing_a_request() {
    let test = "the_units_serve_reload_and_restart_without_losing_a_request";
    let Some(container) = Container::start(test) else { return };
    let show = |what: &str| container.systemctl(&["show", "--value", "--property", what, "web"]);
    container.systemctl(&["start", "web.socket"]);
    assert_eq!(show("ActiveState"), "inactive");
    let get = || container.connected(|| http_get_text(ADDRESS)).unwrap_or_default();
    assert!(get().starts_with("process "), "the socket starts the service");
    // One worker answers; a reload that comes before the others do is to systemd part of the start.
    container.systemctl(&["start", "web"]);
    let main = show("MainPID");
    container.under_load(|| {
        for _ in 0..5 {
            container.systemctl(&["reload", "web"]);
        }
        assert_eq!(show("MainPID"), main);
        assert!(show("StatusText").ends_with("generation 6"), "{}", show("StatusText"));
        // Connections wait in the socket meanwhile.
        container.systemctl(&["restart", "web"]);
        assert_ne!(show("MainPID"), main);
    });
    let before = show("MainPID");
    container.run(&["sh", "-c", "echo 'raise SystemExit(3)' > /usr/local/lib/web/web.py"]);
    assert!(!container.run(&["systemctl", "reload", "web"]).status.success());
    assert!(get().starts_with("process ") && show("MainPID") == before);
    container.systemctl(&["stop", "web.socket", "web.service"]);
    assert_eq!(
        (show("ActiveState"), show("Result")),
        ("inactive".to_owned(), "success".to_owned())
    );
    container.init.signal(Signal::SIGKILL);
}
