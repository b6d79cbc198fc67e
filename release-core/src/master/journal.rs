//! What happened in the pool: counts, and the latest deaths of workers.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use super::memory_kills::{MemoryKills, OUT_OF_MEMORY};
use crate::kept;
use crate::supervise::{KillReason, Report, WorkerId};
use crate::sys::beginning;
use crate::sys::exit_status::ExitStatus;

/// Maximum number of deaths that are kept.
const MOST_DEATHS: usize = 100;

/// Maximum length of a reason, which a worker may have chosen.
const LONGEST_REASON: usize = 200;

/// The death of a worker's process, as [`MasterHandle::history`](crate::MasterHandle::history) and
/// `release ctl history` report it: JSON with these names.
///
/// # Examples
///
/// ```
/// use release_core::DeathReport;
///
/// let death = r#"{"at":1732950000.5,"worker":2,"pid":77,"exit":"signal 9 (SIGKILL)","lived_s":3.5}"#;
/// let death: DeathReport = serde_json::from_str(death)?;
/// assert_eq!((death.worker, death.lived_s, death.killed), (2, Some(3.5), None));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct DeathReport {
    /// Time of the death, in seconds since 1970.
    pub at: f64,
    /// Worker id.
    pub worker: u32,
    /// Name of its group.
    pub group: String,
    /// Process id.
    pub pid: i32,
    /// Generation of the process.
    pub generation: u32,
    /// Exit status, in words.
    pub exit: String,
    /// Reason of the kill, if the master has killed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed: Option<String>,
    /// Sender of the `SIGKILL` that ended the process, if it was not the master: another process, or the
    /// kernel because memory ran out. Tells both if the kernel's counters do not distinguish them, or if the
    /// master has not looked at them for more than a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub killed_by: Option<String>,
    /// Run time of the process in seconds, if it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lived_s: Option<f64>,
    /// Whether another process was started in its place.
    pub restarted: bool,
    /// Last lines of standard output and error, at most 8 with 2 KiB, if the master forwards them. Then, if
    /// the process hung, a line for each of its threads, at most 16: where it was, as the kernel tells it.
    /// Control characters are escaped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub last_lines: Vec<String>,
}

/// A name, a group and a cause.
pub(crate) type Tally = (String, String, String);

/// The counts of the pool, and the latest deaths.
#[derive(Debug, Default)]
pub(crate) struct Journal {
    counts: BTreeMap<Tally, u64>,
    deaths: VecDeque<DeathReport>,
    /// Processes whose death is still to be reported, by worker and process id.
    running: HashMap<(u32, i32), RunningProcess>,
    memory_kills: MemoryKills,
}

#[derive(Debug)]
struct RunningProcess {
    group: String,
    /// Time since 1970.
    since: Duration,
    killed: Option<(&'static str, String)>,
    last_lines: Vec<String>,
}

impl RunningProcess {
    fn new(group: String, since: Duration) -> Self {
        Self { group, since, killed: None, last_lines: Vec::new() }
    }
}

/// Signals that no process is told to stop with: it was killed by the kernel, by itself or by force.
const CRASHES: [i32; 8] = [
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGKILL,
    libc::SIGSEGV,
    libc::SIGSYS,
];

/// Names of the counts.
pub(crate) const EXITS: &str = "release_worker_exits";
pub(crate) const RESTARTS: &str = "release_worker_restarts";
pub(crate) const FAILED_STARTS: &str = "release_failed_starts";
pub(crate) const RELOADS: &str = "release_reloads";
pub(crate) const UPGRADES: &str = "release_upgrades";

impl Journal {
    pub(crate) fn counts(&self) -> &BTreeMap<Tally, u64> {
        &self.counts
    }

    /// Returns the latest deaths, the oldest first.
    pub(crate) fn deaths(&self) -> Vec<DeathReport> {
        self.deaths.iter().cloned().collect()
    }

    /// Looks from time to time whether the kernel has killed somebody.
    pub(crate) fn look(&mut self, now: Instant) {
        self.memory_kills.look(now);
    }

    /// Notes the last lines of a process whose death is about to be reported.
    pub(crate) fn heard(&mut self, id: WorkerId, pid: i32, last_lines: Vec<String>) {
        if let Some(running) = self.running.get_mut(&(id.0, pid)) {
            running.last_lines = last_lines;
        }
    }

