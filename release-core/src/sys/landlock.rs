//! Landlock: access of a process to files and ports, and its reach to other processes.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use super::{Failed, check};

/// Accesses to files and directories.
pub(crate) mod files {
    pub(crate) const EXECUTE: u64 = 1;
    pub(crate) const WRITE_FILE: u64 = 1 << 1;
    pub(crate) const READ_FILE: u64 = 1 << 2;
    pub(crate) const READ_DIRECTORY: u64 = 1 << 3;
    /// To remove files and directories, and to make any but devices, which are bits 6 and 11.
    pub(crate) const CHANGE_DIRECTORY: u64 =
        1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 12;
    /// To move or link a file to another directory.
    pub(crate) const REFER: u64 = 1 << 13;
    pub(crate) const TRUNCATE: u64 = 1 << 14;
    /// All accesses of version 3.
    pub(crate) const ALL: u64 = (1 << 15) - 1;
    /// Accesses that a rule of a file, not a directory, may have.
    pub(crate) const OF_FILE: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;
}

pub(crate) const BIND_TCP: u64 = 1;
pub(crate) const CONNECT_TCP: u64 = 1 << 1;

/// No abstract socket and no signal to a process outside.
pub(crate) const ISOLATED: u64 = 1 | 1 << 1;

/// All that a set of rules decides: an access in it is refused unless a rule allows it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decided {
    pub(crate) files: u64,
    pub(crate) ports: u64,
    pub(crate) reach: u64,
}

/// A file, or a directory with everything below it, and the allowed accesses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PathRule {
    pub(crate) path: CString,
    pub(crate) allowed: u64,
    /// The rule is left out if the path does not exist.
    pub(crate) is_optional: bool,
}

/// Everything that is refused, with the exceptions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct LandlockRules {
    pub(crate) decided: Decided,
    pub(crate) paths: Vec<PathRule>,
    /// TCP ports and the allowed accesses.
    pub(crate) ports: Vec<(u16, u64)>,
}

/// Name of the step that opens a path, in an error.
pub(crate) const OPENING: &str = "open (a path of the sandbox)";

#[repr(C, packed)]
struct PathAttribute {
    allowed: u64,
    parent: RawFd,
}

#[repr(C)]
struct PortAttribute {
    allowed: u64,
    port: u64,
}

const PATH_RULE: libc::c_int = 1;
const PORT_RULE: libc::c_int = 2;

/// Returns the version of the interface, at least 1.
///
/// # Errors
///
/// Returns `ENOSYS` if the kernel, or the container around this process, does not have Landlock, and
/// `EOPNOTSUPP` if it was disabled at the boot.
pub(crate) fn version() -> io::Result<u32> {
    const ASK_FOR_VERSION: libc::c_uint = 1;
    let nothing: *const Decided = std::ptr::null();
    // SAFETY: with this flag, the kernel reads no memory.
    let version = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, ASK_FOR_VERSION)
    };
    u32::try_from(version).map_err(|_| io::Error::last_os_error())
}

impl LandlockRules {
    /// Opens the paths, as this process sees them, and makes a set of rules that only has to be put in
    /// force. The file at the descriptor may be executed, too. Allocates nothing.
    pub(crate) fn create(&self, executable: Option<RawFd>) -> Result<OwnedFd, Failed> {
        let rules = create(self.decided)?;
        if self.decided.files != 0 {
            for PathRule { path, allowed, is_optional } in &self.paths {
                match open(path) {
                    Ok(file) => allow_path(rules.as_raw_fd(), file.as_raw_fd(), *allowed)?,
                    Err(_) if *is_optional => {}
                    Err(failed) => return Err(failed),
                }
            }
            if let Some(file) = executable {
                allow_path(rules.as_raw_fd(), file, files::EXECUTE | files::READ_FILE)?;
            }
        }
        for (port, allowed) in &self.ports {
            let rule = PortAttribute { allowed: *allowed, port: (*port).into() };
            add(rules.as_raw_fd(), PORT_RULE, (&raw const rule).cast())?;
        }
        Ok(rules)
    }
}

fn open(path: &CStr) -> Result<OwnedFd, Failed> {
    // SAFETY: reads a string that ends with NUL.
    let number = unsafe { libc::open(path.as_ptr(), libc::O_PATH | libc::O_CLOEXEC) };
    check(OPENING, number.into())?;
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Creates an empty set of rules. Later versions of the kernel accept the sizes of earlier ones, and
/// any version accepts a larger structure whose additional fields are zero.
fn create(decided: Decided) -> Result<OwnedFd, Failed> {
    let (size, flags) = (size_of::<Decided>(), 0 as libc::c_uint);
    // SAFETY: reads a structure of this size.
    let created = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const decided, size, flags)
    };
    let number = check("landlock_create_ruleset", created)?;
    // SAFETY: the kernel has just returned this descriptor; nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(number).unwrap_or(-1)) })
}

/// Allows the accesses that exist for this kind of file.
fn allow_path(rules: RawFd, file: RawFd, allowed: u64) -> Result<(), Failed> {
    let try_to = |allowed| {
        let rule = PathAttribute { allowed, parent: file };
        add(rules, PATH_RULE, (&raw const rule).cast())
    };
    match try_to(allowed) {
        Err(Failed { errno: libc::EINVAL, .. }) => try_to(allowed & files::OF_FILE),
        done => done,
    }
}

fn add(rules: RawFd, kind: libc::c_int, rule: *const libc::c_void) -> Result<(), Failed> {
    let flags = 0 as libc::c_uint;
    // SAFETY: reads a rule of this kind, to which the callers point.
    let added = unsafe { libc::syscall(libc::SYS_landlock_add_rule, rules, kind, rule, flags) };
    check("landlock_add_rule", added).map(drop)
}

/// Puts the rules in force for this thread and all that it starts. Requires no_new_privs. Allocates
/// nothing.
pub(crate) fn restrict(rules: RawFd) -> Result<(), Failed> {
    let flags = 0 as libc::c_uint;
    // SAFETY: takes integers.
    let done = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, rules, flags) };
    check("landlock_restrict_self", done).map(drop)
}
