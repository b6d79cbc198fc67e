//! System calls that fail while privileges are dropped: such a worker never runs its program.
//!
//! The calls are the same on every backend, since they come before the runtime: one is enough.

use std::path::Path;
use std::time::{Duration, Instant};

use release_tests::{Backend, DEADLINE, Program, can_inject, children, eventually, is_root};

/// Runs `service` with this fault in each of its processes, to its end: what it says last.
fn with_fault(fault: &str) -> String {
    let injection = format!("inject={fault}");
    // -D: the program stays our child, and strace is its child's child.
    let launcher = ["strace", "-D", "-f", "-o", "/dev/null", "-e", &injection];
    let service = Program::under(&launcher, Backend::Tokio, "service")
        .listen(release_tests::free_port(), 1)
        .start();
    fails_without_a_root_worker(service)
}

fn fails_without_a_root_worker(mut service: release_tests::Running) -> String {
    let began = Instant::now();
    while release_tests::is_alive(service.pid()) {
        assert!(began.elapsed() < DEADLINE, "it starts: {}", service.stderr());
        for child in children(service.pid()) {
            // The program comes first: one that was executed meanwhile is none of root's.
            let program = child.command_line();
            let is_root = child.numbers("Uid").contains(&0);
            assert!(!is_root || !program.contains("worker http"), "{program} is root");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    let log = service.stderr();
    assert_eq!(service.wait().code(), Some(1), "{log}");
    assert!(!log.contains("ready worker"), "{log}");
    log.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_failed_call_is_named_and_its_worker_never_runs() {
    if !is_root("dropping privileges") || !can_inject("failing system calls") {
        return;
    }
    let last = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap").expect("a number");
    let last: u32 = last.trim().parse().expect("a number");
    // One prctl for each capability, one that finds the end, and then the others in this order.
    let prctl = |after: u32| format!("prctl:error=EAGAIN:when={}", last + 2 + after);
    let faults = [
        ("setresuid:error=EAGAIN:when=1".to_owned(), "setresuid"),
        ("setresgid:error=EAGAIN:when=1".to_owned(), "setresgid"),
        // The master leaves its own groups, and can live with this error.
        ("setgroups:error=EPERM:when=1".to_owned(), "setgroups"),
        ("capset:error=EAGAIN:when=1".to_owned(), "capset"),
        ("prctl:error=EAGAIN:when=1".to_owned(), "prctl(PR_CAPBSET_DROP)"),
        (prctl(1), "prctl(PR_CAP_AMBIENT)"),
        (prctl(2), "prctl(PR_SET_NO_NEW_PRIVS)"),
        (prctl(3), "prctl(PR_SET_PDEATHSIG)"),
    ];
    std::thread::scope(|scope| {
        for (fault, call) in &faults {
            scope.spawn(move || {
                let said = with_fault(fault);
                assert!(said.contains("failed 5 times before it was ready"), "{fault}: {said}");
                assert!(
                    said.contains(&format!("cannot start /proc/self/exe: {call}: ")),
                    "{fault}: {said}"
                );
            });
        }
    });
}

/// Since Linux 3.1 the change of user succeeds over the limit, and exec fails: no worker as root.
///
/// The kernel compares before it counts the process that changes: with a limit of one, two others
/// are needed.
#[test]
fn a_user_with_too_many_processes_gets_no_worker() {
    if !is_root("dropping privileges") {
        return;
    }
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let others =
        [(); 2].map(|()| Program::command(&other, Path::new("sleep")).args(["60"]).start());
    for other in &others {
        let uid = || other.process().numbers("Uid").first().copied();
        eventually("it runs as that user", || uid() == Some(65534));
    }
    let service = Program::under(&["prlimit", "--nproc=1"], Backend::Tokio, "service")
        .listen(release_tests::free_port(), 1)
        .start();
    let said = fails_without_a_root_worker(service);
    drop(others);
    assert!(said.contains("execve: Resource temporarily unavailable"), "{said}");
}
