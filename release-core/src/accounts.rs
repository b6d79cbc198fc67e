//! Accounts of this system. Each lookup at the start is made once: a version that becomes master
//! again continues with its earlier answers.

use std::ffi::{CStr, CString};
use std::fmt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::kept;
use crate::start_files::looked_up;
use crate::sys::creds::ProcessCredentials;

/// The data of one account.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
}

impl From<User> for kept::Account {
    fn from(user: User) -> Self {
        let User { name, uid, gid, dir: home, shell, .. } = user;
        Self { name, uid: uid.as_raw(), gid: gid.as_raw(), home, shell }
    }
}

impl From<kept::Account> for Account {
    fn from(kept: kept::Account) -> Self {
        let kept::Account { name, uid, gid, home, shell } = kept;
        Self { name, uid, gid, home, shell }
    }
}

impl Account {
    pub(crate) fn uid(&self) -> Uid {
        Uid::from_raw(self.uid)
    }

    pub(crate) fn gid(&self) -> Gid {
        Gid::from_raw(self.gid)
    }
}

pub(crate) fn user_named(name: &str) -> Result<Option<Account>, Errno> {
    account(&format!("user:{name}"), || User::from_name(name))
}

pub(crate) fn user_numbered(uid: Uid) -> Result<Option<Account>, Errno> {
    account(&format!("uid:{uid}"), || User::from_uid(uid))
}

fn account(
    question: &str,
    look_up: impl FnOnce() -> Result<Option<User>, Errno>,
) -> Result<Option<Account>, Errno> {
    let found = looked_up(question, || Ok(look_up()?.map(kept::Account::from)))?;
    Ok(found.map(Account::from))
}

pub(crate) fn group_named(name: &str) -> Result<Option<Gid>, Errno> {
    let number = || Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    looked_up(&format!("group:{name}"), number).map(|gid| gid.map(Gid::from_raw))
}

/// Returns the groups of an account, besides its primary group.
pub(crate) fn groups_of(name: &CStr, own: Gid) -> Result<Vec<Gid>, Errno> {
    let numbers = || Ok(getgrouplist(name, own)?.into_iter().map(Gid::as_raw).collect());
    let groups: Vec<u32> = looked_up(&format!("groups:{own}:{}", name.to_string_lossy()), numbers)?;
    Ok(groups.into_iter().map(Gid::from_raw).collect())
}

/// The reason why an account cannot be used.
#[derive(Debug)]
pub(crate) enum AccountError {
    Unknown(String),
    /// Root, or an account in root's group: dropping to it would drop nothing.
    Privileged(String),
    Lookup(String, Errno),
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(name) => write!(
                f,
                "there is no user `{}`; name an account of this system (`getent passwd` lists them), \
                 or numbers such as 1000:1000",
                name.escape_debug()
            ),
            Self::Privileged(name) => write!(
                f,
                "`{}` has uid 0 or gid 0; name an account without privileges",
                name.escape_debug()
            ),
            Self::Lookup(name, errno) => {
                write!(f, "cannot look up user `{}`: {}", name.escape_debug(), errno.desc())
            }
        }
    }
}

impl std::error::Error for AccountError {}

/// Looks up an account by its login name, with the groups that `initgroups` would set, or by its
/// number. Numbers without an account are accepted as a user and a group, see [`of_numbers`].
pub(crate) fn credentials(name: &str) -> Result<ProcessCredentials, AccountError> {
    let unknown = || AccountError::Unknown(name.to_owned());
    let lookup = |errno| AccountError::Lookup(name.to_owned(), errno);
    if name.contains('\0') {
        return Err(unknown());
    }
    let user = match user_named(name).map_err(lookup)? {
        Some(user) => user,
        None => match Numbers::read(name).ok_or_else(unknown)? {
            Numbers { uid, gid: Some(gid) } => return of_numbers(name, uid, gid),
            Numbers { uid, gid: None } => match user_numbered(uid).map_err(lookup)? {
                Some(user) => user,
                None => return of_numbers(name, uid, Gid::from_raw(uid.as_raw())),
            },
        },
    };
    let c_name = CString::new(&*user.name).map_err(|_| unknown())?;
    let (uid, gid) = (user.uid(), user.gid());
    let groups = groups_of(&c_name, gid).map_err(lookup)?;
    if uid.is_root() || gid.as_raw() == 0 || is_unchanged(uid, gid) {
        return Err(AccountError::Privileged(name.to_owned()));
    }
    Ok(ProcessCredentials {
        name: name.to_owned(),
        uid,
        gid,
        groups,
        home: user.home,
        login: Some((user.name, user.shell)),
        may_change_root: false,
    })
}

/// Returns a user and a group by their numbers, without other groups. If an account has this
/// number, its home and name are included.
fn of_numbers(name: &str, uid: Uid, gid: Gid) -> Result<ProcessCredentials, AccountError> {
    if uid.is_root() || gid.as_raw() == 0 {
        return Err(AccountError::Privileged(name.to_owned()));
    }
    let lookup = |errno| AccountError::Lookup(name.to_owned(), errno);
    let account = user_numbered(uid).map_err(lookup)?;
    let (home, login) = match account {
        Some(user) => (user.home, Some((user.name, user.shell))),
        None => (PathBuf::from("/"), None),
    };
    let (name, groups, may_change_root) = (name.to_owned(), vec![gid], false);
    Ok(ProcessCredentials { name, uid, gid, groups, home, login, may_change_root })
}

/// An id of all ones means "leave unchanged" to setresuid: an account must not have it.
fn is_unchanged(uid: Uid, gid: Gid) -> bool {
    uid.as_raw() == u32::MAX || gid.as_raw() == u32::MAX
}

/// The numbers of a user and its group, written as `1000` or `1000:1000`.
struct Numbers {
    uid: Uid,
    gid: Option<Gid>,
}

impl Numbers {
    fn read(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let is_plain = text.bytes().all(|byte| byte.is_ascii_digit());
            let is_octal = text.len() > 1 && text.starts_with('0');
            let number = text.parse::<u32>().ok().filter(|_| is_plain && !is_octal);
            number.filter(|number| *number != u32::MAX)
        };
        let (uid, gid) = match text.split_once(':') {
            Some((uid, gid)) => (uid, Some(Gid::from_raw(number(gid)?))),
            None => (text, None),
        };
        Some(Self { uid: Uid::from_raw(number(uid)?), gid })
    }
}
