//! What workers of a root master are left with, as /proc shows it. Root's tests.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::unistd::{Gid, Uid, chown};
use release_tests::{
    Account, Backend, Process, Program, Running, control, eventually, http_get, is_root,
    on_every_backend, open_to_all,
};

/// A launcher that leaves behind whatever it can.
const CARELESS: [&str; 4] = ["setpriv", "--groups=0,4,27", "bash", "-c"];

/// What the careless launcher does: no mask, a secret, open files.
const LEAKS: &str = "umask 0; export SECRET=1 LISTEN_FDS=1 LISTEN_PID=1 NOTIFY_SOCKET=/x \
    LD_DEBUG_OUTPUT=/x BASH_ENV=/x DB_PASSWORD=x RUST_LOG=info; \
    exec \"$@\" 3</etc/shadow 7</dev/null 50</ 250>>/dev/null";

fn carelessly(backend: Backend, user: &str) -> Program {
    let launcher: Vec<_> = CARELESS.into_iter().chain([LEAKS, "sh"]).collect();
    Program::under(&launcher, backend, "service").args(["--user", user, "--lock-file", "lock"])
}

fn sockets(process: Process) -> HashSet<String> {
    let all = process.descriptors().into_iter().map(|(_, target)| target);
    all.filter(|target| target.starts_with("socket:")).collect()
}

fn as_user(uid: u32, command: &[&str]) -> bool {
    let id = |option: &str| format!("--{option}={uid}");
    let status = Command::new("setpriv")
        .args([id("reuid"), id("regid"), "--clear-groups".to_owned()])
        .args(command)
        .output();
    status.expect("setpriv runs").status.success()
}

/// Makes `many` an account that is in thousands of groups, for the program alone.
const IN_THOUSANDS: &str = "
    (cat /etc/passwd; echo many:x:5000:5000::/:/bin/sh) > accounts
    (cat /etc/group; for id in $(seq 10000 13999); do echo g$id:x:$id:many; done) > groups
    mount --bind accounts /etc/passwd && mount --bind groups /etc/group && exec \"$@\"";

