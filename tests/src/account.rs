//! Accounts of this system, and what a process is allowed.

use std::ffi::CString;

use nix::unistd::{User, getgrouplist};

use crate::Process;

/// An account without privileges.
#[derive(Clone, Debug)]
#[allow(clippy::exhaustive_structs)]
pub struct Account {
    /// Its login name.
    pub name: String,
    /// Its user.
    pub uid: u32,
    /// Its primary group.
    pub gid: u32,
    /// All its groups, in order.
    pub groups: Vec<u32>,
}

impl Account {
    /// The account of this name.
    #[must_use]
    pub fn named(name: &str) -> Self {
        let user = User::from_name(name).expect("a look-up").expect("a user");
        let c_name = CString::new(name).expect("a name");
        let groups = getgrouplist(&c_name, user.gid).expect("groups");
        let mut groups: Vec<_> = groups.iter().map(|gid| gid.as_raw()).collect();
        groups.sort_unstable();
        Self { name: name.to_owned(), uid: user.uid.as_raw(), gid: user.gid.as_raw(), groups }
    }

    /// One with supplementary groups, if this system has such an account; otherwise `nobody`.
    #[must_use]
    pub fn with_groups() -> Self {
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let members = groups.lines().filter_map(|line| line.rsplit(':').next());
        let mut names = members.flat_map(|members| members.split(','));
        let suits = |name: &&str| {
            User::from_name(name).is_ok_and(|user| {
                user.is_some_and(|user| !user.uid.is_root() && user.gid.as_raw() != 0)
            })
        };
        Self::named(names.find(suits).unwrap_or("nobody"))
    }

    /// Fails the test unless every thread of the process has become this user, with these groups
    /// and nothing else.
    #[track_caller]
    pub fn is_all_of(&self, process: Process, groups: &[u32]) {
        let threads = process.threads();
        assert!(!threads.is_empty(), "{process:?} has ended");
        for thread in threads {
            assert_eq!(thread.numbers("Uid"), [self.uid; 4]);
            assert_eq!(thread.numbers("Gid"), [self.gid; 4]);
            let mut now = thread.numbers("Groups");
            now.sort_unstable();
            assert_eq!(now, groups, "{}", self.name);
            for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
                assert_eq!(thread.status(set).as_deref(), Some("0000000000000000"), "{set}");
            }
            assert_eq!(thread.numbers("NoNewPrivs"), [1]);
        }
    }
}
