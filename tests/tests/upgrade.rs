//! A new version of the program takes the place of the running one, and nothing is lost.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use release_tests::{
    Backend, ControlClient, Daemon, Footprint, Installed, Process, Program, Running, can_inject,
    control, eventually, free_port, http_get, is_root, load, on_every_backend, zombies,
};
use serde_json::Value;

fn status(control_socket: &Path) -> Value {
    serde_json::from_str(&control(control_socket, "status")).expect("JSON")
}

/// The generation that serves, when all workers are of it and ready.
fn generation(control_socket: &Path) -> Option<u64> {
    let status = status(control_socket);
    let workers = status["workers"].as_array().expect("workers");
    let is_present =
        |worker: &Value| worker["generation"] == status["generation"] && worker["state"] == "ready";
    workers.iter().all(is_present).then(|| status["generation"].as_u64().expect("a number"))
}

fn upgrade(service: &Running) -> String {
    control(&service.control(), "upgrade")
}

fn install(backend: Backend) -> Installed {
    Installed::new(backend, "service")
}

on_every_backend! {
    fn twenty_upgrades_under_load_lose_nothing(backend: Backend) {
        let installed = install(backend);
        let (mut service, address) =
            installed.program().args(["--lock-file", "lock"]).serve(2);
        let (lock, socket) = (service.path("lock"), service.control());
        let inodes = || [&lock, &socket].map(|path| fs::metadata(path).expect("a file").ino());
        let (first, locked) = (inodes(), fs::read(&lock).expect("a number"));
        let mut kept = ControlClient::connect(&socket).expect("a connection");
        assert_eq!(kept.ask("ping").expect("an answer"), "pong");
        assert_eq!(upgrade(&service), "ok");
        eventually("the old ones are gone", || service.workers().len() == 2);
        let before = Footprint::of(service.process());
        let over = AtomicBool::new(false);
        let (answers, failures) = thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            let outcomes: Vec<_> = (0..20)
                .map(|_| {
                    installed.install(&backend.program("service"));
                    upgrade(&service)
                })
                .collect();
            over.store(true, Ordering::Relaxed);
            assert!(outcomes.iter().all(|outcome| outcome == "ok"), "{outcomes:?}");
            load.join().expect("the load")
        });
        assert!(failures.is_empty(), "{failures:?} of {}; {}", answers.len(), service.stderr());
        let numbers: HashSet<_> = answers.iter().map(|answer| answer.seq).collect();
        assert_eq!(numbers.len(), answers.len(), "every number once");
        let processes: HashSet<_> = answers.iter().map(|answer| answer.pid).collect();
        assert!(processes.len() > 20, "{} processes have answered", processes.len());
        assert_eq!(generation(&socket), Some(22));
        assert_eq!(status(&socket)["master"], service.pid());
        assert!(installed.is_run_by(service.process()));
        eventually("the old ones are gone", || service.workers().len() == 2);
        assert!(service.workers().into_iter().all(|worker| installed.is_run_by(worker)));
        eventually("they are reaped", || zombies(service.pid()).is_empty());
        assert_eq!((inodes(), fs::read(&lock).expect("a number")), (first, locked));
        let second = Program::new(backend, "service").args(["--lock-file"]).args([&lock]);
        let (status, reason) = second.listen(free_port(), 1).run();
        assert!(status == 1 && reason.contains("already running"), "{reason}");
        assert_eq!(kept.ask("ping").expect("an answer"), "pong");
        // At the beginning an old worker's may have been open still.
        before.has_no_more_descriptors();
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        assert!(!lock.exists() && !socket.exists());
    }

    fn a_signal_upgrades_a_daemon_in_the_background(backend: Backend) {
        let installed = install(backend);
        let program = installed.program();
        let (lock, socket) = (program.path("lock"), program.path("control"));
        let address = free_port();
        let options = ["--background", "--lock-file", "lock"];
        let mut launcher = program.args(options).listen(address, 2).start();
        assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
        let daemon = Daemon::named_in(&lock);
        let mask = daemon.process().status("Umask");
        for generation in 2..5 {
            installed.install(&backend.program("service"));
            daemon.process().signal(Signal::SIGUSR2);
            eventually("the workers are new", || self::generation(&socket) == Some(generation));
            http_get(address);
            assert!(installed.is_run_by(daemon.process()));
            assert_eq!(daemon.process().link("cwd").as_deref(), Some("/"));
            assert_eq!(daemon.process().status("Umask"), mask);
            let variables = daemon.workers()[0].environment();
            assert!(!variables.iter().any(|it| it.contains("UPGRADE")), "{variables:?}");
        }
        daemon.stop();
        assert!(!lock.exists() && !socket.exists());
    }

    fn an_executable_that_is_replaced_while_it_is_tried_is_not_run(backend: Backend) {
        let installed = install(backend);
        let (mut service, address) = installed.program().serve(1);
        let program = backend.program("service");
        let slow = "touch tried; while [ ! -e go ]; do sleep 0.01; done";
        installed.install_script(&format!("{slow}; exec {} \"$@\"", program.display()));
        let said = thread::scope(|scope| {
            let asking = scope.spawn(|| upgrade(&service));
            eventually("it is tried", || service.path("tried").exists());
            installed.install_script("exit 9");
            fs::write(service.path("go"), "").expect("a file");
            asking.join().expect("an answer")
        });
        assert!(said.contains("was replaced while it was tried: ask again"), "{said}");
        http_get(address);
        installed.install(&program);
        assert_eq!(upgrade(&service), "ok");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn an_answer_is_true_of_the_file_that_was_there_when_it_was_asked_for(backend: Backend) {
        let installed = install(backend);
        let (mut service, _) = installed.program().serve(1);
        let (socket, program) = (service.control(), backend.program("service"));
        let slow = "touch tried; while [ ! -e go ]; do sleep 0.01; done";
        installed.install_script(&format!("{slow}; exec {} \"$@\"", program.display()));
        let said = thread::scope(|scope| {
            let first = scope.spawn(|| control(&socket, "upgrade"));
            eventually("it is tried", || service.path("tried").exists());
            installed.install(&program);
            // It meets the first one, or comes when that has been refused.
            let second = scope.spawn(|| control(&socket, "upgrade"));
            fs::write(service.path("go"), "").expect("a file");
            [first, second].map(|asking| asking.join().expect("an answer"))
        });
        let is_refused = |said: &str| said.contains("was replaced while it was tried: ask again");
        assert!(is_refused(&said[0]), "{said:?}");
        match said[1].as_str() {
            "ok" => assert!(installed.is_run_by(service.process())),
            other => assert!(is_refused(other), "{said:?}"),
        }
        assert_eq!(upgrade(&service), "ok");
        assert!(installed.is_run_by(service.process()));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_new_version_that_cannot_take_over_changes_nothing(backend: Backend) {
        let installed = install(backend);
        let (mut service, address) = installed.program().serve(2);
        let workers = service.workers();
        let path = installed.path().display().to_string();
        let refuse = |reason: &str| {
            let said = upgrade(&service);
            assert!(said.starts_with("error: ") && said.contains(reason), "{said}");
            eventually("nothing of the trial is left", || service.workers() == workers);
            http_get(address);
        };
        installed.install_script("echo 'no such table' >&2; exit 7");
        refuse(&format!("{path} ended (exit status 7)"));
        refuse("it wrote: no such table");
        installed.install_script("kill -9 $$");
        refuse("ended (signal 9 (SIGKILL))");
        installed.install(Path::new("/bin/true"));
        refuse("is it another version of this program?");
        installed.install(Path::new("/etc/passwd"));
        refuse(&format!("cannot start {path}: execve: Exec format error"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("a mode");
        refuse(&format!("cannot start {path}: execve: Permission denied"));
        fs::remove_file(&path).expect("it is there");
        refuse(&format!("cannot examine the executable {path}: No such file"));
        installed.install_script("exec sleep 60");
        refuse("hung: it did not say within 10s");
        installed.install(&backend.program("service"));
        assert_eq!(upgrade(&service), "ok");
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn the_old_workers_go_on_when_the_new_ones_fail(backend: Backend) {
        let installed = Installed::new(backend, "probe");
        let mut probe = installed
            .program()
            .as_master("serve")
            .args(["--workers", "2", "--canary", "300", "--ready-timeout", "5000"])
            .start();
        probe.await_ready(2);
        let old = probe.workers();
        for (behaviour, reason) in [
            ("fail", "worker 0 ended before it was ready: exit status 1"),
            ("panic", "worker 0 ended before it was ready: exit status 101"),
            ("silent", "worker 0 ended before it was ready: killed: not ready within 5s"),
            ("ready-exit 3", "worker 0 ended within its canary time: exit status 3"),
        ] {
            installed.install(&backend.program("probe"));
            probe.tell(behaviour);
            assert_eq!(upgrade(&probe), reason);
            assert_eq!(probe.workers(), old);
            assert!(installed.is_run_by(probe.process()));
        }
        // One of them dies: it comes back as what it was.
        probe.tell("serve");
        old[0].signal(Signal::SIGKILL);
        eventually("it is there again", || {
            let now = probe.workers();
            now.len() == 2 && !now.contains(&old[0]) && control(&probe.control(), "status").matches("ready").count() == 2
        });
        assert!(probe.workers().into_iter().all(|worker| !installed.is_run_by(worker)));
        assert_eq!(upgrade(&probe), "ok");
        eventually("the old ones are gone", || {
            let now = probe.workers();
            now.len() == 2 && now.into_iter().all(|worker| installed.is_run_by(worker))
        });
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_handler_that_does_not_finish_keeps_a_new_version_out(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").start();
        probe.await_ready(1);
        let workers = probe.workers();
        let mut asker = ControlClient::connect(&probe.control()).expect("a connection");
        asker.send(b"hang").expect("a request");
        let reason = "still answering after 5s: 1 requests on a control socket";
        assert_eq!(upgrade(&probe), reason);
        assert_eq!(probe.workers(), workers);
        assert_eq!(control(&probe.control(), "reload"), "ok");
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_group_that_the_new_version_does_not_have_is_stopped(backend: Backend) {
        let mut probe = Program::probe(backend, "serve").args(["--workers", "2"]).start();
        probe.await_ready(2);
        let old = probe.workers();
        fs::write(probe.path("group"), "other").expect("another name");
        assert_eq!(upgrade(&probe), "ok");
        eventually("the new group has taken the place of the old one", || {
            let now = probe.workers();
            now.len() == 2 && now.iter().all(|worker| !old.contains(worker))
        });
        assert!(probe.workers().iter().all(|it| it.command_line().contains("worker other id=")));
        assert_eq!(control(&probe.control(), "status").matches("ready").count(), 2);
        assert_eq!(upgrade(&probe), "ok");
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn a_crash_loop_does_not_keep_a_new_version_out(backend: Backend) {
        let installed = Installed::new(backend, "probe");
        let mut probe = installed.program().as_master("serve").args(["--workers", "2"]).start();
        probe.await_ready(2);
        probe.tell("fail-as 1");
        for worker in probe.workers() {
            worker.signal(Signal::SIGKILL);
        }
        eventually("it crashes", || probe.stderr().matches("died, is started again").count() > 4);
        let said = upgrade(&probe);
        assert_eq!(said, "worker 1 ended before it was ready: exit status 1");
        probe.tell("serve");
        assert_eq!(upgrade(&probe), "ok");
        eventually("the old ones are gone", || probe.workers().len() == 2);
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }

    fn changes_that_meet_an_upgrade_are_all_made(backend: Backend) {
        let installed = install(backend);
        let (mut service, address) = installed.program().serve(2);
        let over = AtomicBool::new(false);
        let (outcomes, failures) = thread::scope(|scope| {
            let load = scope.spawn(|| load(address, |_| !over.load(Ordering::Relaxed)));
            let words = ["upgrade", "reload", "scale 3", "upgrade", "reload", "scale 4", "upgrade"];
            let asking = words.map(|word| {
                let socket = service.control();
                scope.spawn(move || control(&socket, word))
            });
            let outcomes = asking.map(|asking| asking.join().expect("an answer"));
            over.store(true, Ordering::Relaxed);
            (outcomes, load.join().expect("the load").1)
        });
        let overtaken = "error: another change of the size came after it";
        assert!(outcomes.iter().all(|said| said == "ok" || said == overtaken), "{outcomes:?}");
        assert!(failures.is_empty(), "{failures:?}; {}", service.stderr());
        assert!(generation(&service.control()).is_some_and(|it| (2..8).contains(&it)));
        assert!(service.stderr().contains("the new version takes over"));
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn a_stop_during_an_upgrade_is_in_order(backend: Backend) {
        let installed = install(backend);
        for delay in [0, 3, 6, 10, 15, 20, 25, 30, 40, 60, 110, 150, 220] {
            let (mut service, _) = installed.program().args(["--lock-file", "lock"]).serve(2);
            service.signal(Signal::SIGUSR2);
            thread::sleep(Duration::from_millis(delay));
            assert_eq!(service.stop(), 0, "after {delay} ms: {}", service.stderr());
            assert!(service.processes().is_empty(), "the trial is gone too, after {delay} ms");
            assert!(!service.path("lock").exists() && !service.control().exists());
        }
    }

    /// What the trial has opened is free for the next start.
    fn a_stop_waits_for_the_end_of_the_trial(backend: Backend) {
        let installed = install(backend);
        let (mut service, _) = installed.program().serve(1);
        // One that takes a while to die.
        let hangs = "import time; held = b'x' * (200 << 20); open('is-up', 'w'); time.sleep(60)";
        installed.install_script(&format!("exec python3 -c \"{hangs}\""));
        service.signal(Signal::SIGUSR2);
        eventually("the trial is under way", || service.path("is-up").exists());
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        assert!(service.processes().is_empty(), "{:?}", service.processes());
    }

    fn nothing_outlives_a_master_that_is_killed_during_an_upgrade(backend: Backend) {
        let installed = install(backend);
        for delay in [0, 3, 6, 10, 15, 20, 25, 30, 40, 60, 110, 150] {
            let (mut service, _) = installed.program().args(["--lock-file", "lock"]).serve(2);
            service.signal(Signal::SIGUSR2);
            thread::sleep(Duration::from_millis(delay));
            service.signal(Signal::SIGKILL);
            service.wait();
            eventually("all its processes are gone", || service.processes().is_empty());
        }
    }
}

/// The runtime cannot be started in the new version, which its trial could not know: the fault is of
/// this one call of the master.
#[test]
fn a_new_version_that_cannot_start_after_all_turns_back() {
    if !can_inject("failing system calls") {
        return;
    }
    // The first two are of the version that runs: its runtime and its look at the listening sockets.
    let launcher =
        ["strace", "-D", "-o", "/dev/null", "-e", "inject=epoll_create1:error=EMFILE:when=3"];
    let program = Program::under(&launcher, Backend::Tokio, "service");
    let (mut service, address) = program.args(["--lock-file", "lock"]).serve(2);
    let (workers, socket) = (service.workers(), service.control());
    let lock = service.path("lock");
    let inodes = || [&lock, &socket].map(|path| fs::metadata(path).expect("a file").ino());
    let first = inodes();
    let number = http_get(address).seq;
    let mut kept = ControlClient::connect(&socket).expect("a connection");
    let said = upgrade(&service);
    let reason = "cannot start the async runtime: Too many open files";
    assert!(said.starts_with("error: ") && said.contains(reason), "{said}");
    assert_eq!(service.workers(), workers);
    assert_eq!((inodes(), generation(&socket)), (first, Some(1)));
    assert_eq!(http_get(address).seq, number + 1);
    assert_eq!(kept.ask("ping").expect("an answer"), "pong");
    let name = service.process().status("Name");
    assert_eq!(name.as_deref(), Some("service-tokio"));
    // The next one is no failure.
    assert_eq!(upgrade(&service), "ok");
    assert_eq!(generation(&socket), Some(2));
    assert_eq!(http_get(address).seq, number + 2);
    assert_eq!(service.stop(), 0, "{}", service.stderr());
    assert!(!lock.exists() && !socket.exists());
}

/// The steps of an upgrade, by the call that the master makes there.
#[test]
fn killed_at_any_step_a_master_leaves_nothing_and_the_next_start_is_clean() {
    if !can_inject("killing a master at a step") {
        return;
    }
    // The first two are the memory of the workers' metrics.
    let steps = [
        ("before the trial", "memfd_create:signal=SIGKILL:when=3"),
        ("when the trial was started", "pidfd_open:signal=SIGKILL:when=3"),
        ("when everything stands still", "memfd_create:signal=SIGKILL:when=4"),
        ("before the exec", "fchdir:signal=SIGKILL:when=1"),
        ("at the exec", "execveat:signal=SIGKILL:when=1"),
        ("when it takes workers over", "pidfd_open:signal=SIGKILL:when=4"),
        ("when it starts new ones", "pidfd_open:signal=SIGKILL:when=6"),
    ];
    thread::scope(|scope| {
        for (step, fault) in steps {
            scope.spawn(move || {
                let injection = format!("inject={fault}");
                let launcher = ["strace", "-D", "-o", "/dev/null", "-e", &injection];
                let program = Program::under(&launcher, Backend::Tokio, "service");
                let (mut service, address) = program.args(["--lock-file", "lock"]).serve(2);
                service.signal(Signal::SIGUSR2);
                let status = service.wait();
                assert_eq!(status.code(), None, "{step}: {}", service.stderr());
                eventually("its workers are gone", || service.processes().is_empty());
                let [lock, socket] = [service.path("lock"), service.control()];
                let next = Program::new(Backend::Tokio, "service");
                let next =
                    next.args(["--listen", &address.to_string(), "--control"]).args([socket]);
                let mut next = next.args(["--lock-file"]).args([lock]).start();
                next.await_http(address);
                assert_eq!(next.stop(), 0, "{step}: {}", next.stderr());
            });
        }
    });
}

#[test]
fn workers_without_privileges_are_kept_and_followed_by_such() {
    if !is_root("dropping privileges") {
        return;
    }
    let installed = install(Backend::Tokio);
    let (mut service, address) = installed.program().args(["--user", "nobody"]).serve(2);
    let is_nobody = |worker: &Process| worker.numbers("Uid") == [65534; 4];
    assert!(service.workers().iter().all(is_nobody));
    for _ in 0..3 {
        installed.install(&Backend::Tokio.program("service"));
        assert_eq!(upgrade(&service), "ok");
        http_get(address);
        eventually("the old ones are gone", || service.workers().len() == 2);
        assert!(service.workers().iter().all(is_nobody));
    }
    assert_eq!(service.stop(), 0, "{}", service.stderr());
}
