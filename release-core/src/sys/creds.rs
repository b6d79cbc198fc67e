//! Accounts, and dropping privileges for good.

use std::ffi::OsString;
use std::path::PathBuf;

use nix::unistd::{Gid, Uid};

use super::process::prctl;
use super::{Failed, check};

/// Buffer size for the groups of most accounts, and the kernel's maximum.
const FEW_GROUPS: usize = 256;
const MOST_GROUPS: usize = 65_536;

/// The identity of a worker, with all lookups done.
#[derive(Clone, Debug)]
pub(crate) struct ProcessCredentials {
    pub(crate) name: String,
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
    pub(crate) groups: Vec<Gid>,
    pub(crate) home: PathBuf,
    /// The name and the shell, unless the account is only a number.
    pub(crate) login: Option<(String, PathBuf)>,
    /// Keeps the right to change the root directory: the program changes it, then drops the right.
    pub(crate) may_change_root: bool,
}

impl ProcessCredentials {
    /// Returns the account's environment variables for the user. Variables without a value are
    /// unset.
    pub(crate) fn variables(&self) -> [(&'static str, Option<OsString>); 4] {
        let login = self.login.as_ref().map(|(name, _)| OsString::from(name));
        let shell = self.login.as_ref().map(|(_, shell)| shell.clone().into_os_string());
        let home = self.home.clone().into_os_string();
        [("HOME", Some(home)), ("USER", login.clone()), ("LOGNAME", login), ("SHELL", shell)]
    }

    /// Keeps the capability to change the root directory, until the program itself drops it.
    pub(crate) fn and_change_root(self) -> Self {
        Self { may_change_root: true, ..self }
    }

    /// Sets another primary group; the other groups stay.
    pub(crate) fn with_group(mut self, gid: Gid) -> Self {
        self.groups.retain(|group| *group != self.gid && *group != gid);
        self.groups.insert(0, gid);
        self.gid = gid;
        self
    }

    /// Becomes this user for good and verifies it: sets groups, gid and uid in this order,
    /// capabilities (only `kept` are left), no_new_privs, then reads every id back and tries to
    /// regain root, which must fail.
    ///
    /// For a process with one thread: capabilities and no_new_privs belong to threads. Allocates
    /// nothing, so it may run between fork and exec.
    pub(crate) fn assume(&self, kept: u64) -> Result<(), Failed> {
        let all = if self.may_change_root { kept | 1 << CHANGE_ROOT } else { kept };
        if all != 0 {
            // A capability removed from the bounding set cannot be made inheritable.
            let [low, high] = halves(all);
            let mut sets = capabilities()?;
            (sets[2], sets[5]) = (low, high);
            set_capabilities(sets)?;
            prctl("prctl(PR_SET_KEEPCAPS)", libc::PR_SET_KEEPCAPS, 1)?;
        }
        drop_bounding_set(kept)?;
        self.set_ids()?;
        keep_capabilities(all)?;
        self.verify()
    }

    fn set_ids(&self) -> Result<(), Failed> {
        let (uid, gid) = (self.uid.as_raw(), self.gid.as_raw());
        // SAFETY: `Gid` is a transparent gid_t; pointer and length come from the vector.
        let done = unsafe { libc::setgroups(self.groups.len(), self.groups.as_ptr().cast()) };
        check("setgroups", done.into())?;
        // SAFETY: takes integers.
        let done = unsafe { libc::setresgid(gid, gid, gid) };
        check("setresgid", done.into())?;
        // SAFETY: takes integers.
        let done = unsafe { libc::setresuid(uid, uid, uid) };
        check("setresuid", done.into()).map(drop)
    }

    /// Verifies the real, effective and saved ids and the groups, and tries to regain root.
    fn verify(&self) -> Result<(), Failed> {
        let wrong = |call| Err(Failed { call, errno: libc::EPERM });
        let failed = |call| move |errno: nix::errno::Errno| Failed { call, errno: errno as i32 };
        let uids = nix::unistd::getresuid().map_err(failed("getresuid"))?;
        if [uids.real, uids.effective, uids.saved] != [self.uid; 3] {
            return wrong("getresuid (the user was not changed)");
        }
        let gids = nix::unistd::getresgid().map_err(failed("getresgid"))?;
        if [gids.real, gids.effective, gids.saved] != [self.gid; 3] {
            return wrong("getresgid (the group was not changed)");
        }
        if !self.has_exactly_its_groups()? {
            return wrong("getgroups (other groups were kept)");
        }
        // SAFETY: takes integers; success would be the very failure that this checks for.
        if unsafe { libc::setresuid(u32::MAX, 0, u32::MAX) } == 0 {
            return wrong("setresuid (root could be regained)");
        }
        // SAFETY: as above.
        if unsafe { libc::setresgid(u32::MAX, 0, u32::MAX) } == 0 {
            return wrong("setresgid (root's group could be regained)");
        }
        Ok(())
    }

    fn has_exactly_its_groups(&self) -> Result<bool, Failed> {
        match self.groups.len() {
            0..=FEW_GROUPS => self.has_exactly::<FEW_GROUPS>(),
            _ => self.has_exactly::<MOST_GROUPS>(),
        }
    }

    /// The buffer is on the stack: nothing may be allocated here.
    #[inline(never)]
    fn has_exactly<const ROOM: usize>(&self) -> Result<bool, Failed> {
        let mut wanted = [0_u32; ROOM];
        let Some(wanted) = wanted.get_mut(..self.groups.len()) else { return Ok(false) };
        for (wanted, group) in wanted.iter_mut().zip(&self.groups) {
            *wanted = group.as_raw();
        }
        let mut kept = [0_u32; ROOM];
        let room = i32::try_from(ROOM).unwrap_or(i32::MAX);
        // SAFETY: the kernel writes at most as many ids as the array has room for.
        let count = unsafe { libc::getgroups(room, kept.as_mut_ptr()) };
        let count = usize::try_from(check("getgroups", count.into())?).unwrap_or(0);
        let kept = &mut kept[..count];
        wanted.sort_unstable();
        kept.sort_unstable();
        Ok(wanted == kept)
    }
}

/// Clears the ambient, permitted, effective and inheritable sets of capabilities, and prevents
/// programs from restoring any. Allocates nothing.
pub(crate) fn leave_capabilities() -> Result<(), Failed> {
    keep_capabilities(0)
}

/// Drops all capabilities but these, also for root and for the programs that it runs. Allocates
/// nothing.
pub(crate) fn leave_other_capabilities(kept: u64) -> Result<(), Failed> {
    drop_bounding_set(kept)?;
    keep_capabilities(kept)
}

/// Drops all capabilities but these, which are kept for the program that is run next, too, and
/// prevents programs from restoring any. Allocates nothing.
pub(crate) fn keep_capabilities(kept: u64) -> Result<(), Failed> {
    prctl("prctl(PR_CAP_AMBIENT)", libc::PR_CAP_AMBIENT, ambient_clear_all())?;
    let [low, high] = halves(kept);
    set_capabilities([low, low, low, high, high, high])?;
    let zero: libc::c_ulong = 0;
    let raise = libc::c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs());
    for capability in (0_u32..64).filter(|number| kept & 1 << number != 0) {
        let capability = libc::c_ulong::from(capability);
        // SAFETY: takes integers.
        let raised = unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, capability, zero, zero) };
        check("prctl(PR_CAP_AMBIENT)", raised.into())?;
    }
    prctl("prctl(PR_SET_NO_NEW_PRIVS)", libc::PR_SET_NO_NEW_PRIVS, 1).map(drop)
}

