//! System calls that a sandbox should refuse, made without effect where it does not.

use super::{Failed, check};

/// A call with its number, and arguments that let it fail, or have no effect, where it is allowed.
pub(crate) struct ForbiddenCall {
    pub(crate) name: &'static str,
    number: libc::c_long,
    arguments: [libc::c_long; 4],
}

const fn call(
    name: &'static str,
    number: libc::c_long,
    arguments: [libc::c_long; 4],
) -> ForbiddenCall {
    ForbiddenCall { name, number, arguments }
}

/// A call of the x32 architecture has this bit.
#[cfg(target_arch = "x86_64")]
const X32: libc::c_long = 1 << 30;

/// `CLONE_NEWUSER`, which needs no privileges.
const NEW_USERS: libc::c_long = 1 << 28;

/// Pointers among the arguments are null.
pub(crate) const CALLS: &[ForbiddenCall] = &[
    call("setns", libc::SYS_setns, [-1, 0, 0, 0]),
    call("mount", libc::SYS_mount, [0, 0, 0, 0]),
    call("fsopen", libc::SYS_fsopen, [0, 0, 0, 0]),
    call("bpf", libc::SYS_bpf, [-1, 0, 0, 0]),
    call("io_uring_setup", libc::SYS_io_uring_setup, [1, 0, 0, 0]),
    call("userfaultfd", libc::SYS_userfaultfd, [-1, 0, 0, 0]),
    call("perf_event_open", libc::SYS_perf_event_open, [0, 0, -1, -1]),
    call("keyctl", libc::SYS_keyctl, [0, -4, 0, 0]),
    call("add_key", libc::SYS_add_key, [0, 0, 0, 0]),
    call("init_module", libc::SYS_init_module, [0, 0, 0, 0]),
    call("open_by_handle_at", libc::SYS_open_by_handle_at, [-1, 0, 0, 0]),
    call("socket(AF_PACKET)", libc::SYS_socket, [17, 3, 0, 0]),
    call("socket(AF_VSOCK)", libc::SYS_socket, [40, 1, 0, 0]),
    call("socket(IPPROTO_MPTCP)", libc::SYS_socket, [2, 1, 262, 0]),
    call("sendto(MSG_FASTOPEN)", libc::SYS_sendto, [-1, 0, 0, 0x2000_0000]),
    call("shmget", libc::SYS_shmget, [0x5245_4c45, 4096, 0, 0]),
    call("ioctl(TIOCSTI)", libc::SYS_ioctl, [1, 0x5412, 0, 0]),
    call("clone3", libc::SYS_clone3, [0, 0, 0, 0]),
    #[cfg(target_arch = "x86_64")]
    call("ptrace of x32", libc::SYS_ptrace | X32, [-1, 0, 0, 0]),
    // The last one, because it changes this process where it is allowed.
    call("unshare", libc::SYS_unshare, [NEW_USERS, 0, 0, 0]),
];

impl ForbiddenCall {
    pub(crate) fn attempt(&self) -> Result<(), Failed> {
        let [a, b, c, d] = self.arguments;
        // SAFETY: all pointers among the arguments are null, and the kernel checks them.
        check(self.name, unsafe { libc::syscall(self.number, a, b, c, d, 0, 0) }).map(drop)
    }
}

/// Attaches to a process without stopping it. The kernel detaches at the end of this process.
pub(crate) fn trace(pid: i32) -> Result<(), Failed> {
    const SEIZE: libc::c_long = 0x4206;
    let pid = libc::c_long::from(pid);
    // SAFETY: takes integers.
    check("ptrace", unsafe { libc::syscall(libc::SYS_ptrace, SEIZE, pid, 0, 0) }).map(drop)
}

/// Reads a byte at an address that no process has: only a permitted attempt fails with `EFAULT`.
pub(crate) fn read_memory(pid: i32) -> Result<(), Failed> {
    let mut byte = 0_u8;
    let own = libc::iovec { iov_base: (&raw mut byte).cast(), iov_len: 1 };
    let other = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 1 };
    // SAFETY: the kernel writes at most one byte to a variable of one.
    let read = unsafe { libc::process_vm_readv(pid, &raw const own, 1, &raw const other, 1, 0) };
    let read = libc::c_long::try_from(read).unwrap_or(-1);
    match check("process_vm_readv", read) {
        Err(Failed { errno: libc::EFAULT, .. }) => Ok(()),
        done => done.map(drop),
    }
}
