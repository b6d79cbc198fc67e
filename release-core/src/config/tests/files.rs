//! Validations of files and accounts, on real ones.

use std::fs::{File, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Group, Uid, User, getegid, geteuid, mkfifo};

use super::is_root;
use crate::config::Value;
use crate::config::validation::{self as is, Validation};

/// A directory with one of each kind of file, and links to them.
struct Zoo(tempfile::TempDir);

impl Zoo {
    fn new() -> Self {
        let zoo = Self(tempfile::tempdir().unwrap());
        File::create(zoo.path("empty")).unwrap();
        std::fs::write(zoo.path("file"), "content").unwrap();
        std::fs::create_dir(zoo.path("directory")).unwrap();
        std::fs::write(zoo.path("directory/inside"), "content").unwrap();
        mkfifo(&zoo.path("pipe"), Mode::S_IRUSR).unwrap();
        drop(UnixListener::bind(zoo.path("socket")).unwrap());
        symlink("/dev/null", zoo.path("to character")).unwrap();
        for kind in ["file", "directory", "pipe", "socket", "nothing"] {
            symlink(zoo.path(kind), zoo.path(&format!("to {kind}"))).unwrap();
        }
        zoo
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Checks that the validation accepts these files and no others.
    fn only(&self, validation: &Validation, accepted: &[&str]) {
        for entry in self.0.path().read_dir().unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let found = accepts(validation, &self.path(&name));
            assert_eq!(found, accepted.contains(&name.as_str()), "{validation:?} {name}");
        }
        assert!(!accepts(validation, &self.path("absent")));
        assert!(!accepts(validation, Path::new("")));
        assert!(!accepts(validation, Path::new("a\0b")));
        assert!(!validation.accepts(&Value::Int(1)));
    }
}

fn accepts(validation: &Validation, path: &Path) -> bool {
    validation.accepts(&Value::from(path.to_str().unwrap()))
}

#[test]
fn kinds() {
    let zoo = Zoo::new();
    let all =
        ["empty", "file", "pipe", "socket", "to character", "to file", "to pipe", "to socket"];
    zoo.only(&is::existing_file(), &all);
    zoo.only(&is::nonempty_file(), &["file", "to file"]);
    zoo.only(&is::existing_directory(), &["directory", "to directory"]);
    zoo.only(&is::character_device(), &["to character"]);
    zoo.only(&is::block_device(), &[]);
    zoo.only(&is::named_pipe(), &["pipe", "to pipe"]);
    zoo.only(&is::unix_socket(), &["socket", "to socket"]);
    let links = ["to character", "to file", "to directory", "to pipe", "to socket", "to nothing"];
    zoo.only(&is::symbolic_link(), &links);
}

#[test]
fn block_devices() {
    if !is_root() {
        return;
    }
    let zoo = Zoo::new();
    let made = mknod(&zoo.path("block"), SFlag::S_IFBLK, Mode::S_IRUSR, makedev(7, 200));
    if made.is_err() {
        return eprintln!("skipped: this root may not make devices");
    }
    symlink(zoo.path("block"), zoo.path("to block")).unwrap();
    zoo.only(&is::block_device(), &["block", "to block"]);
}

#[test]
fn modes() {
    let zoo = Zoo::new();
    for mode in [0o640, 0o4755, 0o1777, 0o000] {
        std::fs::set_permissions(zoo.path("file"), Permissions::from_mode(mode)).unwrap();
        let accepted: &[&str] = &["file", "to file"];
        assert!(accepted.iter().all(|name| accepts(&is::file_with_mode(mode), &zoo.path(name))));
        assert!(!accepts(&is::file_with_mode(mode ^ 0o001), &zoo.path("file")));
    }
    std::fs::set_permissions(zoo.path("directory"), Permissions::from_mode(0o711)).unwrap();
    assert!(accepts(&is::file_with_mode(0o711), &zoo.path("directory")));
}

#[test]
fn owners() {
    let zoo = Zoo::new();
    let me = User::from_uid(geteuid()).unwrap().expect("an account for this user").name;
    let mine = Group::from_gid(getegid()).unwrap().expect("an entry for this group").name;
    for name in ["file", "to file", "directory", "socket"] {
        assert!(accepts(&is::file_with_owner(&me), &zoo.path(name)));
        assert!(accepts(&is::file_with_group(&mine), &zoo.path(name)));
    }
    for unknown in ["no-such-account", "", "a\0b"] {
        assert!(!accepts(&is::file_with_owner(unknown), &zoo.path("file")));
        assert!(!accepts(&is::file_with_group(unknown), &zoo.path("file")));
    }
}

#[test]
fn owners_other_than_root() {
    if !is_root() {
        return;
    }
    let zoo = Zoo::new();
    let daemon = User::from_uid(Uid::from_raw(1)).unwrap().expect("an account with number 1");
    let group = Group::from_gid(Gid::from_raw(1)).unwrap().expect("a group with number 1");
    let (uid, gid) = (daemon.uid.as_raw(), group.gid.as_raw());
    std::os::unix::fs::chown(zoo.path("file"), Some(uid), Some(gid)).unwrap();
    assert!(accepts(&is::file_with_owner(&daemon.name), &zoo.path("to file")));
    assert!(accepts(&is::file_with_group(&group.name), &zoo.path("to file")));
    assert!(!accepts(&is::file_with_owner("root"), &zoo.path("to file")));
    assert!(!accepts(&is::file_with_group("root"), &zoo.path("to file")));
}

#[test]
fn directories_of_files() {
    let zoo = Zoo::new();
    for path in ["file", "absent", "directory/absent", "to directory/absent", "directory/"] {
        assert!(accepts(&is::existing_dirname(), &zoo.path(path)), "{path}");
    }
    for path in ["absent/absent", "file/absent", "to nothing/absent"] {
        assert!(!accepts(&is::existing_dirname(), &zoo.path(path)), "{path}");
    }
    for path in ["/", "/absent", "absent", "./absent"] {
        assert!(accepts(&is::existing_dirname(), Path::new(path)), "{path}");
    }
    assert!(!accepts(&is::existing_dirname(), Path::new("")));
}

#[test]
fn paths_that_are_no_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let zoo = Zoo::new();
    let path = zoo.0.path().join(std::ffi::OsStr::from_bytes(b"caf\xe9"));
    File::create(&path).unwrap();
    assert!(is::existing_file().accepts(&Value::Bytes(path.as_os_str().as_bytes().to_vec())));
}

#[test]
fn accounts() {
    let names = |name: &str| Value::from(name);
    assert!(is::existing_user().accepts(&names("root")));
    assert!(is::existing_user().accepts(&names("nobody")));
    assert!(is::unprivileged_user().accepts(&names("nobody")));
    assert!(!is::unprivileged_user().accepts(&names("root")));
    let group = Group::from_gid(Gid::from_raw(0)).unwrap().expect("a group with number 0").name;
    assert!(is::existing_group().accepts(&names(&group)));
    for validation in [is::existing_user(), is::unprivileged_user(), is::existing_group()] {
        for name in ["no-such-account", "", "a\0b", "0", "root\n"] {
            assert!(!validation.accepts(&names(name)), "{validation:?} {name:?}");
        }
        assert!(!validation.accepts(&Value::Keyword("root".into())));
    }
}
