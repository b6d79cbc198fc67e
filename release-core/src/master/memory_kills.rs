//! Kills by the kernel because memory ran out, as its counters tell them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// The kernel, as the sender of a `SIGKILL`.
pub(crate) const OUT_OF_MEMORY: &str = "the kernel, out of memory";

/// The sender of a `SIGKILL` that may be the kernel or not.
const UNKNOWN: &str = "another process, or the kernel, out of memory";

/// How long a kill may be ago that ended a worker. Others of the group, such as programs that workers have
/// started, die of a shortage as well, and nobody reports their death.
const RECENT: Duration = Duration::from_secs(60);

/// Minimum interval between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The counter of kills in this process's control group, or in the system.
#[derive(Debug)]
pub(crate) struct MemoryKills {
    counter: PathBuf,
    /// Whether it counts the processes of this service only.
    is_own: bool,
    /// The counter at the latest look, and the time of that look.
    seen: Option<u64>,
    looked_at: Instant,
    /// Kills that have ended no worker so far, and the latest time at which they were noticed.
    kills: u64,
    noticed_at: Instant,
    /// Whether the look before was recent, so that these kills are.
    are_recent: bool,
}

/// The control group of a service contains its master and its workers.
impl Default for MemoryKills {
    fn default() -> Self {
        Self::below(Path::new("/"))
    }
}

impl MemoryKills {
    fn below(root: &Path) -> Self {
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mut counters = groups.lines().filter_map(counter_of).map(|path| root.join(path));
        let own = counters.find(|path| count(path).is_some());
        let is_own = own.is_some();
        let counter = own.unwrap_or_else(|| root.join("proc/vmstat"));
        let (seen, now) = (count(&counter), Instant::now());
        Self { counter, is_own, seen, looked_at: now, kills: 0, noticed_at: now, are_recent: true }
    }

    /// Looks at the counter, if the latest look is not very recent: the more looks, the more is known about
    /// the time of a kill.
    pub(crate) fn look(&mut self, now: Instant) {
        if now.saturating_duration_since(self.looked_at) >= LOOK {
            self.look_now(now);
        }
    }

    fn look_now(&mut self, now: Instant) {
        let since = |then: Instant| now.saturating_duration_since(then);
        if since(self.noticed_at) > RECENT {
            self.kills = 0;
        }
        let found = count(&self.counter);
        if let (Some(seen), Some(found)) = (self.seen, found)
            && found > seen
        {
            self.kills += found - seen;
            self.are_recent = since(self.looked_at) <= RECENT;
            self.noticed_at = now;
        }
        (self.seen, self.looked_at) = (found, now);
    }

    /// Returns the sender of a `SIGKILL` that has just ended a worker, and that was not sent by the master.
    pub(crate) fn killer(&mut self, now: Instant) -> &'static str {
        let could_see = self.seen.is_some();
        self.look_now(now);
        if !could_see || self.seen.is_none() {
            return UNKNOWN;
        }
        if self.kills == 0 {
            return "another process";
        }
        // Others may have died of the same shortage.
        self.kills -= 1;
        match self.is_own && self.are_recent {
            true => OUT_OF_MEMORY,
            false => UNKNOWN,
        }
    }
}

/// Returns the path of the counter for a line of `/proc/self/cgroup`, of either version.
fn counter_of(line: &str) -> Option<String> {
    let (_, group) = line.split_once(':')?;
    let (controllers, path) = group.split_once(':')?;
    match controllers {
        "" => Some(format!("sys/fs/cgroup{path}/memory.events")),
        _ if controllers.split(',').any(|name| name == "memory") => {
            Some(format!("sys/fs/cgroup/memory{path}/memory.oom_control"))
        }
        _ => None,
    }
}

/// Returns the number of kills in a file of names and numbers.
fn count(path: &Path) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix("oom_kill "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    #[test]
    fn the_counter_of_the_service_tells_the_kernel_from_others() {
        for (group, counter) in [
            (
                "0::/system.slice/a:b.service",
                "sys/fs/cgroup/system.slice/a:b.service/memory.events",
            ),
            ("9:cpu:/\n4:hugetlb,memory:/x\n0::/", "sys/fs/cgroup/memory/x/memory.oom_control"),
        ] {
            let root = tempfile::tempdir().unwrap();
            put(root.path(), "proc/self/cgroup", group);
            put(root.path(), "proc/vmstat", "oom_kill 7\n");
            put(root.path(), counter, "oom 9\noom_kill 3\noom_group_kill 0\n");
            let mut kills = MemoryKills::below(root.path());
            let now = Instant::now();
            assert_eq!(kills.killer(now), "another process");
            put(root.path(), counter, "oom 9\noom_kill 5\n");
            let killers: Vec<_> = (0..3).map(|_| kills.killer(now)).collect();
            assert_eq!(killers, [OUT_OF_MEMORY, OUT_OF_MEMORY, "another process"], "{group}");
        }
    }

    #[test]
    fn an_old_kill_is_not_the_end_of_a_worker() {
        let root = tempfile::tempdir().unwrap();
        put(root.path(), "proc/self/cgroup", "0::/x");
        let counter = "sys/fs/cgroup/x/memory.events";
        put(root.path(), counter, "oom_kill 3\n");
        let mut kills = MemoryKills::below(root.path());
        let (start, day) = (Instant::now(), Duration::from_secs(24 * 60 * 60));
        // A program that a worker has started, which a look notices in time.
        put(root.path(), counter, "oom_kill 4\n");
        kills.look(start + LOOK);
        assert_eq!(kills.killer(start + day), "another process");
        // One that nobody has noticed for a day may be the end of this worker or not.
        put(root.path(), counter, "oom_kill 5\n");
        assert_eq!(kills.killer(start + day * 2), UNKNOWN);
        assert_eq!(kills.killer(start + day * 2), "another process");
        // A worker that dies of the shortage later than the others.
        put(root.path(), counter, "oom_kill 7\n");
        assert_eq!(kills.killer(start + day * 2 + LOOK), OUT_OF_MEMORY);
        assert_eq!(kills.killer(start + day * 2 + RECENT), OUT_OF_MEMORY);
    }

    #[test]
    fn what_cannot_be_known_is_said() {
        let root = tempfile::tempdir().unwrap();
        let unknown = UNKNOWN;
        let now = Instant::now();
        assert_eq!(MemoryKills::below(root.path()).killer(now), unknown);
        put(root.path(), "proc/self/cgroup", "0::/not/visible/here\n");
        put(root.path(), "proc/vmstat", "nr_free_pages 1\noom_kill 7\n");
        let mut kills = MemoryKills::below(root.path());
        assert_eq!(kills.killer(now), "another process", "nobody was killed for memory");
        put(root.path(), "proc/vmstat", "oom_kill 8\n");
        assert_eq!(kills.killer(now), unknown);
        put(root.path(), "proc/vmstat", "");
        assert_eq!(kills.killer(now), unknown);
    }
}
