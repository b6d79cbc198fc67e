//! Processes as /proc shows them.

use std::path::PathBuf;

/// A process by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs)]
pub struct Process(pub i32);

/// Whether there is a process of this number that has not ended.
#[must_use]
pub fn is_alive(pid: i32) -> bool {
    Process(pid).status("State").is_some_and(|state| !state.starts_with(['Z', 'X']))
}

/// The children of a process that have not ended.
#[must_use]
pub fn children(parent: i32) -> Vec<Process> {
    let Ok(entries) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| Process(*pid).status("PPid") == Some(parent.to_string()) && is_alive(*pid))
        .map(Process)
        .collect()
}

impl Process {
    /// A file of the process below /proc.
    #[must_use]
    pub fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    /// A line of /proc/PID/status, without its name; `None` when the process has gone.
    #[must_use]
    pub fn status(self, name: &str) -> Option<String> {
        let status = std::fs::read_to_string(self.path("status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().to_owned())
    }

    /// The numbers in a line of /proc/PID/status.
    #[must_use]
    pub fn numbers(self, name: &str) -> Vec<u32> {
        let line = self.status(name).unwrap_or_default();
        line.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    }

    /// Descriptor numbers and what they are, such as `socket:[123]`.
    #[must_use]
    pub fn descriptors(self) -> Vec<(i32, String)> {
        let Ok(entries) = std::fs::read_dir(self.path("fd")) else {
            return Vec::new();
        };
        let mut all: Vec<_> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let number = entry.file_name().to_str()?.parse().ok()?;
                let target = std::fs::read_link(entry.path()).ok()?;
                Some((number, target.to_string_lossy().into_owned()))
            })
            .collect();
        all.sort();
        all
    }

    /// The environment it was started with, each `NAME=VALUE`.
    #[must_use]
    pub fn environment(self) -> Vec<String> {
        let bytes = std::fs::read(self.path("environ")).unwrap_or_default();
        let entries = bytes.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
        entries.map(|entry| String::from_utf8_lossy(entry).into_owned()).collect()
    }

    /// The command line, its arguments separated by blanks.
    #[must_use]
    pub fn command_line(self) -> String {
        let bytes = std::fs::read(self.path("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
    }

    /// Resident memory, in KiB.
    #[must_use]
    pub fn resident_kib(self) -> u64 {
        let line = self.status("VmRSS").unwrap_or_default();
        line.split_whitespace().next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}
