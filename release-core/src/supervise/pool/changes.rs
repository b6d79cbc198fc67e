//! Changes that somebody asks for, and what becomes of them.

use std::time::Instant;

use super::{Pool, refuse, refuse_all};
use crate::supervise::group::Resize;
use crate::supervise::process::Process;
use crate::supervise::worker::Worker;
use crate::supervise::{Action, Operation, Report, Ticket, WorkerId};

/// More workers than this in one group are taken for a mistake.
const MOST: u32 = 10_000;

impl Pool {
    pub(super) fn change(
        &mut self,
        ticket: Ticket,
        change: Operation,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        match change {
            Operation::Reload => self.reloads.push(ticket),
            Operation::Upgrade => self.ask_for_upgrade(ticket),
            Operation::Resize { group, size } => self.resize(ticket, &group, size, None, actions),
            Operation::Configure { group, size } => {
                self.resize(ticket, &group, size, Some(size), actions);
            }
            Operation::Restart { id } => self.restart(ticket, id, now, actions),
        }
    }

    /// Of what an operator and a configuration `configured` say, the latest holds; a configuration
    /// that says the same as before says nothing.
    fn resize(
        &mut self,
        ticket: Ticket,
        name: &str,
        size: u32,
        configured: Option<u32>,
        actions: &mut Vec<Action>,
    ) {
        let there = self.groups.iter().filter(|group| !group.is_gone);
        let names: Vec<_> = there.map(|group| &group.spec.name).collect();
        // Those that are gone come after all others.
        let Some(index) = names.iter().position(|there| *there == name) else {
            return refuse(ticket, &format!("no group `{name}`; there is: {names:?}"), actions);
        };
        if size > MOST {
            return refuse(ticket, &format!("more than {MOST} workers are too many"), actions);
        }
        let group = &mut self.groups[index];
        if configured == Some(group.configured) {
            match &mut group.resize {
                // Said again while it is made so.
                Some(resize) if group.spec.size == size => resize.tickets.push(ticket),
                _ => actions.push(Action::Answer { ticket, outcome: Ok(()) }),
            }
            return;
        }
        let mut known = group.configured;
        group.configured = configured.unwrap_or(known);
        let (mut before, mut least) = (group.spec.size, group.spec.size.min(size));
        if let Some(earlier) = group.resize.take() {
            (before, least) = (earlier.before, least.min(earlier.least));
            known = earlier.configured;
            refuse_all(earlier.tickets, "another change of the size came after it", actions);
        }
        let tickets = vec![ticket];
        group.resize = Some(Resize { tickets, before, configured: known, least });
        self.set_size(index, size, actions);
    }

    pub(super) fn set_size(&mut self, group: usize, size: u32, actions: &mut Vec<Action>) {
        let spec = &mut self.groups[group].spec;
        let before = std::mem::replace(&mut spec.size, size);
        if before != size {
            let group = spec.name.clone();
            actions.push(Action::Report(Report::Resized { group, size }));
        }
        self.enlist(group);
        let generation = self.target().unwrap_or(self.generation);
        let own = self.workers.iter_mut().filter(|worker| worker.group == group);
        for worker in own.filter(|worker| worker.rank >= before) {
            worker.generation = generation;
            worker.last_end = None;
        }
    }

    /// Adds the workers that a group is to have and never had.
    pub(super) fn enlist(&mut self, group: usize) {
        let size = self.groups[group].spec.size;
        let there = self.workers.iter().filter(|worker| worker.group == group).count();
        for rank in (0..size).skip(there) {
            let id = WorkerId(u32::try_from(self.workers.len()).unwrap_or(u32::MAX));
            self.workers.push(Worker::new(id, group, rank, self.generation));
        }
    }

    fn restart(&mut self, ticket: Ticket, id: WorkerId, now: Instant, actions: &mut Vec<Action>) {
        let index = self.index(id).filter(|index| self.wants(&self.workers[*index]));
        let Some(index) = index else {
            return refuse(ticket, &format!("there is no worker {id}"), actions);
        };
        self.workers[index].restart(ticket, now);
    }

    /// A process of a worker has ended by itself, or could not be started.
    pub(super) fn note_failed_change(
        &mut self,
        index: usize,
        process: &Process,
        reason: &str,
        actions: &mut Vec<Action>,
    ) {
        let worker = &mut self.workers[index];
        if process.generation != worker.generation {
            return;
        }
        if !process.is_stale {
            refuse_all(worker.give_up_restart(), reason, actions);
        }
        let (index, rank) = (worker.group, worker.rank);
        let group = &mut self.groups[index];
        if process.was_ready() || worker.is_ready() || !group.wants(rank) {
            return;
        }
        let Some(resize) = group.resize.take() else { return };
        let Resize { tickets, before, configured, least } = resize;
        if rank >= least {
            refuse_all(tickets, reason, actions);
            group.configured = configured;
            self.set_size(index, before, actions);
        } else {
            // It was there before, and fails whatever the size of the group is.
            let size = group.spec.size;
            let reason = format!("the group has its new size, {size}, but {reason}");
            refuse_all(tickets, &reason, actions);
        }
    }

    /// Answers what has come true.
    pub(super) fn conclude_changes(&mut self, actions: &mut Vec<Action>) {
        let mut done = Vec::new();
        for worker in &mut self.workers {
            if !self.groups[worker.group].wants(worker.rank) {
                refuse_all(worker.restarting.drain(..), "the worker was scaled away", actions);
            } else if worker.is_settled(false) || worker.is_over() {
                done.append(&mut worker.restarting);
            }
        }
        for (index, group) in self.groups.iter_mut().enumerate() {
            let size = group.spec.size;
            let mut workers = self.workers.iter().filter(|worker| worker.group == index);
            let is_made = |_: &mut Resize| {
                workers.all(|worker| match worker.rank {
                    rank if rank >= size => worker.is_gone(),
                    _ => worker.is_ready() || worker.is_over(),
                })
            };
            done.extend(group.resize.take_if(is_made).into_iter().flat_map(|it| it.tickets));
        }
        actions.extend(done.into_iter().map(|ticket| Action::Answer { ticket, outcome: Ok(()) }));
    }

    /// The pool stops: nobody waits for a change any more.
    pub(super) fn refuse_changes(&mut self, actions: &mut Vec<Action>) {
        let why = "the pool stops";
        self.refuse_reloads(why, actions);
        self.refuse_upgrades(why, actions);
        let restarting = self.workers.iter_mut().flat_map(|worker| worker.restarting.drain(..));
        let resizing = self.groups.iter_mut().filter_map(|group| group.resize.take());
        refuse_all(restarting.chain(resizing.flat_map(|resize| resize.tickets)), why, actions);
    }
}
