//! The kernel's log, which names the system call that a filter has killed a process for.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::seccomp::OWN_ARCHITECTURE;

/// Number of bytes that are read from the end of the log.
const LENGTH: usize = 16 << 10;

/// Older records are about another process, which had the same number.
const LATEST: Duration = Duration::from_secs(10);

/// The kernel's log has the numbers of this namespace.
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// Returns the number of the system call for which a filter has just killed this process, if the log has it
/// already: the kernel writes it a moment after the death.
///
/// # Errors
///
/// Returns an error if this process may not read the log, which most systems allow only with
/// `CAP_SYSLOG`, and in a container, where processes have other numbers than in the log.
pub(crate) fn killed_for(pid: i32) -> io::Result<Option<u32>> {
    if std::fs::read_link("/proc/self/ns/pid")?.to_str() != Some(FIRST_PID_NAMESPACE) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let log = end_of_log()?;
    Ok(parse(&String::from_utf8_lossy(&log), pid, SystemTime::now()))
}

fn end_of_log() -> io::Result<Vec<u8>> {
    const READ_ALL: libc::c_int = 3;
    let mut bytes = vec![0_u8; LENGTH];
    let length = libc::c_int::try_from(LENGTH).unwrap_or(0);
    // SAFETY: the kernel writes at most as many bytes as the vector has.
    let count = unsafe { libc::syscall(libc::SYS_syslog, READ_ALL, bytes.as_mut_ptr(), length) };
    let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
    bytes.truncate(count);
    Ok(bytes)
}

/// Returns the call in the last record of a filter about this process. The kernel writes texts that
/// a process may choose, its name and its file, without spaces.
fn parse(log: &str, pid: i32, now: SystemTime) -> Option<u32> {
    let number = |line: &str, name: &str| {
        let mut words = line.split_ascii_whitespace().rev();
        words.find_map(|word| word.strip_prefix(name).map(str::to_owned))
    };
    log.lines().rev().filter_map(|line| line.split_once("audit: type=1326 audit(")).find_map(
        |(_, record)| {
            let seconds = record.split('.').next()?.parse().ok()?;
            let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds))?;
            // The clock may have been set back meanwhile.
            let is_late = now.duration_since(at).is_ok_and(|age| age <= LATEST);
            let is_its = number(record, "pid=")? == pid.to_string();
            let is_death = number(record, "sig=")? == libc::SIGSYS.to_string();
            let architecture = u32::from_str_radix(&number(record, "arch=")?, 16).ok();
            let is_own = architecture.is_some() && architecture == OWN_ARCHITECTURE;
            let call = number(record, "syscall=")?.parse().ok()?;
            (is_late && is_its && is_death && is_own).then_some(call)
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_record_about_the_process_counts() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_005);
        let own = OWN_ARCHITECTURE.unwrap();
        let record = |second: u64, pid: i32, sig: i32, arch: u32, call: u32| {
            format!(
                "<5>[  48.3] audit: type=1326 audit({second}.415:2): auid=4294967295 uid=0 gid=0 ses=1 \
                 subj=unconfined pid={pid} comm=\"s\" exe=\"/tmp/s\" sig={sig} arch={arch:x} \
                 syscall={call} compat=0 ip=0x7f code=0x80000000\n"
            )
        };
        let sig = libc::SIGSYS;
        let log = record(1_000_000, 7, sig, own, 101)
            + &record(1_000_001, 7, sig, own, 272)
            + &record(1_000_001, 8, sig, own, 1)
            + "<6>[  48.4] eth0: pid=7 syscall=2 type=1326\n";
        assert_eq!(parse(&log, 7, now), Some(272));
        assert_eq!(parse(&log, 9, now), None);
        for other in [
            record(999_990, 7, sig, own, 3),
            record(1_000_100, 7, sig, own, 3),
            record(1_000_000, 7, 9, own, 3),
            record(1_000_000, 7, sig, 0x4000_0003, 3),
            record(1_000_000, 7, sig, own, 3).replace("syscall=", "call="),
            "<5>audit: type=1326 audit(".to_owned(),
        ] {
            assert_eq!(parse(&other, 7, now), None, "{other}");
        }
    }
}