    /// Notes a report about a worker of this group, or about the pool.
    ///
    /// Returns the report of a death.
    pub(crate) fn see(
        &mut self,
        report: &Report,
        group: &str,
        now: SystemTime,
    ) -> Option<DeathReport> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        match report {
            Report::Started { id, pid, .. } => {
                self.running.insert((id.0, *pid), RunningProcess::new(group.to_owned(), now));
            }
            Report::Killed { id, pid, reason, .. } => {
                if let Some(running) = self.running.get_mut(&(id.0, *pid)) {
                    let words = reason.to_string();
                    let words = beginning(&words, LONGEST_REASON).to_owned();
                    running.killed = Some((cause_of(reason), words));
                }
            }
            Report::LeftBehind { id, pid, .. } => drop(self.running.remove(&(id.0, *pid))),
            Report::Died { id, pid, generation, exit, restart_in } => {
                let death = DeathReport {
                    at: seconds(now),
                    worker: id.0,
                    pid: *pid,
                    generation: *generation,
                    exit: exit.to_string(),
                    restarted: restart_in.is_some(),
                    ..DeathReport::default()
                };
                return Some(self.died(death, *exit, group, now));
            }
            Report::SpawnFailed { .. } => self.count(FAILED_STARTS, group, ""),
            Report::Reloaded { .. } => self.count(RELOADS, "", "done"),
            Report::RolledBack { .. } => self.count(RELOADS, "", "rolled_back"),
            Report::ReloadRefused { .. } => self.count(RELOADS, "", "refused"),
            Report::Upgraded { .. } => self.count(UPGRADES, "", "done"),
            Report::UpgradeRefused { .. } => self.count(UPGRADES, "", "refused"),
            Report::UpgradeRolledBack { .. } => self.count(UPGRADES, "", "rolled_back"),
            Report::Starting
            | Report::AllReady
            | Report::Stopping { .. }
            | Report::Finished { .. }
            | Report::Ready { .. }
            | Report::Extended { .. }
            | Report::WorkerStopping { .. }
            | Report::OverLimit { .. }
            | Report::TooFast { .. }
            | Report::Reloading { .. }
            | Report::Upgrading
            | Report::Resized { .. }
            | Report::Failing { .. } => {}
        }
        None
    }

    fn died(
        &mut self,
        mut death: DeathReport,
        exit: ExitStatus,
        group: &str,
        now: Duration,
    ) -> DeathReport {
        let running = self.running.remove(&(death.worker, death.pid));
        let group = running.as_ref().map_or(group, |running| &running.group);
        let killed = running.as_ref().and_then(|running| running.killed.as_ref());
        let is_sigkill = matches!(exit, ExitStatus::Signal { number: libc::SIGKILL, .. });
        let is_foreign = is_sigkill && killed.is_none();
        let killer = is_foreign.then(|| self.memory_kills.killer(Instant::now()));
        let cause = match (killed, exit) {
            (Some((cause, _)), _) => *cause,
            _ if killer == Some(OUT_OF_MEMORY) => "out_of_memory",
            (None, ExitStatus::Code(0)) => "ended",
            (None, ExitStatus::Code(_)) => "failed",
            (None, ExitStatus::Signal { .. } | ExitStatus::ForbiddenCall { .. }) => "signal",
        };
        group.clone_into(&mut death.group);
        death.killed = killed.map(|(_, words)| words.clone());
        death.killed_by = killer.map(str::to_owned);
        death.lived_s = running.as_ref().map(|running| seconds(now.saturating_sub(running.since)));
        death.last_lines = running.map(|running| running.last_lines).unwrap_or_default();
        let group = death.group.clone();
        self.count(EXITS, &group, cause);
        if death.restarted {
            self.count(RESTARTS, &group, cause);
        }
        // The ends of processes that were told to stop are no news.
        let is_crash = match exit {
            ExitStatus::Code(_) => false,
            ExitStatus::Signal { number, .. } => CRASHES.contains(&number),
            ExitStatus::ForbiddenCall { .. } => true,
        };
        let is_news = death.restarted || death.killed.is_some() || cause == "failed" || is_crash;
        if is_news {
            if self.deaths.len() == MOST_DEATHS {
                self.deaths.pop_front();
            }
            self.deaths.push_back(death.clone());
        }
        death
    }

