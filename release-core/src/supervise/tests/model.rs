//! What must be true, written once more and naively: the facts of the world, and what follows.

mod promises;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::supervise::*;

/// A process that was started and has not been reaped.
pub(super) struct Process {
    pub(super) pid: i32,
    started: Moment,
    /// When it is killed if it is not ready.
    ready_by: Moment,
    /// When it was told to end, or said that it does, and when it is killed if it has not.
    ends: Option<(Moment, Moment)>,
    pub(super) ready: Option<Moment>,
    violated: bool,
    hung: bool,
    asked: bool,
    killed: bool,
}

impl Process {
    /// Whether it had its time to end.
    fn is_late(&self, now: Moment) -> bool {
        self.ends.is_some_and(|(_, kill_by)| kill_by <= now)
    }

    /// Whether the pool has told it to end, or it does so of itself.
    pub(super) fn is_doomed(&self) -> bool {
        self.asked || self.killed
    }
}

/// What is known of a worker beside its process.
#[derive(Default)]
struct Memory {
    starts: u32,
    early_deaths: u32,
    failed_starts: u32,
    was_ready: bool,
    /// The earliest and the latest moment of the next start.
    due: Option<(Moment, Moment)>,
    /// The bounds of the delay that the next report must name.
    delay: Option<(Duration, Duration)>,
}

/// The deaths of a group.
#[derive(Default)]
struct Deaths {
    at: Vec<Moment>,
    slow: bool,
    /// Whether the pool has yet to say that they became too many.
    unsaid: bool,
}

pub(super) struct Model {
    specs: Vec<GroupSpec>,
    stop_deadline: Duration,
    pub(super) live: BTreeMap<WorkerId, Process>,
    pub(super) spawning: BTreeSet<WorkerId>,
    workers: BTreeMap<WorkerId, (usize, Memory)>,
    deaths: Vec<Deaths>,
    started: bool,
    kill_at: Option<Moment>,
    forced: bool,
    failed: bool,
    all_ready: bool,
    killed: usize,
    said_all_ready: bool,
    said_failing: bool,
    pub(super) done: Option<Outcome>,
}

impl Model {
    pub(super) fn new(specs: Vec<GroupSpec>, stop_deadline: Duration) -> Self {
        let groups = specs.iter().enumerate();
        let groups = groups.flat_map(|(group, spec)| (0..spec.size).map(move |_| group));
        let workers = (0..).map(WorkerId).zip(groups);
        Self {
            workers: workers.map(|(id, group)| (id, (group, Memory::default()))).collect(),
            deaths: specs.iter().map(|_| Deaths::default()).collect(),
            specs,
            stop_deadline,
            live: BTreeMap::new(),
            spawning: BTreeSet::new(),
            started: false,
            kill_at: None,
            forced: false,
            failed: false,
            all_ready: false,
            killed: 0,
            said_all_ready: false,
            said_failing: false,
            done: None,
        }
    }

    fn stopping(&self) -> bool {
        self.kill_at.is_some() || self.forced
    }

    fn running(&self) -> bool {
        self.started && !self.stopping()
    }

    /// What an event makes true. The pool is told afterwards.
    pub(super) fn note(&mut self, event: &Event, now: Moment) {
        match *event {
            _ if self.done.is_some() => {}
            Event::Start => self.started |= !self.stopping(),
            Event::Stop => self.stop(now),
            Event::StopNow => self.forced = true,
            Event::Fail { .. } | Event::TaskFailed { .. } => self.fail(now),
            Event::Spawned { id, pid } => self.spawned(id, pid, now),
            Event::SpawnFailed { id, .. } => {
                if self.spawning.remove(&id) {
                    self.lost(id, None, now);
                }
            }
            Event::Ready { id, pid } => self.ready(id, pid, now),
            Event::Violation { id, pid, .. } => {
                if let Some(process) = self.live.get_mut(&id) {
                    process.violated |= process.pid == pid;
                }
            }
            Event::Hung { id, pid, .. } => {
                if let Some(process) = self.live.get_mut(&id) {
                    let at_work = process.ready.is_some() && !process.is_doomed();
                    process.hung |= process.pid == pid && at_work;
                }
            }
            Event::Exited { id, pid, exit } => {
                if self.live.get(&id).is_some_and(|p| p.pid == pid) {
                    let process = self.live.remove(&id);
                    self.lost(id, process.as_ref().map(|process| (process, exit)), now);
                }
            }
            Event::KillFailed { id, pid, .. } => self.kill_failed(id, pid, now),
            Event::Extend { id, pid, time } => self.extend(id, pid, time, now),
            Event::Stopping { id, pid } => {
                if let Some(process) = self.live.get_mut(&id)
                    && process.pid == pid
                    && !process.is_doomed()
                {
                    process.asked = true;
                    process.ends = Some((now, now + self.stop_deadline));
                }
            }
            Event::Status { .. } => {}
            Event::Change { .. } | Event::Prepared(_) | Event::Measured(_) | Event::Tick => {}
            Event::Tried(_) | Event::NotHandedOver { .. } | Event::Rejoin { .. } => {}
            Event::Backlog(_) | Event::Load { .. } => {}
        }
        self.all_ready |= self.running() && self.workers.values().all(|(_, m)| m.was_ready);
    }

