//! Accounts of this system. What a program asks to start is asked once: a version that is the master again
//! goes on with what it knows.

use std::ffi::CStr;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use serde::{Deserialize, Serialize};

use crate::start_files::looked_up;

/// What there is to know of one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) name: String,
    uid: u32,
    gid: u32,
    pub(crate) home: PathBuf,
    pub(crate) shell: PathBuf,
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        let User { name, uid, gid, dir: home, shell, .. } = user;
        Self { name, uid: uid.as_raw(), gid: gid.as_raw(), home, shell }
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
    looked_up(&format!("user:{name}"), || Ok(User::from_name(name)?.map(Account::from)))
}

pub(crate) fn user_numbered(uid: Uid) -> Result<Option<Account>, Errno> {
    looked_up(&format!("uid:{uid}"), || Ok(User::from_uid(uid)?.map(Account::from)))
}

pub(crate) fn group_named(name: &str) -> Result<Option<Gid>, Errno> {
    let number = || Ok(Group::from_name(name)?.map(|group| group.gid.as_raw()));
    looked_up(&format!("group:{name}"), number).map(|gid| gid.map(Gid::from_raw))
}

/// The groups that an account is in, beside its own.
pub(crate) fn groups_of(name: &CStr, own: Gid) -> Result<Vec<Gid>, Errno> {
    let numbers = || Ok(getgrouplist(name, own)?.into_iter().map(Gid::as_raw).collect());
    let groups: Vec<u32> = looked_up(&format!("groups:{own}:{}", name.to_string_lossy()), numbers)?;
    Ok(groups.into_iter().map(Gid::from_raw).collect())
}
