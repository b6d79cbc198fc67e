//! Validations of files, using the system's metadata.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use super::Validation;
use super::accounts::{group_named, user_named};
use crate::config::{Kind, Value, read};

/// Creates a condition on the path of an existing file. Links are followed.
fn file<F>(expected: impl Into<String>, test: F) -> Validation
where
    F: Fn(&Metadata) -> Result<(), String> + Send + Sync + 'static,
{
    Validation::of_kind(Kind::String, expected, move |value| {
        test(&examined(std::fs::metadata(path(value)))?)
    })
}

/// Creates a condition on the type of a file.
fn kind_of_file(
    expected: &str,
    test: impl Fn(&std::fs::FileType) -> bool + Send + Sync + 'static,
) -> Validation {
    file(expected, move |metadata| match test(&metadata.file_type()) {
        true => Ok(()),
        false => Err(format!("it is {}", read::kind_of(metadata.file_type()))),
    })
}

fn path(value: &Value) -> &Path {
    Path::new(OsStr::from_bytes(value.as_bytes().unwrap_or_default()))
}

fn examined(result: io::Result<Metadata>) -> Result<Metadata, String> {
    result.map_err(|error| read::reason(&error))
}

/// Requires an existing file of any type but a directory.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::existing_file};
///
/// assert!(existing_file().accepts(&Value::from("/proc/version")));
/// assert!(!existing_file().accepts(&Value::from("/proc")));
/// ```
#[must_use]
pub fn existing_file() -> Validation {
    kind_of_file("an existing file", |kind| !kind.is_dir())
}

/// Requires an existing regular file that is not empty.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::nonempty_file};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("key.pem");
/// # let path = path.to_str().expect("a path in UTF-8");
/// std::fs::write(path, "")?;
/// assert!(!nonempty_file().accepts(&Value::from(path)));
/// std::fs::write(path, "secret")?;
/// assert!(nonempty_file().accepts(&Value::from(path)));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn nonempty_file() -> Validation {
    file("a file that is not empty", |metadata| match metadata.file_type() {
        kind if !kind.is_file() => Err(format!("it is {}", read::kind_of(kind))),
        _ if metadata.len() == 0 => Err("it is empty".to_owned()),
        _ => Ok(()),
    })
}

/// Requires a file or directory with exactly the given permissions, such as `0o640`. The bits for
/// set-user-id, set-group-id and sticky count too.
///
/// # Examples
///
/// ```
/// use std::os::unix::fs::PermissionsExt;
/// use release_core::config::{Value, validation::file_with_mode};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("key.pem");
/// # let path = path.to_str().expect("a path in UTF-8");
/// # std::fs::write(path, "secret")?;
/// std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o640))?;
/// assert!(file_with_mode(0o640).accepts(&Value::from(path)));
/// assert!(!file_with_mode(0o600).accepts(&Value::from(path)));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn file_with_mode(mode: u32) -> Validation {
    file(format!("a file with mode {mode:04o}"), move |metadata| match metadata.mode() & 0o7777 {
        found if found == mode => Ok(()),
        found => Err(format!("its mode is {found:04o}")),
    })
}

/// Requires a file or directory that belongs to the given user.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::file_with_owner};
///
/// assert!(file_with_owner("root").accepts(&Value::from("/proc/version")));
/// assert!(!file_with_owner("root").accepts(&Value::from("/no/such/file")));
/// ```
#[must_use]
pub fn file_with_owner(user: &str) -> Validation {
    let (expected, user) = (format!("a file of user {user}"), user.to_owned());
    file(expected, move |metadata| match user_named(&user)?.uid().as_raw() {
        uid if uid == metadata.uid() => Ok(()),
        _ => Err(format!("it belongs to the user with number {}", metadata.uid())),
    })
}

