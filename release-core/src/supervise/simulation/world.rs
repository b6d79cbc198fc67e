//! What the pool asks for, as it is done where there are no processes.

use std::time::Duration;

use super::{Launch, Process, Simulation};
use crate::supervise::{Action, Event, Operation, Pool, Signal, WorkerId};
use crate::sys::exit_status::ExitStatus;

impl Simulation {
    pub(super) fn obey(&mut self, actions: Vec<Action>) {
        #[cfg(test)]
        for action in &actions {
            if let Action::Answer { request, outcome: Ok(()) } = action {
                let wanted = self.status().into_iter().filter(|it| self.pool.is_wanted(it.id));
                let seen = wanted.map(|it| super::Seen {
                    id: it.id,
                    group: it.group.to_owned(),
                    pid: it.pid,
                    generation: it.generation,
                    state: it.state,
                });
                let seen = seen.collect();
                self.at_ok.push((*request, seen));
            }
        }
        for action in actions {
            self.history.push((self.time(), action.clone()));
            self.carry_out(action);
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Spawn { id, generation } => self.launch(id, generation),
            Action::Signal { id, pid, signal } => {
                let Some(process) = self.processes.get_mut(&pid) else { return };
                process.is_stopping = true;
                let end = match signal {
                    Signal::Terminate => process.stop.map(|time| (time, ExitStatus::Code(0))),
                    Signal::Kill => {
                        Some((Duration::ZERO, ExitStatus::Signal { number: 9, core: false }))
                    }
                };
                if let Some((time, exit)) = end {
                    self.plan(time, Event::Exited { id, pid, exit });
                }
            }
            Action::Prepare => {
                let outcome = self.preparation.clone();
                self.plan(Duration::ZERO, Event::Prepared(outcome));
            }
            Action::TryUpgrade => self.plan(Duration::ZERO, Event::Tried(self.trial.clone())),
            Action::Answer { request, outcome } => {
                self.asked.remove(&request);
                self.answers.insert(request, outcome);
            }
            Action::HandOver => self.take_over(),
            Action::Report(_) | Action::AllReady | Action::Done(_) => {}
        }
    }

    /// The new version is the same with another pool. Whoever waits asks it again.
    fn take_over(&mut self) {
        if let Some(groups) = self.next_groups.take() {
            self.groups = groups;
        }
        let (snapshot, groups) = (self.pool.snapshot(self.now), self.groups.clone());
        let actions = match Pool::inherit(groups, &snapshot, self.stop_deadline, None) {
            Ok((pool, actions)) => {
                self.pool = pool;
                actions
            }
            Err(error) => {
                let reason = error.report();
                return self.plan(Duration::ZERO, Event::NotHandedOver { reason });
            }
        };
        self.obey(actions);
        self.tell(Event::Start);
        for (request, change) in self.asked.clone() {
            self.tell(match change {
                Operation::Upgrade => Event::Rejoin { request },
                change => Event::Change { request, change },
            });
        }
    }

    /// Lets the pool go through a snapshot, if no change is under way.
    #[cfg(test)]
    pub(in crate::supervise) fn restore(&mut self) {
        if self.pool.is_quiet() && !self.pool.is_upgrading() {
            let snapshot = self.pool.snapshot(self.now);
            let groups = self.groups.clone();
            self.pool = Pool::restore(groups, &snapshot, self.stop_deadline).unwrap();
        }
    }

    fn launch(&mut self, id: WorkerId, generation: u32) {
        let life = (self.script)(Launch { id, generation, before: self.launched });
        self.launched += 1;
        if !life.starts {
            let reason = "no more processes".to_owned();
            let is_short = life.is_short;
            return self.plan(Duration::ZERO, Event::SpawnFailed { id, reason, is_short });
        }
        let pid = i32::try_from(self.launched).unwrap_or(i32::MAX);
        let (is_ready, is_stopping, stop) = (false, false, life.stop);
        let process = Process { id, pid, generation, is_ready, is_stopping, stop };
        self.processes.insert(pid, process);
        self.plan(Duration::ZERO, Event::Spawned { id, pid });
        if let Some(time) = life.ready {
            self.plan(time, Event::Ready { id, pid });
        }
        if let Some((time, how)) = life.hang {
            self.plan(time, Event::Hung { id, pid, how });
        }
        if let Some((time, exit)) = life.death {
            self.plan(time, Event::Exited { id, pid, exit });
        }
    }

    fn plan(&mut self, time: Duration, event: Event) {
        self.planned += 1;
        self.agenda.insert((self.now + time, self.planned), event);
    }
}
