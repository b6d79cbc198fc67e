//! The log as syslog: what arrives there, and a log daemon that stops, restarts or was never there.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use release_tests::{Backend, Program, eventually, http_get, is_root, on_every_backend};

/// Starts a program where `/dev` has a log at a path of the test's.
const WITH_A_LOG: &str = r#"
place=$1; shift
mkdir "$place/old" && mount --rbind /dev "$place/old" && mount -t tmpfs none /dev
for name in null zero random urandom; do
    : > "/dev/$name" && mount --bind "$place/old/$name" "/dev/$name"
done
ln -s "$place/log" /dev/log && exec "$@"
"#;

fn launcher(place: &Path) -> Vec<String> {
    let place = place.display().to_string();
    ["unshare", "--mount", "sh", "-ec", WITH_A_LOG, "sh", &place].map(str::to_owned).to_vec()
}

fn service(place: &Path, backend: Backend) -> Program {
    let launcher = launcher(place);
    let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
    Program::under(&launcher, backend, "service").args(["--log", "syslog"])
}

fn log_daemon(place: &Path) -> UnixDatagram {
    let path = place.join("log");
    let log = UnixDatagram::bind(&path).expect("a socket");
    // Every user logs.
    for path in [place, &path] {
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o777)).expect("a mode");
    }
    log.set_read_timeout(Some(Duration::from_secs(10))).expect("a time");
    log
}

fn receive(log: &UnixDatagram) -> String {
    let mut message = [0; 4096];
    let count = log.recv(&mut message).expect("a message");
    String::from_utf8(message[..count].to_vec()).expect("text")
}

/// The first message that has this in it.
fn message_with(log: &UnixDatagram, part: &str) -> String {
    std::iter::repeat_with(|| receive(log)).find(|message| message.contains(part)).expect("endless")
}

fn is_there(log: &UnixDatagram) -> bool {
    log.set_nonblocking(true).expect("a flag");
    let came = log.recv(&mut [0]).is_ok();
    log.set_nonblocking(false).expect("a flag");
    came
}

on_every_backend! {
    fn messages_say_how_bad_it_is_and_whose_they_are(backend: Backend) {
        if !is_root("a /dev of its own") {
            return;
        }
        let place = tempfile::tempdir().expect("a directory");
        let log = log_daemon(place.path());
        let (mut service, _) = service(place.path(), backend).serve(1);
        let ready = message_with(&log, "all workers are ready");
        let named = format!("service[{}]: ", service.pid());
        assert!(ready.starts_with("<30>") && ready.contains(&named), "{ready}");
        assert!(!ready.ends_with('\n') && !ready.contains('\0'), "{ready}");
        service.workers()[0].signal(nix::sys::signal::Signal::SIGKILL);
        let ended = message_with(&log, "SIGKILL");
        assert!(ended.starts_with("<28>"), "{ended}");
        assert_eq!((service.stop(), service.stderr()), (0, String::new()));
    }

    fn a_log_daemon_that_has_stopped_holds_nobody_up(backend: Backend) {
        if !is_root("a /dev of its own") {
            return;
        }
        let place = tempfile::tempdir().expect("a directory");
        let log = log_daemon(place.path());
        let (mut service, address) = service(place.path(), backend).serve(2);
        for _ in 0..20 {
            assert_eq!(release_tests::control(&service.control(), "broadcast to the log"), "sent 2");
        }
        http_get(address);
        // What it has missed is counted as soon as it reads again.
        while is_there(&log) {}
        assert_eq!(release_tests::control(&service.control(), "broadcast to the log"), "sent 2");
        let lost = message_with(&log, "lines are lost");
        assert!(lost.starts_with("<28>"), "{lost}");
        assert_eq!(service.stop(), 0);
    }

    fn a_log_daemon_that_restarts_is_found_again(backend: Backend) {
        if !is_root("a /dev of its own") {
            return;
        }
        let place = tempfile::tempdir().expect("a directory");
        // There is none at first.
        let (mut service, _) = service(place.path(), backend).serve(1);
        for _ in 0..2 {
            let log = log_daemon(place.path());
            release_tests::control(&service.control(), "broadcast is anybody there");
            message_with(&log, "is anybody there");
            std::fs::remove_file(place.path().join("log")).expect("it is there");
        }
        assert_eq!(service.stop(), 0);
    }
}

#[test]
fn the_programs_log_there_too() {
    if !is_root("a /dev of its own") {
        return;
    }
    for (program, arguments) in [
        ("cli-release", &["run", "--syslog", "--respawn", "never", "--"][..]),
        ("cli-socketmaster", &["-syslog", "-start=1", "-command=sh", "--"]),
    ] {
        let place = tempfile::tempdir().expect("a directory");
        let log = log_daemon(place.path());
        let launcher = launcher(place.path());
        let launcher: Vec<&str> = launcher.iter().map(String::as_str).collect();
        let path = Program::release_path().with_file_name(program);
        let shell: &[&str] = if program == "cli-release" { &["sh"] } else { &[] };
        let program = Program::command(&launcher, &path).args(arguments).args(shell);
        let mut running = program.args(["-c", "echo hello to the log"]).start();
        message_with(&log, "hello to the log");
        running.wait();
        eventually("nothing is left", || running.processes().is_empty());
    }
}