on_every_backend! {
    fn an_account_keeps_thousands_of_groups(backend: Backend) {
        if !is_root("other accounts") {
            return;
        }
        let launcher = ["unshare", "--mount", "sh", "-c", IN_THOUSANDS, "sh"];
        let program = Program::under(&launcher, backend, "service").args(["--user", "many"]);
        let (mut service, _) = program.serve(1);
        let groups: Vec<_> = std::iter::once(5000).chain(10_000..14_000).collect();
        Account { name: "many".to_owned(), uid: 5000, gid: 5000, groups: groups.clone() }
            .is_all_of(service.workers()[0], &groups);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
    }

    fn workers_are_the_user_and_nothing_else(backend: Backend) {
        if !is_root("dropping privileges") {
            return;
        }
        let account = Account::with_groups();
        let (mut service, address) = carelessly(backend, &account.name).serve(2);
        http_get(address);
        let master = service.process();
        assert_eq!(master.numbers("Groups"), [0_u32; 0]);
        assert_eq!(master.status("Umask").as_deref(), Some("0022"));
        for worker in service.workers() {
            account.is_all_of(worker, &account.groups);
            assert_eq!(worker.status("Umask").as_deref(), Some("0022"));
            let environ = worker.path("environ");
            let owner = environ.metadata().expect("it lives").uid();
            assert_eq!(owner, 0, "others of the user can read and trace it");
            for file in ["environ", "mem", "fd/0"] {
                let path = worker.path(file);
                assert!(!as_user(account.uid, &["head", "-c1", path.to_str().expect("a path")]), "{file}");
            }
        }
        let mode = |path: std::path::PathBuf| path.metadata().expect("it exists").mode() & 0o7777;
        assert_eq!(mode(service.path("lock")), 0o600);
        assert_eq!(mode(service.control()), 0o600);
        assert_eq!(service.stop(), 0);
    }

    fn workers_have_their_own_descriptors_and_the_listener(backend: Backend) {
        if !is_root("dropping privileges") {
            return;
        }
        let (mut service, address) = carelessly(backend, "nobody").serve(2);
        http_get(address);
        let (master, workers) = (service.process(), service.workers());
        for process in workers.iter().chain([&master]) {
            for (number, target) in process.descriptors() {
                assert!(number < 3 || process.is_close_on_exec(number), "{number}: {target}");
            }
        }
        for worker in &workers {
            let descriptors = worker.descriptors();
            assert_eq!(descriptors[0], (0, "/dev/null".to_owned()));
            let kinds = [
                "socket:",
                "anon_inode:[eventpoll]",
                "anon_inode:[eventfd]",
                "anon_inode:[timerfd]",
                "/memfd:release-metrics",
            ];
            for (number, target) in &descriptors[3..] {
                assert!(kinds.iter().any(|kind| target.starts_with(kind)), "{number}: {target}");
            }
            assert_eq!(sockets(*worker).intersection(&sockets(master)).count(), 1, "the listener");
        }
        let shared = sockets(workers[0]);
        assert_eq!(shared.intersection(&sockets(workers[1])).count(), 1, "the listener");
        assert_eq!(service.stop(), 0);
    }

    fn workers_know_only_what_was_kept(backend: Backend) {
        if !is_root("dropping privileges") {
            return;
        }
        let (mut service, _) = carelessly(backend, "nobody").serve(1);
        let kept = ["RUST_LOG=", "RUST_BACKTRACE=", "RUST_LIB_BACKTRACE=", "RUST_MIN_STACK="];
        let environment = service.workers()[0].environment();
        assert!(environment.contains(&"RUST_LOG=info".to_owned()));
        for entry in environment {
            assert!(kept.iter().any(|name| entry.starts_with(name)), "{entry}");
        }
        assert_eq!(service.stop(), 0);
    }

    fn no_way_back_is_open(backend: Backend) {
        if !is_root("dropping privileges") {
            return;
        }
        let mut probe = Program::probe(backend, "regain").start();
        probe.await_ready(1);
        let log = probe.stderr();
        let refused = ["setuid", "setresuid", "setgid", "setgroups", "chroot", "chown", "kill"];
        let forbidden = ["memory", "environ", "fd", "binary", "shadow"];
        for (names, errno) in [(&refused[..], "EPERM"), (&forbidden, "EACCES")] {
            for name in names {
                let line = format!("attempt {name}: {errno}");
                assert!(log.contains(&line), "{line} is missing in {log}");
            }
        }
        assert_eq!(probe.stop(), 0);
    }

    fn an_ordinary_user_needs_no_root(backend: Backend) {
        if !is_root("becoming an ordinary user first") {
            return;
        }
        let (_place, copy) = open_to_all(backend, "service");
        let launcher = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let program = Program::command(&launcher, &copy).args(["--lock-file", "lock"]);
        chown(&program.path(""), Some(Uid::from_raw(65534)), Some(Gid::from_raw(65534)))
            .expect("a directory of its own");
        let (mut service, address) = program.serve(2);
        http_get(address);
        assert_eq!(service.process().numbers("Uid"), [65534; 4]);
        for thread in service.workers().into_iter().flat_map(Process::threads) {
            assert_eq!(thread.numbers("Uid"), [65534; 4]);
            assert_eq!(thread.status("CapEff").as_deref(), Some("0000000000000000"));
            assert_eq!(thread.numbers("NoNewPrivs"), [1]);
        }
        let victim = service.workers()[0];
        victim.signal(nix::sys::signal::Signal::SIGKILL);
        eventually("it is replaced", || !service.workers().contains(&victim));
        service.await_ready(2);
        assert_eq!(service.stop(), 0, "{}", service.stderr());
        assert!(!service.path("lock").exists());
    }

    fn a_worker_may_have_a_control_socket_of_its_own(backend: Backend) {
        let open = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(open.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777))
            .expect("a mode");
        let path = open.path().join("own");
        let mut probe = Program::probe(backend, &format!("control {}", path.display())).start();
        probe.await_ready(1);
        assert_eq!(control(&path, "hello"), "HELLO");
        let mode = path.metadata().expect("a socket").mode() & 0o7777;
        assert_eq!(mode, 0o600);
        assert_eq!(probe.stop(), 0);
        assert!(!path.exists());
    }
}

/// Refused before there is a runtime: the same on every backend.
#[test]
fn accounts_that_are_none_are_refused() {
    if !is_root("dropping privileges") {
        return;
    }
    for user in ["no-such-user", "", "-1", "4294967295", "0", "root", "00", "0x0", " 33", "nobody "]
    {
        let mut service = Program::new(Backend::Tokio, "service")
            .args([format!("--user={user}"), "--lock-file=lock".to_owned()])
            .listen(release_tests::free_port(), 1)
            .start();
        refuses(&mut service, &format!("`{user}`"));
    }
    let mut service =
        Program::new(Backend::Tokio, "probe").args(["master", "--lock-file", "lock"]).start();
    refuses(&mut service, "would run as root; name an account with `user`");
}

fn refuses(service: &mut Running, why: &str) {
    assert_eq!(service.wait().code(), Some(1), "{}", service.stderr());
    let log = service.stderr();
    assert!(log.lines().last().is_some_and(|last| last.contains(why)), "{why}: {log}");
    assert!(!service.path("lock").exists() && !service.control().exists());
}
