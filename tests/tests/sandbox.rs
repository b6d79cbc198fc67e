//! Workers in a sandbox, which try what a hostile worker would.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use release_tests::{
    Process, Program, Running, children, control, eventually, has, is_root, on_every_backend,
    release_open_to_all,
};

/// What everything is refused with in a strict sandbox, whoever the worker is.
const REFUSED: [(&str, &str); 29] = [
    ("ptrace", "EPERM"),
    ("process_vm_readv", "EPERM"),
    ("read its environment", "EACCES"),
    ("read its memory", "EACCES"),
    ("signal it", "EPERM"),
    ("open a terminal", "EACCES"),
    ("connect to its abstract socket", "EPERM"),
    ("read a file", "EACCES"),
    ("create a file", "EACCES"),
    ("run a program", "EACCES"),
    ("connect to a port", "EACCES"),
    ("listen at a port", "EACCES"),
    ("write a core file", "EFBIG"),
    ("setns", "EPERM"),
    ("mount", "EPERM"),
    ("bpf", "EPERM"),
    ("io_uring_setup", "EPERM"),
    ("userfaultfd", "EPERM"),
    ("perf_event_open", "EPERM"),
    ("keyctl", "EPERM"),
    ("add_key", "EPERM"),
    ("open_by_handle_at", "EPERM"),
    ("socket(AF_VSOCK)", "EPERM"),
    ("socket(IPPROTO_MPTCP)", "EPROTONOSUPPORT"),
    ("sendto(MSG_FASTOPEN)", "EOPNOTSUPP"),
    ("shmget", "EPERM"),
    ("ioctl(TIOCSTI)", "EPERM"),
    ("clone3", "ENOSYS"),
    ("unshare", "EPERM"),
];

/// Whether this kernel can enforce a strict sandbox; says so when it cannot.
fn can_enforce() -> bool {
    let (status, text) = Program::release().args(["probe", "--sandbox", "strict"]).run();
    let can = !text.contains("cannot enforce the part");
    assert!(!can || status == 0, "{text}");
    if !can {
        eprintln!("skipped: {text}");
    }
    can
}

/// The table that `release probe` prints with these options.
fn probed(options: &[&str]) -> BTreeMap<String, String> {
    let (directory, release) = release_open_to_all();
    let arguments = [&["probe", "--file", "/etc/hostname"], options].concat();
    let output = std::process::Command::new(&release).args(arguments).output().expect("it runs");
    drop(directory);
    let text = String::from_utf8(output.stdout).expect("text");
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{log}");
    let pair = |line: &str| {
        line.split_at_checked(32).map(|(name, it)| (name.trim().to_owned(), it.trim().to_owned()))
    };
    let table: BTreeMap<_, _> = text.lines().filter_map(pair).collect();
    assert!(table.len() > 25, "{text}{log}");
    table
}

fn is_refused(table: impl Fn(&str) -> Option<String>) {
    for (name, outcome) in REFUSED {
        assert_eq!(table(name).as_deref(), Some(outcome), "{name}");
    }
}

#[test]
fn a_strict_sandbox_refuses_what_is_allowed_without() {
    if !can_enforce() {
        return;
    }
    let (free, strict) = (probed(&[]), probed(&["--sandbox", "strict"]));
    is_refused(|name| strict.get(name).cloned());
    // Otherwise nothing would be shown by the refusals.
    for name in [
        "signal it",
        "connect to its abstract socket",
        "read a file",
        "create a file",
        "run a program",
        "connect to a port",
        "listen at a port",
    ] {
        assert_eq!(free[name], "allowed", "{name}");
    }
    let basic = probed(&["--sandbox", "basic"]);
    assert_eq!(
        (&*basic["ptrace"], &*basic["bpf"], &*basic["run a program"]),
        ("EPERM", "EPERM", "allowed")
    );
    let some = [
        "--sandbox",
        "strict",
        "--read",
        "/etc/hostname",
        "--write",
        "/tmp",
        "--execute",
        "/bin/true",
        "--bind",
        "0",
    ];
    let some = probed(&some);
    for name in ["read a file", "create a file", "run a program", "listen at a port"] {
        assert_eq!(some[name], "allowed", "{name}");
    }
    for name in ["connect to a port", "ptrace", "read its environment"] {
        assert_ne!(some[name], "allowed", "{name}");
    }
}