/// The lower and the upper half of a set of bits.
fn halves(set: u64) -> [u32; 2] {
    [set & u64::from(u32::MAX), set >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}

fn ambient_clear_all() -> libc::c_ulong {
    // The constant is a C int; it is the small number 4.
    libc::c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs())
}

/// Removes all capabilities but these from the bounding set, so that no exec can ever restore one.
fn drop_bounding_set(kept: u64) -> Result<(), Failed> {
    for capability in (0..64).filter(|number| kept & 1 << number == 0) {
        match prctl("prctl(PR_CAPBSET_DROP)", libc::PR_CAPBSET_DROP, capability) {
            Ok(_) => {}
            // One past the last that this kernel knows.
            Err(failed) if failed.errno == libc::EINVAL && capability > 0 => break,
            // Not root: there are no capabilities that could or need be dropped.
            Err(failed) if failed.errno == libc::EPERM => break,
            Err(failed) => return Err(failed),
        }
    }
    Ok(())
}

/// The number of `CAP_SYS_CHROOT`.
const CHANGE_ROOT: u32 = 18;

/// The effective, permitted and inheritable sets, their lower halves first.
type Capabilities = [u32; 6];

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

/// Version 3 of the interface, for this thread.
const HEADER: CapabilityHeader = CapabilityHeader { version: 0x2008_0522, pid: 0 };

fn capabilities() -> Result<Capabilities, Failed> {
    let (header, mut sets) = (HEADER, [0; 6]);
    // SAFETY: reads a header of two words, and writes two records of three words.
    let done = unsafe { libc::syscall(libc::SYS_capget, &raw const header, sets.as_mut_ptr()) };
    check("capget", done).map(|_| sets)
}

fn set_capabilities(sets: Capabilities) -> Result<(), Failed> {
    let header = HEADER;
    // SAFETY: reads a header of two words and two records of three words.
    let done = unsafe { libc::syscall(libc::SYS_capset, &raw const header, sets.as_ptr()) };
    check("capset", done).map(drop)
}

/// Makes `directory` the root of this process. The caller has checked its write permissions. The
/// time zone of the outside is kept.
pub(crate) fn enter_root(directory: &std::path::Path) -> Result<(), Failed> {
    let (epoch, mut time): (libc::time_t, _) = (0, std::mem::MaybeUninit::<libc::tm>::uninit());
    // SAFETY: reads a number, and writes one structure, for which there is room. The call's only purpose
    // is that the C library reads its files.
    unsafe { libc::localtime_r(&raw const epoch, time.as_mut_ptr()) };
    let failed = |call| move |errno: nix::errno::Errno| Failed { call, errno: errno as i32 };
    nix::unistd::chroot(directory).map_err(failed("chroot"))?;
    nix::unistd::chdir("/").map_err(failed("chdir"))
}

/// Drops the supplementary groups that root was started with: root needs none, and files that it
/// opens must belong to it alone.
pub(crate) fn leave_groups() -> Result<(), Failed> {
    if !nix::unistd::geteuid().is_root() {
        return Ok(());
    }
    // SAFETY: a count of zero reads no memory.
    let done = unsafe { libc::setgroups(0, std::ptr::null()) };
    match check("setgroups", done.into()) {
        // A user namespace may forbid it; root there has no rights outside.
        Err(Failed { errno: libc::EPERM, .. }) | Ok(_) => Ok(()),
        Err(failed) => Err(failed),
    }
}
