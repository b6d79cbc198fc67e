//! The sockets that `release run` makes, takes and passes on.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use release_tests::{Program, control, eventually, free_port, has, try_control};

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
    let (code, log) = Program::release().args(["run", "--listen", "fd://9", "--", "true"]).run();
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
