//! The processes of a program under test: itself, its descendants, and files that they left behind.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getsid};

use crate::sys::pidfd;
use crate::sys::process::Stat;

/// The variable by which the processes of a test are found: it holds the test's directory.
pub(super) const MARK: &str = "RELEASE_TESTING";

/// Time between two looks at the processes.
const LOOK: Duration = Duration::from_millis(5);

/// A process belongs to a program under test if it has the test's directory in its environment or as its
/// working directory, if it is in the group or the session of the program, or if its parent belongs. One
/// that was seen belongs for ever.
#[derive(Debug)]
pub(super) struct ProcessTree {
    mark: Vec<u8>,
    files: PathBuf,
    /// The members that were seen, with their start times: numbers are reused.
    seen: HashMap<i32, u64>,
    /// The program's group. Its number is not reused as long as the program was not reaped.
    pub(super) group: Option<i32>,
    /// The session that a daemon has begun.
    session: Option<i32>,
}

impl ProcessTree {
    pub(super) fn new(files: PathBuf) -> Self {
        let mark = [MARK.as_bytes(), b"=", files.as_os_str().as_bytes()].concat();
        Self { mark, files, seen: HashMap::new(), group: None, session: None }
    }

    /// Adds a daemon, and the session that it has begun.
    pub(super) fn add_daemon(&mut self, pid: i32) {
        let Some(stat) = Stat::of(pid) else { return };
        self.seen.insert(pid, stat.began);
        let own = getsid(None).ok().map(Pid::as_raw);
        self.session = Some(stat.session).filter(|session| Some(*session) != own);
    }

    /// Returns the members that run now.
    pub(super) fn running(&mut self) -> Vec<i32> {
        let own = getpid().as_raw();
        let all: HashMap<i32, Stat> = numbers()
            .filter(|pid| *pid != own)
            .filter_map(|pid| Some((pid, Stat::of(pid)?)))
            .filter(|(_, stat)| !stat.is_zombie)
            .collect();
        let mut members: HashSet<i32> =
            all.iter().filter(|(pid, stat)| self.has(**pid, stat)).map(|(pid, _)| *pid).collect();
        loop {
            let is_new =
                |pid: &i32, stat: &Stat| !members.contains(pid) && members.contains(&stat.parent);
            let more: Vec<_> =
                all.iter().filter(|(pid, stat)| is_new(pid, stat)).map(|(pid, _)| *pid).collect();
            if more.is_empty() {
                break;
            }
            members.extend(more);
        }
        self.seen.extend(members.iter().map(|pid| (*pid, all[pid].began)));
        let mut members: Vec<_> = members.into_iter().collect();
        members.sort_unstable();
        members
    }

    fn has(&self, pid: i32, stat: &Stat) -> bool {
        self.seen.get(&pid) == Some(&stat.began)
            || self.group == Some(stat.group)
            || self.session == Some(stat.session)
            || is_marked(pid, &self.mark)
            || works_in(pid, &self.files)
    }

    /// Waits until no member runs. Returns the members that still run after this time.
    pub(super) fn wait_for_none(&mut self, limit: Duration) -> Vec<i32> {
        let deadline = Instant::now() + limit;
        loop {
            let left = self.running();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Kills all members, and returns the members that cannot be killed within this time.
    pub(super) fn kill(&mut self, limit: Duration) -> Vec<i32> {
        let deadline = Instant::now() + limit;
        loop {
            let left = self.running();
            if left.is_empty() || Instant::now() > deadline {
                return left;
            }
            for pid in left {
                self.kill_one(pid);
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Kills the member, and no later process of its number.
    pub(super) fn kill_one(&self, pid: i32) {
        let Ok(process) = pidfd::pidfd_open(pid) else { return };
        if Stat::of(pid).is_some_and(|stat| self.seen.get(&pid) == Some(&stat.began)) {
            let _ = pidfd::send_signal(&process, Signal::SIGKILL);
        }
    }
}

fn numbers() -> impl Iterator<Item = i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn is_marked(pid: i32, mark: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|variable| variable == mark)
}

fn works_in(pid: i32, directory: &Path) -> bool {
    fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|path| path.starts_with(directory))
}

/// Returns the number and the command line of a process, for a message.
pub(super) fn describe(pid: i32) -> String {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let line = String::from_utf8_lossy(&line).replace('\0', " ");
    format!("process {pid} ({})", crate::printable(line.trim().as_bytes()))
}
