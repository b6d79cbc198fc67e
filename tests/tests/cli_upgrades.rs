//! Upgrades of `release run` whose files, names and addresses change or go on the way.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::thread;

use nix::sys::signal::Signal;
use release_tests::{
    Daemon, Installed, Program, control, eventually, free_port, is_alive, is_root, replace_file,
};
use serde_json::Value;

/// Everything that `release run` finds out to start is gone when it comes back.
#[test]
fn release_run_comes_back_as_it_was() {
    if !is_root("mounting") {
        return;
    }
    let installed = Installed::cli();
    let program = Program::command(&["unshare", "-m"], installed.path());
    let (file, shell) = (program.path("run.conf"), program.path("bin/pool-shell"));
    fs::create_dir(program.path("bin")).expect("a directory");
    std::os::unix::fs::symlink("/bin/sh", &shell).expect("a link");
    let path = format!("{}:/usr/bin:/bin", program.path("bin").display());
    let (address, other) = (free_port(), free_port());
    let named = |address| pool(address).replace("\"sh\"", "\"pool-shell\"");
    replace_file(&file, &named(address));
    fs::write(program.path("variables"), "WORD=first\n").expect("a file");
    let options = ["--config", "run.conf", "--env-file", "variables", "--allow-read", "daemon"];
    let program = program.args(["run"]).args(options).with(|command| {
        command.env("PATH", path);
    });
    let mut manager = program.start();
    manager.await_ready(1);
    replace_file(&manager.path("gate"), "");
    let real = Program::release_path();
    let trial = manager.path("trial");
    let script = format!("[ -e trial ] || echo $$ > trial; exec {} \"$@\"", real.display());
    installed.install_script(&script);
    replace_file(&file, &named(other));
    let (socket, old) = (manager.control(), manager.workers());
    let (said, holder) = thread::scope(|scope| {
        let scaling = scope.spawn(|| control(&socket, "scale 2"));
        eventually("it begins", || manager.workers().len() == 2);
        let upgrading = scope.spawn(|| control(&socket, "upgrade"));
        let is_over = || {
            let number = fs::read_to_string(&trial).unwrap_or_default();
            number.trim().parse().is_ok_and(|pid| !is_alive(pid))
        };
        eventually("its trial is over", is_over);
        let holder = TcpListener::bind(other).expect("it is free");
        for hidden in ["/etc/passwd", "/etc/group"] {
            let pid = manager.pid().to_string();
            let mount = ["-t", &pid, "-m", "mount", "--bind", "/dev/null", hidden];
            let mounted = Command::new("nsenter").args(mount).status();
            assert!(mounted.is_ok_and(|status| status.success()), "nothing was hidden");
        }
        for gone in [&file, &shell, &manager.path("variables")] {
            fs::remove_file(gone).expect("it is there");
        }
        replace_file(&manager.path("open"), "");
        ([scaling, upgrading].map(|asking| asking.join().expect("an answer")), holder)
    });
    let log = manager.stderr();
    assert_eq!(said[0], "ok", "{log}");
    assert!(said[1].contains("another program has the address"), "{}; {log}", said[1]);
    assert!(manager.workers().len() == 2 && manager.workers().contains(&old[0]), "{log}");
    drop(holder);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn what_is_relative_stays_where_it_was_in_the_background() {
    let installed = Installed::cli();
    let program = installed.program().args([
        "run",
        "--background",
        "--out",
        "out.log",
        "--err",
        "err.log",
        "--pid-file",
        "pid",
        "--control",
        "control",
        "--config",
        "run.conf",
        "--env-file",
        "variables",
        "--ready",
        "fd",
    ]);
    let [pid, socket, log, moved, file, variables] =
        ["pid", "control", "out.log", "moved", "run.conf", "variables"]
            .map(|name| program.path(name));
    let configure = |word: &str, workers: u32| {
        let worker = "echo $WORD; echo >&$NOTIFY_FD; exec sleep 1000";
        let text = format!("workers = {workers} command = [\"sh\", \"-c\", \"{worker}\"]");
        replace_file(&file, &text);
        replace_file(&variables, &format!("WORD={word}\n"));
    };
    configure("first", 1);
    let mut launcher = program.start();
    assert_eq!(launcher.wait().code(), Some(0), "{}", launcher.stderr());
    let daemon = Daemon::named_in(&pid);
    let says = |word: &str| {
        let text = || fs::read_to_string(&log).unwrap_or_default();
        eventually(&format!("{word} is in the log"), || text().contains(word));
    };
    says("first");
    configure("second", 1);
    assert_eq!(control(&socket, "upgrade"), "ok");
    says("second");
    fs::rename(&log, &moved).expect("it is there");
    assert_eq!(control(&socket, "reopen"), "ok");
    configure("third", 2);
    assert_eq!(control(&socket, "reload"), "ok");
    says("third");
    eventually("both are there", || daemon.workers().len() == 2);
    installed.install(&Program::release_path());
    configure("fourth", 1);
    assert_eq!(control(&socket, "upgrade"), "ok");
    says("fourth");
    assert!(installed.is_run_by(daemon.process()));
    assert_eq!(daemon.process().link("cwd").as_deref(), Some("/"));
    assert_eq!(daemon.process().link("fd/1").as_deref(), log.to_str());
    assert!(!Path::new("/out.log").exists() && !Path::new("/err.log").exists());
    daemon.stop();
    assert!(!pid.exists() && !socket.exists());
}

/// A pool whose next worker waits for a file `open`, once there is a file `gate`.
fn pool(address: SocketAddr) -> String {
    let worker = "while [ -e gate ] && [ ! -e open ]; do sleep 0.02; done; echo >&$NOTIFY_FD; exec sleep 1000";
    format!(
        "listen = [\"tcp://{address}\"] control = control ready = fd workers = 1\n\
         command = [\"sh\", \"-c\", \"{worker}\"]"
    )
}

/// What happens to the file while an upgrade waits for a scale, and what becomes of it.
#[test]
fn release_run_becomes_what_was_tried_or_stays_what_it_was() {
    let [bad, empty, gone, taken] = ["listen = = 7", "", "gone", "taken"];
    for case in [bad, empty, gone, taken] {
        let installed = Installed::cli();
        let program = installed.program().args(["run", "--config", "run.conf"]);
        let (address, other) = (free_port(), free_port());
        let file = program.path("run.conf");
        replace_file(&file, &pool(address));
        let mut manager = program.start();
        manager.await_ready(1);
        replace_file(&manager.path("gate"), "");
        let real = Program::release_path();
        let trial = manager.path("trial");
        installed.install_script(&format!(
            "[ -e trial ] || echo $$ > trial; exec {} \"$@\"",
            real.display()
        ));
        if case == taken {
            // With the content of a refused reload, no version could come back.
            replace_file(&file, "");
            let refused = control(&manager.control(), "reload");
            assert!(refused.contains("no command"), "{refused}");
            replace_file(&file, &pool(other));
        }
        let (socket, old) = (manager.control(), manager.workers());
        let mut holder = None;
        let said = thread::scope(|scope| {
            let scaling = scope.spawn(|| control(&socket, "scale 2"));
            eventually("it begins", || manager.workers().len() == 2);
            let upgrading = scope.spawn(|| control(&socket, "upgrade"));
            let is_over = || {
                let number = fs::read_to_string(&trial).unwrap_or_default();
                number.trim().parse().is_ok_and(|pid| !is_alive(pid))
            };
            eventually("its trial is over", is_over);
            match case {
                "taken" => holder = Some(TcpListener::bind(other).expect("it is free")),
                "gone" => fs::remove_file(&file).expect("it is there"),
                text => replace_file(&file, text),
            }
            replace_file(&manager.path("open"), "");
            [scaling, upgrading].map(|asking| asking.join().expect("an answer"))
        });
        assert_eq!(said[0], "ok", "{case}");
        let log = manager.stderr();
        if case == taken {
            assert!(said[1].contains("another program has the address"), "{}; {log}", said[1]);
            assert!(log.contains("another program has the address"), "{log}");
            assert!(manager.workers().len() == 2 && manager.workers().contains(&old[0]), "{log}");
        } else {
            assert_eq!(said[1], "ok", "{case}: {log}");
        }
        drop(TcpStream::connect(address).expect("it still listens"));
        drop(holder);
        replace_file(&file, &pool(address));
        installed.install(&real);
        assert_eq!(control(&socket, "upgrade"), "ok", "{case}: {}", manager.stderr());
        assert!(installed.is_run_by(manager.process()), "{case}");
        assert_eq!(manager.stop(), 0, "{case}: {}", manager.stderr());
    }
}

/// A worker that starts while the new version takes over becomes ready there, by each protocol, after that
/// version has taken its own workers back.
#[test]
fn a_worker_that_starts_during_an_upgrade_is_heard_after_it() {
    for (ready, how) in [("notify", "notify"), ("ack", "ack"), ("ack", "ack-fd"), ("fd", "newline")]
    {
        let installed = Installed::cli();
        let options = ["run", "--control", "control", "--start-timeout", "100", "--ready", ready];
        let program = installed.program().args(options).args(["--"]).any_worker(how, "TERM");
        let mut manager = program.start();
        manager.await_ready(1);
        manager.behave("late");
        manager.workers()[0].signal(Signal::SIGKILL);
        eventually("its successor starts", || manager.path("late").exists());
        let starting = manager.workers();
        manager.behave("crash");
        installed.install(&Program::release_path());
        let socket = manager.control();
        let said = thread::scope(|scope| {
            let upgrading = scope.spawn(|| control(&socket, "upgrade"));
            let is_back = || manager.stderr().contains("the upgrade failed: the old workers go on");
            eventually(&format!("{how}: it is rolled back"), is_back);
            replace_file(&manager.path("go"), "");
            upgrading.join().expect("an answer")
        });
        let log = manager.stderr();
        assert!(said.contains("exit status 1"), "{how}: {said}; {log}");
        assert!(installed.is_run_by(manager.process()), "{how}: {log}");
        let state = || {
            let status: Value = serde_json::from_str(&control(&socket, "status")).expect("JSON");
            status["workers"][0].clone()
        };
        eventually(&format!("{how}: it is ready; {log}"), || state()["state"] == "ready");
        assert_eq!(manager.workers(), starting, "{how}: {}", manager.stderr());
        if how == "notify" {
            assert_eq!(state()["status_text"], "up", "{log}");
        }
        assert_eq!(manager.stop(), 0, "{how}: {}", manager.stderr());
    }
}
