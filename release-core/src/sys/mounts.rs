//! Mounts of a process's own: empty directories in the place of shared ones.

use std::ffi::{CStr, CString};

use super::{Failed, check};

/// Name of the empty file systems, by which /proc shows them.
const SOURCE: &CStr = c"release-tmp";

/// The calls that can fail.
pub(crate) const UNSHARE: &str = "unshare(CLONE_NEWNS)";
pub(crate) const PROPAGATION: &str = "mount(MS_SLAVE)";
pub(crate) const TMPFS: &str = "mount(tmpfs)";

/// Gives this process mounts of its own. Mounts of the system still appear there, and none of this process
/// appears elsewhere. Allocates nothing.
pub(crate) fn leave_shared_mounts() -> Result<(), Failed> {
    // SAFETY: takes an integer.
    check(UNSHARE, unsafe { libc::unshare(libc::CLONE_NEWNS) }.into())?;
    let flags = libc::MS_REC | libc::MS_SLAVE;
    mount(PROPAGATION, c"none", c"/", None, flags)
}

/// Mounts an empty file system over each of these directories that exists. Allocates nothing.
pub(crate) fn cover(directories: &[CString]) -> Result<(), Failed> {
    let flags = libc::MS_NOSUID | libc::MS_NODEV;
    // Of the memory of the machine; the group of the process pays for it.
    let options = c"mode=1777,size=10%,nr_inodes=100k";
    for directory in directories {
        match mount(TMPFS, SOURCE, directory, Some(options), flags) {
            Err(Failed { errno: libc::ENOENT, .. }) => {}
            done => done?,
        }
    }
    Ok(())
}

fn mount(
    call: &'static str,
    source: &CStr,
    target: &CStr,
    options: Option<&CStr>,
    flags: libc::c_ulong,
) -> Result<(), Failed> {
    let options = options.map_or(std::ptr::null(), CStr::as_ptr).cast();
    let (source, target, kind) = (source.as_ptr(), target.as_ptr(), c"tmpfs".as_ptr());
    // SAFETY: reads strings that end with NUL.
    check(call, unsafe { libc::mount(source, target, kind, flags, options) }.into()).map(drop)
}

/// Returns whether a process has an empty file system of [`cover`].
pub(crate) fn is_covered(pid: i32) -> bool {
    let mounts = std::fs::read(format!("/proc/{pid}/mountinfo")).unwrap_or_default();
    parse(&String::from_utf8_lossy(&mounts))
}

fn parse(mounts: &str) -> bool {
    let kinds = mounts.lines().filter_map(|line| line.split_once(" - "));
    let source = SOURCE.to_str().unwrap_or_default();
    kinds.map(|(_, kind)| kind.split(' ').take(2)).any(|kind| kind.eq(["tmpfs", source]))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn a_mount_is_known_by_its_source() {
        let line = "36 35 0:40 / /tmp rw,nosuid shared:1 - tmpfs release-tmp rw,size=1k\n";
        assert!(parse(&format!("35 1 8:1 / / rw - ext4 /dev/sda rw\n{line}")));
        assert!(!parse(&line.replace("release-tmp rw", "tmpfs rw,release-tmp")));
        assert!(!parse(""));
    }
}
