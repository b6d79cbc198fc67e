//! `release run --workers auto`: as many as the container has processors.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use release_tests::{DEADLINE, Program, is_root};

/// How many workers start under this launcher.
#[track_caller]
fn assert_workers(launcher: &[&str], expected: usize) {
    let mut manager = Program::release_under(launcher)
        .args(["run", "--control", "control", "--workers", "auto", "--ready", "0"])
        .args(["--", "sleep", "1000"])
        .start();
    manager.await_ready(expected);
    assert_eq!(manager.stop(), 0, "{}", manager.stderr());
}

/// A control group of this test, as a container has one.
struct Group(PathBuf);

impl Group {
    /// In the hierarchy of the first version for this controller, or in the second version; says so
    /// when a test is skipped because none can be made.
    fn new(test: &str, controller: &str) -> Option<Self> {
        let (root, first) =
            (Path::new("/sys/fs/cgroup"), Path::new("/sys/fs/cgroup").join(controller));
        let is_first = first.join("cgroup.procs").exists();
        let group = if is_first { &first } else { root };
        let group = group.join(format!("release-test-{}-{controller}", std::process::id()));
        if !is_root(test) {
            return None;
        }
        let made = || {
            if !is_first {
                fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"))?;
            }
            fs::create_dir(&group)
        };
        made()
            .inspect_err(|error| eprintln!("skipped: {test} needs a control group: {error}"))
            .ok()?;
        Some(Self(group))
    }

    /// Sets what may be named otherwise in the other version.
    fn set(&self, values: &[(&str, &str)]) {
        for (name, value) in values {
            let file = self.0.join(name);
            if file.exists() {
                fs::write(&file, value).expect("a setting of the group");
            }
        }
    }

    #[track_caller]
    fn assert_workers(&self, expected: usize) {
        let enter = "echo $$ > \"$0/cgroup.procs\" && exec \"$@\"";
        assert_workers(&["sh", "-c", enter, &self.0.to_string_lossy()], expected);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes end, also those of a test that has failed.
        let deadline = Instant::now() + DEADLINE;
        while fs::remove_dir(&self.0).is_err() {
            if Instant::now() > deadline {
                eprintln!("{} is left", self.0.display());
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

#[test]
fn as_many_workers_as_processors() {
    assert_workers(&["taskset", "-c", "0"], 1);
}

#[test]
fn as_many_workers_as_the_quota_allows() {
    let Some(group) = Group::new("as_many_workers_as_the_quota_allows", "cpu") else { return };
    let processors = std::thread::available_parallelism().expect("a number").get();
    for (quota, expected) in [("50000", 1), ("100000", 1), ("150000", processors.min(2))] {
        group.set(&[("cpu.cfs_quota_us", quota), ("cpu.max", quota)]);
        group.assert_workers(expected);
    }
    group.set(&[("cpu.cfs_quota_us", "-1"), ("cpu.max", "max")]);
    group.assert_workers(processors);
}

#[test]
fn as_many_workers_as_there_are_processors_in_the_set() {
    let test = "as_many_workers_as_there_are_processors_in_the_set";
    let Some(group) = Group::new(test, "cpuset") else { return };
    group.set(&[("cpuset.mems", "0"), ("cpuset.cpus", "0")]);
    group.assert_workers(1);
}
