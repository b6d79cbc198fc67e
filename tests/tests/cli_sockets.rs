//! The sockets that `release run` makes, takes and passes on.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sys::signal::Signal;
use release_tests::{
    Program, Running, WITHOUT_INHERITED, answers_at_path, control, eventually, free_port, has,
    try_control, try_http_get,
};

#[test]
fn a_socket_file_is_as_asked_for_and_goes_with_the_manager() {
    let program = Program::manager(&["--ready", "notify", "--listen", "unix://web.sock?mode=0622"]);
    let mut manager = program.any_worker("notify", "TERM").start();
    manager.await_ready(1);
    let path = manager.path("web.sock");
    assert_eq!(std::fs::metadata(&path).expect("a socket").mode() & 0o777, 0o622);
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    assert_eq!(manager.stop(), 0);
    assert!(!path.exists());
}

#[test]
fn sockets_of_systemd_keep_their_names() {
    if !has("systemd-socket-activate", "--version") {
        return;
    }
    let address = free_port();
    let line = "env > out.new; mv out.new out; exec sleep 1000";
    let program = Program::command(
        &["systemd-socket-activate", "-l", &address.to_string(), "--fdname", "web"],
        Path::new("env"),
    );
    let mut manager = program
        .args([Program::release_path()])
        .args(["run", "--control", "control", "--ready", "1", "--", "sh", "-c", line])
        .start();
    eventually("it listens", || std::net::TcpStream::connect(address).is_ok());
    eventually("it has written its environment", || manager.path("out").exists());
    let text = std::fs::read_to_string(manager.path("out")).expect("a file");
    let said = |line: &str| text.lines().any(|other| other == line);
    assert!(said("LISTEN_FDNAMES=web") && said("LISTEN_FDS=1") && said("EINHORN_FDS=3"), "{text}");
    std::fs::remove_file(manager.path("out")).expect("a file");
    let before = manager.workers();
    assert_eq!(control(&manager.control(), "upgrade"), "ok", "{}", manager.stderr());
    eventually("the next one has its socket", || manager.path("out").exists());
    eventually("the old one is gone", || {
        manager.workers().iter().all(|worker| !before.contains(worker))
    });
    let text = std::fs::read_to_string(manager.path("out")).expect("a file");
    assert!(text.contains("LISTEN_FDNAMES=web\n"), "{text}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_descriptor_is_passed_on() {
    let script = "import os,socket,sys\n\
        s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen()\n\
        os.dup2(s.fileno(),7)\n\
        os.execvp(sys.argv[1],sys.argv[1:])";
    let release = Program::release_path();
    let (code, log) = Program::command(&["python3", "-c", script], &release)
        .args(["run", "--listen", "fd://7", "--ready", "0", "--respawn", "never", "--"])
        .args(["sh", "-c", "readlink /proc/self/fd/3 >&2"])
        .run();
    assert!(code == 0 && log.contains("] socket:["), "{log}");
    // The test itself may have inherited anything.
    let (code, log) = Program::release_under(&WITHOUT_INHERITED)
        .args(["run", "--listen", "fd://9", "--", "true"])
        .run();
    assert!(code == 1 && log.contains("descriptor 9 was not passed"), "{log}");
}

#[test]
fn a_descriptor_is_there_after_an_upgrade_and_in_its_trial() {
    let script = "import os,socket,sys\n\
        s=socket.socket(); s.bind(('127.0.0.1',0)); s.listen()\n\
        os.dup2(s.fileno(),7)\n\
        os.execvp(sys.argv[1],sys.argv[1:])";
    let release = Program::release_path();
    let mut manager = Program::command(&["python3", "-c", script], &release)
        .args(["run", "--listen", "fd://7", "--control", "control", "--ready", "1", "--"])
        .args(["sh", "-c", "readlink /proc/self/fd/3 >&2; exec sleep 1000"])
        .start();
    let sockets = || manager.stderr().matches("] socket:[").count();
    eventually("it has its socket", || sockets() == 1);
    eventually("it is ready", || {
        try_control(&manager.control(), "upgrade").is_ok_and(|it| it == "ok")
    });
    eventually("so has the next one", || sockets() > 1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn sockets_block_unless_they_are_asked_not_to() {
    for (option, flag) in [(&[][..], 0), (&["--nonblocking"], 0o4000)] {
        let listen = format!("tcp://{}", free_port());
        let options = [&["--listen", &listen, "--ready", "0"][..], option].concat();
        let line = "grep flags /proc/self/fdinfo/3 >&2; exec sleep 1000";
        let mut manager = Program::manager_of_shell(&options, line).start();
        let said = || {
            let log = manager.stderr();
            let flags =
                log.lines().find_map(|line| line.rsplit_once("flags:"))?.1.trim().to_owned();
            u32::from_str_radix(&flags, 8).ok()
        };
        eventually("it has said the flags", || said().is_some());
        assert_eq!(said().map(|flags| flags & 0o4000), Some(flag), "{option:?}");
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
}

/// Reloads workers that shut their sockets down as they stop: after each, the service is there without
/// anybody's help.
#[track_caller]
fn reload_those_who_shut_down(manager: &Running, serves: impl Fn() -> bool) {
    manager.behave("shut");
    for _ in 0..4 {
        assert_eq!(control(&manager.control(), "reload"), "ok", "{}", manager.stderr());
        eventually("it serves", &serves);
    }
    eventually("the old ones have gone", || {
        let told = control(&manager.control(), "status");
        !told.contains("\"stopping\"") && serves()
    });
    let log = manager.stderr();
    assert!(log.contains("somebody has shut the listening socket down"), "{log}");
}

#[test]
fn a_worker_that_shuts_the_listener_down_as_it_stops_does_not_end_the_service() {
    for (options, workers) in [("", "1"), ("", "3"), ("?each", "1"), ("?each", "3")] {
        let address = free_port();
        let uri = format!("tcp://{address}{options}");
        let options = ["--listen", &uri, "--workers", workers, "--ready", "notify"];
        let mut manager = Program::manager(&options).any_worker("notify", "TERM").start();
        manager.await_ready(workers.parse().expect("a number"));
        reload_those_who_shut_down(&manager, || try_http_get(address).is_ok());
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
}

#[test]
fn a_unix_listener_that_was_shut_down_is_opened_again_for_all_workers() {
    for workers in ["1", "3"] {
        let options = ["--listen", "unix://web.sock", "--workers", workers, "--ready", "notify"];
        let mut manager = Program::manager(&options).any_worker("notify", "TERM").start();
        manager.await_ready(workers.parse().expect("a number"));
        let path = manager.path("web.sock");
        reload_those_who_shut_down(&manager, || answers_at_path(&path));
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
        assert!(!path.exists());
    }
}

#[test]
fn a_descriptor_that_was_shut_down_listens_again() {
    let script = "import os,socket,sys\n\
        s=socket.socket(); s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
        host,port=sys.argv[1].split(':'); s.bind((host,int(port))); s.listen()\n\
        os.dup2(s.fileno(),7)\n\
        os.execvp(sys.argv[2],sys.argv[2:])";
    let (address, release) = (free_port(), Program::release_path());
    let mut manager = Program::command(&["python3", "-c", script, &address.to_string()], &release)
        .args(["run", "--listen", "fd://7", "--control", "control", "--ready", "notify", "--"])
        .any_worker("notify", "TERM")
        .start();
    manager.await_ready(1);
    reload_those_who_shut_down(&manager, || try_http_get(address).is_ok());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_socket_file_that_was_removed_is_there_again_at_the_next_start() {
    let options = ["--listen", "unix://web.sock?mode=0622", "--workers", "2", "--ready", "notify"];
    let mut manager = Program::manager(&options).any_worker("notify", "TERM").start();
    manager.await_ready(2);
    let path = manager.path("web.sock");
    fs::remove_file(&path).expect("a file");
    manager.workers()[0].signal(Signal::SIGKILL);
    eventually("the next one serves there", || answers_at_path(&path));
    assert_eq!(fs::metadata(&path).expect("a socket").mode() & 0o777, 0o622);
    fs::remove_file(&path).expect("a file");
    assert_eq!(control(&manager.control(), "reload"), "ok");
    assert!(answers_at_path(&path), "{}", manager.stderr());
    // What somebody else has put there stays, and keeps nobody from being started.
    fs::remove_file(&path).expect("a file");
    fs::write(&path, "theirs").expect("a file");
    assert_eq!(control(&manager.control(), "reload"), "ok");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "theirs");
    let said = "nobody can connect";
    assert!(manager.stderr().contains(said), "{}", manager.stderr());
    fs::remove_file(&path).expect("a file");
    assert_eq!(control(&manager.control(), "reload"), "ok");
    assert!(answers_at_path(&path), "{}", manager.stderr());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    assert!(!path.exists());
}

#[test]
fn where_workers_say_that_they_are_ready_is_made_again() {
    let options = ["--workers", "1", "--ready", "notify"];
    let base = tempfile::tempdir().expect("a directory");
    let manager = Program::manager(&options).any_worker("notify", "TERM");
    // A user's own place is the one that is said; root's is one for all.
    let mut manager = manager
        .with(|command| {
            command.env("XDG_RUNTIME_DIR", base.path());
        })
        .start();
    manager.await_ready(1);
    let of_worker = |manager: &Running| {
        let environment = manager.workers()[0].environment();
        let said = environment.iter().find_map(|it| it.strip_prefix("NOTIFY_SOCKET="));
        Path::new(said.expect("a socket")).parent().expect("a directory").to_owned()
    };
    let place = of_worker(&manager);
    fs::remove_dir_all(&place).expect("a directory");
    assert_eq!(control(&manager.control(), "reload"), "ok", "{}", manager.stderr());
    eventually("the old one has gone", || manager.workers().len() == 1);
    assert!(of_worker(&manager) != place);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}
