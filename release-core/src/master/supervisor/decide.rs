//! The actions of the pool, carried out.

use std::time::SystemTime;

use nix::sys::signal::Signal as Sig;

use super::Supervisor;
use super::event::MasterEvent;
use super::processes::launch::SpawnRequest;
use super::terminal::Terminal;
use crate::Error;
use crate::master::control::ControlHandle;
use crate::master::event_log::{log, worker_of};
use crate::master::events::ServiceEvent;
use crate::supervise::{Action, Event, Moment, Outcome, Report, Signal, WorkerId};
use crate::sys::exit_status::ExitStatus;
use crate::sys::memory::unload_program;
use crate::sys::spawn::SpawnError;

/// The exit status of a process that this master cannot end.
const UNKNOWN: ExitStatus = ExitStatus::Code(-1);

/// One turn of the pool: its actions, and the results of the actions carried out so far.
#[derive(Debug)]
struct ActionRun {
    now: Moment,
    /// Actions in order. Carrying one out may append more.
    actions: Vec<Action>,
    /// Number of actions that were carried out.
    done: usize,
    /// Report of a kill, which is made once the signal was sent.
    killing: Option<Report>,
    /// Reason why a process could not be ended, if one could not.
    left_behind: Option<String>,
}

impl ActionRun {
    fn next(&mut self) -> Option<Action> {
        let action = self.actions.get(self.done).cloned();
        self.done += usize::from(action.is_some());
        action
    }
}

impl Supervisor {
    /// Passes an event to the pool and carries out its actions. Returns the outcome when everything
    /// has ended.
    pub(super) fn decide(
        &mut self,
        event: Event,
        all_ready: &mut Option<impl FnOnce() -> Option<()>>,
    ) -> Option<Outcome> {
        let gone = match event {
            Event::Exited { id, pid, exit } => Some((id, pid, exit)),
            Event::KillFailed { id, pid, .. } => Some((id, pid, UNKNOWN)),
            _ => None,
        };
        if let Some((id, pid, exit)) = gone {
            self.upgrader.controls.iter().for_each(ControlHandle::look);
            self.journal.heard(id, pid, self.processes.last_lines(id, pid));
            self.processes.forget(id, pid, exit);
        }
        let now = self.clock.read(self.rt.now());
        let mut turn =
            ActionRun { now, actions: Vec::new(), done: 0, killing: None, left_behind: None };
        for event in self.processes.backlog().into_iter().chain([event]) {
            self.master.pool().on(event, now, &mut turn.actions);
        }
        self.pass_the_stop_on();
        self.processes.settle_listeners();
        self.processes.settle_jobs();
        if !self.master.pool().is_upgrading() {
            self.upgrade = None;
        }
        while let Some(action) = turn.next() {
            match action {
                Action::Done(outcome) => return Some(outcome),
                Action::AllReady if turn.left_behind.is_some() => {}
                Action::AllReady => {
                    self.report(&Report::AllReady);
                    all_ready.take().map(|all_ready| all_ready());
                    unload_program();
                }
                action => self.carry_out(action, all_ready.is_some(), &mut turn),
            }
        }
        None
    }

    /// Carries out one action, while the master starts or later.
    fn carry_out(&mut self, action: Action, is_start: bool, turn: &mut ActionRun) {
        match action {
            Action::Spawn { id, generation } => {
                self.upgrader.controls.iter().for_each(ControlHandle::look);
                if let Err(error) = self.processes.launch(SpawnRequest { id, generation }) {
                    let fail = self.hopeless(&error);
                    let failed = self.processes.not_launched(id, &error);
                    for event in fail.into_iter().chain([failed]) {
                        self.master.pool().on(event, turn.now, &mut turn.actions);
                    }
                }
            }
            Action::Report(report @ Report::Killed { .. }) => turn.killing = Some(report),
            Action::Signal { id, pid, signal } => self.signal(id, pid, signal, turn),
            Action::Report(report @ Report::Ready { id, pid, .. }) => {
                self.report(&report);
                if let Err(reason) = self.processes.prove_right(id, pid) {
                    let fail = is_start.then(|| Event::Fail { reason: reason.clone() });
                    self.leave_behind(fail, Event::KillFailed { id, pid, reason }, turn);
                }
                let mut groups = self.processes.groups().iter();
                if let Some(reason) = groups.find_map(|it| it.spoiled_socket(id, pid)) {
                    let violation = Event::Violation { id, pid, reason };
                    self.master.pool().on(violation, turn.now, &mut turn.actions);
                }
            }
            Action::Prepare => {
                self.upgrader.controls.iter().for_each(ControlHandle::look);
                self.prepare();
            }
            Action::TryUpgrade => self.try_upgrade(),
            Action::HandOver => self.begin_handover(),
            Action::Answer { request, outcome } => {
                // The pool decided before that was known.
                let outcome = match &turn.left_behind {
                    Some(reason) => outcome.and_then(|()| Err(reason.clone())),
                    None => outcome,
                };
                self.requests.answer(request, outcome);
            }
            Action::Report(report) => self.report(&report),
            Action::AllReady | Action::Done(_) => {}
        }
    }