    fn count(&mut self, name: &str, group: &str, cause: &str) {
        let tally = (name.to_owned(), group.to_owned(), cause.to_owned());
        *self.counts.entry(tally).or_default() += 1;
    }

    /// Returns the journal for the next version.
    pub(crate) fn keep(&self) -> kept::Journal {
        let count = |((name, group, cause), count): (&Tally, &u64)| {
            (name.clone(), group.clone(), cause.clone(), *count)
        };
        let running = |(&(worker, pid), running): (&(u32, i32), &RunningProcess)| kept::Running {
            worker,
            pid,
            group: running.group.clone(),
            since: millis(running.since),
            killed: running.killed.as_ref().map(|(_, words)| words.clone()),
        };
        kept::Journal {
            counts: self.counts.iter().map(count).collect(),
            deaths: self.deaths.iter().map(Into::into).collect(),
            running: self.running.iter().map(running).collect(),
        }
    }
}

impl From<kept::Journal> for Journal {
    fn from(kept: kept::Journal) -> Self {
        let running = |kept: kept::Running| {
            let since = Duration::from_millis(kept.since);
            let killed = kept.killed.map(|words| ("killed", words));
            let running = RunningProcess { killed, ..RunningProcess::new(kept.group, since) };
            ((kept.worker, kept.pid), running)
        };
        let counts = kept.counts.into_iter();
        let surplus = kept.deaths.len().saturating_sub(MOST_DEATHS);
        Self {
            counts: counts
                .map(|(name, group, cause, count)| ((name, group, cause), count))
                .collect(),
            deaths: kept.deaths.into_iter().skip(surplus).map(Into::into).collect(),
            running: kept.running.into_iter().map(running).collect(),
            memory_kills: MemoryKills::default(),
        }
    }
}

impl From<&DeathReport> for kept::Death {
    fn from(death: &DeathReport) -> Self {
        let time = |seconds| millis(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        Self {
            worker: death.worker,
            group: death.group.clone(),
            pid: death.pid,
            generation: death.generation,
            exit: death.exit.clone(),
            killed: death.killed.clone(),
            at: time(death.at),
            lived: death.lived_s.map(time),
            is_restarted: death.restarted,
            killed_by: death.killed_by.clone(),
            last_lines: death.last_lines.clone(),
        }
    }
}

impl From<kept::Death> for DeathReport {
    fn from(kept: kept::Death) -> Self {
        let time = |millis| seconds(Duration::from_millis(millis));
        Self {
            at: time(kept.at),
            worker: kept.worker,
            group: kept.group,
            pid: kept.pid,
            generation: kept.generation,
            exit: kept.exit,
            killed: kept.killed,
            lived_s: kept.lived.map(time),
            restarted: kept.is_restarted,
            killed_by: kept.killed_by,
            last_lines: kept.last_lines,
        }
    }
}

/// The cause of a death by this reason, for the metrics.
fn cause_of(reason: &KillReason) -> &'static str {
    match reason {
        KillReason::NotReady(_) => "not_ready",
        KillReason::Violation(_) => "violation",
        KillReason::Hung(_) => "hung",
        KillReason::StopDeadline => "stop_deadline",
        KillReason::StopNow => "stop_now",
    }
}

