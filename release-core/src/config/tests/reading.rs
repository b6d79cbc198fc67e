//! Files of every type at the path of a configuration file.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::{is_root, messages};
use crate::config::{Config, Spec, key};

fn spec() -> Spec {
    Spec::new().key(key("key"))
}

/// Returns the only error of a file that cannot be read, which names the file.
fn error(path: &Path) -> String {
    let start = Instant::now();
    let errors = Config::load(path, &spec()).expect_err("no configuration file");
    assert!(start.elapsed() < Duration::from_secs(5));
    assert_eq!(errors.count(), 1);
    assert!(errors.to_string().starts_with(&format!("{}: ", path.display())), "{errors}");
    messages(&errors)
}

#[test]
fn files() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.conf");
    assert!(error(&path).contains("does not exist"));
    std::fs::write(&path, "key = 1").unwrap();
    assert!(Config::load(&path, &spec()).is_ok());
    assert!(error(&path.join("below")).contains("Not a directory"));
    assert!(error(directory.path()).contains("this is a directory"));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("x.conf", &path).unwrap();
    assert!(error(&path).contains("cannot be read"));
}

#[test]
fn pipes_sockets_and_devices() {
    let directory = tempfile::tempdir().unwrap();
    let pipe = directory.path().join("pipe");
    mkfifo(&pipe, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    assert!(error(&pipe).contains("this is a named pipe"));
    let socket = directory.path().join("socket");
    let _listener = UnixListener::bind(&socket).unwrap();
    assert!(error(&socket).contains("this is a socket"));
    assert!(error(Path::new("/dev/zero")).contains("this is a character device"));
}

#[test]
fn unreadable() {
    if nix::unistd::geteuid().is_root() {
        return eprintln!("skipped: root can read everything");
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_permissions(Permissions::from_mode(0o000)).unwrap();
    assert!(error(file.path()).contains("permission denied; check the mode and owner"));
}

#[test]
fn sizes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    // Sparse: it takes no place on the disk.
    file.as_file().set_len(1 << 30).unwrap();
    assert!(error(file.path()).contains("larger than 1048576 bytes"));
    file.as_file().set_len(0).unwrap();
    std::fs::write(file.path(), "key = 1").unwrap();
    assert!(Config::load(file.path(), &spec().size_limit(7)).is_ok());
    assert!(Config::load(file.path(), &spec().size_limit(6)).is_err());
    assert!(Config::load(file.path(), &spec().size_limit(u64::MAX)).is_ok());
}

#[test]
fn files_of_the_kernel_do_not_know_their_size() {
    // It has more than ten bytes, and reports a size of zero.
    let path = Path::new("/proc/self/status");
    assert_eq!(File::open(path).unwrap().metadata().unwrap().len(), 0);
    let errors = Config::load(path, &spec().size_limit(10)).unwrap_err();
    assert!(messages(&errors).contains("larger than 10 bytes"));
}

#[test]
fn block_devices() {
    use nix::sys::stat::{SFlag, makedev, mknod};
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("block");
    if mknod(&path, SFlag::S_IFBLK, Mode::S_IRUSR, makedev(7, 201)).is_err() {
        return eprintln!("skipped: this root may not make devices");
    }
    let message = error(&path);
    // Without the device behind it, it cannot be opened.
    assert!(message.contains("block device") || message.contains("cannot be read"), "{message}");
}

#[test]
fn names_of_files_are_printed_safely() {
    let errors = Config::load("/absent/\x1b[2J", &spec()).unwrap_err();
    assert!(errors.to_string().starts_with("/absent/\\u{1b}[2J: the configuration file does"));
}
