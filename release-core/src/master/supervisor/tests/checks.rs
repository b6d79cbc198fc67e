//! What must be true in a history: of each report, of each answer, and in the end.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::no_settings;
use super::runtime::BlockingTime;
use super::system::{Kernel, Process, Role};
use crate::master::handle::MasterHandle;
use crate::master::supervisor::{Finish, MasterEnd};
use crate::master::worker_state::WorkerState;
use crate::process::connections::Connections;
use crate::supervise::{KillReason, Outcome, Report, State, WorkerId};
use crate::{Error, Settings};

/// How long the news of a death may take: the last of its output, or what it leaves behind.
const NEWS_TIME: Duration = Duration::from_secs(15);

/// How the settings of the next generation are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Making {
    #[default]
    Works,
    Fails,
    Panics,
}

#[derive(Debug)]
pub(super) struct Checks {
    pub(super) kernel: Arc<Kernel>,
    pub(super) blocking: BlockingTime,
    master: OnceLock<MasterHandle>,
    connections: OnceLock<Connections<String>>,
    settings: OnceLock<Settings<u32>>,
    state: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    surge: u32,
    making: Making,
    made: u32,
    /// The hook that panics.
    panics: Option<&'static str>,
    answer_time: Duration,
    /// The calls that were not answered, in words.
    waiting: BTreeMap<usize, String>,
    calls: usize,
    /// The context of each generation.
    contexts: BTreeMap<u32, u32>,
    /// Processes that were ready when nobody could signal them: the next report says so.
    escaped: BTreeMap<i32, Instant>,
    /// Whether somebody has asked for the end.
    ends: bool,
    /// Whether the main task ends in time when it is told to, and nobody has a right to cut it off.
    main_obeys: bool,
    /// Whether the end may be a failure that was told.
    may_fail: bool,
    has_ended: bool,
}

