//! The system calls: the only module of the workspace that may contain unsafe code.
//!
//! Each function is one call, or one sequence that must stay together (the steps between fork and
//! exec, dropping privileges). This module does not depend on executors, frames or policies.
#![allow(unsafe_code)]

pub(crate) mod attempts;
pub(crate) mod bell;
pub(crate) mod calls;
pub(crate) mod claimed;
pub(crate) mod confinement;
pub(crate) mod creds;
pub(crate) mod epoll;
pub(crate) mod exit_status;
pub(crate) mod fds;
pub(crate) mod image;
pub(crate) mod kernel_log;
pub(crate) mod landlock;
pub(crate) mod memory;
pub(crate) mod mounts;
pub(crate) mod pidfd;
pub(crate) mod process;
pub(crate) mod resources;
pub(crate) mod rights;
pub(crate) mod seccomp;
pub(crate) mod shared_memory;
pub(crate) mod signal;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod socket;
pub(crate) mod spawn;
pub(crate) mod stacks;
pub(crate) mod steering;
pub(crate) mod threads;
pub(crate) mod untrusted;

/// A failed call, with its name in the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) call: &'static str,
    pub(crate) errno: i32,
}

impl std::fmt::Display for Failed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.call, std::io::Error::from_raw_os_error(self.errno))
    }
}

impl std::error::Error for Failed {}

/// Returns the longest beginning of so many bytes that ends with a whole letter
/// (`str::floor_char_boundary` needs Rust 1.91).
pub(crate) fn beginning(text: &str, most: usize) -> &str {
    (0..=most.min(text.len())).rev().find_map(|end| text.get(..end)).unwrap_or_default()
}

/// Turns the `-1` of a system call into its errno, without allocating.
fn check(call: &'static str, result: libc::c_long) -> Result<libc::c_long, Failed> {
    if result == -1 {
        Err(Failed { call, errno: nix::errno::Errno::last_raw() })
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::beginning;

    #[test]
    fn a_beginning_has_whole_letters() {
        let beginnings = [0, 1, 2, 3, 9].map(|most| beginning("a\u{e9}b", most));
        assert_eq!(beginnings, ["", "a", "a", "a\u{e9}", "a\u{e9}b"]);
    }
}
