//! The metrics of the workers, of the master and of the pool, as text.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::journal::{EXITS, FAILED_STARTS, RELOADS, RESTARTS, Tally, UPGRADES};
use super::worker_state::WorkerState;
use crate::metrics::{Exposition, MetricKind, Totals, WORK_IN_FLIGHT, gauge_in};
use crate::sys::process::{processor_time, resident_memory};
use crate::sys::shared_memory::SharedMemory;

/// The numbers that the supervisor has, beside the state of the workers.
#[derive(Debug)]
pub(crate) struct Figures {
    /// Metrics of the processes that have ended, and of this one.
    pub(crate) totals: Totals,
    /// Memory for metrics of each running process, with its group and process id.
    pub(crate) memories: Vec<(Arc<str>, i32, Arc<SharedMemory>)>,
    pub(crate) queues: Vec<ListenerQueue>,
    /// Maximum sizes of groups that grow with their load.
    pub(crate) most: Vec<(Arc<str>, u32)>,
    pub(crate) counts: BTreeMap<Tally, u64>,
    /// Programs of the groups, but for those that run this executable. Only the status page shows them.
    #[cfg_attr(not(feature = "http"), allow(dead_code))]
    pub(crate) programs: Vec<(Arc<str>, String)>,
}

/// The connections that wait for a worker.
#[derive(Debug)]
pub(crate) struct ListenerQueue {
    pub(crate) group: Arc<str>,
    pub(crate) listener: String,
    pub(crate) waiting: u32,
    pub(crate) limit: u32,
}

/// The state of the pool.
#[derive(Debug)]
pub(crate) struct PoolFigures {
    pub(crate) workers: Vec<WorkerState>,
    pub(crate) generation: u32,
    /// Run time of the service, with all earlier versions.
    pub(crate) uptime: Duration,
    pub(crate) is_ready: bool,
}

type About = (MetricKind, &'static str, &'static str);

const fn gauge(name: &'static str, help: &'static str) -> About {
    (MetricKind::Gauge, name, help)
}

const fn counter(name: &'static str, help: &'static str) -> About {
    (MetricKind::Counter, name, help)
}

/// The counts of the journal: their name, their text, and the label of the cause.
const COUNTS: [(About, &str); 5] = [
    (counter(EXITS, "Processes of workers that have ended"), "cause"),
    (counter(RESTARTS, "Ended processes in whose place others were started"), "cause"),
    (counter(FAILED_STARTS, "Processes of workers that could not be started"), ""),
    (counter(RELOADS, "Reloads, by outcome"), "outcome"),
    (counter(UPGRADES, "Upgrades, by outcome"), "outcome"),
];

impl Figures {
    /// Returns the units of work in flight of each process that has counted any.
    pub(crate) fn in_flight(&self) -> HashMap<i32, u64> {
        let counts = self.memories.iter().filter_map(|(_, pid, memory)| {
            let count = gauge_in(memory.words(), WORK_IN_FLIGHT)?;
            Some((*pid, u64::try_from(count).unwrap_or_default()))
        });
        counts.collect()
    }

    /// Returns the text in the format of OpenMetrics. Reads /proc, and all memory of the workers' metrics.
    pub(crate) fn text(mut self, pool: &PoolFigures) -> String {
        for (group, _, memory) in &self.memories {
            self.totals.add(Some(Arc::clone(group)), memory.words());
        }
        let mut text = Exposition::default();
        pool.add_to(&mut text, &self.in_flight());
        for queue in &self.queues {
            let labels = [("group", &*queue.group), ("listener", &*queue.listener)];
            let waiting = gauge("release_accept_queue", "Connections that wait to be accepted");
            text.add(waiting, &labels, queue.waiting);
            let limit = gauge("release_accept_queue_limit", "Maximum of waiting connections");
            text.add(limit, &labels, queue.limit);
        }
        for (group, most) in &self.most {
            let about = gauge("release_workers_limit", "Workers that the group may grow to");
            text.add(about, &[("group", &**group)], most);
        }
        for ((name, group, cause), count) in &self.counts {
            let Some((about, label)) = COUNTS.iter().find(|((_, known, _), _)| known == name)
            else {
                continue;
            };
            let labels = [("group", &**group), (*label, &**cause)];
            let labels: Vec<_> =
                labels.into_iter().filter(|(_, value)| !value.is_empty()).collect();
            text.add(*about, &labels, count);
        }
        let mut dropped = text.left_out(&self.totals);
        for (group, count) in self.totals.dropped() {
            *dropped.entry(group).or_default() += count;
        }
        for (group, dropped) in dropped {
            let about = gauge("release_metrics_dropped", "Metrics without room, or that differ");
            text.add(about, &[("group", group.unwrap_or_default())], dropped);
        }
        text.add_totals(&self.totals);
        text.to_string()
    }
}

impl PoolFigures {
    fn add_to(&self, text: &mut Exposition, in_flight: &HashMap<i32, u64>) {
        let number = |about, value: u64, text: &mut Exposition| text.add(about, &[], value);
        number(gauge("release_generation", "Generation that serves"), self.generation.into(), text);
        let ready = gauge("release_ready", "Whether the pool is ready for requests");
        number(ready, self.is_ready.into(), text);
        let uptime = gauge("release_uptime_seconds", "Run time of the service");
        text.add(uptime, &[], self.uptime.as_secs_f64());
        let mut states = BTreeMap::<_, u32>::new();
        for worker in &self.workers {
            *states.entry((&*worker.group, worker.state.to_string())).or_default() += 1;
        }
        for ((group, state), count) in &states {
            let about = gauge("release_workers", "Workers, by state");
            text.add(about, &[("group", group), ("state", state)], count);
        }
        for worker in &self.workers {
            worker_figures(worker, in_flight, text);
        }
        let master = i32::try_from(std::process::id()).unwrap_or_default();
        if let Some(bytes) = resident_memory(master) {
            number(
                gauge("release_master_memory_bytes", "Resident memory of the master"),
                bytes,
                text,
            );
        }
        if let Some(time) = processor_time(master) {
            let about = counter("release_master_cpu_seconds", "Processor time of the master");
            text.add(about, &[], time.as_secs_f64());
        }
    }
}

fn worker_figures(worker: &WorkerState, in_flight: &HashMap<i32, u64>, text: &mut Exposition) {
    let id = worker.id.to_string();
    let labels = [("group", &*worker.group), ("worker", &*id)];
    let draining = gauge("release_worker_draining", "Older processes of the worker that finish");
    text.add(draining, &labels, worker.draining);
    let Some(pid) = worker.pid else { return };
    let uptime = gauge("release_worker_uptime_seconds", "Run time of the worker's process");
    text.add(uptime, &labels, worker.uptime.as_secs_f64());
    if let Some(count) = in_flight.get(&pid) {
        let about = gauge("release_worker_in_flight", "Units of work in flight, such as requests");
        text.add(about, &labels, count);
    }
    if let Some(bytes) = resident_memory(pid) {
        let about = gauge("release_worker_memory_bytes", "Resident memory of the worker's process");
        text.add(about, &labels, bytes);
    }
    if let Some(time) = processor_time(pid) {
        let about = counter("release_worker_cpu_seconds", "Processor time of the worker's process");
        text.add(about, &labels, time.as_secs_f64());
    }
}