    fn ready(&mut self, id: WorkerId, pid: i32, now: Moment) {
        if let Some(process) = self.live.get_mut(&id)
            && process.pid == pid
            && process.ready.is_none()
            && !process.is_doomed()
        {
            process.ready = Some(now);
            self.was_ready(id);
        }
    }

    fn kill_failed(&mut self, id: WorkerId, pid: i32, now: Moment) {
        if self.live.get(&id).is_some_and(|process| process.pid == pid) {
            let process = self.live.remove(&id);
            match self.running() && self.all_ready {
                true => self.lost(id, process.as_ref().map(|it| (it, ExitStatus::Code(-1))), now),
                false => self.fail(now),
            }
        }
    }

    /// Nobody gets less time than before, nor more than ten times what there is.
    fn extend(&mut self, id: WorkerId, pid: i32, time: Duration, now: Moment) {
        let Some(&(group, _)) = self.workers.get(&id) else { return };
        let (timeout, is_message) = {
            let spec = &self.specs[group];
            (spec.restart.ready_timeout, spec.ready == Ready::Message)
        };
        let Some(process) = self.live.get_mut(&id) else { return };
        if process.pid != pid || process.killed {
            return;
        }
        if let Some((began, kill_by)) = process.ends {
            let kill_by = kill_by.max((now + time).min(began + self.stop_deadline * 10));
            process.ends = Some((began, kill_by));
            self.kill_at = self.kill_at.map(|at| at.max(kill_by));
        } else if process.ready.is_none() && is_message {
            let last = process.started + timeout * 10;
            process.ready_by = process.ready_by.max((now + time).min(last));
        }
    }

    fn stop(&mut self, now: Moment) {
        if !self.stopping() {
            let granted = self.live.values().filter(|it| !it.killed);
            let granted = granted.filter_map(|it| it.ends).map(|(_, kill_by)| kill_by);
            self.kill_at = granted.chain([now + self.stop_deadline]).max();
        }
    }

    fn fail(&mut self, now: Moment) {
        self.stop(now);
        self.failed = true;
    }

    fn was_ready(&mut self, id: WorkerId) {
        let (_, memory) = self.workers.get_mut(&id).unwrap();
        memory.was_ready = true;
        memory.failed_starts = 0;
    }

    fn spawned(&mut self, id: WorkerId, pid: i32, now: Moment) {
        if !self.spawning.remove(&id) {
            return;
        }
        let (group, memory) = self.workers.get_mut(&id).unwrap();
        memory.starts += 1;
        let spec = &self.specs[*group];
        let at_once = spec.ready == Ready::AtOnce;
        let process = Process {
            pid,
            started: now,
            ready_by: now + spec.restart.ready_timeout,
            ends: None,
            ready: at_once.then_some(now),
            violated: false,
            hung: false,
            asked: false,
            killed: false,
        };
        assert!(self.live.insert(id, process).is_none(), "two processes");
        if at_once {
            self.was_ready(id);
        }
    }

    /// A process ended, or could not be started.
    fn lost(&mut self, id: WorkerId, ended: Option<(&Process, ExitStatus)>, now: Moment) {
        let running = self.running();
        let (group, memory) = self.workers.get_mut(&id).unwrap();
        (memory.due, memory.delay) = (None, None);
        if !running {
            return;
        }
        let policy = &self.specs[*group].restart;
        let process = ended.map(|(process, _)| process);
        // It has said that it ends, and did so well.
        let is_orderly = ended.is_some_and(|(process, exit)| {
            process.asked && !process.killed && exit == ExitStatus::Code(0)
        });
        let life = process.and_then(|p| p.ready).map(|at| now - at);
        if life.is_some_and(|life| life >= policy.healthy_after) {
            memory.early_deaths = 0;
        } else {
            memory.early_deaths += 1;
        }
        if life.is_none() {
            memory.failed_starts += 1;
        }
        let deaths = &mut self.deaths[*group];
        let recent = |at: &&Moment| now - **at < policy.window;
        if deaths.at.iter().filter(recent).count() <= policy.limit / 2 {
            deaths.slow = false;
        }
        let counts = process.is_some() && !is_orderly;
        if counts {
            deaths.at.push(now);
        }
        let too_fast = deaths.at.iter().filter(recent).count() > policy.limit;
        let begins = counts && too_fast && !deaths.slow;
        deaths.slow |= too_fast;
        deaths.unsaid |= begins;
        if (!self.all_ready && memory.failed_starts >= policy.start_attempts)
            || (begins && policy.exceeded == Exceeded::FailMaster)
        {
            return self.fail(now);
        }
        let nominal = match memory.early_deaths {
            _ if deaths.slow => policy.max,
            0 | 1 => Duration::ZERO,
            n => (policy.initial * 2_u32.pow((n - 2).min(16))).min(policy.max),
        };
        memory.delay = Some((nominal / 2, nominal));
        memory.due = Some((now + nominal / 2, now + nominal));
    }
}
