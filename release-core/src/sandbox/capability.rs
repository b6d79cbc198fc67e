//! Capabilities by name.

use crate::{Error, ErrorKind};

/// In the order of their numbers, without `CAP_`.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// With these, a worker could become root again.
const BACK_TO_ROOT: [&str; 4] = ["SETUID", "SETGID", "SETPCAP", "SETFCAP"];

/// Returns the bit of a capability, by its name with or without `CAP_`, in any case.
pub(super) fn bit(name: &str) -> Result<u64, Error> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    let refuse = |why: &str| {
        let name = name.escape_debug();
        Err(Error::new(ErrorKind::Usage, format!("the capability `{name}` {why}")))
    };
    if BACK_TO_ROOT.contains(&short) {
        return refuse("cannot be kept: a worker with it could become root again");
    }
    match NAMES.iter().position(|known| *known == short) {
        Some(number) => Ok(1 << number),
        None => refuse("does not exist; capabilities(7) lists them, such as NET_BIND_SERVICE"),
    }
}

/// Returns the names of a set, or `none`.
pub(super) fn names(set: u64) -> String {
    let named = (0..64).filter(|number| set & 1 << number != 0).map(|number: usize| {
        NAMES.get(number).map_or_else(|| number.to_string(), |name| (*name).to_owned())
    });
    match set {
        0 => "none".to_owned(),
        _ if set.count_ones() >= 38 => "all".to_owned(),
        _ => named.collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_names() {
        assert_eq!(bit("NET_BIND_SERVICE").unwrap(), 1 << 10);
        assert_eq!(bit("cap_checkpoint_restore").unwrap(), 1 << 40);
        assert_eq!(names(1 << 10 | 1 << 63), "NET_BIND_SERVICE, 63");
        assert_eq!(names(0), "none");
        for (name, words) in [("SETUID", "root again"), ("NET", "`NET` does not exist")] {
            let why = bit(name).unwrap_err().report();
            assert!(why.contains(words), "{why}");
        }
    }
}
