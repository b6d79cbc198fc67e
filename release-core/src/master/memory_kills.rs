//! Kills by the kernel because memory ran out, as its counters tell them.

use std::fs;
use std::path::{Path, PathBuf};

/// The kernel, as the sender of a `SIGKILL`.
pub(crate) const OUT_OF_MEMORY: &str = "the kernel, out of memory";

/// The counter of kills in this process's control group, or in the system.
#[derive(Debug)]
pub(crate) struct MemoryKills {
    counter: PathBuf,
    /// Whether it counts the processes of this service only.
    is_own: bool,
    /// Kills that have been told apart.
    seen: Option<u64>,
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
        Self { seen: count(&counter), counter, is_own }
    }

    /// Returns the sender of a `SIGKILL` that ended a worker, and that was not sent by the master.
    pub(crate) fn killer(&mut self) -> &'static str {
        let (Some(seen), Some(now)) = (self.seen, count(&self.counter)) else {
            return "another process, or the kernel, out of memory";
        };
        if now <= seen {
            return "another process";
        }
        // Others may have died of the same shortage.
        self.seen = Some(seen + 1);
        match self.is_own {
            true => OUT_OF_MEMORY,
            false => "another process, or the kernel, out of memory",
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
            assert_eq!(kills.killer(), "another process");
            put(root.path(), counter, "oom 9\noom_kill 5\n");
            let killers: Vec<_> = (0..3).map(|_| kills.killer()).collect();
            assert_eq!(killers, [OUT_OF_MEMORY, OUT_OF_MEMORY, "another process"], "{group}");
        }
    }

    #[test]
    fn what_cannot_be_known_is_said() {
        let root = tempfile::tempdir().unwrap();
        let unknown = "another process, or the kernel, out of memory";
        assert_eq!(MemoryKills::below(root.path()).killer(), unknown);
        put(root.path(), "proc/self/cgroup", "0::/not/visible/here\n");
        put(root.path(), "proc/vmstat", "nr_free_pages 1\noom_kill 7\n");
        let mut kills = MemoryKills::below(root.path());
        assert_eq!(kills.killer(), "another process", "nobody was killed for memory");
        put(root.path(), "proc/vmstat", "oom_kill 8\n");
        assert_eq!(kills.killer(), unknown);
        put(root.path(), "proc/vmstat", "");
        assert_eq!(kills.killer(), unknown);
    }
}
