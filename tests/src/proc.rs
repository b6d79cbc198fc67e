//! Processes as /proc shows them.

use std::path::PathBuf;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

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
    let all = processes().filter(|process| process.is_child_of(parent));
    all.filter(|child| is_alive(child.0)).collect()
}

/// The children of a process that have ended and were not waited for.
#[must_use]
pub fn zombies(parent: i32) -> Vec<Process> {
    let all = processes().filter(|process| process.is_child_of(parent));
    all.filter(|child| !is_alive(child.0)).collect()
}

/// All processes there are.
pub fn processes() -> impl Iterator<Item = Process> {
    numbers_in("/proc".into()).into_iter().map(Process)
}

fn numbers_in(directory: PathBuf) -> Vec<i32> {
    let entries = std::fs::read_dir(directory).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

impl Process {
    /// A file of the process below /proc.
    #[must_use]
    pub fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.0))
    }

    fn is_child_of(self, parent: i32) -> bool {
        self.status("PPid") == Some(parent.to_string())
    }

    /// Sends it a signal, if it is still there.
    pub fn signal(self, signal: Signal) {
        let _ = kill(Pid::from_raw(self.0), signal);
    }

    /// Its threads, each of which /proc shows like a process.
    #[must_use]
    pub fn threads(self) -> Vec<Self> {
        numbers_in(self.path("task")).into_iter().map(Self).collect()
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
        let numbers = numbers_in(self.path("fd")).into_iter();
        let mut all: Vec<_> = numbers
            .filter_map(|number| {
                let target = self.link(&format!("fd/{number}"))?;
                Some((number, target))
            })
            .collect();
        all.sort();
        all
    }

    /// Where a link below /proc/PID points to.
    #[must_use]
    pub fn link(self, name: &str) -> Option<String> {
        let target = std::fs::read_link(self.path(name)).ok()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// Whether a descriptor is closed by exec.
    #[must_use]
    pub fn is_close_on_exec(self, descriptor: i32) -> bool {
        let info = std::fs::read_to_string(self.path(&format!("fdinfo/{descriptor}")));
        let info = info.unwrap_or_default();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
        let flags = flags.and_then(|flags| u32::from_str_radix(flags.trim(), 8).ok());
        flags.is_some_and(|flags| flags & 0o2_000_000 != 0)
    }

    /// The numbers of /proc/PID/stat after the name and the state: the parent, the process group,
    /// the session, the terminal, ...
    #[must_use]
    pub fn stat(self) -> Vec<i64> {
        let stat = std::fs::read_to_string(self.path("stat")).unwrap_or_default();
        let numbers = stat.rsplit(')').next().unwrap_or_default();
        let numbers = numbers.split_whitespace().skip(1);
        numbers.filter_map(|number| number.parse().ok()).collect()
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