/// Requires a file or directory that belongs to the given group.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::file_with_group};
///
/// assert!(file_with_group("root").accepts(&Value::from("/proc/version")));
/// assert!(!file_with_group("root").accepts(&Value::from("/no/such/file")));
/// ```
#[must_use]
pub fn file_with_group(group: &str) -> Validation {
    let (expected, group) = (format!("a file of group {group}"), group.to_owned());
    file(expected, move |metadata| match group_named(&group)?.as_raw() {
        gid if gid == metadata.gid() => Ok(()),
        _ => Err(format!("it belongs to the group with number {}", metadata.gid())),
    })
}

/// Requires an existing directory.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::existing_directory};
///
/// assert!(existing_directory().accepts(&Value::from("/proc")));
/// assert!(!existing_directory().accepts(&Value::from("/proc/version")));
/// ```
#[must_use]
pub fn existing_directory() -> Validation {
    kind_of_file("an existing directory", std::fs::FileType::is_dir)
}

/// Requires a path in an existing directory. The file itself need not exist.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::existing_dirname};
///
/// assert!(existing_dirname().accepts(&Value::from("/proc/not-yet")));
/// assert!(!existing_dirname().accepts(&Value::from("/no/such/file")));
/// ```
#[must_use]
pub fn existing_dirname() -> Validation {
    Validation::of_kind(Kind::String, "a path in an existing directory", |value| {
        let directory = match path(value) {
            path if path.as_os_str().is_empty() => return Err("it is empty".to_owned()),
            path => match path.parent() {
                // A bare name is in the working directory, and the root is its own parent.
                Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
                Some(parent) => parent,
                None => path,
            },
        };
        match examined(std::fs::metadata(directory))?.is_dir() {
            true => Ok(()),
            false => Err("its directory is none".to_owned()),
        }
    })
}

/// Requires a block device.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::block_device};
///
/// assert!(!block_device().accepts(&Value::from("/dev/null")));
/// ```
#[must_use]
pub fn block_device() -> Validation {
    kind_of_file("a block device", FileTypeExt::is_block_device)
}

/// Requires a character device.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::character_device};
///
/// assert!(character_device().accepts(&Value::from("/dev/null")));
/// assert!(!character_device().accepts(&Value::from("/proc")));
/// ```
#[must_use]
pub fn character_device() -> Validation {
    kind_of_file("a character device", FileTypeExt::is_char_device)
}

/// Requires a symbolic link. Its target need not exist.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::symbolic_link};
///
/// assert!(symbolic_link().accepts(&Value::from("/proc/self")));
/// assert!(!symbolic_link().accepts(&Value::from("/proc/version")));
/// ```
#[must_use]
pub fn symbolic_link() -> Validation {
    Validation::of_kind(Kind::String, "a symbolic link", |value| {
        match examined(std::fs::symlink_metadata(path(value)))?.file_type() {
            kind if kind.is_symlink() => Ok(()),
            kind => Err(format!("it is {}", read::kind_of(kind))),
        }
    })
}

/// Requires a named pipe.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::named_pipe};
///
/// assert!(!named_pipe().accepts(&Value::from("/dev/null")));
/// ```
#[must_use]
pub fn named_pipe() -> Validation {
    kind_of_file("a named pipe", FileTypeExt::is_fifo)
}

/// Requires a Unix socket.
///
/// # Examples
///
/// ```
/// use std::os::unix::net::UnixListener;
/// use release_core::config::{Value, validation::unix_socket};
///
/// # let directory = tempfile::tempdir()?;
/// # let path = directory.path().join("web.sock");
/// # let path = path.to_str().expect("a path in UTF-8");
/// let _listener = UnixListener::bind(path)?;
/// assert!(unix_socket().accepts(&Value::from(path)));
/// assert!(!unix_socket().accepts(&Value::from("/dev/null")));
/// # Ok::<(), std::io::Error>(())
/// ```
#[must_use]
pub fn unix_socket() -> Validation {
    kind_of_file("a Unix socket", FileTypeExt::is_socket)
}
