//! The system calls that a sandbox forbids, with their names.

/// A system call of this architecture.
#[derive(Debug)]
pub(crate) struct NamedCall {
    pub(crate) number: libc::c_long,
    /// Name of its constant in the C library.
    constant: &'static str,
}

/// The numbers of the C library, and numbers that not every C library names.
mod numbers {
    #![allow(non_upper_case_globals)]

    pub(super) use libc::*;

    pub(super) const SYS_open_tree_attr: c_long = 467;
    pub(super) const SYS_kexec_file_load: c_long =
        if cfg!(target_arch = "x86_64") { 320 } else { 294 };
}

macro_rules! calls {
    ($($(#[$condition:meta])* $constant:ident,)*) => {
        &[$($(#[$condition])* NamedCall {
            number: numbers::$constant,
            constant: stringify!($constant),
        },)*]
    };
}

/// Calls that no worker needs: to inspect and change other processes, to change namespaces, mounts,
/// the machine's state, keys and the kernel, and interfaces with a history of escapes.
pub(crate) const BASIC: &[NamedCall] = calls![
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_process_madvise,
    SYS_kcmp,
    SYS_pidfd_getfd,
    SYS_unshare,
    SYS_setns,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_open_tree,
    SYS_move_mount,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    SYS_mount_setattr,
    SYS_open_tree_attr,
    SYS_swapon,
    SYS_swapoff,
    SYS_reboot,
    SYS_kexec_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_acct,
    SYS_quotactl,
    SYS_quotactl_fd,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_sethostname,
    SYS_setdomainname,
    SYS_vhangup,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_add_key,
    SYS_request_key,
    SYS_keyctl,
    SYS_fanotify_init,
    SYS_open_by_handle_at,
    SYS_kexec_file_load,
    #[cfg(target_arch = "x86_64")]
    SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    SYS_modify_ldt,
    #[cfg(target_arch = "x86_64")]
    SYS_uselib,
];

/// Calls that few workers need: to place memory and processes of others, and shared objects of the
/// System V and POSIX queues, which all processes of a user find.
pub(crate) const STRICT: &[NamedCall] = calls![
    SYS_move_pages,
    SYS_migrate_pages,
    SYS_mlockall,
    SYS_ioprio_set,
    SYS_shmget,
    SYS_shmat,
    SYS_shmctl,
    SYS_msgget,
    SYS_msgsnd,
    SYS_msgrcv,
    SYS_msgctl,
    SYS_semget,
    SYS_semop,
    SYS_semctl,
    SYS_semtimedop,
    SYS_mq_open,
    SYS_mq_unlink,
    SYS_process_mrelease,
    SYS_name_to_handle_at,
];

/// Calls that are forbidden with some arguments, or to some programs.
const SOMETIMES: &[NamedCall] = calls![SYS_chroot, SYS_clone, SYS_ioctl, SYS_socket,];

/// Returns the name of a call that a sandbox may forbid.
pub(crate) fn name(number: u32) -> Option<&'static str> {
    let mut all = BASIC.iter().chain(STRICT).chain(SOMETIMES);
    let call = all.find(|call| u32::try_from(call.number) == Ok(number))?;
    call.constant.strip_prefix("SYS_")
}

#[cfg(test)]
mod tests {
    use super::name;

    #[test]
    fn forbidden_calls_have_names() {
        let number = |call: libc::c_long| u32::try_from(call).unwrap();
        assert_eq!(name(number(libc::SYS_unshare)), Some("unshare"));
        assert_eq!(name(number(libc::SYS_shmget)), Some("shmget"));
        assert_eq!(name(number(libc::SYS_socket)), Some("socket"));
        assert_eq!(name(467), Some("open_tree_attr"));
        assert_eq!(name(number(libc::SYS_read)), None);
    }
}