impl Checks {
    pub(super) fn new(kernel: &Arc<Kernel>, blocking: BlockingTime) -> Arc<Self> {
        Arc::new(Self {
            kernel: Arc::clone(kernel),
            blocking,
            master: OnceLock::new(),
            connections: OnceLock::new(),
            settings: OnceLock::new(),
            state: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, Inner> {
        self.state.lock().unwrap()
    }

    pub(super) fn watch(&self, master: &MasterHandle) {
        self.master.set(master.clone()).unwrap();
    }

    pub(super) fn set_settings(&self, settings: &Settings<u32>) {
        self.settings.set(settings.clone()).unwrap();
    }

    pub(super) fn set_surge(&self, surge: u32) {
        self.state().surge = surge;
    }

    pub(super) fn connections(&self, connections: Connections<String>) {
        self.connections.set(connections).unwrap();
    }

    pub(super) fn broadcast(&self, text: &String) {
        self.connections.get().unwrap().broadcast(text);
    }

    /// Makes the settings of the next generation.
    pub(super) fn make(&self, now: u32) -> Result<u32, Error> {
        self.may_be_made();
        let (making, made) = {
            let mut state = self.state();
            state.made = state.made.max(now) + 1;
            (state.making, state.made)
        };
        match making {
            Making::Works => Ok(made),
            Making::Fails => Err(no_settings()),
            Making::Panics => std::panic::resume_unwind(Box::new("there are none")),
        }
    }

    /// No reload begins while a process cannot be ended. Where its settings take time, nobody knows when it
    /// has begun.
    fn may_be_made(&self) {
        let Some(master) = self.master.get().filter(|_| self.blocking.is_zero()) else { return };
        let (pool, now) = (master.pool(), self.kernel.rt.now());
        let has_escaped = self.kernel.state().processes.iter().any(|its| {
            its.lives()
                && its.escaped.is_some_and(|escaped| escaped < now)
                && pool.state_of(WorkerId(its.id), its.pid).is_some()
        });
        drop(pool);
        if has_escaped {
            self.fault("a reload has begun, and a process cannot be ended");
        }
    }

    pub(super) fn making(&self, making: Making) {
        self.state().making = making;
    }

    pub(super) fn set_panics(&self, hook: Option<&'static str>) {
        self.state().panics = hook;
    }

    /// Panics in a hook, if that is its turn.
    pub(super) fn panics(&self, hook: &'static str) {
        let panics = self.state().panics;
        if panics == Some(hook) {
            std::panic::resume_unwind(Box::new("a hook panics"));
        }
    }

    pub(super) fn set_answer_time(&self, time: Duration) {
        self.state().answer_time = time;
    }

    pub(super) fn answer_time(&self) -> Duration {
        self.state().answer_time
    }

    /// Somebody has asked for the end.
    pub(super) fn ends(&self) {
        self.state().ends = true;
    }

    pub(super) fn main_obeys(&self, obeys: bool) {
        self.state().main_obeys = obeys;
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    fn status(&self) -> Vec<WorkerState> {
        self.master.get().map(MasterHandle::status).unwrap_or_default()
    }

    fn fault(&self, fault: impl Into<String>) {
        self.kernel.fault(fault.into());
    }

    /// What a report says must be true when it is said.
    pub(super) fn reported(&self, report: &Report) {
        self.kernel.note(&format!("{report:?}"));
        let of = |pid: &i32, is_true: &dyn Fn(&Process) -> bool| {
            if self.kernel.of(*pid, is_true) != Some(true) {
                self.fault(format!("not true: {report:?}"));
            }
        };
        match report {
            Report::Started { pid, id, .. } => {
                // One that ends before it runs its program is known by its exit.
                of(pid, &|its| (its.runs || !its.lives()) && its.id == id.0);
                self.not_too_many();
            }
            Report::Ready { pid, generation, .. } => {
                let greeted = self.kernel.of(*pid, |its| its.greeted).flatten();
                of(pid, &|its| {
                    its.said_ready.is_some() && greeted.is_none_or(|its| its.0 == *generation)
                });
                if self.kernel.of(*pid, |its| !its.can_be_signalled) == Some(true) {
                    self.state().escaped.insert(*pid, self.kernel.rt.now());
                }
                if let Some((_, context)) = greeted {
                    let known = *self.state().contexts.entry(*generation).or_insert(context);
                    if known != context {
                        self.fault(format!("context {context}, not {known}: {report:?}"));
                    }
                }
            }
            Report::RolledBack { generation, .. } => {
                self.state().contexts.remove(generation);
            }
            Report::Died { pid, exit, .. } => {
                let now = self.kernel.rt.now();
                self.state().escaped.retain(|its, ready| its != pid || *ready != now);
                of(pid, &|its| {
                    its.is_reaped
                        && !its.has_group(now)
                        && its.ended.is_some_and(|(_, its)| its == *exit)
                });
            }
            Report::Killed { pid, reason, .. } => {
                of(pid, &|its| its.told.contains(&libc::SIGKILL) || !its.lives());
                // Also after the master was held up.
                of(pid, &|its| match reason {
                    KillReason::NotReady(_) => its.said_ready.is_none(),
                    KillReason::Hung(_) | KillReason::Violation(_) => its.useless.is_some(),
                    _ => true,
                });
            }
            Report::Reloaded { generation } => self.is_in_force(*generation),
            Report::LeftBehind { pid, .. } => {
                self.state().escaped.remove(pid);
                of(pid, &|its| !its.can_be_signalled);
            }
            Report::Failing { .. } => self.state().may_fail = true,
            _ => {}
        }
        self.panics("observe");
    }

    /// The settings of a generation that serves are those in force.
    fn is_in_force(&self, generation: u32) {
        let context = self.state().contexts.get(&generation).copied();
        let current = *self.settings.get().unwrap().current();
        if context.is_some_and(|context| context != current) {
            self.fault(format!("generation {generation} serves with the settings {current}"));
        }
    }

    /// No more processes than a group has workers and may have in addition, none of which was told to
    /// stop; and as many that finish as may.
    fn not_too_many(&self) {
        let Some(master) = self.master.get() else { return };
        let surge = usize::try_from(self.state().surge).unwrap();
        let mut of_group = BTreeMap::<usize, usize>::new();
        let processes: Vec<_> = {
            let state = self.kernel.state();
            let living = state.processes.iter().filter(|its| its.runs && its.lives());
            let wanted = living.filter(|its| its.told.is_empty() && its.can_be_signalled);
            wanted.map(|its| (WorkerId(its.id), its.pid)).collect()
        };
        let pool = master.pool();
        for (id, pid) in processes {
            let state = pool.state_of(id, pid);
            if let Some(group) =
                pool.group_of(id).filter(|_| state.is_some_and(|state| state != State::Stopping))
            {
                *of_group.entry(group).or_default() += 1;
            }
        }
        let most = |group| usize::try_from(pool.size(group).unwrap()).unwrap() + surge;
        let too_many = of_group.iter().find(|(group, count)| **count > most(**group));
        let too_many = too_many.map(|(group, count)| format!("{count} processes in group {group}"));
        drop(pool);
        let drain = self.status().iter().map(|worker| worker.draining).max().unwrap_or_default();
        let draining = (drain > 4).then(|| format!("{drain} processes of a worker finish"));
        too_many.into_iter().chain(draining).for_each(|fault| self.fault(fault));
    }

    fn begins(&self, what: &What) -> usize {
        self.kernel.note(&format!("call: {what:?}"));
        let mut state = self.state();
        state.calls += 1;
        let number = state.calls;
        state.waiting.insert(number, format!("{what:?}"));
        number
    }

    fn answered(&self, number: usize, what: &What, outcome: &Result<(), Error>) {
        let words = outcome.as_ref().map_err(Error::report);
        self.kernel.note(&format!("{what:?}: {words:?}"));
        if self.state().waiting.remove(&number).is_none() {
            self.fault(format!("{what:?} is answered twice"));
        }
        if outcome.is_ok() {
            self.is_true(what);
        }
    }

    /// What "ok" says must be true at that moment.
    fn is_true(&self, what: &What) {
        let status = self.status();
        let is_serving = |worker: &WorkerState| {
            worker.state == State::Ready
                && worker.pid.is_some_and(|pid| self.serves(pid, worker.generation))
        };
        let is_true = match what {
            What::Reload { before } => {
                // Workers that an earlier change has taken away may still stop, or even start.
                let pool = self.master.get().unwrap().pool();
                let generation = pool.generation();
                let mut kept = status.iter().filter(|it| pool.is_wanted(WorkerId(it.id)));
                generation > *before && kept.all(|it| is_serving(it) && it.generation == generation)
            }
            What::Scale { group, size } => {
                let role = if *group == "web" { Role::Web } else { Role::Tool };
                let gone = |id| status.iter().all(|worker| worker.id != id);
                let is_left = |its: &Process| {
                    its.role == role && its.lives() && its.can_be_signalled && gone(its.id)
                };
                let own = || status.iter().filter(|worker| worker.group == *group);
                own().count() == usize::try_from(*size).unwrap()
                    && own().all(is_serving)
                    && !self.kernel.state().processes.iter().any(is_left)
            }
            What::Restart { id, pid } => status
                .iter()
                .find(|worker| worker.id == *id)
                .is_some_and(|it| is_serving(it) && (pid.is_none() || it.pid != *pid)),
            What::Upgrade | What::ReopenLogs => false,
            What::Rejoin => true,
        };
        if !is_true {
            self.fault(format!("`ok` is not true: {what:?}: {status:?}"));
        }
    }

    /// Whether a process has said that it is ready in this generation, and has not ended long ago.
    fn serves(&self, pid: i32, generation: u32) -> bool {
        let now = self.kernel.rt.now();
        self.kernel.of(pid, |its| {
            its.said_ready.is_some()
                && its.greeted.is_none_or(|its| its.0 == generation)
                && its.ended.is_none_or(|(at, _)| at + NEWS_TIME >= now)
        }) == Some(true)
    }

    /// Everything has worked for a while.
    pub(super) fn when_calm(&self) {
        if self.has_ended() || self.state().may_fail {
            return;
        }
        let waiting = std::mem::take(&mut self.state().waiting);
        if !waiting.is_empty() {
            self.fault(format!("nobody answers {waiting:?}"));
        }
        let status = self.status();
        let is_serving = |worker: &WorkerState| {
            worker.state == State::Ready
                && worker.pid.is_some_and(|pid| self.serves(pid, worker.generation))
        };
        if let Some(worker) = status.iter().find(|worker| !is_serving(worker)) {
            self.fault(format!("it does not serve: {worker:?}"));
        }
        let faults: Vec<_> = {
            let state = self.kernel.state();
            let is_known = |its: &Process| status.iter().any(|it| it.pid == Some(its.pid));
            let odd = state.processes.iter().filter(|its| match its.lives() {
                true => !is_known(its) && its.can_be_signalled || its.useless.is_some(),
                false => its.is_watched() || !its.is_reaped,
            });
            odd.map(|its| format!("not as it is known: {its:?}")).collect()
        };
        faults.into_iter().for_each(|fault| self.fault(fault));
    }

    /// The master has ended.
    pub(super) fn ended(&self, MasterEnd { outcome, main, .. }: &MasterEnd) {
        self.kernel.note(&format!("the end: {outcome:?}, {main:?}"));
        let (ends, may_fail, main_obeys) = {
            let mut state = self.state();
            state.has_ended = true;
            (state.ends, state.may_fail, state.main_obeys)
        };
        if main_obeys && *outcome == Outcome::Stopped && !matches!(main, Finish::Done) {
            self.fault(format!("the main task was not told to stop: {main:?}"));
        }
        let is_told = match outcome {
            Outcome::Stopped | Outcome::Killed { .. } => ends,
            Outcome::Failed { .. } => may_fail,
        };
        if !is_told {
            self.fault(format!("nobody has asked for the end: {outcome:?}"));
        }
        let living = self.living();
        if !living.is_empty() {
            self.fault(format!("left behind at the end: {living:?}"));
        }
    }

    fn living(&self) -> Vec<i32> {
        let state = self.kernel.state();
        let living = state.processes.iter().filter(|its| its.lives() && its.can_be_signalled);
        living.map(|its| its.pid).collect()
    }

    /// Long after the end.
    pub(super) fn at_the_end(&self) {
        let waiting = std::mem::take(&mut self.state().waiting);
        if !waiting.is_empty() {
            self.fault(format!("nobody has answered {waiting:?}"));
        }
        let escaped = std::mem::take(&mut self.state().escaped);
        if !escaped.is_empty() {
            self.fault(format!("nobody says that these cannot be ended: {escaped:?}"));
        }
        let state = self.kernel.state();
        let odd = state.processes.iter().filter(|its| its.lives() || its.is_watched());
        let odd: Vec<_> = odd.map(|its| format!("left after the end: {its:?}")).collect();
        drop(state);
        odd.into_iter().for_each(|fault| self.fault(fault));
    }
}

/// What an operator wants.
#[derive(Clone, Debug)]
pub(super) enum What {
    Reload { before: u32 },
    Scale { group: &'static str, size: u32 },
    Restart { id: u32, pid: Option<i32> },
    Upgrade,
    ReopenLogs,
    Rejoin,
}

type Calling = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// A call of an operator, which sees its answer at the very moment when it is said.
pub(super) struct Call {
    checks: Arc<Checks>,
    number: usize,
    what: What,
    calling: Mutex<Option<Calling>>,
}

impl Call {
    pub(super) fn begin(checks: &Arc<Checks>, what: What, calling: Calling) {
        let number = checks.begins(&what);
        let call = Self { checks: Arc::clone(checks), number, what, calling: Some(calling).into() };
        Arc::new(call).poll();
    }

    fn poll(self: &Arc<Self>) {
        let waker = Waker::from(Arc::clone(self));
        let outcome = {
            let mut calling = self.calling.lock().unwrap();
            let Some(future) = &mut *calling else { return };
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Pending => return,
                Poll::Ready(outcome) => {
                    *calling = None;
                    outcome
                }
            }
        };
        self.checks.answered(self.number, &self.what, &outcome);
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.poll();
    }
}
