//! One master at a time. The lock is taken before there is a runtime: the same on every backend.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use release_tests::{
    Backend, Daemon, Program, Running, can_inject, eventually, free_port, http_get, is_root,
};

/// `service` with this lock file and a worker, started in this way.
fn service(launcher: &[&str], lock: &Path) -> (Program, SocketAddr) {
    let backend = Backend::Tokio;
    let address = free_port();
    let program = match launcher {
        [] => Program::new(backend, "service"),
        launcher => Program::under(launcher, backend, "service"),
    };
    let program = program.args(["--workers", "1", "--listen", &address.to_string()]);
    (program.args(["--lock-file".as_ref(), lock.as_os_str()]), address)
}

/// A shell that does something before it becomes the program.
fn shell(script: &str) -> [&str; 4] {
    ["bash", "-c", script, "bash"]
}

fn refused(lock: &Path, why: &str) {
    let (program, _) = service(&[], lock);
    let start = Instant::now();
    let (code, log) = program.run();
    assert_eq!(code, 1, "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains(why), "`{why}` is missing in: {log}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

fn names(text: &str, pid: i32) -> bool {
    let numbers = text.split(|letter: char| !letter.is_ascii_digit());
    numbers.into_iter().any(|number| number == pid.to_string())
}

fn fifty(options: &[&str]) -> (tempfile::TempDir, Vec<Running>) {
    let place = tempfile::tempdir().expect("a directory");
    let lock = place.path().join("lock");
    let start = |_| service(&[], &lock).0.args(options).start();
    (place, (0..50).map(start).collect())
}

#[test]
fn of_fifty_starts_one_lives() {
    let (place, mut all) = fifty(&[]);
    eventually("one is left", || {
        all.iter().filter(|one| release_tests::is_alive(one.pid())).count() == 1
    });
    let alive = |one: &Running| release_tests::is_alive(one.pid());
    let winner = all.iter().position(alive).expect("the winner");
    let mut winner = all.swap_remove(winner);
    for mut loser in all {
        assert_eq!(loser.wait().code(), Some(1));
        let log = loser.stderr();
        assert!(names(log.lines().last().unwrap_or_default(), winner.pid()), "{log}");
    }
    let text = fs::read_to_string(place.path().join("lock")).expect("the lock");
    assert_eq!(text, format!("{}\n", winner.pid()));
    assert_eq!(winner.stop(), 0);
    assert!(!place.path().join("lock").exists());
}

#[test]
fn of_fifty_daemons_one_lives() {
    let (place, mut all) = fifty(&["--background"]);
    let codes: Vec<_> = all.iter_mut().map(|launcher| launcher.wait().code()).collect();
    let daemon = Daemon::named_in(&place.path().join("lock"));
    assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1);
    for (loser, _) in all.iter().zip(&codes).filter(|(_, code)| **code != Some(0)) {
        let log = loser.stderr();
        assert!(names(log.lines().last().unwrap_or_default(), daemon.process().0), "{log}");
    }
    daemon.stop();
    assert!(!place.path().join("lock").exists());
}

#[test]
fn after_kill_9_the_next_start_takes_over_at_once() {
    let place = tempfile::tempdir().expect("a directory");
    let lock = place.path().join("lock");
    for _ in 0..20 {
        let (program, address) = service(&[], &lock);
        let mut running = program.start();
        running.await_http(address);
        let text = fs::read_to_string(&lock).expect("the lock");
        assert_eq!(text, format!("{}\n", running.pid()));
        running.signal(Signal::SIGKILL);
        running.wait();
    }
    let (program, address) = service(&[], &lock);
    let mut running = program.start();
    running.await_http(address);
    assert_eq!(running.stop(), 0);
    assert!(!lock.exists());
}

/// A starter that has opened the lock file and is slow to lock it: the file's owner ends, and
/// another one has a new file at the path, when it does.
#[test]
fn a_slow_starter_is_not_fooled_by_a_file_that_has_gone() {
    if !can_inject("delaying system calls") {
        return;
    }
    let place = tempfile::tempdir().expect("a directory");
    let lock = place.path().join("lock");
    let (program, address) = service(&[], &lock);
    let mut first = program.start();
    first.await_http(address);
    let delay = "inject=flock:delay_enter=1000000";
    let launcher = ["strace", "-D", "-f", "-o", "/dev/null", "-e", delay];
    let mut slow: Vec<_> = (0..3).map(|_| service(&launcher, &lock).0.start()).collect();
    eventually("they have opened it", || {
        let has_it = |one: &Running| {
            let descriptors = one.process().descriptors();
            descriptors.iter().any(|(_, target)| Path::new(target) == lock)
        };
        slow.iter().all(has_it)
    });
    assert_eq!(first.stop(), 0);
    let (program, address) = service(&[], &lock);
    let mut second = program.start();
    second.await_http(address);
    for one in &mut slow {
        assert_eq!(one.wait().code(), Some(1));
        let log = one.stderr();
        assert!(names(log.lines().last().unwrap_or_default(), second.pid()), "{log}");
    }
    let text = fs::read_to_string(&lock).expect("the lock");
    assert_eq!(text, format!("{}\n", second.pid()));
    assert_eq!(second.stop(), 0);
}

#[test]
fn whatever_else_is_at_the_path_is_refused_and_untouched() {
    let place = tempfile::tempdir().expect("a directory");
    let (lock, target) = (place.path().join("lock"), place.path().join("target"));
    fs::write(&target, "precious").expect("a target");
    let untouched = || assert_eq!(fs::read_to_string(&target).expect("the target"), "precious");
    let clear = || fs::remove_file(&lock).expect("it is still there");

    symlink(&target, &lock).expect("a link");
    refused(&lock, "is a symbolic link");
    untouched();
    clear();
    symlink(place.path().join("nothing"), &lock).expect("a link");
    refused(&lock, "is a symbolic link");
    assert!(!place.path().join("nothing").exists());
    clear();
    fs::hard_link(&target, &lock).expect("a link");
    refused(&lock, "hard link");
    untouched();
    clear();
    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    refused(&lock, "is not a plain file");
    clear();
    fs::create_dir(&lock).expect("a directory");
    refused(&lock, "is a directory");
    refused(Path::new("/dev/full"), "is not a plain file");
    refused(&place.path().join("missing/lock"), "/missing, make it first: No such file");
    refused(&target.join("lock"), "Not a directory");
    refused(Path::new("/proc/lock"), "No such file or directory");
}

#[test]
fn an_unlocked_file_never_stops_a_start() {
    let place = tempfile::tempdir().expect("a directory");
    let lock = place.path().join("lock");
    let own = format!("{}\n", std::process::id());
    for content in ["", "garbage", "0\n", "-1\n", "1\n", &own, &"9".repeat(100_000), "\0\n\n"] {
        fs::write(&lock, content).expect("a file");
        let (program, address) = service(&[], &lock);
        let mut running = program.start();
        running.await_http(address);
        let text = fs::read_to_string(&lock).expect("the lock");
        assert_eq!(text, format!("{}\n", running.pid()), "after {content:.9?}");
        assert_eq!(running.stop(), 0);
    }
}

#[test]
fn a_lock_that_somebody_else_holds_is_respected() {
    let place = tempfile::tempdir().expect("a directory");
    let lock = place.path().join("lock");
    for content in ["", "garbage", "0\n", "-1\n"] {
        fs::write(&lock, content).expect("a file");
        let file = File::open(&lock).expect("the file");
        let held = Flock::lock(file, FlockArg::LockExclusiveNonblock).expect("the lock");
        refused(&lock, "already running");
        assert_eq!(fs::read_to_string(&lock).expect("the file"), content);
        drop(held);
    }
}

#[test]
fn a_place_that_cannot_be_written_is_an_error() {
    if !is_root("mounting, and becoming another user") {
        return;
    }
    // `cd`: into what is mounted there now.
    let full =
        "mount -t tmpfs -o size=4k none . && cd $PWD && head -c 4096 /dev/zero > file; exec \"$@\"";
    let read_only = "mount -t tmpfs -o ro none . && cd $PWD; exec \"$@\"";
    for (script, why) in [(full, "No space left"), (read_only, "Read-only file system")] {
        // In a mount namespace of its own, whose end is the end of the mount.
        let shell = shell(script);
        let launcher: Vec<_> = ["unshare", "--mount"].into_iter().chain(shell).collect();
        let (code, log) = service(&launcher, Path::new("lock")).0.run();
        assert_eq!(code, 1, "{log}");
        assert!(log.lines().last().is_some_and(|last| last.contains(why)), "{log}");
    }
}

#[test]
fn odd_beginnings_are_no_obstacle() {
    let odd = [
        &["env", "-i"][..],
        &shell("mkdir gone; cd gone; rmdir ../gone; exec \"$@\""),
        &shell("exec \"$@\" <&-"),
        &shell("exec \"$@\" >&-"),
        &shell("exec \"$@\" <&- >&-"),
        &shell("exec \"$@\" 2>&-"),
        &shell("exec \"$@\" <&- 2>&-"),
        &shell("exec \"$@\" >&- 2>&-"),
        &shell("exec \"$@\" <&- >&- 2>&-"),
    ];
    let place = tempfile::tempdir().expect("a directory");
    let lock = place.path().join("lock");
    for launcher in odd {
        for background in [false, true] {
            let (program, address) = service(launcher, &lock);
            let mut running = program.args(background.then_some("--background")).start();
            running.await_http(address);
            let daemon = Daemon::named_in(&lock);
            for (number, target) in daemon.process().descriptors() {
                let own = number > 2 || target != lock.to_string_lossy();
                assert!(own, "{launcher:?}: {number} is the lock file");
            }
            http_get(address);
            daemon.stop();
            assert_eq!(running.wait().code(), Some(0), "{launcher:?}: {}", running.stderr());
            assert!(!lock.exists());
        }
    }
}
