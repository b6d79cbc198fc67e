//! The pool: which processes are to run, and what is done about the difference.

mod changes;
mod deaths;
pub(super) mod snapshot;
mod underway;

use std::time::Duration;

use super::group::Group;
use super::jitter::Jitter;
use super::policy::LONGEST;
use super::process::Process;
use super::turn::Turn;
use super::worker::Worker;
use super::{
    Action, Event, Event as E, GroupSpec, KillReason, Moment, Outcome, Report, RequestId, State,
    Usage, WorkerId, WorkerStatus,
};
use underway::{Rollout, Shortage, Upgrade};

/// The supervisor's decisions: events in, actions out. See the [module](super) for its promises.
#[derive(Debug)]
pub struct Pool {
    groups: Vec<Group>,
    workers: Vec<Worker>,
    mode: Mode,
    /// The generation that serves, or is to be restored.
    generation: u32,
    /// The number of the latest one that was started.
    latest: u32,
    /// The reload that is under way.
    rollout: Option<Rollout>,
    /// Who asked for a reload since that one began.
    reloads: Vec<RequestId>,
    upgrade: Upgrade,
    shortage: Shortage,
    /// Whether every worker has been ready once.
    all_ready: bool,
    /// Why the pool fails, once it does.
    failure: Option<String>,
    /// Whether it was told to stop at once.
    is_forced: bool,
    /// Processes killed since the pool is to stop.
    killed: usize,
    stop_deadline: Duration,
    jitter: Jitter,
    /// What time it was when an event came the last time.
    time: Moment,
}

/// What is wanted of all workers together.
#[derive(Debug)]
enum Mode {
    /// Not started.
    Idle,
    /// Every worker is to have a process.
    Running,
    /// No worker is to have one, in good order.
    Stopping { kill_at: Moment },
    /// No worker is to have one, now.
    Killing(KillReason),
    /// No worker has one, and that has been said.
    Done,
}

impl Pool {
    /// A pool of these groups that does nothing before [`Event::Start`]. Its first generation is
    /// number 1.
    ///
    /// Processes have `stop_deadline` to end after they were asked to. The `seed` decides the jitter
    /// of the delays: the same seed and history give the same actions.
    #[must_use]
    pub fn new(groups: Vec<GroupSpec>, stop_deadline: Duration, seed: u64) -> Self {
        let mut pool = Self {
            groups: groups.into_iter().map(Group::new).collect(),
            workers: Vec::new(),
            mode: Mode::Idle,
            generation: 1,
            latest: 1,
            rollout: None,
            reloads: Vec::new(),
            upgrade: Upgrade::default(),
            shortage: Shortage::default(),
            all_ready: false,
            failure: None,
            is_forced: false,
            killed: 0,
            stop_deadline: stop_deadline.min(LONGEST),
            jitter: Jitter::new(seed),
            time: Moment::START,
        };
        for group in 0..pool.groups.len() {
            pool.enlist(group);
        }
        pool
    }

    /// Takes note of an event and appends what is to be done about it.
    ///
    /// Every call also does what has become due at `now`.
    pub fn on(&mut self, event: Event, now: Moment, actions: &mut Vec<Action>) {
        if let Mode::Stopping { kill_at } = self.mode
            && kill_at <= now
        {
            self.mode = Mode::Killing(KillReason::StopDeadline);
        }
        self.time = now;
        self.shortage.pass(now);
        let turn = &mut Turn::new(now, self.jitter, actions);
        self.note(event, turn);
        let was_rolling = self.is_rolling();
        self.converge(turn);
        self.conclude(turn);
        if was_rolling && !self.is_rolling() && self.is_running() {
            // Those over a limit have waited for this, and groups may have new sizes.
            self.converge(turn);
        }
        self.jitter = turn.jitter;
    }

    /// When [`Pool::on`] must be called at the latest, with [`Event::Tick`] if nothing else happens.
    #[must_use]
    pub fn deadline(&self) -> Option<Moment> {
        match self.mode {
            Mode::Idle | Mode::Killing(_) | Mode::Done => None,
            Mode::Running => {
                // What is due is started when the upgrade was refused, or by the new version.
                let starts = self.may_start();
                let timers = self.workers.iter().filter_map(|worker| worker.timer(starts));
                timers.chain(self.shortage.until().filter(|_| starts)).min()
            }
            Mode::Stopping { kill_at } => {
                self.workers.iter().filter_map(|it| it.timer(true)).chain([kill_at]).min()
            }
        }
    }

    /// What time it was when it was told of an event the last time.
    #[must_use]
    pub fn time(&self) -> Moment {
        self.time
    }