    fn signal(&mut self, id: WorkerId, pid: i32, signal: Signal, turn: &mut ActionRun) {
        let (killed, report) = (self.processes.signal(id, pid, signal), turn.killing.take());
        match killed {
            Ok(()) => report.iter().for_each(|report| self.report(report)),
            Err(reason) => self.leave_behind(None, Event::KillFailed { id, pid, reason }, turn),
        }
    }

    /// Gives up a process that cannot be ended. During the start of the master, that fails the
    /// start.
    fn leave_behind(&mut self, fail: Option<Event>, kill_failed: Event, turn: &mut ActionRun) {
        let Event::KillFailed { id, pid, reason } = &kill_failed else { return };
        turn.left_behind = Some(reason.clone());
        if let Some(child) = self.processes.forget(*id, *pid, UNKNOWN) {
            // Reaps it when it ends by itself.
            self.rt.spawn(async move { child.exit().await }).detach();
        }
        let now = self.clock.read(self.rt.now());
        for event in fail.into_iter().chain([kill_failed]) {
            self.master.pool().on(event, now, &mut turn.actions);
        }
    }

    /// Returns the failure of the master if a start cannot succeed later: the kernel, or the
    /// container around it, does not allow it.
    pub(super) fn hopeless(&self, error: &Error) -> Option<Event> {
        let spawning = std::error::Error::source(error)?.downcast_ref::<SpawnError>()?;
        let is_hopeless = spawning.is_permanent() && !self.master.pool().has_started();
        is_hopeless.then(|| Event::Fail { reason: error.report() })
    }

    /// Makes the settings of a new generation before its start.
    fn prepare(&mut self) {
        self.requests.reload_begins();
        if let Err(reason) = self.processes.prove_rights() {
            let prepared = Event::Prepared(Err(reason));
            let _ = self.sender.unbounded_send(MasterEvent::Pool(prepared));
            return;
        }
        let generation = self.master.pool().next_generation();
        let (prepared, sender) =
            (self.config.hooks.prepare(&self.rt, generation), self.sender.clone());
        self.preparing = Some(self.rt.spawn(async move {
            let _ = sender.unbounded_send(MasterEvent::Prepared(generation, prepared.await));
        }));
    }

    /// Tells the main task to finish when the workers must.
    fn pass_the_stop_on(&mut self) {
        if self.stop_by.is_none() && self.master.pool().is_stopping() {
            self.stop_by = Some(self.rt.after(self.config.stop_deadline));
            self.stop.now();
        }
    }

    /// Writes a report into the journal, and sends it to the followers of the events.
    fn note(&mut self, report: &Report) {
        let group = worker_of(report).map(|id| self.processes.name_of(id));
        let group = group.as_deref().unwrap_or_default();
        let death = self.journal.see(report, group, SystemTime::now());
        // The end is told before the last answers.
        if !matches!(report, Report::Finished { .. }) {
            let event = ServiceEvent::of(report, group, death);
            event.into_iter().for_each(|event| self.master.all_events().add(event));
        }
    }

    pub(super) fn report(&mut self, report: &Report) {
        let id = worker_of(report).filter(|_| self.processes.groups.len() > 1);
        let group = id.and_then(|id| self.processes.group(id));
        log(report, group.map(|group| &*group.name));
        if self.terminal.as_mut().is_some_and(Terminal::has_just_gone) {
            let _ = self.sender.unbounded_send(MasterEvent::Signal(Sig::SIGHUP));
        }
        if matches!(
            report,
            Report::Reloaded { .. }
                | Report::RolledBack { .. }
                | Report::ReloadRefused { .. }
                | Report::Upgraded { .. }
        ) {
            self.config.hooks.settle(self.master.generation());
        }
        self.note(report);
        self.config.hooks.observed(report);
        if let Some(systemd) = &mut self.systemd {
            systemd.told(report, &self.master.pool(), self.rt.now());
        }
        match report {
            Report::RolledBack { .. }
            | Report::Reloaded { .. }
            | Report::Upgraded { .. }
            | Report::UpgradeRolledBack { .. } => {}
            Report::Starting
            | Report::AllReady
            | Report::Stopping { .. }
            | Report::Finished { .. }
            | Report::Started { .. }
            | Report::SpawnFailed { .. }
            | Report::LeftBehind { .. }
            | Report::Ready { .. }
            | Report::Extended { .. }
            | Report::WorkerStopping { .. }
            | Report::Died { .. }
            | Report::Killed { .. }
            | Report::OverLimit { .. }
            | Report::TooFast { .. }
            | Report::Reloading { .. }
            | Report::ReloadRefused { .. }
            | Report::Upgrading
            | Report::UpgradeRefused { .. }
            | Report::Resized { .. }
            | Report::Failing { .. } => return,
        }
        self.processes.keep_particulars(self.master.generation());
    }
}
