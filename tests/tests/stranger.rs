//! A worker of a master that is not of this library: it gives up root itself. Root's tests.

use std::fs::Permissions;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;

use release_tests::{
    Account, Backend, ControlClient, Program, Running, is_alive, is_root, on_every_backend,
};
use tempfile::TempDir;

/// Starts `probe stranger` with one end of a socket pair as its standard input.
fn stranger(backend: Backend, options: &[&str]) -> (Running, ControlClient) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    let running = Program::new(backend, "probe")
        .args(["stranger"])
        .args(options)
        .with(|command| {
            command.stdin(Stdio::from(OwnedFd::from(theirs)));
        })
        .start();
    (running, ControlClient(ours))
}

/// Waits until it has given up root and says so.
fn introduced(stranger: &Running, socket: &mut ControlClient) {
    let words = socket.receive().expect("a request");
    assert_eq!(String::from_utf8_lossy(&words), format!("pid {}", stranger.pid()));
    socket.send(b"welcome").expect("an answer");
}

/// The end of the connection is the worker's end.
fn leaves(mut stranger: Running, socket: ControlClient) {
    drop(socket);
    assert_eq!(stranger.wait().code(), Some(0), "{}", stranger.stderr());
}

fn refuses(backend: Backend, options: &[&str], why: &str) {
    let (mut stranger, _socket) = stranger(backend, options);
    assert_eq!(stranger.wait().code(), Some(1), "{}", stranger.stderr());
    let log = stranger.stderr();
    assert!(log.contains(why), "`{why}` is missing in: {log}");
}

/// A directory below which everything belongs to root, unlike /tmp.
fn roots_own() -> TempDir {
    let directory = tempfile::tempdir_in("/var/lib").expect("a directory");
    mode(directory.path(), 0o755);
    directory
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, Permissions::from_mode(mode)).expect("a mode");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

on_every_backend! {
    fn gives_up_root_for_good(backend: Backend) {
        if !is_root("giving up root") {
            return;
        }
        let account = Account::with_groups();
        let nobody = Account::named("nobody");
        let (daemon, bin) = (Account::named("daemon"), Account::named("bin"));
        let mut some = vec![nobody.gid, daemon.gid, bin.gid];
        some.sort_unstable();
        let cases = [
            (&account, vec![], account.groups.clone()),
            (&nobody, vec!["--groups=daemon,bin"], some),
            (&account, vec!["--groups="], vec![account.gid]),
        ];
        for (account, mut options, groups) in cases {
            options.extend(["--user", &account.name]);
            let (stranger, mut socket) = stranger(backend, &options);
            introduced(&stranger, &mut socket);
            account.is_all_of(stranger.process(), &groups);
            assert!(is_alive(stranger.pid()));
            leaves(stranger, socket);
        }
    }

    fn lives_in_another_root(backend: Backend) {
        if !is_root("chroot") {
            return;
        }
        let directory = roots_own();
        let path = text(directory.path());
        let (stranger, mut socket) = stranger(backend, &["--user", "nobody", "--chroot", path]);
        introduced(&stranger, &mut socket);
        let nobody = Account::named("nobody");
        nobody.is_all_of(stranger.process(), &nobody.groups);
        assert_eq!(stranger.process().link("root").as_deref(), Some(path));
        assert_eq!(stranger.process().link("cwd").as_deref(), Some(path));
        // A descriptor of a directory outside would be a way out.
        for (number, target) in stranger.process().descriptors() {
            assert!(!Path::new(&target).is_dir(), "{number}: {target}");
        }
        leaves(stranger, socket);
    }
}

/// Checked before there is a runtime: the same on every backend.
#[test]
fn a_root_directory_that_others_could_change_is_refused() {
    if !is_root("chroot") {
        return;
    }
    let directory = roots_own();
    let inside = |name: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        path
    };
    let (theirs, open, group) = (inside("theirs"), inside("open"), inside("group"));
    chown(&theirs, Some(65534), None).expect("an owner");
    mode(&open, 0o777);
    mode(&group, 0o775);
    let (below, link, file) =
        (inside("open/below"), directory.path().join("link"), directory.path().join("file"));
    symlink(inside("fine"), &link).expect("a link");
    std::fs::write(&file, "").expect("a file");
    let missing = directory.path().join("missing");
    let cases = [
        (text(&theirs), "does not belong to root"),
        (text(&open), "others than root may write to it"),
        (text(&group), "others than root may write to it"),
        (text(&below), "others than root may write to it"),
        (text(&link), "is reached by a symbolic link"),
        (text(&file), "it is not a directory"),
        (text(&missing), "No such file"),
        ("var/lib", "is not an absolute path"),
    ];
    for (path, why) in cases {
        refuses(Backend::Tokio, &["--user", "nobody", "--chroot", path], why);
    }
    refuses(Backend::Tokio, &["--user", "nobody", "--chroot-home"], "/nonexistent");
}

/// Checked before there is a runtime: the same on every backend.
#[test]
fn what_it_cannot_become_is_refused() {
    if !is_root("giving up root") {
        return;
    }
    refuses(Backend::Tokio, &[], "would run as root; name an account");
    refuses(Backend::Tokio, &["--chroot", "/var/lib"], "would run as root");
    for user in ["", "-1", "0", "root", "no-such-user", " nobody"] {
        refuses(Backend::Tokio, &[&format!("--user={user}")], &format!("`{user}`"));
    }
    refuses(
        Backend::Tokio,
        &["--user=nobody", "--groups=no-such-group"],
        "there is no group `no-such-group`",
    );
}

/// Without a master there is nothing to do: the same on every backend.
#[test]
fn without_a_socket_it_says_what_it_is() {
    let (code, log) = Program::new(Backend::Tokio, "probe").args(["stranger"]).run();
    assert_eq!(code, 1);
    assert!(log.contains("standard input is not a socket: this program is a worker"), "{log}");
}
