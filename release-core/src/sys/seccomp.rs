//! Seccomp: a filter of the system calls of a process.

use super::{Failed, check};

/// One instruction of a filter: `sock_filter` of the kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Instruction {
    pub(crate) code: u16,
    pub(crate) if_true: u8,
    pub(crate) if_false: u8,
    pub(crate) value: u32,
}

#[repr(C)]
struct FilterProgram {
    length: u16,
    instructions: *const Instruction,
}

/// This architecture as a filter sees it, and as the kernel's log names it.
#[cfg(target_arch = "x86_64")]
pub(crate) const OWN_ARCHITECTURE: Option<u32> = Some(0xc000_003e);
#[cfg(target_arch = "aarch64")]
pub(crate) const OWN_ARCHITECTURE: Option<u32> = Some(0xc000_00b7);
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
pub(crate) const OWN_ARCHITECTURE: Option<u32> = None;

const SET_FILTER: libc::c_uint = 1;

/// All threads get the filter.
const OF_ALL_THREADS: libc::c_ulong = 1;

/// Returns whether the kernel has filters that refuse a call with an error.
pub(crate) fn is_supported() -> bool {
    const IS_AVAILABLE: libc::c_uint = 2;
    let (action, flags) = (libc::SECCOMP_RET_ERRNO, 0 as libc::c_ulong);
    // SAFETY: reads one number of 32 bits.
    let available =
        unsafe { libc::syscall(libc::SYS_seccomp, IS_AVAILABLE, flags, &raw const action) };
    available == 0
}

/// Puts a filter in force for the threads of this process and all that they start. Requires
/// no_new_privs. Allocates nothing.
pub(crate) fn apply(filter: &[Instruction]) -> Result<(), Failed> {
    let length = u16::try_from(filter.len()).unwrap_or(0);
    let program = FilterProgram { length, instructions: filter.as_ptr() };
    // SAFETY: reads a structure that points to so many instructions.
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, SET_FILTER, OF_ALL_THREADS, &raw const program) };
    // A positive number is a thread that has another filter.
    match check("seccomp", done)? {
        0 => Ok(()),
        _ => Err(Failed { call: "seccomp", errno: libc::EBUSY }),
    }
}