/// Returns the time in seconds since 1970.
pub(super) fn since_1970(time: SystemTime) -> f64 {
    seconds(time.duration_since(UNIX_EPOCH).unwrap_or_default())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns whole milliseconds, in seconds.
fn seconds(time: Duration) -> f64 {
    Duration::from_millis(millis(time)).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervise::WorkerId;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn run(journal: &mut Journal, pid: i32, exit: ExitStatus, restart_in: Option<Duration>) {
        let id = WorkerId(3);
        journal.see(&Report::Started { id, pid, generation: 1 }, "web", at(100));
        let died = Report::Died { id, pid, generation: 1, exit, restart_in };
        journal.see(&died, "web", at(102));
    }

    #[test]
    fn deaths_are_kept_and_ends_are_counted() {
        let mut journal = Journal::default();
        run(&mut journal, 7, ExitStatus::Code(3), Some(Duration::ZERO));
        run(&mut journal, 8, ExitStatus::Code(0), None);
        let (id, reason) = (WorkerId(3), KillReason::NotReady(Duration::from_secs(30)));
        journal.see(&Report::Started { id, pid: 9, generation: 2 }, "web", at(200));
        journal.see(&Report::Killed { id, pid: 9, generation: 2, reason }, "web", at(230));
        // The next version of the master sees the end.
        let kept = serde_json::to_string(&journal.keep()).unwrap();
        let mut journal = Journal::from(serde_json::from_str::<kept::Journal>(&kept).unwrap());
        let exit = ExitStatus::Signal { number: 9, core: false };
        let died = Report::Died { id, pid: 9, generation: 2, exit, restart_in: None };
        journal.see(&died, "other", at(231));
        let deaths = journal.deaths();
        let told: Vec<_> = deaths.iter().map(|it| (it.pid, it.lived_s, it.restarted)).collect();
        assert_eq!(told, [(7, Some(2.0), true), (9, Some(31.0), false)]);
        assert_eq!(deaths[1].killed.as_deref(), Some("not ready within 30s"));
        assert_eq!((&*deaths[1].group, &*deaths[0].exit), ("web", "exit status 3"));
        let counted = |name: &str, cause: &str| {
            let tally = (name.to_owned(), "web".to_owned(), cause.to_owned());
            journal.counts().get(&tally).copied()
        };
        assert_eq!((counted(EXITS, "failed"), counted(EXITS, "ended")), (Some(1), Some(1)));
        assert_eq!((counted(RESTARTS, "failed"), counted(RESTARTS, "ended")), (Some(1), None));
    }

    #[test]
    fn a_crash_is_kept_even_if_nothing_is_started_in_its_place() {
        let mut journal = Journal::default();
        for (pid, number) in [(1, libc::SIGSEGV), (2, libc::SIGTERM), (3, libc::SIGSYS)] {
            run(&mut journal, pid, ExitStatus::Signal { number, core: false }, None);
        }
        let pids: Vec<_> = journal.deaths().iter().map(|death| death.pid).collect();
        assert_eq!(pids, [1, 3]);
    }

    #[test]
    fn a_death_has_its_last_lines_and_the_sender_of_its_signal() {
        let mut journal = Journal::default();
        let id = WorkerId(3);
        let kill = ExitStatus::Signal { number: libc::SIGKILL, core: false };
        let killed = Report::Killed { id, pid: 8, generation: 1, reason: KillReason::StopNow };
        for pid in [7, 8] {
            journal.see(&Report::Started { id, pid, generation: 1 }, "web", at(100));
            journal.heard(id, pid, vec![format!("last words of {pid}")]);
        }
        journal.see(&killed, "web", at(101));
        for pid in [7, 8] {
            let died = Report::Died { id, pid, generation: 1, exit: kill, restart_in: None };
            journal.see(&died, "web", at(102));
        }
        journal.heard(id, 9, vec!["of nobody".to_owned()]);
        let kept = serde_json::to_string(&journal.keep()).unwrap();
        let next = Journal::from(serde_json::from_str::<kept::Journal>(&kept).unwrap());
        let deaths = next.deaths();
        assert_eq!(deaths, journal.deaths());
        assert_eq!((&*deaths[0].last_lines[0], deaths.len()), ("last words of 7", 2));
        // Nothing here is short of memory, or it cannot be told.
        assert!(deaths[0].killed_by.as_ref().unwrap().starts_with("another process"));
        assert_eq!((&deaths[1].killed_by, deaths[1].killed.is_some()), (&None, true));
    }

    #[test]
    fn the_journal_does_not_grow() {
        let mut journal = Journal::default();
        for pid in 0..1000 {
            run(&mut journal, pid, ExitStatus::Code(1), Some(Duration::ZERO));
        }
        let pids: Vec<_> = journal.deaths().iter().map(|death| death.pid).collect();
        assert_eq!(pids, (900..1000).collect::<Vec<_>>());
        assert!(journal.running.is_empty());
        // An earlier version may have kept more.
        let mut kept = journal.keep();
        kept.deaths.extend(journal.keep().deaths);
        kept.deaths[150].worker = 77;
        let next = Journal::from(kept).deaths();
        assert_eq!((next.len(), next[50].worker), (MOST_DEATHS, 77));
        assert_eq!(journal.counts().values().copied().collect::<Vec<_>>(), [1000, 1000]);
    }
}
