//! The messages of the master to the page's worker. A reader of another version ignores unknown parts.

use std::collections::{BTreeMap, HashMap};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::Error;
use crate::exit::program_name;
use crate::master::figures::Figures;
use crate::master::handle::MasterHandle;
use crate::master::health::STATUS_PAGE;
use crate::master::journal::{DeathReport, EXITS, FAILED_STARTS, RELOADS, RESTARTS, UPGRADES};
use crate::master::worker_state::WorkerState;
use crate::supervise::State;
use crate::sys::beginning;
use crate::sys::process::{processor_time, resident_memory};

/// Maximum number of workers with a row of their own.
const MOST_WORKERS: usize = 300;

/// Maximum number of deaths on the page.
const MOST_DEATHS: usize = 20;

/// Maximum length of a text that a worker has chosen, in bytes.
const LONGEST_TEXT: usize = 300;

/// Whether the pool is ready, and lives.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Health {
    /// The reason why it is not.
    pub(super) not_ready: Option<String>,
    pub(super) not_live: Option<String>,
    pub(super) is_stopping: bool,
    /// Time that a process has to stop, in seconds.
    pub(super) stop_deadline_s: f64,
    /// Number of workers of the service that have a process.
    pub(super) running: usize,
}

impl Health {
    pub(super) fn of(master: &MasterHandle) -> Self {
        let reason = |checked: Result<(), Error>| checked.err().map(|error| error.to_string());
        let workers = master.status().into_iter().filter(|worker| worker.group != STATUS_PAGE);
        let runs = |worker: &WorkerState| worker.pid.is_some() || worker.draining > 0;
        // One lock for both: two in one expression would wait for each other.
        let (is_stopping, stop_deadline) = {
            let pool = master.pool();
            (pool.is_stopping(), pool.stop_deadline())
        };
        Self {
            not_ready: reason(master.check_ready()),
            not_live: reason(master.check_live()),
            is_stopping,
            stop_deadline_s: stop_deadline.as_secs_f64(),
            running: workers.filter(runs).count(),
        }
    }
}

/// Everything on the page.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PageStatus {
    /// Name of the program.
    pub(super) name: String,
    pub(super) host: String,
    pub(super) master: u32,
    pub(super) generation: u32,
    /// Run time of the service, in seconds.
    pub(super) uptime_s: f64,
    /// Time of these facts, in seconds since 1970.
    pub(super) at: f64,
    pub(super) health: Health,
    pub(super) master_memory: u64,
    /// The groups, in their order.
    pub(super) groups: Vec<PageGroup>,
    /// The latest deaths, the latest first.
    pub(super) deaths: Vec<DeathReport>,
    /// Memory and processor time over the last hour, the oldest first.
    pub(super) samples: Vec<PageSample>,
    /// Outcomes of reloads and upgrades, with their numbers.
    pub(super) reloads: Vec<(String, u64)>,
    pub(super) upgrades: Vec<(String, u64)>,
}

/// A group, with all of its workers together.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PageGroup {
    pub(super) name: String,
    /// Name of its program's file, if it is another one than the master's.
    pub(super) program: String,
    /// The library's own.
    pub(super) is_own: bool,
    pub(super) size: usize,
    /// Number of workers that it may grow to.
    pub(super) most: Option<u32>,
    pub(super) ready: usize,
    pub(super) memory: u64,
    /// Ends and restarts by cause, and failed starts, with their numbers.
    pub(super) exits: Vec<(String, u64)>,
    pub(super) restarts: Vec<(String, u64)>,
    pub(super) failed_starts: u64,
    /// Connections that wait to be accepted, and their maximum, by listener.
    pub(super) queues: Vec<(String, u32, u32)>,
    /// Names with a row.
    pub(super) workers: Vec<PageWorker>,
}

/// A worker and its process.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PageWorker {
    pub(super) id: u32,
    pub(super) pid: Option<i32>,
    pub(super) state: String,
    pub(super) is_ready: bool,
    pub(super) generation: u32,
    pub(super) restarts: u32,
    pub(super) uptime_s: f64,
    pub(super) draining: usize,
    /// Units of work in flight, such as requests.
    pub(super) in_flight: Option<u64>,
    pub(super) memory: Option<u64>,
    /// Processor time of the process, in seconds.
    pub(super) cpu_s: Option<f64>,
    /// Chosen by the worker.
    pub(super) status_text: Option<String>,
}