/// What sshd's child gets for an attempt, by its filter: killed for all but these.
fn of_sshd(attempt: &str) -> &'static str {
    match attempt {
        "read its environment"
        | "read its memory"
        | "open a terminal"
        | "read a file"
        | "create a file"
        | "shmget" => "EACCES",
        // It may not write to any file.
        "write a core file" => "EFBIG",
        _ => "killed",
    }
}

#[test]
fn the_guide_shows_what_the_probe_prints() {
    if !is_root("the table of the guide") || !can_enforce() {
        return;
    }
    let page = std::fs::read_to_string(release_tests::source("docs/SANDBOX.md")).expect("a page");
    let (_, rows) =
        page.split_once("| attempt | none | basic | strict | sshd's child |\n").expect("a table");
    let rows = rows.lines().skip(1).take_while(|line| line.starts_with('|'));
    let rows: BTreeMap<_, Vec<_>> = rows
        .map(|row| row.trim_matches('|').split('|').map(str::trim))
        .map(|mut cells| (cells.next().expect("a name").to_owned(), cells.collect()))
        .collect();
    let [none, basic, strict] = ["none", "basic", "strict"].map(|it| probed(&["--sandbox", it]));
    assert!(rows.keys().eq(strict.keys()), "{:?}", strict.keys());
    for (name, cells) in &rows {
        // Other kernels have other errors where nothing is forbidden.
        let expected = if basic[name] == none[name] { cells[0] } else { &basic[name] };
        assert_eq!(cells[1..], [expected, &strict[name], of_sshd(name)], "{name}");
    }
}

#[test]
fn another_account_changes_nothing() {
    if is_root("other accounts") && can_enforce() {
        let strict = probed(&["--sandbox", "strict", "--user", "nobody"]);
        is_refused(|name| strict.get(name).cloned());
    }
}

fn run(options: &[&str], command: &[&str]) -> Running {
    let options =
        [&["run", "--control", "control", "--ready", "10ms"], options, &["--"], command].concat();
    Program::release().args(options).start()
}

fn capabilities(process: Process) -> [Option<String>; 3] {
    ["CapPrm", "CapBnd", "CapAmb"].map(|name| process.status(name))
}

