//! Validations of users and groups, by the system's databases.

use nix::errno::Errno;
use nix::unistd::Gid;

use super::Validation;
use crate::accounts::{self, Account};
use crate::config::{Kind, Value};

/// Requires the name of an existing user.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::existing_user};
///
/// assert!(existing_user().accepts(&Value::from("root")));
/// assert!(!existing_user().accepts(&Value::from("no-such-user")));
/// ```
#[must_use]
pub fn existing_user() -> Validation {
    Validation::of_kind(Kind::String, "the name of a user", |value| user(value).map(drop))
}

/// Requires the name of an existing user other than root: the user id is not 0.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::unprivileged_user};
///
/// assert!(!unprivileged_user().accepts(&Value::from("root")));
/// ```
#[must_use]
pub fn unprivileged_user() -> Validation {
    Validation::of_kind(Kind::String, "the name of a user other than root", |value| {
        match user(value)?.uid().is_root() {
            true => Err("this user has number 0, which is root".to_owned()),
            false => Ok(()),
        }
    })
}

/// Requires the name of an existing group.
///
/// # Examples
///
/// ```
/// use release_core::config::{Value, validation::existing_group};
///
/// assert!(existing_group().accepts(&Value::from("root")));
/// assert!(!existing_group().accepts(&Value::from("no-such-group")));
/// ```
#[must_use]
pub fn existing_group() -> Validation {
    Validation::of_kind(Kind::String, "the name of a group", |value| {
        group_named(value.as_str().unwrap_or_default()).map(drop)
    })
}

fn user(value: &Value) -> Result<Account, String> {
    user_named(value.as_str().unwrap_or_default())
}

pub(super) fn user_named(name: &str) -> Result<Account, String> {
    found(accounts::user_named(name), "user", name)
}

pub(super) fn group_named(name: &str) -> Result<Gid, String> {
    found(accounts::group_named(name), "group", name)
}

fn found<T>(result: nix::Result<Option<T>>, what: &str, name: &str) -> Result<T, String> {
    match result {
        Ok(Some(account)) => Ok(account),
        // Some libraries report a missing entry, or a name with a NUL, in this way.
        Ok(None) | Err(Errno::ENOENT | Errno::ESRCH | Errno::EINVAL) => {
            Err(format!("there is no {what} `{}`", crate::config::printable::shortened(name, 60)))
        }
        Err(errno) => Err(format!("the {what} cannot be looked up: {}", errno.desc())),
    }
}