/// All workers together at one time, but the page's own.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct PageSample {
    /// Run time of the service, in seconds.
    pub(super) at: f64,
    pub(super) memory: u64,
    /// Busy processors, on average since the sample before.
    pub(super) processors: f64,
}

impl PageStatus {
    pub(super) async fn of(master: &MasterHandle) -> Result<Self, Error> {
        let (figures, mut deaths) = (master.figures().await?, master.history().await?);
        deaths.reverse();
        deaths.truncate(MOST_DEATHS);
        let (health, states) = (Health::of(master), master.status());
        let (generation, uptime) = (master.generation(), master.uptime());
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        // Reads files of /proc.
        let read = master.rt().unblock(move || Self {
            name: program_name(),
            host: host(),
            master: std::process::id(),
            generation,
            uptime_s: uptime.as_secs_f64(),
            at: now.as_secs_f64(),
            health,
            master_memory: memory_of(std::process::id()),
            groups: groups(&states, &figures),
            deaths,
            samples: Vec::new(),
            reloads: tally(&figures, RELOADS, ""),
            upgrades: tally(&figures, UPGRADES, ""),
        });
        read.await
    }
}

fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    name.trim().to_owned()
}

fn memory_of(pid: u32) -> u64 {
    i32::try_from(pid).ok().and_then(resident_memory).unwrap_or_default()
}

/// Returns the counts of this name and group, by cause.
fn tally(figures: &Figures, name: &str, group: &str) -> Vec<(String, u64)> {
    let its = figures.counts.iter().filter(|((its, of, _), _)| its == name && of == group);
    its.map(|((_, _, cause), count)| (cause.clone(), *count)).collect()
}

fn groups(states: &[WorkerState], figures: &Figures) -> Vec<PageGroup> {
    let mut places = BTreeMap::<&str, usize>::new();
    let mut groups = Vec::<PageGroup>::new();
    let in_flight = figures.in_flight();
    for state in states {
        let place = *places.entry(&state.group).or_insert(groups.len());
        if place == groups.len() {
            groups.push(PageGroup::new(&state.group, figures));
        }
        groups[place].add(state, &in_flight);
    }
    let mut rows = MOST_WORKERS;
    for group in &mut groups {
        // Those that need somebody to look at them come first if there is not enough room for all.
        if group.workers.len() > rows {
            group.workers.sort_by_key(|worker| worker.is_ready);
            group.workers.truncate(rows);
        }
        rows -= group.workers.len();
    }
    groups
}

impl PageGroup {
    fn new(name: &str, figures: &Figures) -> Self {
        let queues = figures.queues.iter().filter(|queue| *queue.group == *name);
        let program = figures.programs.iter().find(|(group, _)| **group == *name);
        Self {
            name: name.to_owned(),
            program: program.map(|(_, program)| program.clone()).unwrap_or_default(),
            is_own: name == STATUS_PAGE,
            most: figures.most.iter().find(|(group, _)| **group == *name).map(|(_, most)| *most),
            exits: tally(figures, EXITS, name),
            restarts: tally(figures, RESTARTS, name),
            failed_starts: tally(figures, FAILED_STARTS, name).iter().map(|(_, count)| count).sum(),
            queues: queues.map(|it| (it.listener.clone(), it.waiting, it.limit)).collect(),
            ..Self::default()
        }
    }

    fn add(&mut self, state: &WorkerState, in_flight: &HashMap<i32, u64>) {
        let memory = state.pid.and_then(resident_memory);
        let is_ready = state.state == State::Ready;
        self.size += 1;
        self.ready += usize::from(is_ready);
        self.memory += memory.unwrap_or_default();
        let text = state.status_text.as_deref();
        self.workers.push(PageWorker {
            id: state.id,
            pid: state.pid,
            state: state.state.to_string(),
            is_ready,
            generation: state.generation,
            restarts: state.restarts,
            uptime_s: state.uptime.as_secs_f64(),
            draining: state.draining,
            in_flight: state.pid.and_then(|pid| in_flight.get(&pid).copied()),
            memory,
            cpu_s: state.pid.and_then(processor_time).map(|time| time.as_secs_f64()),
            status_text: text.map(|text| beginning(text, LONGEST_TEXT).to_owned()),
        });
    }
}