    /// The index of the group, in the order given to [`Pool::new`], that a worker belongs to.
    #[must_use]
    pub fn group_of(&self, id: WorkerId) -> Option<usize> {
        Some(self.workers.get(self.index(id)?)?.group)
    }

    /// The generation that serves. While another one is being started, still the one before.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The number that the next generation gets.
    pub(crate) fn next_generation(&self) -> u32 {
        self.latest.saturating_add(1)
    }

    /// How many workers a group, given by its index, is to have.
    #[must_use]
    pub fn size(&self, group: usize) -> Option<u32> {
        Some(self.groups.get(group)?.spec.size)
    }

    /// All workers, in the order of their ids. One that was scaled away is listed until its last
    /// process has gone.
    #[must_use]
    pub fn status(&self, now: Moment) -> Vec<WorkerStatus<'_>> {
        let listed =
            self.workers.iter().filter(|worker| self.wants(worker) || !worker.is_removed());
        listed.map(|worker| worker.status(&self.groups[worker.group].spec.name, now)).collect()
    }

    /// Whether a process is expected to be there: it runs, and was not told to end.
    pub(crate) fn relies_on(&self, id: WorkerId, pid: i32) -> bool {
        let worker = self.index(id).map(|index| &self.workers[index]);
        let mut processes = worker.into_iter().flat_map(Worker::processes);
        processes.any(|process| process.pid() == Some(pid) && process.is_in_service())
    }

    /// What a process does.
    pub(crate) fn state_of(&self, id: WorkerId, pid: i32) -> Option<State> {
        let worker = &self.workers[self.index(id)?];
        let process = worker.processes().find(|process| process.pid() == Some(pid));
        process.map(Process::state)
    }

    /// What a worker does, as far as the size of its group goes: it is ready for work when it is wanted,
    /// whatever its processes do, and is no more when it is not and has none.
    pub(crate) fn standing(&self, id: WorkerId) -> Option<State> {
        let worker = &self.workers[self.index(id)?];
        match self.wants(worker) {
            true => Some(State::Ready),
            false => (!worker.is_removed()).then_some(State::Stopping),
        }
    }

    /// Whether a worker is to be there, as far as the size of its group goes.
    #[cfg(test)]
    pub(crate) fn is_wanted(&self, id: WorkerId) -> bool {
        self.index(id).is_some_and(|index| self.wants(&self.workers[index]))
    }

    fn index(&self, id: WorkerId) -> Option<usize> {
        let index = usize::try_from(id.0).ok()?;
        (index < self.workers.len()).then_some(index)
    }

    fn wants(&self, worker: &Worker) -> bool {
        self.groups[worker.group].wants(worker.rank)
    }

    /// Brings every worker nearer to what is wanted of it. What is not said here is as it should be,
    /// or waits for news.
    fn converge(&mut self, turn: &mut Turn<'_>) {
        let own = turn.now + self.stop_deadline;
        let kill_at = match self.mode {
            // Also for one that is told late; what another was granted is not for all.
            Mode::Stopping { kill_at } => own.min(kill_at),
            _ => own,
        };
        // Nobody stays for new work when there is none.
        let leave_at = if self.is_running() { turn.now } else { turn.now + LONGEST };
        if self.is_running() {
            self.age(turn);
        }
        let target = self.target();
        for index in 0..self.workers.len() {
            let is_wanted = self.is_running() && self.wants(&self.workers[index]);
            let worker = &mut self.workers[index];
            let group = &self.groups[worker.group];
            let reload = &group.spec.reload;
            let (leaving, removal) = (reload.leaving, reload.lingering());
            let mut killed = worker.kill_overdue(turn);
            if let Mode::Killing(reason) = &self.mode {
                killed += worker.kill(reason, turn);
            }
            if is_wanted {
                let is_tested =
                    target == Some(worker.generation) && group.is_tested(worker.generation);
                worker.replace_current(is_tested, leaving, turn.now);
            } else {
                worker.stop(removal, turn.now);
            }
            worker.terminate_leaving(leave_at, kill_at, turn);
            self.count_killed(killed);
        }
        if self.is_running() && self.may_start() {
            self.start_what_is_missing(turn);
        }
    }

    /// Does what time alone does to processes that are wanted.
    fn age(&mut self, turn: &mut Turn<'_>) {
        let target = self.target();
        for worker in &mut self.workers {
            let group = &mut self.groups[worker.group];
            if group.wants(worker.rank) {
                worker.age(&group.spec, turn);
                if let Some(target) = target.filter(|target| worker.has_proven(*target)) {
                    group.tested = target;
                }
            }
        }
    }

    /// Says once that the initial start succeeded, once how every change ended, and once how
    /// everything did.
    fn conclude(&mut self, turn: &mut Turn<'_>) {
        if self.is_running() && self.is_exhausted() {
            self.note_last_ends(turn);
        }
        let mut wanted = self.workers.iter().filter(|worker| self.wants(worker));
        match self.mode {
            Mode::Running => {
                if !self.all_ready && wanted.all(|it| it.was_ready || it.is_finished()) {
                    self.all_ready = true;
                    turn.act(Action::AllReady);
                }
                // A new generation brings its sizes: a worker that it scales away is not restarted.
                self.conclude_rollout(turn);
                self.conclude_changes(turn);
                self.conclude_rollout(turn);
                self.advance_upgrade(turn);
                self.begin_rollout(turn);
            }
            Mode::Stopping { .. } | Mode::Killing(_) => {
                self.refuse_changes(turn);
                if self.workers.iter().all(Worker::is_removed) {
                    self.mode = Mode::Done;
                    turn.act(Action::Done(self.outcome()));
                }
            }
            Mode::Idle | Mode::Done => {}
        }
    }

    /// Whether every worker has been ready.
    pub(crate) fn has_started(&self) -> bool {
        self.all_ready
    }

    /// Whether it was told to stop, or has failed.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.mode, Mode::Stopping { .. } | Mode::Killing(_) | Mode::Done)
    }

    /// Whether it was told to stop at once, whatever came after that.
    pub(crate) fn is_forced(&self) -> bool {
        self.is_forced
    }

    /// Until when processes may end, once it stops in order.
    pub(crate) fn stops_by(&self) -> Option<Moment> {
        match self.mode {
            Mode::Stopping { kill_at } => Some(kill_at),
            Mode::Idle | Mode::Running | Mode::Killing(_) | Mode::Done => None,
        }
    }

    fn is_running(&self) -> bool {
        matches!(self.mode, Mode::Running)
    }

    fn outcome(&mut self) -> Outcome {
        match (self.failure.take(), self.killed) {
            (Some(reason), _) => Outcome::Failed { reason },
            (None, 0) => Outcome::Stopped,
            (None, workers) => Outcome::Killed { workers },
        }
    }

    fn stop(&mut self, now: Moment) {
        // Those that are about to end keep the time that they were granted.
        let granted = self.workers.iter().flat_map(Worker::processes).filter_map(Process::kill_at);
        let kill_at = granted.chain([now + self.stop_deadline]).max();
        self.mode = Mode::Stopping { kill_at: kill_at.unwrap_or(now) };
    }

    /// Stops, unless that is under way, and remembers the first reason to.
    fn fail(&mut self, reason: String, turn: &mut Turn<'_>) {
        if matches!(self.mode, Mode::Idle | Mode::Running) {
            self.stop(turn.now);
        }
        if self.failure.is_none() {
            self.failure = Some(reason.clone());
            turn.report(Report::Failing { reason });
        }
    }

    fn count_killed(&mut self, processes: usize) {
        if !self.is_running() {
            self.killed += processes;
        }
    }

    /// Events that concern the pool: changes what is wanted.
    fn note(&mut self, event: Event, turn: &mut Turn<'_>) {
        match (&self.mode, event) {
            (Mode::Done, _) => {}
            (_, E::StopNow) => {
                self.is_forced = true;
                self.mode = Mode::Killing(KillReason::StopNow);
            }
            (Mode::Idle, E::Start) => self.mode = Mode::Running,
            (Mode::Idle | Mode::Running, E::Stop) => self.stop(turn.now),
            (Mode::Running, E::TaskFailed { reason }) if self.is_rolling_upgrade() => {
                self.undo_rollout(&reason, turn);
            }
            (_, E::Fail { reason } | E::TaskFailed { reason }) => self.fail(reason, turn),
            (Mode::Running, E::Change { request, change }) => {
                if let Some((request, change)) = self.hold(request, change) {
                    self.change(request, change, turn);
                }
            }
            (_, E::Change { request, .. }) => turn.refuse([request], "the pool does not run"),
            (Mode::Running, E::Prepared(outcome)) => self.prepared(outcome, turn),
            (Mode::Running, E::Tried(outcome)) => self.tried(outcome, turn),
            (Mode::Running, E::NotHandedOver { reason }) => {
                self.not_handed_over(&reason, turn);
            }
            (_, E::Rejoin { request }) => self.rejoin(request, turn),
            (Mode::Running, E::Measured(usages)) => self.measured(&usages, turn),
            (Mode::Running, E::Backlog(those)) => self.backlog(&those, turn.now),
            (_, E::Measured(_) | E::Start | E::Stop | E::Prepared(_) | E::Tick) => {}
            (_, E::Tried(_) | E::NotHandedOver { .. } | E::Backlog(_)) => {}
            (_, event) => self.note_worker(event, turn),
        }
    }

    /// Events that concern one worker: changes what is known of it. What its processes do not expect
    /// comes late, twice, or out of nowhere, and is ignored.
    fn note_worker(&mut self, event: Event, turn: &mut Turn<'_>) {
        let Some(index) = subject(&event).and_then(|id| self.index(id)) else {
            return;
        };
        let worker = &mut self.workers[index];
        let spec = &self.groups[worker.group].spec;
        match event {
            E::Spawned { pid, .. } => {
                worker.spawned(pid, spec, turn);
                self.shortage.relent(turn.now);
            }
            E::SpawnFailed { reason, is_short, .. } => {
                self.spawn_failed(index, reason, is_short, turn);
            }
            E::Ready { pid, .. } => worker.ready(pid, spec, turn),
            E::Violation { pid, reason, .. } => {
                let killed = worker.violated(pid, reason, turn);
                self.count_killed(killed);
            }
            E::Hung { pid, how, .. } => worker.hung(pid, how, turn),
            E::Extend { pid, time, .. } => self.extend(index, pid, time, turn),
            E::Stops { pid, .. } => {
                let (id, kill_at) = (worker.id, turn.now + self.stop_deadline);
                if let Some(process) = worker.find(pid) {
                    process.stops(id, kill_at, turn);
                }
            }
            E::Status { pid, text, .. } => {
                if let Some(process) = worker.find(pid) {
                    process.status_text = Some(text);
                }
            }
            E::Unended { pid, reason, .. } => self.unended(index, pid, reason, turn),
            E::Exited { pid, exit, .. } => self.exited(index, pid, exit, turn),
            // Of the pool, not of a worker.
            E::Start
            | E::Stop
            | E::StopNow
            | E::Change { .. }
            | E::Prepared(_)
            | E::Tried(_)
            | E::NotHandedOver { .. }
            | E::Rejoin { .. }
            | E::Measured(_)
            | E::Backlog(_)
            | E::Fail { .. }
            | E::TaskFailed { .. }
            | E::Tick => {}
        }
    }

    fn extend(&mut self, index: usize, pid: i32, time: Duration, turn: &mut Turn<'_>) {
        let (now, deadline) = (turn.now, self.stop_deadline);
        let worker = &mut self.workers[index];
        let (id, spec) = (worker.id, &self.groups[worker.group].spec);
        let Some(process) = worker.find(pid) else { return };
        let Some(until) = process.extend(time, spec, deadline, now) else { return };
        let (generation, time) = (process.generation, until - now);
        turn.report(Report::Extended { id, pid, generation, time });
        if let Mode::Stopping { kill_at } = &mut self.mode {
            // Each of the others is killed at its own time.
            *kill_at = until.max(*kill_at);
        }
    }

    fn backlog(&mut self, those: &[(WorkerId, i32)], now: Moment) {
        for (id, pid) in those {
            let Some(index) = self.index(*id) else { continue };
            let worker = &mut self.workers[index];
            let leaving = self.groups[worker.group].spec.reload.lingering();
            worker.find(*pid).into_iter().for_each(|process| process.linger(leaving, now));
        }
    }

    fn measured(&mut self, usages: &[Usage], turn: &mut Turn<'_>) {
        for usage in usages {
            if let Some(index) = self.index(usage.id) {
                self.workers[index].measured(usage, turn);
            }
        }
    }
}

/// The worker that an event is about.
fn subject(event: &Event) -> Option<WorkerId> {
    match *event {
        E::Spawned { id, .. }
        | E::SpawnFailed { id, .. }
        | E::Ready { id, .. }
        | E::Exited { id, .. }
        | E::Unended { id, .. }
        | E::Violation { id, .. }
        | E::Hung { id, .. }
        | E::Extend { id, .. }
        | E::Stops { id, .. }
        | E::Status { id, .. } => Some(id),
        E::Start
        | E::Stop
        | E::StopNow
        | E::Change { .. }
        | E::Prepared(_)
        | E::Tried(_)
        | E::NotHandedOver { .. }
        | E::Rejoin { .. }
        | E::Measured(_)
        | E::Backlog(_)
        | E::Fail { .. }
        | E::TaskFailed { .. }
        | E::Tick => None,
    }
}