#[test]
fn exactly_the_named_capabilities_are_left() {
    if !is_root("capabilities") {
        return;
    }
    for user in [&["--user", "nobody"][..], &[]] {
        let named = ["--keep-cap", "NET_BIND_SERVICE", "--keep-cap", "cap_net_raw"];
        let mut manager = run(&[&named, user].concat(), &["sleep", "1000"]);
        manager.await_ready(1);
        let expected = Some("0000000000002400".to_owned());
        let worker = children(manager.pid())[0];
        assert_eq!(capabilities(worker), [expected.clone(), expected.clone(), expected]);
        let status = control(&manager.control(), "status");
        assert!(
            status.contains("\"sandbox\":\"capabilities: NET_BIND_SERVICE, NET_RAW\""),
            "{status}"
        );
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
    let mut manager = run(&["--sandbox", "basic"], &["sleep", "1000"]);
    manager.await_ready(1);
    let worker = children(manager.pid())[0];
    let none = Some("0000000000000000".to_owned());
    assert_eq!(capabilities(worker), [none.clone(), none.clone(), none]);
    assert_eq!(worker.status("Seccomp").as_deref(), Some("2"));
    let status = control(&manager.control(), "status");
    assert!(status.contains("\"sandbox\":\"calls; capabilities: none\""), "{status}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_sandbox_that_cannot_be_is_refused_before_any_worker() {
    for (options, words) in [
        (&["--read", "/no/such/path"][..], "the sandbox names /no/such/path"),
        (&["--keep-cap", "FLY"], "`FLY` does not exist"),
        (&["--keep-cap", "SETUID"], "could become root again"),
        (&["--sandbox", "tight"], "it is strict, basic or none"),
    ] {
        let arguments = [&["run"], options, &["--", "sleep", "1000"]].concat();
        let (status, text) = Program::release().args(&arguments).run();
        assert!(status != 0 && text.contains(words), "{status}: {text}");
        let (status, text) =
            Program::release().args([&["run", "--check"], &arguments[1..]].concat()).run();
        assert!(status != 0 && text.contains(words), "{status}: {text}");
    }
}

#[test]
fn a_violation_can_be_fatal() {
    let options = ["--sandbox", "basic", "--sandbox-kill", "--respawn", "never"];
    let arguments = [&["run"], &options[..], &["--", "unshare", "--user", "true"]].concat();
    let (_, text) = Program::release().args(arguments).run();
    assert!(text.contains("signal 31 (SIGSYS), "), "{text}");
    if shows_killed_calls() {
        let named = format!("the forbidden system call {} (unshare)", nix::libc::SYS_unshare);
        assert!(text.contains(&named), "{text}");
    } else {
        assert!(text.contains("the kernel's log has its number (`syscall=`)"), "{text}");
    }
}

/// Whether the kernel's log, which this process may read, names the calls of killed processes; a master with
/// the same rights reads the same.
fn shows_killed_calls() -> bool {
    let log = Command::new("dmesg").output().expect("dmesg");
    let is_outside = std::fs::read_link("/proc/self/ns/pid")
        .is_ok_and(|namespace| namespace.to_str() == Some("pid:[4026531836]"));
    let log = String::from_utf8_lossy(&log.stdout).into_owned();
    let names = is_outside && log.contains("type=1326");
    if !names {
        eprintln!("skipped: the name of the call, which the kernel's log does not show here");
    }
    names
}

#[test]
fn a_private_tmp_is_empty_and_nobody_else_sees_it() {
    if !nix::unistd::geteuid().is_root() {
        let (status, text) =
            Program::release().args(["run", "--private-tmp", "--", "sleep", "1000"]).run();
        assert!(status != 0 && text.contains("CAP_SYS_ADMIN"), "{status}: {text}");
        return;
    }
    let file = tempfile::NamedTempFile::new_in("/tmp").expect("a file");
    let name = file.path().file_name().and_then(|name| name.to_str()).expect("a name");
    let (mine, script) = (
        format!("{name}-private"),
        "exec >&2; echo seen=$(ls -A /tmp /var/tmp) $(grep -c ' - tmpfs release-tmp ' \
        /proc/self/mountinfo); grep ' /tmp ' /proc/self/mountinfo; id -u; : >/tmp/$0 && echo made $0; sleep 1000",
    );
    let mut options = vec!["--private-tmp", "--chdir", "/", "--output", "raw", "--workers", "2"];
    options.extend(["--user", "nobody", "--sandbox", "basic"]);
    let mut manager = run(&options, &["/bin/sh", "-c", script, &mine]);
    manager.await_ready(2);
    let made = format!("made {mine}");
    eventually("both have written", || manager.stderr().matches(&made).count() == 2);
    let said = manager.stderr();
    assert!(!said.contains(&format!(" {name} ")), "{said}");
    // Neither saw the file of the other, which was to be the first in its directory.
    assert_eq!(said.matches("seen=/tmp: /var/tmp: 2\n").count(), 2, "{said}");
    assert!(said.contains("nosuid,nodev") && said.contains("\n65534\n"), "{said}");
    assert!(!std::path::Path::new("/tmp").join(&mine).exists());
    let status = control(&manager.control(), "status");
    assert!(status.contains("\"sandbox\":\"calls, private /tmp; capabilities: none\""), "{status}");
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    // Its directory is in /tmp.
    let (status, text) =
        Program::release().args(["run", "--private-tmp", "--", "sleep", "1000"]).run();
    assert!(status != 0 && text.contains("its working directory is /tmp"), "{status}: {text}");
    if can_enforce() {
        let options = ["--private-tmp", "--chdir", "/", "--sandbox", "strict", "--output", "raw"];
        let write = "exec >&2; : >/tmp/file && read line </tmp/file; echo $?; read line <$0; exec sleep 1000";
        let options = [&options[..], &["--execute", "/bin"]].concat();
        let mut manager = run(&options, &["/bin/sh", "-c", write, "/etc/fstab"]);
        manager.await_ready(1);
        let said = || manager.stderr();
        eventually("it may write to its /tmp and nowhere else", || {
            said().contains("1\n") && said().contains("/etc/fstab: Permission denied")
        });
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
}

#[test]
fn the_status_shows_the_sandbox_after_an_upgrade() {
    let script = "test -e broken && exit 1; sleep 1000";
    let mut manager = run(&["--sandbox", "basic"], &["/bin/sh", "-c", script]);
    manager.await_ready(1);
    let sandbox = "\"sandbox\":\"calls; capabilities: none\"";
    let status = || control(&manager.control(), "status");
    assert!(status().contains(sandbox), "{}", status());
    let worker = children(manager.pid())[0];
    // The workers of the next version fail, so it goes on with this one.
    std::fs::write(manager.path("broken"), "").expect("a file");
    let answer = control(&manager.control(), "upgrade");
    assert_ne!(answer, "ok", "{}", manager.stderr());
    assert!(manager.stderr().contains("the new version takes over"), "{}", manager.stderr());
    assert!(children(manager.pid()).contains(&worker), "{}", manager.stderr());
    assert!(status().contains(sandbox), "{}", status());
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

#[test]
fn a_script_needs_its_interpreter() {
    if !can_enforce() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("script");
    std::fs::write(&script, "#!/bin/sh\nsleep 1000\n").expect("a script");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .expect("a mode");
    let script = script.to_str().expect("a path");
    let arguments = ["run", "--sandbox", "strict", "--respawn", "never", "--", script];
    let (_, text) = Program::release().args(arguments).run();
    assert!(text.contains("has to be named by `execute` (`--execute`)"), "{text}");
    let mut manager = run(&["--sandbox", "strict", "--execute", "/bin"], &[script]);
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// What the guide says is left open, by a worker that tries it: who reads on knows.
#[test]
fn what_the_guide_leaves_open_is_open() {
    if !has("perl", "-v") || !can_enforce() {
        return;
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), "12345").expect("written");
    let path = file.path().to_str().expect("a path");
    let code = r#"$| = 1; my $path = shift; use Socket;
        print STDERR "size: ", -s $path, "\n";
        print STDERR "read: ", (open(F, $path) ? "done" : "$!"), "\n";
        print STDERR "mode: ", (chmod(0600, $path) ? "done" : "$!"), "\n";
        print STDERR "program: ", (system("/bin/true") == 0 ? "done" : "$!"), "\n";
        my ($loader) = glob("/lib64/ld-linux-*.so.* /lib/ld-linux-*.so.*");
        print STDERR "loader: ", (system($loader, "/bin/true") == 0 ? "done" : "$!"), "\n";
        socket(A, PF_INET, SOCK_STREAM, 0);
        print STDERR "bind: ", (bind(A, sockaddr_in(0, INADDR_ANY)) ? "done" : "$!"), "\n";
        socket(B, PF_INET, SOCK_STREAM, 0);
        print STDERR "listen: ", (listen(B, 1) ? "done" : "$!"), "\n";
        print STDERR "end\n"; sleep 1000"#;
    let options = ["--sandbox", "strict", "--output", "raw", "--chdir", "/"];
    let perl = std::fs::canonicalize("/usr/bin/perl").expect("perl");
    let options = [&options[..], &["--execute", perl.to_str().expect("a path")]].concat();
    let mut manager = run(&options, &["/usr/bin/perl", "-e", code, path]);
    eventually("it has tried all", || manager.stderr().contains("\nend\n"));
    let said = manager.stderr();
    for line in [
        "size: 5",
        "read: Permission denied",
        "mode: done",
        "program: Permission denied",
        "loader: done",
        "bind: Permission denied",
        "listen: done",
    ] {
        assert!(said.contains(&format!("{line}\n")), "{line} is not in {said}");
    }
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// Of two commands of one account, the second looks for the environment of the first.
#[test]
fn commands_read_each_other_unless_landlock_forbids_it() {
    if !is_root("another account") || !has("perl", "-v") || !can_enforce() {
        return;
    }
    let code = r#"my $own = "SECRET=$ENV{SECRET}"; my $seen = "unseen";
        for (glob "/proc/[0-9]*/environ") {
            next if m{/$$/};
            if (open F, $_) { local $/; $seen = "seen" if index(<F>, $own) >= 0; }
        }
        print STDERR "it is $seen\n"; sleep 1000"#;
    for (number, (more, expected)) in
        [(&[][..], "it is seen"), (&["--read", "/", "--execute", "/"], "it is unseen")]
            .into_iter()
            .enumerate()
    {
        let secret = format!("SECRET={}-{number}", std::process::id());
        let options = ["--sandbox", "basic", "--user", "nobody", "--env", &secret, "--chdir", "/"];
        let options = [&options[..], &["--output", "raw"], more].concat();
        let mut manager = run(&options, &["/usr/bin/perl", "-e", code]);
        let looked = |count| {
            let said = || manager.stderr().matches("\nit is ").count() >= count;
            eventually("it has looked", said);
        };
        looked(1);
        manager.await_ready(1);
        assert_eq!(control(&manager.control(), "scale 2"), "ok", "{}", manager.stderr());
        looked(2);
        let said = manager.stderr();
        let second = said.lines().filter(|line| line.starts_with("it is ")).nth(1);
        assert_eq!(second, Some(expected), "{said}");
        assert_eq!(manager.stop(), 0, "{}", manager.stderr());
    }
}

#[test]
fn servers_in_other_languages_run_in_a_basic_sandbox() {
    if !has("python3", "3") {
        return;
    }
    let code = "import threading,subprocess,socket,time\n\
        t=threading.Thread(target=lambda:None);t.start();t.join()\n\
        assert subprocess.run(['true']).returncode==0\n\
        socket.getaddrinfo('localhost',80);print('all done',flush=True);time.sleep(1000)";
    let mut manager =
        run(&["--sandbox", "basic", "--sandbox-kill", "--output", "raw"], &["python3", "-c", code]);
    manager.await_ready(1);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// A worker of this program attacks its sibling, and is held.
fn is_held(program: Program) {
    let (name, port, _open) = victims();
    let mut probe = program.args(["--workers", "2"]).start();
    probe.await_ready(2);
    let sibling = probe.workers()[0].0;
    probe.tell(&format!("attacks {sibling} {name} {port}"));
    assert_eq!(control(&probe.control(), "restart 1"), "ok", "{}", probe.stderr());
    probe.await_ready(2);
    let log = probe.stderr();
    is_refused(|name| {
        let start = format!("attempt {name}: ");
        let line = log.lines().find_map(|line| line.split_once(&start));
        line.map(|(_, outcome)| outcome.trim().to_owned())
    });
    assert_eq!(probe.stop(), 0, "{}", probe.stderr());
}

/// The name of an abstract socket and a port, both of this process, while the sockets are open.
fn victims() -> (String, u16, (UnixListener, TcpListener)) {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let name = format!("release-test-{}-{number}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a name");
    let socket = UnixListener::bind_addr(&address).expect("a socket");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("a port").port();
    (name, port, (socket, listener))
}

on_every_backend! {
    fn a_worker_of_the_library_works_and_is_held(backend: Backend) {
        if can_enforce() {
            is_held(Program::probe(backend, "serve").args(["--sandbox"]));
        }
    }

    fn a_worker_in_its_own_sandbox_works_and_is_held(backend: Backend) {
        if can_enforce() {
            let program = Program::probe(backend, "serve");
            std::fs::write(program.path("group"), "inside").expect("the name of its group");
            is_held(program);
        }
    }

    fn a_worker_restricts_itself_or_is_told_why_not(backend: Backend) {
        let mut probe = Program::probe(backend, "enters").start();
        probe.await_ready(1);
        let log = probe.stderr();
        let entered = log.contains("sandbox: entered; Err(") && log.contains("PermissionDenied");
        let refused = log.contains("only a process with one thread")
            || log.contains("cannot enforce the part `files`");
        assert!(entered || (refused && log.contains("; Ok(())")), "{log}");
        assert_eq!(probe.stop(), 0, "{}", probe.stderr());
    }
}
