//! The environment variables of commands, in the conventions of systemd, einhorn and socketmaster.

use std::ffi::{CString, OsStr};

use crate::Error;
use crate::process::environment::entry;
use crate::sys::spawn::FIRST_PASSED;
use crate::worker_types::WorkerId;

/// Returns whether a variable describes the master itself: a worker would mistake it for its own.
pub(crate) fn of_the_master(name: &OsStr) -> bool {
    const NAMES: [&str; 2] = ["NOTIFY_SOCKET", "MAINPID"];
    const PREFIXES: [&str; 4] = ["LISTEN_", "WATCHDOG_", "EINHORN_", "FDSTORE"];
    let name = name.as_encoded_bytes();
    NAMES.iter().any(|own| own.as_bytes() == name)
        || PREFIXES.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
}

/// Returns the variables that describe the listeners, in the conventions of systemd, einhorn and
/// socketmaster. `LISTEN_PID` is missing, because only the child knows its pid.
pub(super) fn of_a_worker(id: WorkerId, listeners: &[String]) -> Result<Vec<CString>, Error> {
    let numbers: Vec<String> =
        (FIRST_PASSED..).zip(listeners).map(|(number, _)| number.to_string()).collect();
    let count = numbers.len().to_string();
    let mut variables = vec![
        ("EINHORN_MASTER_PID".to_owned(), std::process::id().to_string()),
        ("EINHORN_CHILD_INDEX".to_owned(), id.to_string()),
        ("EINHORN_FD_COUNT".to_owned(), count.clone()),
        ("EINHORN_FDS".to_owned(), numbers.join(" ")),
    ];
    let places = numbers.iter().enumerate();
    variables.extend(places.map(|(place, number)| (format!("EINHORN_FD_{place}"), number.clone())));
    if !listeners.is_empty() {
        variables.push(("LISTEN_FDS".to_owned(), count));
        variables.push(("LISTEN_FDNAMES".to_owned(), listeners.join(":")));
    }
    variables.into_iter().map(|(name, value)| entry(name.as_ref(), value.into())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(listeners: &[&str]) -> Vec<String> {
        let listeners: Vec<_> = listeners.iter().map(|name| (*name).to_owned()).collect();
        let variables = of_a_worker(WorkerId(7), &listeners).unwrap();
        variables.into_iter().map(|variable| variable.into_string().unwrap()).collect()
    }

    #[test]
    fn sockets_are_said_in_every_dialect() {
        let all = told(&["http", "admin"]);
        for expected in [
            "LISTEN_FDS=2",
            "LISTEN_FDNAMES=http:admin",
            "EINHORN_FDS=3 4",
            "EINHORN_FD_COUNT=2",
            "EINHORN_FD_0=3",
            "EINHORN_FD_1=4",
            "EINHORN_CHILD_INDEX=7",
            &format!("EINHORN_MASTER_PID={}", std::process::id()),
        ] {
            assert!(all.iter().any(|variable| variable == expected), "{expected} in {all:?}");
        }
        assert!(told(&[]).iter().all(|variable| !variable.starts_with("LISTEN_")));
    }

    #[test]
    fn what_is_about_the_master_is_not_for_workers() {
        for name in ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_PIDFDID", "WATCHDOG_USEC"] {
            assert!(of_the_master(name.as_ref()), "{name}");
        }
        for name in ["PATH", "NOTIFY", "MY_LISTEN_FDS"] {
            assert!(!of_the_master(name.as_ref()), "{name}");
        }
    }
}
